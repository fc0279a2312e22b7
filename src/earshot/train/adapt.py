"""Makes a model for a user's own commands, from their templates alone.

An adaptation is a recipe like any other (`train.recipe`), with settings of its own (`adapt.toml`
beside this file), the templates as a source of text, and a model to start from. This file builds
that recipe, runs it inside a budget of minutes, and remembers in the working folder what was
asked, so that the same request goes on where it was stopped and another one starts anew. Knows
nothing of how stages work.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from earshot.compress.export import read_transducer, transducer_config
from earshot.core.errors import CommandsError, CommandsProblem, ConfigError, ModelFileError
from earshot.data.atomic import replaced_file
from earshot.data.phones import PHONES
from earshot.data.pronunciation import Lexicon
from earshot.modelfile.reader import ModelFile
from earshot.models.transducer import TransducerConfig
from earshot.session.recognizer import Recognizer, embedded_model_path, tokenizer_of
from earshot.train import run
from earshot.train.calibrate import calibrate_model
from earshot.train.cuts import read_cuts, write_json
from earshot.train.measure import Figures, make_clips, measure
from earshot.train.neural_voices import voices_folder
from earshot.train.recipe import Recipe, SourceConfig, load_recipe
from earshot.train.synthesis import (
    HELD_OUT_VOICES,
    Voice,
    installed_voices,
    model_sizes,
    natural_voices,
    require_speaking,
    require_voices,
)
from earshot.understand.calibration import stored_config
from earshot.understand.graph import compile_commands
from earshot.understand.templates import Commands, load_commands

__all__ = [
    "DEFAULT_MINUTES",
    "Adaptation",
    "Adapted",
    "adapt",
    "adaptation_recipe",
    "training_minutes",
]


DEFAULT_MINUTES = 24.0
SETTINGS = Path(__file__).parent / "adapt.toml"

_MOST_MINUTES = 10_000
_RESERVED_MINUTES = 3.0  # for export, calibration and measuring, of the default budget
_LEAST_SHARE = 0.4  # of the budget that training gets, however slow the preparation was
_OTHER_BYTES = 600_000_000  # checkpoints, and recordings at 16 kHz
_RECORDED = ("read", "digit_strings", "digit", "spelled", "wake")
_ROUNDING_MINUTES = 2.5  # where weights make up for each other's rounding
_PREPARING = ("text", "noise", "rooms", "corpora", "synthesis", "splicing", "tokenizer", "prune")
_FINISHING = ("train", "export")

Progress = Callable[[str, float, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """What is asked for.

    Args:
        commands: Template files, folders, or names of built-in templates.
        output: The model file to make.
        work_dir: Gets clips, checkpoints and the record of the request.
        model: To start from; None takes the embedded one.
        recordings: Folder of recorded speech to mix in; None goes without.
        voices: Folder of Piper's or Kokoro's voices that say the commands, too; None takes the one
            that the variable EARSHOT_VOICES names, or goes without.
        pronunciations: File of the user's own pronunciations, see `Lexicon.extended`.
        minutes: For everything together.
        seed: Of all that is random.
        small: Make it as small as the model it starts from, with the zeros and bits of that one.
        overrides: `section.key=value` of the recipe, as of `earshot train run --set`.
    """

    commands: tuple[str, ...]
    output: Path
    work_dir: Path
    model: Path | None = None
    recordings: Path | None = None
    voices: Path | None = None
    pronunciations: Path | None = None
    minutes: float = DEFAULT_MINUTES
    seed: int = 1
    small: bool = False
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.minutes < _MOST_MINUTES:
            raise ConfigError(
                f"adapt: minutes is {self.minutes}; it must be above 0 and below "
                f"{_MOST_MINUTES:,}. The default is {DEFAULT_MINUTES:.0f}."
            )


def adaptation_recipe(request: Adaptation) -> Recipe:
    """The recipe of an adaptation.

    The network has the shape of the model that it starts from. Its zeros grow into weights again,
    unless it is to stay small or to change little. What is spoken shrinks with a budget smaller
    than the default one.

    Args:
        request: What is asked for.

    Returns:
        The recipe; its `train.max_minutes` is what an undisturbed run leaves of the budget.

    Raises:
        ConfigError: An override is unknown or out of range.
        ModelFileError: The model to start from is not sound.
    """
    start = request.model or embedded_model_path()
    file = ModelFile(start)
    config = transducer_config(file)
    settings: dict[str, object] = {
        "name": request.output.stem,
        "folder": str(request.work_dir),
        "data.recordings": str(request.recordings or ""),
        "data.pronunciations": str(request.pronunciations or ""),
        "synthesis.voices": str(request.voices or voices_folder() or ""),
        "commands.files": list(request.commands),
        "train.start_from": str(start),
        "train.seed": request.seed,
        "export.output": "model.ear",
        "export.licence": "as of the model it was made from",
        "export.description": "adapted to " + ", ".join(Path(c).name for c in request.commands),
        **_shape(config),
    }
    if request.small:
        if _is_set(request, "compress.changed_blocks"):
            raise ConfigError(
                "adapt: the model is to stay small and compress.changed_blocks is set; a model of "
                "which few blocks change stays as small as it was. Leave out --small."
            )
        settings |= _small(file)
    own = [f"{key}={_toml(value)}" for key, value in settings.items()]
    recipe = load_recipe(SETTINGS, [*own, *request.overrides])
    small = recipe.compress.needs_start
    if small and not _is_set(request, "model.second_pass"):
        # A small model stays small, and what is to ship as an update brings nothing new with it.
        recipe = replace(recipe, model=replace(recipe.model, second_pass=config.second_pass))
    scale = min(1.0, request.minutes / DEFAULT_MINUTES)
    if scale < 1.0:
        recipe = _smaller(recipe, scale, request.overrides)
    if request.recordings is None:
        sources = {k: v for k, v in recipe.sources.items() if k not in _RECORDED}
        recipe = replace(recipe, sources=sources, splicing=replace(recipe.splicing, hours=0.0))
    if recipe.splicing.hours == 0:
        recipe = replace(recipe, sources=_without(recipe.sources, "spliced"))
    if not recipe.synthesis.voices or not recipe.synthesis.voice_hours:
        recipe = replace(
            recipe,
            synthesis=replace(recipe.synthesis, voice_hours=0.0),
            sources=_without(recipe.sources, "neural"),
        )
    return recipe


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def _small(file: ModelFile) -> dict[str, object]:
    """Settings that keep the zeros of a file, and give every matrix and table its bits again."""
    bits = {
        tensor.name: 4 if tensor.codec.startswith("i4") else 8
        for tensor in file.tensors
        if tensor.codec.startswith("i")
    }
    if not bits:
        return {}
    most = max(set(bits.values()), key=list(bits.values()).count)
    return {
        "compress.keep_mask": True,
        "compress.second_order.bits": most,
        "compress.second_order.exceptions": {
            name: own for name, own in bits.items() if own != most or name.endswith(".table")
        },
    }


def _without(sources: Mapping[str, SourceConfig], source: str) -> dict[str, SourceConfig]:
    """Sources without one of commands: Debian's engines say so many more."""
    left = dict(sources)
    if source in left and "commands" in left:
        gone, commands = left.pop(source), left["commands"]
        left["commands"] = SourceConfig(
            first=round(commands.first + gone.first, 6), last=round(commands.last + gone.last, 6)
        )
    return left


