"""Word error rates with intervals, Earshot and pocketsphinx on the same audio in one run.

    python benchmarks/wer.py --peers
    python benchmarks/wer.py --int8-vs-fp32 assistant-en.ear assistant-en-fp32.ear
    python benchmarks/wer.py --merge a.json b.json

Prints one table and, as the last line, one JSON object with every figure. Systems alternate
utterance by utterance, so that a busy machine troubles all of them alike. What counts as a
set is in `speech_sets.py`, how text is made comparable in `scored_text.py`; counts and
intervals come from `earshot.data.scoring`. Sets may be measured in several processes at once,
each with `--sets` and `--json` of its own; `--merge` then makes one table of the files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from scored_text import NORMALISATION, scored_text
from sounds import UNSEEN, UNSEEN_PARTS, Sound, wordless_sounds
from speech_sets import (
    REAL_SETS,
    SAMPLE_RATE_HZ,
    SYNTHETIC_SENTENCES,
    SetMissing,
    Speech,
    data_folder,
    load_set,
    pooled_sets,
)
from systems import METHODS, EarshotSystem, PocketSphinx, System, default_model

from earshot.data.scoring import (
    Estimate,
    WordCounts,
    count_words,
    relative_change,
    word_error_rate,
)

ROOT = Path(__file__).resolve().parents[1]
WORDLESS = "wordless"
ALL_PARTS = "all"
AIMS = {"digits": 0.08, "synthetic": 0.08}  # word error rate
AIM_INSERTIONS_PER_HOUR = 10.0
AIM_RELATIVE_CHANGE = 0.02
MIN_RECORDINGS = 8
SETS = (*REAL_SETS, "synthetic", WORDLESS)


@dataclass(slots=True)
class Outcome:
    """What one system made of one set."""

    system: str
    counts: list[WordCounts] = field(default_factory=list)
    cpu_s: float = 0.0


@dataclass(slots=True)
class Measured:
    """A set after every system has heard it."""

    speech: Speech
    audio_s: float
    speakers: list[str | None]
    outcomes: list[Outcome]


def measure(
    speech: Speech, systems: Sequence[System], *, transcripts: TextIO | None = None
) -> Measured:
    """Runs every system over a set, taking turns at going first.

    Args:
        speech: The set.
        systems: What to run.
        transcripts: Where to write one JSON line an utterance and system.
    """
    outcomes = [Outcome(system.name) for system in systems]
    audio_s = 0.0
    for index, clip in enumerate(speech.clips):
        samples = clip.read()
        audio_s += len(samples) / SAMPLE_RATE_HZ
        reference = scored_text(clip.text, rules=speech.rules, group=clip.group)
        for turn in range(len(systems)):
            which = (index + turn) % len(systems)
            start = time.process_time()
            text = systems[which].transcribe(samples)
            outcomes[which].cpu_s += time.process_time() - start
            hypothesis = scored_text(text, rules=speech.rules, group=clip.group)
            outcomes[which].counts.append(count_words(reference, hypothesis))
            if transcripts is not None:
                line = {
                    "set": speech.name,
                    "id": clip.id,
                    "system": systems[which].name,
                    "reference": reference,
                    "hypothesis": hypothesis,
                }
                print(json.dumps(line, ensure_ascii=False), file=transcripts)
        if index % 20 == 19 or index + 1 == len(speech.clips):
            progress(f"{speech.name}: {index + 1}/{len(speech.clips)}")
    progress(None)
    return Measured(speech, audio_s, [clip.speaker for clip in speech.clips], outcomes)


def figure(estimate: Estimate) -> dict[str, float | str | int]:
    """An estimate under the names that the JSON object uses."""
    return {
        "value": estimate.value,
        "ci95_low": estimate.low,
        "ci95_high": estimate.high,
        "resampled": estimate.unit,
        "units": estimate.num_units,
    }


def progress(text: str | None) -> None:
    """Shows where the run is, on a terminal only; None ends the line."""
    if sys.stderr.isatty():
        print("\r\033[K" + (text or ""), end="", file=sys.stderr, flush=True)


def table_row(measured: Measured, outcome: Outcome) -> dict[str, Any]:
    """One line of the table, as it goes into the JSON object."""
    speech = measured.speech
    counts = outcome.counts
    rate = word_error_rate(counts, measured.speakers)
    row: dict[str, Any] = {
        "set": speech.name,
        "title": speech.title,
        "system": outcome.system,
        "utterances": len(counts),
        "speakers": len({s for s in measured.speakers if s is not None}),
        "words": sum(c.reference_words for c in counts),
        "audio_s": round(measured.audio_s, 1),
        "wer": figure(rate),
        "substitutions": sum(c.substitutions for c in counts),
        "deletions": sum(c.deletions for c in counts),
        "insertions": sum(c.insertions for c in counts),
        "sentences_wrong": sum(c.errors > 0 for c in counts),
        "cpu_real_time_factor": round(outcome.cpu_s / measured.audio_s, 4),
    }
    if speech.remark:
        row["remark"] = speech.remark
    groups = sorted({clip.group for clip in speech.clips if clip.group})
    if groups:
        row["by_group"] = {}
        for group in groups:
            at = [i for i, clip in enumerate(speech.clips) if clip.group == group]
            row["by_group"][group] = figure(
                word_error_rate([counts[i] for i in at], [measured.speakers[i] for i in at])
            )
    return row


def print_table(rows: Sequence[dict[str, Any]], skipped: dict[str, str]) -> None:
    """The table for people: one line a set and system."""
    header = ("set", "system", "utts", "spk", "words", "WER %", "95 % interval", "over", "S/D/I")
    lines: list[tuple[str, ...]] = [header]
    for row in rows:
        wer = row["wer"]
        lines.append(
            (
                row["title"],
                row["system"],
                str(row["utterances"]),
                str(row["speakers"]),
                str(row["words"]),
                f"{100 * wer['value']:.1f}",
                f"{100 * wer['ci95_low']:.1f} to {100 * wer['ci95_high']:.1f}",
                wer["resampled"],
                f"{row['substitutions']}/{row['deletions']}/{row['insertions']}",
            )
        )
    print_aligned(lines)
    for title, remark in {row["title"]: row["remark"] for row in rows if "remark" in row}.items():
        print(f"{title}: {remark}")
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")


def print_aligned(lines: Sequence[tuple[str, ...]]) -> None:
    """Columns padded to their widest entry, a rule below the header."""
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    for number, line in enumerate(lines):
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def insertions(
    sounds: Sequence[Sound], systems: Sequence[System], *, transcripts: TextIO | None = None
) -> list[dict[str, Any]]:
    """Words that each system hears where none are, per hour.

    Counted for each part, for `UNSEEN` (the parts without any recording of the training noise)
    and for all parts together.
    """

    def counted_in(sound: Sound) -> tuple[str, ...]:
        unseen = (UNSEEN,) if sound.part in UNSEEN_PARTS else ()
        return (sound.part, *unseen, ALL_PARTS)

    words: dict[tuple[str, str], list[int]] = {}
    hours: dict[str, list[float]] = {}
    worst: dict[tuple[str, str], dict[str, int]] = {}
    for index, sound in enumerate(sounds):
        samples = sound.read()
        for part in counted_in(sound):
            hours.setdefault(part, []).append(len(samples) / SAMPLE_RATE_HZ / 3600.0)
        for turn in range(len(systems)):
            system = systems[(index + turn) % len(systems)]
            heard = scored_text(system.transcribe(samples)).split()
            for part in counted_in(sound):
                words.setdefault((part, system.name), []).append(len(heard))
                if heard:
                    worst.setdefault((part, system.name), {})[sound.id] = len(heard)
            if transcripts is not None:
                line = {
                    "set": WORDLESS,
                    "id": sound.id,
                    "system": system.name,
                    "reference": "",
                    "hypothesis": " ".join(heard),
                }
                print(json.dumps(line, ensure_ascii=False), file=transcripts)
        progress(f"{WORDLESS}: {index + 1}/{len(sounds)}")
    progress(None)
    rows = []
    sums = (UNSEEN, ALL_PARTS)
    for part in sorted(hours, key=lambda part: sums.index(part) if part in sums else -1):
        for system in systems:
            rate = hourly_rate(words[part, system.name], hours[part])
            rows.append(
                {
                    "set": WORDLESS,
                    "part": part,
                    "system": system.name,
                    "recordings": len(hours[part]),
                    "minutes": round(60.0 * sum(hours[part]), 2),
                    "words_inserted": sum(words[part, system.name]),
                    "insertions_per_hour": figure(rate),
                    "where": worst.get((part, system.name), {}),
                }
            )
    return rows


def hourly_rate(words: Sequence[int], hours: Sequence[float], *, resamples: int = 5000) -> Estimate:
    """Insertions per hour with a 95 % interval.

    Words come in bursts, so recordings are resampled and not words. With fewer recordings than
    `MIN_RECORDINGS`, or no insertion at all, a bootstrap would claim too much certainty: the
    interval is then that of a Poisson count.
    """
    total, time_h = sum(words), sum(hours)
    if total == 0 or len(words) < MIN_RECORDINGS:
        low, high = poisson_interval(total)
        return Estimate(total / time_h, low / time_h, high / time_h, "word (Poisson)", total)
    table = np.column_stack([np.asarray(words, dtype=np.float64), np.asarray(hours)])
    draws = np.random.default_rng(1).multinomial(
        len(table), np.full(len(table), 1.0 / len(table)), size=resamples
    )
    sums = draws @ table
    low, high = np.percentile(sums[:, 0] / sums[:, 1], [2.5, 97.5])
    return Estimate(total / time_h, float(low), float(high), "recording", len(table))


def poisson_interval(count: int) -> tuple[float, float]:
    """Exact central 95 % interval of the mean of a Poisson count.

    Source:
        Garwood, "Fiducial limits for the Poisson distribution", Biometrika 28, 1936.
    """

    def at_most(k: int, mean: float) -> float:
        terms = (k_ * math.log(mean) - mean - math.lgamma(k_ + 1) for k_ in range(k + 1))
        return sum(math.exp(term) for term in terms)

    def mean_where(k: int, probability: float) -> float:
        low, high = 1e-9, 2.0 * count + 20.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(k, middle) > probability else (low, middle)
        return low

    return (0.0 if count == 0 else mean_where(count - 1, 0.975)), mean_where(count, 0.025)


def print_insertions(rows: Sequence[dict[str, Any]]) -> None:
    """The table of false insertions."""
    lines: list[tuple[str, ...]] = [
        ("wordless sound", "system", "minutes", "words", "per hour", "95 % interval", "over")
    ]
    for row in rows:
        rate = row["insertions_per_hour"]
        lines.append(
            (
                row["part"],
                row["system"],
                f"{row['minutes']:.1f}",
                str(row["words_inserted"]),
                f"{rate['value']:.1f}",
                f"{rate['ci95_low']:.1f} to {rate['ci95_high']:.1f}",
                rate["resampled"],
            )
        )
    print()
    print_aligned(lines)


def aims(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the project asks of Earshot's figures, and whether they keep to it."""
    found: list[tuple[str, float, float]] = []
    for row in report["rows"]:
        if row["set"] in AIMS and row.get("system", "").startswith("earshot"):
            found.append(
                (f"WER {row['set']}, {row['system']}", row["wer"]["value"], AIMS[row["set"]])
            )
        if row["set"] == "pooled" and "relative_change" in row:
            change = row["relative_change"]["value"]
            name = f"int8 against fp32, {row['method']}, relative"
            found.append((name, change, AIM_RELATIVE_CHANGE))
    for row in report.get(WORDLESS, []):
        if row["part"] in (ALL_PARTS, UNSEEN) and row["system"].startswith("earshot"):
            rate = row["insertions_per_hour"]["value"]
            name = f"insertions per hour, {row['part']}, {row['system']}"
            found.append((name, rate, AIM_INSERTIONS_PER_HOUR))
    return [
        {"what": what, "figure": figure, "aim": aim, "met": figure <= aim}
        for what, figure, aim in found
    ]


