"""`earshot model export`: a model in the form that another engine runs.

Knows the formats' names and the missing extra; what the files hold is `compress`'s affair.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from earshot.cli.console import note, reported, say


class ExportFormat(StrEnum):
    """Forms that a model can be written in."""

    SHERPA_ONNX = "sherpa-onnx"


def export(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the files; made if need be.")
    ],
    path: Annotated[
        Path | None, typer.Argument(help="Model file; without one, the embedded model.")
    ] = None,
    form: Annotated[
        ExportFormat, typer.Option("-f", "--format", help="What is to run it.")
    ] = ExportFormat.SHERPA_ONNX,
    chunk_frames: Annotated[
        int,
        typer.Option(
            help="Frames of 10 ms that the encoder takes at a time, a multiple of 4: fewer "
            "answer sooner, more take less work."
        ),
    ] = 32,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write models with int8 weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a model as ONNX for sherpa-onnx; needs the extra 'onnx'."""
    from earshot.core.errors import MissingExtraError

    with reported():
        try:
            from earshot.compress.sherpa import export_sherpa_onnx
        except ModuleNotFoundError as err:
            if err.name != "onnx":
                raise
            raise MissingExtraError("earshot model export", package="onnx", extra="onnx") from None
        from earshot.modelfile.reader import ModelFile
        from earshot.session.recognizer import embedded_model_path

        model = path or embedded_model_path()
        files = export_sherpa_onnx(model, output, chunk_frames=chunk_frames, int8=int8)
        header = cast("dict[str, Any]", ModelFile(model).header)
    cap = header["search"]["max_symbols_per_frame"]
    if cap > 1:
        note(
            f"note: the model may put out {cap} pieces a frame and sherpa-onnx takes one: fast "
            "speech may lose pieces there"
        )
    if as_json:
        say(json.dumps({name: str(file) for name, file in files.items()}))
    else:
        for file in files.values():
            say(f"{file}: {file.stat().st_size:,} bytes")
