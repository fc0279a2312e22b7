"""Features against kaldi-native-fbank and a double-precision oracle; streaming against one pass."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot import _native
from tests.child_memory import child_figures

Samples = npt.NDArray[np.float32]
Frames = npt.NDArray[np.float32]

# A float transform (the reference's) loses bands this far below the loudest band of their frame:
# 16 nats are 70 dB. There the comparison below would test the reference's rounding, not ours.
RESOLVED_NATS = 16.0


def noise(num_samples: int, *, seed: int = 0, level: float = 0.1) -> Samples:
    return np.random.default_rng(seed).normal(scale=level, size=num_samples).astype(np.float32)


def kaldi_fbank(samples: Samples, *, num_bins: int = 80) -> Frames:
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.frame_opts.samp_freq = 16000
    options.mel_opts.num_bins = num_bins
    options.mel_opts.high_freq = -400
    extractor = knf.OnlineFbank(options)
    extractor.accept_waveform(16000, samples.tolist())
    extractor.input_finished()
    frames = [extractor.get_frame(i) for i in range(extractor.num_frames_ready)]
    stacked: Frames = np.array(frames, np.float32).reshape(-1, num_bins)
    return stacked


def oracle(samples: Samples) -> npt.NDArray[np.float64]:
    """Whole-array numpy in double; the triangles are in float, as Kaldi has them."""
    count = (len(samples) + 80) // 160
    index = np.arange(count)[:, None] * 160 - 120 + np.arange(400)
    padded = np.pad(samples.astype(np.float64), 400, mode="symmetric")
    frames = padded[index + 400]
    frames -= frames.mean(axis=1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames *= (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(frames, 512)[:, :256]) ** 2

    f32 = np.float32

    def mel(hz: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        # The double logarithm rounded once is what a good logf gives.
        inner = f32(1) + hz / f32(700)
        return f32(1127) * np.log(inner.astype(np.float64)).astype(f32)

    low, high = mel(np.array([20, 7600], f32))
    spacing = f32((high - low) / f32(81))
    corners = low + np.arange(82, dtype=f32) * spacing
    points = mel(np.arange(256, dtype=f32) * f32(31.25))
    left, centre, right = (corners[i : i + 80, None] for i in range(3))
    rising = (points - left) / (centre - left)
    falling = (right - points) / (right - centre)
    inside = (points > left) & (points < right)
    weights = np.where(inside, np.where(points <= centre, rising, falling), 0)
    assert weights.dtype == np.float32
    energies = power @ weights.astype(np.float64).T
    return np.log(np.maximum(energies, np.finfo(np.float32).eps))


def resolved_difference(frames: Frames, reference: Frames) -> npt.NDArray[np.float32]:
    assert frames.shape == reference.shape
    difference = np.abs(frames - reference)
    if difference.size:
        assert difference.max() < 5e-3
    return difference[frames > frames.max(axis=1, keepdims=True, initial=-99) - RESOLVED_NATS]


def read_clips(folder: Path, *, per_set: int) -> list[tuple[Path, Samples]]:
    soundfile = pytest.importorskip("soundfile")
    soxr = pytest.importorskip("soxr")
    clips = []
    for corpus in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = sorted(
            path
            for path in corpus.rglob("*")
            if path.suffix in {".flac", ".wav", ".mp3", ".ogg", ".opus"}
        )
        for path in paths[:: max(1, len(paths) // per_set)][:per_set]:
            samples, rate = soundfile.read(path, dtype="float32", frames=80000, always_2d=True)
            mono = samples[:, 0]
            if rate != 16000:
                mono = soxr.resample(mono, rate, 16000)
            clips.append((path, np.ascontiguousarray(mono, np.float32)))
    return clips


def test_agrees_with_kaldi_on_real_recordings(real_data: Path) -> None:
    clips = read_clips(real_data, per_set=8)
    assert len(clips) >= 20
    cells = beyond = 0
    for path, samples in clips:
        frames, reference = _native.fbank(samples), kaldi_fbank(samples)
        assert resolved_difference(frames, reference).max(initial=0.0) < 1e-3, path
        cells += frames.size
        beyond += int((np.abs(frames - reference) >= 1e-3).sum())
    # Bands that the reference's float transform does not resolve are rare.
    assert beyond <= 1e-5 * cells + 1


def test_equals_the_double_precision_oracle_on_real_recordings(real_data: Path) -> None:
    for path, samples in read_clips(real_data, per_set=3):
        np.testing.assert_allclose(
            _native.fbank(samples), oracle(samples), atol=1e-4, err_msg=str(path)
        )


@pytest.mark.parametrize(
    "samples",
    [
        noise(16000),
        noise(16000, level=1e-4),
        np.zeros(4000, np.float32),
        np.full(4000, 0.5, np.float32),
        np.sin(2 * np.pi * 1000 / 16000 * np.arange(8000)).astype(np.float32)
        + noise(8000, level=1e-3),
        np.eye(1, 4000, 2000, dtype=np.float32)[0],
        np.sign(noise(4000)),
        noise(8000) * np.float32(1e4),
    ],
    ids=["noise", "quiet", "silence", "offset", "sine", "impulse", "clipped", "16-bit-scale"],
)
def test_agrees_with_kaldi_on_synthetic_signals(samples: Samples) -> None:
    frames = _native.fbank(samples)
    assert resolved_difference(frames, kaldi_fbank(samples)).max() < 1e-3
    np.testing.assert_allclose(frames, oracle(samples), atol=1e-4)


@pytest.mark.parametrize(
    "num_samples", [0, 1, 5, 79, 80, 81, 160, 199, 239, 240, 279, 280, 399, 400, 401, 560, 639, 640]
)
def test_agrees_with_kaldi_around_one_window(num_samples: int) -> None:
    samples = noise(num_samples)
    frames = _native.fbank(samples)
    assert frames.shape == ((num_samples + 80) // 160, 80)
    assert resolved_difference(frames, kaldi_fbank(samples)).max(initial=0.0) < 1e-3


@pytest.mark.parametrize("num_bins", [23, 40, 64])
def test_agrees_with_kaldi_for_other_numbers_of_bins(num_bins: int) -> None:
    samples = noise(8000)
    reference = kaldi_fbank(samples, num_bins=num_bins)
    np.testing.assert_allclose(_native.fbank(samples, num_bins), reference, atol=1e-3)


@given(
    num_samples=st.integers(0, 2500),
    cuts=st.lists(st.integers(0, 2500), max_size=12).map(sorted),
    seed=st.integers(0, 3),
)
def test_frames_do_not_depend_on_how_audio_is_chunked(
    num_samples: int, cuts: list[int], seed: int
) -> None:
    samples = noise(num_samples, seed=seed)
    stream = _native.Fbank()
    parts = []
    for chunk in np.split(samples, cuts):
        stream.accept_waveform(np.ascontiguousarray(chunk))
        parts.append(stream.frames())
    stream.input_finished()
    parts.append(stream.frames())
    np.testing.assert_array_equal(np.concatenate(parts), _native.fbank(samples))


def test_a_frame_comes_with_the_last_sample_of_its_window() -> None:
    stream = _native.Fbank()
    stream.accept_waveform(noise(279))
    assert len(stream.frames()) == 0
    stream.accept_waveform(noise(1))
    assert len(stream.frames()) == 1
    stream.accept_waveform(noise(160))
    assert len(stream.frames()) == 1
    assert len(stream.frames()) == 0


def test_frames_do_not_see_later_audio() -> None:
    samples = noise(8000)
    other = samples.copy()
    other[4000:] = noise(4000, seed=1)
    same = (4000 + 120 - 400) // 160 + 1
    frames, others = _native.fbank(samples), _native.fbank(other)
    np.testing.assert_array_equal(frames[:same], others[:same])
    assert (frames[same] != others[same]).any()


def test_reset_begins_a_new_recording() -> None:
    samples = noise(3000)
    stream = _native.Fbank()
    stream.accept_waveform(noise(1234, seed=5))
    stream.reset()
    stream.accept_waveform(samples)
    stream.input_finished()
    np.testing.assert_array_equal(stream.frames(), _native.fbank(samples))
    with pytest.raises(RuntimeError, match="input_finished"):
        stream.accept_waveform(samples)
    stream.reset()
    stream.accept_waveform(samples)


STREAMED = """
import numpy as np
from earshot import _native
seconds, keep = int(sys.argv[1]), sys.argv[2] == "keep"
second = np.random.default_rng(0).normal(scale=0.1, size=16000).astype(np.float32)
stream = _native.Fbank()
kept = []
for i in range(seconds):
    stream.accept_waveform(second)
    assert len(stream.frames()) in (99, 100)
    if keep:
        kept.append(second.copy())
    if i == 9:
        print(peak_kib())
print(peak_kib())
"""


def test_memory_does_not_grow_with_the_recording() -> None:
    """Two hours in chunks of a second; whoever keeps a quarter of them needs 110 MB."""
    before, after = child_figures(STREAMED, 7200, "forget")
    assert after - before < 4 * 1024
    before, after = child_figures(STREAMED, 1800, "keep")
    assert after - before > 100 * 1024


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_names_the_sample_that_is_not_finite(bad: float) -> None:
    samples = noise(1000)
    samples[123] = bad
    with pytest.raises(ValueError, match="sample 123"):
        _native.fbank(samples)
    with pytest.raises(ValueError, match="sample 123"):
        _native.Fbank().accept_waveform(samples)


@pytest.mark.parametrize("num_bins", [0, 257])
def test_refuses_impossible_numbers_of_bins(num_bins: int) -> None:
    with pytest.raises(ValueError, match=f"{num_bins}; it must lie in 1..256"):
        _native.Fbank(num_bins)


def test_bands_without_a_frequency_stay_at_the_floor() -> None:
    frames = _native.fbank(noise(4000), 256)
    floor = np.log(np.finfo(np.float32).eps)
    assert np.isfinite(frames).all()
    assert (frames >= np.float32(floor) - 1e-6).all()
