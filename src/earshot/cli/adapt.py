"""`earshot adapt`: from command templates to a model for them. Imports the torch wing lazily.

Checks everything that can be checked before any work is done, shows what is going on and prints
what was gained; knows nothing of how a model is adapted.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earshot.cli.console import EXPECTED_FAILURE, StageBars, complain, note, reported, say

if TYPE_CHECKING:
    from earshot.train.adapt import Adaptation, Adapted
    from earshot.train.measure import Figures

_STAGES = {
    "text": "sentences",
    "noise": "noise",
    "rooms": "rooms",
    "corpora": "recordings",
    "synthesis": "speech",
    "splicing": "voices of people",
    "tokenizer": "word pieces",
    "prune": "zeros",
    "train": "training",
    "export": "export",
    "calibrate": "calibration",
    "measure": "measuring",
}
_LINE_EVERY_S = 30.0
_SHOWN_WARNINGS = 5


def adapt(
    commands: Annotated[
        list[str],
        typer.Argument(help="Template files or folders of them; see docs/guides/commands.md."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model file to make.")],
    model: Annotated[
        Path | None, typer.Option(help="Model to start from; default: the embedded one.")
    ] = None,
    recordings: Annotated[
        Path | None,
        typer.Option(help="Folder of recorded speech to mix in; default: EARSHOT_DATA, if set."),
    ] = None,
    voices: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of Piper's or Kokoro's voices; default: EARSHOT_VOICES, if set.",
        ),
    ] = None,
    pronunciations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="How words of the commands are pronounced, in CMUdict's lines."
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="For everything together, on two idle cores.")
    ] = 24.0,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 1,
    small: Annotated[
        bool,
        typer.Option(
            "--small", help="Stay as small as the model to start from; gains less (see the guide)."
        ),
    ] = False,
    work_dir: Annotated[
        Path | None,
        typer.Option("--work-dir", help="For clips and checkpoints; default: OUTPUT.work."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value of the recipe."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a model for your own commands from their text; resumes where it was stopped.

    Needs the extra 'train' and a speech engine, and no recording.
    """
    with reported():
        recordings = _recordings(recordings)
        _check_machine(output, work_dir or _work_dir(output), recordings, model)
        from earshot.data.pronunciation import Lexicon
        from earshot.understand.templates import load_commands

        templates = load_commands(commands)  # all problems, before the slow imports
        if pronunciations is not None:
            Lexicon.load().extended(pronunciations)
        for warning in templates.warnings[:_SHOWN_WARNINGS]:
            note(f"warning: {warning}")
        if len(templates.warnings) > _SHOWN_WARNINGS:
            note(f"{len(templates.warnings)} warnings in all: earshot understand check --all")
        from earshot.train.adapt import Adaptation
        from earshot.train.adapt import adapt as run_adaptation

        request = Adaptation(
            commands=tuple(commands),
            output=output,
            work_dir=work_dir or _work_dir(output),
            model=model,
            recordings=recordings,
            voices=voices,
            pronunciations=pronunciations,
            minutes=minutes,
            seed=seed,
            small=small,
            overrides=tuple(overrides or ()),
        )
        _quieten_training()
        stages = _Stages()
        try:
            adapted = run_adaptation(request, progress=stages, tell=note)
        except KeyboardInterrupt:
            stages.close()
            complain("stopped. The same command goes on where this one stopped.")
            raise typer.Exit(130) from None
        stages.close()
        if as_json:
            say(json.dumps(_report(adapted)))
        else:
            say(_summary(adapted, request))


def _work_dir(output: Path) -> Path:
    return output.with_name(output.name + ".work")


def _recordings(named: Path | None) -> Path | None:
    """The folder that was named or that EARSHOT_DATA names, if it is there."""
    if named is not None:
        return named
    of_environment = os.environ.get("EARSHOT_DATA")
    if of_environment and Path(of_environment).is_dir():
        return Path(of_environment)
    return None


