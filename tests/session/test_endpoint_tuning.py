"""Tuning: replayed decisions are the stream's own, and what is chosen keeps its limits."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot import ConfigError, Recognizer
from earshot.core.events import Final, SpeculativeEndpoint
from earshot.data.speech_energy import HOP_SAMPLES, more_silence, speech_mask
from earshot.decode.endpoint import EndpointConfig
from earshot.session import endpoint_tuning
from earshot.session.endpoint_plot import endpoint_svg
from earshot.session.endpoint_tuning import (
    Trace,
    TracedClip,
    evaluate,
    record_traces,
    replay,
    scaled,
    trade_off,
    tune,
)
from tests.decode.test_endpoint import EVIDENCE, POINTS
from tests.tiny_model import write_tiny_model

RATE = 16_000


@st.composite
def traces(draw, *, most: int = 8):
    rows = []
    for n in range(draw(st.integers(1, most))):
        frames = draw(st.lists(EVIDENCE, min_size=1, max_size=20))
        times = [0.04 * (k + 1) for k in range(len(frames))]
        end_s = draw(st.none() | st.floats(0, 1))
        rows.append(Trace(str(n), end_s, 1.0, times, frames, ["x"] * len(frames)))
    return rows


@given(rows=traces(), point=POINTS)
def test_deciding_all_at_once_is_deciding_frame_by_frame(rows, point):
    """Oracle: the detector that streams use."""
    config = EndpointConfig(final=point, speculation=False)
    table = endpoint_tuning._Table.of(rows).final_s(config)
    for row, fast in zip(rows, table, strict=True):
        slow = replay(row, config).final_s
        assert (slow is None and np.isnan(fast)) or slow == fast


def bursts(seed: int, seconds: float = 4.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.uniform(0, 0.4, 40) ** 2, RATE // 10)[: int(seconds * RATE)]
    return (rng.normal(0, 1, len(loud)) * loud).clip(-1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tuning") / "tiny.ear"
    return Recognizer.load(write_tiny_model(path, endpoint=True), blank_penalty=-5.0)


@pytest.fixture(scope="module")
def recorded(recognizer):
    clips = [TracedClip(str(seed), bursts(seed), 2.0) for seed in range(24)]
    return record_traces(recognizer, clips)


def test_a_replay_ends_where_the_stream_does(recognizer, recorded):
    config = replace(
        recognizer.endpoint_config(),
        final=replace(EndpointConfig().final, pause_s=0.3, end_probability=0.9, min_pause_s=0.08),
    )
    compared = 0
    for seed, trace in enumerate(recorded):
        stream = recognizer.create_event_stream(endpoint=config)
        stream.accept_waveform(RATE, bursts(seed))
        stream.input_finished()
        events = stream.decode()
        finals = [e for e in events if isinstance(e, Final) and e.utterance == "u1"]
        if not finals or finals[0].reason != "endpoint":
            continue
        outcome = replay(trace, config)
        made = [e.t_s for e in events if isinstance(e, SpeculativeEndpoint) and e.utterance == "u1"]
        assert outcome.final_s == finals[0].t_s
        assert list(outcome.speculations) == made
        compared += 1
    assert compared >= 5


def test_what_is_chosen_is_no_worse_and_keeps_its_limits(recorded):
    start = EndpointConfig()
    done = []
    chosen = tune(
        recorded, start, max_cut_off=0.2, progress=lambda at, total: done.append((at, total))
    )
    before = evaluate(recorded, replace(start, speculation=False))
    after = evaluate(recorded, chosen)
    # Random weights leave nothing better than to trade the two; on speech both limits are met.
    assert after.cut_off + after.missed < before.cut_off + before.missed
    assert done[-1][0] == done[-1][1]
    assert chosen.rule2 == start.rule2
    generous = evaluate(recorded, tune(recorded, start, max_cut_off=1.0))
    assert generous.latency_s <= after.latency_s + 1e-9


def test_patience_costs_latency_and_saves_utterances(recorded):
    rows = [figures for _, figures in trade_off(recorded, EndpointConfig())]
    assert rows[0].cut_off >= rows[-1].cut_off
    rules = [figures for _, figures in trade_off(recorded, EndpointConfig(), rules_only=True)]
    cuts = [figures.cut_off for figures in rules]
    assert cuts == sorted(cuts, reverse=True)
    assert scaled(EndpointConfig().final, 1.0) == replace(
        EndpointConfig().final, end_probability=scaled(EndpointConfig().final, 1.0).end_probability
    )


def test_figures_of_known_traces():
    """By hand: one is ended in time, one too early, one never, and one where nothing was heard."""
    quiet = recorded_silence(end_s=0.5)
    early = recorded_silence(end_s=3.0)
    rules = EndpointConfig(use_rules_only=True, speculation=False)  # fires after 1.2 s
    short = Trace("short", 0.1, 1.0, quiet.times_s[:5], quiet.frames[:5], quiet.texts[:5])
    nothing = Trace("nothing", 1.0, 2.0)
    figures = evaluate([quiet, early, short, nothing], rules)
    assert figures.clips == 3
    assert figures.cut_off == pytest.approx(1 / 3)
    assert figures.missed == pytest.approx(1 / 3)
    assert figures.latency_s == pytest.approx(1.24 - 0.5)
    assert json.loads(json.dumps(figures.as_dict(), allow_nan=False))["clips"] == 3
    nobody = evaluate([nothing], rules).as_dict()
    assert (nobody["clips"], nobody["latency_s"]) == (0, None)


def recorded_silence(end_s: float) -> Trace:
    from tests.decode.test_endpoint import after

    frames = [after(0.04 * n) for n in range(60)]
    return Trace("silence", end_s, 3.0, [0.04 * (n + 1) for n in range(60)], frames, ["x"] * 60)


def test_too_few_utterances_are_refused(recorded):
    with pytest.raises(ConfigError, match="3 utterances were heard in 3 clips; at least 20"):
        tune([trace for trace in recorded if trace.frames][:3], EndpointConfig())


def test_the_plot_is_a_drawing_without_requests(recorded):
    text = endpoint_svg(recorded, before=EndpointConfig(), after=EndpointConfig())
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert text.count("<polyline") == 3
    assert "href" not in text and "url(" not in text


def test_energy_tells_where_a_clean_clip_sounds():
    rng = np.random.default_rng(0)
    clip = rng.normal(0, 1e-4, 3 * RATE).astype(np.float32)
    clip[RATE : 2 * RATE] += 0.2 * np.sin(np.arange(RATE) * 0.1).astype(np.float32)
    where = np.flatnonzero(speech_mask(clip)) * HOP_SAMPLES / RATE
    assert where[0] == pytest.approx(1.0, abs=0.03)
    assert where[-1] == pytest.approx(2.0, abs=0.03)
    assert speech_mask(np.zeros(0, np.float32)).shape == (0,)


def test_more_silence_sounds_like_the_clips_own():
    rng = np.random.default_rng(0)
    quiet = np.convolve(rng.normal(0, 0.01, 2 * RATE), np.ones(4) / 4, mode="same")
    made = more_silence(quiet.astype(np.float32), RATE)
    assert made.shape == (RATE,)
    assert np.std(made) == pytest.approx(np.std(quiet), rel=0.25)
    spectra = [np.abs(np.fft.rfft(x[:RATE])) ** 2 for x in (made, quiet)]
    low, high = ([float(s[a:b].sum()) for s in spectra] for a, b in ((0, 2000), (6000, 8000)))
    assert low[0] / high[0] == pytest.approx(low[1] / high[1], rel=0.6)
    np.testing.assert_array_equal(made, more_silence(quiet.astype(np.float32), RATE))
    assert not more_silence(np.zeros(10, np.float32), 100).any()