def _settings_of(overrides: Sequence[str]) -> set[str]:
    return {override.partition("=")[0].strip() for override in overrides}


def _is_set(request: Adaptation, section: str) -> bool:
    """Whether the user has set a value, or one of a section."""
    return any(
        key == section or key.startswith(f"{section}.") for key in _settings_of(request.overrides)
    )


def _smaller(recipe: Recipe, scale: float, overrides: Sequence[str]) -> Recipe:
    """Less speech, noise and training, but for what the user has set."""
    given = _settings_of(overrides)

    def scaled(key: str, value: float) -> float:
        return value if key in given else value * scale

    return replace(
        recipe,
        commands=replace(recipe.commands, hours=scaled("commands.hours", recipe.commands.hours)),
        synthesis=replace(
            recipe.synthesis,
            hours=scaled("synthesis.hours", recipe.synthesis.hours),
            voice_hours=scaled("synthesis.voice_hours", recipe.synthesis.voice_hours),
        ),
        splicing=replace(
            recipe.splicing,
            hours=scaled("splicing.hours", recipe.splicing.hours),
            most_minutes=max(
                recipe.splicing.least_minutes,
                scaled("splicing.most_minutes", recipe.splicing.most_minutes),
            ),
        ),
        noise=replace(recipe.noise, minutes=scaled("noise.minutes", recipe.noise.minutes)),
        train=replace(
            recipe.train,
            max_minutes=scaled("train.max_minutes", recipe.train.max_minutes),
        ),
    )


