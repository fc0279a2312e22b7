"""Mending the cohorts that a recogniser fails: planted regions, and accents of real people.

    python benchmarks/planted_voices.py --folder exp/planted    # speaks the island, once
    python benchmarks/mitigation.py                             # three seeds
    python benchmarks/mitigation.py --report
    python benchmarks/mitigation.py --report --strangers        # judged by many more people
    python benchmarks/mitigation.py --accents                   # five speaker folds, real speech

Planted: for every seed a base model is trained on speech that hardly has two of ten regions, hears
a population that it has never met, and is mended by `earshot.train.mitigate` on a third of the
speakers of its two worst regions; a third chooses and a third evaluates. What is claimed is tested
against plain fine-tuning at equal gain: on the path of plain fine-tuning from the start through its
numbers of steps, the rate of the others at the place where the mended regions are as good.
Intervals are 95 % percentile bootstraps over speakers, paired, seeds pooled.

Everything that is done has a file and is not done again. Prints tables, and as the last line one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

import numpy as np
import numpy.typing as npt
from speech_sets import data_folder
from wer import circumstances, print_aligned

from earshot.data.atomic import replaced_file
from earshot.data.scoring import count_words
from earshot.session.recognizer import embedded_model_path

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (1, 2, 3)
RESAMPLES = 2000
TOP = 2
# Of the island: few and short runs, so that a seed takes minutes on one core.
PLANTED = (
    "train.max_steps=80",
    "train.batch_s=20",
    "train.peak_lr=3e-4",
    "mitigate.plain_steps=[5, 10, 20, 40, 80]",
    "mitigate.average_shares=[0.25, 0.5]",
    "mitigate.ewc_strengths=[0.01, 0.1, 1, 10]",
    "mitigate.l2_strengths=[0.01, 0.1, 1]",
    "mitigate.mixed_shares=[0.5]",
    "mitigate.oversample_ratios=[5]",
    "mitigate.cohort_steps=[80]",
    "mitigate.check_steps=10",
    "mitigate.fisher_utterances=150",
    # Speakers of a region: 8 to train on, 8 who choose, 8 who evaluate.
    "mitigate.folds=3",
    "mitigate.dev_share=0.5",
)
ABLATIONS = {
    part: (
        f'mitigate.train="{part}"',
        'mitigate.methods=["ewc"]',
        "mitigate.ewc_strengths=[1]",
    )
    for part in ("encoder", "decoder")
}
FOLDS = 5

Floats = npt.NDArray[np.float64]


# ---------------------------------------------------------------- making


def base_model(options: argparse.Namespace, seed: int) -> Path:
    """Train the base model of a seed, or take it."""
    folder = options.folder / f"seed{seed}" / "base"
    model = folder / "base.ear"
    if model.is_file():
        return model
    source = options.planted / "base"
    if not (source / "cuts").is_dir():
        raise SystemExit(
            f"error: {source}/cuts is not there. Speak the island first: "
            f"python benchmarks/planted_voices.py --folder {options.planted}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cuts", "text"):
        if not (folder / name).exists():
            (folder / name).symlink_to((source / name).resolve())
    stages = [f"--stage={name}" for name in ("tokenizer", "statistics", "train", "export")]
    settings = [f"--set=folder={folder}", f"--set=train.seed={seed}"]
    subprocess.run(
        [sys.executable, "-m", "earshot.cli", "train", "run", str(options.recipe), *settings,
         *stages],
        check=True,
    )  # fmt: skip
    return model


def audited(
    rows: Sequence[Mapping[str, Any]], model: Path, folder: Path, *, column: str, root: Path
) -> Path:
    """Results of a model on rows, and a report of them by one column.

    Args:
        rows: With `id, ref, speaker, audio` and the column.
        model: That is audited.
        folder: Gets `results.jsonl` and `report.json`.
        column: Whose values are the cohorts.
        root: Folder that the rows' sound is relative to.
    """
    from earshot.core.utterance import Utterance
    from earshot.train.mitigate_figures import hear

    report = folder / "report.json"
    if report.is_file():
        return report
    folder.mkdir(parents=True, exist_ok=True)
    utterances = [
        Utterance(
            id=row["id"],
            audio=root / row["audio"],
            text=row["ref"],
            offset_s=row.get("offset", 0.0),
            duration_s=row.get("duration"),
        )
        for row in rows
    ]
    texts = hear(model, utterances)
    lines = []
    sums: dict[str, list[int]] = {}
    people: dict[str, set[str]] = {}
    for row, utterance, text in zip(rows, utterances, texts, strict=True):
        counts = count_words(row["ref"], text)
        cohort = sums.setdefault(row[column], [0, 0])
        cohort[0] += counts.errors
        cohort[1] += counts.reference_words
        people.setdefault(row[column], set()).add(row["speaker"])
        lines.append(json.dumps({**row, "audio": str(utterance.audio.resolve()), "hyp": text}))
    with replaced_file(folder / "results.jsonl") as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    cohorts = [
        {"name": name, "rule": f"{column} = {name}", "wer": errors / words,
         "n_speakers": len(people[name]), "n_words": words}
        for name, (errors, words) in sums.items()
    ]  # fmt: skip
    cohorts.sort(key=lambda c: -float(c["wer"]))
    tree = {
        "results": "results.jsonl",
        "discoveries": [{"method": "groups", "cohorts": cohorts}],
    }
    with replaced_file(report) as file:
        file.write(json.dumps(tree, indent=1).encode())
    return report


def swept(
    report: Path,
    model: Path,
    folder: Path,
    *,
    seed: int,
    general: Path | None,
    top: int,
    settings: Sequence[str] = (),
    other_model: bool = False,
) -> dict[str, Any]:
    """The report of one sweep, made or taken."""
    from earshot.train.mitigate import Mitigation, mitigate

    done = folder / "mended.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)

        def show(stage: str, at: float, of: float) -> None:
            if stage == "tune":
                print(f"{folder}: {at:.0f} of {of:.0f} models", file=sys.stderr)

        mitigate(
            Mitigation(
                report=report,
                output=folder / "mended.ear",
                work_dir=folder / "work",
                model=model,
                general=general,
                seed=seed,
                other_model=other_model,
                overrides=(f"mitigate.top={top}", *settings),
            ),
            progress=show,
            tell=lambda line: print(line, file=sys.stderr),
        )
    found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return found


# ---------------------------------------------------------------- figures


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep's evaluation as numbers.

    Args:
        errors: Model name to errors of each utterance; `start` is among them.
        words: Of each utterance.
        cohort: Name of each utterance's.
        speaker: Of each utterance.
        targets: Names of cohorts that were mended.
        chosen: Name of the model that development speakers chose.
        best: Method to the name of its model that they would have chosen.
    """

    errors: dict[str, npt.NDArray[np.int64]]
    words: npt.NDArray[np.int64]
    cohort: list[str]
    speaker: list[str]
    targets: frozenset[str]
    chosen: str
    best: dict[str, str]