def print_aims(found: Sequence[dict[str, Any]]) -> None:
    """One line an aim."""
    print()
    for aim in found:
        verdict = "met" if aim["met"] else "MISSED"
        print(f"{verdict}: {aim['what']} {aim['figure']:.4g} (aim: at most {aim['aim']:g})")


def compare_models(
    quantised: Path,
    reference: Path,
    *,
    sets: Sequence[Speech],
    methods: Sequence[str],
    transcripts: TextIO | None,
) -> list[dict[str, Any]]:
    """Relative difference in word errors of two model files, each set and all pooled."""
    systems = [
        EarshotSystem(path, method=method, label=f"{label} {method.removesuffix('_search')}")
        for method in methods
        for label, path in (("int8", quantised), ("fp32", reference))
    ]
    measured = [measure(speech, systems, transcripts=transcripts) for speech in sets]
    rows: list[dict[str, Any]] = []
    for at, method in enumerate(methods):
        for part in [*measured, None]:
            chosen = measured if part is None else [part]
            int8, fp32 = (
                [c for m in chosen for c in m.outcomes[2 * at + which].counts] for which in (0, 1)
            )
            speakers = [s for m in chosen for s in m.speakers]
            row: dict[str, Any] = {
                "set": "pooled" if part is None else part.speech.name,
                "title": "all sets pooled" if part is None else part.speech.title,
                "method": method,
                "utterances": len(speakers),
                "speakers": len({s for s in speakers if s is not None}),
                "words": sum(c.reference_words for c in fp32),
                "int8_wer": figure(word_error_rate(int8, speakers)),
                "fp32_wer": figure(word_error_rate(fp32, speakers)),
                "utterances_that_differ": sum(a != b for a, b in zip(int8, fp32, strict=True)),
            }
            if any(c.errors for c in fp32):
                row["relative_change"] = figure(relative_change(fp32, int8, speakers))
                row["relative_change_over_utterances"] = figure(
                    relative_change(fp32, int8, [None] * len(speakers))
                )
            rows.append(row)
    return rows


