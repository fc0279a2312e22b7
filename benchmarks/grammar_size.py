"""What big grammars cost: time to compile, memory, and how much slower decoding gets.

    python benchmarks/grammar_size.py
    python benchmarks/grammar_size.py --rounds 15 --json grammar.json

Three grammars: the coffee example, one of over a million sentences, and one with a list of
20,000 made-up names. Compiling and the first clip are timed in processes of their own, whose peak
memory is compared with that of a one-sentence grammar. Decoding runs with and without each
grammar in turns over the same audio, read speech and (where flite is installed) samples of the
grammar itself; the slowdown is the median over rounds of the ratio of CPU times. What comes once
a clip after decoding, parsing paths and looking for near commands, is shown apart. All work is on
one thread, so CPU seconds are what an idle machine takes; a busy one hardly changes them. The
process is pinned to one core. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from processes import ColdStart, cold_start, peak_memory_mib
from races import Contestant, race, test_audio
from speech_sets import SAMPLE_RATE_HZ, SetMissing, data_folder
from systems import default_model
from wer import circumstances, print_aligned, save

import earshot
from earshot.understand.templates import load_commands

ROOT = Path(__file__).resolve().parents[1]
SPOKEN_SAMPLES = 12
NAMES = 20_000
TO_FIRST_USE = ("read_s", "compile_s", "load_s", "first_clip_extra_s")
AIM_COMPILE_S = 5.0
AIM_MEMORY_MIB = 50.0
AIM_SLOWDOWN = 0.25

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Grammar:
    """A file of templates, and how tables call it."""

    name: str
    path: Path


def made_up_names(count: int, *, seed: int = 1) -> list[str]:
    """Different names that can be said, of two to four syllables.

    Args:
        count: How many.
        seed: Of the choice.
    """
    rng = np.random.default_rng(seed)
    heads = [
        "b",
        "br",
        "c",
        "d",
        "dr",
        "f",
        "fl",
        "g",
        "gr",
        "h",
        "j",
        "k",
        "l",
        "m",
        "n",
        "p",
        "r",
        "s",
        "st",
        "t",
        "v",
    ]
    middles = ["a", "e", "i", "o", "u", "ay", "ee", "oo", "or", "ar"]
    tails = ["", "", "", "n", "l", "r", "s", "m", "t"]
    found: dict[str, None] = {}
    while len(found) < count:
        picked = rng.integers(0, 1 << 30, size=9).tolist()
        syllables = [
            heads[picked[at] % len(heads)] + middles[picked[at + 1] % len(middles)]
            for at in range(0, 2 * (2 + picked[8] % 3), 2)
        ]
        found["".join(syllables) + tails[picked[0] // len(heads) % len(tails)]] = None
    return list(found)


def big_grammars(folder: Path) -> list[Grammar]:
    """The grammars that are measured, written as template files.

    Args:
        folder: Gets the files that are not in the repository.
    """
    rooms = made_up_names(20, seed=2)
    million = {
        "language": "en",
        "intents": {
            "SetDevice": {
                "data": [
                    {
                        "sentences": [
                            "(turn|switch) {state} [the] {device} in [the] {room} "
                            "[to {level} percent]",
                            "(set|bring) [the] {device} in [the] {room} to {level} percent",
                        ]
                    }
                ]
            }
        },
        "lists": {
            "state": {"values": ["on", "off"]},
            "device": {"values": [f"{name} lamp" for name in made_up_names(30, seed=3)]},
            "room": {"values": [f"{name} room" for name in rooms]},
            "level": {"range": {"from": 0, "to": 100}},
        },
    }
    names = {
        "language": "en",
        "intents": {"Call": {"data": [{"sentences": ["(call|ring) {name} [please]"]}]}},
        "lists": {"name": {"values": made_up_names(NAMES)}},
    }
    one = {"language": "en", "intents": {"Stop": {"data": [{"sentences": ["stop"]}]}}}
    written = []
    for name, content in (
        ("one sentence", one),
        ("1,000,000 sentences", million),
        ("20,000 values", names),
    ):
        path = folder / f"{name.replace(',', '').replace(' ', '-')}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        written.append(Grammar(name, path))
    return [written[0], Grammar("coffee", ROOT / "examples" / "coffee.yaml"), *written[1:]]


# Prints one JSON line; what it imports beforehand is not counted as compiling.
_COMPILING = """
import json, time
import numpy as np
import earshot
import hassil, yaml
from earshot.session.recognizer import tokenizer_of
from earshot.understand.graph import compile_commands
from earshot.understand.templates import load_commands
from pathlib import Path
model, grammar, clip = Path({model!r}), Path({grammar!r}), np.load({clip!r})
tokenizer = tokenizer_of(model)
earshot.Recognizer.load(model).transcribe(clip)
marks = []
def mark():
    marks.append((time.process_time(), time.perf_counter()))
