"""Event streams: the guarantees over random audio, random timing and random messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from earshot import AudioError, ConfigError, Recognizer
from earshot.core.events import (
    Final,
    Partial,
    SpeculationCancelled,
    SpeculativeEndpoint,
    SpeechStarted,
)
from earshot.data.audio import read_audio
from earshot.decode.endpoint import EndpointConfig, OperatingPoint
from earshot.session.endpoint_tuning import endless
from tests.event_guarantees import check_guarantees
from tests.tiny_model import write_tiny_model

RATE = 16_000
REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.flac"))


def point(pause_s: float, sure: float = 0.5) -> OperatingPoint:
    return OperatingPoint(
        pause_s=pause_s,
        closed_pause_s=pause_s / 2,
        complete_pause_s=pause_s,
        open_pause_s=2 * pause_s,
        number_pause_s=0.0,
        min_pause_s=0.04,
        end_probability=sure,
    )


# Quick, so that a second of audio holds several utterances; and such that speculations time out.
CONFIGS = {
    "quick": EndpointConfig(speculative=point(0.08), final=point(0.2, 0.9), min_speech_s=0.04),
    "dangling": EndpointConfig(
        speculative=point(0.04), final=point(1.0, 2.0), speculation_timeout_s=0.24
    ),
    "short": EndpointConfig(speculative=point(0.12), final=point(0.6)).with_max_utterance_s(0.8),
    "kept state": EndpointConfig(
        speculative=point(0.12), final=point(0.4), keep_acoustic_state=True, pre_roll_s=0.2
    ),
    "no speculation": EndpointConfig(speculation=False, final=point(0.2), refresh_s=0.4),
}


def sound(kind: str, samples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, samples)
    if kind == "bursts":
        noise *= np.repeat(rng.uniform(0, 0.4, samples // 1600 + 1) ** 2, 1600)[:samples]
    elif kind == "tone":
        noise = 0.2 * np.sin(np.arange(samples) * rng.uniform(0.05, 1.0)) + 0.001 * noise
    elif kind == "hiss":
        noise *= 0.001
    else:
        noise *= 0.0
    return np.clip(noise, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return {
        head: Recognizer.load(
            write_tiny_model(folder / f"{head}.ear", endpoint=head),
            blank_penalty=-5.0,  # pieces few enough for pauses between them
        )
        for head in (False, True)
    }


@pytest.fixture(scope="module")
def embedded():
    return Recognizer.load()


class EventStreamMachine(RuleBasedStateMachine):
    """Feeds a stream at random, and at the end one that gets the same in whole pieces."""

    recognizers: dict[bool, Recognizer]

    @initialize(
        head=st.booleans(), name=st.sampled_from(sorted(CONFIGS)), rate=st.sampled_from((16, 8))
    )
    def begin(self, head, name, rate):
        self.config = CONFIGS[name]
        self.rate_hz = 1000 * rate
        self.recognizer = self.recognizers[head]
        self.stream = self.recognizer.create_event_stream(endpoint=self.config)
        self.beside = self.recognizer.create_event_stream()
        self.events: list[object] = []
        self.script: list[np.ndarray | None] = []  # None: a flush
        self.ended = False

    @precondition(lambda self: not self.ended)
    @rule(
        kind=st.sampled_from(("bursts", "bursts", "tone", "hiss", "silence")),
        samples=st.integers(0, 24_000),
        seed=st.integers(0, 99),
    )
    def speak(self, kind, samples, seed):
        self.script.append(sound(kind, samples, seed))
        self.stream.accept_waveform(self.rate_hz, self.script[-1])

    @precondition(lambda self: not self.ended)
    @rule()
    def flush(self):
        self.script.append(None)
        self.stream.flush()

    @rule()
    def decode(self):
        self.events += self.stream.decode()
        assert not self.stream.is_ready()

    @rule(samples=st.integers(0, 8000))
    def decode_beside_another(self, samples):
        self.beside.accept_waveform(RATE, sound("bursts", samples, 5))
        self.events += self.recognizer.decode_event_streams([self.beside, self.stream])[1]

    @precondition(lambda self: not self.ended)
    @rule()
    def send_nonsense(self):
        with pytest.raises(AudioError):
            self.stream.accept_waveform(self.rate_hz, np.array([np.nan], np.float32))

    @rule()
    def end(self):
        self.stream.input_finished()
        self.ended = True
        with pytest.raises(RuntimeError, match="input_finished"):
            self.stream.accept_waveform(self.rate_hz, np.zeros(4, np.float32))
        with pytest.raises(RuntimeError, match="input_finished"):
            self.stream.flush()

    def teardown(self):
        if not hasattr(self, "stream"):
            return
        if not self.ended:
            self.end()
        self.events += self.stream.decode()
        duration_s = sum(len(part) for part in self.script if part is not None) / self.rate_hz
        assert self.stream.duration_s == pytest.approx(duration_s)
        check_guarantees(
            self.events,
            duration_s=duration_s,
            ended=True,
            timeout_s=self.config.speculation_timeout_s,
        )
        self.check_lengths()
        assert self.events == self.in_one_pass()

    def check_lengths(self):
        """No utterance is longer than its greatest length, but for what a flush adds."""
        started = {e.utterance: e for e in self.events if isinstance(e, SpeechStarted)}
        for event in self.events:
            if isinstance(event, Final):
                length = event.t_s - started[event.utterance].start_s
                assert length <= self.config.max_utterance_s + 0.2

    def in_one_pass(self):
        """The same audio and flushes in as few calls as can be, and one decode."""
        stream = self.recognizer.create_event_stream(endpoint=self.config)
        waiting: list[np.ndarray] = []
        for part in self.script:
            if part is not None:
                waiting.append(part)
            else:
                if waiting:
                    stream.accept_waveform(self.rate_hz, np.concatenate(waiting))
                    waiting = []
                stream.flush()
        if waiting:
            stream.accept_waveform(self.rate_hz, np.concatenate(waiting))
        stream.input_finished()
        return stream.decode()


def test_guarantees_hold_for_random_audio_and_timing(tiny):
    class Machine(EventStreamMachine):
        recognizers = tiny

    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=14,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("head", [False, True])
def test_the_tiny_models_do_all_that_is_tested(tiny, head):
    """Guards the machine: streams without utterances or speculations would prove nothing."""
    kinds: set[str] = set()
    for config in CONFIGS.values():
        for seed in range(4):
            stream = tiny[head].create_event_stream(endpoint=config)
            stream.accept_waveform(RATE, sound("bursts", 64_000, seed))
            stream.input_finished()
            for event in stream.decode():
                kinds.add(type(event).__name__)
                if isinstance(event, SpeculationCancelled):
                    kinds.add(event.reason)
                elif isinstance(event, Final):
                    kinds |= {event.reason, f"matched {event.matched}"}
                elif isinstance(event, Partial) and event.stable_chars:
                    kinds.add("stable")
    assert kinds >= {
        "SpeechStarted",
        "Partial",
        "SpeculativeEndpoint",
        "SpeculationCancelled",
        "Final",
        "timeout",
        "endpoint",
        "max_length",
        "matched True",
        "stable",
    }
    assert kinds & {"speech_resumed", "text_changed"}


def spoken(*names: str, lead_s: float = 0.4, gap_s: float = 1.6, seed: int = 0) -> np.ndarray:
    """Clips with faint noise before, between and behind them."""
    rng = np.random.default_rng(seed)
    parts = [np.zeros(int(lead_s * RATE), np.float32)]
    for name in names:
        parts += [
            read_audio(REPOSITORY / "examples" / f"{name}.flac"),
            np.zeros(int(gap_s * RATE), np.float32),
        ]
    clean = np.concatenate(parts)
    return clean + rng.normal(0, 2e-4, len(clean)).astype(np.float32)


def events_of(recognizer, samples, config=None, **settings_):
    stream = recognizer.create_event_stream(endpoint=config, **settings_)
    stream.accept_waveform(RATE, samples)
    stream.input_finished()
    return stream.decode()


@given(
    cuts=st.lists(st.integers(0, 200_000), max_size=12).map(sorted),
    flush=st.integers(0, 12),
)
@settings(max_examples=8)
def test_guarantees_hold_for_speech_with_the_embedded_model(embedded, cuts, flush):
    samples = spoken("turn-on-the-lights", "four-one-seven-two-nine")
    stream = embedded.create_event_stream()
    events = []
    for number, chunk in enumerate(np.split(samples, cuts)):
        stream.accept_waveform(RATE, chunk)
        if number == flush:
            stream.flush()
        events += stream.decode()
    stream.input_finished()
    events += stream.decode()
    check_guarantees(events, duration_s=len(samples) / RATE, ended=True)
    whole = embedded.create_event_stream()
    at = 0 if flush == 0 and not cuts else (cuts[flush] if flush < len(cuts) else None)
    if flush == len(cuts):
        at = len(samples)
    if at is None:
        whole.accept_waveform(RATE, samples)
    else:
        whole.accept_waveform(RATE, samples[:at])
        whole.flush()
        whole.accept_waveform(RATE, samples[at:])
    whole.input_finished()
    assert events == whole.decode()


def test_two_sentences_are_two_utterances_and_the_first_word_is_not_lost(embedded):
    names = ("turn-on-the-lights", "close-the-garage-door")
    finals = [e for e in events_of(embedded, spoken(*names)) if isinstance(e, Final)]
    assert [final.text.split()[0] for final in finals] == ["turn", "close"]
    assert [final.reason for final in finals] == ["endpoint", "endpoint"]


@pytest.mark.parametrize("lead_s", [0.0, 0.33, 2.9, 3.4, 7.01])
@pytest.mark.parametrize("said", ["set a timer for five minutes", "four one seven two nine"])
def test_words_do_not_depend_on_how_long_it_was_quiet_before(embedded, said, lead_s):
    samples = spoken(said.replace(" ", "-"), lead_s=lead_s)
    finals = [e for e in events_of(embedded, samples) if isinstance(e, Final)]
    assert [final.text for final in finals] == [said]
    assert finals[0].start_s == pytest.approx(lead_s + 0.1, abs=0.35)


@pytest.mark.parametrize("clip", EXAMPLES, ids=lambda path: path.stem)
def test_the_tail_is_flushed_by_what_the_model_needs(embedded, clip):
    """With nothing before it and no end within, an utterance is what `transcribe` says."""
    samples = read_audio(clip)
    loud = np.flatnonzero(np.abs(samples) > 0.05 * np.abs(samples).max())
    samples = samples[max(0, loud[0] - 800) : loud[-1] + 1]  # cut where its last word ends
    events = events_of(embedded, samples, endless(EndpointConfig()))
    final = events[-1]
    assert isinstance(final, Final)
    assert final.reason == "end"
    assert final.t_s == len(samples) / RATE
    assert final.text == embedded.transcribe(samples).text
    flushed = embedded.create_event_stream(endpoint=endless(EndpointConfig()))
    flushed.accept_waveform(RATE, samples)
    flushed.flush()
    other = flushed.decode()
    assert other == [*events[:-1], replace(final, reason="flush")]
    assert flushed.decode() == []  # and the stream goes on, with nothing left over
    assert not flushed.in_utterance


@pytest.mark.parametrize("kind", ["silence", "white", "brown", "hum", "steps"])
@pytest.mark.parametrize("level_db", [-60, -30])
def test_silence_and_noise_alone_give_no_utterance(embedded, tiny, kind, level_db):
    rng = np.random.default_rng(3)
    count = 6 * RATE
    if kind == "silence":
        noise = np.zeros(count)
    elif kind == "hum":
        t = np.arange(count) / RATE
        noise = sum(np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 9))
    else:
        noise = rng.normal(0, 1, count)
        if kind == "brown":
            noise = np.cumsum(noise)
            noise -= np.convolve(noise, np.ones(800) / 800, mode="same")
        elif kind == "steps":  # the noise grows louder, as a fan that starts
            noise[count // 2 :] *= 1.5
    noise = noise / (np.std(noise) + 1e-9) * 10 ** (level_db / 20)
    samples = np.clip(noise, -1, 1).astype(np.float32)
    # Random weights put words into any noise; then its level alone must tell, which a step cannot.
    for recognizer in (embedded,) if kind == "steps" else (embedded, tiny[False]):
        assert events_of(recognizer, samples) == []


def test_many_streams_decode_as_each_alone(embedded):
    clips = [
        spoken("turn-on-the-lights"),
        spoken("set-a-timer-for-five-minutes", lead_s=0.1),
        spoken("four-one-seven-two-nine", gap_s=0.2),
        np.zeros(100, np.float32),
    ]
    streams = [embedded.create_event_stream() for _ in clips]
    events = [[] for _ in clips]
    for at in range(0, max(map(len, clips)), 4000):
        for stream, clip in zip(streams, clips, strict=True):
            stream.accept_waveform(RATE, clip[at : at + 4000])
        for row, new in zip(events, embedded.decode_event_streams(streams), strict=True):
            row += new
    for stream in streams:
        stream.input_finished()
    for row, new in zip(events, embedded.decode_event_streams(streams), strict=True):
        row += new
    assert events == [events_of(embedded, clip) for clip in clips]


def test_int16_and_other_rates_are_taken(embedded):
    samples = spoken("turn-on-the-lights")
    as_int = (samples * 32767).astype(np.int16)
    assert [e.text for e in events_of(embedded, as_int) if isinstance(e, Final)] == [
        "turn on the lights"
    ]


COMMANDS = """\
language: en
intents:
  TurnOn:
    data:
      - sentences: ["turn on the {device} [in the {room}]"]
