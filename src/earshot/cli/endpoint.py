"""`earshot endpoint`: choose when utterances end, on labelled audio. Prints what is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earshot.cli.console import StageBars, note, reported, say, usage_error
from earshot.cli.transcribe import CommandsOption, PronunciationsOption, loaded

if TYPE_CHECKING:
    from earshot.session.endpoint_tuning import EndpointFigures, TracedClip

app = typer.Typer(help="Choose when utterances end, on labelled audio.", no_args_is_help=True)

_SILENCE_S = 1.0  # behind the end of speech: less cannot show how late an end-point comes


@app.command()
def tune(
    manifest: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="Lines of JSON: audio (a path), and end_s, when its speech ends; where end_s is "
            "missing, the clip's energy says it.",
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="A .ear file; without it, the embedded model."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Model to write the thresholds into; may be --model."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="SVG to draw: cut-offs against latency, before and after, and rules."),
    ] = None,
    commands: CommandsOption = None,
    pronunciations: PronunciationsOption = None,
    max_cut_off: Annotated[
        float, typer.Option(min=0, max=1, help="Share of utterances that may be cut off.")
    ] = 0.02,
    max_withdrawn: Annotated[
        float, typer.Option(min=0, max=1, help="Share of speculations that may be withdrawn.")
    ] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the quickest end-points that cut hardly anybody off, and write them into a model."""
    if pronunciations is not None and not commands:
        raise usage_error("--pronunciations goes with --commands: add it, or leave it out.")
    with reported():
        from earshot.decode.endpoint import as_metadata
        from earshot.modelfile.reader import ModelFile
        from earshot.modelfile.writer import write_with_metadata
        from earshot.session.endpoint_tuning import evaluate, record_traces
        from earshot.session.endpoint_tuning import tune as tuned_on
        from earshot.session.recognizer import embedded_model_path

        recognizer = loaded(
            model,
            commands=commands,
            command_threshold=None,
            pronunciations=pronunciations,
            method="modified_beam_search",
        )
        clips = list(_clips(manifest))
        bars = StageBars()
        try:
            traces = record_traces(
                recognizer, clips, progress=lambda done: bars("listen", done, len(clips))
            )
            before = recognizer.endpoint_config()
            after = tuned_on(
                traces,
                before,
                max_cut_off=max_cut_off,
                max_withdrawn=max_withdrawn,
                progress=lambda done, total: bars("tune", done, total),
            )
        finally:
            bars.close()
        figures = {"before": evaluate(traces, before), "after": evaluate(traces, after)}
        if plot is not None:
            from earshot.data.atomic import replaced_file
            from earshot.session.endpoint_plot import endpoint_svg

            with replaced_file(plot) as file:
                file.write(endpoint_svg(traces, before=before, after=after).encode())
        if output is not None:
            source = ModelFile(model or embedded_model_path())
            write_with_metadata(source, output, as_metadata(after))
    if as_json:
        settings = json.loads(next(iter(as_metadata(after).values())))
        say(
            json.dumps(
                {name: each.as_dict() for name, each in figures.items()} | {"settings": settings}
            )
        )
        return
    for name, each in figures.items():
        say(f"{name:7} {_sentence(each)}")
    if output is None:
        note("nothing was written; --output MODEL.ear writes the thresholds into a model")
    else:
        say(f"wrote {output}")


def _sentence(figures: EndpointFigures) -> str:
    return (
        f"{figures.clips} utterances, {figures.cut_off:.1%} cut off, {figures.missed:.1%} not "
        f"ended; final {1000 * figures.latency_s:.0f} ms after speech (90 %: "
        f"{1000 * figures.latency_p90_s:.0f}), speculation {1000 * figures.speculative_s:.0f} ms, "
        f"{figures.withdrawn:.1%} withdrawn"
    )


def _clips(manifest: Path) -> Iterator[TracedClip]:
    """The clips of a manifest, each with a second of silence behind it."""
    import numpy as np

    from earshot.core.errors import ManifestError
    from earshot.data.audio import read_audio
    from earshot.data.speech_energy import HOP_SAMPLES, more_silence, speech_mask
    from earshot.session.endpoint_tuning import TracedClip

    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{manifest}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            path = manifest.parent / str(row["audio"])
            end_s = row.get("end_s")
            if not (end_s is None or (isinstance(end_s, int | float) and end_s >= 0)):
                raise ValueError("end_s")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ManifestError(
                where,
                "it is no JSON object with `audio`, and `end_s` in seconds where that is known",
                remedy="Correct the line",
            ) from None
        samples = read_audio(path)
        if end_s is None:
            spoken = np.flatnonzero(speech_mask(samples))
            if len(spoken) == 0:
                raise ManifestError(
                    where,
                    "nothing in it sounds like speech",
                    remedy="Give it an end_s, or leave it out",
                )
            end_s = (int(spoken[-1]) + 1) * HOP_SAMPLES / 16_000
        short = int((end_s + _SILENCE_S) * 16_000) - len(samples)
        if short > 0:
            samples = np.concatenate([samples, more_silence(samples, short)])
        yield TracedClip(str(row.get("id", number)), samples, float(end_s))