def read_sweep(report: Mapping[str, Any], folder: Path) -> Sweep:
    """Numbers of a sweep from its cells."""
    start_file = next((folder / "work").glob("start-*.json"))
    saved = {"start": json.loads(start_file.read_text())}
    for candidate in report["candidates"]:
        cell = folder / "work" / "cells" / f"{candidate['method']}-{candidate['strength']:g}"
        saved[candidate["name"]] = json.loads((cell / "result.json").read_text())
    counts = {name: np.array(s["evaluation"], np.int64) for name, s in saved.items()}
    rows = [json.loads(line) for line in Path(report["results"]).read_text().splitlines()]
    held = report["evaluation_ids"]
    by_id = {row["id"]: row for row in rows}
    rule = {c["name"]: c["rule"].partition(" = ") for c in report["cohorts"]}
    cohort = []
    for name in held:
        homes = [c for c, (column, _, value) in rule.items() if str(by_id[name][column]) == value]
        cohort.append(homes[0] if homes else "")
    return Sweep(
        errors={name: c[:, 1:].sum(axis=1) for name, c in counts.items()},
        words=counts["start"][:, :3].sum(axis=1),
        cohort=cohort,
        speaker=[str(by_id[name]["speaker"]) for name in held],
        targets=frozenset(c["name"] for c in report["cohorts"] if c["mended"]),
        chosen=report["chosen"] or "start",
        best={m: name or "start" for m, name in report["chosen_of_method"].items()},
    )