def print_comparison(rows: Sequence[dict[str, Any]]) -> None:
    """The table of int8 against fp32."""
    lines: list[tuple[str, ...]] = [
        (
            "set",
            "method",
            "utts",
            "words",
            "fp32 WER %",
            "int8 WER %",
            "relative %",
            "95 % interval",
            "over",
        )
    ]
    for row in rows:
        change = row.get("relative_change")
        lines.append(
            (
                row["title"],
                row["method"].removesuffix("_search"),
                str(row["utterances"]),
                str(row["words"]),
                f"{100 * row['fp32_wer']['value']:.2f}",
                f"{100 * row['int8_wer']['value']:.2f}",
                f"{100 * change['value']:+.2f}" if change else "-",
                f"{100 * change['ci95_low']:+.2f} to {100 * change['ci95_high']:+.2f}"
                if change
                else "-",
                change["resampled"] if change else "no fp32 errors",
            )
        )
    print_aligned(lines)


def circumstances(models: Sequence[Path]) -> dict[str, Any]:
    """What a reader needs to run the same again: command, commit, model files, machine."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    try:
        from earshot import _native

        isa = _native.isa()
    except ImportError:
        isa = None
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit,
        "isa": isa,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "models": [
            {
                "file": path.name,
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in models
        ],
    }


def first(speech: Speech, limit: int | None) -> Speech:
    """The set cut to its first utterances, and a title that says so."""
    if limit is None or limit >= len(speech.clips):
        return speech
    return Speech(
        speech.name,
        f"{speech.title} (FIRST {limit} ONLY)",
        speech.clips[:limit],
        speech.vocabulary,
        speech.rules,
        speech.remark,
    )


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="recordings (default: $EARSHOT_DATA)")
    parser.add_argument(
        "--synthetic",
        type=Path,
        default=ROOT / "exp" / "assistant-en" / "synthetic_test",
        help="folder of the synthetic test; made when absent",
    )
    parser.add_argument(
        "--sentences",
        type=int,
        default=SYNTHETIC_SENTENCES,
        help=f"of the synthetic test (default: {SYNTHETIC_SENTENCES})",
    )
    parser.add_argument("--model", type=Path, help="model file (default: the shipped one)")
    parser.add_argument(
        "--method", default=",".join(METHODS), help="searches, separated by commas (default: both)"
    )
    parser.add_argument("--peers", action="store_true", help="run pocketsphinx as well")
    parser.add_argument("--peers-only", action="store_true", help="run nothing but pocketsphinx")
    parser.add_argument("--sets", default=",".join(SETS), help=f"any of {','.join(SETS)}")
    parser.add_argument("--limit", type=int, help="first utterances of each set, for trying out")
    parser.add_argument("--json", type=Path, help="also write the JSON object to this file")
    parser.add_argument("--transcripts", type=Path, help="write what was heard, JSON lines")
    parser.add_argument(
        "--int8-vs-fp32", nargs=2, type=Path, metavar=("INT8", "FP32"), help="compare two models"
    )
    parser.add_argument(
        "--merge", nargs="+", type=Path, metavar="JSON", help="one table of runs on other sets"
    )
    options = parser.parse_args(argv)
    if options.sentences < SYNTHETIC_SENTENCES:
        parser.error(
            f"--sentences is {options.sentences}; it must be {SYNTHETIC_SENTENCES} or more"
        )
    for name in options.sets.split(","):
        if name not in SETS:
            parser.error(f"--sets names {name!r}; it must be among {', '.join(SETS)}")
    for name in options.method.split(","):
        if name not in METHODS:
            parser.error(f"--method names {name!r}; it must be among {', '.join(METHODS)}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark. Returns the exit status."""
    options = arguments(argv)
    data = data_folder(options.data)
    methods = options.method.split(",")
    transcripts = (
        options.transcripts.open("w", encoding="utf-8", buffering=1)
        if options.transcripts
        else None
    )
    started = time.time()
    try:
        if options.merge:
            report = merged(options.merge)
            print_report(report)
        elif options.int8_vs_fp32:
            report = run_comparison(options, data, methods, transcripts)
        else:
            report = run_table(options, data, methods, transcripts)
    except (SetMissing, MergeError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    finally:
        if transcripts is not None:
            transcripts.close()
    report["aims"] = aims(report)
    print_aims(report["aims"])
    if not options.merge:
        report["wall_s"] = round(time.time() - started, 1)
    report["normalisation"] = NORMALISATION
    report["complete"] = True
    save(options.json, report)
    print(json.dumps(report, ensure_ascii=False))
    return 0


def save(path: Path | None, report: dict[str, Any]) -> None:
    """Writes the JSON object, if a file for it was named."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, ensure_ascii=False) + "\n", encoding="utf-8")


def run_comparison(
    options: argparse.Namespace, data: Path, methods: Sequence[str], transcripts: TextIO | None
) -> dict[str, Any]:
    """int8 against fp32 over everything that was not trained on."""
    quantised, reference = options.int8_vs_fp32
    sets = [
        first(speech, options.limit)
        for speech in pooled_sets(
            data=data, synthetic=options.synthetic, sentences=options.sentences
        )
    ]
    rows = compare_models(quantised, reference, sets=sets, methods=methods, transcripts=transcripts)
    print_comparison(rows)
    return {
        "benchmark": "int8-vs-fp32",
        **circumstances([quantised, reference]),
        "rows": rows,
    }


def run_table(
    options: argparse.Namespace, data: Path, methods: Sequence[str], transcripts: TextIO | None
) -> dict[str, Any]:
    """Every set, every system."""
    chosen = options.sets.split(",")
    own: list[System] = []
    models: list[Path] = []
    if not options.peers_only:
        models = [options.model or default_model()]
        own = [EarshotSystem(models[0], method=method) for method in methods]
    general = [PocketSphinx()] if options.peers or options.peers_only else []
    rows: list[dict[str, Any]] = []
    wordless: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    report: dict[str, Any] = {"benchmark": "wer", **circumstances(models), "complete": False}
    report |= {"rows": rows, WORDLESS: wordless, "skipped": skipped}
    for name in chosen:
        systems: list[System] = [*own, *general]
        try:
            if name == WORDLESS:
                wordless += insertions(wordless_sounds(data), systems, transcripts=transcripts)
                continue
            speech = load_set(
                name, data=data, synthetic=options.synthetic, sentences=options.sentences
            )
        except SetMissing as err:
            skipped[name] = str(err)
            continue
        if general and speech.vocabulary:
            systems.append(PocketSphinx(speech.vocabulary))
        measured = measure(first(speech, options.limit), systems, transcripts=transcripts)
        rows.extend(table_row(measured, outcome) for outcome in measured.outcomes)
        save(options.json, report)  # a run with peers takes long: keep what is there
    print_report(report)
    return report


def print_report(report: dict[str, Any]) -> None:
    """The tables of a report of word error rates."""
    if report["rows"] or report["skipped"]:
        print_table(report["rows"], report["skipped"])
    if report[WORDLESS]:
        print_insertions(report[WORDLESS])


class MergeError(Exception):
    """Reports that cannot stand in one table; the message says why."""


def merged(paths: Sequence[Path]) -> dict[str, Any]:
    """One report of several runs that measured the same models on different sets.

    Args:
        paths: Files that `--json` wrote.

    Raises:
        MergeError: A file is not a finished report of word error rates, the model files differ,
            or two files hold the same set and system.
    """
    reports = []
    for path in paths:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            raise MergeError(f"{path}: cannot be read ({err})") from None
        if report.get("benchmark") != "wer" or not report.get("complete"):
            raise MergeError(f"{path}: is not a finished report of word error rates")
        reports.append(report)
    models = {json.dumps(report["models"]) for report in reports if report["models"]}
    if len(models) > 1:
        raise MergeError(f"the reports are about {len(models)} different model files")
    rows = [row for report in reports for row in report["rows"]]
    wordless = [row for report in reports for row in report[WORDLESS]]
    seen = set()
    for row in [*rows, *wordless]:
        key = (row["set"], row.get("part", ""), row["system"])
        if key in seen:
            raise MergeError(f"{' '.join(filter(None, key))}: is in two of the reports")
        seen.add(key)
    measured = {row["set"] for row in [*rows, *wordless]}
    skipped = {k: why for report in reports for k, why in report["skipped"].items()}
    return {
        "benchmark": "wer",
        "command": [report["command"] for report in reports],
        "commit": sorted({report["commit"] for report in reports}),
        "isa": sorted({str(report["isa"]) for report in reports}),
        "python": sorted({report["python"] for report in reports}),
        "cpus": reports[0]["cpus"],
        "models": json.loads(models.pop()) if models else [],
        "rows": sorted(rows, key=lambda row: SETS.index(row["set"])),
        WORDLESS: wordless,
        "skipped": {name: why for name, why in skipped.items() if name not in measured},
        "wall_s": [report["wall_s"] for report in reports],
    }


if __name__ == "__main__":
    raise SystemExit(main())
