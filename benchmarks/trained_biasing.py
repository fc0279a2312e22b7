"""Hotwords, trained biasing, and both, on the names of `benchmarks/biasing.py`.

    python benchmarks/trained_biasing.py --model exp/assistant-en-bias/assistant-en-bias.ear
    python benchmarks/trained_biasing.py --model ... --dev --score 2 --attention 1.5

The same sentences, voices, lists and scores of errors; only names whose surname is neither in the
general training text nor among the rare words that lists were trained with. Three arms, each
against no list: hotwords alone, attention alone, both; and both against hotwords alone, paired.
Over-boosting gives lists in which every phrase is wrong. How often the name that was said has the
most weight of all on the list, all frames together, says what a picture of the attention shows.
Time is that of `benchmarks/biasing.py`: the shortest of five rounds an utterance, lists compiled.
Intervals: bootstrap over utterances. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import biasing
from speech_sets import SetMissing, data_folder
from systems import text_in_chunks
from wer import circumstances

import earshot
from earshot.data.scoring import WordCounts, share
from earshot.decode.biasing import DEFAULT_ATTENTION_WEIGHT, DEFAULT_SCORE
from earshot.session.recognizer import HOTWORD_PATHS
from earshot.train.phrase_text import rare_words
from earshot.train.text import load_texts

HELD_OUT_WORDS = 0.25  # as in recipes/assistant-en-bias.toml


def names_of(options: argparse.Namespace, data: Path) -> tuple[list[str], list[str]]:
    """Names that may be said, none of which was trained with, and those that are not."""
    split = "dev" if options.dev else "test"
    names = biasing.divided(biasing.reader_names(data), split)
    known = {w for item in load_texts(options.training_text) for w in item.text.split()}
    trained, _ = rare_words(known, held_out=HELD_OUT_WORDS)
    heard = known | set(trained)
    fresh = [name for name in names if name.split()[1] not in heard]
    count = min(options.count, len(fresh))
    spoken = random.Random(f"{biasing.SEED}:{split}").sample(fresh, count)
    surnames = {name.split()[1] for name in spoken}
    rest = [name for name in names if name.split()[1] not in surnames]
    return fresh, biasing.distractors(rest, max(options.sizes))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole measurement."""
    data = data_folder(options.data)
    split = "dev" if options.dev else "test"
    names, others = names_of(options, data)
    said = biasing.spoken_names(
        options.folder / f"{split}-{len(names)}", names, split=split, count=options.count
    )
    score_both = options.score if options.score_both is None else options.score_both
    arms = {
        "hotwords": (options.score, 0.0),
        "attention": (0.0, options.attention),
        "both": (score_both, options.attention),
    }
    wanted = options.arms or list(arms)
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {
        "benchmark": "trained_biasing",
        **circumstances([options.model]),
        "split": split,
        "names": len(said),
        "arms": {name: arms[name] for name in wanted},
        "rows": rows,
    }
    wrong = others[: biasing.OVER_BOOSTED]
    settings: list[tuple[Sequence[str] | None, bool]] = [(None, False)]
    settings += [(others[:size], True) for size in options.sizes]
    settings.append((wrong, False))
    general = []
    try:
        general = biasing.general_set(options, data)
    except SetMissing as err:
        report["skipped"] = str(err)
    found: dict[str, list[biasing.Heard]] = {}
    print(f"{len(said)} names, {split}")
    for arm in wanted:
        score, attention = arms[arm]
        recognizer = earshot.Recognizer.load(
            options.model, max_active_paths=options.max_active_paths, attention_weight=attention
        )
        base, *lists, over = found[arm] = biasing.hear(recognizer, said, settings, score=score)
        mine = [
            biasing.compared(f"{arm}, {size:,} others", base, heard)
            for size, heard in zip(options.sizes, lists, strict=True)
        ]
        mine.append(biasing.compared(f"{arm}, {len(wrong):,} wrong ones", base, over))
        before, after = biasing.both(base), biasing.both(over)
        pooled_before = [c for _ in lists for c in base.others]
        pooled = [c for heard in lists for c in heard.others]
        if general:
            plain, boosted = biasing.hear(
                recognizer, general, [(None, False), (wrong, False)], score=score
            )
            mine.append(biasing.compared(f"{arm}, other sentences", plain, boosted))
            before, after = before + biasing.both(plain), after + biasing.both(boosted)
            pooled_before += plain.others
            pooled += boosted.others
        biasing.print_rows(mine)
        summary: dict[str, Any] = {
            "u_wer_change": biasing.change(pooled_before, pooled),
            "over_boost_change": biasing.change(before, after),
        }
        print(f"{arm}: " + ", ".join(f"{k} {biasing.shown(v)}" for k, v in summary.items()))
        summary["time_share"] = {}
        for size in options.sizes:
            slower = biasing.time_share(recognizer, said, others[:size], score=score)
            summary["time_share"][str(size)] = round(slower, 4)
            print(f"{arm}: time with {size:,} others {100 * slower:+.1f} %")
        rows += mine
        report.setdefault("summary", {})[arm] = summary
        if arm == "both":
            report["most_weight"] = most_weight(recognizer, said, others, options.sizes)
    if {"hotwords", "both"} <= found.keys():
        report["further"] = further(found["hotwords"], found["both"], options.sizes)
    return report


