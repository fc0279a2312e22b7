"""Results of any recogniser from a file: JSON lines, CSV, Lhotse manifests, Kaldi folders.

Files of lines are read in parts that know nothing of each other, so that parts can be read on
other machines (`audit.cluster`), and merged in order. No row is dropped in silence: what cannot
be read stops the audit, or is counted with its line number where that is asked for.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from earshot.audit.results import (
    Embeddings,
    Exclusion,
    Labels,
    Results,
    banded,
    exclusion,
)
from earshot.audit.rows import (
    Row,
    cannot_read,
    csv_header,
    csv_rows,
    from_utterance,
    head_of,
    json_list,
    json_rows,
    kaldi_rows,
    kind_of,
    opened,
    read_hypotheses,
)
from earshot.audit.tokens import TEXT_FORMS, UNITS, Texts, WordTable, align, describe_text
from earshot.core.errors import ConfigError, ResultsError, ResultsProblem
from earshot.data.manifest import read_manifest

PART_BYTES = 1 << 24
MAX_GROUP_VALUES = 1000  # a column with more values names rows, not groups
_MAX_ENCODED_VALUES = 50_000  # numbers may have that many before they are cut into bands

FIELDS = (
    "id",
    "ref",
    "hyp",
    "speaker",
    "lat",
    "lon",
    "zip",
    "embedding",
    "audio",
    "offset",
    "duration",
    "hits",
    "substitutions",
    "deletions",
    "insertions",
    "words",
    "errors",
)
_COUNT_FIELDS = ("hits", "substitutions", "deletions", "insertions", "words", "errors")
_OTHER_NAMES = {
    "ref": ("reference", "text", "transcript", "reference_text", "ground_truth", "target", "label"),
    "hyp": ("hypothesis", "prediction", "pred", "predicted", "recognised", "asr", "output"),
    "speaker": ("speaker_id", "spk", "spk_id", "client_id", "user_id", "user"),
    "id": ("utt", "utt_id", "utterance_id", "utterance", "key", "file"),
    "lat": ("latitude",),
    "lon": ("longitude", "lng", "long"),
    "zip": ("zipcode", "zip_code", "postcode", "postal_code"),
}

Progress = Callable[[str, float, float], None]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingConfig:
    """How a file of results is read.

    Args:
        columns: Column by field, for fields whose column has another name than the field.
        hypotheses: A second file with an id and a text for each row.
        text_form: "normalised" or "as-is".
        unit: "words" or "characters".
        bad_rows: "stop" or "skip" at rows that cannot be read and ids that come twice.
        ignore: Columns that are no groups.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    hypotheses: Path | None = None
    text_form: str = "normalised"
    unit: str = "words"
    bad_rows: str = "stop"
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in FIELDS:
                near = difflib.get_close_matches(name, FIELDS, n=1)
                hint = f" Did you mean '{near[0]}'?" if near else ""
                raise ConfigError(
                    f"columns: '{name}' is no field; fields are {', '.join(FIELDS)}.{hint}"
                )
        for value, allowed, name in (
            (self.text_form, TEXT_FORMS, "text_form"),
            (self.unit, UNITS, "unit"),
            (self.bad_rows, ("stop", "skip"), "bad_rows"),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} is '{value}'; it must be {' or '.join(allowed)}.")

    def column(self, name: str) -> str:
        """The column that holds a field."""
        return self.columns.get(name, name)


@dataclass(slots=True)
class Part:
    """What one stretch of a file holds, in columns; lines and rows count from its beginning."""

    num_lines: int = 0
    num_rows: int = 0
    lines: list[int] = field(default_factory=list)
    ordinal: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labels: dict[str, tuple[npt.NDArray[np.int32], list[str]]] = field(default_factory=dict)
    floats: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    counts: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 4), np.int32))
    audio: list[str] = field(default_factory=list)
    embedding: list[Any] | None = None
    texts: Texts | None = None
    bad: list[tuple[int, str]] = field(default_factory=list)
    excluded: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)
    not_groups: dict[str, str] = field(default_factory=dict)
    words_without_reference: int = 0

    def exclude(self, reason: str, scope: str, lines: Sequence[int]) -> None:
        """Count lines as left out of something."""
        if lines:
            self.excluded.setdefault((reason, scope), []).extend(lines)


