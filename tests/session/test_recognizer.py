"""The recogniser: the same words however audio arrives, and clear refusals."""

import io
import threading

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot import AudioError, ConfigError, ModelFileError, Recognizer
from earshot.session import recognizer as module
from tests.child_memory import child_figures
from tests.tiny_model import PIECES, tiny_parts, write_tiny_model

RATE = 16_000
RNG = np.random.default_rng(11)
# Bursts of noise of changing colour: enough for random weights to react to.
CLIP = (np.repeat(RNG.uniform(0, 0.3, 40), RATE // 10) * RNG.normal(0, 1, 4 * RATE)).astype(
    np.float32
)
METHODS = ["greedy_search", "modified_beam_search"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.ear", codec="i8_r16x4")


@pytest.fixture(scope="module", params=METHODS)
def recognizer(request, path):
    return Recognizer.load(path, method=request.param)


def test_the_tiny_model_says_something(recognizer):
    """Guards every other test here: equal transcripts must not be equal for being empty."""
    transcript = recognizer.transcribe(CLIP)
    assert len(transcript.words) > 5
    assert transcript.duration_s == 4.0
    assert len(set(transcript.text.split())) > 1


def test_words_lie_in_order_inside_the_audio(recognizer):
    words = recognizer.transcribe(CLIP).words
    for word, after in zip(words, (*words[1:], None), strict=bool(words)):
        assert 0 <= word.start_s < word.end_s <= 4.0 + 0.04
        assert 0 < word.confidence <= 1
        assert after is None or word.end_s <= after.start_s + 0.04


@given(cuts=st.lists(st.integers(0, len(CLIP)), max_size=8).map(sorted), eager=st.booleans())
@settings(max_examples=40)
def test_any_chunking_gives_the_same_transcript(recognizer, cuts, eager):
    stream = recognizer.create_stream()
    for chunk in np.split(CLIP, cuts):
        stream.accept_waveform(RATE, chunk)
        if eager:
            stream.decode()
            stream.result()
    stream.input_finished()
    stream.decode()
    assert stream.result() == recognizer.transcribe(CLIP)


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_any_chunking_at_another_rate(recognizer, rate):
    stream = recognizer.create_stream()
    for chunk in np.split(CLIP, [7, 1000, 1001, 30_000]):
        stream.accept_waveform(rate, chunk)
        stream.decode()
    stream.input_finished()
    stream.decode()
    assert stream.result() == recognizer.transcribe(CLIP, rate)
    assert stream.duration_s == pytest.approx(len(CLIP) / rate)


def test_a_file_gives_what_its_samples_give(recognizer, tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, CLIP, RATE, subtype="FLOAT")
    whole = recognizer.transcribe(CLIP)
    assert recognizer.transcribe_file(path) == whole
    assert recognizer.transcribe_file(str(path)) == whole
    assert recognizer.transcribe_file(io.BytesIO(path.read_bytes())) == whole
    part = recognizer.transcribe_file(path, offset_s=1.0, duration_s=2.0)
    assert part == recognizer.transcribe(CLIP[RATE : 3 * RATE])
    assert part.duration_s == 2.0


def test_integer_samples_are_the_same_sound(recognizer):
    integers = np.round(np.clip(CLIP, -1, 0.99) * 32768).astype(np.int16)
    assert recognizer.transcribe(integers) == recognizer.transcribe(integers / 32768.0)


def test_many_streams_at_once_give_what_each_gives_alone(recognizer):
    clips = [CLIP, CLIP[:5_000], CLIP[20_000:], CLIP[:0]]
    streams = [recognizer.create_stream() for _ in clips]
    for round_ in range(4):
        for stream, clip in zip(streams, clips, strict=True):
            stream.accept_waveform(RATE, np.array_split(clip, 4)[round_])
        recognizer.decode_streams(streams)
    for stream in streams:
        stream.input_finished()
    recognizer.decode_streams(streams)
    assert not any(stream.is_ready() for stream in streams)
    for stream, clip in zip(streams[:3], clips, strict=False):
        assert stream.result() == recognizer.transcribe(clip)
    assert streams[3].result().words == ()


def test_streams_in_threads_do_not_meet(recognizer):
    expected = recognizer.transcribe(CLIP)
    results = []

    def work():
        results.append(recognizer.transcribe(CLIP))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_reset_makes_a_stream_new(recognizer):
    stream = recognizer.create_stream()
    stream.accept_waveform(44_100, CLIP[:9_000])
    stream.input_finished()
    stream.decode()
    stream.reset()
    assert (stream.duration_s, stream.result().words) == (0.0, ())
    stream.accept_waveform(RATE, CLIP)
    stream.input_finished()
    recognizer.decode_stream(stream)
    assert stream.result() == recognizer.transcribe(CLIP)


def test_the_last_word_is_not_lost(recognizer):
    """Speech that ends with the last sample: finishing must flush every layer by itself."""
    for cut in range(RATE, RATE + 640, 97):
        stream = recognizer.create_stream()
        stream.accept_waveform(RATE, CLIP[:cut])
        stream.input_finished()
        stream.input_finished()
        stream.decode()
        assert not stream.is_ready()
        frames = (cut + 80) // 160
        assert stream._native.result()["num_frames"] == -(-frames // 4)


def test_what_a_stream_refuses(recognizer):
    stream = recognizer.create_stream()
    stream.accept_waveform(RATE, CLIP[:100])
    bad = CLIP[:50].copy()
    bad[7] = np.nan
    with pytest.raises(AudioError) as caught:
        stream.accept_waveform(RATE, bad)
    assert str(caught.value) == (
        "stream: sample 107 is nan; samples must be finite. Check the program that wrote them."
    )
    with pytest.raises(RuntimeError) as changed:
        stream.accept_waveform(8_000, CLIP[:100])
    assert str(changed.value) == (
        "stream: the rate is 8000 Hz and was 16000 Hz; it must not change. Call reset() first."
    )
    stream.accept_waveform(RATE, CLIP[100:])
    stream.input_finished()
    stream.decode()
    assert stream.result() == recognizer.transcribe(CLIP)  # refusals left no trace
    with pytest.raises(RuntimeError) as finished:
        stream.accept_waveform(RATE, CLIP)
    assert str(finished.value) == "stream: audio after input_finished(). Call reset() first."
    with pytest.raises(AudioError) as empty:
        recognizer.transcribe([])
    assert str(empty.value) == "samples: there are none. Give at least one sample."
    with pytest.raises(ValueError):
        recognizer.decode_streams([stream, stream])


def test_names_of_the_model(recognizer):
    assert recognizer.name == "tiny"
    assert recognizer.pieces == tuple(PIECES)


def test_models_and_settings_that_cannot_be_used(path, tmp_path):
    with pytest.raises(ModelFileError) as caught:
        Recognizer.load(tmp_path / "no.ear")
    assert str(caught.value) == f"{tmp_path}/no.ear: there is no such file. Check the path."
    with pytest.raises(ConfigError):
        Recognizer.load(path, method="viterbi")


def test_a_model_that_is_no_recogniser(tmp_path):
    from earshot.modelfile.writer import write_model

    parts = tiny_parts()
    parts["graphs"] = {"ctc": parts["graphs"]["ctc"]}
    write_model(tmp_path / "ctc.ear", **parts)
    with pytest.raises(ModelFileError) as caught:
        Recognizer.load(tmp_path / "ctc.ear")
    assert str(caught.value).startswith(f"{tmp_path}/ctc.ear: ")


def test_an_installation_without_a_model_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EMBEDDED_MODEL", "absent.ear")
    with pytest.raises(ModelFileError) as caught:
        Recognizer.load()
    assert str(caught.value).endswith(
        "absent.ear: this installation has no embedded model. Reinstall earshot, or name a model "
        "file with `--model` or `Recognizer.load(path)`."
    )


def test_silence_and_a_single_sample(recognizer):
    for samples in (np.zeros(RATE, np.float32), np.zeros(1, np.float32)):
        transcript = recognizer.transcribe(samples)
        assert transcript.duration_s == len(samples) / RATE


HEARD = """
from earshot import Recognizer
from earshot.data.audio import read_audio
recognizer = Recognizer.load(sys.argv[1])
recognizer.transcribe_file(sys.argv[2], duration_s=30)
print(peak_kib())
kept = read_audio(sys.argv[2]) if sys.argv[3] == "keep" else None
transcript = recognizer.transcribe_file(sys.argv[2], duration_s=None if kept is None else 30)
print(peak_kib(), round(transcript.duration_s))
"""


def test_ten_minutes_do_not_grow_memory(path, tmp_path):
    """Blocks are read, recognised and forgotten; only words remain."""
    clip = tmp_path / "long.wav"
    with soundfile.SoundFile(clip, "w", RATE, 1, "PCM_16") as file:
        for _ in range(150):
            file.write(CLIP)
    before, after, duration_s = child_figures(HEARD, path, clip, "forget")
    assert duration_s == 600
    # Ten minutes are 38 MB of samples in float32, as a child that keeps them shows.
    assert after - before < 15_000
    before, after, _ = child_figures(HEARD, path, clip, "keep")
    assert after - before > 30_000
