"""The text that a rescoring language model is trained on, validated on, and never sees.

Trained on: the sentences that the text stage sets apart for training, and those rows of its
corpora that were left out there only because their words have no pronunciation, which a language
model does not need. Never seen: every held-out sentence, whether it validates or tests, under
any template, and every row that a corpus keeps for its own validation and tests.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from earshot.train import text

__all__ = ["LanguageTextConfig", "epoch", "load", "prepare"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageTextConfig:
    """How often an epoch has the sentences of a kind; kinds that are not named come once.

    Kinds are those of the text stage. What is drawn at random (digits, spellings) teaches a model
    only that anything may follow anything there, which it has learned after a few of them.
    """

    repeats: dict[str, float] = field(default_factory=dict)
    validation_sentences: int = 1000

    def __post_init__(self) -> None:
        for kind, count in self.repeats.items():
            if not 0 <= count <= 100:
                raise ValueError(
                    f"language_text.repeats.{kind} is {count}; it must lie between 0 and 100"
                )


def prepare(
    folder: Path,
    *,
    seed: int,
    config: text.TextConfig,
    root: Path,
) -> dict[str, int]:
    """Write `text/` as the text stage does, and `text/language_train.jsonl` beside it.

    Args:
        folder: Experiment folder.
        seed: Of the sampling.
        config: Amounts and shares.
        root: Folder with the optional corpora.

    Returns:
        Sentences by kind.
    """
    text.prepare(folder, seed=seed, config=config, root=root)
    spoken = text.load_texts(folder / "text" / "train.jsonl")
    held_out = {item.text for item in text.load_texts(folder / "text" / "heldout.jsonl")}
    kept = {item.text: item for item in spoken if item.text not in held_out}
    for item in text.unpronounced(config, root=root):
        if item.text not in held_out:
            kept.setdefault(item.text, item)
    text.write_texts(list(kept.values()), folder / "text" / "language_train.jsonl")
    counts = Counter(item.kind for item in kept.values())
    summary = {
        "seed": seed,
        "settings": asdict(config),
        "counts": dict(sorted(counts.items())),
        "held_out": len(held_out),
    }
    (folder / "text" / "language_summary.json").write_text(json.dumps(summary, indent=1))
    return dict(counts)


def load(
    folder: Path, config: LanguageTextConfig, *, seed: int
) -> tuple[list[text.TextItem], list[text.TextItem]]:
    """Sentences to train on, and those to validate with: none that a test may use.

    Args:
        folder: What `prepare` was given.
        config: How many validate.
        seed: Of their choice.
    """
    train = text.load_texts(folder / "text" / "language_train.jsonl")
    held_out = text.load_texts(folder / "text" / "heldout.jsonl")
    validation = [item for item in held_out if not text.is_test(item.template)]
    random.Random(f"{seed}:validation").shuffle(validation)
    return train, validation[: config.validation_sentences]


def epoch(
    items: Sequence[text.TextItem], repeats: Mapping[str, float], rng: random.Random
) -> Iterator[str]:
    """The sentences of one epoch, in the order of `items`: a repeat of 2.5 gives 2 or 3."""
    for item in items:
        count = repeats.get(item.kind, 1.0)
        whole = int(count)
        for _ in range(whole + (rng.random() < count - whole)):
            yield item.text
