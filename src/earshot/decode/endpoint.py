"""When an utterance begins and ends: pure decisions over what is known of each encoder frame.

Two end-pointers run at once. The speculative one is quick and may be wrong, the final one is sure.
Both weigh the same evidence: the pause as the search sees it, whether the grammar lets the sentence
end or go on, and what a small network over encoder frames says. Under both lie the three rules of
Kaldi and sherpa-onnx. Decisions are made per frame of 40 ms, so they do not depend on how audio
arrives. Knows nothing of audio, networks, words or events; see docs/concepts/endpoints.md.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from earshot.core.errors import ConfigError, ModelFileError
from earshot.core.features import ENCODER_CLOCK

if TYPE_CHECKING:
    from earshot._native import GrammarEnd

__all__ = [
    "FRAME_S",
    "METADATA_KEY",
    "TINY_S",
    "EndpointConfig",
    "EndpointDetector",
    "EndpointRule",
    "Evidence",
    "OperatingPoint",
    "Sentence",
    "SpeechSignal",
    "Verdict",
    "as_metadata",
    "config_of",
    "is_numeric",
    "is_over",
    "sentence_of",
    "stored_endpoint_config",
]

FRAME_S = ENCODER_CLOCK.start_s(1)
METADATA_KEY = "endpoint"  # of a model file's metadata

TINY_S = 1e-6  # sums of frames are not exact
_FLOOR_FRAMES = 75  # 3 s: the quietest frame of so many is the noise floor
_SMOOTH_FRAMES = 3
_QUIETEST = -15.0  # nats; digital silence lies at log(FLT_EPSILON) = -15.9


def _check_range(where: str, name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN, too
        raise ConfigError(f"{where}.{name} is {value}; it must lie in {low}..{high}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRule:
    """An utterance is over where all of this holds; names and meaning are sherpa-onnx's.

    Args:
        must_contain_nonsilence: Something must have been decoded.
        min_trailing_silence_s: Blank frames of the best path since its last piece, seconds >= 0.
        min_utterance_s: Length of the utterance so far, seconds >= 0.
    """

    must_contain_nonsilence: bool
    min_trailing_silence_s: float
    min_utterance_s: float

    def __post_init__(self) -> None:
        for name in ("min_trailing_silence_s", "min_utterance_s"):
            _check_range("rule", name, getattr(self, name), 0.0, 3600.0)

    def holds(self, *, trailing_s: float, utterance_s: float, nonsilence: bool) -> bool:
        """Whether the rule ends the utterance.

        Args:
            trailing_s: Blank frames of the best path, seconds.
            utterance_s: Its length, seconds.
            nonsilence: Whether the best path has a piece.

        Returns:
            True if all of the rule holds.
        """
        return (
            (nonsilence or not self.must_contain_nonsilence)
            and trailing_s >= self.min_trailing_silence_s
            and utterance_s >= self.min_utterance_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """From how much pause on one end-pointer believes that the speaker is done.

    The pause is the expected one over all active hypotheses, and where the model has an
    end-of-query head not longer than the time since it last heard speech.

    Args:
        pause_s: Enough by itself, seconds.
        closed_pause_s: Enough where the grammar's sentence is complete and nothing can follow.
        complete_pause_s: Enough where it is complete, but could go on.
        open_pause_s: Needed where the grammar says that more must follow, as after "turn on the".
        number_pause_s: Needed behind a number or a spelled letter that may have another behind it,
            unless the grammar's sentence is closed.
        min_pause_s: Needed whatever the head says.
        end_probability: Enough for the head's probability that the query is over, in 0..1; above
            1 the head is not asked.
    """

    pause_s: float
    closed_pause_s: float
    complete_pause_s: float
    open_pause_s: float
    number_pause_s: float
    min_pause_s: float
    end_probability: float

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self) if each.name != "end_probability"):
            _check_range("endpoint", name, getattr(self, name), 0.0, 60.0)
        _check_range("endpoint", "end_probability", self.end_probability, 0.0, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """When utterances begin and end. Seconds of audio, not wall time.

    Args:
        rule1: Ends what nothing was decoded of.
        rule2: Ends after a pause.
        rule3: Ends what is too long; the reason is then `max_length`.
        speculative: The quick end-pointer.
        final: The sure one.
        speculation: Whether the quick one runs at all.
        speculation_timeout_s: A speculation that nothing resolves is cancelled after so much audio.
        use_head: Whether the model's end-of-query head is asked, where it has one.
        use_grammar: Whether the grammar is asked, where the stream has one.
        use_rules_only: Leave only the three rules in force.
        max_gap: Nats per phone or piece that the grammar's best path may lie behind free speech for
            the grammar to be believed.
        speech_probability: Of the head, from which on a frame is speech, 0..1.
        gate_probability: The same for a frame that wakes the search; lower misses less.
        speech_margin: Nats of mean log-mel energy above the noise floor that make speech where
            there is no head.
        min_speech_s: So much speech makes an utterance, beside a word.
        pre_roll_s: Frames from before the search woke that it starts with.
        idle_s: The search goes to sleep after so long without speech or words.
        refresh_s: While nobody speaks, the encoder begins anew after so long: networks that were
            trained on utterances hear worse and worse in the silence of hours.
        keep_acoustic_state: Whether it never does, nor when the search wakes.
    """

    rule1: EndpointRule = EndpointRule(
        must_contain_nonsilence=False, min_trailing_silence_s=2.4, min_utterance_s=0.0
    )
    rule2: EndpointRule = EndpointRule(
        must_contain_nonsilence=True, min_trailing_silence_s=1.2, min_utterance_s=0.0
    )
    rule3: EndpointRule = EndpointRule(
        must_contain_nonsilence=False, min_trailing_silence_s=0.0, min_utterance_s=20.0
    )
    speculative: OperatingPoint = OperatingPoint(
        pause_s=0.48,
        closed_pause_s=0.16,
        complete_pause_s=0.24,
        open_pause_s=1.2,
        number_pause_s=0.48,
        min_pause_s=0.12,
        end_probability=0.8,
    )
    final: OperatingPoint = OperatingPoint(
        pause_s=0.8,
        closed_pause_s=0.44,
        complete_pause_s=0.64,
        open_pause_s=2.0,
        number_pause_s=0.6,
        min_pause_s=0.4,
        end_probability=0.9,
    )
    speculation: bool = True
    speculation_timeout_s: float = 5.0
    use_head: bool = True
    use_grammar: bool = True
    use_rules_only: bool = False
    max_gap: float = 1.5
    speech_probability: float = 0.5
    gate_probability: float = 0.1
    speech_margin: float = 1.0
    min_speech_s: float = 0.12
    pre_roll_s: float = 0.48
    idle_s: float = 1.0
    refresh_s: float = 3.0
    keep_acoustic_state: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("speculation_timeout_s", 0.04, 3600.0),
            ("max_gap", 0.0, 1000.0),
            ("speech_probability", 0.0, 1.0),
            ("gate_probability", 0.0, 1.0),
            ("speech_margin", 0.0, 100.0),
            ("min_speech_s", 0.0, 10.0),
            ("pre_roll_s", 0.04, 10.0),
            ("idle_s", 0.04, 60.0),
            ("refresh_s", 0.04, 3600.0),
        ):
            _check_range("endpoint", name, getattr(self, name), low, high)
        if self.rule3.min_utterance_s < FRAME_S:
            raise ConfigError(
                f"endpoint.rule3.min_utterance_s is {self.rule3.min_utterance_s}; it must be at "
                f"least {FRAME_S}, or no utterance could have a word."
            )

    @property
    def max_utterance_s(self) -> float:
        """The greatest length of an utterance: that of rule 3."""
        return self.rule3.min_utterance_s

    def with_max_utterance_s(self, seconds: float) -> EndpointConfig:
        """The same with another greatest length.

        Args:
            seconds: At least 0.04.

        Returns:
            A copy with another rule 3.

        Raises:
            ConfigError: The length is out of its range.
        """
        return replace(self, rule3=replace(self.rule3, min_utterance_s=seconds))


class Sentence(Enum):
    """What the grammar says about the words so far."""

    NONE = "none"  # there is no grammar, or this is not of it
    OPEN = "open"  # more must follow
    COMPLETE = "complete"  # it may end, or go on
    CLOSED = "closed"  # it may end, and nothing can follow


def sentence_of(end: GrammarEnd | None, config: EndpointConfig) -> Sentence:
    """What the grammar says, going by all paths of its beam.

    Args:
        end: Of the engine's stream; None without a grammar.
        config: Says how far behind free speech the grammar is believed.

    Returns:
        `NONE` also where what was said is hardly of the grammar.
    """
    if end is None or not config.use_grammar:
        return Sentence.NONE
    alive, complete, closed, gap, symbols = end
    # The constant: a short sentence may well be one phone or piece off.
    if not alive or symbols == 0 or gap > config.max_gap * (symbols + 2):
        return Sentence.NONE
    if complete < 0.5:
        return Sentence.OPEN
    return Sentence.CLOSED if closed >= 0.5 * complete else Sentence.COMPLETE


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of an utterance as of one frame.

    Args:
        trailing_s: Blank frames of the best path since its last piece, seconds.
        expected_s: The same expected over all paths of the beam.
        silence_s: Time since the head last heard speech; None where there is no head.
        utterance_s: Length so far, seconds.
        nonsilence: Whether the best path has a piece.
        changed: Whether it has other pieces than a frame before.
        speech: Whether the frame sounds like speech.
        sentence: What the grammar says.
        numeric: Whether the last word is one that others of its kind often follow.
        end_probability: Of the head; None where there is none.
    """

    trailing_s: float
    expected_s: float
    silence_s: float | None
    utterance_s: float
    nonsilence: bool
    changed: bool
    speech: bool
    sentence: Sentence = Sentence.NONE
    numeric: bool = False
    end_probability: float | None = None

    @property
    def pause_s(self) -> float:
        """How long the speaker has paused: the expected blanks, if nothing sounds like speech."""
        if self.silence_s is None or self.expected_s < self.silence_s:
            return self.expected_s
        return self.silence_s

    @property
    def rule_s(self) -> float:
        """Trailing silence as the rules count it: blanks count a third while there is speech.

        A word that the search does not know makes no piece; nor does babble, which must not keep
        an utterance open for ever.
        """
        if self.silence_s is None:
            return self.trailing_s
        return min(self.trailing_s, max(self.silence_s, self.trailing_s / 3))


