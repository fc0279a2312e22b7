"""How commands speak: results on stdout, everything else on stderr, one line an error.

Knows exit codes and terminals; knows nothing of speech.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from earshot.core.errors import EarshotError

EXPECTED_FAILURE = 1
USAGE_ERROR = 2


def say(text: str) -> None:
    """A result: one line on stdout, there at once even when stdout is a pipe."""
    print(text, flush=True)


def note(text: str) -> None:
    """Something beside the result: one line on stderr."""
    print(text, file=sys.stderr, flush=True)


def complain(error: Exception | str) -> None:
    """One line on stderr that says what is wrong and what to do."""
    note("error: " + " ".join(str(error).split()))


@contextmanager
def reported() -> Iterator[None]:
    """Turn an expected error of the block into one line on stderr and exit code 1.

    Raises:
        typer.Exit: With code 1, after an `EarshotError` or an `OSError` was printed.
    """
    try:
        yield
    except EarshotError as err:
        complain(err)
        raise typer.Exit(EXPECTED_FAILURE) from None
    except BrokenPipeError:
        raise
    except OSError as err:
        where = f"{err.filename}: " if err.filename else ""
        complain(f"{where}{err.strerror or err}. Check the path, its permissions and free space.")
        raise typer.Exit(EXPECTED_FAILURE) from None


def usage_error(text: str) -> typer.Exit:
    """Print what is wrong with the options; raise what this returns to leave with code 2."""
    complain(text)
    return typer.Exit(USAGE_ERROR)
