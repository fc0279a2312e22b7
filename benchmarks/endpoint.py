"""When utterances are ended: cut-offs against latency, speculation, and what it gains.

    python benchmarks/endpoint.py --plots docs/images
    python benchmarks/endpoint.py --sets digits --count 60
    python benchmarks/endpoint.py --align

Coffee orders and digit strings, each with three and a half seconds of room noise behind it, are
heard by: the three rules alone; the decoder's view without the end-of-query head; everything, as
the model's file says; and Silero VAD. No setting was chosen with these recordings. An utterance is
cut off where its first final comes before its speech ends; latencies are of the others, in audio
time: computing is not in them. Speculation is measured with the real event stream, at the model's
settings. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from endpoint_sets import ENDS, EndedClip, align_coffee, ended_coffee, ended_digits
from silero import SileroMissing, SileroVad, first_end_s
from speech_sets import SetMissing, data_folder
from systems import default_model
from wer import circumstances, print_aligned, progress

from earshot import Recognizer
from earshot.core.events import Final, SpeculationCancelled, SpeculativeEndpoint, SpeechStarted
from earshot.data.atomic import replaced_file
from earshot.decode.endpoint import EndpointConfig
from earshot.session.endpoint_plot import Curve, curves_svg
from earshot.session.endpoint_tuning import (
    EndpointFigures,
    Trace,
    TracedClip,
    evaluate,
    record_traces,
    trade_off,
)

ROOT = Path(__file__).resolve().parents[1]
COFFEE = ROOT / "examples" / "coffee.yaml"
FIVE_DIGITS = ROOT / "benchmarks" / "grammars" / "five_digits.yaml"
SILENCES_S = (0.1, 0.16, 0.2, 0.26, 0.32, 0.39, 0.45, 0.52, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.6)
RESAMPLES = 2000

Figures = dict[str, Any]


def sets(options: argparse.Namespace, data: Path) -> dict[str, tuple[str, Path | None, Any]]:
    """Name to (title, grammar, clips)."""
    count = options.count
    return {
        "coffee": (
            "coffee orders, grammar",
            COFFEE,
            lambda: list(ended_coffee(data))[: count or None],
        ),
        "coffee-free": (
            "coffee orders, free speech",
            None,
            lambda: list(ended_coffee(data))[: count or None],
        ),
        "digits": (
            "digit strings, pauses up to 0.4 s",
            None,
            lambda: list(ended_digits(data, count=count or 200)),
        ),
        "five-digits": (
            "codes of five digits, grammar, pauses up to 1 s",
            FIVE_DIGITS,
            lambda: list(
                ended_digits(data, count=count or 200, seed=7, longest_pause_s=1.0, digits=5)
            ),
        ),
    }


def measure(
    clips: Sequence[EndedClip], grammar: Path | None, model: Path, vad: SileroVad | None, name: str
) -> Figures:
    """All systems on one set."""
    recognizer = Recognizer.load(model, commands=grammar)
    config = recognizer.endpoint_config()
    traces = record_traces(
        recognizer,
        [TracedClip(clip.id, clip.samples, clip.end_s) for clip in clips],
        progress=lambda done: progress(f"{name}: {done}/{len(clips)} heard"),
    )
    plain = replace(config, use_head=False, use_grammar=False)
    decoder = replace(
        EndpointConfig(), use_head=False, use_grammar=grammar is not None, speculation=False
    )
    curves: dict[str, list[tuple[float, EndpointFigures]]] = {
        "everything": trade_off(traces, config),
        "decoder's view": trade_off(traces, decoder),
        "rules alone": trade_off(traces, plain, rules_only=True),
    }
    if vad is not None:
        curves["Silero VAD"] = _silero_curve(clips, vad, name)
    progress(None)
    return {
        "clips": len(clips),
        "aligned": sum(clip.aligned for clip in clips),
        "heard": sum(bool(trace.frames) for trace in traces),
        "operating_point": evaluate(traces, config).as_dict(),
        "curves": {
            system: [{"setting": setting, **figures.as_dict()} for setting, figures in rows]
            for system, rows in curves.items()
        },
        "at_two_percent": {system: _at(rows, 0.02) for system, rows in curves.items()},
        "at_five_percent": {system: _at(rows, 0.05) for system, rows in curves.items()},
        "speculation": speculation(recognizer, clips, traces, grammar is not None),
    }


def _silero_curve(
    clips: Sequence[EndedClip], vad: SileroVad, name: str
) -> list[tuple[float, EndpointFigures]]:
    heard = []
    for n, clip in enumerate(clips):
        heard.append(vad.speech(clip.samples))
        if n % 20 == 0:
            progress(f"{name}: Silero VAD {n}/{len(clips)}")
    rows = []
    for silence_s in SILENCES_S:
        ends = [first_end_s(speech, silence_s=silence_s) for speech in heard]
        late = [end - clip.end_s for end, clip in zip(ends, clips, strict=True) if end is not None]
        in_time = [each for each in late if each >= 0]
        rows.append(
            (
                silence_s,
                EndpointFigures(
                    clips=len(clips),
                    cut_off=sum(each < 0 for each in late) / len(clips),
                    missed=(len(clips) - len(late)) / len(clips),
                    latency_s=float(np.median(in_time)) if in_time else float("nan"),
                    latency_p90_s=float(np.quantile(in_time, 0.9)) if in_time else float("nan"),
                    speculative_s=float("nan"),
                    lead_s=float("nan"),
                    withdrawn=0.0,
                ),
            )
        )
    return rows


def _at(rows: Sequence[tuple[float, EndpointFigures]], limit: float) -> float | None:
    """Least median latency among settings that cut off no more than so many."""
    fitting = [f.latency_s for _, f in rows if f.cut_off <= limit and np.isfinite(f.latency_s)]
    return round(min(fitting), 4) if fitting else None


def speculation(
    recognizer: Recognizer,
    clips: Sequence[EndedClip],
    traces: Sequence[Trace],
    with_grammar: bool,
) -> Figures:
    """What the real stream does at the model's settings, with 95 % intervals over clips."""
    made, withdrawn, rows = 0, 0, []
    for first in range(0, len(clips), 16):
        batch = clips[first : first + 16]
        streams = []
        for clip in batch:
            stream = recognizer.create_event_stream()
            stream.accept_waveform(16_000, clip.samples)
            stream.input_finished()
            streams.append(stream)
        for clip, events in zip(batch, recognizer.decode_event_streams(streams), strict=True):
            finals = [event for event in events if isinstance(event, Final)]
            if not finals:
                continue
            final = finals[0]
            own = [
                event
                for event in events
                if not isinstance(event, SpeechStarted) and event.utterance == final.utterance
            ]
            spoken = {e.spec_id: e for e in own if isinstance(e, SpeculativeEndpoint)}
            made += len(spoken)
            withdrawn += sum(isinstance(e, SpeculationCancelled) for e in own)
            standing = spoken.get(final.spec_id or "")
            right = with_grammar and (
                final.intent == (clip.intent or "enterCode")
                and _values(final) == (clip.slots if clip.intent else _digit_slots(clip))
            )
            rows.append((final, standing, clip, right))
        progress(f"speculation: {first + len(batch)}/{len(clips)}")
    progress(None)
    in_time = [row for row in rows if row[0].t_s >= row[2].end_s]
    leads = [f.t_s - s.t_s for f, s, _, _ in in_time if s is not None]
    without = [f.t_s - clip.end_s for f, _, clip, _ in in_time]
    # A speculation that turns out wrong is worth nothing: its final is what counts.
    with_it = [
        (s.t_s if s is not None and f.matched else f.t_s) - clip.end_s for f, s, clip, _ in in_time
    ]
    gains = [a - b for a, b in zip(without, with_it, strict=True)]
    return {
        "utterances": len(rows),
        "cut_off": _interval([float(f.t_s < c.end_s) for f, _, c, _ in rows], np.mean),
        "final_latency_s": _interval(without, np.median),
        "final_latency_p90_s": round(float(np.quantile(without, 0.9)), 4) if without else None,
        "lead_s": _interval(leads, np.median),
        "standing": _interval([float(s is not None) for _, s, _, _ in in_time], np.mean),
        "matched": _interval([float(f.matched) for f, s, _, _ in in_time if s], np.mean),
        "made": made,
        "withdrawn": withdrawn,
        "withdrawn_share": round(withdrawn / max(made, 1), 4),
        "perceived_without_s": _interval(without, np.median),
        "perceived_with_s": _interval(with_it, np.median),
        "gain_s": _interval(gains, np.median),
        "mean_gain_s": _interval(gains, np.mean),
        "understood": _interval([float(r) for *_, r in rows], np.mean) if with_grammar else None,
    }