lists:
  device:
    values: [{in: "(light|lights)", out: light}, fan]
  room:
    values: [kitchen, bedroom]
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    path = tmp_path_factory.mktemp("house") / "house.yaml"
    path.write_text(COMMANDS, encoding="utf-8")
    return Recognizer.load(commands=path)


def test_a_command_is_understood_at_the_speculation(house):
    events = events_of(house, spoken("turn-on-the-fan-in-the-bedroom"))
    check_guarantees(events, duration_s=60.0, ended=True)
    guesses = [e for e in events if isinstance(e, SpeculativeEndpoint)]
    final = events[-1]
    assert isinstance(final, Final)
    assert final.intent == "TurnOn"
    assert {name: slot.value for name, slot in final.slots.items()} == {
        "device": "fan",
        "room": "bedroom",
    }
    assert guesses and guesses[-1].intent == "TurnOn"
    assert final.matched and final.spec_id == guesses[-1].spec_id


def test_an_unfinished_command_is_waited_for(house):
    """After "turn on the" the grammar knows that more must come; after "... lights" it may end."""
    clip = read_audio(REPOSITORY / "examples" / "turn-on-the-lights.flac")
    words = house.transcribe(clip).words
    cut = int(words[2].end_s * RATE)
    rng = np.random.default_rng(1)
    config = replace(
        EndpointConfig(), use_head=False, final=replace(EndpointConfig().final, open_pause_s=2.5)
    )

    def final_s(said: np.ndarray) -> float:
        quiet = np.concatenate([np.zeros(3200), said, np.zeros(4 * RATE)])
        samples = (quiet + rng.normal(0, 2e-4, len(quiet))).astype(np.float32)
        return next(e for e in events_of(house, samples, config) if isinstance(e, Final)).t_s - (
            0.2 + len(said) / RATE
        )

    assert final_s(clip[:cut]) > 1.5
    assert final_s(clip) < 1.2


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"nbest": 65}, "nbest is 65; it must lie in 1..64."),
        ({"nbest": 0}, "nbest is 0; it must lie in 1..64."),
    ],
)
def test_what_cannot_be_had_is_refused(tiny, settings_, message):
    with pytest.raises(ConfigError) as caught:
        tiny[False].create_event_stream(**settings_)
    assert str(caught.value) == message


