"""Where results go: stdout, one file, or a file per recording in a folder.

Files appear complete or not at all. Knows nothing of what is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from earshot.data.atomic import replaced_file

if TYPE_CHECKING:
    from earshot.cli.console import Display


def file_stem(recording: str) -> str:
    """The name, without its ending, of the file that a recording gets in a folder."""
    return recording.replace("/", "_").lstrip(".") or "_"


class Destination(Protocol):
    """Takes finished results, and partial ones where somebody is watching."""

    def write(self, recording: str, text: str) -> None:
        """Take the whole result of a recording, newlines included."""

    def write_partial(self, text: str) -> None:
        """Take a line that a later one supersedes."""


class _Stdout:
    def __init__(self, display: Display) -> None:
        self._display = display

    def write(self, recording: str, text: str) -> None:
        self._display.result(text)

    def write_partial(self, text: str) -> None:
        self._display.result(text)


class _File:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, recording: str, text: str) -> None:
        self._file.write(text.encode())

    def write_partial(self, text: str) -> None:
        """Nobody watches a file that is not there yet."""


class _Folder:
    def __init__(self, folder: Path, ending: str) -> None:
        self._folder, self._ending = folder, ending

    def write(self, recording: str, text: str) -> None:
        with replaced_file(self._folder / f"{file_stem(recording)}.{self._ending}") as file:
            file.write(text.encode())

    def write_partial(self, text: str) -> None:
        """Nobody watches a file that is not there yet."""


class _Sorted:
    """Holds results back, to pass them on sorted by recording as CTM wants them."""

    def __init__(self, inner: Destination) -> None:
        self._inner = inner
        self._held: list[tuple[str, str]] = []

    def write(self, recording: str, text: str) -> None:
        self._held.append((recording, text))

    def write_partial(self, text: str) -> None:
        self._inner.write_partial(text)

    def release(self) -> None:
        for recording, text in sorted(self._held):
            self._inner.write(recording, text)


@contextmanager
def opened(
    output: Path | None, *, into_folder: bool, form: str, display: Display
) -> Iterator[Destination]:
    """The destination that an `--output` option means.

    Args:
        output: File or folder; None is stdout.
        into_folder: `output` is a folder, which is made if need be.
        form: Ending of the files in a folder; "ctm" also means sorted by recording.
        display: Prints what goes to stdout.

    Yields:
        What results are written to; a file takes its name when the block ends well.

    Raises:
        OSError: The file or folder cannot be written.
    """
    with _unsorted(output, into_folder=into_folder, form=form, display=display) as place:
        if form == "ctm" and not into_folder:
            held = _Sorted(place)
            yield held
            held.release()
        else:
            yield place


@contextmanager
def _unsorted(
    output: Path | None, *, into_folder: bool, form: str, display: Display
) -> Iterator[Destination]:
    if output is None:
        yield _Stdout(display)
    elif into_folder:
        output.mkdir(parents=True, exist_ok=True)
        yield _Folder(output, "txt" if form == "text" else form)
    else:
        with replaced_file(output) as file:
            yield _File(file)