def _values(final: Final) -> dict[str, object]:
    return {name: slot.value for name, slot in final.slots.items()}


def _digit_slots(clip: EndedClip) -> dict[str, object]:
    digits = str((clip.slots or {})["digits"]).split()
    return {f"digit_{n}": digit for n, digit in enumerate(digits, 1)}


def _interval(values: Sequence[float], of: Callable[[Any], Any]) -> dict[str, float | int | None]:
    if not values:
        return {"n": 0, "value": None, "low": None, "high": None}
    rng = np.random.default_rng(0)
    array = np.asarray(values)
    draws = [of(rng.choice(array, len(array))) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, (0.025, 0.975))
    return {
        "n": len(values),
        "value": round(float(of(array)), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def _print(name: str, title: str, found: Figures) -> None:
    print(f"\n{name}: {title}; {found['heard']} of {found['clips']} heard")
    rows = [["system", "latency at 2 % cut off", "at 5 %"]]
    for system in found["curves"]:
        rows.append(
            [
                system,
                *(
                    "-" if found[key][system] is None else f"{1000 * found[key][system]:.0f} ms"
                    for key in ("at_two_percent", "at_five_percent")
                ),
            ]
        )
    print_aligned(rows)
    told = found["speculation"]
    for key, value in told.items():
        if isinstance(value, dict) and value["value"] is not None:
            print(f"  {key:22} {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
        elif not isinstance(value, dict):
            print(f"  {key:22} {value}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the recordings")
    parser.add_argument("--model", type=Path, help="a .ear file with an end-of-query head")
    parser.add_argument(
        "--sets", nargs="+", default=["coffee", "coffee-free", "digits", "five-digits"]
    )
    parser.add_argument("--count", type=int, default=0, help="clips of each set; 0: all")
    parser.add_argument("--plots", type=Path, help="folder for one SVG a set")
    parser.add_argument(
        "--align", action="store_true", help="find the ends of the coffee orders again, and stop"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    try:
        data = data_folder(options.data)
    except SetMissing as err:
        print(err, file=sys.stderr)
        return 1
    model = options.model or default_model()
    if options.align:
        ends = align_coffee(data, COFFEE, model)
        rows = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in ends.items())
        ENDS.write_text("{\n" + rows + "\n}\n", encoding="utf-8")
        print(json.dumps({"clips": len(ends), "aligned": sum(a for _, a in ends.values())}))
        return 0
    try:
        vad = SileroVad()
    except SileroMissing as err:
        print(f"Silero VAD is left out: {err}", file=sys.stderr)
        vad = None
    report: dict[str, Any] = {**circumstances([model]), "sets": {}}
    known = sets(options, data)
    for name in options.sets:
        if name not in known:
            print(f"no set '{name}'; there are {', '.join(known)}", file=sys.stderr)
            return 2
        title, grammar, make = known[name]
        found = measure(make(), grammar, model, vad, name)
        report["sets"][name] = found
        _print(name, title, found)
        if options.plots is not None:
            _plot(options.plots / f"endpoint-{name}.svg", title, found)
    print(json.dumps(report))
    return 0


def _plot(path: Path, title: str, found: Figures) -> None:
    here = found["operating_point"]
    curves = []
    for system, rows in found["curves"].items():
        points = tuple(
            (row["cut_off"], row["latency_s"]) for row in rows if np.isfinite(row["latency_s"])
        )
        at = (here["cut_off"], here["latency_s"]) if system == "everything" else None
        curves.append(Curve(system, points, at))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        file.write(curves_svg(curves, title=title).encode())


if __name__ == "__main__":
    sys.exit(main())
