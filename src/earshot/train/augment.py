"""Augmentation of clips and features, scaled by one strength from 0 to 1.

A run starts with clean clips and reaches full strength half-way (`strength_at`): measured, that
curriculum is worth more than any single perturbation. Perturbations that are linear filters of
the spectrum (equaliser, vocal tract) act on log-mel features, where they cost little.
Knows nothing of data sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import signal

from earshot.train.recipe import AugmentConfig

SAMPLE_RATE_HZ = 16000
LOW_HZ, HIGH_HZ = 20.0, 7600.0  # of the mel bins, docs/formats/ear.md
Samples = npt.NDArray[np.float32]


def strength_at(progress: float, config: AugmentConfig) -> float:
    """Augmentation strength at a share `progress` of the run, in [0, 1]."""
    return float(np.clip((progress - config.start) / (config.full - config.start), 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class NoisePool:
    """Noise to mix in: one long int16 track and where each piece of it begins and ends."""

    track: npt.NDArray[np.int16]
    pieces: npt.NDArray[np.int64]  # (N, 2) first and last sample

    def draw(self, count: int, rng: np.random.Generator) -> Samples:
        """A random stretch of `count` samples, looped when the piece is shorter."""
        first, last = self.pieces[rng.integers(len(self.pieces))]
        length = int(last - first)
        start = int(rng.integers(length))
        index = (start + np.arange(count)) % length
        return np.asarray(self.track[first + index], dtype=np.float32) / 32768.0


@dataclass(frozen=True, slots=True)
class Augmenter:
    """Perturbs one clip at a time; all randomness comes from the generator passed in."""

    config: AugmentConfig
    noise: NoisePool | None
    rooms: tuple[Samples, ...]

    def draw_wait(self, longest: int, rng: np.random.Generator) -> int:
        """How long the clips of a batch are, with what is heard before and after their speech.

        All of a batch last until about the same sample or none waits (those that end with their
        speech only where something comes before it): a batch is as long as its longest clip, and
        clips that waited each for itself would leave half of it empty.

        Args:
            longest: Samples of the longest clip, before its speed is changed.
            rng: Source of randomness.

        Returns:
            `until` of `perturb_audio`.
        """
        if not self.config.wait_share or rng.random() >= self.config.wait_share:
            return 0
        return longest + int(rng.integers(0, int(self.config.wait_max_s * SAMPLE_RATE_HZ) + 1))

    def perturb_audio(
        self, samples: Samples, strength: float, rng: np.random.Generator, *, until: int = 0
    ) -> Samples:
        """Speed, room, noise, band limit, level and padding.

        Args:
            samples: (N,) in [-1, 1] at 16 kHz.
            strength: 0 leaves the clip as it is but for padding and level; 1 is full.
            rng: Source of randomness.
            until: Samples that the clip lasts, noise and all. What is more than its speech lies
                after that; of a share of the clips a random part of it lies before, and before one
                that ends with its speech all of it.

        Returns:
            (M,) float32 in [-1, 1].
        """
        c = self.config
        if rng.random() < strength:
            samples = _change_speed(samples, rng.uniform(1 - c.speed, 1 + c.speed))
        before, after = rng.integers(0, int(c.padding_max_s * SAMPLE_RATE_HZ) + 1, size=2)
        ends = rng.random() < c.cut_tail_share  # the last word must come without silence after it
        if ends:
            samples, after = samples[: speech_end(samples)], 0
        waited = max(0, until - int(before) - len(samples) - int(after))
        early = 0
        if waited and rng.random() < c.wait_before_share:
            early = waited if ends else int(waited * rng.random())
        if ends:
            waited = early
        before, after = before + early, after + waited - early
        samples = np.pad(samples, (int(before), int(after)))
        if self.rooms and rng.random() < c.reverb_share * strength:
            room = self.rooms[rng.integers(len(self.rooms))]
            samples = signal.oaconvolve(samples, room)[: len(samples)].astype(np.float32)
        if rng.random() < c.band_limit_share * strength:
            samples = signal.sosfilt(TELEPHONE, samples).astype(np.float32)
        # Of the speech: how long nothing is said around it changes no level.
        power = float(np.sum(samples**2)) / (len(samples) - waited) + 1e-10
        if self.noise is not None and rng.random() < c.noise_share * strength:
            snr_db = rng.uniform(c.snr_min_db + 20 * (1 - strength), c.snr_max_db)
            noise = self.noise.draw(len(samples), rng)
            if rng.random() < c.second_noise_share * strength:
                other = self.noise.draw(len(samples), rng)
                noise = noise + other * np.float32(10 ** (rng.uniform(-15.0, 5.0) / 20))
            noise_power = float(np.mean(noise**2)) + 1e-10
            samples = samples + noise * np.sqrt(power / noise_power * 10 ** (-snr_db / 10))
        else:  # never digital silence: the log floor would be a cue of its own
            floor = rng.standard_normal(len(samples), dtype=np.float32)
            samples = samples + floor * np.float32(np.sqrt(power) * 10 ** rng.uniform(-3.5, -2.2))
        peak = float(np.abs(samples).max()) + 1e-6
        level_db = rng.uniform(c.level_min_db * max(strength, 0.3), -1.0)
        return (samples * (10 ** (level_db / 20) / peak)).astype(np.float32)

    def perturb_features(
        self, features: Samples, strength: float, rng: np.random.Generator
    ) -> Samples:
        """Vocal tract, equaliser and masks on log-mel features.

        Args:
            features: (T, bins) log-mel.
            strength: As above.
            rng: Source of randomness.

        Returns:
            (T, bins), a new array.
        """
        c = self.config
        frames, bins = features.shape
        out = features
        if rng.random() < strength:
            out = _warp_vocal_tract(out, rng.uniform(1 - c.vocal_tract, 1 + c.vocal_tract))
        if rng.random() < c.equaliser_share * strength:
            knots = rng.uniform(-c.equaliser_db, c.equaliser_db, size=6) * (np.log(10) / 10)
            curve = np.interp(np.linspace(0, 5, bins), np.arange(6), knots)
            out = out + curve.astype(np.float32)
        out = np.array(out, dtype=np.float32)
        fill = out.mean(axis=0)
        for _ in range(c.frequency_masks):
            width = int(rng.integers(0, max(1, int(c.frequency_mask_bins * strength)) + 1))
            start = int(rng.integers(0, bins - width + 1))
            if strength > 0:
                out[:, start : start + width] = fill[start : start + width]
        longest = min(c.time_mask_frames, frames // 10)
        for _ in range(c.time_masks):
            width = int(rng.integers(0, int(longest * strength) + 1))
            start = int(rng.integers(0, frames - width + 1))
            out[start : start + width] = fill
        return out


TELEPHONE = signal.butter(6, (100, 3600), "bandpass", fs=SAMPLE_RATE_HZ, output="sos")


def _change_speed(samples: Samples, rate: float) -> Samples:
    count = max(1, int(len(samples) / rate))
    position = np.arange(count, dtype=np.float32) * np.float32(rate)
    left = np.minimum(position.astype(np.int64), len(samples) - 1)
    right = np.minimum(left + 1, len(samples) - 1)
    share = position - left
    return samples[left] * (1 - share) + samples[right] * share


def speech_end(samples: Samples) -> int:
    """One past the last sample above 2 % of the peak."""
    level = np.abs(samples)
    loud = np.flatnonzero(level > 0.02 * level.max(initial=0.0))
    return int(loud[-1]) + 1 if len(loud) else len(samples)


def _warp_vocal_tract(features: Samples, factor: float) -> Samples:
    """Move formants by `factor`."""
    bins = features.shape[1]
    position = vocal_tract_positions(bins, np.array([factor]))[0]
    left = np.minimum(position.astype(np.int64), bins - 2)
    share = (position - left).astype(np.float32)
    return features[:, left] * (1 - share) + features[:, left + 1] * share


def mel_of(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Frequencies on the mel scale, as Kaldi has it."""
    return np.asarray(1127.0 * np.log1p(hz / 700.0))


def vocal_tract_positions(bins: int, factors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where each mel bin reads from when formants move.

    Args:
        bins: Mel bins.
        factors: (B,) by which formants move: a bin reads at its frequency over it.

    Returns:
        (B, bins) positions in 0..bins - 1.
    """
    low, high = mel_of(np.array([LOW_HZ, HIGH_HZ]))
    mel = low + (np.arange(bins) + 1) * (high - low) / (bins + 1)
    hz = 700.0 * np.expm1(mel / 1127.0)
    factor = factors[:, None]
    knee = 4800.0 * np.minimum(factor, 1.0)  # warp below, then linear to the band's end (Kaldi)
    source = np.where(
        hz <= knee,
        hz / factor,
        HIGH_HZ - (HIGH_HZ - knee / factor) * (HIGH_HZ - hz) / (HIGH_HZ - knee),
    )
    position = (mel_of(source) - low) / (high - low) * (bins + 1) - 1
    return np.clip(position, 0, bins - 1)