def judged_by_strangers(sweep: Sweep, folder: Path, planted: Path) -> Sweep:
    """The models of a sweep that claims are about, heard by people whom nothing was learned from.

    Args:
        sweep: Of the evaluation speakers.
        folder: Of the sweep; keeps what was heard.
        planted: Of the island, with `strangers.jsonl`.
    """
    from earshot.core.utterance import Utterance
    from earshot.train.mitigate_figures import hear

    lines = (planted / "strangers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    utterances = [
        Utterance(
            id=row["id"],
            audio=planted / row["audio"],
            text=row["ref"],
            duration_s=row["duration"],
        )
        for row in rows
    ]
    kept = folder / "strangers.json"
    errors: dict[str, list[int]] = json.loads(kept.read_text()) if kept.is_file() else {}
    every = [name for name in sweep.errors if name.startswith(("plain ", "ewc "))]
    for name in dict.fromkeys(["start", *every, *sweep.best.values(), sweep.chosen]):
        if name in errors:
            continue
        cell = folder / "work" / "cells" / name.replace(" ", "-") / "model.ear"
        model = folder.parent / "base" / "base.ear" if name == "start" else cell
        texts = hear(model, utterances)
        errors[name] = [
            count_words(row["ref"], text).errors for row, text in zip(rows, texts, strict=True)
        ]
        with replaced_file(kept) as file:
            file.write(json.dumps(errors).encode())
    return Sweep(
        errors={name: np.array(counts, np.int64) for name, counts in errors.items()},
        words=np.array([count_words(row["ref"], "").reference_words for row in rows], np.int64),
        cohort=[row["region"] for row in rows],
        speaker=[row["speaker"] for row in rows],
        targets=sweep.targets,
        chosen=sweep.chosen,
        best=sweep.best,
    )


class Pool:
    """Sweeps together, summed by (speaker, cohort), and resampled by speaker."""

    def __init__(self, sweeps: Sequence[Sweep], *, seed: int = 0) -> None:
        self._sweeps = sweeps
        speakers = sorted({name for sweep in sweeps for name in sweep.speaker})
        self._number = {name: n for n, name in enumerate(speakers)}
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(len(speakers), np.full(len(speakers), 1 / len(speakers)), RESAMPLES)
        self._draws = np.concatenate([np.ones((1, len(speakers))), draws])  # row 0: as it is

    def _sums(self, values: npt.NDArray[np.int64], sweep: Sweep, inside: Any) -> Floats:
        """(1 + resamples,) sums of values of utterances."""
        kept = np.array([inside(cohort) for cohort in sweep.cohort])
        who = np.array([self._number[name] for name in sweep.speaker])
        by_speaker = np.bincount(
            who[kept], weights=values[kept].astype(np.float64), minlength=len(self._number)
        )
        found: Floats = self._draws @ by_speaker
        return found

    def rate(self, model: Any, part: str) -> Floats:
        """(1 + resamples,) pooled word error rates.

        Args:
            model: Gives for a sweep the name of its model.
            part: overall, target, rest, or worst: the cohort that was worst at the start.
        """
        errors, words = np.zeros(len(self._draws)), np.zeros(len(self._draws))
        for sweep in self._sweeps:
            inside = self._inside(sweep, part)
            errors += self._sums(sweep.errors[model(sweep)], sweep, inside)
            words += self._sums(sweep.words, sweep, inside)
        return errors / np.maximum(words, 1)

    @staticmethod
    def _inside(sweep: Sweep, part: str) -> Any:
        if part == "worst":
            worst = max(by_cohort(sweep, "start").items(), key=lambda pair: pair[1])[0]
            return lambda cohort: cohort == worst
        return {
            "overall": lambda _: True,
            "target": lambda cohort: cohort in sweep.targets,
            "rest": lambda cohort: cohort not in sweep.targets,
        }[part]

    def change(self, model: Any, part: str) -> dict[str, float]:
        """Relative change against the start, with its interval."""
        return interval(over(self.rate(model, part), self.rate(lambda _: "start", part)) - 1)

    def plain_at_equal_gain(self, model: Any) -> dict[str, Any]:
        """How the others fare against plain fine-tuning where the cohorts gain as much.

        Returns:
            `rest`: relative difference of the others' rates, model over plain, below 0 where the
            model spares them more; `reached`: share of resamples in which the path of plain
            fine-tuning reaches the gain at all (where it does not, its lowest rate of the cohorts
            stands in, which flatters it).
        """
        steps = sorted(
            {n for sweep in self._sweeps for n in sweep.errors if n.startswith("plain ")},
            key=lambda name: float(name.split()[1]),
        )
        path = ["start", *steps]
        target = np.stack([self.rate(lambda _, n=n: n, "target") for n in path])
        rest = np.stack([self.rate(lambda _, n=n: n, "rest") for n in path])
        own_target, own_rest = self.rate(model, "target"), self.rate(model, "rest")
        found = np.empty(len(own_target))
        reached = np.zeros(len(own_target), bool)
        for n in range(len(found)):
            found[n], reached[n] = rest_at(target[:, n], rest[:, n], own_target[n])
        result: dict[str, Any] = interval(over(own_rest, found) - 1)
        return {"rest": result, "plain_rest": float(found[0]), "reached": float(reached.mean())}