def read_results(
    path: Path,
    *,
    config: ReadingConfig | None = None,
    embeddings: Path | None = None,
    progress: Progress | None = None,
    map_parts: Callable[[Callable[[Any], Part], Sequence[Any]], Iterator[Part]] | None = None,
) -> Results:
    """Read a file of results, align every utterance and count its errors.

    Args:
        path: JSON lines, a JSON list, CSV or TSV (each may end in .gz), a Lhotse manifest, or a
            Kaldi folder.
        config: Columns, text form and what to do with bad rows.
        embeddings: `.npy` of (R, D) floats; used as a memory map. Rows are those of the file,
            or those that the column `embedding` gives.
        progress: Called with a stage, how much is done, and how much there is.
        map_parts: Applies a function to parts in order, such as on other machines.

    Returns:
        The utterances that can be scored, with what was left out and why.

    Raises:
        ResultsError: Rows cannot be read, ids come twice, or there is nothing to score; every
            problem with its line.
        ManifestError: A Lhotse manifest or Kaldi folder is not usable.
        ConfigError: A column that was named is not there.
    """
    config = config or ReadingConfig()
    said = progress or (lambda stage, done, total: None)
    hypotheses = None if config.hypotheses is None else read_hypotheses(config.hypotheses)
    parts: list[Part] = []
    for part, done, total in _parts(path, config, hypotheses, map_parts):
        parts.append(part)
        said("reading", done, total)
    return _merged(path, config, parts, embeddings, hypotheses)


# ---------------------------------------------------------------- stretches of a file


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A part of a file of lines that can be read by itself."""

    path: Path
    start: int
    end: int
    header: tuple[str, ...] | None  # of a CSV file
    delimiter: str
    config: ReadingConfig
    hypotheses: dict[str, str] | None


def _parts(
    path: Path,
    config: ReadingConfig,
    hypotheses: dict[str, str] | None,
    map_parts: Callable[[Callable[[Any], Part], Sequence[Any]], Iterator[Part]] | None,
) -> Iterator[tuple[Part, float, float]]:
    if path.is_dir():
        yield _part(kaldi_rows(path), config, hypotheses), 1, 1
        return
    head = head_of(path)
    kind = kind_of(path, head)
    if kind == "json":
        yield _part(json_list(path), config, hypotheses), 1, 1
        return
    if kind == "lhotse":
        rows = ((at, from_utterance(u)) for at, u in enumerate(read_manifest(path), start=1))
        yield _part(rows, config, hypotheses), 1, 1
        return
    header, delimiter = csv_header(path, head) if kind == "csv" else (None, "")
    if path.suffix == ".gz":
        try:
            with opened(path) as file:
                yield from _stream(file, header, delimiter, config, hypotheses)
        except (OSError, EOFError, zlib.error) as err:
            raise cannot_read(path, f"it cannot be read ({err})", "compress it again") from None
        return
    size = path.stat().st_size
    stretches = [
        _Stretch(path, start, min(start + PART_BYTES, size), header, delimiter, config, hypotheses)
        for start in range(0, max(size, 1), PART_BYTES)
    ]
    mapped = (
        map(read_stretch, stretches) if map_parts is None else map_parts(read_stretch, stretches)
    )
    for stretch, part in zip(stretches, mapped, strict=True):
        yield part, stretch.end, size


def read_stretch(stretch: _Stretch) -> Part:
    """Read one part: the lines that begin in it."""
    with open(stretch.path, "rb") as file:
        if stretch.start:
            file.seek(stretch.start - 1)
            file.readline()
        begin = file.tell()
        data = file.read(max(0, stretch.end - begin))
        if data and not data.endswith(b"\n"):
            data += file.readline()
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return _part_of_lines(
        lines,
        stretch.header,
        stretch.delimiter,
        stretch.config,
        stretch.hypotheses,
        is_first=stretch.start == 0,
    )


def _stream(
    file: Any,
    header: tuple[str, ...] | None,
    delimiter: str,
    config: ReadingConfig,
    hypotheses: dict[str, str] | None,
) -> Iterator[tuple[Part, float, float]]:
    is_first = True
    while lines := file.readlines(PART_BYTES):
        stripped = [line.rstrip(b"\n") for line in lines]
        part = _part_of_lines(stripped, header, delimiter, config, hypotheses, is_first=is_first)
        is_first = False
        yield part, 0, 1


def _part_of_lines(
    lines: list[bytes],
    header: tuple[str, ...] | None,
    delimiter: str,
    config: ReadingConfig,
    hypotheses: dict[str, str] | None,
    *,
    is_first: bool,
) -> Part:
    bad: list[tuple[int, str]] = []
    if header is None:
        rows = json_rows(lines, bad)
    else:
        rows = csv_rows(lines, header, delimiter, bad, skip=1 if is_first else 0)
    part = _part(rows, config, hypotheses, bad=bad)
    part.num_lines = len(lines)
    return part


# ---------------------------------------------------------------- rows into columns


class _LabelTable(dict[Any, int]):
    """Numbers of values; missing ones are -1."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._by_name: dict[str, int] = {}

    def __missing__(self, value: Any) -> int:
        name = _as_name(value)
        code = -1
        if name:
            code = self._by_name.setdefault(name, len(self.names))
            if code == len(self.names):
                self.names.append(name)
        if value == value:  # nan is never found again
            self[value] = code
        return code