def most_weight(
    recognizer: earshot.Recognizer,
    said: Sequence[biasing.Said],
    others: Sequence[str],
    sizes: Sequence[int],
) -> dict[str, Any]:
    """Share of the names that attention gave more weight than any other phrase, by size of list."""
    out: dict[str, Any] = {}
    for size in sizes:
        first = []
        for one in said:
            stream = recognizer.create_stream(
                hotwords=[*one.phrases, *others[:size]], keep_attention=True
            )
            text_in_chunks(stream, one.clip.read())
            looked = stream.attention()
            first.append(looked is not None and looked.phrases[:1] == one.phrases)
        found = share(first, [one.clip.id for one in said], unit="utterance")
        out[str(size)] = asdict(found)
        print(
            f"the name has the most weight, {size:,} others: {100 * found.value:.1f} % "
            f"[{100 * found.low:.1f}, {100 * found.high:.1f}]"
        )
    return out


def further(
    hotwords: Sequence[biasing.Heard], both: Sequence[biasing.Heard], sizes: Sequence[int]
) -> dict[str, Any]:
    """What attention adds to hotwords: relative change of B-WER and of U-WER, by size of list."""
    out: dict[str, Any] = {}
    for size, one, other in zip(sizes, hotwords[1:], both[1:], strict=False):
        changes: dict[str, tuple[list[WordCounts], list[WordCounts]]] = {
            "b_wer_change": (one.biased, other.biased),
            "u_wer_change": (one.others, other.others),
        }
        out[str(size)] = {name: biasing.change(*pair) for name, pair in changes.items()}
        shown = ", ".join(f"{name} {biasing.shown(v)}" for name, v in out[str(size)].items())
        print(f"both beyond hotwords, {size:,} others: {shown}")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    exp = biasing.ROOT / "exp"
    parser.add_argument("--data", type=Path, help="recordings (default: $EARSHOT_DATA)")
    parser.add_argument("--model", type=Path, required=True, help="a model with trained biasing")
    parser.add_argument("--dev", action="store_true", help="development names and voices")
    parser.add_argument("--count", type=int, default=400, help="names that are said")
    parser.add_argument("--sizes", type=int, nargs="*", default=list(biasing.DISTRACTORS))
    parser.add_argument("--score", type=float, default=DEFAULT_SCORE, help="nats a piece, alone")
    parser.add_argument("--score-both", type=float, help="nats a piece beside attention")
    parser.add_argument(
        "--attention", type=float, default=DEFAULT_ATTENTION_WEIGHT, help="weight of attention"
    )
    parser.add_argument("--arms", nargs="*", choices=("hotwords", "attention", "both"))
    parser.add_argument("--max-active-paths", type=int, default=HOTWORD_PATHS)
    parser.add_argument("--folder", type=Path, default=exp / "trained_biasing_test")
    parser.add_argument("--synthetic", type=Path, default=exp / "assistant-en" / "synthetic_test")
    parser.add_argument(
        "--training-text", type=Path, default=exp / "assistant-en" / "text" / "train.jsonl"
    )
    options = parser.parse_args(argv)
    try:
        report = run(options)
    except SetMissing as err:
        raise SystemExit(f"error: {err}") from None
    print(json.dumps(report, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
