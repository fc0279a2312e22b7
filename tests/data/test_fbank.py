import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot.core.features import FEATURE_CLOCK
from earshot.data.audio import read_audio
from earshot.data.fbank import StreamingFbank, compute_fbank

CLIP = np.random.default_rng(3).normal(0, 0.1, 12_345).astype(np.float32)


@given(st.lists(st.integers(0, len(CLIP)), max_size=8).map(sorted))
def test_features_do_not_depend_on_how_audio_is_chunked(cuts):
    stream = StreamingFbank()
    parts = [stream.push(chunk).frames for chunk in np.split(CLIP, cuts)]
    parts.append(stream.finish().frames)
    np.testing.assert_array_equal(np.concatenate(parts), compute_fbank(CLIP).frames)


@pytest.mark.parametrize("samples", [1, 79, 80, 160, 16_000])
def test_the_clock_knows_the_number_of_frames(samples):
    features = compute_fbank(np.zeros(samples, np.float32) + 0.01, num_bins=40)
    assert features.frames.shape == (FEATURE_CLOCK.num_frames(samples), 40)


def test_agrees_with_kaldi_native_fbank_on_a_recording(real_data):
    """Oracle: another implementation of the same front end."""
    knf = pytest.importorskip("kaldi_native_fbank")
    clip = next((real_data / "librispeech_dev_clean_half" / "audio").glob("*.mp3"))
    samples = read_audio(clip)
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = 80
    options.mel_opts.low_freq = 20
    options.mel_opts.high_freq = -400
    oracle = knf.OnlineFbank(options)
    oracle.accept_waveform(16000, samples.tolist())
    oracle.input_finished()
    expected = np.stack([oracle.get_frame(i) for i in range(oracle.num_frames_ready)])
    np.testing.assert_allclose(compute_fbank(samples).frames, expected, atol=1e-3)