def is_over(evidence: Evidence, point: OperatingPoint) -> bool:
    """Whether one end-pointer believes that the speaker is done.

    Args:
        evidence: As of this frame.
        point: How sure it wants to be.

    Returns:
        True if so; longer pauses and higher probabilities never turn it into False.
    """
    pause = evidence.pause_s + TINY_S
    sentence = evidence.sentence
    if sentence is Sentence.OPEN:
        return pause >= point.open_pause_s
    if sentence is Sentence.CLOSED:
        if pause >= point.closed_pause_s:
            return True
    elif evidence.numeric and pause < point.number_pause_s:
        return False
    if sentence is Sentence.COMPLETE and pause >= point.complete_pause_s:
        return True
    end = evidence.end_probability
    sure = end is not None and end >= point.end_probability and pause >= point.min_pause_s
    return sure or pause >= point.pause_s


_NUMBERS = (
    "zero oh o one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty "
    "ninety hundred thousand double triple point"
)
_NUMBER_WORDS = frozenset(_NUMBERS.split())


def is_numeric(word: str) -> bool:
    """Whether a word is a number or a spelled letter, which others of its kind often follow.

    Args:
        word: As recognised.

    Returns:
        True for English number words, digits and single letters; "a" and "i" are words.
    """
    plain = word.lower().strip(".'")
    if len(plain) == 1:
        return plain.isdigit() or (plain.isalpha() and plain not in "ai")
    return plain in _NUMBER_WORDS or plain.isdigit()


