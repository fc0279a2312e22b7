"""Hotwords: how many more names are heard, and what all other words pay for it.

    python benchmarks/biasing.py
    python benchmarks/biasing.py --dev --scores 1,1.5,2,2.5,3
    python benchmarks/biasing.py --lm assistant.lm.ear

Contact names in commands, spoken by the two synthetic voices that no training hears. Every
utterance has a list of its own: the name that is said and 100, 1,000 or 5,000 others. B-WER counts
errors in the words of the name that was said, U-WER all others, insertions of what is not
that name too (as in Le et al. 2021, "Contextualized streaming end-to-end speech recognition with
trie-based deep biasing and shallow fusion"). Over-boosting gives lists in which every phrase is
wrong. LibriSpeech's rare words are reported without an aim. `--dev` measures other names in
other sentences by training voices: scores are chosen there.

Names are those of LibriSpeech's readers, parted between --dev and the test by a hash, recombined
where more are needed. Intervals: bootstrap over utterances, paired. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from speech_sets import Clip, SetMissing, data_folder, load_set, read_clip
from systems import default_model, text_in_chunks
from wer import circumstances

import earshot
from earshot.data.scoring import Estimate, WordCounts, relative_change, word_error_rate
from earshot.data.text import normalise
from earshot.decode.biasing import usual_score
from earshot.session.recognizer import HOTWORD_PATHS

ROOT = Path(__file__).resolve().parents[1]
SEED = 5
DISTRACTORS = (100, 1000, 5000)
RARE_DISTRACTORS = (100, 1000)
OVER_BOOSTED = 1000
GENERAL_SENTENCES = 300
AIMS = {
    "b_wer_change": -0.40,  # at most
    "u_wer_change": 0.01,
    "over_boost_change": 0.03,
    "time_share_5000": 0.10,
    "compile_5000_ms": 10.0,
}
SENTENCES = {
    "test": (
        "call {}",
        "send a message to {}",
        "what is the phone number of {}",
        "remind me to call {} tomorrow",
        "read me the last message from {}",
        "set up a meeting with {} on friday",
        "show me the photos of {}",
        "is {} at home",
    ),
    "dev": (
        "please call {} now",
        "text {} that i am running late",
        "start a video call with {}",
        "add {} to my contacts",
        "when is the birthday of {}",
        "invite {} to dinner on saturday",
    ),
}
DEV_VOICES = ("flite-slt", "flite-kal16", "pico-en-US", "pico-en-GB")


def split_counts(
    reference: str, hypothesis: str, biased: frozenset[str]
) -> tuple[WordCounts, WordCounts]:
    """Errors in the words of a list, and in all others.

    Args:
        reference: What was said.
        hypothesis: What was heard; both are normalised.
        biased: Words of the list that were said. An insertion counts with them if it is one.

    Returns:
        Counts of the biased words, and of the others; together those of a plain alignment.
    """
    ref, hyp = normalise(reference).split(), normalise(hypothesis).split()
    cost = np.zeros((len(ref) + 1, len(hyp) + 1), np.int64)
    cost[:, 0] = np.arange(len(ref) + 1)
    cost[0] = np.arange(len(hyp) + 1)
    for i in range(1, len(ref) + 1):
        for j in range(1, len(hyp) + 1):
            cost[i, j] = min(
                cost[i - 1, j - 1] + (ref[i - 1] != hyp[j - 1]),
                cost[i - 1, j] + 1,
                cost[i, j - 1] + 1,
            )
    counts = {True: [0, 0, 0, 0], False: [0, 0, 0, 0]}  # hits, substitutions, deletions, insertions
    i, j = len(ref), len(hyp)
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (ref[i - 1] != hyp[j - 1]):
            counts[ref[i - 1] in biased][int(ref[i - 1] != hyp[j - 1])] += 1
            i, j = i - 1, j - 1
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            counts[ref[i - 1] in biased][2] += 1
            i -= 1
        else:
            counts[hyp[j - 1] in biased][3] += 1
            j -= 1
    return WordCounts(*counts[True]), WordCounts(*counts[False])


@dataclass(frozen=True, slots=True)
class Said:
    """One utterance and the phrases of the list that it has."""

    clip: Clip
    phrases: tuple[str, ...]

    @property
    def words(self) -> frozenset[str]:
        return frozenset(normalise(" ".join(self.phrases)).split())


@dataclass(slots=True)
class Heard:
    """What one setting made of a set."""

    biased: list[WordCounts] = field(default_factory=list)
    others: list[WordCounts] = field(default_factory=list)
    compile_ms: list[float] = field(default_factory=list)


def reader_names(data: Path) -> list[str]:
    """Names of two plain words, in lower case, without doubles."""
    path = data / "text" / "librispeech_SPEAKERS.TXT"
    if not path.is_file():
        raise SetMissing(f"{path} does not exist")
    names = []
    for line in path.read_text(encoding="utf-8").splitlines():
        name = line.rsplit("|", 1)[-1].strip().lower()
        if not line.startswith(";") and re.fullmatch(r"[a-z]{2,} [a-z]{3,}", name):
            names.append(name)
    return sorted(set(names))


def divided(names: Sequence[str], split: str) -> list[str]:
    """Those of a split: surnames are parted, so that no surname is in both."""

    def half(name: str) -> str:
        digest = hashlib.blake2b(name.split()[1].encode(), digest_size=1).digest()
        return "dev" if digest[0] % 3 == 0 else "test"

    return [name for name in names if half(name) == split]


def unseen(names: Sequence[str], training_text: Path) -> list[str]:
    """Names whose surname no training sentence has."""
    known: set[str] = set()
    with training_text.open(encoding="utf-8") as lines:
        for line in lines:
            known.update(json.loads(line)["text"].split())
    return [name for name in names if name.split()[1] not in known]


def distractors(names: Sequence[str], count: int) -> list[str]:
    """Names, then first names with other surnames; a smaller count gives the first of a larger."""
    rng = random.Random(f"{SEED}:distractors")
    out = list(names)
    rng.shuffle(out)
    seen = set(out)
    firsts = [name.split()[0] for name in names]
    lasts = [name.split()[1] for name in names]
    while len(out) < count:
        name = f"{rng.choice(firsts)} {rng.choice(lasts)}"
        if name not in seen:
            seen.add(name)
            out.append(name)
    return out[:count]


def spoken_names(folder: Path, names: Sequence[str], *, split: str, count: int) -> list[Said]:
    """Commands with names, made where they are not there yet."""
    from earshot.train import synthesis

    rng = random.Random(f"{SEED}:{split}")
    chosen = rng.sample(list(names), min(count, len(names)))
    samples = [
        {"text": SENTENCES[split][n % len(SENTENCES[split])].format(name), "name": name}
        for n, name in enumerate(chosen)
    ]
    if split == "test":
        manifest = synthesis.make_command_test(folder, samples, seed=SEED)
        rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        clips = [Clip(r["id"], r["text"], r["speaker"], _reader(folder / r["audio"])) for r in rows]
        return [Said(clip, (row["name"],)) for clip, row in zip(clips, rows, strict=True)]
    voices = {voice.id: voice for voice in synthesis.training_voices(dict.fromkeys(_ENGINES, 1.0))}
    missing = [voice for voice in DEV_VOICES if voice not in voices]
    if missing:
        raise SetMissing(f"the voices {', '.join(missing)} are not installed")
    planned = [
        synthesis.Clip(
            text=sample["text"],
            kind="command",
            template="names",
            voice=voices[DEV_VOICES[n % len(DEV_VOICES)]],
            rate=round(rng.uniform(0.95, 1.15), 3),
            pitch=round(rng.uniform(0.9, 1.1), 3),
            tract=round(rng.uniform(0.9, 1.12), 3),
        )
        for n, sample in enumerate(samples)
    ]
    said = []
    for sample, clip, samples_of in zip(samples, planned, synthesis.speak(planned), strict=True):
        if samples_of is not None:
            read = _Kept(np.asarray(samples_of, np.float32))
            said.append(Said(Clip(clip.key, clip.text, clip.voice.id, read), (sample["name"],)))
    return said


_ENGINES = ("flite", "pico")


class _Kept:
    """Samples that are there already."""

    def __init__(self, samples: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        self._samples = samples

    def __call__(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        return self._samples


def _reader(path: Path) -> Any:
    return lambda: read_clip(path)


def rare_words(data: Path) -> tuple[list[Said], list[str]]:
    """LibriSpeech utterances with their rare words, and all rare words there are."""
    folder = data / "librispeech_speakers"
    manifest = folder / "manifest.jsonl"
    every = data / "text" / "librispeech_all_rare_words.txt.gz"
    if not manifest.is_file() or not every.is_file():
        raise SetMissing(f"{manifest} or {every} does not exist")
    said = []
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["split"] == "test" and row.get("text"):
            clip = Clip(row["id"], row["text"], row["speaker"], _reader(folder / row["audio"]))
            said.append(Said(clip, tuple(row["rare_words"])))
    with gzip.open(every, "rt", encoding="utf-8") as lines:
        words = [word for line in lines if re.fullmatch(r"[a-z']+", word := line.strip())]
    return said, words


def hear(
    recognizer: earshot.Recognizer,
    said: Sequence[Said],
    settings: Sequence[tuple[Sequence[str] | None, bool]],
    *,
    score: float,
) -> list[Heard]:
    """Run every setting over a set, taking turns at going first.

    Args:
        recognizer: To make streams of.
        said: The set.
        settings: Other phrases of the list, or None for no list at all; and whether what is said
            is in the list too.
        score: Nats a piece.
    """
    heard = [Heard() for _ in settings]
    for index, one in enumerate(said):
        samples = one.clip.read()
        for turn in range(len(settings)):
            which = (index + turn) % len(settings)
            others, present = settings[which]
            stream = recognizer.create_stream()
            if others is not None:
                phrases = [*(one.phrases if present else ()), *others]
                started = time.thread_time()
                stream.set_hotwords(phrases, score=score)
                heard[which].compile_ms.append((time.thread_time() - started) * 1e3)
            text = text_in_chunks(stream, samples)
            biased, other = split_counts(one.clip.text, text, one.words)
            heard[which].biased.append(biased)
            heard[which].others.append(other)
    return heard


TIMED_UTTERANCES, TIMED_ROUNDS = 60, 5


def time_share(
    recognizer: earshot.Recognizer, said: Sequence[Said], others: Sequence[str], *, score: float
) -> float:
    """How much longer decoding takes with a list, whose compiling is not counted.

    With and without take turns; of each utterance the shortest of some rounds counts, which leaves
    out what other programs cost.
    """
    compiled = recognizer.compile_hotwords(list(others), score=score)
    some = [one.clip.read() for one in said[:TIMED_UTTERANCES]]
    best = np.full((2, len(some)), np.inf)
    for round_ in range(TIMED_ROUNDS):
        for index, samples in enumerate(some):
            for turn in range(2):
                which = (index + turn + round_) % 2
                stream = recognizer.create_stream()
                if which:
                    stream.set_hotwords(compiled)
                started = time.thread_time()
                text_in_chunks(stream, samples)
                best[which, index] = min(best[which, index], time.thread_time() - started)
    return float(best[1].sum() / best[0].sum() - 1)


def rate(counts: Sequence[WordCounts]) -> dict[str, Any]:
    """A word error rate with its interval, as JSON."""
    return _estimate(word_error_rate(counts, [None] * len(counts)))


def change(before: Sequence[WordCounts], after: Sequence[WordCounts]) -> dict[str, Any] | None:
    """A relative change; None where there were no errors before."""
    if sum(c.errors for c in before) == 0:
        return None
    return _estimate(relative_change(before, after, [None] * len(before)))


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": round(estimate.value, 4),
        "low": round(estimate.low, 4),
        "high": round(estimate.high, 4),
        "utterances": estimate.num_units,
    }


def both(heard: Heard) -> list[WordCounts]:
    """Counts of all words."""
    return [a + b for a, b in zip(heard.biased, heard.others, strict=True)]


def compared(name: str, base: Heard, other: Heard) -> dict[str, Any]:
    """One row of the report."""
    row: dict[str, Any] = {"set": name}
    if any(c.reference_words for c in base.biased):
        row["b_wer_before"] = rate(base.biased)
        row["b_wer"] = rate(other.biased)
        row["b_wer_change"] = change(base.biased, other.biased)
    row["u_wer_before"] = rate(base.others)
    row["u_wer"] = rate(other.others)
    row["u_wer_change"] = change(base.others, other.others)
    row["wer_change"] = change(both(base), both(other))
    row["compile_ms"] = round(float(np.median(other.compile_ms)), 2)
    return row


def shown(estimate: dict[str, Any] | None) -> str:
    """For the table."""
    if estimate is None:
        return "-"
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """A table in percent."""
    for row in rows:
        parts = [f"{row['set']:<34}"]
        if "b_wer" in row:
            parts.append(f"B-WER {shown(row['b_wer_before'])} -> {shown(row['b_wer'])}")
            parts.append(f"change {shown(row['b_wer_change'])}")
        parts.append(f"U-WER {shown(row['u_wer_before'])} -> {shown(row['u_wer'])}")
        parts.append(f"change {shown(row['u_wer_change'])}")
        parts.append(f"all {shown(row['wer_change'])}")
        parts.append(f"compile {row['compile_ms']:.1f} ms")
        print("  ".join(parts), flush=True)


def names_of(options: argparse.Namespace, data: Path) -> tuple[list[str], list[str], float]:
    """Names that are said and those that are not, and the share of surnames never trained on."""
    split = "dev" if options.dev else "test"
    names = divided(reader_names(data), split)
    fresh = names
    if options.training_text is not None and options.training_text.is_file():
        fresh = unseen(names, options.training_text)
    spoken = random.Random(f"{SEED}:{split}").sample(fresh, min(options.count, len(fresh)))
    surnames = {name.split()[1] for name in spoken}
    rest = [name for name in names if name.split()[1] not in surnames]
    return fresh, distractors(rest, max(DISTRACTORS)), len(fresh) / len(names)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole measurement, at one score a phrase."""
    data = data_folder(options.data)
    model = options.model or default_model()
    recognizer = earshot.Recognizer.load(
        model, max_active_paths=options.max_active_paths, lm=options.lm, method=options.method
    )
    split = "dev" if options.dev else "test"
    names, others, share = names_of(options, data)
    said = spoken_names(options.folder, names, split=split, count=options.count)
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {
        "benchmark": "biasing",
        **circumstances([model]),
        "split": split,
        "surnames_not_in_training_text": round(share, 3),
        "rows": rows,
        "skipped": {},
    }
    has_model = recognizer.language_model_config.weight > 0
    for score in options.scores or [
        usual_score(language_model=has_model, phones=bool(recognizer.phones))
    ]:
        settings: list[tuple[Sequence[str] | None, bool]] = [(None, False)]
        settings += [(others[:count], True) for count in DISTRACTORS]
        settings.append((others[:OVER_BOOSTED], False))
        base, *lists, wrong = hear(recognizer, said, settings, score=score)
        mine = [
            compared(f"names, {count:,} others", base, heard)
            for count, heard in zip(DISTRACTORS, lists, strict=True)
        ]
        mine.append(compared(f"names, {OVER_BOOSTED:,} wrong ones", base, wrong))
        pooled_before = [c for _ in lists for c in base.others]
        pooled = [c for heard in lists for c in heard.others]
        over_before, over = list(both(base)), list(both(wrong))
        try:
            general = general_set(options, data)
            plain, boosted = hear(
                recognizer,
                general,
                [(None, False), (others[:OVER_BOOSTED], False)],
                score=score,
            )
            mine.append(compared(f"other sentences, {OVER_BOOSTED:,} names", plain, boosted))
            over_before += both(plain)
            over += both(boosted)
            pooled_before += plain.others
            pooled += boosted.others
        except SetMissing as err:
            report["skipped"]["general"] = str(err)
        if not options.dev:
            try:
                utterances, words = rare_words(data)
                listed = random.Random(f"{SEED}:rare").sample(words, max(RARE_DISTRACTORS))
                plain, *rare = hear(
                    recognizer,
                    utterances,
                    [(None, False), *((listed[:count], True) for count in RARE_DISTRACTORS)],
                    score=score,
                )
                mine += [
                    compared(f"LibriSpeech rare words, {count:,} others", plain, heard)
                    for count, heard in zip(RARE_DISTRACTORS, rare, strict=True)
                ]
            except SetMissing as err:
                report["skipped"]["rare words"] = str(err)
        for row in mine:
            row["score"] = score
        rows += mine
        summary = {
            "score": score,
            "b_wer_change": max(row["b_wer_change"]["value"] for row in mine[: len(DISTRACTORS)]),
            "u_wer_change": change(pooled_before, pooled),
            "over_boost_change": change(over_before, over),
            "time_share_5000": round(time_share(recognizer, said, others, score=score), 4),
            "compile_5000_ms": mine[len(DISTRACTORS) - 1]["compile_ms"],
        }
        report.setdefault("summary", []).append(summary)
        print(f"score {score:g} a piece, {len(said)} names")
        print_rows(mine)
        print(
            f"  U-WER pooled {shown(summary['u_wer_change'])}, "
            f"over-boosting pooled {shown(summary['over_boost_change'])}, "
            f"time with 5,000 {100 * summary['time_share_5000']:+.1f} %"
        )
    report["aims"] = [aims(summary) for summary in report["summary"]]
    return report