def _as_name(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value).strip()


_ZIP_LONG = re.compile(r"(\d{5})-?\d{4}")
_ZIP_SHORT = re.compile(r"(\d{3,5})(?:\.0+)?")


def zip_name(value: Any) -> str:
    """A ZIP code as it is looked up: ZIP+4 loses its end, lost leading zeros come back."""
    name = _as_name(value).upper()
    if match := _ZIP_LONG.fullmatch(name):
        return match[1]
    if match := _ZIP_SHORT.fullmatch(name):
        return match[1].zfill(5)
    return name


def _part(
    numbered: Iterator[tuple[int, Row | None]],
    config: ReadingConfig,
    hypotheses: dict[str, str] | None,
    *,
    bad: list[tuple[int, str]] | None = None,
) -> Part:
    part = Part(bad=[] if bad is None else bad)
    rows: list[Row] = []
    for ordinal, (number, row) in enumerate(numbered):
        part.num_rows += 1
        part.num_lines = number
        if row is not None:
            rows.append(row)
            part.lines.append(number)
            part.ordinal.append(ordinal)
    for keys in dict.fromkeys(map(tuple, rows)):
        part.columns.update(dict.fromkeys(keys))
    _Filler(part, rows, config, hypotheses).fill()
    return part


class _Filler:
    """Turns the rows of a part into its columns."""

    def __init__(
        self,
        part: Part,
        rows: list[Row],
        config: ReadingConfig,
        hypotheses: dict[str, str] | None,
    ) -> None:
        self.part, self.rows, self.config, self.hypotheses = part, rows, config, hypotheses

    def column(self, name: str) -> list[Any] | None:
        """Values of a field; None where no row has its column."""
        key = self.config.column(name)
        if key not in self.part.columns:
            return None
        return [row.get(key) for row in self.rows]

    def keep(self, mask: list[bool]) -> None:
        """Leave out rows, before any column is made."""
        part = self.part
        self.rows = [row for row, kept in zip(self.rows, mask, strict=True) if kept]
        part.lines = [line for line, kept in zip(part.lines, mask, strict=True) if kept]
        part.ordinal = [at for at, kept in zip(part.ordinal, mask, strict=True) if kept]
        part.ids = [name for name, kept in zip(part.ids, mask, strict=True) if kept]

    def refuse(self, problems: list[str | None]) -> None:
        """Report rows that have a problem as bad, and leave them out."""
        if any(problems):
            lines = self.part.lines
            self.part.bad += [
                (line, problem) for line, problem in zip(lines, problems, strict=True) if problem
            ]
            self.keep([problem is None for problem in problems])

    def leave_out(self, mask: list[bool], reason: str) -> None:
        """Count rows as excluded from everything."""
        if any(mask):
            lines = [line for line, out in zip(self.part.lines, mask, strict=True) if out]
            self.part.exclude(reason, "everything", lines)
            self.keep([not out for out in mask])

    def fill(self) -> None:
        part = self.part
        ids = self.column("id")
        if ids is None:
            part.ids = [""] * len(self.rows)  # the merge names them by line
        else:
            part.ids = [_as_name(value) for value in ids]
            self.refuse([None if name else "it has no id" for name in part.ids])
        speakers = self.column("speaker")
        if speakers is not None:
            self.leave_out([not _as_name(s) for s in speakers], "the speaker is missing")
        ref_column = self.config.column("ref")
        has_texts = ref_column in part.columns or (
            "text" in part.columns and "ref" not in self.config.columns
        )
        if has_texts:
            self._texts("text" if ref_column not in part.columns else ref_column)
        else:
            self._given_counts()
        self._labels()
        self._places()
        audio = self.column("audio")
        if audio is not None:
            part.audio = [value if isinstance(value, str) else "" for value in audio]
        part.embedding = self.column("embedding")
        self.rows = []

    def _texts(self, ref_column: str) -> None:
        part = self.part
        hyp_column = self.config.column("hyp")

        def hypothesis_of() -> list[Any]:
            if self.hypotheses is not None:
                return [self.hypotheses.get(name) for name in part.ids]
            return [row.get(hyp_column) for row in self.rows]

        refs = [row.get(ref_column) for row in self.rows]
        hyps = hypothesis_of()
        self.refuse(
            [
                None
                if (r is None or type(r) is str) and (h is None or type(h) is str)
                else "the reference or the hypothesis is not text"
                for r, h in zip(refs, hyps, strict=True)
            ]
        )
        self.leave_out(
            [row.get(ref_column) is None for row in self.rows], "the reference is missing"
        )
        self.leave_out([h is None for h in hypothesis_of()], "the hypothesis is missing")
        table = WordTable(self.config.text_form, self.config.unit)
        ref, ref_ends = table.encode([row[ref_column] for row in self.rows])
        lengths = np.diff(ref_ends, prepend=0)
        if not lengths.all():
            hyp, _ = table.encode(
                [h for h, n in zip(hypothesis_of(), lengths, strict=True) if n == 0]
            )
            part.words_without_reference += len(hyp)
            self.leave_out([n == 0 for n in lengths.tolist()], "the reference has no words")
            ref_ends = np.cumsum(lengths[lengths > 0])
        hyp, hyp_ends = table.encode(hypothesis_of())
        part.counts, error_row, error_pair = align(ref, ref_ends, hyp, hyp_ends)
        part.texts = Texts(table.words, ref, ref_ends, hyp, hyp_ends, error_row, error_pair)

    def _given_counts(self) -> None:
        """Counts that somebody else's alignment found."""
        given = {name: self.column(name) for name in _COUNT_FIELDS}
        present = {name: values for name, values in given.items() if values is not None}
        kinds = {"substitutions", "deletions", "insertions"}
        if not (kinds <= set(present) and {"words", "hits"} & set(present)) and not {
            "errors",
            "words",
        } <= set(present):
            self.keep([False] * len(self.rows))  # the merge says which columns are missing
            return
        found = [
            _alignment({name: v[at] for name, v in present.items()}) for at in range(len(self.rows))
        ]
        self.refuse([value if isinstance(value, str) else None for value in found])
        counts = [value for value in found if not isinstance(value, str)]
        empty = [sum(count[:3]) == 0 for count in counts]
        self.leave_out(empty, "the reference has no words")
        for count, is_empty in zip(counts, empty, strict=True):
            self.part.words_without_reference += count[3] if is_empty else 0
        kept = [count for count, is_empty in zip(counts, empty, strict=True) if not is_empty]
        self.part.counts = np.array(kept, np.int32).reshape(-1, 4)

    def _labels(self) -> None:
        reserved = {self.config.column(name) for name in FIELDS} | set(self.config.ignore)
        if self.part.texts is not None and self.config.column("ref") not in self.part.columns:
            reserved.add("text")
        wanted = [name for name in self.part.columns if name not in reserved]
        for name in wanted:
            self._label(name, [row.get(name) for row in self.rows])
        speakers = self.column("speaker")
        if speakers is not None:
            self._label("\0speaker", speakers, limit=None)
        zips = self.column("zip")
        if zips is not None:
            self._label("\0zip", [zip_name(value) for value in zips], limit=None)

    def _label(self, name: str, values: list[Any], limit: int | None = _MAX_ENCODED_VALUES) -> None:
        table = _LabelTable()
        try:
            codes = np.array([table[value] for value in values], np.int32)
        except TypeError:
            self.part.not_groups[name] = "it holds lists or objects"
            return
        if limit is not None and len(table.names) > limit:
            self.part.not_groups[name] = f"it has over {limit} values"
            return
        self.part.labels[name] = (codes, table.names)

    def _places(self) -> None:
        part = self.part
        for name, bound in (("lat", 90.0), ("lon", 180.0)):
            values = self.column(name)
            if values is None:
                continue
            missing = [value is None or value == "" for value in values]
            numbers = np.array([_number(value) for value in values], np.float64)
            with np.errstate(invalid="ignore"):
                wrong = ~np.array(missing, bool) & ~(np.abs(numbers) <= bound)
            numbers[wrong] = np.nan
            part.floats[name] = numbers
            lines = [line for line, out in zip(part.lines, wrong.tolist(), strict=True) if out]
            part.exclude(
                f"'{name}' is no number from -{bound:.0f} to {bound:.0f}", "regions", lines
            )
        for name in ("offset", "duration"):
            values = self.column(name)
            if values is not None:
                part.floats[name] = np.array([_number(value) for value in values], np.float64)