class Verdict(Enum):
    """What an end-pointer says of a frame."""

    GO_ON = "go_on"
    SPECULATE = "speculate"
    SPEECH_RESUMED = "speech_resumed"  # and the speculation is off
    TIMEOUT = "timeout"  # likewise
    END = "end"
    TOO_LONG = "too_long"


class EndpointDetector:
    """Both end-pointers over the frames of one utterance.

    A speculation that was made is told to the detector by its own verdict; that the words have
    changed since, which only its user can tell, by `withdraw`.

    Args:
        config: Of the stream.
    """

    _STEADY_FRAMES = 2  # the best path must have been the same for so long
    _RESUMED_FRAMES = 5  # 0.2 s of speech, and the speaker has gone on

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        self._steady = 0
        self._speculating_s = 0.0
        self._speech_frames = 0
        self._paused = False
        self._open = False
        self._rested = True  # since the last speculation there was a change

    @property
    def speculating(self) -> bool:
        """Whether a speculation is open."""
        return self._open

    def withdraw(self) -> None:
        """The open speculation was cancelled because it says something else now."""
        self._open = False
        self._rested = True

    @staticmethod
    def _over_by_rules(rule: EndpointRule, evidence: Evidence) -> bool:
        return rule.holds(
            trailing_s=evidence.rule_s + TINY_S,
            utterance_s=evidence.utterance_s + TINY_S,
            nonsilence=evidence.nonsilence,
        )

    def update(self, evidence: Evidence) -> Verdict:
        """Take one more frame.

        Args:
            evidence: As of this frame; frames must come in order and without gaps.

        Returns:
            At most one thing to do. An end wins over all; what a speculation's user has to
            withdraw comes before a new one.
        """
        config = self._config
        self._steady = 0 if evidence.changed else self._steady + 1
        if evidence.changed:
            self._rested = True
        if self._open:
            self._speculating_s += FRAME_S
            # A speculation may come while the last word still sounds: speech that never paused has
            # not resumed.
            self._paused = self._paused or not evidence.speech
            self._speech_frames = self._speech_frames + 1 if evidence.speech and self._paused else 0

        if not config.use_head and evidence.silence_s is not None:
            evidence = replace(evidence, silence_s=None, end_probability=None)
        if not config.use_grammar and evidence.sentence is not Sentence.NONE:
            evidence = replace(evidence, sentence=Sentence.NONE)
        if self._over_by_rules(config.rule3, evidence):
            return Verdict.TOO_LONG
        waits = (
            evidence.sentence is Sentence.OPEN
            and not config.use_rules_only
            and evidence.rule_s < config.final.open_pause_s
        )
        if not waits and (
            self._over_by_rules(config.rule1, evidence)
            or self._over_by_rules(config.rule2, evidence)
        ):
            return Verdict.END
        if config.use_rules_only:
            return Verdict.GO_ON
        if evidence.nonsilence and is_over(evidence, config.final):
            return Verdict.END
        if self._open:
            if self._speech_frames >= self._RESUMED_FRAMES:
                self._open, self._rested = False, True
                return Verdict.SPEECH_RESUMED
            if self._speculating_s >= config.speculation_timeout_s - FRAME_S / 2:
                self._open = self._rested = False
                return Verdict.TIMEOUT
            return Verdict.GO_ON
        if (
            config.speculation
            and evidence.nonsilence
            and self._rested
            and self._steady >= self._STEADY_FRAMES
            and is_over(evidence, config.speculative)
        ):
            self._open, self._rested = True, False
            self._speculating_s, self._speech_frames = 0.0, 0
            self._paused = not evidence.speech
            return Verdict.SPECULATE
        return Verdict.GO_ON


