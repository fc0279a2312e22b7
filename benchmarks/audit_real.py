"""Audits of two recognisers on recordings of people: hypotheses first, then reports.

`earshot` is the embedded model and `pocketsphinx` its wheel's, on the dev and test rows that the
embedded model was not trained on. Hypotheses are kept, one file a recogniser and set, so that
audits can be made again without recognising again. Knows nothing of statistics: reports come from
`earshot audit`.

Positions in these sets are centroids of countries, never measured; every report that has
them says so. Voices are compared by the statistics of their spectra, for want of a speaker
network; reports say that, too. No set has ZIP codes: the country of a speaker's accent takes
their place, and `countries.csv` that of a census (the first language of most people there, and
the continent). `pooled` is all sets together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scored_text import scored_text
from speech_sets import data_folder, read_clip
from systems import EarshotSystem, PocketSphinx, System, default_model

from earshot import _native

CENSUS = Path(__file__).with_name("countries.csv")
CENTROIDS = "Positions are centroids of the speaker's country. Nobody's position was measured."
SPECTRA = (
    "Voices are clustered by means and deviations of log-mel bins, not by a speaker network: "
    "microphones and rooms count as much as voices do."
)
COUNTRIES = (
    "The country of the speaker's accent stands in the place of a ZIP code; its attributes are "
    "those of most people there, never of the speaker."
)
SETTINGS = (
    "Sets differ in sentences, microphones and rooms: what differs between cohorts may be the set."
)
FEW = "A handful of speakers: nothing here is a statement about any population."
SETS: dict[str, dict[str, Any]] = {
    "alphanumeric": {
        "folder": "alphanumeric_accents",
        "rules": "alphanumeric",
        "keep": ("gender", "age", "accent", "native_language", "prompt_type", "lat", "lon"),
        "splits": ("dev", "test"),
        "caveats": [
            CENTROIDS,
            COUNTRIES,
            FEW,
            "References are prompts; speakers may have said otherwise.",
        ],
    },
    "common_voice": {
        "folder": "common_voice_sample",
        "rules": "",
        "keep": ("gender", "age", "accent", "lat", "lon"),
        "splits": ("dev", "test"),
        "caveats": [CENTROIDS, COUNTRIES, FEW],
    },
    "spoken_digits": {
        "folder": "spoken_digits",
        "rules": "digits",
        "keep": ("gender", "accent", "lat", "lon"),
        "splits": ("dev",),
        "caveats": [CENTROIDS, COUNTRIES, "One speaker: there is nobody to compare with."],
    },
    "librispeech": {
        "folder": "librispeech_dev_clean_half",
        "rules": "",
        "keep": ("gender",),
        "splits": ("dev", "test"),
        "caveats": [FEW, "The split is this project's own: not comparable with published figures."],
    },
}


def rows_of(name: str, data: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Rows of a set that were not trained on, with the folder that audio is below."""
    chosen = SETS[name]
    folder = data / chosen["folder"]
    with open(folder / "manifest.jsonl", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row.get("lang") == "en" and row["split"] in chosen["splits"]:
                yield row, folder


def read_row(row: dict[str, Any], folder: Path) -> npt.NDArray[np.float32]:
    """Samples of a row, 16 kHz."""
    path = folder / row["audio"]
    if "offset" in row:
        return read_clip(path, offset_s=row["offset"], duration_s=row["duration"])
    return read_clip(path)


def voices(name: str, data: Path, target: Path) -> None:
    """Write (N, 160) float32: mean and deviation of 80 log-mel bins of each row, standardised."""
    found = []
    for row, folder in rows_of(name, data):
        features = _native.fbank(read_row(row, folder), 80)
        level = features.mean(axis=1)
        spoken = features[level >= np.quantile(level, 0.4)]  # pauses say little of a voice
        found.append(np.concatenate([spoken.mean(axis=0), spoken.std(axis=0)]))
    matrix = np.array(found)
    matrix = (matrix - matrix.mean(axis=0)) / (matrix.std(axis=0) + 1e-6)
    np.save(target, matrix.astype(np.float32))


def recognise(name: str, system: System, data: Path, target: Path) -> None:
    """Write references and hypotheses of a set; the file appears when all rows are done."""
    chosen = SETS[name]
    partial = target.with_suffix(".partial")
    with open(partial, "w", encoding="utf-8") as file:
        for row, folder in rows_of(name, data):
            samples = read_row(row, folder)
            kind = row.get("prompt_type", "")
            texts = {
                field: scored_text(text, rules=chosen["rules"], group=kind)
                for field, text in (("ref", row["text"]), ("hyp", system.transcribe(samples)))
            }
            known = {key: row[key] for key in chosen["keep"] if key in row}
            if row.get("region"):
                known["zip"] = row["region"]
            result = {"id": row["id"], **texts, "speaker": row["speaker"], **known}
            result["audio"] = str((folder / row["audio"]).resolve())
            for key in ("offset", "duration"):
                if key in row and "offset" in row:
                    result[key] = row[key]
            file.write(json.dumps(result) + "\n")
    partial.rename(target)


def pool(names: list[str], label: str, folder: Path) -> list[str]:
    """Write the results and voices of all sets as those of one, `pooled`; return its caveats."""
    with open(folder / f"pooled-{label}.jsonl", "w", encoding="utf-8") as file:
        for name in names:
            for line in (folder / f"{name}-{label}.jsonl").read_text("utf-8").splitlines():
                file.write(json.dumps({**json.loads(line), "set": name}) + "\n")
    found = [np.load(folder / f"{name}-voices.npy") for name in names]
    np.save(folder / "pooled-voices.npy", np.concatenate(found))
    return [CENTROIDS, COUNTRIES, SETTINGS, FEW]


def audit(name: str, label: str, folder: Path, caveats: list[str]) -> dict[str, Any] | None:
    """Audit hypotheses, write the report, and return its figures; None where that fails."""
    target = folder / f"{name}-{label}.jsonl"
    command = [sys.executable, "-m", "earshot.cli", "audit", "run", str(target)]
    command += ["-o", str(target.with_suffix(".html")), "--title", f"{label} on {name}"]
    command += ["--embeddings", str(folder / f"{name}-voices.npy")]
    with open(target, encoding="utf-8") as lines:
        if any("zip" in json.loads(line) for line in lines):
            command += ["--census", str(CENSUS)]
    for caveat in [*caveats, SPECTRA]:
        command += ["--caveat", caveat]
    command += ["--min-speakers", "3", "--min-words", "50", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{name}, {label}: {done.stderr.strip()}", file=sys.stderr)
        return None
    found = {"set": name, "system": label, **_figures(json.loads(done.stdout))}
    print(_line(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--output", type=Path, default=Path("exp/audit"))
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument(
        "--systems",
        nargs="*",
        choices=["earshot", "pocketsphinx"],
        default=["earshot", "pocketsphinx"],
    )
    parser.add_argument("--model", type=Path, help="a .ear file instead of the embedded model")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    data = data_folder(options.data)
    made: dict[str, System] = {}
    summary: list[dict[str, Any] | None] = []
    for name in options.sets:
        embeddings = options.output / f"{name}-voices.npy"
        if not embeddings.exists():
            voices(name, data, embeddings)
        for label in options.systems:
            target = options.output / f"{name}-{label}.jsonl"
            if not target.exists():
                if label not in made:
                    made[label] = _system(label, options.model)
                recognise(name, made[label], data, target)
            summary.append(audit(name, label, options.output, SETS[name]["caveats"]))
    if len(options.sets) > 1:
        for label in options.systems:
            caveats = pool(options.sets, label, options.output)
            summary.append(audit("pooled", label, options.output, caveats))
    print(json.dumps([found for found in summary if found is not None]))


def _system(label: str, model: Path | None) -> System:
    if label == "pocketsphinx":
        return PocketSphinx()
    return EarshotSystem(model or default_model(), method="modified_beam_search")


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    worst = [
        {
            key: cohort[key]
            for key in ("name", "n_speakers", "wer", "ci_low", "ci_high", "p_adjusted")
        }
        for discovery in report["discoveries"]
        for cohort in discovery["cohorts"]
        if cohort["is_worse"]
    ]
    return {"overall": report["overall"], "table": report["table"], "worse": worst}


def _line(found: dict[str, Any]) -> str:
    overall = found["overall"]

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    gaps = "; ".join(
        f"{row['method']} gap {percent(row['wer_gap'])} [{percent(row['wer_gap_low'])}, "
        f"{percent(row['wer_gap_high'])}] share {percent(row['bottom_share'])} "
        f"bottom {', '.join(row['bottom'])}"
        for row in found["table"]
    )
    return (
        f"{found['set']}, {found['system']}: {percent(overall['wer'])} "
        f"[{percent(overall['ci_low'])}, {percent(overall['ci_high'])}] over "
        f"{overall['interval_over']}s, {overall['n_speakers']} speakers; {gaps}; "
        f"worse: {', '.join(each['name'] for each in found['worse']) or 'none'}"
    )


if __name__ == "__main__":
    main()
