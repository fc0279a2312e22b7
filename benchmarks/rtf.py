"""Speed and memory on one core, next to ONNX Runtime running the same network.

    python benchmarks/rtf.py --int8 assistant-en.ear --fp32 assistant-en-fp32.ear
    python benchmarks/rtf.py --two-hours

The process and everything it starts are pinned to one core. Contestants take turns, in another
order each round, and every round runs all of the audio; medians and 10th percentiles are
over rounds. Two clocks are shown: elapsed time, which a busy machine makes longer, and CPU time,
which it hardly does. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from ear_to_onnx import quantise_dynamically, write_onnx
from onnx_runner import OnnxEncoder, OnnxGreedy, one_thread_session
from processes import ColdStart, cold_start, peak_memory_mib, watched
from races import Contestant, race, test_audio
from speech_sets import SAMPLE_RATE_HZ, data_folder
from systems import METHODS, default_model
from wer import circumstances, print_aligned

import earshot
from earshot import _native
from earshot.modelfile.reader import ModelFile

ROOT = Path(__file__).resolve().parents[1]
CHUNK_MS = 100
CHUNK_FRAMES = CHUNK_MS // 10
CHUNK_SAMPLES = SAMPLE_RATE_HZ * CHUNK_MS // 1000
AIMS = {
    "int8 real-time factor": 0.02,
    "fp32 real-time factor": 0.05,
    "cold start s": 0.6,
    "peak memory MiB": 80.0,
    "two-hour growth MiB": 30.0,
    "encoder difference to onnxruntime": 1e-3,
}

Array = npt.NDArray[np.float32]


def recogniser_runs(label: str, model: Path, clips: Sequence[Array]) -> list[Contestant]:
    """The whole of Earshot: samples in, text out, through the Python interface."""

    def whole(recognizer: earshot.Recognizer) -> None:
        for clip in clips:
            recognizer.transcribe(clip, SAMPLE_RATE_HZ)

    def chunked(recognizer: earshot.Recognizer) -> None:
        for clip in clips:
            stream = recognizer.create_stream()
            for start in range(0, len(clip), CHUNK_SAMPLES):
                stream.accept_waveform(SAMPLE_RATE_HZ, clip[start : start + CHUNK_SAMPLES])
                stream.decode()
            stream.input_finished()
            stream.decode()
            stream.result()

    runs = []
    for method in METHODS:
        recognizer = earshot.Recognizer.load(model, method=method)
        for name, function in ((f"{CHUNK_MS} ms chunks", chunked), ("whole file", whole)):
            runs.append(
                Contestant(
                    f"earshot {label}, {method.removesuffix('_search')}, {name}",
                    "recogniser",
                    lambda function=function, recognizer=recognizer: function(recognizer),  # type: ignore[misc]
                )
            )
    return runs


def encoder_runs(label: str, model: _native.Model, features: Sequence[Array]) -> list[Contestant]:
    """Earshot's encoder alone, on features that are there already."""
    graph = model.graph("encoder")

    def whole() -> None:
        for frames in features:
            graph.step(frames, graph.initial_state(), True)

    def chunked() -> None:
        for frames in features:
            state = graph.initial_state()
            for start in range(0, len(frames), CHUNK_FRAMES):
                chunk = frames[start : start + CHUNK_FRAMES]
                graph.step(chunk, state, start + CHUNK_FRAMES >= len(frames))

    return [
        Contestant(f"earshot {label}, {CHUNK_MS} ms chunks", "encoder", chunked),
        Contestant(f"earshot {label}, whole file", "encoder", whole),
    ]


def onnx_encoder_runs(
    label: str, encoder: OnnxEncoder, features: Sequence[Array]
) -> list[Contestant]:
    """ONNX Runtime's encoder on the same features."""

    def whole() -> None:
        for frames in features:
            encoder.whole(frames)

    def chunked() -> None:
        for frames in features:
            encoder.in_chunks(frames, chunk_frames=CHUNK_FRAMES)

    return [
        Contestant(f"onnxruntime {label}, {CHUNK_MS} ms chunks", "encoder", chunked),
        Contestant(f"onnxruntime {label}, whole file", "encoder", whole),
    ]


def onnx_greedy_run(label: str, greedy: OnnxGreedy, clips: Sequence[Array]) -> Contestant:
    """Features, ONNX graphs and a greedy loop in Python."""

    def run() -> None:
        for clip in clips:
            greedy.tokens(greedy.encoder.whole(_native.fbank(clip)))

    return Contestant(f"onnxruntime {label}, greedy in Python, whole file", "recogniser", run)


