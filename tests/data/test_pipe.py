"""Audio from a pipe: the same samples as from a file, and before the pipe has ended."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot.core.errors import AudioError
from earshot.data.audio import AudioFile
from earshot.data.pipe import AudioPipe


class Drip(io.BytesIO):
    """A pipe whose writer is slow: `read1` gives a few bytes at a time."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(data)
        self._sizes = sizes or [4096]
        self._turn = 0

    def read1(self, size: int | None = -1, /) -> bytes:
        step = self._sizes[self._turn % len(self._sizes)]
        self._turn += 1
        return self.read(step if size is None or size < 0 else min(size, step))


def encoded(
    container: str, subtype: str, *, rate_hz: int = 16000, channels: int = 1, seconds: float = 0.7
) -> bytes:
    shape = (round(seconds * rate_hz), channels)
    samples = np.random.default_rng(3).uniform(-0.9, 0.9, shape)
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def from_file(data: bytes) -> np.ndarray:
    with AudioFile(io.BytesIO(data)) as audio:
        return np.concatenate(list(audio.blocks()))


def from_pipe(data: bytes, sizes: list[int] | None = None) -> np.ndarray:
    with AudioPipe(Drip(data, sizes or [])) as audio:
        return np.concatenate(list(audio.blocks()))


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
def test_samples_are_those_of_the_file(container: str, subtype: str, channels: int) -> None:
    data = encoded(container, subtype, channels=channels, rate_hz=22050)
    np.testing.assert_array_equal(from_pipe(data), from_file(data))


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "ULAW")],
)
def test_other_audio_is_read_when_the_pipe_has_ended(container: str, subtype: str) -> None:
    data = encoded(container, subtype)
    np.testing.assert_array_equal(from_pipe(data), from_file(data))


@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=8))
@settings(max_examples=30)
def test_samples_do_not_depend_on_how_bytes_arrive(sizes: list[int]) -> None:
    data = encoded("WAV", "PCM_24", channels=2, seconds=0.1)
    np.testing.assert_array_equal(from_pipe(data, sizes), from_file(data))


@pytest.mark.parametrize("promised", [0, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_header_that_cannot_know_the_length(promised: int) -> None:
    data = bytearray(encoded("WAV", "PCM_16"))
    at = data.index(b"data") + 4
    expected = from_file(bytes(data))
    data[at : at + 4] = promised.to_bytes(4, "little")
    np.testing.assert_array_equal(from_pipe(bytes(data)), expected)


def test_sound_comes_out_before_the_pipe_has_ended() -> None:
    data = encoded("WAV", "PCM_16", seconds=2.0)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb") as pipe, open(writer, "wb", buffering=0) as out:
        out.write(data[: 44 + 3200])
        with AudioPipe(pipe) as audio:
            block = next(audio.blocks())
    np.testing.assert_array_equal(block, from_file(data)[:1600])


@pytest.mark.parametrize("kept", [0, 5, 12, 30, 44, 1000])
def test_a_stream_that_ends_early_is_refused(kept: int) -> None:
    data = encoded("WAV", "PCM_16")
    with pytest.raises(AudioError, match="standard input"):
        from_pipe(data[:kept])


def test_what_is_not_audio_is_refused() -> None:
    for data in (b"words, not sound" * 50, b"RIFF" + bytes(500), bytes(range(256))):
        with pytest.raises(AudioError):
            from_pipe(data)


def test_samples_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    samples = np.zeros(500, np.float32)
    samples[321] = np.nan
    path = tmp_path / "nan.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="sample 321"):
        from_pipe(path.read_bytes())
