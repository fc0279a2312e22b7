"""Every error that a user of the package can meet, and how its message reads.

    EarshotError                 catch this one to catch all of them
    ├── ModelFileError           a `.ear` file is missing, damaged or of another version
    ├── ModelUpdateError         an `.eard` file, or the key for one, cannot be used
    ├── AudioError               sound that cannot be read or is not sound
    ├── ManifestError            a list of utterances that cannot be read
    ├── CommandsError            command templates that cannot be used, all problems at once
    ├── LabelledTextError        rows of labelled text that cannot be used, all problems at once
    ├── PronunciationsError      lines of pronunciations that cannot be used, all problems at once
    ├── HotwordsError            a list of hotwords that cannot be used, all problems at once
    ├── LanguageModelError       an ARPA file, or text for a language model, that cannot be used
    ├── ConfigError              a setting, option or recipe value out of its range
    ├── SynthesisError           no speech engine is installed, or none of them speaks
    └── MissingExtraError        an optional package is not installed

A message is always `<where>: <what is, with numbers>. <what to do>.` on one line, so that a
command can print it as it is; errors that name all problems at once have a line for each.
Knows nothing of who raises what.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass


class EarshotError(Exception):
    """Root of all errors that the package raises on purpose."""


class _LocatedError(EarshotError):
    """An error at a place, with a problem and a remedy; the parts stay readable as attributes."""

    def __init__(self, where: str | os.PathLike[str], problem: str, *, remedy: str) -> None:
        self.where = os.fspath(where)
        self.problem = problem.rstrip(".")
        self.remedy = remedy.rstrip(".")
        super().__init__(f"{self.where}: {self.problem}. {self.remedy}.")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are rebuilt from `args`, which hold one string only: name the real parts,
        # so that an error crosses a process boundary unchanged.
        return (_rebuild, (type(self), self.where, self.problem, self.remedy))


def _rebuild(
    kind: type[_LocatedError], where: str, problem: str, remedy: str
) -> _LocatedError:  # pickle calls it
    return kind(where, problem, remedy=remedy)


class ModelFileError(_LocatedError):
    """A model file cannot be used.

    Args:
        where: The file; also kept as `.path`.
        problem: What is wrong, with numbers, without a full stop.
        remedy: What the reader can do about it.
    """

    @property
    def path(self) -> str:
        """The file that cannot be used."""
        return self.where


class ModelUpdateError(_LocatedError):
    """An update is damaged, of another version, for another model, or not signed as demanded."""


class AudioError(_LocatedError):
    """Audio cannot be used: not audio, empty, cut short, not finite, or not readable."""


class ManifestError(_LocatedError):
    """A manifest cannot be used; `where` is `file` or `file:line`."""


@dataclass(frozen=True, slots=True)
class CommandsProblem:
    """One thing that is wrong, or doubtful, in command templates or other text of a user's.

    Args:
        where: `file:line`, or the file alone.
        problem: What is, without a full stop.
        remedy: What the reader can do about it, without a full stop.
    """

    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}; {self.remedy}."


class _ProblemsError(EarshotError):
    """Text of a user's that cannot be used; the message has one line for every problem.

    Args:
        problems: At least one, in the order of the files.
    """

    def __init__(self, problems: Sequence[CommandsProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problems,))


class CommandsError(_ProblemsError):
    """Command templates cannot be used."""


class LabelledTextError(_ProblemsError):
    """Labelled sentences cannot be used."""


class PronunciationsError(_ProblemsError):
    """A file of pronunciations cannot be used."""


class HotwordsError(_ProblemsError):
    """A list of hotwords cannot be used."""


class LanguageModelError(_LocatedError):
    """A language model cannot be read or made; `where` is `file` or `file:line`."""


class ConfigError(EarshotError):
    """A setting is unknown or out of range; the message names the setting and its range."""


class SynthesisError(EarshotError):
    """Text cannot be spoken; the message names the engine or voice and how to get it."""


class MissingExtraError(EarshotError):
    """An optional part of the package is not installed.

    Args:
        feature: What was asked for, such as "the microphone".
        package: The Python package that is absent.
        extra: The extra that brings it, such as "mic".
    """

    def __init__(self, feature: str, *, package: str, extra: str) -> None:
        super().__init__(
            f"{feature}: needs the package '{package}', which is not installed. "
            f"Install it with `pip install 'earshot[{extra}]'`."
        )