def rest_at(target: Floats, rest: Floats, wanted: float) -> tuple[float, bool]:
    """The others' rate on a path where the cohorts' first is as low as wanted.

    Args:
        target: Rates of the cohorts along the path.
        rest: Rates of the others.
        wanted: Of the cohorts.

    Returns:
        The others' rate, linear between points, and whether the path gets there; where it does
        not, the rate at its lowest point.
    """
    for n in range(1, len(target)):
        if target[n] <= wanted <= target[n - 1]:
            fall = target[n - 1] - target[n]
            share = (target[n - 1] - wanted) / fall if fall > 0 else 0.0
            return float(rest[n - 1] + share * (rest[n] - rest[n - 1])), True
    if wanted >= target[0]:
        return float(rest[0]), True
    return float(rest[int(target.argmin())]), False


def over(values: Floats, base: Floats) -> Floats:
    """Ratios; nan where nobody who was drawn makes an error."""
    found: Floats = np.divide(values, base, out=np.full(len(base), np.nan), where=base > 0)
    return found


def interval(values: Floats) -> dict[str, float]:
    """The first value, with an interval of the others."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return {"value": float(values[0]), "ci95_low": float(low), "ci95_high": float(high)}


def by_cohort(sweep: Sweep, model: str) -> dict[str, float]:
    """Word error rates of a sweep's model by cohort."""
    found = {}
    for name in sorted(set(sweep.cohort)):
        kept = np.array([cohort == name for cohort in sweep.cohort])
        words = int(sweep.words[kept].sum())
        if words:
            found[name] = float(sweep.errors[model][kept].sum() / words)
    return found


def spread(sweep: Sweep, model: str) -> dict[str, float]:
    """Mean, highest and variance over cohorts."""
    values = list(by_cohort(sweep, model).values())
    return {"mean": fmean(values), "worst": max(values), "variance": pvariance(values)}


def row_of(pool: Pool, sweeps: Sequence[Sweep], label: str, model: Any) -> dict[str, Any]:
    """One line of the table."""
    spreads = [spread(sweep, model(sweep)) for sweep in sweeps]
    row: dict[str, Any] = {"model": label, "models": [model(sweep) for sweep in sweeps]}
    for part in ("overall", "target", "rest", "worst"):
        row[part] = float(pool.rate(model, part)[0])
        row[f"{part}_change"] = pool.change(model, part)
    for key in ("mean", "worst", "variance"):
        row[f"cohorts_{key}"] = fmean(s[key] for s in spreads)
        row[f"cohorts_{key}_by_seed"] = [s[key] for s in spreads]
    if label != "start":
        row["against_plain"] = pool.plain_at_equal_gain(model)
    return row


def table(sweeps: Sequence[Sweep]) -> list[dict[str, Any]]:
    """Every model of the sweep, the one chosen, and the best of each method by development."""
    pool = Pool(sweeps)
    names = [n for n in sweeps[0].errors if all(n in sweep.errors for sweep in sweeps)]
    rows = [row_of(pool, sweeps, name, lambda _, n=name: n) for name in names]
    methods = {name.split()[0] for sweep in sweeps for name in sweep.errors} - {"start"}
    for method in sorted(methods):
        rows.append(row_of(pool, sweeps, f"best {method}", lambda s, m=method: s.best[m]))
    rows.append(row_of(pool, sweeps, "chosen", lambda s: s.chosen))
    return rows


