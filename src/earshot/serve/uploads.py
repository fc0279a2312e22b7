"""Sound out of a body that somebody sent, in whatever container, with bounds on all of it.

libsndfile reads what it knows; MP4, WebM, Matroska and AAC go through PyAV. FFmpeg is told which
demuxer and which decoders it may use and reads from the file alone: playlists, references to other
files, video and subtitles never come into play. Knows nothing of requests.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from earshot.core.errors import AudioError, MissingExtraError
from earshot.data.audio import AudioFile, Samples, check_rate, check_samples

BLOCK_S = 0.5
MAX_CHANNELS = 32
MAX_EMPTY_PACKETS = 10_000  # a file of nothing but damaged packets ends here
# What a browser, a phone or a recorder writes; FFmpeg's names.
_CODECS = "aac,mp3,mp3float,opus,vorbis,flac,alac,pcm_s16le,pcm_s16be,pcm_s24le,pcm_f32le"


def container_of(head: bytes) -> str | None:
    """The FFmpeg demuxer for a file that libsndfile does not read.

    Args:
        head: Its first 16 bytes or more.

    Returns:
        "mov" (MP4, M4A, 3GP, MOV), "matroska" (WebM too) or "aac"; None for anything else.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    # ADTS: 12 bits sync, then the layer, which is always 0 (an MP3 frame's is not).
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    return None


def blocks(file: BinaryIO, *, name: str = "file", max_s: float) -> Iterator[tuple[int, Samples]]:
    """Sound block by block; meant to be stepped in a thread, as decoding takes time.

    Args:
        file: Open for reading, able to seek, at its start.
        name: What messages call it.
        max_s: The most seconds of sound that are decoded.

    Yields:
        Sample rate and float32 mono of half a second or so.

    Raises:
        AudioError: It is not sound, damaged, or longer than allowed.
        MissingExtraError: It needs PyAV, which is not installed.
    """
    head = file.read(16)
    file.seek(0)
    if not head:
        raise AudioError(name, "the file is empty (0 bytes)", remedy="Record it again")
    demuxer = container_of(head)
    found = _blocks_of_av(file, demuxer, name) if demuxer else _blocks_of_soundfile(file, name)
    total_s = 0.0
    for rate, block in found:
        total_s += len(block) / rate
        if total_s > max_s:
            raise AudioError(
                name,
                f"there are more than {max_s:g} s of sound, which is the most that is taken",
                remedy="Cut it into shorter files",
            )
        yield rate, block


class _Named:
    """An open file under the name that messages should use."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self.name = file, name

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def _blocks_of_soundfile(file: BinaryIO, name: str) -> Iterator[tuple[int, Samples]]:
    with AudioFile(_Named(file, name)) as audio:  # type: ignore[arg-type]
        for block in audio.blocks():
            yield audio.sample_rate_hz, block


def _blocks_of_av(file: BinaryIO, demuxer: str, name: str) -> Iterator[tuple[int, Samples]]:
    try:
        import av
    except ModuleNotFoundError:
        raise MissingExtraError("MP4, WebM and AAC", package="av", extra="serve") from None
    try:
        with av.open(
            file,
            mode="r",
            format=demuxer,
            options={"protocol_whitelist": "file", "codec_whitelist": _CODECS},
            metadata_errors="replace",
        ) as container:
            if not container.streams.audio:
                raise AudioError(name, "there is no sound in it", remedy="Send a recording")
            yield from _frames(container, name)
    except (av.error.FFmpegError, ValueError, OverflowError, MemoryError) as err:
        raise AudioError(
            name,
            f"this is not audio that can be read ({_reason(err)})",
            remedy="Convert it with `ffmpeg -i FILE out.wav` and send that",
        ) from None


def _frames(container: Any, name: str) -> Iterator[tuple[int, Samples]]:
    """Decoded frames of the first audio stream, collected to blocks, channels averaged."""
    import av

    stream = container.streams.audio[0]
    stream.codec_context.thread_count = 1
    resampler: Any = None
    rate, waiting, num_waiting, position, num_empty = 0, [], 0, 0, 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            frames = []  # players skip a damaged packet too
        num_empty = 0 if frames else num_empty + 1
        if num_empty > MAX_EMPTY_PACKETS:
            raise AudioError(
                name,
                f"{num_empty} packets in a row hold no sound",
                remedy="Record or convert it again",
            )
        for frame in frames:
            if not rate:
                rate = int(frame.sample_rate)
                check_rate(rate, where=name)
            if frame.sample_rate != rate or frame.layout.nb_channels > MAX_CHANNELS:
                raise AudioError(
                    name,
                    f"the sound changes to {frame.sample_rate} Hz and "
                    f"{frame.layout.nb_channels} channels half-way",
                    remedy="Convert it with `ffmpeg -i FILE out.wav` and send that",
                )
            if resampler is None:
                resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=rate)
            for part in resampler.resample(frame):
                mono = part.to_ndarray().mean(axis=0, dtype=np.float32)
                check_samples(mono, where=name, first=position)
                position += len(mono)
                waiting.append(mono)
                num_waiting += len(mono)
        if num_waiting >= BLOCK_S * rate > 0:
            yield rate, np.concatenate(waiting)
            waiting, num_waiting = [], 0
    if waiting:
        yield rate, np.concatenate(waiting)
    if position == 0:
        raise AudioError(name, "there are no samples in it", remedy="Record it again")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).rstrip(".")


def suffix_of(name: str | None) -> str:
    """A file's name as messages show it: its last part, without control characters.

    Args:
        name: What the client called it.
    """
    last = Path((name or "file").replace("\\", "/")).name
    return "".join(letter for letter in last if letter.isprintable())[:80] or "file"


def quieten() -> None:
    """Keep FFmpeg's own messages off stderr, where the log is."""
    try:
        import av
    except ModuleNotFoundError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        av.logging.set_level(av.logging.PANIC)
