"""`earshot hotwords`: look at a list of hotwords before it is used. No audio is heard here."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from earshot.cli.console import EXPECTED_FAILURE, USAGE_ERROR, complain, note, reported, say

app = typer.Typer(help="Phrases to hear more readily: check a list.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Hotwords, a phrase a line.")],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", "-m", help="A .ear file whose pieces spell them; default: the embedded one."
        ),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(min=0.0, max=20.0, help="For phrases without a score.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a phrase.")
    ] = False,
) -> None:
    """Show how each phrase is spelled, what it is worth and how it is said; name those that fail.

    Exits 0 if all phrases count, 1 if some do not, 2 if the file is not as it must be.
    """
    from earshot.core.errors import HotwordsError

    logging.getLogger("earshot.decode.biasing").disabled = True
    with reported():
        from earshot.decode.biasing import HotwordCompiler, read_hotwords, usual_score
        from earshot.decode.language_model import language_model_of
        from earshot.runtime.session import open_model
        from earshot.session.recognizer import embedded_model_path

        try:
            phrases = read_hotwords(file)
        except HotwordsError as err:
            complain(err)
            raise typer.Exit(USAGE_ERROR) from None
        opened = open_model(model or embedded_model_path())
        compiler = HotwordCompiler(opened)
        if score is None:
            score = usual_score(
                language_model=language_model_of(opened) is not None, phones=bool(opened.phones)
            )
        compiled = compiler.compile(phrases, default_score=score)
    problems = iter(compiled.problems)
    for hotword, spoken in zip(compiled.phrases, compiled.spoken, strict=True):
        pieces = compiler.pieces(spoken) if spoken else ()
        phones = compiler.phones(spoken)
        each = score if hotword.score is None else hotword.score
        boost = round(each * len(pieces), 3)
        problem = "" if spoken else str(next(problems))
        if as_json:
            row = {"phrase": hotword.phrase, "pieces": list(pieces), "score": each, "boost": boost}
            if phones:
                row["phones"] = phones.split()
            if problem:
                row["problem"] = problem
            say(json.dumps(row, ensure_ascii=False))
        elif problem:
            note(f"warning: {problem}")
        else:
            worth = f"{each:g} x {len(pieces)} = {boost:g}"
            say("\t".join([hotword.phrase, " ".join(pieces), worth, *([phones] if phones else [])]))
    note(f"{len(compiled):,} of {len(compiled.phrases):,} phrases count")
    if compiled.problems:
        raise typer.Exit(EXPECTED_FAILURE)