def _alignment(given: dict[str, Any]) -> tuple[int, int, int, int] | str:
    """Hits, substitutions, deletions, insertions from given counts, or what is wrong with them."""
    try:
        row = {name: _whole(value) for name, value in given.items()}
    except ValueError as err:
        return f"a count is {err}, no whole number of at least 0"
    if {"substitutions", "deletions", "insertions"} <= set(row):
        sub, dele, ins = row["substitutions"], row["deletions"], row["insertions"]
        hits = row["hits"] if "hits" in row else row["words"] - sub - dele
    else:  # which kinds of errors is not known: as many as can be are called substitutions
        sub, dele = min(row["words"], row["errors"]), 0
        ins, hits = row["errors"] - sub, row["words"] - sub
    if hits < 0 or row.get("words", hits + sub + dele) != hits + sub + dele:
        return "its counts contradict each other"
    if row.get("errors", sub + dele + ins) != sub + dele + ins:
        return "its counts contradict each other"
    return hits, sub, dele, ins


def _number(value: Any) -> float:
    if isinstance(value, bool) or value is None or value == "":
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _whole(value: Any) -> int:
    number = _number(value)
    if not (number >= 0 and number.is_integer() and number < 2**31):
        raise ValueError(f"{value!r}")
    return int(number)


# ---------------------------------------------------------------- parts into one table


