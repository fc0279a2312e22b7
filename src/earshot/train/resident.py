"""Clips that stay in a GPU's memory, and are augmented and turned into features there.

What `train.augment` does to one clip at a time on a CPU is done here to a whole batch on any
device, so that a GPU need not wait for a dozen cores. The loader's processes send texts and where
each clip lies (`PlacedBatch`); `Resident` makes a `Batch` of them. Knows nothing of networks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import scipy.fft
import soundfile
import torch
from lhotse.cut import MonoCut
from scipy import signal
from torch import Tensor
from torch.nn import functional

from earshot.train.augment import (
    HIGH_HZ,
    LOW_HZ,
    SAMPLE_RATE_HZ,
    TELEPHONE,
    NoisePool,
    Samples,
    mel_of,
    speech_end,
    strength_at,
    vocal_tract_positions,
)
from earshot.train.recipe import AugmentConfig

_SHIFT, _LENGTH, _FFT = 160, 400, 512  # samples of a frame, as docs/formats/ear.md has them
_PADDED = 64 * _SHIFT  # lengths are multiples of it: few distinct shapes
_PRE_EMPHASIS = 0.97
_RINGING = 4000  # samples until the telephone's filter is quiet

Place = tuple[int, int, int]  # first sample, samples, samples until speech ends
ClipKey = tuple[str, int, int]  # file, first sample in it, samples


@dataclass(frozen=True, slots=True)
class ResidentAudio:
    """All clips, one after the other: int16 samples, and where each cut lies in them."""

    track: npt.NDArray[np.int16]
    places: Mapping[ClipKey, Place]


def clip_key(cut: MonoCut) -> ClipKey:
    """What audio a cut is of; ids may come again in another source."""
    start, count = (round(seconds * SAMPLE_RATE_HZ) for seconds in (cut.start, cut.duration))
    return cut.recording.sources[0].source, start, count


def read_resident(sources: Mapping[str, Sequence[MonoCut]]) -> ResidentAudio:
    """Read the audio of all cuts, whose recordings are local 16 kHz files.

    Args:
        sources: By name.

    Returns:
        At 32 kB for every second of audio.
    """
    firsts: dict[ClipKey, int] = {}
    by_file: dict[str, list[ClipKey]] = {}
    total = 0
    for cut in (cut for source in sources.values() for cut in source):
        key = clip_key(cut)
        if key not in firsts:
            by_file.setdefault(key[0], []).append(key)
            firsts[key] = total
            total += key[2]
    track = np.zeros(total, dtype=np.int16)
    places: dict[ClipKey, Place] = {}

    def read(path: str, inside: Iterable[ClipKey]) -> None:
        samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
        for key in inside:
            clip = samples[key[1] : key[1] + key[2], 0]
            first = firsts[key]
            track[first : first + len(clip)] = (clip * 32768.0).round().clip(-32768, 32767)
            places[key] = (first, len(clip), speech_end(clip))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(read, by_file, by_file.values()):
            pass
    return ResidentAudio(track, places)


class Resident:
    """Draws augmented features of clips by their places, as `train.augment` says.

    Args:
        config: `[augment]`.
        audio: All clips.
        noise: To mix in, if there is any.
        rooms: Impulse responses.
        num_bins: Of the features.
        device: Where everything lies and is computed.
        seed: Of all randomness.
    """

    def __init__(
        self,
        config: AugmentConfig,
        audio: ResidentAudio,
        noise: NoisePool | None,
        rooms: Sequence[Samples],
        *,
        num_bins: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self._config = config
        self._device = device
        self._rng = np.random.default_rng(seed)
        self._track = torch.from_numpy(audio.track).to(device)
        self._noise = None if noise is None else torch.from_numpy(np.array(noise.track)).to(device)
        self._pieces = None if noise is None else noise.pieces
        longest = max(map(len, rooms), default=1)
        table = np.zeros((len(rooms) + 1, longest), dtype=np.float32)
        for row, room in enumerate(rooms):
            table[row, : len(room)] = room
        table[-1, 0] = 1.0  # the last room is none
        self._rooms = torch.from_numpy(table).to(device)
        self._num_bins = num_bins

    @torch.no_grad()
    def features(self, clips: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """Features of a batch of clips, each augmented in its own way.

        Args:
            clips: (B, 3) int64, a `Place` each.
            progress: Share of the run that is done: strength follows it.

        Returns:
            (B, T, num_bins) log-mel, padded by repeating each one's last frame, and (B,) frames.
        """
        strength = strength_at(progress, self._config)
        samples, lengths = self._audio(clips.numpy(), strength)
        features = log_mel(samples, self._moved(lengths)[:, 0], self._num_bins)
        frames = np.maximum(1, (lengths + _SHIFT // 2) // _SHIFT)
        features = self._perturbed(features, frames, strength)
        ends = self._moved(frames)
        clock = torch.arange(features.shape[1], device=self._device)
        index = torch.minimum(clock, ends - 1)[..., None].expand_as(features)
        return features.gather(1, index), ends[:, 0]

    def _chance(self, count: int, share: float) -> npt.NDArray[np.bool_]:
        return self._rng.random(count) < share

    def _moved(self, values: npt.NDArray[np.generic]) -> Tensor:
        """A column (B, 1) on the device."""
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        return torch.from_numpy(values).to(self._device)[:, None]

    def _audio(
        self, clips: npt.NDArray[np.int64], strength: float
    ) -> tuple[Tensor, npt.NDArray[np.int64]]:
        """Speed, room, noise, band limit, level and padding: (B, N), and how many count, (B,)."""
        c, rng, count = self._config, self._rng, len(clips)
        first, samples, speech = clips.T
        speed = rng.uniform(1 - c.speed, 1 + c.speed, count)
        rate = np.where(self._chance(count, strength), speed, 1.0)
        # The last word must come without silence after it now and then.
        cut = self._chance(count, c.cut_tail_share)
        kept = np.maximum(1, (np.where(cut, speech, samples) / rate).astype(np.int64))
        padding = int(c.padding_max_s * SAMPLE_RATE_HZ)
        before, after = rng.integers(0, padding + 1, size=(2, count))
        spoken = before + kept + np.where(cut, 0, after)
        lengths = spoken
        if c.wait_share and rng.random() < c.wait_share:  # all or none, as in `train.augment`
            waits = rng.integers(0, int(c.wait_max_s * SAMPLE_RATE_HZ) + 1)
            waited = spoken.max() + waits - spoken
            early = np.where(cut, waited, (waited * rng.random(count)).astype(np.int64))
            early = np.where(self._chance(count, c.wait_before_share), early, 0)
            lengths = spoken + np.where(cut, early, waited)
            before = before + early
        width = -(-int(lengths.max()) // _PADDED) * _PADDED

        clock = torch.arange(width, device=self._device)
        x = self._spoken(clock, first, samples, rate, before, kept)
        room = np.full(count, len(self._rooms) - 1)
        if len(self._rooms) > 1:
            chosen = self._chance(count, c.reverb_share * strength)
            room = np.where(chosen, rng.integers(len(self._rooms) - 1, size=count), room)
        telephone = self._chance(count, c.band_limit_share * strength)
        if telephone.any() or (room < len(self._rooms) - 1).any():
            x = self._filtered(x, room, telephone)
        ends = self._moved(lengths)
        inside = clock < ends
        x = x * inside
        # Of the speech: how long nothing is said after it changes no level.
        power = x.square().sum(1, keepdim=True) / self._moved(spoken) + 1e-10
        noisy = self._chance(count, c.noise_share * strength if self._noise is not None else 0.0)
        # Never digital silence: the log floor would be a cue of its own.
        level = self._moved(10 ** rng.uniform(-3.5, -2.2, count))
        added = torch.randn(x.shape, device=self._device) * (power.sqrt() * level)
        if noisy.any():
            noise = self._drawn_noise(clock, count)
            second = self._chance(count, c.second_noise_share * strength)
            if second.any():
                gain = np.where(second, 10 ** (rng.uniform(-15.0, 5.0, count) / 20), 0.0)
                noise = noise + self._drawn_noise(clock, count) * self._moved(gain)
            noise_power = (noise * inside).square().sum(1, keepdim=True) / ends + 1e-10
            low = min(c.snr_min_db + 20 * (1 - strength), c.snr_max_db)
            snr_db = rng.uniform(low, c.snr_max_db, count)
            share = self._moved(10 ** (-snr_db / 10))
            noise = noise * (power / noise_power * share).sqrt()
            added = torch.where(self._moved(noisy), noise, added)
        x = (x + added) * inside
        level_db = rng.uniform(c.level_min_db * max(strength, 0.3), -1.0, count)
        x = x * (self._moved(10 ** (level_db / 20)) / (x.abs().amax(1, keepdim=True) + 1e-6))
        return x, lengths

    def _spoken(
        self,
        clock: Tensor,
        first: npt.NDArray[np.int64],
        samples: npt.NDArray[np.int64],
        rate: npt.NDArray[np.float64],
        before: npt.NDArray[np.int64],
        kept: npt.NDArray[np.int64],
    ) -> Tensor:
        """Clips at their rates, each with its silence before it: (B, N) in [-1, 1]."""
        since = clock - self._moved(before)
        position = since.float() * self._moved(rate)
        left = position.floor()
        share = position - left
        last = self._moved(samples - 1)
        left = torch.minimum(left.long().clamp_(min=0), last)
        start = self._moved(first)
        a = self._track[start + left].float()
        b = self._track[start + torch.minimum(left + 1, last)].float()
        inside = (since >= 0) & (since < self._moved(kept))
        return (a + (b - a) * share) * inside / 32768.0

    def _filtered(
        self, x: Tensor, room: npt.NDArray[np.int64], telephone: npt.NDArray[np.bool_]
    ) -> Tensor:
        """Each row in its room and, where chosen, through a telephone's band."""
        ringing = max(self._rooms.shape[1], _RINGING)  # that must not come round to the start
        size = scipy.fft.next_fast_len(x.shape[1] + ringing, real=True)
        response = torch.fft.rfft(self._rooms[self._moved(room)[:, 0]], n=size)
        band = torch.from_numpy(_telephone_response(size)).to(self._device)
        response = torch.where(self._moved(telephone), response * band, response)
        return torch.fft.irfft(torch.fft.rfft(x, n=size) * response, n=size)[:, : x.shape[1]]

    def _drawn_noise(self, clock: Tensor, count: int) -> Tensor:
        """A random stretch of noise a row, looped where its piece is shorter: (B, N)."""
        assert self._noise is not None and self._pieces is not None
        first, last = self._pieces[self._rng.integers(len(self._pieces), size=count)].T
        start = self._rng.integers(last - first)
        index = (clock + self._moved(start)) % self._moved(last - first) + self._moved(first)
        return self._noise[index].float() / 32768.0

    def _perturbed(
        self, features: Tensor, frames: npt.NDArray[np.int64], strength: float
    ) -> Tensor:
        """Vocal tract, equaliser and masks on log-mel features."""
        c, rng = self._config, self._rng
        count, longest, bins = features.shape
        if strength == 0:
            return features
        factors = rng.uniform(1 - c.vocal_tract, 1 + c.vocal_tract, count)
        factors = np.where(self._chance(count, strength), factors, 1.0)
        places = vocal_tract_positions(bins, factors).astype(np.float32)
        position = torch.from_numpy(places).to(self._device)
        left = position.long().clamp_(max=bins - 2)
        share = (position - left)[:, None]
        index = left[:, None].expand(-1, longest, -1)
        features = features.gather(2, index) * (1 - share) + features.gather(2, index + 1) * share
        knots = rng.uniform(-c.equaliser_db, c.equaliser_db, (count, 6)) * (np.log(10) / 10)
        knots *= self._chance(count, c.equaliser_share * strength)[:, None]
        curves = np.stack([np.interp(np.linspace(0, 5, bins), np.arange(6), row) for row in knots])
        features = features + torch.from_numpy(curves.astype(np.float32)).to(self._device)[:, None]
        clock = torch.arange(longest, device=self._device)
        ends = self._moved(frames)
        mean = (features * (clock < ends)[..., None]).sum(1, keepdim=True) / ends[..., None]
        masked = torch.zeros((*features.shape[:2], 1), dtype=torch.bool, device=self._device)
        most = (np.minimum(c.time_mask_frames, frames // 10) * strength).astype(np.int64)
        for _ in range(c.time_masks):
            masked |= self._stretch(clock, rng.integers(0, most + 1), frames)[..., None]
        axis = torch.arange(bins, device=self._device)
        widest = max(0, int(c.frequency_mask_bins * strength))
        for _ in range(c.frequency_masks):
            widths = rng.integers(0, widest + 1, count)
            masked = masked | self._stretch(axis, widths, np.full(count, bins))[:, None]
        return torch.where(masked, mean, features)

    def _stretch(
        self, axis: Tensor, widths: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
    ) -> Tensor:
        """(B, N): True in one random stretch of each row's width before its end."""
        start = self._rng.integers(0, ends - widths + 1)
        return (axis >= self._moved(start)) & (axis < self._moved(start + widths))


def log_mel(samples: Tensor, lengths: Tensor, num_bins: int) -> Tensor:
    """The engine's features (`data.fbank`) of a batch, in float32.

    Args:
        samples: (B, N); N a multiple of 160.
        lengths: (B,) samples of each, at least 1.
        num_bins: Mel bins.

    Returns:
        (B, N / 160, num_bins), of which each row's first (length + 80) // 160 frames count.
    """
    device = samples.device
    count = samples.shape[1] // _SHIFT
    edge = (_LENGTH - _SHIFT) // 2
    index = torch.arange(-edge, (count - 1) * _SHIFT + _LENGTH - edge, device=device)
    index = torch.where(index < 0, -index - 1, index)[None]
    ends = lengths[:, None]
    index = torch.where(index < ends, index, 2 * ends - 1 - index).clamp_(min=0)
    windows = samples.gather(1, index).unfold(1, _LENGTH, _SHIFT)
    windows = windows - windows.mean(2, keepdim=True)
    before = functional.pad(windows, (1, 0))[..., :-1].clone()
    before[..., 0] = windows[..., 0]
    windows = (windows - _PRE_EMPHASIS * before) * _window(device)
    power = torch.fft.rfft(windows, n=_FFT)[..., : _FFT // 2].abs().square()
    energy = power @ _triangles(num_bins, device)
    return energy.clamp_min(torch.finfo(torch.float32).eps).log()


@cache
def _window(device: torch.device) -> Tensor:
    return torch.hann_window(_LENGTH, periodic=False, device=device) ** 0.85


@cache
def _triangles(num_bins: int, device: torch.device) -> Tensor:
    """(256, num_bins) weights of the FFT's bins in the mel bands."""
    low, high = mel_of(np.array([LOW_HZ, HIGH_HZ]))
    centres = low + np.arange(num_bins + 2) * (high - low) / (num_bins + 1)
    mel = mel_of(np.arange(_FFT // 2) * SAMPLE_RATE_HZ / _FFT)[:, None]
    left, centre, right = centres[:-2], centres[1:-1], centres[2:]
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return torch.from_numpy(weights).to(device)


@cache
def _telephone_response(size: int) -> npt.NDArray[np.complex64]:
    _, response = signal.sosfreqz(TELEPHONE, worN=np.arange(size // 2 + 1) * 2 * np.pi / size)
    return np.asarray(response, dtype=np.complex64)
