"""Whole recognisers: Earshot's engine against sherpa-onnx running the same network.

    python benchmarks/sherpa_race.py [MODEL.ear] [--chunk-frames 32] [--repeats 9]

sherpa-onnx gets the export of the very same model file (zeros included: dense for it), as float32
and with onnxruntime's int8 weights; the better of the two counts. Every run is a fresh process
of a small C program over the C interfaces (`stream_race.c`, compiled here), and beside it of
Python (`stream_race.py`); contestants take turns. Both engines are fed the same clips in chunks
of the export's length, one stream a clip, one thread. Measured are CPU seconds between the first
sample and the last text, the peak of resident memory, and elapsed time from process start to the
transcript of one short command, with the files in the system's cache. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from processes import ColdStart, cold_start
from races import test_audio
from speech_sets import SAMPLE_RATE_HZ, data_folder, read_clip
from systems import default_model
from wer import circumstances, print_aligned

from earshot.compress.sherpa import export_sherpa_onnx
from earshot.data.scoring import WordCounts, count_words

__all__ = ["race_sherpa"]

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ROOT / "examples" / "turn-on-the-lights.flac"  # what a cold start transcribes
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // 100
GREEDY, BEAM = "greedy_search", "modified_beam_search"

Samples = npt.NDArray[np.float32]


@dataclass(slots=True)
class Entrant:
    """One engine with one model, run by one kind of program."""

    engine: str  # "earshot", "sherpa-onnx fp32" or "sherpa-onnx int8"
    host: str  # "C" or "Python"
    method: str
    command: list[str]  # without method, chunk and clips
    model: list[str]
    cpu_s: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    cold: ColdStart = field(default_factory=ColdStart)
    texts: list[str] = field(default_factory=list)

    def run(self, long: Path, short: Path, *, chunk_samples: int) -> None:
        """One process over all clips, and one over a single clip."""
        settings = [*self.command, self.method, str(chunk_samples)]
        whole = ColdStart()
        cold_start([*settings, str(long), *self.model], whole)
        *self.texts, last = whole.output.split("\n")
        cost = json.loads(last)
        self.cpu_s.append(cost["cpu_s"])
        self.peak_mib.append(cost["peak_kib"] / 1024)
        cold_start([*settings, str(short), *self.model], self.cold)

    def row(self, audio_s: float) -> dict[str, Any]:
        """Medians, as they go into the JSON object."""
        return {
            "engine": self.engine,
            "host": self.host,
            "method": self.method,
            "runs": len(self.cpu_s),
            "cpu_s_per_audio_s": float(np.median(self.cpu_s)) / audio_s,
            "cpu_s_per_audio_s_p10": float(np.percentile(self.cpu_s, 10)) / audio_s,
            "peak_mib": float(np.median(self.peak_mib)),
            "cold_s": float(np.median(self.cold.wall_s)),
            "cold_s_p10": float(np.percentile(self.cold.wall_s, 10)),
            "cold_cpu_s": float(np.median(self.cold.cpu_s)),
        }


def write_clips(path: Path, clips: Sequence[Samples], *, chunk_frames: int) -> float:
    """Write clips for `stream_race`, each with the silence that sherpa-onnx needs behind it.

    Args:
        path: The file to make.
        clips: 16 kHz samples in [-1, 1].
        chunk_frames: Of the export: sherpa-onnx hears whole chunks only.

    Returns:
        Seconds of audio, silence included: both engines hear it.
    """
    total = 0
    with path.open("wb") as file:
        for clip in clips:
            silence = np.zeros((chunk_frames + 1) * SAMPLES_PER_FRAME, dtype=np.float32)
            heard = np.clip(np.concatenate([clip, silence]), -1.0, 1.0)
            pcm = np.round(heard * 32767.0).astype(np.int16)
            file.write(np.uint32(len(pcm)).tobytes() + pcm.tobytes())
            total += len(pcm)
    return total / SAMPLE_RATE_HZ


def sherpa_folder() -> Path:
    """The installed sherpa-onnx package.

    Raises:
        SystemExit: It is not installed.
    """
    found = importlib.util.find_spec("sherpa_onnx")
    if found is None or found.origin is None:
        raise SystemExit("error: sherpa-onnx is not installed. Run `pip install 'earshot[peers]'`")
    return Path(found.origin).parent


def compile_commands(folder: Path) -> dict[str, list[str]]:
    """How `stream_race.c` is compiled for both engines.

    Args:
        folder: For the programs, `stream_race.<engine>`.

    Returns:
        Command by engine; `earshot` wants `build/c_api` to hold the engine's library.
    """
    wheel = sherpa_folder()
    parts: dict[str, tuple[list[str], Path, Path, list[str]]] = {
        "earshot": ([], ROOT / "native" / "include", ROOT / "build" / "c_api", ["earshot"]),
        "sherpa-onnx": (
            ["-DWITH_SHERPA"],
            wheel / "include",
            wheel / "lib",
            ["sherpa-onnx-c-api", "onnxruntime"],
        ),
    }
    source = str(Path(__file__).with_name("stream_race.c"))
    return {
        engine: [
            *(os.environ.get("CC", "cc"), "-O2", source, "-o", f"{folder}/stream_race.{engine}"),
            *(*defines, f"-I{include}", f"-L{library}", f"-Wl,-rpath,{library}"),
            *(f"-l{name}" for name in names),
        ]
        for engine, (defines, include, library, names) in parts.items()
    }


def compiled_hosts(folder: Path) -> tuple[dict[str, list[str]], str]:
    """Compile `stream_race.c` for both engines, and the engine's library in `build/c_api`.

    Args:
        folder: For the programs.

    Returns:
        Command by engine, and "" or the reason why there is none.
    """
    compilers = compile_commands(folder)
    if not (sherpa_folder() / "include" / "sherpa-onnx" / "c-api" / "c-api.h").is_file():
        return {}, "this sherpa-onnx comes without its C interface"
    for tool in (compilers["earshot"][0], "cmake"):
        if shutil.which(tool) is None:
            return {}, f"{tool} is not installed"
    build = str(ROOT / "build" / "c_api")
    settings = ["-DCMAKE_BUILD_TYPE=Release", "-DEARSHOT_PYTHON=OFF", "-DEARSHOT_BUILD_C_API=ON"]
    commands = [
        ["cmake", "-S", str(ROOT), "-B", build, *settings],
        ["cmake", "--build", build, "--target", "earshot", "-j1"],
        *compilers.values(),
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return {}, f"`{' '.join(command[:3])} ...` failed: {done.stderr.strip()[-300:]}"
    return {engine: [f"{folder}/stream_race.{engine}"] for engine in compilers}, ""


def race_sherpa(
    model: Path,
    clips: Sequence[Samples],
    *,
    repeats: int = 9,
    chunk_frames: int = 32,
    python: bool = True,
) -> dict[str, Any]:
    """Measure both engines in turns.

    Args:
        model: The `.ear` file that Earshot runs, and whose export sherpa-onnx runs.
        clips: 16 kHz samples in [-1, 1], for CPU time and memory.
        repeats: Processes of every entrant and kind.
        chunk_frames: Frames of 10 ms that both engines get at a time, a multiple of 4.
        python: Race the Python interfaces, too; else only where nothing could be compiled.

    Returns:
        `sherpa_cpu_ratio, sherpa_rss_ratio, sherpa_cold_ratio` (theirs over ours, greedy search, by
        the C interfaces, or by Python where nothing could be compiled), the same by other hosts
        and methods under `ratios`, every entrant under `rows`, and under `words_otherwise` the
        share of words that both engines do not hear alike.

    Raises:
        SystemExit: sherpa-onnx is not installed, or a run failed.
    """
    with tempfile.TemporaryDirectory(prefix="earshot-sherpa-") as name:
        folder = Path(name)
        files = export_sherpa_onnx(model, folder, chunk_frames=chunk_frames, int8=True)
        long, short = folder / "long.clips", folder / "short.clips"
        audio_s = write_clips(long, clips, chunk_frames=chunk_frames)
        write_clips(short, [read_clip(COMMAND)], chunk_frames=chunk_frames)
        hosts, reason = compiled_hosts(folder)
        entrants = _entrants(model, files, hosts, python=python or not hosts)
        samples = chunk_frames * SAMPLES_PER_FRAME
        for number in range(repeats + 1):
            for turn in range(len(entrants)):
                entrant = entrants[(turn + number) % len(entrants)]
                entrant.run(long, short, chunk_samples=samples)
            if number == 0:  # filled the file cache; not counted
                for entrant in entrants:
                    entrant.cpu_s, entrant.peak_mib, entrant.cold = [], [], ColdStart()
    ratios = {
        f"{host}, {method}": _ratios([e for e in entrants if (e.host, e.method) == (host, method)])
        for host, method in dict.fromkeys((e.host, e.method) for e in entrants)
    }
    headline = next(iter(ratios.values()))
    ours, fp32 = entrants[0], entrants[1]
    return {
        **{f"sherpa_{what}_ratio": headline[what] for what in ("cpu", "rss", "cold")},
        "ratios": ratios,
        "without_C_because": reason,
        "rows": [entrant.row(audio_s) for entrant in entrants],
        "clips": len(clips),
        "words_otherwise": _otherwise(ours, fp32),
        "audio_s": round(audio_s, 2),
        "chunk_frames": chunk_frames,
    }


def _entrants(
    model: Path, files: dict[str, Path], hosts: dict[str, list[str]], *, python: bool
) -> list[Entrant]:
    programs: list[tuple[str, str, dict[str, list[str]]]] = []
    if hosts:
        programs += [("C", GREEDY, hosts), ("C", BEAM, hosts)]
    if python:
        command = [sys.executable, str(Path(__file__).with_name("stream_race.py"))]
        programs.append(("Python", GREEDY, {"earshot": command, "sherpa-onnx": command}))
    entrants = []
    for host, method, commands in programs:
        entrants.append(Entrant("earshot", host, method, commands["earshot"], [str(model)]))
        for label, ending in (("fp32", ""), ("int8", ".int8")):
            parts = [str(files[f"{part}{ending}"]) for part in ("encoder", "decoder", "joiner")]
            engine = f"sherpa-onnx {label}"
            command = commands["sherpa-onnx"]
            entrants.append(Entrant(engine, host, method, command, [*parts, str(files["tokens"])]))
    return entrants


def _otherwise(ours: Entrant, theirs: Entrant) -> float:
    """Word error rate of one transcript against the other: eight bits or float, and rounding."""
    counts = [count_words(b, a) for a, b in zip(ours.texts, theirs.texts, strict=True)]
    return sum(counts, WordCounts()).wer


def _ratios(entrants: Sequence[Entrant]) -> dict[str, float]:
    ours, *theirs = (entrant.row(1.0) for entrant in entrants)
    return {
        what: min(row[figure] for row in theirs) / ours[figure]
        for what, figure in (
            ("cpu", "cpu_s_per_audio_s"),
            ("rss", "peak_mib"),
            ("cold", "cold_s"),
            ("cold_cpu", "cold_cpu_s"),
        )
    }


def print_race(report: dict[str, Any]) -> None:
    """The table, and what the better of theirs needs over ours."""
    lines: list[tuple[str, ...]] = [
        ("host", "search", "engine", "CPU ms per s", "p10", "peak MiB", "cold ms", "p10", "CPU ms")
    ]
    for row in report["rows"]:
        figures = ("cpu_s_per_audio_s", "cpu_s_per_audio_s_p10", "peak_mib")
        figures += ("cold_s", "cold_s_p10", "cold_cpu_s")
        scaled = [row[f] if f == "peak_mib" else 1e3 * row[f] for f in figures]
        names = (row["host"], row["method"].removesuffix("_search"), row["engine"])
        lines.append((*names, *(f"{value:.2f}" for value in scaled)))
    print_aligned(lines)
    print()
    for where, ratio in report["ratios"].items():
        print(
            f"{where}: {ratio['cpu']:.2f}x CPU, {ratio['rss']:.2f}x memory, "
            f"{ratio['cold']:.2f}x cold start ({ratio['cold_cpu']:.2f}x of its CPU time)"
        )
    print(
        f"{100 * report['words_otherwise']:.1f} % of words are heard otherwise than by sherpa-onnx "
        "fp32"
    )


@contextlib.contextmanager
def one_core(core: int | None) -> Iterator[int]:
    """Pin this process and those it starts to one core, for a while."""
    before = os.sched_getaffinity(0)
    chosen = core if core is not None else max(before)
    os.sched_setaffinity(0, {chosen})
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", help=".ear file (default: the shipped one)")
    parser.add_argument("--data", type=Path, help="recordings (default: $EARSHOT_DATA)")
    parser.add_argument("--seconds", type=float, default=60.0, help="audio per run")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--chunk-frames", type=int, default=32, help="10 ms frames at a time")
    parser.add_argument("--core", type=int, help="CPU to pin to (default: the last one allowed)")
    parser.add_argument("--json", type=Path, help="also write the JSON object to this file")
    options = parser.parse_args(argv)
    model = options.model or default_model()
    clips, source = test_audio(data_folder(options.data), seconds=options.seconds)
    report: dict[str, Any] = {"benchmark": "sherpa_race", **circumstances([model])}
    report |= {"audio": source, "load_average_at_start": os.getloadavg()}
    with one_core(options.core) as report["core"]:
        report |= race_sherpa(
            model, clips, repeats=options.repeats, chunk_frames=options.chunk_frames
        )
    report["load_average_at_end"] = os.getloadavg()
    print_race(report)
    text = json.dumps(report, ensure_ascii=False)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
