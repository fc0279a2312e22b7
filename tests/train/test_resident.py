"""Clips in a device's memory: the same audio, features and perturbations as one clip at a time."""

import numpy as np
import pytest
from scipy import signal

torch = pytest.importorskip("torch")
pytest.importorskip("lhotse")

from earshot import _native
from earshot.train.augment import TELEPHONE, NoisePool, _change_speed
from earshot.train.recipe import AugmentConfig
from earshot.train.resident import Resident, ResidentAudio, log_mel

pytestmark = pytest.mark.train

RATE_HZ = 16000
CPU = torch.device("cpu")
RNG = np.random.default_rng(5)
NOISE = NoisePool(
    RNG.integers(-8000, 8000, 40000).astype(np.int16), np.array([[0, 10000], [10000, 40000]])
)
ROOM = (np.exp(-np.arange(800) / 100) * RNG.standard_normal(800)).astype(np.float32)


def clip(seconds: float, seed: int = 1) -> np.ndarray:
    """Loud noise with a slow beat, int16."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(round(seconds * RATE_HZ))
    return (
        (4000 * samples * (1.5 + np.sin(np.arange(len(samples)) / 2000)))
        .clip(-32768, 32767)
        .astype(np.int16)
    )


def resident(config: AugmentConfig, clips: list[np.ndarray], *, noise: bool = True) -> Resident:
    track, places, first = np.concatenate(clips), {}, 0
    for n, samples in enumerate(clips):
        places[str(n), 0, len(samples)] = (first, len(samples), len(samples))
        first += len(samples)
    audio = ResidentAudio(track, places)
    pool, rooms = (NOISE, (ROOM,)) if noise else (None, ())
    return Resident(config, audio, pool, rooms, num_bins=80, device=CPU, seed=3)


def places_of(clips: list[np.ndarray]) -> torch.Tensor:
    firsts = np.cumsum([0, *map(len, clips)])[:-1]
    return torch.tensor([[f, len(c), len(c)] for f, c in zip(firsts, clips, strict=True)])


def test_features_are_those_of_the_engine() -> None:
    lengths = [32000, 20011, 5000, 170]
    samples = np.zeros((4, 32000), dtype=np.float32)
    for row, length in enumerate(lengths):
        samples[row, :length] = clip(2.0, seed=row)[:length] / 32768.0
    found = log_mel(torch.from_numpy(samples), torch.tensor(lengths), 80)
    for row, length in enumerate(lengths):
        expected = _native.fbank(samples[row, :length], 80)
        np.testing.assert_allclose(found[row, : len(expected)], expected, atol=2e-3)


def test_a_clip_without_augmentation_is_as_it_was_but_for_its_level() -> None:
    clips = [clip(1.3), clip(0.7, seed=2)]
    config = AugmentConfig(padding_max_s=0.0, cut_tail_share=0.0)
    features, frames = resident(config, clips, noise=False).features(places_of(clips), 0.0)
    for row, samples in enumerate(clips):
        expected = _native.fbank(samples.astype(np.float32) / 32768.0, 80)
        assert int(frames[row]) == len(expected)
        gap = features[row, : len(expected)].numpy() - expected
        assert gap.std() < 0.02  # a floor of noise far below the clip
        assert torch.equal(
            features[row, len(expected) :],
            features[row, len(expected) - 1].expand_as(features[row, len(expected) :]),
        )


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_augmented_features_are_finite_repeatable_and_of_all_lengths(progress: float) -> None:
    clips = [clip(0.4 + 0.1 * n, seed=n) for n in range(24)]
    config = AugmentConfig(second_noise_share=0.5)
    found = [resident(config, clips).features(places_of(clips), progress) for _ in range(2)]
    (features, frames), (again, _) = found
    assert features.shape[0] == 24 and features.shape[1] % 64 == 0 and features.shape[2] == 80
    assert torch.isfinite(features).all()
    assert int(frames.max()) <= features.shape[1]
    spoken = torch.tensor([len(c) // 160 for c in clips])
    assert bool((frames >= spoken * 0.8).all())
    # What the device's own generator draws differs, and no more.
    assert (features - again).abs().median() < 0.2


def test_all_clips_of_some_batches_go_on_long_after_their_speech() -> None:
    clips = [clip(1.0, seed=n) for n in range(3)]
    config = AugmentConfig(
        padding_max_s=0.0, cut_tail_share=0.0, speed=0.0, wait_share=0.5, wait_max_s=3.0
    )
    r = resident(config, clips)
    batches = [r.features(places_of(clips), 1.0)[1].tolist() for _ in range(40)]
    assert all(len(set(frames)) == 1 for frames in batches)
    lengths = [frames[0] for frames in batches]
    assert min(lengths) == 100
    assert 10 <= sum(length > 100 for length in lengths) <= 30
    assert 300 < max(lengths) <= 400


@pytest.mark.parametrize("cut_tail_share", [0.0, 1.0])
def test_some_of_what_clips_wait_lies_before_their_speech(cut_tail_share: float) -> None:
    clips = [clip(1.0, seed=n) for n in range(8)]
    config = AugmentConfig(
        padding_max_s=0.0, cut_tail_share=cut_tail_share, speed=0.0, noise_share=0.0,
        reverb_share=0.0, band_limit_share=0.0, wait_share=1.0, wait_before_share=0.5,
    )  # fmt: skip
    r = resident(config, clips, noise=False)
    places = places_of(clips)
    early = []
    for _ in range(10):
        heard, lengths = r._audio(places.numpy(), 0.0)
        for row, length in zip(heard.abs().numpy(), lengths, strict=True):
            loud = np.flatnonzero(row > 0.3 * row.max())
            early.append(int(loud[0]))
            if cut_tail_share:
                assert length - loud[-1] < 400
            assert loud[-1] - loud[0] < 16_100
    begun_late = sum(first > 1000 for first in early)
    assert 20 <= begun_late <= 60 and max(early) > 16_000


def test_speed_is_changed_as_for_one_clip() -> None:
    samples = clip(0.5)
    r = resident(AugmentConfig(), [samples], noise=False)
    for rate in (0.9, 1.0, 1.13):
        expected = _change_speed(samples.astype(np.float32) / 32768.0, rate)
        width = len(expected) + 500
        out = r._spoken(
            torch.arange(width), np.array([0]), np.array([len(samples)]), np.array([rate]),
            np.array([300]), np.array([len(expected)]),
        )[0].numpy()  # fmt: skip
        assert not out[:300].any() and not out[300 + len(expected) :].any()
        np.testing.assert_allclose(out[300 : 300 + len(expected)], expected, atol=2e-3)


def test_rooms_and_the_telephone_are_those_of_one_clip() -> None:
    samples = clip(0.5)[:6400].astype(np.float32) / 32768.0
    rows = torch.from_numpy(np.tile(samples, (4, 1)))
    r = resident(AugmentConfig(), [clip(0.5)])
    out = r._filtered(rows, np.array([0, 1, 1, 0]), np.array([False, False, True, True])).numpy()
    in_room = signal.oaconvolve(samples, ROOM)[:6400]
    np.testing.assert_allclose(out[0], in_room, atol=1e-4)
    np.testing.assert_allclose(out[1], samples, atol=1e-5)
    np.testing.assert_allclose(out[2], signal.sosfilt(TELEPHONE, samples), atol=1e-3)
    assert np.abs(out[3] - in_room).max() > 0.01
