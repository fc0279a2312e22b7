"""Timbres that are known by construction: phones are filtered noise, a voice is another filter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import signal

from earshot.data.phones import PHONES
from earshot.train.forced_alignment import Aligned
from earshot.train.timbre import Timbre, recoloured

Samples = npt.NDArray[np.float32]
RATE = 16_000
CENTRES = {1: 700.0, 2: 1800.0, 3: 3500.0}  # of the phones, Hz


def say(phones: tuple[int, ...], *, seed: int, tilt: float = 0.0) -> tuple[Samples, Aligned]:
    """Phones of 12 frames after a pause of 10; `tilt` is the zero of a filter over all of it."""
    rng = np.random.default_rng(seed)
    parts = [0.003 * rng.standard_normal(1600)]
    for phone in phones:
        band = signal.butter(1, [0.7 * CENTRES[phone], 1.4 * CENTRES[phone]], "band", fs=RATE)
        parts.append(signal.lfilter(*band, rng.standard_normal(12 * 160)))
    samples = signal.lfilter([1.0, tilt], [1.0], np.concatenate(parts))
    starts = tuple(10 + 12 * n for n in range(len(phones)))
    said = Aligned(phones, starts, tuple(start + 12 for start in starts))
    return samples.astype(np.float32), said


def frames_of(said: Aligned, count: int) -> npt.NDArray[np.int64]:
    phones = np.zeros(count, np.int64)
    for phone, start, end in zip(said.phones, said.starts, said.ends, strict=True):
        phones[start:end] = phone
    return phones


def apart(one: Timbre, other: Timbre) -> float:
    """Mean nats of power between two voices, whatever their loudness."""
    both = (one.counts > 0) & (other.counts > 0)
    gap = (one.levels - other.levels)[both]
    return float(np.abs(gap - gap.mean()).mean())


def test_phones_are_counted_and_measured_at_any_loudness() -> None:
    samples, said = say((1, 2, 1), seed=1)
    timbre, softer = Timbre.of([(samples, said)]), Timbre.of([(0.01 * samples, said)])
    assert timbre.levels.shape[0] == timbre.counts.size == len(PHONES) + 1
    assert timbre.counts[[1, 2, 3]].tolist() == [2, 1, 0]
    assert not timbre.levels[3].any()
    assert timbre.levels[1].argmax() < timbre.levels[2].argmax()
    assert np.abs(timbre.levels - softer.levels).max() < 0.05


def test_ones_own_timbre_changes_nothing() -> None:
    samples, said = say((1, 2, 3, 1, 2, 3), seed=2)
    timbre = Timbre.of([(samples, said)])
    out = recoloured(samples, frames_of(said, 82), own=timbre, other=timbre)
    assert out.shape == samples.shape and out.dtype == np.float32
    np.testing.assert_allclose(out, samples, atol=1e-4)


@pytest.mark.parametrize("tilt", [0.8, -0.8])
def test_a_clip_comes_near_the_other_voice(tilt: float) -> None:
    own = Timbre.of([say((1, 2, 3) * 6, seed=n) for n in range(4)])
    other = Timbre.of([say((1, 2, 3) * 6, seed=9, tilt=tilt)])
    samples, said = say((2, 3, 1, 1, 3, 2) * 3, seed=20)
    out = recoloured(samples, frames_of(said, 226), own=own, other=other)
    before, after = (Timbre.of([(sound, said)]) for sound in (samples, out))
    assert apart(before, other) > 0.5
    assert apart(after, other) < 0.5 * apart(before, other)


def test_a_phone_that_the_other_never_said_gets_the_mean_of_the_rest() -> None:
    own = Timbre.of([say((1, 2, 3) * 6, seed=n) for n in range(4)])
    other = Timbre.of([say((1, 2) * 9, seed=9, tilt=0.8)])
    whole = Timbre.of([say((1, 2, 3) * 6, seed=9, tilt=0.8)])
    samples, said = say((3,) * 10, seed=20)
    out = recoloured(samples, frames_of(said, 130), own=own, other=other)
    before, after = (Timbre.of([(sound, said)]) for sound in (samples, out))
    assert apart(after, whole) < apart(before, whole)


def test_a_voice_of_whom_nothing_is_known_changes_nothing() -> None:
    samples, said = say((1, 2), seed=3)
    own, nobody = Timbre.of([(samples, said)]), Timbre.of([])
    out = recoloured(samples, frames_of(said, 34), own=own, other=nobody)
    np.testing.assert_allclose(out, samples, atol=1e-4)


def test_only_the_frames_of_a_phone_are_moved() -> None:
    samples, said = say((1, 2, 1, 2), seed=4)
    own = Timbre.of([say((1, 2) * 20, seed=6)])
    levels = own.levels.copy()
    levels[2, 20:] += 2.0
    levels[2, :12] -= 2.0
    out = recoloured(samples, frames_of(said, 58), own=own, other=Timbre(levels, own.counts))
    loud = signal.sosfilt(signal.butter(4, 3000, "high", fs=RATE, output="sos"), [samples, out])
    power = np.square(loud).reshape(2, -1, 160).mean(axis=2)
    gained = power[1] / power[0]
    middles = {1: (15, 39), 2: (27, 51)}
    assert all(gained[frame] > 2.0 for frame in middles[2])
    assert all(gained[frame] < 1.5 for frame in middles[1])


def test_what_is_shorter_than_a_window_keeps_its_length() -> None:
    samples, said = say((1,), seed=5)
    timbre = Timbre.of([(samples, said)])
    assert recoloured(samples[:100], np.array([1]), own=timbre, other=timbre).shape == (100,)