@dataclass(slots=True)
class SpeechSignal:
    """Whether frames sound like speech: by the head where there is one, else by their level.

    Args:
        config: Thresholds.
    """

    config: EndpointConfig
    _smooth: deque[float] = field(default_factory=lambda: deque(maxlen=_SMOOTH_FRAMES))
    _levels: deque[float] = field(default_factory=lambda: deque(maxlen=_FLOOR_FRAMES))

    def update(
        self, level: float, endpoint: tuple[float, float, float, float] | None
    ) -> tuple[bool, bool]:
        """Take one more frame.

        Args:
            level: Mean log-mel energy of the frame, nats.
            endpoint: The head's log-probabilities, speech first; None where there is none.

        Returns:
            Whether this is speech, and whether it might be.
        """
        self._smooth.append(level)
        self._levels.append(sum(self._smooth) / len(self._smooth))
        if endpoint is not None and self.config.use_head:
            speech = math.exp(endpoint[0])
            return speech >= self.config.speech_probability, speech >= self.config.gate_probability
        if level < _QUIETEST:
            return False, False
        above = level - min(self._levels)
        # At first nothing is known of the noise: what comes may be speech.
        fresh = len(self._levels) < _SMOOTH_FRAMES
        return above >= self.config.speech_margin, fresh or above >= self.config.speech_margin / 2

    def unheard(self, frames: int) -> None:
        """So many of the last frames will come again.

        Args:
            frames: At most those that came.
        """
        for _ in range(min(frames, len(self._levels))):
            self._levels.pop()
        self._smooth.clear()

    def reset(self) -> None:
        """Forget the noise floor."""
        self._smooth.clear()
        self._levels.clear()


