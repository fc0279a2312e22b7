"""A signal cut into utterances, as events: what was begun, what is heard, what was said and meant.

`EventStream` steps the engine frame by frame, so that what it decides does not depend on how audio
arrives: the same samples give the same events, however they are cut and whenever `decode` is
called. The search sleeps while nobody speaks; encoder frames wait in a pre-roll, so that the first
word is not lost to finding it late. Decisions are `decode.endpoint`'s; understanding begins with
the speculation. Knows nothing of servers. See docs/concepts/events.md for what it promises.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from earshot import _native
from earshot.core.events import (
    Alternative,
    CancelReason,
    Event,
    Final,
    FinalReason,
    Partial,
    SpeculationCancelled,
    SpeculativeEndpoint,
    SpeechStarted,
)
from earshot.core.features import ENCODER_CLOCK, SAMPLE_RATE_HZ
from earshot.core.transcript import Word
from earshot.core.understanding import SlotValue, Understanding
from earshot.data.audio import Samples, StreamInput
from earshot.decode.endpoint import (
    FRAME_S,
    EndpointConfig,
    EndpointDetector,
    Evidence,
    Sentence,
    SpeechSignal,
    Verdict,
    is_numeric,
    sentence_of,
)
from earshot.decode.result import to_lattice, to_transcript
from earshot.session.looks import hear_again

if TYPE_CHECKING:
    from earshot.decode.biasing import Hotwords
    from earshot.session.looks import Look
    from earshot.session.recognizer import HotwordSource
    from earshot.understand.confidence import CommandConfig
    from earshot.understand.decision import Decision
    from earshot.understand.graph import CommandGraph

_Content = tuple[str, "str | None", dict[str, object]]

__all__ = ["EventStream", "Reading", "decode_event_streams", "same_reading"]

# The last sample that encoder frame 0 rests on: the windows of its four feature frames end here.
_FIRST_FRAME_SAMPLES = 3 * 160 + 80 + 200
_STEADY_FRAMES = 2  # a word must have been there for so long to begin an utterance
_QUIET_FRAMES = 5  # 0.2 s without speech, before what led to nothing is dropped


@dataclass(frozen=True, slots=True)
class Reading:
    """What an utterance says as of one moment.

    Args:
        text: The words, those of the command where one is accepted.
        words: With stream times.
        confidence: Of the command where the stream hears commands, else of the words.
        intent: None where nothing matched.
        slots: The filled slots.
        free_text: The words of free speech.
    """

    text: str
    words: tuple[Word, ...]
    confidence: float
    intent: str | None
    slots: dict[str, SlotValue]
    free_text: str


def _plain(text: str) -> str:
    kept = "".join(c for c in text.casefold() if c.isalnum() or c.isspace())
    return " ".join(kept.split())


def same_reading(a: Reading | SpeculativeEndpoint, b: Reading | SpeculativeEndpoint) -> bool:
    """Whether work on one holds for the other.

    Texts must be equal but for case and punctuation, and so must intent and slots.

    Args:
        a: One.
        b: The other.

    Returns:
        True if so.
    """
    return _content(a.text, a.intent, a.slots) == _content(b.text, b.intent, b.slots)


def _content(text: str, intent: str | None, slots: Mapping[str, SlotValue]) -> _Content:
    """What work rests on: the plain text, the intent, and the values of its slots."""
    return _plain(text), intent, {name: slot.value for name, slot in slots.items()}


@dataclass(slots=True)
class _Utterance:
    """What belongs to the utterance that is searched, begun or not."""

    base_frame: int  # that the search counts from
    detector: EndpointDetector
    frames: int = 0
    with_piece: int = 0  # frames in a row of which the best path had a piece
    speech_frames: int = 0
    first_speech: int | None = None  # frame
    last_speech: int | None = None
    name: str | None = None  # None: nothing says yet that there is one
    start_s: float = 0.0
    found: _native.StreamResult | None = None  # of the free search, as of its last change
    settled: int = 0
    reported: tuple[str, int] = ("", 0)  # text and stable characters of the last partial
    stable: str = ""  # what was promised
    speculations: int = 0
    speculation: SpeculativeEndpoint | None = None
    reading: Reading | None = None  # that the speculation tells
    first_look: _Content | None = None  # what it rests on, see `EventStream._first_look`
    resumed: bool = False  # speech was heard since the speculation

    def promise(self, text: str) -> None:
        """The final will begin with these words."""
        if len(text) > len(self.stable):
            self.stable = text


@dataclass(frozen=True, slots=True)
class _Mark:
    """An order in the queue of samples."""

    reason: FinalReason
    samples: int  # of the input, up to here


@dataclass(slots=True)
class EventStream:
    """One signal on its way to events; made by `Recognizer.create_event_stream`.

    Feed it with `accept_waveform`, `flush` and `input_finished`, and take events from `decode`, or
    from many streams together with `Recognizer.decode_event_streams`. One thread may feed while
    another decodes; neither may be done by two at once.
    """

    _engine: _native.Recognizer
    _grammar: tuple[CommandGraph, CommandConfig] | None
    config: EndpointConfig
    _compile_hotwords: Callable[[Any], Hotwords]
    _nbest: int = 1
    _lattice: bool = False
    # Told of every frame of an utterance: its number, the time, the evidence, the free words.
    observer: Callable[[int, float, Evidence, str], None] | None = field(init=False, default=None)
    _stream: _native.Stream = field(init=False)
    _pending: deque[Samples | _Mark] = field(init=False, default_factory=deque)
    _input: StreamInput = field(init=False, default_factory=StreamInput)
    _signal: SpeechSignal = field(init=False)
    _closing: _Mark | None = field(init=False, default=None)
    _finished: bool = field(init=False, default=False)
    _segment: int = field(init=False, default=0)  # first sample of the input that frames count from
    _frame: int = field(init=False, default=-1)  # the last that was looked at, counted from there
    _newest: int = field(init=False, default=-1)  # pre-rolls are looked at again
    _idle_frames: int = field(init=False, default=0)  # since the acoustic state began anew
    _awake: bool = field(init=False, default=False)
    _open: _Utterance | None = field(init=False, default=None)
    _utterances: int = field(init=False, default=0)
    _heard_endpoint: bool = field(init=False, default=False)  # the model has the head
    # With commands the sound of the utterance is kept, to hear it again: blocks of samples, and
    # which sample of the segment they begin with.
    _kept: deque[Samples] = field(init=False, default_factory=deque)
    _kept_from: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._stream = self._engine.create_stream(lattice=self._lattice)
        self._signal = SpeechSignal(self.config)

    def set_hotwords(self, hotwords: HotwordSource | None) -> None:
        """Replace the hotwords, from the next utterance on.

        Args:
            hotwords: As for `Recognizer.create_stream`; None or an empty list listens for none.

        Raises:
            HotwordsError: The list cannot be used; it names every problem at once.
        """
        compiled = self._compile_hotwords(hotwords) if hotwords else None
        self._stream.set_hotwords(None if compiled is None else compiled.native)
        self._stream.set_phrases(None if compiled is None else compiled.attended)

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
        converted = self._input.push(sample_rate_hz, samples)
        if len(converted):
            self._pending.append(converted)

    def flush(self) -> None:
        """End the utterance now, with all audio that has come; the stream goes on.

        What the model still holds back is decoded by as much as it needs. Where nobody has spoken
        there is no utterance to end.

        Raises:
            RuntimeError: The input was finished.
        """
        if self._finished:
            raise RuntimeError("stream: flush() after input_finished(). Call reset() first.")
        self._mark("flush")

    def input_finished(self) -> None:
        """End the signal; calling twice is allowed."""
        if not self._finished:
            self._finished = True
            self._mark("end")

    def _mark(self, reason: FinalReason) -> None:
        rest = self._input.drain()
        if len(rest):
            self._pending.append(rest)
        self._pending.append(_Mark(reason, self._input.num_samples))

    def is_ready(self) -> bool:
        """Whether there is something that `decode` has not looked at."""
        return bool(self._pending) or self._closing is not None or self._stream.is_ready()

    def decode(self) -> list[Event]:
        """Search all audio that has come.

        Returns:
            What happened, in order.
        """
        return decode_event_streams(self._engine, [self])[0]

    @property
    def duration_s(self) -> float:
        """Audio that came in since the last reset, seconds."""
        return self._input.duration_s

    @property
    def num_utterances(self) -> int:
        """Utterances begun since the last reset."""
        return self._utterances

    @property
    def in_utterance(self) -> bool:
        """Whether an utterance was begun and its final has not come."""
        return self._open is not None and self._open.name is not None

    def reset(self) -> None:
        """Forget everything without a word; the stream is as if new, and may have another rate."""
        self._stream.reset()
        self._pending.clear()
        self._signal.reset()
        self._input = StreamInput()
        self._closing = self._open = None
        self._kept.clear()
        self._segment = self._utterances = self._kept_from = 0
        self._frame = self._newest = -1
        self._idle_frames = 0
        self._finished = self._awake = False

    # What follows is called by `decode_event_streams`, in this order, again and again.

    def _prepare(self, events: list[Event]) -> bool:
        """Bring the engine's stream to where it has a frame ready; False if there is no more."""
        while not self._stream.is_ready():
            if self._closing is not None:
                self._close(self._closing, events)
                self._closing = None
            elif self._pending:
                item = self._pending.popleft()
                if isinstance(item, _Mark):
                    self._closing = item
                    self._stream.input_finished()
                else:
                    self._stream.accept_waveform(item)
                    if self._grammar is not None:
                        self._kept.append(item)
                        self._forget()
            else:
                return False
        return True

    def _forget(self) -> None:
        """Drop sound that no utterance can begin with any more."""
        held = math.ceil(self.config.pre_roll_s / FRAME_S) + 1
        frame = self._frame - held if self._open is None else self._open.base_frame
        while self._kept and self._kept_from + len(self._kept[0]) <= ENCODER_CLOCK.start_sample(
            max(0, frame)
        ):
            self._kept_from += len(self._kept.popleft())

    def _hear_again(self, said: _Utterance, looks: Sequence[float]) -> list[Look]:
        """The utterance as far as it was searched, at other rates."""
        first = ENCODER_CLOCK.start_sample(said.base_frame) - self._kept_from
        last = ENCODER_CLOCK.start_sample(self._newest) + _FIRST_FRAME_SAMPLES - self._kept_from
        parts = []
        for block in self._kept:  # which may be an hour long: only what is wanted is copied
            parts.append(block[max(0, first) : max(0, last)])
            first, last = first - len(block), last - len(block)
        return hear_again(self._engine, np.concatenate(parts), looks)

    def _hold(self) -> int:
        """Frames to keep while nobody speaks; 0 lets the engine search."""
        return 0 if self._awake else max(1, round(self.config.pre_roll_s / FRAME_S))

    def _advance(self, frame: _native.Frame, events: list[Event]) -> None:
        """Take the evidence of the next frame."""
        searched, level, endpoint, pieces, settled, trailing, expected, changed = frame
        self._frame += 1
        self._newest = max(self._newest, self._frame)
        self._heard_endpoint = endpoint is not None
        speech, maybe = self._signal.update(level, endpoint)
        if not searched:
            self._idle_frames += 1
            if maybe:
                self._wake()
            elif self._idle_frames * FRAME_S >= self.config.refresh_s:
                self._refresh()
            return
        if self._open is None:
            self._open = _Utterance(self._frame + 1 - searched, EndpointDetector(self.config))
        said = self._open
        said.frames += searched
        if speech:
            said.speech_frames += 1
            said.last_speech = self._frame
            said.resumed = True
            if said.first_speech is None:
                said.first_speech = self._frame
        said.with_piece = said.with_piece + 1 if pieces else 0
        if changed or settled != said.settled:
            said.found = self._stream.result()
        said.settled = settled
        if said.name is None and not self._begin(said, trailing, events):
            return
        self._report(said, events)
        evidence = self._evidence(
            said, trailing, expected, endpoint, changed=changed, speech=speech, pieces=pieces
        )
        if self.observer is not None:
            text = "" if said.found is None else _text(said.found)
            self.observer(self._utterances, self._now_s(), evidence, text)
        if said.speculation is not None and changed:
            self._check_speculation(said, events)
        verdict = said.detector.update(evidence)
        if verdict is Verdict.SPECULATE:
            self._speculate(said, events)
        elif verdict is Verdict.SPEECH_RESUMED:
            self._cancel(said, "speech_resumed", events)
        elif verdict is Verdict.TIMEOUT:
            self._cancel(said, "timeout", events)
        elif verdict in (Verdict.END, Verdict.TOO_LONG):
            too_long = verdict is Verdict.TOO_LONG
            self._end(said, "max_length" if too_long else "endpoint", self._now_s(), events)
            self._awake = too_long  # then somebody still speaks

    def _begin(self, said: _Utterance, trailing: int, events: list[Event]) -> bool:
        """Begin the utterance if enough speaks for it; go to sleep if too little does."""
        config = self.config
        if (
            said.with_piece >= _STEADY_FRAMES
            and said.speech_frames * FRAME_S >= config.min_speech_s - FRAME_S / 2
        ):
            self._start(said, events)
            return True
        quiet = self._frame - (
            said.base_frame - 1 if said.last_speech is None else said.last_speech
        )
        if (trailing * FRAME_S >= config.idle_s and quiet >= _QUIET_FRAMES) or (
            said.frames * FRAME_S >= config.max_utterance_s
        ):
            self._sleep()
        return False

    def _start(self, said: _Utterance, events: list[Event]) -> None:
        self._utterances += 1
        said.name = f"u{self._utterances}"
        first = said.found["words"][0]["start_frame"] if said.found and said.found["words"] else 0
        frames = [said.base_frame + first]
        if said.first_speech is not None:
            frames.append(said.first_speech)
        now_s = self._now_s()
        said.start_s = min(self._frame_s(min(frames)), now_s)
        events.append(SpeechStarted(utterance=said.name, t_s=now_s, start_s=said.start_s))

    def _evidence(
        self,
        said: _Utterance,
        trailing: int,
        expected: float,
        endpoint: tuple[float, float, float, float] | None,
        *,
        changed: bool,
        speech: bool,
        pieces: int,
    ) -> Evidence:
        silence_s = end_probability = None
        if endpoint is not None and self.config.use_head:
            end_probability = math.exp(endpoint[3])
            last = said.base_frame - 1 if said.last_speech is None else said.last_speech
            silence_s = (self._frame - last) * FRAME_S
        sentence = Sentence.NONE
        # The beam is looked at in pauses only: nothing else can end.
        if self._grammar is not None and self.config.use_grammar and trailing >= 2:
            sentence = sentence_of(self._stream.grammar_end(), self.config)
        words = said.found["words"] if said.found is not None else []
        return Evidence(
            trailing_s=trailing * FRAME_S,
            expected_s=expected * FRAME_S,
            silence_s=silence_s,
            utterance_s=said.frames * FRAME_S,
            nonsilence=pieces > 0,
            changed=changed,
            speech=speech,
            sentence=sentence,
            numeric=bool(words) and is_numeric(words[-1]["word"]),
            end_probability=end_probability,
        )

    def _report(self, said: _Utterance, events: list[Event]) -> None:
        """A partial, if there is anything to say that was not said yet."""
        assert said.name is not None
        if said.found is None:
            return
        text = _text(said.found)
        # With commands the final has the words of the command, if one is accepted: nothing is
        # promised before they are known, which is when a speculation is made.
        if self._grammar is None:
            said.promise(_settled_text(said.found))
        report = (text, len(said.stable))
        if report == said.reported or (text == "" and said.reported[0] == ""):
            return
        said.reported = report
        events.append(
            Partial(
                utterance=said.name, t_s=self._now_s(), text=text, stable_chars=len(said.stable)
            )
        )

    def _read(self, said: _Utterance) -> Reading:
        """What the utterance says as of now."""
        found = self._stream.result(ended=True)
        said.found = found
        free_text = _text(found)
        understanding: Understanding | None = None
        spoken = found
        decision = self._decide(found, again=partial(self._hear_again, said))
        if decision is not None:
            understanding = decision.understanding
            if decision.words is not None:
                text = " ".join(word["word"] for word in decision.words)
                if text.startswith(said.stable):
                    spoken = {**found, "words": list(decision.words)}
                    said.promise(_common_words(_settled_text(found), text))
        words = tuple(
            Word(
                word.word,
                word.start_s + self._frame_s(said.base_frame),
                word.end_s + self._frame_s(said.base_frame),
                word.confidence,
            )
            for word in to_transcript(spoken, duration_s=0.0).words
        )
        if understanding is not None:
            return Reading(
                " ".join(word.word for word in words),
                words,
                understanding.confidence,
                understanding.intent,
                dict(understanding.slots),
                free_text,
            )
        logs = [math.log(max(word.confidence, 1e-30)) for word in words]
        confidence = math.exp(sum(logs) / len(logs)) if logs else 0.0
        return Reading(
            " ".join(word.word for word in words), words, confidence, None, {}, free_text
        )

    def _decide(
        self,
        found: _native.StreamResult,
        *,
        again: Callable[[Sequence[float]], list[Look]] | None = None,
    ) -> Decision | None:
        """Which command it is, by one look or with `again` by all; None without a grammar."""
        if self._grammar is None:
            return None
        from earshot.understand.decision import decide

        graph, config = self._grammar
        paths = self._stream.command_result(ended=again is not None)
        assert paths is not None  # the engine has the graph
        more = None if again is None else partial(again, config.looks)
        return decide(paths, found, graph, config=config, again=more)

    def _first_look(self) -> _Content:
        """What the utterance says at first sight, to tell whether it says something else now."""
        found = self._stream.result(ended=True)
        decision = self._decide(found)
        if decision is None:
            return _content(_text(found), None, {})
        words = found["words"] if decision.words is None else decision.words
        text = " ".join(word["word"] for word in words)
        meant = decision.understanding
        return _content(text, meant.intent, meant.slots)

    def _end_s(self, said: _Utterance, reading: Reading, now_s: float) -> float:
        """When the speech ended: with its last word, or where the head last heard speech."""
        end_s = reading.words[-1].end_s if reading.words else said.start_s
        if said.last_speech is not None and self._has_head():
            end_s = max(end_s, self._frame_s(said.last_speech + 1))
        return min(max(end_s, said.start_s), now_s)

    def _has_head(self) -> bool:
        return self.config.use_head and self._heard_endpoint

    def _speculate(self, said: _Utterance, events: list[Event]) -> None:
        assert said.name is not None
        reading = said.reading = self._read(said)
        said.first_look = self._first_look()
        said.speculations += 1
        said.resumed = False
        now_s = self._now_s()
        said.speculation = SpeculativeEndpoint(
            utterance=said.name,
            t_s=now_s,
            spec_id=f"{said.name}.{said.speculations}",
            text=reading.text,
            words=reading.words,
            confidence=reading.confidence,
            intent=reading.intent,
            slots=reading.slots,
            end_s=self._end_s(said, reading, now_s),
        )
        events.append(said.speculation)

    def _cancel(self, said: _Utterance, reason: CancelReason, events: list[Event]) -> None:
        assert said.name is not None and said.speculation is not None
        events.append(
            SpeculationCancelled(
                utterance=said.name,
                t_s=self._now_s(),
                spec_id=said.speculation.spec_id,
                reason=reason,
            )
        )
        said.speculation = None

    def _check_speculation(self, said: _Utterance, events: list[Event]) -> None:
        """The best path has changed: cancel the speculation if it says something else now."""
        assert said.speculation is not None
        if self._first_look() == said.first_look:
            return
        said.detector.withdraw()
        self._cancel(said, "speech_resumed" if said.resumed else "text_changed", events)

    def _end(
        self, said: _Utterance, reason: FinalReason, now_s: float, events: list[Event]
    ) -> None:
        assert said.name is not None
        open_speculation = said.speculation
        reading = said.reading
        if (
            self._grammar is None
            or reading is None
            or open_speculation is None
            or self._first_look() != said.first_look
        ):
            reading = self._read(said)
        nbest = lattice = None
        if self._nbest > 1:
            nbest = _alternatives(self._stream.alternatives(ended=True), self._nbest)
        if self._lattice:
            lattice = self._serialised_lattice()
        events.append(
            Final(
                utterance=said.name,
                t_s=now_s,
                spec_id=None if open_speculation is None else open_speculation.spec_id,
                matched=open_speculation is not None and same_reading(open_speculation, reading),
                text=reading.text,
                words=reading.words,
                confidence=reading.confidence,
                intent=reading.intent,
                slots=reading.slots,
                start_s=said.start_s,
                end_s=self._end_s(said, reading, now_s),
                reason=reason,
                nbest=nbest,
                lattice=lattice,
            )
        )
        self._sleep()

    def _serialised_lattice(self) -> bytes:
        """The free words of the utterance; its frames count from where the search woke."""
        from earshot.decode.lattice_wire import encode_lattice  # who asks for none does not wait

        recorded = self._stream.lattice(ended=True)
        assert recorded is not None
        return encode_lattice(to_lattice(recorded))

    def _sleep(self) -> None:
        """The text starts clean, and the acoustic state too unless it is to be kept."""
        self._stream.reset_search()
        self._refresh()
        self._open = None
        self._awake = False

    def _wake(self) -> None:
        """Search from the pre-roll on; what is heard there again begins with a clean state."""
        self._awake = True
        if not self.config.keep_acoustic_state:
            self._frame -= self._stream.restart_encoder(from_held=True)
            self._signal.unheard(self._newest - self._frame)

    def _refresh(self) -> None:
        """Networks that were trained on utterances grow deaf over long silence: begin anew."""
        self._idle_frames = 0
        if not self.config.keep_acoustic_state:
            self._stream.restart_encoder(from_held=False)

    def _close(self, mark: _Mark, events: list[Event]) -> None:
        """Carry out a flush or the end of the input: all frames up to it were searched."""
        said = self._open
        if said is not None:
            if said.name is None and said.with_piece > 0 and said.speech_frames > 0:
                self._start(said, events)  # a word so short or late that it waited for more
                said.found = self._stream.result()
                self._report(said, events)
            if said.name is not None:
                self._end(said, mark.reason, self._input.seconds(mark.samples), events)
        self._stream.reset()
        self._open = None
        self._awake = False
        self._segment, self._frame, self._newest = mark.samples, -1, -1
        self._kept.clear()
        self._kept_from = 0
        self._idle_frames = 0

    def _frame_s(self, frame: int) -> float:
        """Stream time at which a frame begins."""
        return self._input.seconds(self._segment) + ENCODER_CLOCK.start_s(frame)

    def _now_s(self) -> float:
        """Stream time of the newest sample that the newest frame rests on."""
        samples = ENCODER_CLOCK.start_sample(self._newest) + _FIRST_FRAME_SAMPLES
        now_s = self._input.seconds(self._segment) + samples / SAMPLE_RATE_HZ
        # The last frames before a mark rest on mirrored samples.
        return (
            now_s
            if self._closing is None
            else min(now_s, self._input.seconds(self._closing.samples))
        )