def _merged(
    path: Path,
    config: ReadingConfig,
    parts: list[Part],
    embeddings: Path | None,
    hypotheses: dict[str, str] | None,
) -> Results:
    columns = dict.fromkeys(name for part in parts for name in part.columns)
    _require_columns(path, config, list(columns), parts, hypotheses)
    ids: list[str] = []
    lines: list[npt.NDArray[np.int64]] = []
    ordinals: list[npt.NDArray[np.int64]] = []
    bad: list[tuple[int, str]] = []
    excluded: dict[tuple[str, str], list[int]] = {}
    line_offset = row_offset = 0
    for part in parts:
        ids += part.ids
        lines.append(np.array(part.lines, np.int64) + line_offset)
        ordinals.append(np.array(part.ordinal, np.int64) + row_offset)
        bad += [(line + line_offset, problem) for line, problem in part.bad]
        for key, at in part.excluded.items():
            excluded.setdefault(key, []).extend(line + line_offset for line in at)
        line_offset += part.num_lines
        row_offset += part.num_rows
        part.ids, part.lines, part.ordinal = [], [], []
    all_lines = np.concatenate(lines)
    if config.column("id") not in columns:
        ids = [f"line {line}" for line in all_lines.tolist()]
    twice = _later_copies(ids)
    bad += [
        (int(all_lines[at]), f"the id '{ids[at]}' stands on line {int(all_lines[first])} already")
        for at, first in twice.items()
    ]
    if bad and config.bad_rows == "stop":
        raise ResultsError(
            [
                ResultsProblem(
                    f"{path}:{line}",
                    problem,
                    "repair it, or leave such rows out and count them with `--bad-rows skip`",
                )
                for line, problem in sorted(bad)
            ]
        )
    keep = np.ones(len(ids), bool)
    keep[list(twice)] = False
    exclusions = [exclusion(reason, scope, at) for (reason, scope), at in sorted(excluded.items())]
    unreadable = [line for line, problem in bad if "stands on line" not in problem]
    if unreadable:
        exclusions.append(exclusion("the row cannot be read", "everything", unreadable))
    if twice:
        exclusions.append(
            exclusion("the id came before", "everything", [int(all_lines[at]) for at in twice])
        )
    if not keep.any():
        raise cannot_read(
            path,
            f"there is nothing to score among {row_offset} rows"
            + "".join(f"; {e.reason}: {e.count} rows" for e in exclusions),
            "give every row a reference and a hypothesis",
        )
    merged = _Merger(parts, keep, config, columns)
    remarks = []
    outside = sum(part.words_without_reference for part in parts)
    if outside:
        remarks.append(
            f"{outside} words were heard where the reference has none; they are in no figure."
        )
    if hypotheses is not None:
        known = set(ids)
        unused = sum(name not in known for name in hypotheses)
        if unused:
            remarks.append(f"{unused} hypotheses belong to no row that was scored.")
    if config.column("id") not in columns:
        remarks.append("There is no column of ids; rows are named by their line.")
    has_texts = any(part.texts is not None for part in parts)
    if not has_texts and "substitutions" not in columns:
        remarks.append("Only totals were given: kinds of errors are not known.")
    groups, left_out = merged.groups()
    return Results(
        source=str(path),
        lines=all_lines[keep],
        ids=ids if keep.all() else [name for name, kept in zip(ids, keep, strict=True) if kept],
        counts=merged.counts(),
        speakers=merged.labels("\0speaker"),
        groups=groups,
        lat=merged.floats("lat"),
        lon=merged.floats("lon"),
        zips=merged.labels("\0zip"),
        embeddings=_embeddings(path, parts, keep, np.concatenate(ordinals), row_offset, embeddings),
        audio=merged.audio(),
        offset_s=merged.floats("offset"),
        duration_s=merged.floats("duration"),
        texts=merged.texts() if has_texts else None,
        text_form=describe_text(config.text_form, config.unit)
        if has_texts
        else "counted by the recogniser's owner; texts were not given",
        num_rows=row_offset,
        exclusions=tuple(exclusions),
        left_out_columns=left_out,
        remarks=tuple(remarks),
    )


