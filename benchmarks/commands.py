"""How many spoken commands are understood right, by the protocol of the coffee benchmark.

    python benchmarks/commands.py --data DIR --noise kitchen --peers
    python benchmarks/commands.py --model adapted=a.ear --model adapted=b.ear --records x.jsonl
    python benchmarks/commands.py --synthetic-grammar benchmarks/grammars/hive_log.yaml
    python benchmarks/commands.py --out-of-grammar
    python benchmarks/commands.py --merge x.jsonl y.jsonl --json both.json

A command counts as understood when the intent and every slot are right. Recordings are measured
as they are and with noise at 6, 9, ... 24 dB, mixed in as `noisy_speech.py` says, with several
stretches of noise each. All systems hear the very same samples. `--records` keeps every answer
in a file: a run that was stopped goes on from it, and `--part 1/2` and `--part 2/2` in two
processes, or runs of other systems, are put together by `--merge`. The last line is one JSON
object. What is counted is in `command_scoring.py`, the clips in `command_sets.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import numpy.typing as npt
from command_scoring import (
    CLEAN,
    MEAN,
    PUBLISHED,
    PUBLISHED_SNRS_DB,
    Record,
    acceptance_rows,
    condition_name,
    confusions,
    difference_rows,
    false_accept_rows,
    slot_rows,
)
from command_sets import CommandClip, coffee_orders, no_commands, spoken_samples
from jsgf import JsgfError, jsgf, pronounced
from noisy_speech import Noise, load_noise
from speech_sets import SAMPLE_RATE_HZ, SetMissing, data_folder
from systems import PocketSphinx, default_model
from wer import circumstances, print_aligned, progress, save

import earshot
from earshot.core.understanding import Understanding
from earshot.session.recognizer import tokenizer_of
from earshot.understand.graph import CommandGraph, compile_commands
from earshot.understand.templates import load_commands

ROOT = Path(__file__).resolve().parents[1]
QUICK_SNR_DB = 12.0
NO_SPEAKERS = (
    "The recordings carry no speaker ids: intervals are 95 % bootstraps over clips, all draws of "
    "a clip together, and say nothing about other speakers."
)
CITED = (
    "Published rows are cited figures of 2022 on all 619 recordings (see the benchmark's "
    "authors); ours are measured here on {clips} of them."
)
AIM_FALSE_ACCEPTS = 0.05

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system made of one clip."""

    accepted: bool
    intent: str | None
    slots: dict[str, object]
    confidence: float | None
    text: str


class CommandSystem(Protocol):
    """One recogniser that knows the grammar."""

    @property
    def name(self) -> str:
        """Label in tables; the seeds of one system share it."""

    @property
    def member(self) -> str:
        """Tells apart what shares a label."""

    def hear(self, clips: Sequence[Samples]) -> list[Answer]:
        """Answers to clips of 16 kHz samples in [-1, 1]."""


class EarshotCommands:
    """A model file with command templates; clips are decoded together, which changes nothing."""

    def __init__(
        self, model: Path, commands: Path, *, label: str, threshold: float | None = None
    ) -> None:
        self.name, self.member = label, str(model)
        self._recognizer = earshot.Recognizer.load(
            model, commands=commands, command_threshold=threshold
        )

    def hear(self, clips: Sequence[Samples]) -> list[Answer]:
        streams = []
        for samples in clips:
            stream = self._recognizer.create_stream()
            stream.accept_waveform(SAMPLE_RATE_HZ, samples)
            stream.input_finished()
            streams.append(stream)
        self._recognizer.decode_streams(streams)
        answers = []
        for stream in streams:
            found = stream.understanding()
            assert found is not None  # commands were given
            slots = {name: slot.value for name, slot in found.slots.items()}
            accepted = found.intent is not None
            text = stream.result().text
            answers.append(Answer(accepted, found.intent, slots, found.confidence, text))
        return answers