def as_metadata(config: EndpointConfig) -> dict[str, str]:
    """A configuration as a model file keeps it.

    Args:
        config: To be kept.

    Returns:
        One entry for the file's metadata: both operating points, and what is not as by default.
    """
    usual = asdict(EndpointConfig())
    kept = {
        name: value
        for name, value in asdict(config).items()
        if name in ("speculative", "final") or value != usual[name]
    }
    return {METADATA_KEY: json.dumps(kept, separators=(",", ":"))}


def stored_endpoint_config(header: Mapping[str, object], *, where: str) -> EndpointConfig | None:
    """The configuration that a model was tuned to.

    Args:
        header: Of the model's file.
        where: What errors call the model.

    Returns:
        None where it has none.

    Raises:
        ModelFileError: What is there cannot be used.
    """
    metadata = header.get("metadata", {})
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if text is None:
        return None
    try:
        return config_of(json.loads(text))
    except (ConfigError, ValueError, TypeError) as err:
        raise ModelFileError(
            where,
            f"its settings of end-points cannot be used ({err})",
            remedy="Tune them again with `earshot endpoint tune`",
        ) from None


def config_of(values: Mapping[str, Any]) -> EndpointConfig:
    """A configuration from JSON; what is not said stays as it is by default.

    Args:
        values: Names of `EndpointConfig`; rules and operating points are objects.

    Returns:
        The configuration.

    Raises:
        ConfigError: A name is unknown, or a value of a wrong kind or out of its range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError("endpoint: the settings are no object; they must have names and values.")
    start = EndpointConfig()
    changes: dict[str, Any] = {}
    known = {each.name for each in fields(EndpointConfig)}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(
                f"endpoint: unknown key '{name}'; known are {', '.join(sorted(known))}."
            )
        now = getattr(start, name)
        if isinstance(now, EndpointRule | OperatingPoint):
            inner = {each.name for each in fields(now)}
            if not isinstance(value, Mapping) or set(value) - inner:
                raise ConfigError(
                    f"endpoint.{name}: it must be an object with {', '.join(sorted(inner))}."
                )
            for key, number in value.items():
                _check_kind(f"{name}.{key}", number, getattr(now, key))
            changes[name] = replace(now, **value)
        else:
            _check_kind(name, value, now)
            changes[name] = value
    return replace(start, **changes)


def _check_kind(name: str, value: object, example: object) -> None:
    wanted = bool if isinstance(example, bool) else (int, float)
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(example, bool):
        kind = "true or false" if isinstance(example, bool) else "a number"
        raise ConfigError(f"endpoint.{name} is {value!r}; it must be {kind}.")