def _require_columns(
    path: Path,
    config: ReadingConfig,
    columns: list[str],
    parts: list[Part],
    hypotheses: dict[str, str] | None,
) -> None:
    for name, column in config.columns.items():
        if column not in columns:
            near = difflib.get_close_matches(column, columns, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ConfigError(
                f"{path}: there is no column '{column}' for '{name}'; there are "
                f"{', '.join(columns) or 'none'}.{hint}"
            )
    has_ref = config.column("ref") in columns or "text" in columns
    has_hyp = config.column("hyp") in columns or hypotheses is not None
    counted = {"errors", "words"} <= {n for n in _COUNT_FIELDS if config.column(n) in columns}
    detailed = {"substitutions", "deletions", "insertions"} <= {
        n for n in _COUNT_FIELDS if config.column(n) in columns
    }
    if (has_ref and has_hyp) or (not has_ref and (counted or detailed)):
        return
    if not columns and any(part.bad for part in parts):
        return  # no row could be read: the rows themselves are the problem
    lacking = "ref" if not has_ref else "hyp"
    guess = next((other for other in _OTHER_NAMES[lacking] if other in columns), None)
    remedy = f"map it with `--map {lacking}={guess or 'COLUMN'}`"
    if lacking == "hyp":
        remedy += " or give the hypotheses with `--hyp FILE`"
    raise cannot_read(
        path, f"there is no column '{lacking}'; there are {', '.join(columns) or 'none'}", remedy
    )


def _later_copies(ids: list[str]) -> dict[int, int]:
    """Rows whose id came before: row to first row of that id."""
    if len(set(ids)) == len(ids):
        return {}
    first: dict[str, int] = {}
    return {at: first[name] for at, name in enumerate(ids) if first.setdefault(name, at) != at}


class _Merger:
    """Puts the columns of parts one after the other, without the rows that go."""

    def __init__(
        self, parts: list[Part], keep: Bools, config: ReadingConfig, columns: dict[str, None]
    ) -> None:
        self.parts, self.keep, self.config, self.columns = parts, keep, config, columns
        self.sizes = [len(part.counts) for part in parts]

    def counts(self) -> npt.NDArray[np.int32]:
        return np.concatenate([part.counts for part in self.parts])[self.keep]

    def floats(self, name: str) -> npt.NDArray[np.float64] | None:
        if not any(name in part.floats for part in self.parts):
            return None
        pieces = [
            part.floats.pop(name, np.full(size, np.nan))
            for part, size in zip(self.parts, self.sizes, strict=True)
        ]
        return np.concatenate(pieces)[self.keep]

    def audio(self) -> list[str] | None:
        if not any(part.audio for part in self.parts):
            return None
        every = [
            name
            for part, size in zip(self.parts, self.sizes, strict=True)
            for name in (part.audio or [""] * size)
        ]
        return every if self.keep.all() else [n for n, k in zip(every, self.keep, strict=True) if k]

    def labels(self, name: str) -> Labels | None:
        if not any(name in part.labels for part in self.parts):
            return None
        table: dict[str, int] = {}
        pieces = []
        for part, size in zip(self.parts, self.sizes, strict=True):
            codes, names = part.labels.pop(name, (np.full(size, -1, np.int32), []))
            mapping = np.array([table.setdefault(n, len(table)) for n in names] + [-1], np.int32)
            pieces.append(mapping[codes])
        codes = np.concatenate(pieces)[self.keep]
        return _compact(codes, list(table))

    def groups(self) -> tuple[dict[str, Labels], dict[str, str]]:
        left_out = {name: why for part in self.parts for name, why in part.not_groups.items()}
        left_out |= {
            name: "ignored as asked" for name in self.config.ignore if name in self.columns
        }
        found = {}
        names = dict.fromkeys(n for part in self.parts for n in part.labels)
        for name in names:
            if name.startswith("\0") or name in left_out:
                continue
            labels = self.labels(name)
            if labels is None or not labels.names:
                left_out[name] = "it has no values"
                continue
            labels = banded(labels)
            if len(labels.names) == 1:
                left_out[name] = f"it has one value only, '{labels.names[0]}'"
            elif len(labels.names) > MAX_GROUP_VALUES:
                left_out[name] = f"it has {len(labels.names)} values"
            else:
                found[name] = labels
        return found, left_out

    def texts(self) -> Texts:
        """All texts in one table; rows that go lose their words too."""
        table: dict[str, int] = {}
        refs, hyps, pairs, rows = [], [], [], []
        ref_lengths, hyp_lengths = [], []
        offset = 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            if part.texts is None:
                ref_lengths.append(np.zeros(size, np.int64))
                hyp_lengths.append(np.zeros(size, np.int64))
                offset += size
                continue
            t = part.texts
            part.texts = None
            mapping = np.array([table.setdefault(w, len(table)) for w in t.words] + [-1], np.int32)
            refs.append(mapping[t.ref])
            hyps.append(mapping[t.hyp])
            pairs.append(mapping[t.error_pair])
            rows.append(t.error_row.astype(np.int64) + offset)
            ref_lengths.append(np.diff(t.ref_ends, prepend=0))
            hyp_lengths.append(np.diff(t.hyp_ends, prepend=0))
            offset += size
        ref, hyp = np.concatenate(refs), np.concatenate(hyps)
        error_row, error_pair = np.concatenate(rows), np.concatenate(pairs)
        ref_length, hyp_length = np.concatenate(ref_lengths), np.concatenate(hyp_lengths)
        if not self.keep.all():
            ref = ref[np.repeat(self.keep, ref_length)]
            hyp = hyp[np.repeat(self.keep, hyp_length)]
            kept = self.keep[error_row]
            new_row = np.cumsum(self.keep) - 1
            error_row, error_pair = new_row[error_row[kept]], error_pair[kept]
            ref_length, hyp_length = ref_length[self.keep], hyp_length[self.keep]
        return Texts(
            list(table),
            ref,
            np.cumsum(ref_length),
            hyp,
            np.cumsum(hyp_length),
            error_row.astype(np.int32),
            error_pair,
        )


def _compact(codes: npt.NDArray[np.int32], names: list[str]) -> Labels:
    """Without names that no row has."""
    used = np.zeros(len(names) + 1, bool)
    used[codes] = True
    used = used[:-1]
    if used.all():
        return Labels(codes, names)
    mapping = np.append(np.cumsum(used) - 1, -1).astype(np.int32)
    return Labels(mapping[codes], [name for name, kept in zip(names, used, strict=True) if kept])


def _embeddings(
    path: Path,
    parts: list[Part],
    keep: Bools,
    ordinals: npt.NDArray[np.int64],
    num_rows: int,
    file: Path | None,
) -> Embeddings | None:
    values: list[Any] = []
    has_column = any(part.embedding is not None for part in parts)
    for part in parts:
        values += part.embedding if part.embedding is not None else [None] * len(part.counts)
        part.embedding = None
    if file is None and not has_column:
        return None
    if file is not None:
        vectors = load_vectors(file)
        if not has_column:
            if len(vectors) != num_rows:
                raise cannot_read(
                    file,
                    f"it has {len(vectors)} vectors for {num_rows} rows of {path}",
                    "give one for each row in order, or name rows in a column `embedding`",
                )
            return Embeddings(ordinals[keep], vectors, str(file))
        index = np.full(len(values), -1, np.int64)
        for at, value in enumerate(values):
            if value is None or value == "":
                continue
            number = _number(value) if not isinstance(value, list) else math.nan
            if not (0 <= number < len(vectors)) or not number.is_integer():
                raise cannot_read(
                    path,
                    f"embedding {value!r} is no row of {file}, which has {len(vectors)}",
                    "count rows from 0",
                )
            index[at] = int(number)
        return Embeddings(index[keep], vectors, str(file))
    return _own_embeddings(path, values, keep)


def _own_embeddings(path: Path, values: list[Any], keep: Bools) -> Embeddings | None:
    """Vectors in the rows themselves, or paths of `.npy` files with one vector each."""
    found: list[npt.NDArray[np.float32]] = []
    index = np.full(len(values), -1, np.int64)
    for at, value in enumerate(values):
        if value is None or value == "" or not keep[at]:
            continue
        if isinstance(value, str) and value.endswith(".npy"):
            vector = np.asarray(load_vectors(path.parent / value), np.float32).reshape(-1)
        else:
            try:
                vector = np.array(
                    json.loads(value) if isinstance(value, str) else value, np.float32
                )
            except (ValueError, TypeError):
                vector = np.empty(0, np.float32)
        if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
            raise cannot_read(
                path,
                f"an embedding is {str(value)[:40]!r}",
                "it must be a list of finite numbers or the path of a .npy file; "
                "numbers of rows need `--embeddings FILE.npy`",
            )
        if found and len(vector) != len(found[0]):
            raise cannot_read(
                path,
                f"embeddings have {len(found[0])} and {len(vector)} numbers",
                "all must be as long",
            )
        index[at] = len(found)
        found.append(vector)
    if not found:
        return None
    return Embeddings(index[keep], np.stack(found), f"column of {path}")


def load_vectors(path: Path) -> npt.NDArray[np.floating]:
    """A memory map of the numbers in a `.npy` file.

    Raises:
        ResultsError: The file is absent, no `.npy`, or holds no floats.
    """
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise cannot_read(path, "there is no such file", "check the path") from None
    except (OSError, ValueError, EOFError) as err:
        raise cannot_read(path, f"it is no .npy file ({err})", "save it with numpy.save") from None
    if not isinstance(vectors, np.ndarray) or vectors.dtype.kind != "f" or vectors.ndim > 2:
        raise cannot_read(path, "it holds no table of floats", "save an array of shape (rows, D)")
    return vectors


__all__ = [
    "FIELDS",
    "Exclusion",
    "Part",
    "ReadingConfig",
    "read_hypotheses",
    "read_results",
    "read_stretch",
    "zip_name",
]
