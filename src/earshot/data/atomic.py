"""Files that appear complete or not at all. Knows nothing of what is written."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends well.

    The bytes go to a neighbour of `path` first, reach the disk, and are then renamed: a reader
    sees the old file or the new one, and an error or a power cut leaves the old one.

    Args:
        path: The file to make; its folder must exist. Of a link it is the file that it leads to.

    Yields:
        A binary file open for writing and reading; its `.name` is the temporary file.

    Raises:
        OSError: The folder is absent, full or not writable, or the path is that of a folder, a
            device, a pipe or a socket.
    """
    target = _target(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        opened = open(temporary, "x+b")  # noqa: SIM115
    except (FileNotFoundError, PermissionError) as err:  # of a name that nobody gave
        err.filename = str(target.parent)
        raise
    try:
        with opened as file:
            # The lock says that somebody is still writing: see `remove_leftovers`.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _target(path: Path) -> Path:
    """Where a file of this name is, or is to be: a rename would take the place of a device."""
    target = Path(os.path.realpath(path))
    if not path.name or target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    if target.is_symlink():  # one that leads to itself
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def remove_leftovers(path: Path) -> int:
    """Delete what dead processes left behind when they were killed inside `replaced_file`.

    Files that a living process still writes are locked, and stay; so does what this process may
    not open or delete.

    Args:
        path: The file that they were to become.

    Returns:
        How many were deleted.

    Raises:
        OSError: The folder is absent or not readable.
    """
    target = Path(os.path.realpath(path))
    leftover = re.compile(re.escape(f".{target.name}.") + r"\d+\.[0-9a-f]{8}\.tmp")
    removed = 0
    with os.scandir(target.parent) as entries:
        found = [entry for entry in entries if leftover.fullmatch(entry.name)]
    for entry in found:
        if not entry.is_file(follow_symlinks=False):
            continue
        with (
            contextlib.suppress(FileNotFoundError, BlockingIOError),
            open(entry.path, "rb") as file,
        ):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(entry.path)
            removed += 1
    return removed


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk; a file system that cannot do so for folders has no more."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