def _check_machine(
    output: Path, work_dir: Path, recordings: Path | None, model: Path | None
) -> None:
    """End the command with one line when something is missing, all of it named.

    Raises:
        typer.Exit: With code 1.
    """
    from earshot.train.requirements import (
        ENGINE_PACKAGES,
        missing_engine_packages,
        missing_packages,
    )

    problems = []
    if packages := missing_packages():
        problems.append(
            f"missing Python packages {', '.join(packages)}: pip install 'earshot[train]'"
        )
    missing = missing_engine_packages()
    engines = {"espeak-ng", "flite", "festival", "libttspico-utils", "rhvoice"}
    if engines <= set(missing):
        problems.append(f"no speech engine: apt-get install {' '.join(ENGINE_PACKAGES)}")
    for path in (output, work_dir):
        problem = _not_writable(path, is_folder=path == work_dir)
        if problem and problem not in problems:
            problems.append(problem)
    if recordings is not None and not recordings.is_dir():
        problems.append(f"{recordings}: is no folder; name one with --recordings or leave it out")
    if model is not None and not model.is_file():
        problems.append(f"{model}: no such model file; name one with --model or leave it out")
    if problems:
        complain("earshot adapt cannot start: " + "; ".join(problems) + ".")
        raise typer.Exit(EXPECTED_FAILURE)
    if missing:
        note(
            f"fewer voices than there could be: apt-get install {' '.join(missing)}"
            + (" (without flite nothing is measured)" if "flite" in missing else "")
        )


def _not_writable(path: Path, *, is_folder: bool) -> str:
    """What keeps a path from being written, or nothing."""
    if path.exists() and path.is_dir() != is_folder:
        kind = "a file" if is_folder else "a folder"
        option = "--work-dir" if is_folder else "--output"
        return f"{path}: is {kind}; name another path with {option}"
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return f"{folder}: no such folder; make it first"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder}: may not be written to; change its permissions or the path"
    return ""


def _quieten_training() -> None:
    """Keep hints of the libraries off the screen: they speak to developers."""
    import logging
    import warnings

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("hassil").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(lightning|lhotse|torch)\b")


class _Stages:
    """Shows where an adaptation is: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self) -> None:
        self._bars = StageBars()
        self._is_terminal = sys.stderr.isatty()
        self._stage, self._shown_at = "", 0.0

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Show that so much of a stage is done."""
        label = _STAGES[stage]
        self._bars(label, done, total)
        if self._is_terminal:
            return
        now = time.monotonic()
        if stage != self._stage:
            note(label)
            self._stage, self._shown_at = stage, now
        elif now - self._shown_at > _LINE_EVERY_S:
            note(f"{label} {100 * done / total:.0f} %")
            self._shown_at = now

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bars.close()


def _report(adapted: Adapted) -> dict[str, object]:
    return {
        "output": str(adapted.output),
        "size_bytes": adapted.output.stat().st_size,
        "training_minutes": round(adapted.minutes, 2),
        "before": adapted.before.as_dict() if adapted.before else None,
        "after": adapted.after.as_dict() if adapted.after else None,
    }


def _summary(adapted: Adapted, request: Adaptation) -> str:
    lines = [f"{adapted.output}: {adapted.output.stat().st_size / 1e6:.1f} MB"]
    if adapted.before is not None and adapted.after is not None:
        lines += _table(adapted.before, adapted.after)
    options = ["--model", str(adapted.output)]
    for name in request.commands:
        options += ["--commands", name]
    if request.pronunciations is not None:
        options += ["--pronunciations", str(request.pronunciations)]
    lines.append("Try it:")
    clips = sorted((request.work_dir / "measured" / "commands" / "audio").glob("*.wav"))
    for command in (["transcribe", *options, *map(str, clips[:1])], ["listen", *options]):
        if command[0] == "listen" or clips:
            lines.append("  " + shlex.join(["earshot", *command]))
    lines.append(f"{request.work_dir} is no longer needed.")
    return "\n".join(lines)


def _table(before: Figures, after: Figures) -> list[str]:
    from earshot.train.measure import NOISE_DB

    rows = (
        ("commands right", before.commands, after.commands),
        (f"commands right in noise, {NOISE_DB:.0f} dB", before.commands_in_noise,
         after.commands_in_noise),
        ("other sentences, word errors", before.general_wer, after.general_wer),
        ("other sentences taken for a command", before.mistaken, after.mistaken),
    )  # fmt: skip
    lines = [f"{'by voices it was not trained with':38}{'before':>8}{'after':>8}   of"]
    for name, old, new in rows:
        lines.append(f"{name:38}{100 * old.value:6.1f} %{100 * new.value:6.1f} %   {new.num_units}")
    return lines
