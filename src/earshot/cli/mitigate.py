"""`earshot train mitigate`: from an audit's report to a mended model.

Imports the torch wing lazily. Shows what is going on and prints what was gained, for whom and at
whose cost; knows nothing of how a model is mended.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earshot.cli.console import StageBars, complain, note, reported, say

if TYPE_CHECKING:
    from earshot.train.mitigate import Mended

_STAGES = {"hear": "hearing the model", "fisher": "importance of weights", "tune": "models"}


def mitigate(
    report: Annotated[Path, typer.Argument(help="JSON report of `earshot audit run`.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The model file to make; default: REPORT-mended.ear beside it."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The model that was audited; default: the embedded one.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="The audited results, where the report's own name does not hold."),
    ] = None,
    general: Annotated[
        Path | None,
        typer.Option(
            metavar="MANIFEST",
            help="Speech that must not be forgotten, best what the model was trained on; "
            "default: that of the other cohorts.",
        ),
    ] = None,
    discovery: Annotated[
        str | None,
        typer.Option(help="Which discovery of the report: regions, groups, ...; default: first."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="Column of the results that holds a field, as of `audit run`; repeatable.",
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Mend so many of the worst cohorts; default 1.")
    ] = None,
    above: Annotated[
        float | None,
        typer.Option(min=0.0, help="Mend all cohorts with a word error rate above this, 0..1."),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="Try this method only; repeatable. Default: all."),
    ] = None,
    update: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the change, for `earshot model patch`."),
    ] = None,
    other_model: Annotated[
        bool,
        typer.Option("--other-model", help="Allow results that are not of this model."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 1,
    work_dir: Annotated[
        Path | None,
        typer.Option("--work-dir", help="For the models of the sweep; default: OUTPUT.work."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value of the recipe."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fine-tune a model on the cohorts it fails, without hurting the others; resumes.

    Needs the extra 'train'. Writes the model, and beside it a page and a JSON file with everything
    that was tried.
    """
    from earshot.core.errors import ConfigError, MissingExtraError

    with reported():
        output = output or report.with_name(f"{report.stem}-mended.ear")
        if not output.parent.is_dir():
            raise ConfigError(f"{output.parent}: no such folder; the model goes there. Make it.")
        for path, option in ((model, "--model"), (general, "--general")):
            if path is not None and not path.exists():
                raise ConfigError(f"{path}: no such file; name another with {option}.")
        try:
            from earshot.train.mitigate import Mitigation
            from earshot.train.mitigate import mitigate as run
        except ModuleNotFoundError as err:
            if err.name is None or err.name.startswith("earshot"):
                raise
            raise MissingExtraError(
                "earshot train mitigate", package=err.name.partition(".")[0], extra="train"
            ) from None
        own = [] if top is None else [f"mitigate.top={top}"]
        own += [] if above is None else [f"mitigate.above={above}"]
        own += [f"mitigate.methods={json.dumps(methods)}"] if methods else []
        request = Mitigation(
            report=report,
            output=output,
            work_dir=work_dir or output.with_name(output.name + ".work"),
            model=model,
            results=results,
            general=general,
            discovery=discovery,
            columns=_columns(columns or []),
            other_model=other_model,
            update=update,
            seed=seed,
            overrides=(*own, *(overrides or ())),
        )
        bars = StageBars()

        def show(stage: str, done: float, total: float) -> None:
            bars(_STAGES[stage], done, total)

        try:
            mended = run(request, progress=show, tell=note)
        except KeyboardInterrupt:
            bars.close()
            complain("stopped. The same command goes on where this one stopped.")
            raise typer.Exit(130) from None
        bars.close()
        if as_json:
            say(json.dumps(mended.report))
        else:
            say(_summary(mended))


def _columns(options: list[str]) -> dict[str, str]:
    """Column by field."""
    from earshot.core.errors import ConfigError

    found = {}
    for option in options:
        name, equals, column = option.partition("=")
        if not (name and equals and column):
            raise ConfigError(f"--map {option}: must read FIELD=COLUMN. Add what is missing.")
        found[name] = column
    return found


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _summary(mended: Mended) -> str:
    report: dict[str, Any] = mended.report
    names = [c["name"] for c in report["cohorts"] if c["mended"]]
    lines = [f"{'evaluation speakers, word errors in %':40}{'before':>9}{'after':>9}"]
    before = report["start"]["evaluation"]
    after = before
    for candidate in report["candidates"]:
        if candidate["chosen"]:
            after = candidate["evaluation"]
    for label, key in (
        (f"mended: {', '.join(names)}", "target"),
        ("the others", "rest"),
        ("overall", "overall"),
        ("mean over cohorts", "mean"),
        ("worst cohort", "worst"),
    ):
        lines.append(f"{label[:39]:40}{_percent(before[key]):>9}{_percent(after[key]):>9}")
    why = mended.why[:1].upper() + mended.why[1:]
    lines += [f"{why}.", f"{mended.output}: {mended.output.stat().st_size / 1e6:.1f} MB"]
    lines += [f"{path}: for {name}" for name, path in mended.cohort_models.items()]
    lines.append(f"{mended.curve}: every model that was tried")
    return "\n".join(lines)