def claims(row: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, bool]:
    """Which claims hold for a line: of the pooled figure, and of every seed where there is one."""

    def falls(key: str) -> bool:
        return all(
            a < b for a, b in zip(row[f"{key}_by_seed"], start[f"{key}_by_seed"], strict=True)
        )  # fmt: skip

    return {
        "worst cohort at least 3 % better": row["worst_change"]["value"] <= -0.03,
        "and its interval below 0": row["worst_change"]["ci95_high"] < 0,
        "overall does not rise": row["overall_change"]["value"] <= 0,
        "mean falls, every seed": falls("cohorts_mean"),
        "highest falls, every seed": falls("cohorts_worst"),
        "variance falls, every seed": falls("cohorts_variance"),
        "others better than plain at equal gain": row["against_plain"]["rest"]["value"] < 0,
        "and its interval below 0 too": row["against_plain"]["rest"]["ci95_high"] < 0,
    }


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    def change(found: Mapping[str, float]) -> str:
        ends = f"[{100 * found['ci95_low']:+.1f}, {100 * found['ci95_high']:+.1f}]"
        return f"{100 * found['value']:+.1f} {ends}"

    lines = [
        ("model", "overall %", "change %", "mended %", "change %", "others %", "change %",
         "worst, change %", "mean", "highest", "variance", "others vs plain at equal gain, %")
    ]  # fmt: skip
    for row in rows:
        against = row.get("against_plain")
        lines.append(
            (
                row["model"],
                f"{100 * row['overall']:.2f}", change(row["overall_change"]),
                f"{100 * row['target']:.2f}", change(row["target_change"]),
                f"{100 * row['rest']:.2f}", change(row["rest_change"]),
                change(row["worst_change"]),
                f"{100 * row['cohorts_mean']:.2f}",
                f"{100 * row['cohorts_worst']:.2f}",
                f"{1e4 * row['cohorts_variance']:.1f}",
                "" if against is None else change(against["rest"])
                + ("" if against["reached"] > 0.5 else " (plain never gets there)"),
            )
        )  # fmt: skip
    print_aligned(lines)


# ---------------------------------------------------------------- the two tables


def planted(options: argparse.Namespace) -> dict[str, Any]:
    """The island."""
    population = options.planted / "population.jsonl"
    sweeps, ablated, found = [], {name: [] for name in ABLATIONS}, []
    for seed in options.seeds:
        folder = options.folder / f"seed{seed}"
        if options.report and not (folder / "sweep" / "mended.json").is_file():
            continue
        model = base_model(options, seed)
        rows = [json.loads(line) for line in population.read_text(encoding="utf-8").splitlines()]
        report = audited(rows, model, folder, column="region", root=options.planted)
        general = options.planted / "general.jsonl"
        shared = {"seed": seed, "general": general, "top": TOP}
        settings = (*PLANTED, *options.overrides)
        made = swept(report, model, folder / "sweep", settings=settings, **shared)
        sweep = read_sweep(made, folder / "sweep")
        if options.strangers:
            sweep = judged_by_strangers(sweep, folder / "sweep", options.planted)
        sweeps.append(sweep)
        found.append(
            {"seed": seed, "start": by_cohort(sweeps[-1], "start"), "why": made["why"],
             "speakers": made["speakers"]}
        )  # fmt: skip
        for name, own in ABLATIONS.items():
            place = folder / f"sweep-{name}"
            if not options.ablations and not (place / "mended.json").is_file():
                continue
            made = swept(
                report, model, place, settings=(*PLANTED, *own, *options.overrides), **shared
            )
            ablated[name].append(read_sweep(made, place))
    if not sweeps:
        raise SystemExit(f"error: no sweep below {options.folder} has a result yet.")
    rows = table(sweeps)
    print_table(rows)
    result: dict[str, Any] = {"seeds": found, "rows": rows}
    for name in ("best ewc", "chosen"):
        for row in rows:
            if row["model"] == name:
                result[f"claims, {name}"] = claims(row, rows[0])
    result["ablations"] = {}
    for name, parts in ablated.items():
        if len(parts) == len(sweeps):
            whole = Pool(parts)
            label = f"ewc, {name} only"
            row = row_of_ablation(whole, parts, label)
            result["ablations"][name] = row
            print_table([row])
    return result


def row_of_ablation(pool: Pool, sweeps: Sequence[Sweep], label: str) -> dict[str, Any]:
    """As `row_of`, without a path of plain fine-tuning to compare with."""

    def model(sweep: Sweep) -> str:
        return sweep.best["ewc"]

    row: dict[str, Any] = {"model": label, "models": [model(s) for s in sweeps]}
    for part in ("overall", "target", "rest", "worst"):
        row[part] = float(pool.rate(model, part)[0])
        row[f"{part}_change"] = pool.change(model, part)
    for key in ("mean", "worst", "variance"):
        row[f"cohorts_{key}"] = fmean(spread(s, model(s))[key] for s in sweeps)
    return row