mark()
commands = load_commands([grammar]); mark()
compile_commands(commands, tokenizer).word_graph; mark()
recognizer = earshot.Recognizer.load(model, commands=commands); mark()
recognizer.transcribe(clip); mark()
recognizer.transcribe(clip); mark()
print(json.dumps(np.diff(marks, axis=0).tolist()), flush=True)
"""


def compiling(
    model: Path, grammars: Sequence[Grammar], clip: Path, *, repeats: int
) -> list[dict[str, Any]]:
    """Seconds and MiB of each grammar; medians over processes, which take turns."""
    codes = [
        _COMPILING.format(model=str(model), grammar=str(g.path), clip=str(clip)) for g in grammars
    ]
    times: list[list[list[list[float]]]] = [[] for _ in grammars]
    for number in range(repeats):
        for turn in range(len(grammars)):
            which = (turn + number) % len(grammars)
            noted = ColdStart()
            cold_start([sys.executable, "-c", codes[which]], noted)
            times[which].append(json.loads(noted.output))
    rows: list[dict[str, Any]] = []
    for grammar, code, spent in zip(grammars, codes, times, strict=True):
        cpu, wall = np.moveaxis(np.median(np.array(spent), axis=0), 1, 0).tolist()
        # The recogniser keeps the network that was built before, and makes the engine's graph.
        read, compiled, loaded, first, second = cpu
        peak = min(peak_memory_mib(code) for _ in range(3))
        rows.append(
            {
                "grammar": grammar.name,
                "sentences": load_commands([grammar.path]).count_sentences(),
                "read_s": read,
                "compile_s": compiled,
                "load_s": loaded,
                "first_clip_extra_s": max(0.0, first - second),
                "elapsed_s": sum(wall[:4]) - wall[4],
                "peak_mib": peak,
                "added_mib": peak - (rows[0]["peak_mib"] if rows else peak),
            }
        )
    return rows


def spoken(grammar: Grammar) -> list[Samples]:
    """A few sentences of a grammar, spoken; none where the engine is not there."""
    try:
        from earshot.train.synthesis import Clip, installed_voices, speak
    except ImportError:
        return []
    voices = [voice for voice in installed_voices()[0] if voice.engine == "flite"]
    if not voices:
        return []
    samples = load_commands([grammar.path]).sample(SPOKEN_SAMPLES, seed=5)
    clips = [
        Clip(sample.text, "command", sample.intent, voices[n % len(voices)])
        for n, sample in enumerate(samples)
    ]
    return [waveform for waveform in speak(clips) if waveform is not None]


def slowdown(
    model: Path, grammar: Grammar, audio: dict[str, list[Samples]], *, rounds: int
) -> list[dict[str, Any]]:
    """How much more CPU time decoding takes with a grammar than without, by kind of audio."""
    free = earshot.Recognizer.load(model)
    guided = earshot.Recognizer.load(model, commands=grammar.path)
    rows = []
    for kind, clips in audio.items():

        def run(
            recognizer: earshot.Recognizer,
            *,
            understand: bool,
            clips: Sequence[Samples] = clips,
        ) -> None:
            for clip in clips:
                stream = recognizer.create_stream()
                stream.accept_waveform(SAMPLE_RATE_HZ, clip)
                stream.input_finished()
                stream.decode()
                if understand:
                    stream.understanding()

        runs = [
            Contestant("free", kind, functools.partial(run, free, understand=False)),
            Contestant("decoding", kind, functools.partial(run, guided, understand=False)),
            Contestant("understanding", kind, functools.partial(run, guided, understand=True)),
        ]
        race(runs, rounds=rounds)
        plain, decoding, understanding = (np.array(each.cpu_s) for each in runs)
        ratios = decoding / plain - 1
        audio_s = sum(map(len, clips)) / SAMPLE_RATE_HZ
        rows.append(
            {
                "grammar": grammar.name,
                "audio": kind,
                "audio_s": round(audio_s, 1),
                "clips": len(clips),
                "rounds": rounds,
                "cpu_rtf_free": float(np.median(plain)) / audio_s,
                "cpu_rtf_grammar": float(np.median(decoding)) / audio_s,
                "slowdown": float(np.median(ratios)),
                "slowdown_p10": float(np.percentile(ratios, 10)),
                "slowdown_p90": float(np.percentile(ratios, 90)),
                "understanding_ms_a_clip": 1e3
                * float(np.median(understanding - decoding))
                / len(clips),
            }
        )
    return rows


def aims(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the project asks of these figures, and whether they keep to it."""
    found: list[tuple[str, float, float]] = []
    for row in report["compiling"]:
        seconds = sum(row[name] for name in TO_FIRST_USE)
        found.append((f"compile and first use, CPU s, {row['grammar']}", seconds, AIM_COMPILE_S))
        found.append((f"added memory MiB, {row['grammar']}", row["added_mib"], AIM_MEMORY_MIB))
    for row in report["slowdown"]:
        found.append((f"slowdown, {row['grammar']}, {row['audio']}", row["slowdown"], AIM_SLOWDOWN))
    return [
        {"what": what, "figure": figure, "aim": aim, "met": figure < aim}
        for what, figure, aim in found
    ]


