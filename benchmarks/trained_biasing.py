"""Names in commands: how many a list saves, by hotwords, by trained biasing, and by both.

    python benchmarks/trained_biasing.py --model exp/assistant-en-bias/assistant-en-bias.ear

Speaks commands with rare words of the dictionary that no training list has (by the hash of
`train.phrase_text`), in the two held-out voices for the test and in training voices for tuning.
Each clip is heard with a list of its own phrase among 100, 1,000 and 5,000 others, and with a list
of the others alone. B-WER counts words of phrases, and insertions of such words; U-WER all others
(Le et al. 2021). Intervals: bootstrap over clips. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf

from earshot import Recognizer
from earshot.train import synthesis
from earshot.train.phrase_text import _CARRIERS, random_name, rare_words
from earshot.train.text import is_held_out, load_texts

SIZES = (100, 1000, 5000)
RESAMPLES = 1000
HELD_OUT_WORDS = 0.25  # as in recipes/assistant-en-bias.toml


@dataclass(frozen=True, slots=True)
class Clip:
    samples: npt.NDArray[np.float32]
    text: str
    phrase: str


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to use a list: nats a piece of hotwords, and what attention counts."""

    score: float
    attention: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a model with trained biasing")
    parser.add_argument("--texts", type=Path, default=Path("exp/assistant-en/text/train.jsonl"))
    parser.add_argument("--folder", type=Path, default=Path("exp/biasing_test"))
    parser.add_argument("--split", choices=("test", "dev"), default="test")
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--score", type=float, default=1.5, help="nats a piece of hotwords")
    parser.add_argument("--score-both", type=float, help="the same beside attention")
    parser.add_argument("--attention", type=float, default=1.0, help="weight of attention")
    parser.add_argument("--paths", type=int, default=4, help="max_active_paths")
    parser.add_argument("--only", nargs="*", help="arms: shallow, trained, both")
    options = parser.parse_args()
    both = options.score if options.score_both is None else options.score_both
    arms = {
        "shallow": Arm(options.score, 0.0),
        "trained": Arm(0.0, options.attention),
        "both": Arm(both, options.attention),
    }
    if options.only:
        arms = {name: arms[name] for name in options.only}
    clips, names = corpus(options.folder, options.texts, options.split, options.clips)
    distractors = [
        random_name(names, random.Random(f"list:{n}")) for n in range(max(options.sizes))
    ]
    report = measure(options.model, clips, distractors, arms, options.sizes, paths=options.paths)
    report["split"], report["model"] = options.split, options.model.name
    report["arms"] = {name: [arm.score, arm.attention] for name, arm in arms.items()}
    print(json.dumps(report))


# ---------------------------------------------------------------- what is said


def corpus(folder: Path, texts: Path, split: str, count: int) -> tuple[list[Clip], list[str]]:
    """Clips with names that were never trained on, and the words that names are made of."""
    known = {w for item in load_texts(texts) for w in item.text.split()}
    _, held_out = rare_words(known, held_out=HELD_OUT_WORDS)
    words = [w for w in held_out if is_held_out(f"phrase test:{w}", 0.5) == (split == "test")]
    rng = random.Random(f"biasing:{split}")
    carriers = [c for c in _CARRIERS if c != "{}"]
    samples = []
    for _ in range(count):
        phrase, carrier = random_name(words, rng), rng.choice(carriers)
        samples.append({"text": carrier.format(phrase), "phrase": phrase})
    if split == "test":
        manifest = synthesis.make_command_test(folder / "test", samples)
        rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        read = [(sf.read(manifest.parent / r["audio"], dtype="float32")[0], r) for r in rows]
    else:
        read = list(zip(dev_audio(folder / f"dev-{count}.npz", samples), samples, strict=True))
    return [Clip(s, r["text"], r["phrase"]) for s, r in read if s is not None], words


def dev_audio(path: Path, samples: Sequence[Mapping[str, str]]) -> list[Any]:
    """The same in voices that were trained with, for tuning."""
    if not path.exists():
        voices = [v for v in synthesis.training_voices() if v.engine in ("flite", "pico")]
        spoken = synthesis.speak(
            [
                synthesis.Clip(s["text"], "name", "dev", voices[n % len(voices)], tail_s=0.4)
                for n, s in enumerate(samples)
            ]
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{str(n): s for n, s in enumerate(spoken) if s is not None})
    with np.load(path) as saved:
        return [saved.get(str(n)) for n in range(len(samples))]


# ---------------------------------------------------------------- what is heard


def measure(
    model: Path,
    clips: Sequence[Clip],
    distractors: Sequence[str],
    arms: Mapping[str, Arm],
    sizes: Sequence[int],
    *,
    paths: int,
) -> dict[str, Any]:
    report: dict[str, Any] = {"clips": len(clips)}
    plain = Recognizer.load(model, max_active_paths=paths)
    base, base_s = heard(plain, clips, lambda _: None)
    report["none"] = rates(clips, base) | {"seconds": round(base_s, 2)}
    show("no list", report["none"])
    for name, arm in arms.items():
        recognizer = Recognizer.load(
            model, max_active_paths=paths, hotwords_score=arm.score, attention_weight=arm.attention
        )
        for size in sizes:
            listed = list(distractors[:size])
            right, spent = heard(recognizer, clips, lambda c, listed=listed: [*listed, c.phrase])
            wrong, _ = heard(recognizer, clips, lambda c, listed=listed: list(listed))
            row = rates(clips, right, base) | {"seconds": round(spent, 2)}
            others = rates(clips, wrong, base)
            row["wrong_list"] = {"wer": others["wer"], "change": others["wer_change"]}
            report[f"{name}/{size}"] = row
            show(f"{name}, {size}", row)
        if name == "both" and "shallow" in arms:
            for size in sizes:
                first, second = report[f"shallow/{size}"], report[f"both/{size}"]
                second["further"] = further(first["_counts"], second["_counts"])
                print(f"both beyond shallow, {size}: B-WER {second['further']}")
    for row in report.values():
        if isinstance(row, dict):
            row.pop("_counts", None)
    return report