def _text(found: _native.StreamResult) -> str:
    return " ".join(word["word"] for word in found["words"])


def _settled_text(found: _native.StreamResult) -> str:
    """The whole words that cannot change; the word in the making is not among them."""
    return " ".join(word["word"] for word in found["words"][: found["settled_words"]])


def _common_words(a: str, b: str) -> str:
    """The first words that two texts share."""
    shared = []
    for one, other in zip(a.split(), b.split(), strict=False):
        if one != other:
            break
        shared.append(one)
    return " ".join(shared)


def _alternatives(found: Sequence[tuple[str, float]], most: int) -> tuple[Alternative, ...]:
    """Texts of the beam, equal ones added up, likeliest first."""
    shares: dict[str, float] = {}
    for text, share in found:
        shares[text] = shares.get(text, 0.0) + share
    ranked = sorted(shares, key=lambda text: -shares[text])[:most]
    return tuple(Alternative(text, min(shares[text], 1.0)) for text in ranked)


def decode_event_streams(
    engine: _native.Recognizer, streams: Sequence[EventStream]
) -> list[list[Event]]:
    """Search all audio that many streams hold, together where they are ready together.

    Args:
        engine: That made all of them.
        streams: Each once.

    Returns:
        What happened in each, in order; it does not depend on which others are decoded beside it.

    Raises:
        ValueError: A stream is there twice, or is another recogniser's.
    """
    if len({id(stream) for stream in streams}) < len(streams):
        raise ValueError("decode_event_streams: a stream is in the list twice; give each once.")
    if any(stream._engine is not engine for stream in streams):
        raise ValueError(
            "decode_event_streams: a stream belongs to another recogniser; decode it with the one "
            "that made it."
        )
    events: list[list[Event]] = [[] for _ in streams]
    active = list(range(len(streams)))
    while active:
        active = [i for i in active if streams[i]._prepare(events[i])]
        if not active:
            break
        frames = engine.decode_frames(
            [streams[i]._stream for i in active], [streams[i]._hold() for i in active]
        )
        for i, frame in zip(active, frames, strict=True):
            if frame is not None:
                streams[i]._advance(frame, events[i])
    return events
