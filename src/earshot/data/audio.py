"""Reads sound from files and arrays: any rate and channel count in, 16 kHz mono out.

Files are read in blocks, so memory does not grow with their length. Everything that cannot be
used is refused with an `AudioError` that says what is wrong: nothing damaged is passed on as if
it were whole. Channels are averaged. Does not know models, and does not record.
"""

import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from earshot.core.errors import AudioError
from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.containers import missing_sound

STDIN = "-"
BLOCK_S = 0.5
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 1_000_000
MAX_MAGNITUDE = 1_000.0  # far beyond any honest level in [-1, 1], far below integer samples
_END_SLACK_S = 0.1  # manifests round durations, and compressed formats pad them
_UNKNOWN_LENGTH = 2**62  # libsndfile's way of saying that a header gives no length
_SPOOL_BYTES = 1 << 20
_COPY_REMEDY = "Copy or record it again, or convert what is left with `ffmpeg -i FILE out.wav`"

Samples = npt.NDArray[np.float32]
Source = str | os.PathLike[str] | BinaryIO


def check_rate(sample_rate_hz: int, *, where: str) -> None:
    """Refuse a sample rate that no recording of speech has.

    Args:
        sample_rate_hz: The rate.
        where: What the rate belongs to, for the message.

    Raises:
        AudioError: The rate is outside 1 kHz..1 MHz.
    """
    if not MIN_RATE_HZ <= sample_rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            where,
            f"the sample rate is {sample_rate_hz} Hz; it must lie in "
            f"{MIN_RATE_HZ}..{MAX_RATE_HZ} Hz",
            remedy="Give the rate in samples per second",
        )


def check_samples(samples: Samples, *, where: str, first: int = 0) -> None:
    """Refuse samples that are not finite or not on the scale of -1..1.

    Args:
        samples: Shape (n,).
        where: What the samples belong to, for the message.
        first: Index of `samples[0]` in the whole signal, for the message.

    Raises:
        AudioError: A sample is NaN, infinite, or larger than 1000 in magnitude.
    """
    # The largest magnitude is NaN if any sample is, so one pass settles the usual case.
    if samples.size == 0 or np.abs(samples).max() <= MAX_MAGNITUDE:
        return
    index = int(np.argmax(~(np.abs(samples) <= MAX_MAGNITUDE)))
    value = float(samples[index])
    if math.isfinite(value):
        raise AudioError(
            where,
            f"sample {first + index} is {value:g}; samples must lie in -1..1",
            remedy="Divide by 32768 if they are 16-bit integers",
        )
    raise AudioError(
        where,
        f"sample {first + index} is {value}; samples must be finite",
        remedy="Check the program that wrote them",
    )