def agreement(
    model_path: Path, greedy: OnnxGreedy, clips: Sequence[Array], features: Sequence[Array]
) -> dict[str, Any]:
    """How far the two engines' encoders are apart, and on how many clips the tokens agree."""
    model = _native.Model(str(model_path))
    graph = model.graph("encoder")
    recognizer = _native.Recognizer(model, "greedy_search")
    worst, equal = 0.0, 0
    for clip, frames in zip(clips, features, strict=True):
        ours = graph.step(frames, graph.initial_state(), True)["encoder_out"]
        theirs = greedy.encoder.whole(frames)
        if ours.shape != theirs.shape:
            raise SystemExit(
                f"error: encoder outputs are {ours.shape} and {theirs.shape}; they must agree"
            )
        worst = max(worst, float(np.abs(ours - theirs).max()))
        stream = recognizer.create_stream()
        stream.accept_waveform(clip)
        stream.input_finished()
        recognizer.decode_streams([stream])
        equal += stream.result()["tokens"] == greedy.tokens(theirs)
    return {
        "max_abs_difference": worst,
        "clips_with_equal_tokens": equal,
        "clips": len(clips),
    }


def speed(options: argparse.Namespace, clips: Sequence[Array], folder: Path) -> dict[str, Any]:
    """Real-time factors of everything, and agreement with ONNX Runtime."""
    features = [_native.fbank(clip) for clip in clips]
    audio_s = sum(map(len, clips)) / SAMPLE_RATE_HZ
    contestants: list[Contestant] = []
    report: dict[str, Any] = {"audio_s": round(audio_s, 2), "clips": len(clips)}
    for label, path in (("int8", options.int8), ("fp32", options.fp32)):
        if path is not None:
            contestants += recogniser_runs(label, path, clips)
            contestants += encoder_runs(label, _native.Model(str(path)), features)
    exact = options.fp32 if options.fp32 is not None else options.int8
    graphs = write_onnx(exact, folder)
    header: Any = ModelFile(exact).header
    for label, paths in (("fp32", graphs), ("int8", quantise_dynamically(graphs, folder))):
        encoder = OnnxEncoder(paths["encoder"])
        contestants += onnx_encoder_runs(label, encoder, features)
        if header["search"]["predictor"] == "stateless":
            predictor, joiner = (one_thread_session(paths[g]) for g in ("decoder", "joiner"))
            greedy = OnnxGreedy(encoder, predictor, joiner, header["search"])
            contestants.append(onnx_greedy_run(label, greedy, clips))
            if label == "fp32" and options.fp32 is not None:
                report["agreement_fp32"] = agreement(options.fp32, greedy, clips, features)
    race(contestants, rounds=options.rounds)
    report["rows"] = [contestant.row(audio_s) for contestant in contestants]
    return report


def print_speed(report: dict[str, Any]) -> None:
    """The table of real-time factors."""
    lines: list[tuple[str, ...]] = [
        ("part", "contestant", "RTF median", "RTF p10", "CPU median", "CPU p10")
    ]
    for row in sorted(report["rows"], key=lambda r: (r["part"], r["contestant"])):
        figures = ("rtf_median", "rtf_p10", "cpu_rtf_median", "cpu_rtf_p10")
        lines.append(
            (row["part"], row["contestant"], *(f"{row[figure]:.5f}" for figure in figures))
        )
    print_aligned(lines)
    if "agreement_fp32" in report:
        same = report["agreement_fp32"]
        print(
            f"\nfp32 encoder against onnxruntime: {same['max_abs_difference']:.2e} largest "
            f"absolute difference; equal tokens on {same['clips_with_equal_tokens']} "
            f"of {same['clips']} clips"
        )


