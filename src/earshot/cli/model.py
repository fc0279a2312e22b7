"""`earshot model`: look into model files and check them. Prints what `modelfile` finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from earshot.cli.console import EXPECTED_FAILURE, complain, reported, say

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(help="Look into .ear model files and check them.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a file.")]


@app.command()
def inspect(
    path: Annotated[
        Path | None, typer.Argument(help="Model file; without one, the embedded model.")
    ] = None,
    as_json: JsonOption = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
) -> None:
    """Show what a model file holds: graphs, sizes, word pieces, its card."""
    with reported():
        from earshot.modelfile.reader import ModelFile

        summary = ModelFile(path or _embedded()).summary()
    if as_json:
        say(json.dumps(summary, ensure_ascii=False))
    else:
        _print_summary(cast("dict[str, Any]", summary), list_tensors=tensors)


@app.command()
def verify(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Model files; without any, the embedded model.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check header, graphs, extents and checksums. Exits 0 if all are sound, 1 if one is not."""
    from earshot.core.errors import ModelFileError

    with reported():
        from earshot.modelfile.reader import ModelFile

        paths = paths or [_embedded()]
    failed = False
    for path in paths:
        try:
            model = ModelFile(path)
        except ModelFileError as err:
            failed = True
            if as_json:
                say(json.dumps({"path": str(path), "sound": False, "error": str(err)}))
            else:
                complain(err)
            continue
        report = {"path": str(path), "sound": True, "name": model.header["name"], "version": 1}
        report |= {"size_bytes": model.size_bytes, "tensors": len(model.tensors)}
        if as_json:
            say(json.dumps(report, ensure_ascii=False))
        else:
            say(f"{path}: sound, {len(model.tensors)} tensors, {model.size_bytes} bytes")
    if failed:
        raise typer.Exit(EXPECTED_FAILURE)


def _embedded() -> Path:
    from earshot.session.recognizer import embedded_model_path

    return embedded_model_path()


def _print_summary(summary: Mapping[str, Any], *, list_tensors: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    size = summary["size_bytes"]
    console.print(f"[bold]{escape(summary['name'])}[/]  {escape(summary['path'])}", soft_wrap=True)
    codecs = ", ".join(f"{codec} {count:,}" for codec, count in summary["bytes_by_codec"].items())
    console.print(
        f"{size:,} bytes (.ear version {summary['version']}); by codec: {codecs}",
        soft_wrap=True,
    )
    if summary["search"]:
        search = ", ".join(f"{key} {value}" for key, value in summary["search"].items())
        console.print(f"{summary['num_pieces']} word pieces; search: {search}", soft_wrap=True)
    if summary["understanding"]:
        words = summary["understanding"]
        intents, slots = len(words.get("intents", [])), len(words.get("slots", []))
        console.print(f"understands {intents} intents and {slots} slots", soft_wrap=True)

    if summary["graphs"]:
        graphs = Table("graph", "inputs", "outputs", "layers", box=None, pad_edge=False)
        for name, graph in summary["graphs"].items():
            layers = ", ".join(f"{count} {op}" for op, count in graph["ops"].items())
            graphs.add_row(name, " ".join(graph["inputs"]), " ".join(graph["outputs"]), layers)
        console.print()
        console.print(graphs)

    if list_tensors:
        table = Table("tensor", "codec", "shape", box=None, pad_edge=False)
        table.add_column("bytes", justify="right")
        for tensor in summary["tensors"]:
            shape = " x ".join(map(str, tensor["shape"]))
            table.add_row(tensor["name"], tensor["codec"], shape, f"{tensor['bytes']:,}")
        console.print()
        console.print(table)

    if summary["metadata"]:
        console.print()
        for key, value in summary["metadata"].items():
            console.print(f"[bold]{escape(key)}[/]: {escape(value)}", soft_wrap=True)
