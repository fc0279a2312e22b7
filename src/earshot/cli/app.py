"""Puts the commands together. Knows their names only; each lives in a module of its own."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import earshot
from earshot.cli import (
    adapt,
    export,
    hotwords,
    listen,
    lm,
    model,
    train,
    transcribe,
    understand,
    understand_model,
)

app = typer.Typer(
    name="earshot",
    help="Speech recognition that stays on the device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 something could not be done (said on stderr), 2 wrong usage.",
)
app.command("transcribe")(transcribe.transcribe)
app.command("listen")(listen.listen)
app.command("adapt")(adapt.adapt)
model.app.command("export")(export.export)
app.add_typer(model.app, name="model")
app.add_typer(train.app, name="train")
understand.app.command("train")(understand_model.train)
understand.app.command("evaluate")(understand_model.evaluate)
understand.app.command("apply")(understand_model.apply)
app.add_typer(understand.app, name="understand")
app.add_typer(hotwords.app, name="hotwords")
app.add_typer(lm.app, name="lm")


def _print_version(wanted: bool) -> None:  # typer calls it with the option's value
    if wanted:
        print(f"earshot {earshot.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print it and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the `earshot` command."""
    try:
        app()
    except BrokenPipeError:
        # The reader has gone, as in `earshot transcribe ... | head`. Python would complain once
        # more when it flushes stdout at exit, so give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
