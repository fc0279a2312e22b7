"""`earshot lattice`: look at, draw and convert what `earshot transcribe --lattice` wrote.

Knows files and options; every sum over a lattice is taken in `earshot.decode`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from earshot.cli.console import note, reported, say, usage_error
from earshot.cli.transcribe import LatticeForm

app = typer.Typer(
    help="Look at, draw and convert lattices.", no_args_is_help=True, pretty_exceptions_enable=False
)

Input = Annotated[Path, typer.Argument(metavar="LATTICE", help="A .slf, .lat, .json or .pb file.")]
InputFormat = Annotated[
    LatticeForm | None,
    typer.Option("--from", help="How it is written; default: by its ending.", show_default=False),
]
Beam = Annotated[
    float | None,
    typer.Option(min=0.0, help="Leave out what is so many nats behind.", show_default=False),
]


@app.command()
def info(
    path: Input,
    form: InputFormat = None,
    nbest: Annotated[int, typer.Option(min=1, max=1000, help="How many hypotheses.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how large a lattice is and what it holds."""
    with reported():
        from earshot.core.features import ENCODER_CLOCK
        from earshot.decode import lattice as sums
        from earshot.decode.lattice_wire import encode_lattice

        lattice = _read(path, form)
        seconds = ENCODER_CLOCK.start_s(lattice.num_frames)
        wire = len(encode_lattice(lattice))
        total = sums.total_score(lattice)
        paths = sums.nbest(lattice, nbest)
        value: dict[str, Any] = {
            "path": str(path),
            "arcs": lattice.num_arcs,
            "states": lattice.num_states,
            "words": len({int(w) for w in lattice.word}),
            "log10_paths": round(_log10_paths(lattice), 2),
            "duration_s": round(seconds, 3),
            "arcs_per_s": round(lattice.num_arcs / seconds, 1) if seconds else None,
            "wire_bytes": wire,
            "confidences": [round(c, 4) for c in sums.word_confidences(lattice)],
            "nbest": [
                {
                    "text": one.text,
                    "probability": round(min(1.0, math.exp(one.score - total)), 6),
                    "score": round(one.score, 4),
                }
                for one in paths
            ],
        }
    if as_json:
        say(json.dumps(value, ensure_ascii=False))
        return
    say(
        f"{path}: {value['arcs']} arcs, {value['states']} states, {value['words']} words, "
        f"{seconds:.2f} s, 10^{value['log10_paths']:.1f} paths, {wire} bytes on the wire"
    )
    words = paths[0].words
    if words:
        sure = zip(words, value["confidences"], strict=True)
        say("confidence: " + "  ".join(f"{word} {c:.2f}" for word, c in sure))
    for one in value["nbest"]:
        say(f"{one['probability']:8.4f}  {one['score']:9.2f}  {one['text']}")


@app.command()
def draw(
    path: Input,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .svg file to write.")],
    form: InputFormat = None,
    max_arcs: Annotated[int, typer.Option(min=1, max=2000, help="Draw so many at most.")] = 60,
    title: Annotated[
        str | None, typer.Option(help="Above the picture; default: the file's name.")
    ] = None,
) -> None:
    """Draw a lattice as SVG: words over time, the likelier the thicker, the best path green."""
    with reported():
        from earshot.data.atomic import replaced_file
        from earshot.decode.lattice_drawing import draw_lattice

        picture = draw_lattice(
            _read(path, form), max_arcs=max_arcs, title=path.name if title is None else title
        )
        with replaced_file(output) as file:
            file.write(picture.encode())
    note(f"{output}: {len(picture)} bytes")


@app.command()
def convert(
    path: Input,
    output: Annotated[Path, typer.Argument(help="The file to write; its ending says how.")],
    form: InputFormat = None,
    to: Annotated[
        LatticeForm | None, typer.Option(help="How to write it.", show_default=False)
    ] = None,
    beam: Beam = None,
    max_arcs: Annotated[
        int | None, typer.Option(min=1, help="Keep so many at most.", show_default=False)
    ] = None,
    determinise: Annotated[
        bool, typer.Option("--determinise", help="One path for each sequence of words.")
    ] = False,
) -> None:
    """Write a lattice in another format, pruned or determinised if asked for."""
    with reported():
        from earshot.core.errors import ConfigError
        from earshot.data.atomic import replaced_file
        from earshot.decode.lattice import determinised, pruned
        from earshot.decode.lattice_formats import LatticeFormat, format_of, render_lattice

        try:
            target = LatticeFormat(to.value) if to else format_of(output)
        except ConfigError as err:
            raise usage_error(str(err)) from None
        lattice = pruned(_read(path, form), beam=beam, max_arcs=max_arcs)
        if determinise:
            lattice = determinised(lattice)
        data = render_lattice(lattice, target, utterance=path.stem)
        with replaced_file(output) as file:
            file.write(data)
    note(f"{output}: {lattice.num_arcs} arcs, {len(data)} bytes")


def _read(path: Path, form: LatticeForm | None) -> Any:
    from earshot.decode.lattice_formats import LatticeFormat, read_lattice

    return read_lattice(path, LatticeFormat(form.value) if form else None)


def _log10_paths(lattice: Any) -> float:
    counts = [0] * lattice.num_states
    counts[0] = 1
    for src, dst in zip(lattice.src.tolist(), lattice.dst.tolist(), strict=True):
        counts[dst] += counts[src]
    return math.log10(counts[-1])
