"""Augmentation: repeatable, bounded, nothing at strength 0 but padding and level."""

import numpy as np
import pytest

pytest.importorskip("torch")

from earshot.train.augment import Augmenter, NoisePool, strength_at
from earshot.train.recipe import AugmentConfig

CONFIG = AugmentConfig()
CLIP = (0.3 * np.sin(np.arange(16000) * 0.2)).astype(np.float32)
CLIP[12000:] = 0.0


@pytest.fixture
def augmenter() -> Augmenter:
    rng = np.random.default_rng(0)
    noise = NoisePool(
        rng.integers(-8000, 8000, 40000).astype(np.int16), np.array([[0, 10000], [10000, 40000]])
    )
    room = np.exp(-np.arange(800) / 100).astype(np.float32)
    return Augmenter(CONFIG, noise, (room,))


def test_strength_rises_from_nothing_to_full() -> None:
    assert strength_at(0.0, CONFIG) == 0.0
    assert strength_at(CONFIG.start, CONFIG) == 0.0
    assert 0 < strength_at((CONFIG.start + CONFIG.full) / 2, CONFIG) < 1
    assert strength_at(CONFIG.full, CONFIG) == strength_at(1.0, CONFIG) == 1.0


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_audio_is_finite_in_range_and_repeatable(augmenter: Augmenter, strength: float) -> None:
    for seed in range(40):
        out = augmenter.perturb_audio(CLIP, strength, np.random.default_rng(seed))
        assert out.dtype == np.float32
        assert np.isfinite(out).all()
        assert np.abs(out).max() <= 1.0
        again = augmenter.perturb_audio(CLIP, strength, np.random.default_rng(seed))
        np.testing.assert_array_equal(out, again)


def test_some_clips_end_where_their_speech_ends(augmenter: Augmenter) -> None:
    lengths = {
        len(augmenter.perturb_audio(CLIP[:12050], 0.0, np.random.default_rng(seed)))
        for seed in range(60)
    }
    assert min(lengths) < 16000 + 0.6 * 16000
    tails = []
    for seed in range(60):
        out = np.abs(augmenter.perturb_audio(CLIP, 0.0, np.random.default_rng(seed)))
        tails.append(len(out) - int(np.flatnonzero(out > 0.1 * out.max())[-1]))
    assert min(tails) < 100  # no silence left at all
    assert max(tails) > 6000  # and elsewhere plenty


def test_some_clips_go_on_long_after_their_speech_at_the_same_level_of_noise() -> None:
    pool = NoisePool(np.full(20_000, 3000, np.int16), np.array([[0, 20_000]]))
    settings = {
        "padding_max_s": 0.0, "cut_tail_share": 0.0, "snr_min_db": 10.0, "snr_max_db": 10.0,
        "noise_share": 1.0, "reverb_share": 0.0, "band_limit_share": 0.0, "speed": 0.0,
    }  # fmt: skip
    usual = Augmenter(AugmentConfig(**settings), pool, ())
    waiting = Augmenter(AugmentConfig(**settings, wait_share=0.5, wait_max_s=3.0), pool, ())
    speech = CLIP[:12000]

    def heard(augmenter: Augmenter, seed: int) -> tuple[int, float]:
        rng = np.random.default_rng(seed)
        until = augmenter.draw_wait(12000, rng)
        out = augmenter.perturb_audio(speech, 1.0, rng, until=until)
        # The noise is a constant, the speech a tone.
        return len(out), float(np.mean(out[:12000])) / float(np.std(out[:12000]))

    _, ratio = heard(usual, 0)
    found = [heard(waiting, seed) for seed in range(60)]
    lengths = np.array([length for length, _ in found])
    assert 20 <= (lengths > 12000).sum() <= 40
    assert 12000 + 24000 < lengths.max() <= 12000 + 48000
    assert lengths.min() == 12000
    for _, found_ratio in found:
        assert found_ratio == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize("cut_tail_share", [0.0, 1.0])
