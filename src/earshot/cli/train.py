"""`earshot train`: run a recipe, or one stage of it. Imports the torch wing, and nothing else does.

Knows how to name the missing extra; knows nothing of what the stages do.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earshot.cli.console import StageBars, complain, reported, say

if TYPE_CHECKING:
    from earshot.train.recipe import Recipe

app = typer.Typer(help="Train models from recipes; needs the extra 'train'.", no_args_is_help=True)

RecipeArgument = Annotated[
    Path, typer.Argument(help="TOML file, such as recipes/assistant-en.toml.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one value; repeatable."),
]


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    stages: Annotated[
        list[str] | None, typer.Option("--stage", help="Run this stage only; repeatable.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of resuming where a run stopped.")
    ] = False,
) -> None:
    """Run a recipe from text and recordings to a .ear file; resumes where it was stopped."""
    _run(recipe, overrides, stages=stages or None, resume=not fresh)


@app.command()
def export(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Write the .ear file of a recipe's newest checkpoint."""
    _run(recipe, overrides, stages=["export"], resume=True)


@app.command()
def endpoint(
    recipe: RecipeArgument,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Model to listen with; default: the recipe's output."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; default: --model.")
    ] = None,
    clips: Annotated[
        int | None, typer.Option(min=1, help="Training clips; default: the recipe's, or 1500.")
    ] = None,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Give a model an end-of-query head and tune its end-points, in minutes; all else stays."""
    import json

    with reported():
        load_recipe, train_endpoint = _endpoint_parts()
        loaded: Recipe = load_recipe(recipe, overrides or [])
        config = replace(loaded.endpoint, clips=clips or loaded.endpoint.clips or 1500)
        folder = Path(loaded.folder)
        path = model or folder / loaded.export.output
        bars = StageBars()
        try:
            report = train_endpoint(
                path,
                output or path,
                folder=folder,
                config=config,
                seed=loaded.train.seed,
                progress=lambda done, total: bars("endpoint", done, total),
            )
        finally:
            bars.close()
    if as_json:
        say(json.dumps(report.as_dict()))
        return
    tuned = report.tuned
    say(
        f"{output or path}: {tuned.cut_off:.1%} cut off, final {1000 * tuned.latency_s:.0f} ms "
        f"after speech, speculation {1000 * tuned.speculative_s:.0f} ms, {tuned.withdrawn:.1%} "
        f"withdrawn, on {tuned.clips} clips of held-out voices; "
        f"{report.noise_utterances_per_hour:.0f} utterances an hour in noise"
    )


def _endpoint_parts() -> tuple[Any, Any]:
    from earshot.core.errors import MissingExtraError

    try:
        from earshot.train.endpoint import train_endpoint
        from earshot.train.recipe import load_recipe
    except ModuleNotFoundError as err:
        if err.name is None or err.name.startswith("earshot"):
            raise
        raise MissingExtraError(
            "earshot train endpoint", package=err.name.partition(".")[0], extra="train"
        ) from None
    return load_recipe, train_endpoint


def _run(
    path: Path, overrides: list[str] | None, *, stages: list[str] | None, resume: bool
) -> None:
    from earshot.core.errors import MissingExtraError

    with reported():
        try:
            from earshot.train.language import run_language
            from earshot.train.recipe import Recipe, load_any_recipe
            from earshot.train.run import run as run_recipe
        except ModuleNotFoundError as err:
            if err.name is None or err.name.startswith("earshot"):
                raise
            raise MissingExtraError(
                "earshot train", package=err.name.partition(".")[0], extra="train"
            ) from None
        loaded = load_any_recipe(path, overrides or [])
        _log_to_stderr()
        bars = StageBars()
        try:
            if isinstance(loaded, Recipe):
                made = run_recipe(loaded, stages=stages, resume=resume, progress=bars)
            else:
                made = run_language(loaded, stages=stages, resume=resume, progress=bars)
            say(str(made))
        except KeyboardInterrupt:
            bars.close()
            complain("stopped. The same command goes on where this one stopped.")
            raise typer.Exit(130) from None


def _log_to_stderr() -> None:
    """Show what the stages log; only this command runs long enough for a log to be read."""
    import logging

    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False, omit_repeated_times=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