def as_waveform(samples: npt.ArrayLike, *, where: str = "samples", first: int = 0) -> Samples:
    """Bring an array of samples into the one form used inside.

    Args:
        samples: Shape (n,): floating point in -1..1, or int16 or int32 at full scale.
        where: What the samples belong to, for messages.
        first: Index of `samples[0]` in the whole signal, for messages.

    Returns:
        Contiguous float32 in about -1..1, shape (n,).

    Raises:
        AudioError: Wrong shape or type, not finite, or not on the scale of -1..1.
    """
    array = np.asarray(samples)
    if array.ndim != 1:
        raise AudioError(
            where,
            f"the array has shape {array.shape}; it must be (samples,)",
            remedy="Average the channels first, such as `samples.mean(axis=1)`",
        )
    if array.dtype == np.int16 or array.dtype == np.int32:
        return np.ascontiguousarray(array / float(-np.iinfo(array.dtype).min), np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(
            where,
            f"the array holds {array.dtype}; it must hold floats, int16 or int32",
            remedy="Convert it to float32 in -1..1",
        )
    with np.errstate(over="ignore"):
        waveform = np.ascontiguousarray(array, np.float32)
    check_samples(waveform, where=where, first=first)
    return waveform


class StreamingResampler:
    """Converts a stream of blocks from any rate to 16 kHz.

    The output does not depend on where the blocks are cut, bit for bit. At 16 kHz blocks pass
    through untouched; other rates come out a few tens of milliseconds late.

    Args:
        sample_rate_hz: Rate of the input.

    Raises:
        AudioError: The rate is outside 1 kHz..1 MHz.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        check_rate(sample_rate_hz, where="samples")
        self.sample_rate_hz = sample_rate_hz
        self._resampler: soxr.ResampleStream | None = None
        if sample_rate_hz != SAMPLE_RATE_HZ:
            self._resampler = soxr.ResampleStream(
                sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32"
            )

    def push(self, samples: Samples) -> Samples:
        """Feed a block and take what is ready.

        Args:
            samples: Shape (n,) at the input's rate.

        Returns:
            Shape (m,) at 16 kHz; may be empty.
        """
        return self._run(samples, last=False)

    def finish(self) -> Samples:
        """End the stream and take the rest.

        Returns:
            Shape (m,) at 16 kHz.
        """
        return self._run(np.zeros(0, np.float32), last=True)

    def _run(self, samples: Samples, *, last: bool) -> Samples:
        if self._resampler is None:
            return samples
        out: Samples = self._resampler.resample_chunk(samples, last=last)
        return out


class StreamInput:
    """The samples of one live signal: checked, counted, and brought to 16 kHz."""

    def __init__(self) -> None:
        self.num_samples = 0  # that came in, at the signal's own rate
        self._resampler: StreamingResampler | None = None  # None until the rate is known

    @property
    def sample_rate_hz(self) -> int | None:
        """Of the signal; None before its first samples."""
        return None if self._resampler is None else self._resampler.sample_rate_hz

    @property
    def duration_s(self) -> float:
        """Of what came in, seconds."""
        return self.seconds(self.num_samples)

    def seconds(self, samples: int) -> float:
        """How long so many samples of the signal last; 0 before its first."""
        return 0.0 if self._resampler is None else samples / self._resampler.sample_rate_hz

    def push(self, sample_rate_hz: int, samples: npt.ArrayLike) -> Samples:
        """Take more of the signal.

        Args:
            sample_rate_hz: 1 kHz..1 MHz, the same for the whole signal.
            samples: Shape (n,): floats in -1..1, or int16 or int32 at full scale. n may be 0.

        Returns:
            Shape (m,) at 16 kHz, what is ready; may be empty.

        Raises:
            AudioError: The rate is out of its range, or the samples have a wrong shape or type, are
                not finite or not on the scale of -1..1. Nothing is taken then.
            RuntimeError: The rate differs from before.
        """
        if self._resampler is None:
            self._resampler = StreamingResampler(sample_rate_hz)
        elif self._resampler.sample_rate_hz != sample_rate_hz:
            raise RuntimeError(
                f"stream: the rate is {sample_rate_hz} Hz and was "
                f"{self._resampler.sample_rate_hz} Hz; it must not change. Call reset() first."
            )
        waveform = as_waveform(samples, where="stream", first=self.num_samples)
        self.num_samples += len(waveform)
        return self._resampler.push(waveform)

    def drain(self) -> Samples:
        """Take what the resampler holds back; the signal may go on, as if cut there.

        Returns:
            Shape (m,) at 16 kHz; may be empty.
        """
        if self._resampler is None:
            return np.zeros(0, np.float32)
        rest = self._resampler.finish()
        self._resampler = StreamingResampler(self._resampler.sample_rate_hz)
        return rest


class _ForwardSound(soundfile.SoundFile):  # type: ignore[misc]
    """A sound that is read on and on.

    Where a file can be searched, soundfile seeks to where it already is after every block; an
    MP3 decoder then drops the bits that its next frame borrows, and clicks at every block.
    """

    def seekable(self) -> bool:
        return False


class AudioFile:
    """An audio file that is open, recognised and whole; use it in a `with` block.

    Args:
        source: A path, an open binary file, or "-" for standard input. What is not a path is
            copied to a temporary file first, because containers have to be searched.

    Raises:
        AudioError: The file is absent, unreadable, empty, not audio, without samples, or
            shorter than its own header says.
    """

    def __init__(self, source: Source) -> None:
        self.name = _name_of(source)
        self._file = _opened(source, self.name)
        try:
            self._sound = self._recognised()
            try:
                self._check_whole()
            except BaseException:
                self._sound.close()
                raise
        except BaseException:
            self._file.close()
            raise

    @property
    def sample_rate_hz(self) -> int:
        """The file's own sample rate."""
        return int(self._sound.samplerate)

    @property
    def num_channels(self) -> int:
        """The file's number of channels."""
        return int(self._sound.channels)

    @property
    def container(self) -> str:
        """The kind of file, such as "WAV"."""
        return str(self._sound.format)

    @property
    def num_samples(self) -> int | None:
        """Samples of one channel, or None where the header does not tell."""
        frames = int(self._sound.frames)
        return frames if frames < _UNKNOWN_LENGTH else None

    @property
    def duration_s(self) -> float | None:
        """Length in seconds, or None where the header does not tell."""
        samples = self.num_samples
        return None if samples is None else samples / self.sample_rate_hz

    def blocks(
        self, *, offset_s: float = 0.0, duration_s: float | None = None
    ) -> Iterator[Samples]:
        """The sound of a stretch of the file, block by block, at the file's own rate.

        Args:
            offset_s: Where to start, seconds >= 0.
            duration_s: How much to read, seconds > 0; None reads to the end.

        Yields:
            Float32 mono, half a second each but for the last.

        Raises:
            AudioError: The stretch leaves the file, the sound cannot be decoded, or a sample
                is not finite.
        """
        rate = self.sample_rate_hz
        position, end = self._stretch(offset_s, duration_s)
        self._go_to(position)
        while end is None or position < end:
            wanted = round(BLOCK_S * rate)
            if end is not None:
                wanted = min(wanted, end - position)
            block = self._read(wanted)
            if len(block) == 0:
                break
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
            check_samples(mono, where=self.name, first=position)
            position += len(block)
            yield np.ascontiguousarray(mono)
        if end is not None and position < end:
            raise AudioError(
                self.name,
                f"the header promises {end / rate:.3f} s of sound but only {position / rate:.3f} s "
                "can be decoded; the file is cut short",
                remedy=_COPY_REMEDY,
            )

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self._sound.close()
        self._file.close()

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _recognised(self) -> soundfile.SoundFile:
        if os.fstat(self._file.fileno()).st_size == 0:
            raise AudioError(self.name, "the file is empty (0 bytes)", remedy="Record it again")
        shortfall = missing_sound(self._file)
        if shortfall is not None:
            promised, present = shortfall
            raise AudioError(
                self.name,
                f"the header promises {promised} bytes of sound but {present} are there; "
                "the file is cut short",
                remedy=_COPY_REMEDY,
            )
        # Python's own position is not the descriptor's, and libsndfile starts at the latter.
        os.lseek(self._file.fileno(), 0, os.SEEK_SET)
        try:
            # By descriptor, not by name: libsndfile would believe a wrong file extension.
            sound = _ForwardSound(self._file.fileno(), closefd=False)
        except soundfile.LibsndfileError as err:
            raise AudioError(
                self.name,
                f"this is not audio that can be read ({_reason(err)})",
                remedy="Use WAV, FLAC, MP3, Ogg Vorbis or Opus; convert other formats with "
                "`ffmpeg -i FILE out.wav`",
            ) from None
        self._position = 0  # kept here, because asking libsndfile disturbs an MP3 decoder
        return sound

    def _check_whole(self) -> None:
        check_rate(self.sample_rate_hz, where=self.name)
        if self.num_samples == 0:
            raise AudioError(self.name, "the file holds no samples", remedy="Record it again")
        # A FLAC header knows the number of samples but not of bytes: look at the last one.
        if self.container == "FLAC" and self.num_samples is not None:
            try:
                self._sound.seek(self.num_samples - 1)
                whole = len(self._sound.read(1)) == 1
            except soundfile.LibsndfileError:
                whole = False
            if not whole:
                raise AudioError(
                    self.name,
                    f"the header promises {self.duration_s:.3f} s of sound but the end cannot be "
                    "decoded; the file is cut short or damaged",
                    remedy=_COPY_REMEDY,
                )
            self._sound.seek(0)

    def _stretch(self, offset_s: float, duration_s: float | None) -> tuple[int, int | None]:
        """The samples [start, end) of a stretch, end None where the length is unknown."""
        if not offset_s >= 0 or not (duration_s is None or duration_s > 0):
            raise AudioError(
                self.name,
                f"asked for offset {offset_s} s and duration {duration_s} s; the offset must not "
                "be negative and the duration must be positive",
                remedy="Correct the manifest",
            )
        rate = self.sample_rate_hz
        start = round(offset_s * rate)
        total = self.num_samples
        if duration_s is None:
            end = total
        else:
            end = start + max(1, round(duration_s * rate))
        if total is not None and end is not None:
            if start >= total or end > total + _END_SLACK_S * rate:
                raise AudioError(
                    self.name,
                    f"asked for {offset_s:.3f} s to {end / rate:.3f} s, but the file ends at "
                    f"{total / rate:.3f} s",
                    remedy="Correct offset and duration in the manifest",
                )
            end = min(end, total)
        return start, end

    def _go_to(self, position: int) -> None:
        if position == self._position:
            return
        if self.container != "MP3" and self._sound.subtype != "VORBIS":
            self._sound.seek(position)
            self._position = position
            return
        # An MP3 frame borrows bits from those before it, which a jump would miss, and
        # libsndfile's jumps in Vorbis land on the wrong sample: decode from the start instead.
        if position < self._position:
            self._sound.close()
            self._sound = self._recognised()
        while self._position < position:
            if len(self._read(min(position - self._position, 1 << 16))) == 0:
                return

    def _read(self, wanted: int) -> Samples:
        try:
            block: Samples = self._sound.read(wanted, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as err:
            raise AudioError(
                self.name,
                f"the sound cannot be decoded beyond {self._position / self.sample_rate_hz:.3f} s "
                f"({_reason(err)})",
                remedy=_COPY_REMEDY,
            ) from None
        self._position += len(block)
        return block


def _reason(err: soundfile.LibsndfileError) -> str:
    return str(err.error_string).removeprefix("Error : ").rstrip(".")


def _name_of(source: Source) -> str:
    if isinstance(source, (str, os.PathLike)):
        return "standard input" if source == STDIN else os.fspath(source)
    return str(getattr(source, "name", "audio"))


def _opened(source: Source, name: str) -> BinaryIO:
    """A real file, open at its start: libsndfile needs to seek, and a descriptor."""
    if source == STDIN:
        return _spooled(sys.stdin.buffer)
    if not isinstance(source, (str, os.PathLike)):
        return _spooled(source)
    path = Path(source)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with open(path, "rb") as pipe:  # a named pipe or a device
                return _spooled(pipe)
        return open(path, "rb", buffering=0)  # as in `_spooled`
    except FileNotFoundError:
        problem, remedy = "there is no such file", "Check the path"
    except IsADirectoryError:
        problem, remedy = "this is a folder", "Name the audio files inside it"
    except PermissionError:
        problem, remedy = "the file may not be read", "Change its permissions"
    except OSError as err:
        problem, remedy = f"the file cannot be opened ({err.strerror})", "Check the path"
    raise AudioError(name, problem, remedy=remedy)


def _spooled(stream: BinaryIO) -> BinaryIO:
    # Unbuffered: libsndfile moves the descriptor, and a buffer would seek from where it was.
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - AudioFile closes it
    try:
        shutil.copyfileobj(stream, file, _SPOOL_BYTES)
        file.flush()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def read_blocks(
    source: Source, *, offset_s: float = 0.0, duration_s: float | None = None
) -> Iterator[Samples]:
    """Sound at 16 kHz, block by block, with memory that does not grow with the file.

    Args:
        source: A path, an open binary file, or "-" for standard input.
        offset_s: Where to start, seconds >= 0.
        duration_s: How much to read, seconds > 0; None reads to the end.

    Yields:
        Float32 mono in about -1..1 at 16 kHz, about half a second each.

    Raises:
        AudioError: The sound cannot be used.
    """
    with AudioFile(source) as audio:
        resampler = StreamingResampler(audio.sample_rate_hz)
        for block in audio.blocks(offset_s=offset_s, duration_s=duration_s):
            yield resampler.push(block)
        yield resampler.finish()


def read_audio(
    source: Source, *, offset_s: float = 0.0, duration_s: float | None = None
) -> Samples:
    """A whole stretch of sound at 16 kHz.

    Args:
        source: A path, an open binary file, or "-" for standard input.
        offset_s: Where to start, seconds >= 0.
        duration_s: How much to read, seconds > 0; None reads to the end.

    Returns:
        Float32 mono in about -1..1 at 16 kHz, shape (n,).

    Raises:
        AudioError: The sound cannot be used.
    """
    return np.concatenate(list(read_blocks(source, offset_s=offset_s, duration_s=duration_s)))