def _shape(config: TransducerConfig) -> dict[str, object]:
    """Settings of a recipe that say what network it starts from."""
    shape: dict[str, object] = {
        "model.vocab_size": config.vocab_size,
        "tokenizer.vocab_size": config.vocab_size,
        "model.joiner_width": config.joiner_width,
        "model.one_symbol_per_frame": config.one_symbol_per_frame,
        "model.encoder.num_bins": config.encoder.num_bins,
        "model.encoder.layers": config.encoder.layers,
        "model.encoder.hidden": config.encoder.hidden,
        "model.predictor.type": config.predictor.type,
        "model.predictor.context_size": config.predictor.context_size,
        "model.predictor.width": config.predictor.width,
    }
    if config.second_pass.layers:  # else the recipe says whether there will be one
        shape["model.second_pass.layers"] = config.second_pass.layers
    return shape


def training_minutes(request: Adaptation, recipe: Recipe, *, spent_s: float) -> float:
    """Minutes of training that keep an adaptation inside its budget.

    Args:
        request: The budget.
        recipe: What an undisturbed run would train, the most that is given; as it is where the
            user has set it.
        spent_s: Seconds that preparing took.

    Returns:
        Minutes, at least 40 % of the budget: a model that was hardly trained is of no use.
    """
    wanted = recipe.train.max_minutes
    if _is_set(request, "train.max_minutes"):
        return wanted
    reserved = _RESERVED_MINUTES * min(1.0, request.minutes / DEFAULT_MINUTES)
    if recipe.compress.second_order.bits:
        reserved += _ROUNDING_MINUTES
    left = request.minutes - spent_s / 60 - reserved
    if request.minutes > DEFAULT_MINUTES:
        wanted += request.minutes - DEFAULT_MINUTES
    return max(min(wanted, left), _LEAST_SHARE * request.minutes)


@dataclass(frozen=True, slots=True)
class Adapted:
    """A finished adaptation.

    Args:
        output: The model file.
        minutes: Of training.
        before: Figures of the model that it started from; None without held-out voices.
        after: Figures of the new model.
    """

    output: Path
    minutes: float
    before: Figures | None
    after: Figures | None


class _Record:
    """What was asked and how far it is, in the working folder.

    `spent_s` counts the seconds of preparing over all runs, so that a resumed adaptation keeps
    its budget.
    """

    def __init__(self, folder: Path, request: Mapping[str, object]) -> None:
        self._path = folder / "adapt.json"
        self._request = json.loads(json.dumps(request))
        self.spent_s = 0.0
        self.minutes: float | None = None
        self.resumed = False
        known = json.loads(self._path.read_text()) if self._path.is_file() else None
        if known is not None and known["request"] == self._request:
            self.spent_s, self.minutes, self.resumed = known["spent_s"], known["minutes"], True
        self.changed = (
            sorted(k for k in request if known["request"].get(k) != self._request[k])
            if known is not None and not self.resumed
            else []
        )

    def write(self) -> None:
        write_json(
            {"request": self._request, "spent_s": self.spent_s, "minutes": self.minutes},
            self._path,
        )


def _digest(path: Path) -> str:
    if not path.is_file():
        return "built in"
    return hashlib.blake2b(path.read_bytes(), digest_size=10).hexdigest()