def accents(options: argparse.Namespace, sets: Sequence[str], *, top: int) -> dict[str, Any]:
    """Accented speech of real people, five folds of speakers, the embedded model.

    Its train rows were trained on, so the figures are about forgetting and fitting, not about how
    the model hears strangers; test rows were looked at during development.

    Args:
        options: Of the command line.
        sets: Folders of recordings.
        top: Cohorts that are mended.
    """
    model = embedded_model_path()
    rows = accent_rows(options.data, sets)
    folder = options.folder / "-".join(("accents", *(name.split("_")[0] for name in sets)))
    report = audited(rows, model, folder, column="cohort", root=Path("/"))
    sweeps, found = [], []
    for fold in range(FOLDS):
        place = folder / f"fold{fold}"
        if options.report and not (place / "mended.json").is_file():
            continue
        settings = (
            f"mitigate.folds={FOLDS}",
            f"mitigate.fold={fold}",
            'mitigate.methods=["plain", "ewc", "l2", "mixed"]',
            "mitigate.plain_steps=[5, 10, 20]",
            "mitigate.ewc_strengths=[10]",
            "mitigate.l2_strengths=[10]",
            "mitigate.mixed_shares=[0.5]",
            "mitigate.fisher_utterances=40",
            "train.max_steps=20",
            "train.batch_s=20",
            "train.peak_lr=1e-4",
            "mitigate.check_steps=10",
            *options.overrides,
        )
        made = swept(report, model, place, seed=1, general=None, top=top, settings=settings)
        sweeps.append(read_sweep(made, place))
        found.append({"fold": fold, "why": made["why"], "speakers": made["speakers"]})
    if not sweeps:
        raise SystemExit(f"error: no fold below {folder} has a result yet.")
    lines = table(sweeps)
    print_table(lines)
    cohorts = json.loads(report.read_text())["discoveries"][0]["cohorts"]
    return {"cohorts": cohorts, "folds": found, "rows": lines}


ACCENT_SETS = ((("alphanumeric_accents",), 1), (("alphanumeric_accents", "common_voice_sample"), 2))
_LEAST_SPEAKERS = 5  # of a cohort of its own; the others are "other"


def accent_rows(data: Path, sets: Sequence[str]) -> list[dict[str, Any]]:
    """English rows of accented speech, in cohorts by accent.

    Accents of fewer than five speakers are one cohort, `other`; rows without an accent are left
    out.
    """
    found = []
    for name in sets:
        for line in (data / name / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            accent = str(row.get("accent") or "").partition(" / ")[0]  # "Indian / L1 Hindi"
            if row.get("lang", "en") not in ("en", "english") or not accent or not row.get("text"):
                continue
            found.append(
                {
                    "id": f"{name}-{row['id']}",
                    "ref": row["text"],
                    "speaker": f"{name}-{row['speaker']}",
                    "cohort": f"{name.split('_')[0]}: {accent}",
                    "audio": str((data / name / row["audio"]).resolve()),
                    "offset": row.get("offset", 0.0),
                    "duration": row.get("duration"),
                }
            )
    people: dict[str, set[str]] = {}
    for row in found:
        people.setdefault(row["cohort"], set()).add(row["speaker"])
    for row in found:
        if len(people[row["cohort"]]) < _LEAST_SPEAKERS:
            row["cohort"] = f"{row['cohort'].split(':')[0]}: other"
    return found


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--accents", action="store_true", help="Real speech instead of the island.")
    parser.add_argument("--report", action="store_true", help="Train nothing: tables only.")
    parser.add_argument("--no-ablations", dest="ablations", action="store_false")
    parser.add_argument(
        "--strangers", action="store_true", help="Judged by the people of strangers.jsonl."
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "exp/island")
    parser.add_argument("--planted", type=Path, default=ROOT / "exp/planted")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/mitigation-planted.toml")
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--json", type=Path, help="Also write the JSON object here.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs, reports. Returns the exit status."""
    options = arguments(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    models = [embedded_model_path()] if options.accents else []
    report: dict[str, Any] = {"circumstances": circumstances(models)}
    if options.accents:
        for sets, top in ACCENT_SETS:
            print(f"{', '.join(sets)}: the worst {top} of the cohorts")
            report[" + ".join(sets)] = accents(options, sets, top=top)
    else:
        report |= planted(options)
    if options.json:
        with replaced_file(options.json) as file:
            file.write(json.dumps(report).encode())
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
