"""`earshot train`: run a recipe, or one stage of it. Imports the torch wing, and nothing else does.

Knows how to name the missing extra; knows nothing of what the stages do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from earshot.cli.console import StageBars, complain, reported, say

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
