"""Files that appear complete or not at all. Knows nothing of what is written."""

import os
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
        path: The file to make; its folder must exist.

    Yields:
        A binary file open for writing and reading; its `.name` is the temporary file.

    Raises:
        OSError: The folder is absent, full or not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