def heard(
    recognizer: Recognizer, clips: Sequence[Clip], listed: Callable[[Clip], list[str] | None]
) -> tuple[list[str], float]:
    """Words of each clip, and the seconds that decoding took, without those of setting lists."""
    texts, spent = [], 0.0
    for clip in clips:
        stream = recognizer.create_stream(hotwords=listed(clip))
        stream.accept_waveform(16_000, clip.samples)
        stream.input_finished()
        before = time.process_time()
        stream.decode()
        spent += time.process_time() - before
        texts.append(stream.result().text)
    return texts, spent


# ---------------------------------------------------------------- scores


def counts(clip: Clip, text: str) -> tuple[int, int, int, int]:
    """(errors in phrases, words in phrases, other errors, other words) of a clip."""
    reference, hypothesis = clip.text.split(), text.split()
    phrase = clip.phrase.split()
    start = next(i for i in range(len(reference)) if reference[i : i + len(phrase)] == phrase)
    inside = [start <= i < start + len(phrase) for i in range(len(reference))]
    rows, columns = len(reference) + 1, len(hypothesis) + 1
    cost = np.zeros((rows, columns), int)
    cost[:, 0], cost[0] = range(rows), range(columns)
    for i in range(1, rows):
        for j in range(1, columns):
            cost[i, j] = min(
                cost[i - 1, j - 1] + (reference[i - 1] != hypothesis[j - 1]),
                cost[i - 1, j] + 1,
                cost[i, j - 1] + 1,
            )
    biased = other = 0
    i, j = rows - 1, columns - 1
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (reference[i - 1] != hypothesis[j - 1]):
            wrong, belongs = reference[i - 1] != hypothesis[j - 1], inside[i - 1]
            i, j = i - 1, j - 1
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            wrong, belongs = True, inside[i - 1]
            i -= 1
        else:
            wrong, belongs = True, hypothesis[j - 1] in phrase
            j -= 1
        biased += wrong and belongs
        other += wrong and not belongs
    return biased, len(phrase), other, len(reference) - len(phrase)


def rates(
    clips: Sequence[Clip], texts: Sequence[str], base: Sequence[str] | None = None
) -> dict[str, Any]:
    """B-WER, U-WER and WER in percent with 95 % intervals, and their relative changes."""
    table = np.array([counts(c, t) for c, t in zip(clips, texts, strict=True)])
    out: dict[str, Any] = {"_counts": table}
    for name, value in _rates(table).items():
        out[name] = round(value, 2)
    drawn = _resampled(table)
    for name in ("b_wer", "u_wer", "wer"):
        out[f"{name}_interval"] = [
            round(float(x), 2) for x in np.percentile(drawn[name], (2.5, 97.5))
        ]
    if base is not None:
        before = np.array([counts(c, t) for c, t in zip(clips, base, strict=True)])
        for name in ("b_wer", "u_wer", "wer"):
            out[f"{name}_change"] = _change(before, table, name)
    return out


def further(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> dict[str, Any]:
    return _change(first, second, "b_wer")


def _rates(table: npt.NDArray[Any]) -> dict[str, float]:
    biased, phrase, other, rest = table.sum(axis=-2).T
    return {
        "b_wer": 100 * biased / np.maximum(phrase, 1),
        "u_wer": 100 * other / np.maximum(rest, 1),
        "wer": 100 * (biased + other) / np.maximum(phrase + rest, 1),
    }


def _drawn(count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(1).integers(count, size=(RESAMPLES, count))


def _resampled(table: npt.NDArray[np.int64]) -> dict[str, Any]:
    return _rates(table[_drawn(len(table))])


def _change(before: npt.NDArray[Any], after: npt.NDArray[Any], name: str) -> dict[str, Any]:
    """Relative change in percent, paired."""
    index = _drawn(len(before))
    one, other = _rates(before[index])[name], _rates(after[index])[name]
    relative = 100 * (other / np.maximum(one, 1e-9) - 1)
    whole = 100 * (_rates(after)[name] / max(float(_rates(before)[name]), 1e-9) - 1)
    return {
        "relative": round(float(whole), 1),
        "interval": [round(float(x), 1) for x in np.percentile(relative, (2.5, 97.5))],
    }


def show(what: str, row: Mapping[str, Any]) -> None:
    parts = [f"{what:16} B-WER {row['b_wer']:6.2f} {row['b_wer_interval']}"]
    parts.append(f"U-WER {row['u_wer']:6.2f} {row['u_wer_interval']}")
    if "b_wer_change" in row:
        parts.append(f"B {row['b_wer_change']['relative']:+.1f} %")
        parts.append(
            f"U {row['u_wer_change']['relative']:+.1f} % {row['u_wer_change']['interval']}"
        )
    if "wrong_list" in row:
        parts.append(f"wrong list WER {row['wrong_list']['change']['relative']:+.1f} %")
    print("; ".join(parts), f"; {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
