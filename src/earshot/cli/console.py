"""How commands speak: results on stdout, everything else on stderr, one line an error.

Knows exit codes and terminals; knows nothing of speech.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

import typer

from earshot.core.errors import (
    CommandsError,
    EarshotError,
    LabelledTextError,
    PronunciationsError,
    ResultsError,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EXPECTED_FAILURE = 1
USAGE_ERROR = 2
THRESHOLD_CROSSED = 3
_SHOWN_PROBLEMS = 20


def say(text: str) -> None:
    """A result: one line on stdout, there at once even when stdout is a pipe."""
    print(text, flush=True)


def note(text: str) -> None:
    """Something beside the result: one line on stderr."""
    print(text, file=sys.stderr, flush=True)


def complain(error: Exception | str) -> None:
    """One line on stderr that says what is wrong and what to do."""
    note(_as_complaint(error))


def _as_complaint(error: Exception | str) -> str:
    return "error: " + " ".join(str(error).split())


@contextmanager
def reported() -> Iterator[None]:
    """Turn an expected error of the block into one line on stderr and exit code 1.

    Raises:
        typer.Exit: With code 1, after an `EarshotError`, an `OSError` or an `ImportError` of the
            engine was printed; with code 2 after every problem of command templates, labelled
            sentences or pronunciations was, a line each; with code 1 after the first problems of
            rows of results were.
    """
    try:
        yield
    except (CommandsError, LabelledTextError, PronunciationsError) as err:
        for problem in err.problems:
            complain(str(problem))
        raise typer.Exit(USAGE_ERROR) from None
    except ResultsError as err:
        for problem in err.problems[:_SHOWN_PROBLEMS]:
            complain(str(problem))
        if len(err.problems) > _SHOWN_PROBLEMS:
            complain(f"and {len(err.problems) - _SHOWN_PROBLEMS} more rows.")
        raise typer.Exit(EXPECTED_FAILURE) from None
    except EarshotError as err:
        complain(err)
        raise typer.Exit(EXPECTED_FAILURE) from None
    except ModuleNotFoundError:
        raise
    except ImportError as err:  # the engine says so when EARSHOT_ISA asks for what is not there
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


class LiveLine:
    """A line on stderr that is written over again and again, if stderr is a terminal.

    Elsewhere every change is a line of its own.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._is_open = False

    def show(self, text: str) -> None:
        """Show a text in the place of the one before, its end if it is too wide."""
        if not self._is_terminal:
            note(text)
            return
        from shutil import get_terminal_size

        width = max(8, get_terminal_size().columns - 1)
        if len(text) > width:
            text = "…" + text[1 - width :]
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()
        self._is_open = True

    def clear(self) -> None:
        """Take the line away."""
        if self._is_open:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._is_open = False


class Display:
    """What a long command shows: results on stdout, errors and a progress bar on stderr.

    Use it in a `with` block. There is a bar only where stderr is a terminal.

    Args:
        total: Number of recordings.
        bar: Show a progress bar; False leaves the place to partial results.
    """

    def __init__(self, total: int, *, bar: bool) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._live = LiveLine()
        if bar and sys.stderr.isatty():
            self._progress = _progress_bar()
            self._task = self._progress.add_task("", total=total, speed="", name="")

    def __enter__(self) -> Display:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar and the live line away; closing twice is allowed."""
        if self._progress is not None:
            self._progress.stop()
        self._live.clear()

    def advance(self, name: str, *, finished: float, real_time_factor: float) -> None:
        """Move the bar.

        Args:
            name: The recording that is being heard.
            finished: Recordings that are done, with the share of this one.
            real_time_factor: Seconds of work for a second of audio, so far.
        """
        if self._progress is not None and self._task is not None:
            speed = f"RTF {real_time_factor:.4f}"
            self._progress.update(self._task, completed=finished, speed=speed, name=name)

    def partial(self, t_s: float, text: str) -> None:
        """Show words that may still change."""
        self._live.show(f"{t_s:7.2f} s  {text}")

    def result(self, text: str) -> None:
        """Print a finished result on stdout, newline included."""
        self._live.clear()
        if self._progress is not None and sys.stdout.isatty():
            # Both share one screen: only the bar's own console can print above it.
            self._progress.console.out(text, end="")
        else:
            sys.stdout.write(text)
            sys.stdout.flush()

    def error(self, error: Exception) -> None:
        """Print what is wrong with one recording, as one line on stderr."""
        self._live.clear()
        if self._progress is not None:
            self._progress.console.out(_as_complaint(error))
        else:
            complain(error)


class StageBars:
    """A bar on stderr for the stage that is under way, where stderr is a terminal.

    Nothing is drawn between calls, so that a stage with a bar of its own is not disturbed.
    """

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Draw the bar.

        Args:
            stage: Its name; a new name takes the old bar away.
            done: How much is done.
            total: How much there is to do, in the same unit.
        """
        if not sys.stderr.isatty():
            return
        if stage != self._stage or self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self.close()
            self._bar = Progress(
                console=Console(stderr=True),
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.start()
            self._task = self._bar.add_task(stage)
            self._stage = stage
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, refresh=True)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Leave the bar as it stands; closing twice is allowed."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _progress_bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[name]}", markup=False),
        console=Console(stderr=True, highlight=False),
        redirect_stdout=False,
        redirect_stderr=False,
        transient=True,
    )
