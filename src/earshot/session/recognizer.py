"""The recogniser: audio of any rate in, transcripts out, and with commands what they ask for.

`Recognizer` is immutable and may serve many streams; a `Stream` holds everything about one
signal. All searching happens in the engine, so results are the same however audio is cut into
chunks. Knows nothing of servers, of what commands mean, or of files of results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from earshot import _native
from earshot.core.errors import AudioError, ConfigError, ModelFileError
from earshot.core.transcript import Transcript
from earshot.data.audio import AudioFile, Source, StreamInput
from earshot.data.pronunciation import PHONES, Lexicon
from earshot.data.tokenizer import Tokenizer
from earshot.decode.attention import AttentionMap, attention_map
from earshot.decode.biasing import (
    DEFAULT_ATTENTION_WEIGHT,
    HotwordCompiler,
    Hotwords,
    usual_score,
)
from earshot.decode.language_model import (
    LanguageModelConfig,
    language_model_of,
    open_language_model,
)
from earshot.decode.result import rescored_transcript, to_lattice, to_transcript
from earshot.decode.search import SearchConfig
from earshot.modelfile.reader import ModelFile, engine_errors
from earshot.runtime.session import open_model
from earshot.session.looks import LONGEST_S, hear_again

if TYPE_CHECKING:
    from earshot.core.events import Event
    from earshot.core.understanding import Understanding
    from earshot.decode.biasing import Hotword
    from earshot.decode.endpoint import EndpointConfig
    from earshot.decode.lattice import Lattice
    from earshot.decode.rescoring import Rescorer
    from earshot.session.event_stream import EventStream
    from earshot.session.looks import Look
    from earshot.understand.confidence import CommandConfig
    from earshot.understand.decision import Decision
    from earshot.understand.graph import CommandGraph
    from earshot.understand.templates import Commands

    CommandSource = str | Path | Sequence[str | Path] | Commands
    HotwordSource = (
        str | Path | Hotwords | Mapping[str, float] | Iterable[str | Hotword | tuple[str, float]]
    )

EMBEDDED_MODEL = "assistant-en.ear"
# Of the beam: what is heard alone; beside a language model; beside hotwords. Chosen on development
# data, see docs/log.md.
PLAIN_PATHS, LANGUAGE_MODEL_PATHS, HOTWORD_PATHS = 4, 8, 16


def usual_paths(*, language_model: bool, hotwords: bool) -> int:
    """Histories that the beam keeps where nobody says how many.

    Args:
        language_model: Whether there is one.
        hotwords: Whether there are any for all streams.
    """
    if hotwords:
        return HOTWORD_PATHS
    return LANGUAGE_MODEL_PATHS if language_model else PLAIN_PATHS


def embedded_model_path() -> Path:
    """Where the model that comes with the package is.

    Returns:
        The path of a `.ear` file that exists.

    Raises:
        ModelFileError: This installation has no model.
    """
    path = Path(__file__).parent.parent / "assets" / EMBEDDED_MODEL
    if not path.is_file():
        raise ModelFileError(
            path,
            "this installation has no embedded model",
            remedy="Reinstall earshot, or name a model file with `--model` or "
            "`Recognizer.load(path)`",
        )
    return path


def tokenizer_of(path: Path) -> Tokenizer:
    """The word pieces of a model as something that spells words.

    Args:
        path: A `.ear` file.

    Returns:
        The tokenizer that the file carries.

    Raises:
        ModelFileError: The file is no model, or carries no tokenizer that can be used.
    """
    file = ModelFile(path)
    problem = "it carries no tokenizer, which commands are spelled with"
    if any(tensor.name == "tokenizer" for tensor in file.tensors):
        try:
            return Tokenizer(file.tensor_bytes("tokenizer"))
        except ConfigError as err:
            problem = f"its tokenizer cannot be used ({err})"
    raise ModelFileError(path, problem, remedy="Export the model again with `earshot train export`")


def lexicon_of(path: Path, *, pronunciations: Path | None = None) -> Lexicon | None:
    """How to pronounce words for a model that hears phones.

    Args:
        path: A `.ear` file.
        pronunciations: A file of the user's own, see `Lexicon.extended`.

    Returns:
        What commands are compiled with; None for a model without phones.

    Raises:
        ModelFileError: The file is no model, or hears other phones than the dictionary has.
        PronunciationsError: The user's file cannot be used.
    """
    lexicon = Lexicon.load()
    if pronunciations is not None:
        lexicon = lexicon.extended(pronunciations)
    phones = ModelFile(path).header.get("phones")
    if phones is None:
        return None
    if phones != list(PHONES):
        raise ModelFileError(
            path,
            "its phones are not those of the dictionary of pronunciations",
            remedy=f"Train it with the {len(PHONES)} phones of `earshot.data.pronunciation`",
        )
    return lexicon


class Stream:
    """One signal on its way to words; made by `Recognizer.create_stream`.

    Feed it with `accept_waveform`, end it with `input_finished`, move it with `decode` (or
    many together with `Recognizer.decode_streams`), and ask for the `result` at any time.
    """

    def __init__(
        self,
        engine: _native.Recognizer,
        grammar: tuple[CommandGraph, CommandConfig] | None,
        *,
        compile_hotwords: Callable[[Any, float | None], Hotwords],
        frame_s: float,
        lattice: bool = False,
        rescorer: Rescorer | None = None,
    ) -> None:
        self._engine = engine
        self._native = engine.create_stream(lattice=lattice or rescorer is not None)
        self._grammar = grammar
        self._compile_hotwords = compile_hotwords
        self._frame_s = frame_s
        self._lists: dict[int, Hotwords] = {}  # by serial: this utterance's, and the next one's
        self._rescorer = rescorer
        self._rescored: tuple[int, Transcript] | None = None  # and how many frames it rests on
        self._decided: tuple[tuple[int, bool], Decision] | None = None  # and what it rests on
        self._input = StreamInput()
        self._heard: list[npt.NDArray[np.float32]] = []  # all of it, as long as a command may be
        self._finished = False

    def accept_waveform(self, sample_rate_hz: int, samples: npt.ArrayLike) -> None:
        """Take more audio; nothing is searched yet.

        Args:
            sample_rate_hz: 1 kHz..1 MHz, the same for the whole stream.
            samples: Shape (n,): floats in -1..1, or int16 or int32 at full scale. n may be 0.

        Raises:
            AudioError: The samples have a wrong shape or type, are not finite or not on the
                scale of -1..1. The stream is as it was before.
            RuntimeError: The input was finished, or the rate differs from before.
        """
        if self._finished:
            raise RuntimeError("stream: audio after input_finished(). Call reset() first.")
        self._push(self._input.push(sample_rate_hz, samples))

    def input_finished(self) -> None:
        """End the signal, so that its last word comes out; calling twice is allowed."""
        if self._finished:
            return
        self._finished = True
        self._push(self._input.drain())
        self._native.input_finished()

    def _push(self, samples: npt.NDArray[np.float32]) -> None:
        self._native.accept_waveform(samples)
        if self._grammar is None:
            return
        if self.duration_s <= LONGEST_S:
            self._heard.append(samples)
        else:  # no command, and not heard again
            self._heard.clear()

    def is_ready(self) -> bool:
        """Whether there is audio that `decode` has not searched yet."""
        return self._native.is_ready()

    def decode(self) -> None:
        """Search all audio that has come."""
        self._engine.decode_streams([self._native])

    def result(self) -> Transcript:
        """The words found so far; before the input is finished they may still change.

        With commands they are those of the command where one is accepted, else those of free
        speech. With a rescorer, free speech is ranked once more when the input is finished and
        decoded; `Transcript.rescoring` says what came of it.
        """
        found = self._native.result()
        decision = self._decide(found)
        if decision is not None and decision.words is not None:
            found = {**found, "words": list(decision.words)}
            return to_transcript(found, duration_s=self.duration_s)
        first = to_transcript(found, duration_s=self.duration_s)
        if self._rescorer is None or not self._finished or not first.words or self.is_ready():
            return first
        # Once: asking again must not send again.
        if self._rescored is None or self._rescored[0] != found["num_frames"]:
            rescored = self._rescorer.rescore(self.lattice())
            self._rescored = (found["num_frames"], rescored_transcript(first, rescored))
        return self._rescored[1]

    def lattice(self) -> Lattice:
        """Every plausible hypothesis of free speech so far, as a graph of words.

        Its best path is what free speech was recognised as (what `result` says without
        commands). All paths end where the search stands, whether or not the input is finished.

        Returns:
            The lattice: words with times and scores. See `earshot.decode.lattice` for
            what can be asked of it.

        Raises:
            ConfigError: The stream records none.
        """
        recorded = self._native.lattice()
        if recorded is None:
            raise ConfigError(
                "stream: it records no lattice. Make it with `create_stream(lattice=True)`."
            )
        return to_lattice(recorded)

    def understanding(self) -> Understanding | None:
        """What the speaker wants, going by what was decoded so far.

        Commands that were only nearly said are looked for once the input is finished.

        Returns:
            Intent, slots and confidence; intent None where no command is accepted, and then the
            confidence is that of the likeliest one. None for a recogniser without commands.
        """
        decision = self._decide(self._native.result())
        return None if decision is None else decision.understanding

    def _decide(self, free: _native.StreamResult) -> Decision | None:
        if self._grammar is None:
            return None
        # Nothing else changes what is found: every frame that was decoded counts.
        basis = (free["num_frames"], self._finished)
        if self._decided is None or self._decided[0] != basis:
            from earshot.understand.decision import decide

            graph, config = self._grammar
            whole = self._finished and not self.is_ready()
            found = self._native.command_result(ended=whole)
            assert found is not None  # the engine has the graph
            decision = decide(
                found,
                free,
                graph,
                config=config,
                nearest=self._finished,
                again=partial(self._hear_again, config.looks) if whole else None,
            )
            self._decided = (basis, decision)
        return self._decided[1]

    def _hear_again(self, looks: Sequence[float]) -> list[Look]:
        samples = np.concatenate(self._heard) if self._heard else np.zeros(0, np.float32)
        return hear_again(self._engine, samples, looks)

    def set_hotwords(
        self, hotwords: HotwordSource | None, *, score: float | None = None
    ) -> Hotwords | None:
        """Replace the hotwords, from the next utterance on.

        They count at once if nothing was decoded since the stream began or was reset, else after
        the next `reset`. They stay until they are replaced.

        Args:
            hotwords: As for `Recognizer.create_stream`; None listens for none.
            score: Nats a piece of phrases without a score of their own.

        Returns:
            What was made of them, with `problems`; it can be used for other streams.

        Raises:
            HotwordsError: The list cannot be used; it names every problem at once.
            ConfigError: The score is out of its range, or the model cannot spell.
        """
        compiled = None if hotwords is None else self._compile_hotwords(hotwords, score)
        self._native.set_hotwords(None if compiled is None else compiled.native)
        self._attend(compiled)
        return compiled

    def _attend(self, hotwords: Hotwords | None) -> None:
        attended = None if hotwords is None else hotwords.attended
        self._native.set_phrases(attended)
        if hotwords is not None and attended is not None:
            self._lists[attended.serial] = hotwords
            for serial in sorted(self._lists)[:-2]:
                del self._lists[serial]

    def attention(self, *, most: int = 24) -> AttentionMap | None:
        """Which hotwords the frames decoded so far attended to.

        Args:
            most: Phrases to tell of: those that were looked at most.

        Returns:
            Weights by phrase and frame; None for a stream that does not keep them (see
            `Recognizer.create_stream`), a model without trained biasing, and without hotwords.
        """
        found = self._native.attention()
        if found is None:
            return None
        hotwords = self._lists[found["phrases"].serial]
        return attention_map(
            found, [h.phrase for h in hotwords.phrases], frame_s=self._frame_s, most=most
        )

    @property
    def duration_s(self) -> float:
        """Audio that came in since the last reset, seconds."""
        return self._input.duration_s

    def reset(self) -> None:
        """Forget everything; the stream is as if new, and may have another rate."""
        self._native.reset()
        self._decided = self._rescored = None
        self._input = StreamInput()
        self._heard = []
        self._finished = False


class Recognizer:
    """Turns speech into words; make one with `Recognizer.load`.

    | to do | call |
    |---|---|
    | transcribe samples | `transcribe(samples, sample_rate_hz)` |
    | transcribe a file of any length | `transcribe_file(path)` |
    | follow a live signal | `create_stream()` |
    | follow many signals | `decode_streams(streams)` |
    | cut a signal into utterances, with events | `create_event_stream()` |
    | hear commands | `load(commands="commands.yaml")`, then `Stream.understanding()` |
    | hear some names more readily | `load(hotwords=...)`, `create_stream(hotwords=...)` |

    Args:
        model: From `runtime.session.open_model`.
        search: How to search; None takes the beam that is usual for what it is given.
        commands: What may be asked for, compiled for this model's word pieces, and with a lexicon
            if it hears phones; None recognises free speech only.
        command_config: How commands are searched for and when one is believed.
        hotwords: Phrases that all streams are to hear more readily, see `create_stream`.
        hotwords_score: Nats a piece of phrases without a score of their own.
        attention_weight: What the attention to hotwords adds, of a model with trained biasing.
        language_model: What free speech is likely to be, from `open_language_model`; None takes the
            one that the model carries, if any.
        language_model_config: How much it counts; None takes what its file recommends.
        rescorer: Ranks the lattice of free speech once more; None leaves it at the first pass.

    Raises:
        ModelFileError: The model is not a recogniser's.
        HotwordsError: The hotwords cannot be used; it names every problem at once.
    """

    def __init__(
        self,
        model: _native.Model,
        search: SearchConfig | None = None,
        *,
        commands: CommandGraph | None = None,
        command_config: CommandConfig | None = None,
        hotwords: HotwordSource | None = None,
        hotwords_score: float | None = None,
        attention_weight: float = DEFAULT_ATTENTION_WEIGHT,
        language_model: tuple[_native.Ngram, LanguageModelConfig] | None = None,
        language_model_config: LanguageModelConfig | None = None,
        rescorer: Rescorer | None = None,
        lexicon: Lexicon | None = None,
    ) -> None:
        self._model = model
        self._lexicon = lexicon
        self._rescorer = rescorer
        self._endpoint: EndpointConfig | None = None
        found = language_model or language_model_of(model)
        if language_model_config is None:
            # Without a language model there is nothing to weigh.
            language_model_config = found[1] if found else LanguageModelConfig(weight=0)
        self.language_model_config = language_model_config
        if hotwords_score is None:
            hotwords_score = usual_score(
                language_model=language_model_config.weight > 0, phones=bool(self._model.phones)
            )
        self._hotwords_score = hotwords_score
        self._attention_weight = attention_weight
        self._compiler: HotwordCompiler | None = None
        self.hotwords = None if hotwords is None else self.compile_hotwords(hotwords)
        if search is None:
            paths = usual_paths(language_model=bool(found), hotwords=hotwords is not None)
            search = SearchConfig(max_active_paths=paths)
        self._grammar: tuple[CommandGraph, CommandConfig] | None = None
        grammar_search: dict[str, Any] = {}
        if commands is not None:
            if command_config is None:
                from earshot.understand.confidence import CommandConfig

                command_config = CommandConfig()
            self._grammar = (commands, command_config)
            grammar_search = {
                "word_graph": commands.word_graph.to_native(
                    vocabulary=len(model.pieces), phones=len(model.phones)
                ),
                **command_config.search_settings(),
            }
        with engine_errors():
            self._engine = _native.Recognizer(
                model,
                method=search.method,
                max_active_paths=search.max_active_paths,
                max_symbols_per_frame=search.max_symbols_per_frame,
                blank_penalty=search.blank_penalty,
                lattice_paths=search.lattice_paths,
                lattice_beam=search.lattice_beam,
                lattice_arcs=search.lattice_arcs,
                lattice_context=search.lattice_context,
                hotwords=None if self.hotwords is None else self.hotwords.native,
                lm=found[0] if found else None,
                lm_weight=language_model_config.weight,
                internal_lm_weight=language_model_config.internal_weight,
                lm_bonus=language_model_config.bonus,
                **grammar_search,
            )

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        commands: CommandSource | None = None,
        command_threshold: float | None = None,
        pronunciations: str | Path | None = None,
        hotwords: HotwordSource | None = None,
        hotwords_score: float | None = None,
        attention_weight: float | None = None,
        lm: str | Path | None = None,
        lm_weight: float | None = None,
        internal_lm_weight: float | None = None,
        lm_bonus: float | None = None,
        method: str = "modified_beam_search",
        max_active_paths: int | None = None,
        max_symbols_per_frame: int = 0,
        blank_penalty: float = 0.0,
        lattice_paths: int = 32,
        lattice_beam: float = 16.0,
        rescorer: str | Rescorer | None = None,
        rescorer_token: str | None = None,
    ) -> Recognizer:
        """Open a model and get ready to recognise.

        Args:
            path: A `.ear` file; None takes the model that comes with the package.
            commands: Command templates to listen for: a file, a folder, a list of them, or
                `understand.templates.Commands`. None recognises free speech only.
            command_threshold: Confidence from which on a command is accepted, 0..1; 0 accepts
                any that fits best. None takes the model's own, or where it carries none, the one
                that was chosen for the embedded model on development data.
            pronunciations: File of your own pronunciations of words in commands and hotwords, lines
                such as `roomba  R UW1 M B AH0`; a model that hears no phones makes no use of it.
            hotwords: Phrases that all streams are to hear more readily: a file of them, a list, or
                a mapping to scores; see `create_stream`.
            hotwords_score: Nats a piece of phrases without a score of their own, 0..20; None takes
                `decode.biasing.usual_score`. 0 changes nothing, above 4 other words suffer.
            attention_weight: What the attention to hotwords adds, 0..10, of a model with trained
                biasing: 1 as it was trained; above 0 it also weighs hotwords that were found by
                their sounds, at 0 there is no attention. Other models have none. None takes
                `decode.biasing.DEFAULT_ATTENTION_WEIGHT`.
            lm: Language model of free speech, a file from `earshot lm`; None takes the one that the
                model carries, if any.
            lm_weight: How much it counts, 0..10; 0 leaves it out. None takes what its file
                recommends, as for the next two.
            internal_lm_weight: How much of the network's own language model is taken off, 0..10.
            lm_bonus: Nats for each symbol of the language model, -100..100.
            method: "greedy_search" or "modified_beam_search".
            max_active_paths: Histories that the beam keeps, 1..64. None keeps 4, with a language
                model 8 and with hotwords 16: they need other words to choose among.
            max_symbols_per_frame: Pieces per 40 ms frame, 0..100; 0 takes the model's own cap.
            blank_penalty: Nats taken off the blank's score.
            lattice_paths: Histories that a stream keeps which records a lattice, 1..64.
            lattice_beam: How many nats behind the best path a lattice reaches, 0..1000.
            rescorer: URL of `earshot serve rescore`, asked for free speech within 300 ms, or any
                `decode.rescoring.Rescorer`. Lattices are sent, never audio; whatever happens
                there, the first pass stands and `Transcript.rescoring` says why.
            rescorer_token: Bearer token for the URL.

        Returns:
            The recogniser.

        Raises:
            ModelFileError: The model is absent, broken, or not a recogniser's.
            CommandsError: The templates cannot be used; it names every problem at once.
            PronunciationsError: The pronunciations cannot be used; likewise.
            HotwordsError: The hotwords cannot be used; likewise.
            ConfigError: A weight without a language model, or a setting or the threshold is out of
                its range, or the rescorer's address or token cannot be used.
        """
        if isinstance(rescorer, str):
            from earshot.decode.rescoring_client import RescoringClient

            rescorer = RescoringClient(rescorer, token=rescorer_token)
        elif rescorer_token is not None:
            raise ConfigError(
                "rescorer_token: there is no URL to send it to. Give `rescorer` as one, or leave "
                "it out."
            )
        file = embedded_model_path() if path is None else Path(path)

        def parts(model: _native.Model) -> dict[str, Any]:
            found = language_model_of(model) if lm is None else open_language_model(Path(lm))
            weights = {
                "weight": lm_weight,
                "internal_weight": internal_lm_weight,
                "bonus": lm_bonus,
            }
            given = {name: value for name, value in weights.items() if value is not None}
            if found is None and set(given) - {"internal_weight"}:
                raise ConfigError(
                    f"lm_weight or lm_bonus is given; {model.name} carries no language model. "
                    "Give `lm` too, or leave them out."
                )
            base = found[1] if found else LanguageModelConfig(weight=0)
            paths = max_active_paths
            if paths is None:
                paths = usual_paths(language_model=bool(found), hotwords=hotwords is not None)
            return {
                "search": SearchConfig(
                    method=method,
                    max_active_paths=paths,
                    max_symbols_per_frame=max_symbols_per_frame,
                    blank_penalty=blank_penalty,
                    lattice_paths=lattice_paths,
                    lattice_beam=lattice_beam,
                ),
                "hotwords": hotwords,
                "hotwords_score": hotwords_score,
                "attention_weight": (
                    DEFAULT_ATTENTION_WEIGHT if attention_weight is None else attention_weight
                ),
                "language_model": found,
                "language_model_config": replace(base, **given),
            }

        if commands is None:
            if command_threshold is not None:
                raise ConfigError(
                    f"command_threshold is {command_threshold}; there are no commands to accept. "
                    "Give `commands` too, or leave it out."
                )
            model = open_model(file)
            lexicon = None
            if pronunciations is not None:
                lexicon = Lexicon.load().extended(Path(pronunciations))
            return cls(model, rescorer=rescorer, lexicon=lexicon, **parts(model))
        # Imported here: a recogniser of free speech needs none of it.
        from earshot.understand.calibration import stored_config
        from earshot.understand.confidence import CommandConfig
        from earshot.understand.graph import compile_commands
        from earshot.understand.templates import Commands, load_commands

        config = stored_config(ModelFile(file)) or CommandConfig()
        if command_threshold is not None:
            config = replace(config, threshold=command_threshold)
        if not isinstance(commands, Commands):
            commands = load_commands([commands] if isinstance(commands, str | Path) else commands)
        model = open_model(file)
        lexicon = lexicon_of(
            file, pronunciations=None if pronunciations is None else Path(pronunciations)
        )
        graph = compile_commands(commands, tokenizer_of(file), lexicon=lexicon)
        return cls(
            model,
            commands=graph,
            command_config=config,
            rescorer=rescorer,
            lexicon=lexicon,
            **parts(model),
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def pieces(self) -> tuple[str, ...]:
        """The word piece of every id."""
        return tuple(self._model.pieces)

    @property
    def phones(self) -> tuple[str, ...]:
        """The phones that the model hears for commands; none if it goes by pieces only."""
        return tuple(self._model.phones)

    @property
    def attends(self) -> bool:
        """Whether the model has trained biasing: its network attends to hotwords, too."""
        return "bias" in self._model.graph_names

    def compile_hotwords(self, hotwords: HotwordSource, *, score: float | None = None) -> Hotwords:
        """Make phrases ready once for many streams.

        Args:
            hotwords: As for `create_stream`.
            score: Nats a piece of phrases without a score of their own; None takes the
                recogniser's default.

        Returns:
            What streams take; `problems` names phrases that the model cannot spell.

        Raises:
            HotwordsError: The list cannot be used; it names every problem at once.
            ConfigError: The score is out of its range, or the model cannot spell.
        """
        if isinstance(hotwords, Hotwords):
            return hotwords
        if self._compiler is None:
            self._compiler = HotwordCompiler(self._model, lexicon=self._lexicon)
        return self._compiler.compile(
            hotwords,
            default_score=self._hotwords_score if score is None else score,
            attention_weight=self._attention_weight,
        )

    def create_stream(
        self,
        *,
        lattice: bool = False,
        hotwords: HotwordSource | None = None,
        hotwords_score: float | None = None,
        keep_attention: bool = False,
    ) -> Stream:
        """A new stream, independent of all others.

        Args:
            lattice: Record what `Stream.lattice` returns. The search then goes by
                `lattice_paths`, whatever the method, and takes longer.
            hotwords: Phrases to hear more readily, instead of the recogniser's own: a file as
                sherpa-onnx defines it, a list of phrases or of pairs with scores, a mapping to
                scores, or what `compile_hotwords` made. None keeps the recogniser's.
            hotwords_score: Nats a piece of phrases without a score of their own.
            keep_attention: Remember what frames attend to, for `Stream.attention`.

        Returns:
            The stream.

        Raises:
            HotwordsError: The list cannot be used; it names every problem at once.
            ConfigError: The score is out of its range, or the model cannot spell.
        """
        stream = Stream(
            self._engine,
            self._grammar,
            compile_hotwords=lambda source, score: self.compile_hotwords(source, score=score),
            frame_s=self._model.frame_ms / 1000,
            lattice=lattice,
            rescorer=self._rescorer,
        )
        if keep_attention:
            stream._native.keep_attention(True)
        if hotwords is not None:
            stream.set_hotwords(hotwords, score=hotwords_score)
        else:
            stream._attend(self.hotwords)
        return stream

    @property
    def engine(self) -> _native.Recognizer:
        """What searches, for who asks its streams for more than words, as calibration does."""
        return self._engine

    @property
    def hears_commands(self) -> bool:
        """Whether it was loaded with commands."""
        return self._grammar is not None

    def create_event_stream(
        self,
        *,
        endpoint: EndpointConfig | None = None,
        max_utterance_s: float | None = None,
        hotwords: HotwordSource | None = None,
        nbest: int = 1,
        lattice: bool = False,
    ) -> EventStream:
        """A new stream that cuts a signal into utterances and tells what happens as events.

        Args:
            endpoint: When utterances begin and end; None takes the model's own settings, or the
                defaults of `EndpointConfig` where it has none.
            max_utterance_s: Greatest length of an utterance, seconds >= 0.04; None leaves it.
            hotwords: Phrases to hear more readily, as for `create_stream`; None keeps the
                recogniser's. `EventStream.set_hotwords` replaces them.
            nbest: Texts that a final lists, 1..64; 1 leaves the list out.
            lattice: Whether finals carry their word lattice, serialised as
                `decode.lattice_wire` says. The search then goes by `lattice_paths`.

        Returns:
            The stream, independent of all others.

        Raises:
            ConfigError: A value is out of its range.
            HotwordsError: The hotwords cannot be used; it names every problem at once.
            ModelFileError: The model's own settings cannot be used.
        """
        from earshot.session.event_stream import EventStream

        if not 1 <= nbest <= 64:
            raise ConfigError(f"nbest is {nbest}; it must lie in 1..64.")
        config = endpoint or self.endpoint_config()
        if max_utterance_s is not None:
            config = config.with_max_utterance_s(max_utterance_s)
        stream = EventStream(
            self._engine,
            self._grammar,
            config,
            self.compile_hotwords,
            nbest,
            lattice,
        )
        if hotwords:
            stream.set_hotwords(hotwords)
        elif self.hotwords is not None:
            stream.set_hotwords(self.hotwords)
        return stream

    def endpoint_config(self) -> EndpointConfig:
        """When utterances begin and end by default: as the model was tuned, where it was.

        Returns:
            The configuration.

        Raises:
            ModelFileError: The model's own settings cannot be used.
        """
        from earshot.decode.endpoint import EndpointConfig, stored_endpoint_config

        if self._endpoint is None:
            header = json.loads(self._model.header_json)
            stored = stored_endpoint_config(header, where=self._model.name)
            self._endpoint = stored or EndpointConfig()
        return self._endpoint

    def decode_event_streams(self, streams: Sequence[EventStream]) -> list[list[Event]]:
        """Search all audio that many event streams hold, together where they are ready together.

        Args:
            streams: From this recogniser, each once.

        Returns:
            The events of each stream, in order; the same as if it were decoded alone.

        Raises:
            ValueError: A stream is there twice, or is another recogniser's.
        """
        from earshot.session.event_stream import decode_event_streams

        return decode_event_streams(self._engine, streams)

    def decode_stream(self, stream: Stream) -> None:
        """Search all audio that one stream holds.

        Args:
            stream: From this recogniser.
        """
        stream.decode()

    def decode_streams(self, streams: Sequence[Stream]) -> None:
        """Search all audio that many streams hold, together where they are ready together.

        The weights are read once for all of them, which is much faster than one by one; the
        results are the same.

        Args:
            streams: From this recogniser, each once.

        Raises:
            ValueError: A stream is there twice, or is another recogniser's.
        """
        self._engine.decode_streams([stream._native for stream in streams])

    def transcribe(self, samples: npt.ArrayLike, sample_rate_hz: int = 16_000) -> Transcript:
        """Recognise a whole signal.

        Args:
            samples: Shape (n,), n >= 1: floats in -1..1, or int16 or int32 at full scale.
            sample_rate_hz: 1 kHz..1 MHz.

        Returns:
            The words with times and confidences.

        Raises:
            AudioError: The samples cannot be used.
        """
        stream = self.create_stream()
        stream.accept_waveform(sample_rate_hz, samples)
        if stream.duration_s == 0:
            raise AudioError("samples", "there are none", remedy="Give at least one sample")
        stream.input_finished()
        stream.decode()
        return stream.result()

    def transcribe_file(
        self, source: Source, *, offset_s: float = 0.0, duration_s: float | None = None
    ) -> Transcript:
        """Recognise a file, block by block, so that memory does not grow with its length.

        Args:
            source: A path, an open binary file, or "-" for standard input.
            offset_s: Where to start, seconds >= 0.
            duration_s: How much to hear, seconds > 0; None hears to the end.

        Returns:
            The words; times count from the start of the stretch.

        Raises:
            AudioError: The sound cannot be used.
        """
        stream = self.create_stream()
        with AudioFile(source) as audio:
            for block in audio.blocks(offset_s=offset_s, duration_s=duration_s):
                stream.accept_waveform(audio.sample_rate_hz, block)
                stream.decode()
        stream.input_finished()
        stream.decode()
        return stream.result()