def test_nbest_is_there_where_asked_for(embedded):
    samples = spoken("turn-on-the-lights")
    plain = [e for e in events_of(embedded, samples) if isinstance(e, Final)]
    listed = [e for e in events_of(embedded, samples, nbest=3) if isinstance(e, Final)]
    assert plain[0].nbest is None
    assert listed[0].nbest is not None
    assert 1 <= len(listed[0].nbest) <= 3
    assert listed[0].nbest[0].text == listed[0].text
    shares = [other.probability for other in listed[0].nbest]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1 + 1e-6


def test_the_rate_of_a_stream_must_not_change(tiny):
    stream = tiny[False].create_event_stream()
    stream.accept_waveform(RATE, np.zeros(4, np.float32))
    with pytest.raises(RuntimeError, match="the rate is 8000 Hz and was 16000 Hz"):
        stream.accept_waveform(8000, np.zeros(4, np.float32))
    assert stream.decode() == []


def test_reset_makes_a_stream_new(embedded):
    samples = spoken("turn-on-the-lights")
    stream = embedded.create_event_stream()
    stream.accept_waveform(8000, samples[:9000])
    stream.decode()
    stream.reset()
    assert (stream.duration_s, stream.num_utterances, stream.is_ready()) == (0.0, 0, False)
    stream.accept_waveform(RATE, samples)
    stream.input_finished()
    assert stream.decode() == events_of(embedded, samples)


def test_a_stream_is_decoded_by_its_own_recogniser_once(tiny, embedded):
    stream = embedded.create_event_stream()
    with pytest.raises(ValueError, match="twice"):
        embedded.decode_event_streams([stream, stream])
    with pytest.raises(ValueError, match="another recogniser"):
        tiny[False].decode_event_streams([stream])
