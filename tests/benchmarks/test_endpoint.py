"""The end-point benchmark: what its pure parts say of known input."""

from __future__ import annotations

import json

import endpoint
import numpy as np
import pytest
from endpoint_sets import ENDS, ended_digits, speech_end_s
from silero import WINDOW, first_end_s

from earshot.session.endpoint_plot import Curve, curves_svg

WINDOW_S = WINDOW / 16_000


def test_silence_ends_an_utterance_after_speech_only():
    speech = np.array([0.1] * 20 + [0.9] * 10 + [0.4] * 5 + [0.1] * 40)
    assert first_end_s(speech[:20], silence_s=0.1) is None
    # 0.4 is neither: silence is counted from the first window below 0.35.
    assert first_end_s(speech, silence_s=0.32) == pytest.approx(45 * WINDOW_S)
    assert first_end_s(speech, silence_s=5.0) is None


def test_a_pause_that_is_too_short_does_not_end_it():
    speech = np.array([0.9] * 10 + [0.1] * 5 + [0.9] * 10 + [0.1] * 40)
    assert first_end_s(speech, silence_s=0.2) == pytest.approx((25 + 7) * WINDOW_S)
    assert first_end_s(speech, silence_s=0.1) == pytest.approx((10 + 4) * WINDOW_S)


def test_speech_ends_with_the_sound_of_its_last_word():
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 1e-4, 48_000)
    samples[8000:20_000] += 0.2 * np.sin(np.arange(12_000) * 0.1)  # ends at 1.25 s
    samples[40_000:42_000] += 0.2  # a knock at 2.5 s
    assert speech_end_s(samples.astype(np.float32), 1.1) == pytest.approx(1.25, abs=0.03)


def test_every_coffee_order_has_an_end():
    ends = json.loads(ENDS.read_text(encoding="utf-8"))
    assert len(ends) == 311
    assert all(0.5 < end_s < 12 for end_s, _ in ends.values())
    assert sum(aligned for _, aligned in ends.values()) > 200


def test_digit_strings_end_where_they_say(real_data):
    for clip in ended_digits(real_data, count=3, digits=4):
        assert len(clip.slots["digits"].split()) == 4
        assert len(clip.samples) / 16_000 == pytest.approx(clip.end_s + 3.5, abs=0.01)
        at = int(clip.end_s * 16_000)
        loud = np.sqrt(np.mean(np.square(clip.samples[at - 8000 : at])))
        assert loud > 3 * np.sqrt(np.mean(np.square(clip.samples[at + 1600 :])))
    again = next(ended_digits(real_data, count=1, digits=4))
    np.testing.assert_array_equal(
        again.samples, next(ended_digits(real_data, count=1, digits=4)).samples
    )


def test_intervals_hold_their_value():
    found = endpoint._interval([0.1, 0.2, 0.3, 0.4], np.median)
    assert found["low"] <= found["value"] == 0.25 <= found["high"]
    assert endpoint._interval([], np.median)["value"] is None


def test_a_curve_without_points_is_left_out():
    text = curves_svg([Curve("a", ((0.1, 0.5), (0.2, 0.3))), Curve("b", ())], title="<x>")
    assert text.count("<polyline") == 1
    assert "&lt;x&gt;" in text