def _require_space(recipe: Recipe) -> None:
    """Raise `ConfigError` where the working folder has no room for what is made in it."""
    folder = Path(recipe.folder)
    present = folder if folder.is_dir() else folder.parent
    used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    synthesis = recipe.synthesis
    spoken = recipe.commands.hours + synthesis.hours + synthesis.voice_hours
    spoken += recipe.splicing.hours
    hours = spoken + 2 * recipe.noise.minutes / 60
    needed = hours * 3600 * 32_000 + _OTHER_BYTES - used  # 16-bit samples at 16 kHz
    free = shutil.disk_usage(present).free
    if free < needed:
        raise ConfigError(
            f"{folder}: {free / 1e9:.1f} GB are free and about {needed / 1e9:.1f} GB are needed. "
            "Make room, or name another folder with --work-dir."
        )


def _start_anew(folder: Path) -> None:
    """Remove what training made. Clips, noise and rooms know themselves whether they still fit."""
    for name in ("checkpoints", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("tokenizer.model", "model.ear"):
        (folder / name).unlink(missing_ok=True)


def adapt(
    request: Adaptation,
    *,
    progress: Progress = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Adapted:
    """Make the model, or go on making it.

    Args:
        request: What is asked for.
        progress: Called with (stage, done, total) now and then.
        tell: Called with a line about what is going on: whether a run is resumed.

    Returns:
        The model and what it gained.

    Raises:
        CommandsError: The templates cannot be used.
        PronunciationsError: The pronunciations cannot be used.
        ConfigError: A setting is unknown or out of range, the model to start from has a shape
            that cannot be trained, or the working folder has no room.
        SynthesisError: No speech engine is installed, or none works, or the folder of voices
            cannot be used.
        KeyboardInterrupt: Stopped by Ctrl-C; the same request goes on from there.
    """
    recipe = adaptation_recipe(request)
    commands = load_commands(request.commands)
    start = Path(recipe.train.start_from)
    read_transducer(start, recipe.model)  # fails now rather than later
    own = recipe.data.own_pronunciations
    _require_hearable(commands, start, recipe)
    require_voices(recipe.synthesis.engine_weights)
    natural = natural_voices(recipe.synthesis) if recipe.synthesis.voice_hours else []
    folder = request.work_dir
    _require_space(recipe)
    record = _Record(
        folder,
        {
            **_settings(recipe, natural),
            "minutes": request.minutes,
            "templates": {name: _digest(Path(name)) for name in commands.sources},
            "pronunciations": _digest(own) if own else "",
            "start": _digest(Path(recipe.train.start_from)),
        },
    )
    if record.minutes is None:
        require_speaking(natural)
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / recipe.export.output
    if record.resumed and made.is_file():
        tell(f"{made} was made with the same settings; it is taken as it is")
    elif record.resumed:
        tell(f"going on in {folder}, where an adaptation with the same settings was stopped")
    elif record.changed:
        tell(f"starting anew in {folder}: {', '.join(record.changed)} changed")
        _start_anew(folder)
    record.write()
    if record.minutes is None:
        _prepare(recipe, record, progress)
        record.minutes = training_minutes(request, recipe, spent_s=record.spent_s)
        record.write()
    minutes = 0.0 if recipe.train.max_steps else record.minutes
    recipe = replace(recipe, train=replace(recipe.train, max_minutes=minutes))
    if not made.is_file():
        run.run(recipe, stages=_FINISHING, progress=progress, training_bar=False)
    _verify(made, folder / "cuts" / "commands_dev.jsonl.gz")
    _calibrate(recipe, commands, made, progress, tell)
    with made.open("rb") as source, replaced_file(request.output) as out:
        shutil.copyfileobj(source, out)
    before, after = _measure(recipe, commands, made, progress)
    return Adapted(request.output, record.minutes, before, after)


def _settings(recipe: Recipe, natural: Sequence[Voice]) -> dict[str, object]:
    """What decides the model, wherever it is made and wherever voices lie."""
    settings = asdict(recipe)
    del settings["name"], settings["folder"], settings["synthesis"]["voices"]
    if natural:
        settings["voices"] = model_sizes(natural)
    else:
        del settings["synthesis"]["voice_hours"], settings["synthesis"]["voice_weights"]
    return settings


def _measure(
    recipe: Recipe, commands: Commands, made: Path, progress: Progress
) -> tuple[Figures, Figures] | tuple[None, None]:
    """Figures of the model started from and of the one made; None without held-out voices."""
    installed = {voice.id for voice in installed_voices()[0]}
    if not installed.issuperset(HELD_OUT_VOICES):
        return None, None
    folder = Path(recipe.folder)
    progress("measure", 0, 1)
    clips = make_clips(
        folder / "measured",
        commands,
        heldout_texts=folder / "text" / "heldout.jsonl",
        seed=recipe.train.seed,
        processes=recipe.synthesis.processes,
    )
    figures = []
    for n, model in enumerate((Path(recipe.train.start_from), made)):

        def hear(done: float, total: float, *, before: int = n) -> None:
            progress("measure", before * total + done, 2 * total)

        own = recipe.data.own_pronunciations
        figures.append(measure(model, commands, clips, pronunciations=own, progress=hear))
    return figures[0], figures[1]


def _calibrate(
    recipe: Recipe,
    commands: Commands,
    made: Path,
    progress: Progress,
    tell: Callable[[str], None],
) -> None:
    """Fit the confidence to the model, once; where there is too little to hear, say so."""
    if stored_config(ModelFile(made)) is not None:
        return
    try:
        calibrate_model(
            made,
            commands,
            work_dir=Path(recipe.folder),
            output=made,
            pronunciations=recipe.data.own_pronunciations,
            seed=recipe.train.seed,
            progress=lambda done, total: progress("calibrate", done, total),
        )
    except ConfigError as err:
        tell(f"the confidence stays as it is for the embedded model: {err}")


def _require_hearable(commands: Commands, start: Path, recipe: Recipe) -> None:
    """Compile the commands as the model to be made will: what is too deep or too large fails now.

    Raises:
        CommandsError: They cannot be compiled.
        PronunciationsError: The user's own pronunciations cannot be used.
    """
    lexicon = Lexicon.load()
    own = recipe.data.own_pronunciations
    if own is not None:
        lexicon = lexicon.extended(own)
    tokenizer = tokenizer_of(start)
    graph = compile_commands(commands, tokenizer, lexicon=lexicon if recipe.model.phones else None)
    phones = len(PHONES) if recipe.model.phones else 0
    try:
        graph.word_graph.to_native(vocabulary=len(tokenizer.pieces), phones=phones)
    except ValueError as err:
        raise CommandsError(
            [CommandsProblem(commands.sources[0], f"too much to listen for: {err}", "say less")]
        ) from None


def _verify(model: Path, cuts: Path) -> None:
    """Open the model as a user will and hear some clips with it.

    Raises:
        ModelFileError: It hears no word in any of them.
    """
    recognizer = Recognizer.load(model)
    paths = [cut["recording"]["sources"][0]["source"] for cut in read_cuts(cuts)[:10]]
    if not any(recognizer.transcribe_file(path).text for path in paths):
        raise ModelFileError(
            model,
            f"the adapted model hears no word in {len(paths)} clips of the commands",
            remedy="Train longer with `--minutes`, or from another model with `--model`",
        )


def _prepare(recipe: Recipe, record: _Record, progress: Progress) -> None:
    """Run the stages before training, and keep the time that they take."""
    before, begun = record.spent_s, time.monotonic()
    written, whole = begun, False

    def hear(stage: str, done: float, total: float) -> None:
        nonlocal written, whole
        progress(stage, done, total)
        whole = done >= total
        if time.monotonic() - written > 5:
            written = time.monotonic()
            record.spent_s = before + written - begun
            record.write()

    for stage in _PREPARING:
        if stage == "corpora" and not recipe.data.recordings:
            continue
        if stage == "prune" and recipe.compress.second_order.share == 0:
            continue
        hear(stage, 0, 1)
        run.run(recipe, stages=[stage], progress=hear)
        if not whole:
            hear(stage, 1, 1)
    record.spent_s = before + time.monotonic() - begun