def starts(model: Path, clip: Path, onnx_folder: Path, *, repeats: int) -> list[dict[str, Any]]:
    """Cold start and peak memory of a 3 s clip: command, Python, ONNX Runtime, bare Python."""
    cli = ["transcribe", str(clip), "--model", str(model)]
    python = (
        "import earshot\n"
        f"r = earshot.Recognizer.load({str(model)!r})\n"
        f"print(r.transcribe_file({str(clip)!r}).text, flush=True)\n"
    )
    # The encoder only: what a program around ONNX Runtime pays before its first frame.
    onnx = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import soundfile\n"
        "from pathlib import Path\n"
        "from earshot import _native\n"
        "from onnx_runner import OnnxEncoder\n"
        f"e = OnnxEncoder(Path({str(onnx_folder / 'encoder.int8.onnx')!r}))\n"
        f"x, _ = soundfile.read({str(clip)!r}, dtype='float32')\n"
        "print(e.whole(_native.fbank(x)).shape, flush=True)\n"
    )
    commands: dict[str, tuple[list[str], str]] = {
        "earshot transcribe": (
            ["-m", "earshot.cli", *cli],
            f"sys.argv = {['earshot', *cli]!r}\nfrom earshot.cli.app import main\nmain()\n",
        ),
        "earshot in Python": (["-c", python], python),
        "onnxruntime int8, encoder only": (["-c", onnx], onnx),
        "python alone": (["-c", "print('started', flush=True)"], "pass\n"),
    }
    noted = {name: ColdStart() for name in commands}
    for arguments, _ in commands.values():
        cold_start([sys.executable, *arguments], ColdStart())  # fills the file cache; not counted
    for number in range(repeats):
        for turn in range(len(commands)):
            name = list(commands)[(turn + number) % len(commands)]
            cold_start([sys.executable, *commands[name][0]], noted[name])
    rows = []
    for name, (_, code) in commands.items():
        times = noted[name]
        rows.append(
            {
                "what": name,
                "repeats": repeats,
                "cold_start_s_median": float(np.median(times.wall_s)),
                "cold_start_s_p10": float(np.percentile(times.wall_s, 10)),
                "cold_start_s_p90": float(np.percentile(times.wall_s, 90)),
                "cpu_s_median": float(np.median(times.cpu_s)),
                "peak_memory_mib": max(peak_memory_mib(code) for _ in range(3)),
                "output": times.output[:80],
            }
        )
    return rows


def print_starts(rows: Sequence[dict[str, Any]]) -> None:
    """The table of cold starts."""
    lines: list[tuple[str, ...]] = [
        ("3 s clip", "cold start s, median", "p10", "p90", "CPU s", "peak MiB", "output")
    ]
    for row in rows:
        lines.append(
            (
                row["what"],
                f"{row['cold_start_s_median']:.3f}",
                f"{row['cold_start_s_p10']:.3f}",
                f"{row['cold_start_s_p90']:.3f}",
                f"{row['cpu_s_median']:.3f}",
                f"{row['peak_memory_mib']:.1f}",
                row["output"][:40],
            )
        )
    print()
    print_aligned(lines)


def write_long(path: Path, clips: Sequence[Array], *, seconds: float) -> None:
    """A long WAV: clips in turn with two seconds of quiet noise between them."""
    rng = np.random.default_rng(7)
    left = round(seconds * SAMPLE_RATE_HZ)
    number = 0
    with soundfile.SoundFile(
        path, "w", samplerate=SAMPLE_RATE_HZ, channels=1, subtype="PCM_16"
    ) as file:
        while left:
            gap = rng.standard_normal(2 * SAMPLE_RATE_HZ).astype(np.float32) * 1e-3
            piece = np.concatenate([clips[number % len(clips)], gap])[:left]
            file.write(np.clip(piece, -1.0, 1.0))
            left -= len(piece)
            number += 1


