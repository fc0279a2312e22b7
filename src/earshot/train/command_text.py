"""A user's command templates as training text.

Samples sentences of the templates, balanced over intents and the values of lists, and writes them
where the synthesis stage looks for what to say. Every sentence may be trained on: what is held
out when an adaptation is measured is the voice, since a small set of templates has no sentence to
spare. Knows nothing of audio, and of templates only how they are sampled.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

from earshot.train.recipe import CommandsConfig
from earshot.train.text import TextItem, write_texts
from earshot.understand.templates import Commands, load_commands

__all__ = ["prepare"]

_DRAWS = 3  # for every sentence that is wanted


def prepare(out_dir: Path, *, seed: int, config: CommandsConfig) -> dict[str, int]:
    """Write `text/commands_train.jsonl` and `text/commands_heldout.jsonl` below a folder.

    The second is another sample, for validation; its sentences may be in the first, too. The same
    templates, seed and amounts give the same files.

    Args:
        out_dir: Experiment folder.
        seed: Of the samples.
        config: Templates and amounts.

    Returns:
        Sentences by `train` and `heldout`.

    Raises:
        CommandsError: The templates cannot be used.
    """
    commands = load_commands(config.files)
    counts = {}
    for name, count, sample_seed in (
        ("train", config.sentences, seed),
        ("heldout", config.dev_sentences, seed + 1_000_000),
    ):
        items = _sampled(commands, count, seed=sample_seed)
        write_texts(items, out_dir / "text" / f"commands_{name}.jsonl")
        counts[name] = len(items)
    return counts


def _sampled(commands: Commands, count: int, *, seed: int) -> list[TextItem]:
    """Up to `count` sentences; one that was drawn n times comes about sqrt(n) times.

    Short sentences, of which there are few, are drawn again and again; damped, they leave room for
    sentences that are different, and still come more often than any of those.
    """
    drawn = Counter((s.text, s.intent) for s in commands.sample(_DRAWS * count, seed=seed))
    items = [
        TextItem(text, "command", f"commands:{intent}")
        for (text, intent), times in drawn.items()
        for _ in range(math.isqrt(times))
    ]
    random.Random(f"{seed}:commands").shuffle(items)
    return items[:count]