def general_set(options: argparse.Namespace, data: Path) -> list[Said]:
    """Assistant sentences in the same voices, none of which has a name of the list.

    With `--dev` they are those of the validation half of the recipe's text, in training voices.
    """
    if not options.dev:
        speech = load_set("synthetic", data=data, synthetic=options.synthetic)
        step = max(1, math.ceil(len(speech.clips) / GENERAL_SENTENCES))
        return [Said(clip, ()) for clip in speech.clips[::step]]
    from earshot.train import synthesis

    texts = options.training_text.parent / "heldout.jsonl"
    if not texts.is_file():
        raise SetMissing(f"{texts} does not exist; the stage `text` of the recipe writes it")
    folder = options.synthetic.parent / "synthetic_validation"
    manifest = synthesis.make_validation_speech(folder, GENERAL_SENTENCES, seed=SEED, texts=texts)
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return [
        Said(Clip(row["id"], row["text"], row["speaker"], _reader(folder / row["audio"])), ())
        for row in rows
    ]


def aims(summary: dict[str, Any]) -> dict[str, bool]:
    """Which of the aims hold, at the values themselves."""

    def value(name: str) -> float:
        found = summary[name]
        return float(found["value"] if isinstance(found, dict) else found)

    return {name: value(name) <= bound for name, bound in AIMS.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="recordings (default: $EARSHOT_DATA)")
    parser.add_argument("--model", type=Path, help="model file (default: the shipped one)")
    parser.add_argument("--lm", type=Path, help="language model beside the hotwords")
    parser.add_argument("--method", default="modified_beam_search")
    parser.add_argument("--max-active-paths", type=int, default=HOTWORD_PATHS)
    parser.add_argument("--dev", action="store_true", help="development names and voices")
    parser.add_argument("--count", type=int, default=400, help="names that are said")
    parser.add_argument(
        "--scores",
        type=lambda text: [float(part) for part in text.split(",")],
        help="nats a piece, separated by commas (default: the package's)",
    )
    exp = ROOT / "exp" / "assistant-en"
    parser.add_argument("--folder", type=Path, default=ROOT / "exp" / "biasing_test")
    parser.add_argument("--synthetic", type=Path, default=exp / "synthetic_test")
    parser.add_argument(
        "--training-text",
        type=Path,
        default=exp / "text" / "train.jsonl",
        help="names whose surname it has are not said; where it is absent, any are",
    )
    parser.add_argument("--json", type=Path, help="also write the JSON object to this file")
    options = parser.parse_args(argv)
    try:
        report = run(options)
    except SetMissing as err:
        raise SystemExit(f"error: {err}") from None
    text = json.dumps(report, ensure_ascii=False)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