def long_file(model: Path, clips: Sequence[Array], folder: Path) -> list[dict[str, Any]]:
    """Memory over two hours of audio against two minutes, through the command and Python."""
    paths = {hours: folder / f"{hours}.wav" for hours in ("short", "long")}
    write_long(paths["short"], clips, seconds=120.0)
    write_long(paths["long"], clips, seconds=7200.0)

    def command(path: Path) -> str:
        arguments = ["earshot", "transcribe", str(path), "--model", str(model)]
        return f"sys.argv = {arguments!r}\nfrom earshot.cli.app import main\nmain()\n"

    def python(path: Path) -> str:
        return (
            "import earshot, soundfile\n"
            f"r = earshot.Recognizer.load({str(model)!r})\n"
            "s = r.create_stream()\n"
            f"for block in soundfile.blocks({str(path)!r}, {CHUNK_SAMPLES}, dtype='float32'):\n"
            f"    s.accept_waveform({SAMPLE_RATE_HZ}, block)\n"
            "    s.decode()\n"
            "s.input_finished()\n"
            "s.decode()\n"
            "print(len(s.result().words))\n"
        )

    rows = []
    for name, code in (
        ("earshot transcribe", command),
        (f"Python stream, {CHUNK_MS} ms chunks", python),
    ):
        short_mib, _, _ = watched(code(paths["short"]))
        long_mib, wall_s, seen = watched(code(paths["long"]))
        rows.append(
            {
                "what": name,
                "two_minutes_peak_mib": short_mib,
                "two_hours_peak_mib": long_mib,
                "growth_mib": long_mib - short_mib,
                "wall_s": wall_s,
                "rss_mib_over_time": [round(v, 1) for v in seen[:: max(1, len(seen) // 20)]],
            }
        )
    return rows


def print_long(rows: Sequence[dict[str, Any]]) -> None:
    """The table of memory over two hours."""
    lines: list[tuple[str, ...]] = [
        ("two hours of audio", "peak MiB, 2 min", "peak MiB, 2 h", "growth MiB", "wall s")
    ]
    for row in rows:
        lines.append(
            (
                row["what"],
                f"{row['two_minutes_peak_mib']:.1f}",
                f"{row['two_hours_peak_mib']:.1f}",
                f"{row['growth_mib']:.1f}",
                f"{row['wall_s']:.0f}",
            )
        )
    print()
    print_aligned(lines)


def aims(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the project asks of these figures, and whether they keep to it."""
    found: dict[str, float] = {}
    for label in ("int8", "fp32"):
        factors = [
            row["rtf_median"]
            for row in report.get("speed", {}).get("rows", [])
            if row["part"] == "recogniser" and row["contestant"].startswith(f"earshot {label}")
        ]
        if factors:
            found[f"{label} real-time factor"] = max(factors)  # the slowest way to run it
    for row in report.get("starts", []):
        if row["what"].startswith("earshot"):
            for key, figure in (
                ("cold start s", "cold_start_s_median"),
                ("peak memory MiB", "peak_memory_mib"),
            ):
                found[key] = max(found.get(key, 0.0), row[figure])
    for row in report.get("two_hours", []):
        key = "two-hour growth MiB"
        found[key] = max(found.get(key, -np.inf), row["growth_mib"])
    if "agreement_fp32" in report.get("speed", {}):
        difference = report["speed"]["agreement_fp32"]["max_abs_difference"]
        found["encoder difference to onnxruntime"] = difference
    return [
        {"what": what, "figure": figure, "aim": AIMS[what], "met": figure < AIMS[what]}
        for what, figure in found.items()
    ]


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--int8", type=Path, help="int8 model file (default: the shipped one)")
    parser.add_argument("--fp32", type=Path, help="the same model in fp32, where there is one")
    parser.add_argument("--data", type=Path, help="recordings (default: $EARSHOT_DATA)")
    parser.add_argument("--seconds", type=float, default=60.0, help="audio per round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=15, help="cold starts of each command")
    parser.add_argument("--core", type=int, help="CPU to pin to (default: the last one allowed)")
    parser.add_argument("--two-hours", action="store_true", help="only the two-hour memory check")
    parser.add_argument("--json", type=Path, help="also write the JSON object to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark. Returns the exit status."""
    options = arguments(argv)
    options.int8 = options.int8 or default_model()
    core = options.core if options.core is not None else max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    clips, source = test_audio(data_folder(options.data), seconds=options.seconds)
    models = [path for path in (options.int8, options.fp32) if path is not None]
    report: dict[str, Any] = {
        "benchmark": "rtf",
        **circumstances(models),
        "core": core,
        "audio": source,
        "load_average_at_start": os.getloadavg(),
        "nice": os.nice(0),
    }
    with tempfile.TemporaryDirectory(prefix="earshot-rtf-") as name:
        folder = Path(name)
        if options.two_hours:
            report["two_hours"] = long_file(options.int8, clips, folder)
            print_long(report["two_hours"])
        else:
            report["speed"] = speed(options, clips, folder)
            print_speed(report["speed"])
            clip = folder / "three-seconds.wav"
            three = np.concatenate(clips)[: 3 * SAMPLE_RATE_HZ]
            soundfile.write(clip, three, SAMPLE_RATE_HZ, subtype="PCM_16")
            report["starts"] = starts(options.int8, clip, folder, repeats=options.repeats)
            print_starts(report["starts"])
    report["load_average_at_end"] = os.getloadavg()
    report["aims"] = aims(report)
    print()
    for aim in report["aims"]:
        verdict = "met" if aim["met"] else "MISSED"
        print(f"{verdict}: {aim['what']} {aim['figure']:.4g} (aim: under {aim['aim']:g})")
    text = json.dumps(report, ensure_ascii=False)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