def test_some_of_what_a_clip_waits_lies_before_its_speech(cut_tail_share: float) -> None:
    config = AugmentConfig(
        padding_max_s=0.0, cut_tail_share=cut_tail_share, noise_share=0.0, reverb_share=0.0,
        wait_share=1.0, wait_before_share=0.5,
    )  # fmt: skip
    augmenter = Augmenter(config, None, ())
    early, late = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        out = np.abs(augmenter.perturb_audio(CLIP[:12000], 0.0, rng, until=60_000))
        loud = np.flatnonzero(out > 0.3 * out.max())
        early.append(int(loud[0]))
        late.append(len(out) - int(loud[-1]))
        assert len(out) == 60_000 or (cut_tail_share and len(out) < 12100)
    begun_late = np.array([seconds > 1000 for seconds in early])
    assert 20 <= begun_late.sum() <= 60
    if cut_tail_share:  # ends with its speech, whatever comes before
        assert max(late) < 100 and all(
            e > 47_000 for e, b in zip(early, begun_late, strict=True) if b
        )
    else:
        assert len(set(early)) > 20 and max(late) > 47_000


def test_full_strength_changes_speed_and_strength_zero_does_not(augmenter: Augmenter) -> None:
    def spans(strength: float) -> set[int]:
        found = set()
        for seed in range(30):
            out = np.abs(augmenter.perturb_audio(CLIP, strength, np.random.default_rng(seed)))
            loud = np.flatnonzero(out > 0.5 * out.max())
            found.add(int(loud[-1] - loud[0]) // 200)
        return found

    assert len(spans(0.0)) <= 2
    assert len(spans(1.0)) > 5


def test_features_keep_their_shape_and_are_untouched_at_strength_zero(augmenter: Augmenter) -> None:
    features = np.random.default_rng(1).standard_normal((60, 80)).astype(np.float32)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        np.testing.assert_array_equal(augmenter.perturb_features(features, 0.0, rng), features)
        out = augmenter.perturb_features(features, 1.0, rng)
        assert out.shape == features.shape
        assert np.isfinite(out).all()
    assert not np.array_equal(out, features)


def test_noise_is_looped_when_its_piece_is_short() -> None:
    pool = NoisePool(np.arange(10, dtype=np.int16), np.array([[2, 6]]))
    drawn = pool.draw(9, np.random.default_rng(0)) * 32768
    assert set(drawn.astype(int)) == {2, 3, 4, 5}
    assert (np.diff(drawn.astype(int)) % 4 == 1).all()


def test_a_second_kind_of_noise_comes_only_where_asked_for() -> None:
    """Two pieces of the pool are tones; without a second noise no clip has both."""
    at, silence = np.arange(16000), np.zeros(12000, np.float32)
    tones = [8000 * np.sin(2 * np.pi * hertz / 16000 * at) for hertz in (500, 3000)]
    pool = NoisePool(np.concatenate(tones).astype(np.int16), np.array([[0, 16000], [16000, 32000]]))

    def clips_with_both(share: float) -> int:
        config = AugmentConfig(
            noise_share=1.0, second_noise_share=share, snr_max_db=0.0, band_limit_share=0.0
        )
        augmenter = Augmenter(config, pool, ())
        found = 0
        for seed in range(60):
            out = augmenter.perturb_audio(silence, 1.0, np.random.default_rng(seed))
            power = np.abs(np.fft.rfft(out)) ** 2
            hertz = np.fft.rfftfreq(len(out), 1 / 16000)
            low, high = (power[np.abs(hertz - f) < 40].sum() for f in (500, 3000))
            found += min(low, high) > 0.01 * (low + high)
        return found

    assert clips_with_both(0.0) == 0
    # Half of the pairs are of one kind.
    assert 15 <= clips_with_both(1.0) <= 45