class PocketSphinxCommands:
    """pocketsphinx searching the same sentences as JSGF; its words are read by the same grammar.

    It has no free speech beside the grammar, and rejects only what no path of the grammar explains.
    Its path may break off within a sentence ("... with milk and"): the longest whole sentence at
    its beginning then counts, which serves it well.
    """

    def __init__(self, graph: CommandGraph, *, data: Path) -> None:
        self.name = self.member = "pocketsphinx JSGF"
        words = graph.word_graph.words
        said = pronounced(
            words,
            dictionary=PocketSphinx.own_dictionary(),
            cmudict=data / "text" / "cmudict.dict.gz",
        )
        self.remark = f"pocketsphinx pronounces {said.remark}"
        self._decoder = PocketSphinx(
            label=self.name, grammar=jsgf(graph.word_graph), dictionary="\n".join(said.lines)
        )
        self._graph = graph

    def hear(self, clips: Sequence[Samples]) -> list[Answer]:
        answers = []
        for samples in clips:
            text = self._decoder.transcribe(samples)
            meaning = self._meaning(text.split())
            if meaning is None:
                answers.append(Answer(False, None, {}, None, text))
                continue
            slots = {name: slot.value for name, slot in meaning.slots.items()}
            answers.append(Answer(True, meaning.intent, slots, None, text))
        return answers

    def _meaning(self, words: Sequence[str]) -> Understanding | None:
        for length in range(len(words), 0, -1):
            meaning = self._graph.interpret(words[:length])
            if meaning is not None:
                return meaning
        return None


@dataclass(slots=True)
class Journal:
    """Answers so far, and the file that keeps them."""

    file: TextIO | None = None
    records: list[Record] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)  # by system, of this process
    audio_s: dict[str, float] = field(default_factory=dict)

    def add(self, records: Sequence[Record]) -> None:
        """Keeps answers; those of one call reach the file together."""
        self.records += records
        if self.file is not None:
            self.file.write("".join(json.dumps(r.as_dict()) + "\n" for r in records))
            self.file.flush()


class JournalError(Exception):
    """Files of answers that do not go together; the message says why."""


