"""What settings of the speculative end-pointer cost, on development data only.

    python benchmarks/calibrate_endpoints.py

Commands of the calibration's grammars by the two voices that no training batch has, in faint or
training noise, heard with their grammar; and strings of digits by the speakers that the model was
trained on, with pauses up to 0.4 s, heard without one. Neither the coffee orders nor the
development speaker's digits, which results are reported on. Prints a row for each setting; the
last line is one JSON object. Knows nothing of how clips are heard (see
`session.endpoint_tuning`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from calibrate_commands import COMMANDS, SNRS_DB, grammar_files, own_commands
from endpoint_sets import BEHIND_S, ended_digits, faint_room
from noisy_speech import load_noise
from speech_sets import SAMPLE_RATE_HZ, data_folder
from wer import print_aligned, progress

from earshot import Recognizer
from earshot.data.speech_energy import HOP_SAMPLES, speech_mask
from earshot.session.endpoint_tuning import Trace, TracedClip, evaluate, record_traces

GRAMMARS = ("house", "laundry", "player", "smart-home")
CLOSED_S = (0.08, 0.12, 0.16, 0.2)
COMPLETE_S = (0.2, 0.24, 0.28, 0.36)
PAUSE_S = (0.44, 0.48, 0.52, 0.56, 0.64)


def spoken_commands(name: str, path: Path, folder: Path, data: Path) -> Iterator[TracedClip]:
    """Commands of one grammar, each with seconds of its room behind it."""
    noise = load_noise("train", data=data)
    for number, trial in enumerate(own_commands({name: path}, folder, data, count=80)):
        if trial.kind != COMMANDS:
            continue
        samples = trial.read()
        where = np.flatnonzero(speech_mask(samples))
        start, end = where[0] * HOP_SAMPLES, (where[-1] + 1) * HOP_SAMPLES
        kept = samples[: end + SAMPLE_RATE_HZ // 4]
        whole = np.concatenate([kept, np.zeros(int(BEHIND_S * SAMPLE_RATE_HZ), np.float32)])
        whole = faint_room(whole, samples[start:end], np.random.default_rng((7, number)))
        if number % 3 == 0:
            snr = SNRS_DB[number // 3 % len(SNRS_DB)]
            whole = noise.under(whole, clip_id=trial.id, snr_db=snr, draw=0)
        yield TracedClip(trial.id, whole, end / SAMPLE_RATE_HZ)


def heard_commands(folder: Path, data: Path, model: Path | None) -> list[Trace]:
    """Traces of all grammars' commands."""
    files = grammar_files(folder, data)
    traces: list[Trace] = []
    for name in GRAMMARS:
        recognizer = Recognizer.load(model, commands=files[name], method="modified_beam_search")
        clips = spoken_commands(name, files[name], folder / "spoken", data)
        traces += record_traces(recognizer, clips, progress=lambda n: progress(f"commands {n}"))
    progress(None)
    return traces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, help="recordings; default EARSHOT_DATA")
    parser.add_argument("--model", type=Path, help="a .ear file; without it, the embedded model")
    parser.add_argument("--folder", type=Path, default=Path("exp/calibration"), help="for clips")
    parser.add_argument("--count", type=int, default=240, help="strings of digits")
    options = parser.parse_args()
    data = data_folder(options.data)
    options.folder.mkdir(parents=True, exist_ok=True)
    listener = Recognizer.load(options.model, method="modified_beam_search")
    config = listener.endpoint_config()
    strings = [
        TracedClip(clip.id, clip.samples, clip.end_s)
        for clip in ended_digits(data, count=options.count, seed=99, split="train")
    ]
    digits = record_traces(listener, strings, progress=lambda n: progress(f"digits {n}"))
    progress(None)
    commands = heard_commands(options.folder, data, options.model)
    tried = [
        *(("commands", commands, {"closed_pause_s": s}) for s in CLOSED_S),
        *(("commands", commands, {"complete_pause_s": s}) for s in COMPLETE_S),
        *(("digits", digits, {"pause_s": s, "number_pause_s": min(s, 0.48)}) for s in PAUSE_S),
    ]
    rows = []
    for name, traces, values in tried:
        setting = replace(config, speculative=replace(config.speculative, **values))
        rows.append({"set": name, **values, **evaluate(traces, setting).as_dict()})
    shown = ("clips", "latency_s", "speculative_s", "lead_s", "withdrawn", "cut_off")
    table = [("set", "setting", *shown)]
    for (name, _, values), row in zip(tried, rows, strict=True):
        setting = ", ".join(f"{key} {value}" for key, value in values.items())
        table.append((name, setting, *(str(row[key]) for key in shown)))
    print_aligned(table)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