def print_report(report: dict[str, Any]) -> None:
    """The two tables and the aims."""
    lines: list[tuple[str, ...]] = [
        (
            *("grammar", "sentences", "read CPU s", "compile", "load", "first clip +"),
            *("elapsed s", "peak MiB", "added MiB"),
        )
    ]
    for row in report["compiling"]:
        lines.append(
            (
                row["grammar"],
                f"{row['sentences']:,}",
                *(f"{row[name]:.3f}" for name in (*TO_FIRST_USE, "elapsed_s")),
                *(f"{row[name]:.1f}" for name in ("peak_mib", "added_mib")),
            )
        )
    print_aligned(lines)
    lines = [
        (
            *("grammar", "audio", "s", "CPU RTF free", "with grammar", "slowdown %"),
            *("p10 to p90", "then ms a clip"),
        )
    ]
    for row in report["slowdown"]:
        lines.append(
            (
                row["grammar"],
                row["audio"],
                f"{row['audio_s']:.1f}",
                f"{row['cpu_rtf_free']:.5f}",
                f"{row['cpu_rtf_grammar']:.5f}",
                f"{100 * row['slowdown']:+.1f}",
                f"{100 * row['slowdown_p10']:+.1f} to {100 * row['slowdown_p90']:+.1f}",
                f"{row['understanding_ms_a_clip']:.2f}",
            )
        )
    print()
    print_aligned(lines)
    print()
    for aim in report["aims"]:
        verdict = "met" if aim["met"] else "MISSED"
        print(f"{verdict}: {aim['what']} {aim['figure']:.4g} (aim: under {aim['aim']:g})")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="recordings (default: $EARSHOT_DATA)")
    parser.add_argument("--model", type=Path, help="model file (default: the shipped one)")
    parser.add_argument("--seconds", type=float, default=40.0, help="read speech per round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=5, help="processes that compile each one")
    parser.add_argument("--core", type=int, help="CPU to pin to (default: the last one allowed)")
    parser.add_argument("--json", type=Path, help="also write the JSON object to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark. Returns the exit status."""
    options = arguments(argv)
    model = options.model or default_model()
    core = options.core if options.core is not None else max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    try:
        read, source = test_audio(data_folder(options.data), seconds=options.seconds)
    except SetMissing as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    report: dict[str, Any] = {
        "benchmark": "grammar-size",
        **circumstances([model]),
        "core": core,
        "load_average_at_start": os.getloadavg(),
        "audio": source,
    }
    with tempfile.TemporaryDirectory(prefix="earshot-grammar-") as name:
        grammars = big_grammars(Path(name))
        clip = Path(name) / "clip.npy"
        np.save(clip, np.concatenate(read)[: 3 * SAMPLE_RATE_HZ])
        report["compiling"] = compiling(model, grammars, clip, repeats=options.repeats)
        report["slowdown"] = [
            row
            for grammar in grammars[1:]
            for row in slowdown(model, grammar, _audio(grammar, read), rounds=options.rounds)
        ]
    report["load_average_at_end"] = os.getloadavg()
    report["aims"] = aims(report)
    print_report(report)
    save(options.json, report)
    print(json.dumps(report, ensure_ascii=False))
    return 0


def _audio(grammar: Grammar, read: list[Samples]) -> dict[str, list[Samples]]:
    own = spoken(grammar)
    return {"read speech": read, **({"its own sentences": own} if own else {})}


if __name__ == "__main__":
    raise SystemExit(main())
