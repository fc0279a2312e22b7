"""Sound in: every form gives the same samples, and nothing damaged passes for whole."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot.core.errors import AudioError
from earshot.data.audio import (
    AudioFile,
    StreamingResampler,
    as_waveform,
    read_audio,
    read_blocks,
)

RATE = 16_000
SECONDS = 3
COPY = " Copy or record it again, or convert what is left with `ffmpeg -i FILE out.wav`."
CONVERT = (
    " Use WAV, FLAC, MP3, Ogg Vorbis or Opus; convert other formats with `ffmpeg -i FILE out.wav`."
)


def speechlike(seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    """Harmonics under a moving envelope, so that lossy formats have something to keep."""
    t = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12))
    return (0.1 * tone * (1 + np.sin(2 * np.pi * 3 * t)) / 2).astype(np.float32)


CLIP = speechlike()


def saved(path: Path, samples: np.ndarray = CLIP, rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("audio")


FORMS = {
    "a.wav": ({}, 4e-5),
    "f.wav": ({"subtype": "FLOAT"}, 0),
    "a.flac": ({}, 2e-5),
    "a.aiff": ({}, 4e-5),
    "a.ogg": ({"format": "OGG", "subtype": "VORBIS"}, 0.05),
    "a.opus": ({"format": "OGG", "subtype": "OPUS"}, 0.2),
    "a.mp3": ({"format": "MP3"}, 0.1),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_sound(folder, name):
    options, tolerance = FORMS[name]
    samples = read_audio(saved(folder / name, **options))
    assert samples.dtype == np.float32
    assert samples.shape == CLIP.shape
    assert np.abs(samples - CLIP).max() <= tolerance


@pytest.mark.parametrize("name", FORMS)
def test_blocks_join_without_a_seam(folder, name):
    """Oracle: the decoder in one call. MP3 decoders drop bits when they are made to seek."""
    path = saved(folder / name, **FORMS[name][0])
    with soundfile.SoundFile(path) as sound:
        whole = sound.read(dtype="float32")
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path))), whole)


@pytest.mark.parametrize("name", FORMS)
def test_a_stretch_is_a_slice(folder, name):
    path = saved(folder / name, **FORMS[name][0])
    whole = read_audio(path)
    stretch = read_audio(path, offset_s=0.75, duration_s=1.25)
    tolerance = 2e-3 if name == "a.opus" else 0  # an Opus decoder settles after a jump
    np.testing.assert_allclose(stretch, whole[12_000:32_000], atol=tolerance)
    np.testing.assert_allclose(read_audio(path, offset_s=2.5), whole[40_000:], atol=tolerance)


def test_one_file_can_be_read_twice(folder):
    with AudioFile(saved(folder / "again.mp3", format="MP3")) as audio:
        first = np.concatenate(list(audio.blocks(offset_s=1)))
        np.testing.assert_array_equal(np.concatenate(list(audio.blocks(offset_s=1))), first)


def test_a_duration_may_be_rounded_a_little_past_the_end(folder):
    path = saved(folder / "a.wav")
    assert len(read_audio(path, duration_s=SECONDS + 0.05)) == SECONDS * RATE


def test_channels_are_averaged(folder):
    left, right = speechlike(), -0.5 * speechlike()
    path = saved(folder / "stereo.wav", np.stack([left, right], 1), subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_other_rates_are_converted(folder, rate):
    """Oracle: soxr in one call."""
    source = speechlike(rate=rate)
    samples = read_audio(saved(folder / f"{rate}.wav", source, rate, subtype="FLOAT"))
    np.testing.assert_array_equal(samples, soxr.resample(source, rate, RATE))
    # A tone stays the tone it was.
    middle = slice(RATE // 2, -RATE // 2)
    assert np.abs(samples[: len(CLIP)] - CLIP)[middle].max() < 0.01


@given(
    rate=st.sampled_from([8_000, 22_050, 44_100, 48_000, 16_000]),
    cuts=st.lists(st.integers(0, 9_000), max_size=8).map(sorted),
)
def test_resampling_does_not_depend_on_the_chunks(rate, cuts):
    source = np.random.default_rng(0).normal(0, 0.1, 9_000).astype(np.float32)

    def run(chunks):
        resampler = StreamingResampler(rate)
        return np.concatenate([*map(resampler.push, chunks), resampler.finish()])

    np.testing.assert_array_equal(run(np.split(source, cuts)), run([source]))


@pytest.mark.parametrize("source", ["path", "text", "bytes", "file"])
def test_sources(folder, source):
    path = saved(folder / "source.flac")
    if source == "path":
        samples = read_audio(path)
    elif source == "text":
        samples = read_audio(str(path))
    elif source == "bytes":
        samples = read_audio(io.BytesIO(path.read_bytes()))
    else:
        with open(path, "rb") as file:
            samples = read_audio(file)
    assert np.abs(samples - CLIP).max() < 2e-5


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_standard_input(folder, name):
    path = saved(folder / name, **FORMS[name][0])
    code = (
        "import hashlib; from earshot.data.audio import read_audio; "
        "print(hashlib.sha256(read_audio('-').tobytes()).hexdigest())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], input=path.read_bytes(), capture_output=True, check=True
    )
    import hashlib

    assert out.stdout.decode().strip() == hashlib.sha256(read_audio(path).tobytes()).hexdigest()


def test_a_named_pipe(folder):
    import os
    import threading

    path, pipe = saved(folder / "piped.wav"), folder / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    samples = read_audio(pipe)
    writer.join()
    np.testing.assert_array_equal(samples, read_audio(path))


def test_a_wav_written_into_a_pipe_has_no_length(folder):
    """Recorders that cannot seek back leave a huge size: the sound is whole all the same."""
    data = bytearray(saved(folder / "a.wav").read_bytes())
    at = data.index(b"data")
    for size in (0xFFFFFFFF, 0x7FFFFFFF):
        data[4:8] = data[at + 4 : at + 8] = size.to_bytes(4, "little")
        (folder / "endless.wav").write_bytes(data)
        assert len(read_audio(folder / "endless.wav")) == len(CLIP)


def message_of(call) -> str:
    with pytest.raises(AudioError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.wav", b"", "the file is empty (0 bytes). Record it again."),
        (
            "notes.txt",
            b"turn on the light\n" * 99,
            "this is not audio that can be read (Format not recognised)." + CONVERT,
        ),
        (
            "notes.mp3",
            b"turn on the light\n" * 99,
            "this is not audio that can be read (Format not recognised)." + CONVERT,
        ),
        (
            "headerless.raw",
            bytes(3200),
            "this is not audio that can be read (Format not recognised)." + CONVERT,
        ),
        (
            "model.ear",
            b"\x89EAR\r\n\x1a\n" + bytes(100),
            "this is not audio that can be read (Format not recognised)." + CONVERT,
        ),
    ],
)
def test_files_that_are_not_sound(folder, name, data, message):
    path = folder / name
    path.write_bytes(data)
    assert message_of(lambda: read_audio(path)) == f"{path}: {message}"


def test_a_header_without_samples(folder):
    path = saved(folder / "zero.wav", CLIP[:0])
    assert message_of(lambda: read_audio(path)) == f"{path}: the file holds no samples. " + (
        "Record it again."
    )


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.mp3", "a.ogg", "a.opus", "a.flac"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_truncated_file_is_named_as_such(folder, name, share):
    data = saved(folder / name, **FORMS[name][0]).read_bytes()
    path = folder / f"cut-{share}-{name}"
    path.write_bytes(data[: int(len(data) * share)])
    message = message_of(lambda: read_audio(path))
    assert message.startswith(f"{path}: the header promises ")
    assert "cut short" in message
    assert message.endswith(COPY)


def test_a_truncated_wav_says_what_is_missing(folder):
    data = saved(folder / "a.wav").read_bytes()
    path = folder / "half.wav"
    path.write_bytes(data[:48_044])
    assert message_of(lambda: read_audio(path)) == (
        f"{path}: the header promises 96000 bytes of sound but 48000 are there; "
        "the file is cut short." + COPY
    )


def test_a_truncated_flac_says_what_is_missing(folder):
    data = saved(folder / "a.flac").read_bytes()
    path = folder / "half.flac"
    path.write_bytes(data[: len(data) // 2])
    assert message_of(lambda: read_audio(path)) == (
        f"{path}: the header promises 3.000 s of sound but the end cannot be decoded; "
        "the file is cut short or damaged." + COPY
    )


def test_truncation_at_every_byte_of_a_header_is_an_audio_error(folder):
    """Whatever is left of a file, the answer is one AudioError and never a crash."""
    for name in ("a.wav", "a.flac", "a.ogg"):
        data = saved(folder / name, CLIP[:800], **FORMS[name][0]).read_bytes()
        path = folder / f"stub-{name}"
        for size in range(min(len(data) - 1, 120)):
            path.write_bytes(data[:size])
            with pytest.raises(AudioError):
                read_audio(path)


@pytest.mark.parametrize("name", FORMS)
@given(
    size=st.integers(0, 4_000),
    damage=st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=4)), max_size=4),
)
@settings(max_examples=60)
def test_damaged_bytes_give_sound_or_one_audio_error(folder, name, size, damage):
    data = bytearray(saved(folder / name, CLIP[:800], **FORMS[name][0]).read_bytes())[:size]
    for at, value in damage:
        data[at : at + len(value)] = value
    path = folder / f"damaged-{name}"
    path.write_bytes(data)
    refusal = ""
    try:
        for block in read_blocks(path):
            assert np.isfinite(block).all()
    except AudioError as err:
        refusal = str(err)
    assert refusal == "" or (refusal.startswith(f"{path}: ") and "\n" not in refusal)


def test_damage_in_the_middle_of_a_flac(folder):
    noise = np.random.default_rng(0).normal(0, 0.1, RATE * 3).astype(np.float32)
    data = bytearray(saved(folder / "noise.flac", noise).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path = folder / "damaged.flac"
    path.write_bytes(data)
    message = message_of(lambda: read_audio(path))
    assert message.startswith(f"{path}: the ")
    assert message.endswith(COPY)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "is nan; samples must be finite. Check the program that wrote them."),
        (np.inf, "is inf; samples must be finite. Check the program that wrote them."),
        (
            32_000.0,
            "is 32000; samples must lie in -1..1. Divide by 32768 if they are 16-bit integers.",
        ),
    ],
)
def test_samples_that_are_no_sound_are_named_by_number(folder, value, message):
    samples = CLIP.copy()
    samples[20_001] = value
    path = saved(folder / "odd.wav", samples, subtype="FLOAT")
    assert message_of(lambda: read_audio(path)) == f"{path}: sample 20001 {message}"
    assert message_of(lambda: as_waveform(samples, first=7)) == f"samples: sample 20008 {message}"


def test_paths_that_are_no_files(folder):
    assert message_of(lambda: read_audio(folder / "absent.wav")) == (
        f"{folder}/absent.wav: there is no such file. Check the path."
    )
    assert message_of(lambda: read_audio(folder)) == (
        f"{folder}: this is a folder. Name the audio files inside it."
    )
    assert message_of(lambda: read_audio("/dev/null")) == (
        "/dev/null: the file is empty (0 bytes). Record it again."
    )


def test_a_file_that_may_not_be_read(folder, monkeypatch):
    """The administrator may read everything, so permission is refused by hand here."""
    path = saved(folder / "secret.wav")
    real_open = open

    def refusing(file, *args, **options):
        if file == path:
            raise PermissionError(13, "Permission denied")
        return real_open(file, *args, **options)

    monkeypatch.setattr("builtins.open", refusing)
    assert message_of(lambda: read_audio(path)) == (
        f"{path}: the file may not be read. Change its permissions."
    )


@pytest.mark.parametrize(
    ("offset", "duration", "message"),
    [
        (
            5.0,
            None,
            "asked for 5.000 s to 3.000 s, but the file ends at 3.000 s. "
            "Correct offset and duration in the manifest.",
        ),
        (
            2.0,
            2.0,
            "asked for 2.000 s to 4.000 s, but the file ends at 3.000 s. "
            "Correct offset and duration in the manifest.",
        ),
        (
            -1.0,
            None,
            "asked for offset -1.0 s and duration None s; the offset must not be negative and the "
            "duration must be positive. Correct the manifest.",
        ),
        (
            0.0,
            0.0,
            "asked for offset 0.0 s and duration 0.0 s; the offset must not be negative and the "
            "duration must be positive. Correct the manifest.",
        ),
    ],
)
def test_stretches_outside_the_file(folder, offset, duration, message):
    path = saved(folder / "a.wav")
    assert message_of(lambda: read_audio(path, offset_s=offset, duration_s=duration)) == (
        f"{path}: {message}"
    )


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((2, 100)),
            "samples: the array has shape (2, 100); it must be (samples,). Average the channels "
            "first, such as `samples.mean(axis=1)`.",
        ),
        (
            np.zeros(4, np.uint8),
            "samples: the array holds uint8; it must hold floats, int16 or int32. Convert it to "
            "float32 in -1..1.",
        ),
        (
            np.array(["a"]),
            "samples: the array holds <U1; it must hold floats, int16 or int32. Convert it to "
            "float32 in -1..1.",
        ),
    ],
)
def test_arrays_that_are_no_sound(array, message):
    assert message_of(lambda: as_waveform(array)) == message


def test_integer_samples_are_scaled():
    np.testing.assert_array_equal(as_waveform(np.array([-32768, 16384], np.int16)), [-1, 0.5])
    np.testing.assert_array_equal(as_waveform(np.array([-(2**31), 2**30], np.int32)), [-1, 0.5])
    assert as_waveform([0.25, -0.5]).dtype == np.float32


def test_rates_that_no_recording_has():
    assert message_of(lambda: StreamingResampler(16)) == (
        "samples: the sample rate is 16 Hz; it must lie in 1000..1000000 Hz. "
        "Give the rate in samples per second."
    )


def test_every_kind_of_real_recording_reads(real_data):
    """A few files of every set: their durations are the manifests'."""
    from earshot.data.manifest import read_manifest

    for manifest in sorted(real_data.glob("*/manifest.jsonl")):
        utterances = read_manifest(manifest)
        for utterance in utterances[:: max(1, len(utterances) // 4)]:
            samples = read_audio(
                utterance.audio, offset_s=utterance.offset_s, duration_s=utterance.duration_s
            )
            assert utterance.duration_s is not None
            assert len(samples) / RATE == pytest.approx(utterance.duration_s, abs=0.1)
            assert np.abs(samples).max() > 0
