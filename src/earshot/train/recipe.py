"""Recipes: one TOML file says how a model is made, from text to the shipped file.

Read into frozen dataclasses; an unknown key is an error with a suggestion, `--set a.b=c` overrides
one value. Knows the settings of every stage, and runs none of them (see `train.run`).
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from earshot.compress.config import CompressConfig
from earshot.core.errors import ConfigError
from earshot.decode.language_model import LanguageModelConfig as NgramWeights
from earshot.models.language_model import LanguageModelConfig
from earshot.models.transducer import TransducerConfig
from earshot.train.corpora import CorporaConfig
from earshot.train.language_text import LanguageTextConfig
from earshot.train.librispeech import LibriSpeechConfig
from earshot.train.mitigate_config import MitigateConfig
from earshot.train.noise import NoiseConfig
from earshot.train.phrase_text import PhraseTextConfig
from earshot.train.phrases import ListConfig
from earshot.train.precision import Precision
from earshot.train.rescoring_weights import WeightsConfig
from earshot.train.rooms import RoomsConfig
from earshot.train.splicing import SplicingConfig
from earshot.train.synthesis import SynthesisConfig
from earshot.train.text import TextConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where recordings come from."""

    source: Literal["assistant", "librispeech", "commands"] = "assistant"  # what fills `cuts/`
    recordings: str = "../shared/data"  # folder; EARSHOT_DATA overrides, but not for `commands`
    pronunciations: str = ""  # file of words as the user says them, beside the dictionary
    prepared: str = ""  # folder of another run; its speech, noise and rooms are taken

    @property
    def own_pronunciations(self) -> Path | None:
        """The file of `pronunciations`, if there is one."""
        return Path(self.pronunciations) if self.pronunciations else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandsConfig:
    """A user's command templates as training text, for `data.source` = `commands`."""

    files: tuple[str, ...] = ()  # templates: files, folders, or names of built-in ones
    sentences: int = 6000  # sampled, balanced over intents and values of lists
    dev_sentences: int = 300
    hours: float = 5.5  # of them spoken, by the voices of [synthesis]
    rivals: int = 0  # other commands that each clip of one is told from, each time it is heard

    def __post_init__(self) -> None:
        if self.rivals < 0:
            raise ConfigError(
                f"commands.rivals is {self.rivals}; it must not be negative. Change it."
            )
        for name in ("sentences", "dev_sentences", "hours"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"commands.{name} is {getattr(self, name)}; it must be above 0. Change it."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """SentencePiece word pieces, identity normaliser."""

    vocab_size: int = 384
    model_type: Literal["unigram", "bpe"] = "unigram"


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Augmentation at full strength; the curriculum scales it (see `train.augment`)."""

    speed: float = 0.13  # rate in 1 -+ speed
    vocal_tract: float = 0.16  # formants in 1 -+ vocal_tract
    reverb_share: float = 0.4
    noise_share: float = 0.8
    second_noise_share: float = 0.0  # of the clips with noise: another kind of noise with it
    snr_min_db: float = 0.0
    snr_max_db: float = 35.0
    equaliser_db: float = 8.0
    equaliser_share: float = 0.5
    band_limit_share: float = 0.15  # telephone band: half of the sampling rate is gone
    level_min_db: float = -30.0
    padding_max_s: float = 0.6
    cut_tail_share: float = 0.25  # clips that end where their speech ends
    wait_share: float = 0.0  # of the batches: their other clips last longer, noise and all
    wait_before_share: float = 0.0  # of those clips: part of that lies before their speech
    wait_max_s: float = 5.0
    time_masks: int = 2
    time_mask_frames: int = 12
    frequency_masks: int = 2
    frequency_mask_bins: int = 9
    start: float = 0.08  # share of the run with strength 0
    full: float = 0.5  # share of the run from which strength is 1

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.full <= 1:
            raise ConfigError(
                f"augment: start is {self.start} and full {self.full}; they must satisfy "
                "0 <= start < full <= 1. Change one."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Share of one data source in the batches, linear from the run's start to its end."""

    first: float = 1.0
    last: float = 1.0

    def __post_init__(self) -> None:
        if self.first < 0 or self.last < 0 or self.first + self.last == 0:
            raise ConfigError(
                f"sources: a share goes from {self.first} to {self.last}; neither may be "
                "negative, and one must be above 0. Change one, or leave the source out."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The loop. Time or steps bound it, whichever is given; schedules follow the bound."""

    max_minutes: float = 0.0  # of training; time before a resume counts
    max_steps: int = 0
    batch_s: float = 80.0  # audio per batch
    buckets: int = 12
    peak_lr: float = 2e-3
    final_lr_share: float = 0.02
    warmup_steps: int = 200
    weight_decay: float = 0.01
    transducer_every: int = 1  # batches; the CTC heads train on those between, too
    clip_norm: float = 5.0
    ema_decay: float = 0.998  # of the averaged weights; at first they span a tenth of the run
    precision: Precision = "auto"  # bf16-mixed where that is faster, else 32-true
    threads: int = 1
    workers: int = 1
    resident: bool = False  # all clips lie in the GPU's memory and are augmented there
    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"
    checkpoint_minutes: float = 5.0
    validate_minutes: float = 8.0
    validation_clips: int = 150
    seed: int = 1
    start_from: str = ""  # a `.ear` file whose network and word pieces to train further
    trained: Literal["all", "bias"] = "all"  # `bias`: all but the biasing networks stays as it is

    def __post_init__(self) -> None:
        for name in (
            "warmup_steps",
            "batch_s",
            "buckets",
            "checkpoint_minutes",
            "devices",
            "transducer_every",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"train.{name} is {getattr(self, name)}; it must be above 0. Change it."
                )
        if self.transducer_every > 1 and self.devices * self.nodes > 1:
            raise ConfigError(
                f"train.transducer_every is {self.transducer_every} on {self.devices} devices of "
                f"{self.nodes} nodes; more than one device trains all parts in every batch. Set "
                "it to 1."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """Biasing on a frozen recogniser, for `train.trained` = `bias`."""

    clips: int = 8000  # whose frames are computed before training
    clean_share: float = 0.4  # of them, not augmented
    one_path_until: float = 0.8  # share of the run in which only the likeliest alignment counts

    def __post_init__(self) -> None:
        if self.clips < 1 or not 0 <= self.clean_share <= 1 or not 0 <= self.one_path_until <= 1:
            raise ConfigError(
                f"adapter: clips is {self.clips}, clean_share {self.clean_share} and "
                f"one_path_until {self.one_path_until}; clips must be above 0, the others between "
                "0 and 1. Change one."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """The shipped file."""

    name: str = ""  # of the model; empty: of the recipe
    codec: Literal["i8_r16x4", "f32_r16"] = "i8_r16x4"
    output: str = "model.ear"
    licence: str = "Apache-2.0"
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointHeadConfig:
    """The end-of-query head, which is trained when the model is done."""

    clips: int = 0  # to train on, about 4 s each; 0 gives the model no head
    dev_clips: int = 160  # of other voices, that the head's own figures are of
    tuning_clips: int = 320  # of other voices, that both end-pointers' thresholds are chosen on
    size: int = 16  # of its two layers, a multiple of 16; 0 has none and scores each frame alone
    epochs: int = 24  # passes over the clips
    learning_rate: float = 4e-3  # it falls to 0
    max_cut_off: float = 0.07  # share of the tuning clips, which are harder than life
    max_withdrawn: float = 0.05  # share of the speculations on them
    pause_weight: float = 2.0  # of frames in pauses: taken for the end, they cut somebody off

    def __post_init__(self) -> None:
        for name, low, high in (
            ("clips", 0, 100_000),
            ("dev_clips", 16, 10_000),
            ("tuning_clips", 32, 10_000),
            ("size", 0, 256),
            ("epochs", 1, 1000),
            ("learning_rate", 1e-6, 1.0),
            ("pause_weight", 0.01, 100.0),
            ("max_cut_off", 0.0, 1.0),
            ("max_withdrawn", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"endpoint.{name} is {value}; it must lie in {low}..{high}.")
        if self.size % 16:
            raise ConfigError(f"endpoint.size is {self.size}; it must be a multiple of 16.")


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramConfig:
    """The n-gram language model for free speech, of the text stage's sentences."""

    max_ngrams: int = 0  # of two and more pieces, those that matter least go; 0: no such model
    order: int = 4  # pieces of the longest
    weight: float = 0.3  # how much it counts in the search
    internal_weight: float = 0.1  # how much of the network's own language model is taken off
    bonus: float = 1.0  # nats for each piece

    def __post_init__(self) -> None:
        if self.max_ngrams < 0 or not 1 <= self.order <= 6:
            raise ConfigError(
                f"ngrams: max_ngrams is {self.max_ngrams} and order {self.order}; max_ngrams must "
                "not be negative, and order must lie in 1..6. Change one."
            )
        _ = self.weights  # which checks theirs

    @property
    def weights(self) -> NgramWeights:
        """What the file recommends to the search."""
        return NgramWeights(
            weight=self.weight, internal_weight=self.internal_weight, bonus=self.bonus
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides what a model becomes."""

    name: str
    folder: str  # everything made goes below it; never committed
    data: DataConfig = field(default_factory=DataConfig)
    commands: CommandsConfig = field(default_factory=CommandsConfig)
    text: TextConfig = field(default_factory=TextConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    rooms: RoomsConfig = field(default_factory=RoomsConfig)
    corpora: CorporaConfig = field(default_factory=CorporaConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    splicing: SplicingConfig = field(default_factory=SplicingConfig)
    librispeech: LibriSpeechConfig = field(default_factory=LibriSpeechConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: TransducerConfig = field(default_factory=TransducerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)
    phrases: PhraseTextConfig = field(default_factory=PhraseTextConfig)
    lists: ListConfig = field(default_factory=ListConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    compress: CompressConfig = field(default_factory=CompressConfig)
    mitigate: MitigateConfig = field(default_factory=MitigateConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    endpoint: EndpointHeadConfig = field(default_factory=EndpointHeadConfig)
    ngrams: NgramConfig = field(default_factory=NgramConfig)

    def __post_init__(self) -> None:
        if (self.train.max_minutes > 0) == (self.train.max_steps > 0):
            raise ConfigError(
                f"train: max_minutes is {self.train.max_minutes} and max_steps "
                f"{self.train.max_steps}; exactly one must be above 0. Set one, and the other to 0."
            )
        if self.model.vocab_size != self.tokenizer.vocab_size:
            raise ConfigError(
                f"model.vocab_size is {self.model.vocab_size} and tokenizer.vocab_size "
                f"{self.tokenizer.vocab_size}; they must be equal. Change one."
            )
        if self.model.encoder.stack != 4:
            raise ConfigError(
                f"model.encoder.stack is {self.model.encoder.stack}; it must be 4, which makes "
                "the frames of 40 ms that the format asks for. Change it."
            )
        if (self.data.source == "commands") != bool(self.commands.files):
            raise ConfigError(
                f"commands.files names {len(self.commands.files)} files and data.source is "
                f"'{self.data.source}'; templates belong to the source 'commands'. Change one."
            )
        if self.commands.rivals and not (self.commands.files and self.model.phones):
            raise ConfigError(
                f"commands.rivals is {self.commands.rivals}, commands.files names "
                f"{len(self.commands.files)} files and model.phones is {self.model.phones}; rivals "
                "are commands, and told apart by phones. Set both, or commands.rivals to 0."
            )
        if self.compress.needs_start and not self.train.start_from:
            raise ConfigError(
                "compress: keep_mask, changed_blocks or second_order.share is set and "
                "train.start_from is empty; what is kept must come from a model file. Name one in "
                "train.start_from."
            )
        if self.train.trained == "bias" and self.compress.second_order.bits > 0:
            raise ConfigError(
                "compress.second_order.bits is set and train.trained is 'bias'; the recogniser "
                "under an adapter stays as it is. Set one of them otherwise."
            )
        if self.train.trained == "bias" and (
            not self.train.start_from or self.model.bias.query == "none"
        ):
            raise ConfigError(
                f"train.trained is 'bias', train.start_from '{self.train.start_from}' and "
                f"model.bias.query '{self.model.bias.query}'; an adapter needs a recogniser and a "
                "query. Name a model file in train.start_from, and set model.bias.query."
            )
        if not self.sources:
            raise ConfigError("sources: is empty; at least one source must be named. Add one.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageTrainConfig:
    """The loop of a language model. Time or steps bound it, whichever is given."""

    max_minutes: float = 0.0  # of training; time before a resume counts
    max_steps: int = 0
    batch_pieces: int = 2048
    peak_lr: float = 2e-3
    final_lr_share: float = 0.02
    warmup_steps: int = 100
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    precision: Precision = "auto"  # bf16-mixed where that is faster, else 32-true
    threads: int = 1
    accelerator: str = "auto"
    checkpoint_minutes: float = 2.0
    validate_minutes: float = 4.0
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_pieces", "warmup_steps", "checkpoint_minutes", "validate_minutes"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"train.{name} is {getattr(self, name)}; it must be above 0. Change it."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageRecipe:
    """Everything that decides what a language model for rescoring becomes."""

    name: str
    folder: str  # everything made goes below it; never committed
    kind: Literal["language-model"]
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    language_text: LanguageTextConfig = field(default_factory=LanguageTextConfig)
    tokenizer: TokenizerConfig = field(default_factory=lambda: TokenizerConfig(vocab_size=1024))
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    train: LanguageTrainConfig = field(default_factory=LanguageTrainConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)

    def __post_init__(self) -> None:
        if (self.train.max_minutes > 0) == (self.train.max_steps > 0):
            raise ConfigError(
                f"train: max_minutes is {self.train.max_minutes} and max_steps "
                f"{self.train.max_steps}; exactly one must be above 0. Set one, and the other to 0."
            )
        if self.model.vocab_size != self.tokenizer.vocab_size:
            raise ConfigError(
                f"model.vocab_size is {self.model.vocab_size} and tokenizer.vocab_size "
                f"{self.tokenizer.vocab_size}; they must be equal. Change one."
            )


def load_recipe(path: Path | str, overrides: list[str] | None = None) -> Recipe:
    """Read the recipe of a recogniser.

    Args:
        path: TOML file.
        overrides: `section.key=value` each, value in TOML syntax (bare words are strings).

    Returns:
        The recipe, every value checked for its type.

    Raises:
        ConfigError: No such file, not TOML, an unknown key or a wrong type, or a recipe of
            another kind.
    """
    recipe = load_any_recipe(path, overrides)
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            f"{path}: is a recipe of kind '{recipe.kind}'; a recogniser's is needed here. Give one "
            "without `kind`, such as recipes/assistant-en.toml."
        )
    return recipe


def load_any_recipe(
    path: Path | str, overrides: list[str] | None = None
) -> Recipe | LanguageRecipe:
    """Read a recipe; its `kind` says what it makes, a recogniser where it has none.

    Args:
        path: TOML file.
        overrides: `section.key=value` each, value in TOML syntax (bare words are strings).

    Returns:
        The recipe, every value checked for its type.

    Raises:
        ConfigError: No such file, not TOML, an unknown key or a wrong type.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(
            f"{path}: cannot be read ({err.strerror}). Give the path of a recipe, such as "
            "recipes/assistant-en.toml."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: is not valid TOML ({err}). Mend that line.") from None
    for override in overrides or []:
        _apply_override(tree, override)
    if "kind" in tree:
        return _build(LanguageRecipe, tree, str(path))
    return _build(Recipe, tree, str(path))


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: must read section.key=value. Add what is missing.")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for part in keys[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: '{part}' is a value, not a section.")
    tree[keys[-1]] = value


def _build(kind: type[T], tree: dict[str, Any], where: str) -> T:
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}."
            raise ConfigError(f"{where}: unknown key '{key}'; {hint}")
        values[key] = _convert(hints[key], value, f"{where}: {key}")
    try:
        return kind(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as err:
        raise ConfigError(f"{where}: {err}. Mend the recipe.") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: is {value!r}; it must be a section.")
        return _build(typing.cast("type[Any]", hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {k: _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is tuple and isinstance(value, list) and arguments[-1] is Ellipsis:
        return tuple(_convert(arguments[0], v, where) for v in value)
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        pairs = zip(arguments, value, strict=True)
        return tuple(_convert(kind, v, where) for kind, v in pairs)
    if origin is Literal and value in arguments:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is hint:
        return value
    wanted = hint.__name__ if origin is None else str(hint).replace("typing.", "")
    raise ConfigError(f"{where}: is {value!r}; it must be of type {wanted}.")
