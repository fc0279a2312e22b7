"""`earshot model`: look into model files, check and update them. Prints what `modelfile` finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from earshot.cli.console import EXPECTED_FAILURE, complain, reported, say, usage_error

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(help="Look into .ear model files, check and update them.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a file.")]
UpdateJsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def inspect(
    path: Annotated[
        Path | None, typer.Argument(help="Model file; without one, the embedded model.")
    ] = None,
    as_json: JsonOption = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
) -> None:
    """Show what a model file holds: graphs, sizes, bits a weight, zeros, word pieces, its card."""
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
        report = {"path": str(path), "sound": True, "name": model.header["name"]}
        report |= {
            "version": model.version,
            "size_bytes": model.size_bytes,
            "tensors": len(model.tensors),
        }
        if as_json:
            say(json.dumps(report, ensure_ascii=False))
        else:
            say(f"{path}: sound, {len(model.tensors)} tensors, {model.size_bytes} bytes")
    if failed:
        raise typer.Exit(EXPECTED_FAILURE)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The model that devices have.")],
    new: Annotated[Path, typer.Argument(help="The model that they shall have.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .eard update to write.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option("--sign", help="Private Ed25519 key (PEM) that signs it.")
    ] = None,
    as_json: UpdateJsonOption = False,
) -> None:
    """Show what differs between two models, and write it as an update for `model patch`."""
    if sign is not None and output is None:
        raise usage_error("--sign: there is nothing to sign without --output; give both.")
    _require_other(output, old, new)
    with reported():
        from earshot.modelfile.diff import compare_models
        from earshot.modelfile.reader import ModelFile
        from earshot.modelfile.signature import read_private_key

        key = read_private_key(sign) if sign is not None else None
        difference = compare_models(ModelFile(old), ModelFile(new))
        summary = difference.summary()
        if output is not None:
            size = difference.write(output, key=key)
            summary |= {"size_bytes": size, "share": size / difference.result.size_bytes}
        summary |= {"output": str(output) if output else None, "signed": key is not None}
    if as_json:
        say(json.dumps(summary, ensure_ascii=False))
    else:
        _print_difference(cast("dict[str, Any]", summary))


@app.command()
def patch(
    old: Annotated[Path, typer.Argument(help="The model that the update was made for.")],
    update: Annotated[Path, typer.Argument(help="The .eard update.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new model; may be the old one.")
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the old model.")] = False,
    require_key: Annotated[
        Path | None,
        typer.Option("--require-key", help="Public Ed25519 key (PEM) that must have signed it."),
    ] = None,
    as_json: UpdateJsonOption = False,
) -> None:
    """Make the new model from the old one and an update; killed meanwhile, the old one stands."""
    if (output is not None) == in_place:
        raise usage_error("the new model needs a place: give either --output or --in-place.")
    _require_other(output, update)
    with reported():
        from earshot.modelfile.patch import patch_model

        report = patch_model(old, update, output=output or old, required_key=require_key)
    if as_json:
        say(json.dumps(report.summary(), ensure_ascii=False))
    elif report.was_current:
        say(f"{report.output}: has this update already, {report.size_bytes} bytes")
    else:
        signed = ", signature checked" if report.signature == "checked" else ""
        say(f"{report.output}: written and sound, {report.size_bytes} bytes{signed}")


def _require_other(output: Path | None, *inputs: Path) -> None:
    """An update must not take the place of a file that it is made from, or the other way round."""
    for path in inputs:
        if output is not None and output.exists() and path.exists() and output.samefile(path):
            raise usage_error(f"--output: {output} is also an input; name another file.")


def _print_difference(summary: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("tensor", "stored", box=None, pad_edge=False)
    table.add_column("blocks", justify="right")
    table.add_column("changed", justify="right")
    for tensor in summary["tensors"]:
        if tensor["kind"] == "same":
            continue
        stored = "as changes" if tensor["kind"] == "changed" else "whole"
        counts = f"{tensor['blocks']:,}", f"{tensor['changed_blocks']:,}"
        table.add_row(escape(tensor["name"]), stored, *counts)
    if table.row_count:
        console.print(table)
        console.print()
    for name in summary["removed"]:
        console.print(f"{escape(name)}: no longer there", soft_wrap=True)
    changed, blocks = summary["changed_blocks"], summary["blocks"]
    share = changed / blocks if blocks else 0.0
    console.print(f"{changed:,} of {blocks:,} blocks of 64 bytes changed ({share:.1%})")
    written = escape(summary["output"]) if summary["output"] else "an update"
    has = "has" if summary["output"] else "would have"
    signed = ", signed" if summary["signed"] else ""
    console.print(
        f"{written} {has} {summary['size_bytes']:,} bytes, {summary['share']:.1%} of the new "
        f"model's {summary['result']['size_bytes']:,}{signed}",
        soft_wrap=True,
    )


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
    weights = summary["weights"]
    if weights["count"]:
        console.print(
            f"{weights['count']:,} weights, {weights['bits_per_weight']:.2f} bits each, "
            f"{weights['zeros']:.1%} of them zero",
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
        for heading in ("bytes", "bits a weight", "zeros"):
            table.add_column(heading, justify="right")
        for tensor in summary["tensors"]:
            shape = " x ".join(map(str, tensor["shape"]))
            row = [tensor["name"], tensor["codec"], shape, f"{tensor['bytes']:,}"]
            if tensor["bits_per_weight"] is not None:
                row += [f"{tensor['bits_per_weight']:.2f}", f"{tensor['zeros']:.1%}"]
            table.add_row(*row)
        console.print()
        console.print(table)

    if summary["metadata"]:
        console.print()
        for key, value in summary["metadata"].items():
            console.print(f"[bold]{escape(key)}[/]: {escape(value)}", soft_wrap=True)