def read_journal(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """Header and answers of a file that `--records` wrote; a last line cut short is left out.

    Raises:
        JournalError: It is no such file.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        header = json.loads(lines[0])
        records = [Record(**json.loads(line)) for line in lines[1:-1]]
    except (OSError, ValueError, TypeError) as err:
        raise JournalError(f"{path}: is no file of answers ({err})") from None
    if not isinstance(header, dict) or header.get("benchmark") != "commands":
        raise JournalError(f"{path}: is no file of answers")
    return header, records


def open_journal(path: Path | None, header: dict[str, Any], *, stack: ExitStack) -> Journal:
    """A journal that goes on where its file stopped.

    Raises:
        JournalError: The file holds answers to another question.
    """
    if path is None:
        return Journal()
    records: list[Record] = []
    if path.is_file() and path.stat().st_size:
        there, records = read_journal(path)
        if there["question"] != header["question"]:
            raise JournalError(f"{path}: {_difference(there, header)}. Name another file.")
        if there["models"] != header["models"] or there["part"] != header["part"]:
            raise JournalError(f"{path}: was made with other models or parts. Name another file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written anew, so that a line that was cut short does not spoil the next one.
    temporary = path.with_name(path.name + ".new")
    lines = [json.dumps(header), *(json.dumps(record.as_dict()) for record in records)]
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)
    return Journal(stack.enter_context(path.open("a", encoding="utf-8")), records)


def _difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    old, new = there["question"], here["question"]
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return f"holds answers to another question (differs in: {', '.join(names)})"


def conditions(snrs: Sequence[float], draws: int) -> list[tuple[float | None, int]]:
    """(level or None for clean, number of the draw), in the order that they are heard."""
    return [(None, 0), *((snr, draw) for draw in range(draws) for snr in snrs)]


def measure(
    clips: Sequence[CommandClip],
    systems: Sequence[CommandSystem],
    *,
    noise: Noise | None,
    asked: Callable[[CommandSystem], Sequence[tuple[float | None, int]]],
    journal: Journal,
) -> None:
    """Lets every system hear every clip in every condition that the journal does not have yet.

    Systems alternate clip by clip, so that a busy machine troubles all of them alike.
    """
    done = {record.key for record in journal.records}
    for index, clip in enumerate(clips):
        clean: Samples | None = None
        for turn in range(len(systems)):
            system = systems[(index + turn) % len(systems)]
            missing = [
                (snr, draw)
                for snr, draw in asked(system)
                if (system.name, system.member, condition_name(snr), draw, clip.set, clip.id)
                not in done
            ]
            if not missing:
                continue
            clean = clip.read() if clean is None else clean
            heard = [_heard(clean, clip, noise, snr, draw) for snr, draw in missing]
            start = time.process_time()
            answers = system.hear(heard)
            used = time.process_time() - start
            journal.cpu_s[system.name] = journal.cpu_s.get(system.name, 0.0) + used
            length_s = len(clean) * len(heard) / SAMPLE_RATE_HZ
            journal.audio_s[system.name] = journal.audio_s.get(system.name, 0.0) + length_s
            journal.add(
                [
                    Record(
                        system=system.name,
                        member=system.member,
                        condition=condition_name(snr),
                        draw=draw,
                        set=clip.set,
                        id=clip.id,
                        speaker=clip.speaker,
                        expected_intent=clip.intent,
                        expected_slots=dict(clip.slots),
                        accepted=answer.accepted,
                        intent=answer.intent,
                        slots=answer.slots,
                        confidence=answer.confidence,
                        text=answer.text,
                    )
                    for (snr, draw), answer in zip(missing, answers, strict=True)
                ]
            )
        progress(f"clips: {index + 1}/{len(clips)}")
    progress(None)


def _heard(
    clean: Samples, clip: CommandClip, noise: Noise | None, snr_db: float | None, draw: int
) -> Samples:
    if snr_db is None:
        return clean
    assert noise is not None  # levels are asked for only with a noise
    return noise.under(clean, clip_id=clip.id, snr_db=snr_db, draw=draw)


def named_model(text: str) -> tuple[str, Path]:
    """`LABEL=FILE` or `FILE`, whose label is then its stem."""
    label, equals, path = text.partition("=")
    return (label, Path(path)) if equals else (f"earshot {Path(text).stem}", Path(text))


def part_of(text: str) -> tuple[int, int]:
    """`1/2` as (1, 2).

    Raises:
        ValueError: It is no part.
    """
    number, total = (int(half) for half in text.split("/"))
    if not 1 <= number <= total:
        raise ValueError(text)
    return number, total


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="recordings (default: $EARSHOT_DATA)")
    parser.add_argument(
        "--noise",
        help='label of the noise folder, "train" or "music" (default: kitchen; train for '
        "--synthetic-grammar)",
    )
    parser.add_argument(
        "--model",
        type=named_model,
        action="append",
        metavar="[LABEL=]FILE",
        help="model file, repeatable; files with one label are seeds of one system "
        "(default: the shipped one)",
    )
    parser.add_argument(
        "--commands", type=Path, default=ROOT / "examples" / "coffee.yaml", help="the grammar"
    )
    parser.add_argument(
        "--synthetic-grammar",
        type=Path,
        metavar="FILE",
        help="measure samples of this grammar, spoken by held-out voices",
    )
    parser.add_argument("--sentences", type=int, default=400, help="how many of those samples")
    parser.add_argument(
        "--spoken",
        type=Path,
        help="folder of those samples, made when absent (default: exp/spoken/NAME)",
    )
    parser.add_argument(
        "--out-of-grammar",
        action="store_true",
        help="measure speech that is no command instead (default: clean and 12 dB, one draw)",
    )
    parser.add_argument(
        "--synthetic",
        type=Path,
        default=ROOT / "exp" / "assistant-en" / "synthetic_test",
        help="folder of the assistant sentences for --out-of-grammar; made when absent",
    )
    parser.add_argument("--snrs", help="levels in dB, separated by commas (default: 6,9,...,24)")
    parser.add_argument("--draws", type=int, help="stretches of noise a clip and level (default 3)")
    parser.add_argument("--quick", action="store_true", help="clean and 12 dB, one draw")
    parser.add_argument("--command-threshold", type=float, help="instead of the frozen one")
    parser.add_argument("--peers", action="store_true", help="run pocketsphinx as well")
    parser.add_argument("--peers-only", action="store_true", help="run nothing but pocketsphinx")
    parser.add_argument(
        "--peer-draws", type=int, help="draws for pocketsphinx, which is slow (default: --draws)"
    )
    parser.add_argument("--limit", type=int, help="first clips only, for trying out")
    parser.add_argument(
        "--part", type=part_of, default=(1, 1), metavar="I/N", help="every Nth clip, from the Ith"
    )
    parser.add_argument("--records", type=Path, help="keep answers here, and go on from them")
    parser.add_argument(
        "--merge", nargs="+", type=Path, metavar="RECORDS", help="one table of several runs"
    )
    parser.add_argument("--json", type=Path, help="also write the JSON object to this file")
    options = parser.parse_args(argv)
    if options.synthetic_grammar and options.out_of_grammar:
        parser.error("--synthetic-grammar and --out-of-grammar measure different clips: choose one")
    if options.synthetic_grammar:
        options.commands = options.synthetic_grammar
    for label, path in options.model or []:
        twins = [other for name, other in options.model if name == label]
        if len(twins) > 1 and (label == named_model(str(path))[0] or len(set(twins)) < len(twins)):
            parser.error(
                f"{len(twins)} models are called {label!r}; write LABEL=FILE, with one label for "
                "the seeds of one system only"
            )
    short = options.quick or options.out_of_grammar
    if options.snrs is None:
        levels = (QUICK_SNR_DB,) if short else PUBLISHED_SNRS_DB
        options.snrs = ",".join(f"{level:g}" for level in levels)
    try:
        options.snrs = [float(level) for level in options.snrs.split(",") if level]
    except ValueError:
        parser.error(f"--snrs is {options.snrs!r}; it must be numbers separated by commas")
    options.draws = options.draws or (1 if short else 3)
    options.peer_draws = options.peer_draws or options.draws
    options.noise = options.noise or ("train" if options.synthetic_grammar else "kitchen")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark. Returns the exit status."""
    options = arguments(argv)
    started = time.time()
    try:
        with ExitStack() as stack:
            report = merged(options.merge) if options.merge else run(options, stack)
    except (SetMissing, JournalError, JsgfError, earshot.EarshotError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print_report(report)
    report["wall_s"] = round(time.time() - started, 1)
    save(options.json, report)
    print(json.dumps(report, ensure_ascii=False))
    return 0


def run(options: argparse.Namespace, stack: ExitStack) -> dict[str, Any]:
    """Measures what the command line asks for."""
    data = data_folder(options.data)
    noise = load_noise(options.noise, data=data) if options.snrs else None
    clips = _clips(options, data)
    models = [] if options.peers_only else options.model or [named_model(str(default_model()))]
    commands = load_commands([options.commands])
    graph = compile_commands(commands, tokenizer_of(models[0][1] if models else default_model()))
    systems: list[CommandSystem] = [
        EarshotCommands(path, options.commands, label=label, threshold=options.command_threshold)
        for label, path in models
    ]
    remarks = [_about(options, clips, noise)]
    peers = options.peers or options.peers_only
    if peers:
        sphinx = PocketSphinxCommands(graph, data=data)
        remarks.append(sphinx.remark)
        systems.append(sphinx)
    header = {
        "benchmark": "commands",
        **circumstances([path for _, path in models]),
        "part": list(options.part),
        "num_clips": len(clips),
        "question": {
            "clips": hashlib.sha256("\n".join(c.id for c in clips).encode()).hexdigest(),
            "kind": _kind(options),
            "grammar": options.commands.name,
            # Says whether it is the same grammar; another spelling of it has the same two.
            "sentences": commands.count_sentences(),
            "words": sorted(graph.word_graph.words),
            "noise": options.noise,
            "threshold": options.command_threshold,
        },
        "remarks": remarks,
    }
    journal = open_journal(options.records, header, stack=stack)

    def asked(system: CommandSystem) -> list[tuple[float | None, int]]:
        slow = system.member == "pocketsphinx JSGF"
        return conditions(options.snrs, options.peer_draws if slow else options.draws)

    number, total = options.part
    measure(clips[number - 1 :: total], systems, noise=noise, asked=asked, journal=journal)
    report = reported(header, journal.records)
    report["cpu_real_time_factor"] = {
        name: round(used / journal.audio_s[name], 4) for name, used in journal.cpu_s.items()
    }
    return report


def _clips(options: argparse.Namespace, data: Path) -> list[CommandClip]:
    if options.out_of_grammar:
        clips = no_commands(data, options.synthetic)
    elif options.synthetic_grammar:
        folder = options.spoken or ROOT / "exp" / "spoken" / options.synthetic_grammar.stem
        clips = spoken_samples(
            options.synthetic_grammar, folder, count=options.sentences, progress=progress
        )
    else:
        clips = coffee_orders(data)
    return clips[: options.limit]


def _kind(options: argparse.Namespace) -> str:
    if options.out_of_grammar:
        return "out of grammar"
    return "spoken samples" if options.synthetic_grammar else "coffee orders"


def _about(options: argparse.Namespace, clips: Sequence[CommandClip], noise: Noise | None) -> str:
    told = f"{len(clips)} clips"
    if options.limit is not None:
        told += f" (THE FIRST {options.limit} ONLY)"
    if options.synthetic_grammar:
        told += ", synthetic speech of the voices that no training batch has"
    if noise is not None:
        told += f"; noise: {noise.name}, {noise.remark}"
    return told


def reported(header: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """All figures that follow from answers."""
    report = dict(header)
    report["kind"] = header["question"]["kind"]
    if report["kind"] == "out of grammar":
        report["false_accepts"] = false_accept_rows(records)
        report["aims"] = [
            {
                "what": f"accepted, {row['system']}, {row['condition']}, {row['set']}",
                "figure": row["accepted"]["value"],
                "aim": AIM_FALSE_ACCEPTS,
                "met": row["accepted"]["value"] <= AIM_FALSE_ACCEPTS,
            }
            for row in report["false_accepts"]
        ]
        return report
    report["rows"] = acceptance_rows(records)
    report["differences"] = difference_rows(records)
    report["slots"] = slot_rows(records)
    report["confusions"] = confusions(records)
    if report["kind"] == "coffee orders" and header["question"]["noise"] == "kitchen":
        report["published"] = {
            "snrs_db": PUBLISHED_SNRS_DB,
            "rows": PUBLISHED,
            "remark": CITED.format(clips=len({record.id for record in records})),
        }
        report["above"] = _above(report["rows"])
    if {row["clips"] for row in report["rows"]} - {header["num_clips"]}:
        report["remarks"] = [
            *report["remarks"],
            f"INCOMPLETE: not every system heard all {header['num_clips']} clips everywhere",
        ]
    return report


def _above(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which published means each system's mean is above; only where all levels were heard."""
    levels = {condition_name(snr) for snr in PUBLISHED_SNRS_DB}
    found = []
    for row in rows:
        system = row["system"]
        heard = {r["condition"] for r in rows if r["system"] == system} - {CLEAN, MEAN}
        if row["condition"] != MEAN or heard != levels:
            continue
        for engine, figures in PUBLISHED.items():
            mean = float(np.mean(figures))
            found.append(
                {
                    "system": system,
                    "engine": engine,
                    "published_mean": round(mean, 3),
                    "above": row["acceptance"]["value"] > mean,
                    "interval_above": row["acceptance"]["ci95_low"] > mean,
                }
            )
    return found


def merged(paths: Sequence[Path]) -> dict[str, Any]:
    """One report of several files of answers to the same question.

    Args:
        paths: Files that `--records` wrote: parts of a run, or runs of other systems.

    Raises:
        JournalError: A file is not of this kind, asks something else, or an answer is in two.
    """
    first, records = read_journal(paths[0])
    headers = [first]
    for path in paths[1:]:
        header, more = read_journal(path)
        if header["question"] != first["question"]:
            raise JournalError(f"{path}: {_difference(header, first)}.")
        headers.append(header)
        records += more
    seen: set[tuple[str, str, str, int, str, str]] = set()
    for record in records:
        if record.key in seen:
            raise JournalError(f"{' '.join(map(str, record.key))}: is in two of the files")
        seen.add(record.key)
    header = {
        **first,
        "command": [header["command"] for header in headers],
        "commit": sorted({header["commit"] for header in headers}),
        "models": [
            json.loads(text)
            for text in sorted({json.dumps(m) for header in headers for m in header["models"]})
        ],
        "part": [header["part"] for header in headers],
        "remarks": list(dict.fromkeys(text for header in headers for text in header["remarks"])),
    }
    return reported(header, records)


def print_report(report: dict[str, Any]) -> None:
    """The tables for people."""
    if report["kind"] == "out of grammar":
        _print_false_accepts(report["false_accepts"])
    else:
        _print_acceptance(report)
        _print_differences(report["differences"])
        _print_slots(report["slots"])
        _print_confusions(report["confusions"])
        print(f"\n{NO_SPEAKERS}" if report["kind"] == "coffee orders" else "")
    for remark in report["remarks"]:
        print(remark)
    if "published" in report:
        print(report["published"]["remark"])
    for row in report.get("above", []):
        verdict = "above" if row["above"] else "NOT above"
        sure = ", interval too" if row["interval_above"] else ""
        print(f"{row['system']}: {verdict} {row['engine']} ({row['published_mean']:.3f}{sure})")
    for aim in report.get("aims", []):
        verdict = "met" if aim["met"] else "MISSED"
        print(f"{verdict}: {aim['what']} {aim['figure']:.4f} (aim: at most {aim['aim']:g})")


def _print_acceptance(report: dict[str, Any]) -> None:
    rows = report["rows"]
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    print("command acceptance (intent and every slot right), 95 % interval below")
    lines: list[tuple[str, ...]] = [("system", *conditions)]
    for system in dict.fromkeys(row["system"] for row in rows):
        by_condition = {row["condition"]: row for row in rows if row["system"] == system}
        cells = [by_condition.get(condition) for condition in conditions]
        values = (f"{c['acceptance']['value']:.3f}" if c else "-" for c in cells)
        lines.append((system, *values))
        lines.append(("  interval", *(_interval(c["acceptance"]) if c else "" for c in cells)))
        lines.append(("  rejected", *(f"{c['rejected']:.3f}" if c else "" for c in cells)))
        for member in dict.fromkeys(name for c in cells if c for name in c.get("members", {})):
            of_member = (f"{c['members'][member]:.3f}" if c else "" for c in cells)
            lines.append((f"  of which {member}", *of_member))
    if "published" in report:
        names = [condition_name(snr) for snr in report["published"]["snrs_db"]]
        for engine, figures in report["published"]["rows"].items():
            cited = dict(zip(names, (f"{value:.2f}" for value in figures), strict=True))
            cited[MEAN] = f"{np.mean(figures):.3f}"
            lines.append((f"{engine} *", *(cited.get(name, "") for name in conditions)))
    print_aligned(lines)
    if "published" in report:
        print("* published by the benchmark's authors, not measured here")


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['ci95_low']:.3f}-{estimate['ci95_high']:.3f}"


def _print_differences(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    lines: list[tuple[str, ...]] = [("system", "less", "condition", "difference", "95 % interval")]
    for row in rows:
        change = row["difference"]
        lines.append(
            (
                row["system"],
                row["less"],
                row["condition"],
                f"{change['value']:+.3f}",
                f"{change['ci95_low']:+.3f} to {change['ci95_high']:+.3f}",
            )
        )
    print("\nacceptance on the same clips, resampled together")
    print_aligned(lines)


def _print_slots(rows: Sequence[dict[str, Any]]) -> None:
    lines: list[tuple[str, ...]] = [
        ("system", "over", "slot", "said", "heard otherwise", "missed", "only heard", "wrong %")
    ]
    for row in rows:
        counts = [row[kind] for kind in ("otherwise", "missed", "only heard")]
        if not any(counts):
            continue
        wrong = f"{100 * sum(counts) / row['accepted_commands']:.1f}"
        lines.append(
            (
                row["system"],
                row["condition"],
                row["slot"],
                str(row["said"]),
                *(str(count) for count in counts),
                wrong,
            )
        )
    print("\nslots in accepted commands; those without a mistake are left out")
    print_aligned(lines)


def _print_confusions(rows: Sequence[dict[str, Any]]) -> None:
    lines: list[tuple[str, ...]] = [("system", "slot", "said", "heard", "times")]
    for row in rows:
        lines.append((row["system"], row["slot"], row["expected"], row["heard"], str(row["count"])))
    print("\ncommonest confusions, all conditions")
    print_aligned(lines)


def _print_false_accepts(rows: Sequence[dict[str, Any]]) -> None:
    lines: list[tuple[str, ...]] = [
        ("system", "condition", "set", "clips", "spk", "accepted %", "95 % interval", "over")
    ]
    for row in rows:
        accepted = row["accepted"]
        lines.append(
            (
                row["system"],
                row["condition"],
                row["set"],
                str(row["clips"]),
                str(row["speakers"]),
                f"{100 * accepted['value']:.2f}",
                f"{100 * accepted['ci95_low']:.2f} to {100 * accepted['ci95_high']:.2f}",
                accepted["resampled"],
            )
        )
    print("speech without a command that was taken for one")
    print_aligned(lines)


if __name__ == "__main__":
    raise SystemExit(main())
