"""`earshot lm`: language models from text or ARPA files, and into a recogniser's file."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earshot.cli.console import note, reported, say

if TYPE_CHECKING:
    from earshot.decode.language_model import LanguageModel, LanguageModelConfig

app = typer.Typer(
    help="Language models for free speech: from text, from ARPA, into a model.",
    no_args_is_help=True,
)


class Unit(StrEnum):
    """What the symbols of a model are."""

    PIECE = "piece"
    WORD = "word"


OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The .ear file to make.")]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model", "-m", help="The recogniser that it is for; default: the embedded model."
    ),
]
WeightOption = Annotated[
    float, typer.Option(min=0.0, max=10.0, help="That the file recommends; see `transcribe`.")
]
InternalOption = Annotated[
    float, typer.Option(min=0.0, max=10.0, help="Likewise, of the network's own language model.")
]
BonusOption = Annotated[
    float, typer.Option(min=-100.0, max=100.0, help="Likewise, nats for each symbol.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def build(
    texts: Annotated[
        list[Path],
        typer.Argument(help="Text, a sentence a line; .jsonl: the key `text` of each line."),
    ],
    output: OutputOption,
    model: ModelOption = None,
    unit: Annotated[Unit, typer.Option(help="Of word pieces or of words.")] = Unit.PIECE,
    order: Annotated[int, typer.Option(min=1, max=6, help="Symbols of the longest n-grams.")] = 4,
    max_ngrams: Annotated[
        int, typer.Option(min=0, help="Of two and more symbols; those that matter least go.")
    ] = 40_000,
    arpa: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write it as an ARPA file.")
    ] = None,
    weight: WeightOption = 0.3,
    internal_weight: InternalOption = 0.1,
    bonus: BonusOption = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Estimate a language model from text, and write it as the engine reads it."""
    with reported():
        from earshot.decode.arpa import write_arpa
        from earshot.decode.language_model import LanguageModelConfig, from_text
        from earshot.runtime.session import open_model
        from earshot.session.recognizer import embedded_model_path

        recogniser = open_model(model or embedded_model_path())
        sentences = [sentence for path in texts for sentence in _sentences(path)]
        made, report = from_text(
            sentences, recogniser, unit=unit.value, order=order, most=max_ngrams
        )
        if arpa is not None:
            write_arpa(arpa, made.ngrams, made.words)
        config = LanguageModelConfig(weight=weight, internal_weight=internal_weight, bonus=bonus)
        if report.left_out:
            note(f"warning: {report.left_out:,} sentences left out: pieces cannot spell them")
        note(f"{report.sentences:,} sentences of {report.words:,} words")
        _write(made, output, len(recogniser.pieces), config, as_json=as_json)


@app.command("compile")
def compile_arpa(
    arpa: Annotated[Path, typer.Argument(help="An ARPA file, of words or of the model's pieces.")],
    output: OutputOption,
    model: ModelOption = None,
    weight: WeightOption = 0.3,
    internal_weight: InternalOption = 0.1,
    bonus: BonusOption = 1.0,
    unknown_piece: Annotated[
        float,
        typer.Option(
            min=-100.0, max=0.0, help="Nats for each piece of a word that the file does not have."
        ),
    ] = -4.0,
    as_json: JsonOption = False,
) -> None:
    """Write an ARPA file as the engine reads it."""
    with reported():
        from earshot.decode.arpa import read_arpa
        from earshot.decode.language_model import LanguageModelConfig, from_arpa
        from earshot.runtime.session import open_model
        from earshot.session.recognizer import embedded_model_path

        recogniser = open_model(model or embedded_model_path())
        made = from_arpa(read_arpa(arpa), recogniser)
        config = LanguageModelConfig(
            weight=weight,
            internal_weight=internal_weight,
            bonus=bonus,
            unknown_piece=unknown_piece,
        )
        _write(made, output, len(recogniser.pieces), config, as_json=as_json)


@app.command()
def embed(
    language_model: Annotated[Path, typer.Argument(help="From `lm build` or `lm compile`.")],
    output: OutputOption,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a language model into a recogniser's file, which then uses it by itself."""
    with reported():
        from earshot.decode.language_model import embed as embedded
        from earshot.session.recognizer import embedded_model_path

        embedded(model or embedded_model_path(), language_model, output)
    _report(output, {}, as_json=as_json)


def _sentences(path: Path) -> list[str]:
    from earshot.core.errors import LanguageModelError
    from earshot.data.spoken import spoken_form

    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as err:
        raise LanguageModelError(
            path, f"it cannot be read ({err})", remedy="Name a text file in UTF-8"
        ) from None
    if path.suffix == ".jsonl":
        for number, line in enumerate(lines):
            try:
                lines[number] = json.loads(line)["text"] if line.strip() else ""
            except (ValueError, KeyError, TypeError):
                raise LanguageModelError(
                    f"{path}:{number + 1}",
                    "the line is no JSON object with a key `text`",
                    remedy='Write {"text": "..."} in each line',
                ) from None
    return [spoken_form(line) for line in lines]


def _write(
    made: LanguageModel, output: Path, pieces: int, config: LanguageModelConfig, *, as_json: bool
) -> None:
    from earshot.decode.language_model import save

    save(made, output, pieces=pieces, config=config)
    counts = [len(order) for order in made.ngrams.orders]
    _report(output, {"unit": made.unit, "ngrams": counts}, as_json=as_json)


def _report(output: Path, facts: dict[str, object], *, as_json: bool) -> None:
    size = output.stat().st_size
    if as_json:
        say(json.dumps({"output": str(output), "size_bytes": size, **facts}))
    else:
        counts = facts.get("ngrams")
        of = f", n-grams by order {counts}" if counts else ""
        note(f"{output}: {size:,} bytes{of}")
