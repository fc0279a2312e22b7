"""Results of a recogniser as columns: what was counted in each utterance, and what is known of it.

Holds numbers and short tables of names, never a dictionary a row: a million utterances must fit
a laptop. Every row of the file is either here or in `exclusions`, with its line. Knows nothing
of files; `audit.reading` makes this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from earshot.audit.tokens import Int32s, Int64s, Texts

SHOWN_ROWS = 20  # line numbers kept of each kind of problem; the count is always exact
MAX_BANDED_VALUES = 10  # numeric columns with more values than this become bands

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Labels:
    """A column of names.

    Args:
        codes: (N,) index into `names`; -1 where the value is missing.
        names: The values, in order of appearance or of size.
    """

    codes: Int32s
    names: list[str]


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Rows that something was not measured on.

    Args:
        reason: Why, as a phrase: "the reference is empty".
        scope: What they are left out of: "everything", "regions" and so on.
        count: How many rows.
        lines: Numbers of the first of them, in the file; 1 is the first line.
    """

    reason: str
    scope: str
    count: int
    lines: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        """As in the report."""
        return {
            "reason": self.reason,
            "scope": self.scope,
            "count": self.count,
            "lines": list(self.lines),
        }


def exclusion(reason: str, scope: str, lines: Iterable[int]) -> Exclusion:
    """An exclusion of all given lines, of which the first are kept."""
    every = sorted(lines)
    return Exclusion(reason, scope, len(every), tuple(every[:SHOWN_ROWS]))


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Where the voice of each utterance is found.

    Args:
        index: (N,) row of `vectors`; -1 where there is none.
        vectors: (R, D) any float type, may be a memory map.
        source: For the report.
    """

    index: Int64s
    vectors: npt.NDArray[np.floating]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """N utterances with their counts.

    Args:
        source: The file, as it was named.
        lines: (N,) number of the line each utterance stands on, from 1.
        ids: N names.
        counts: (N, 4) hits, substitutions, deletions, insertions.
        speakers: Who spoke; None where the file does not say.
        groups: Further columns, by name.
        lat: (N,) degrees north, nan where unknown; None without the column.
        lon: (N,) degrees east, likewise.
        zips: ZIP codes.
        embeddings: Voices.
        audio: N paths, "" where there is none; None without the column.
        offset_s: (N,) where the utterance starts in its file.
        duration_s: (N,) how long it is; nan where unknown.
        texts: Words; None where the file held only counts.
        text_form: What was done to texts before they were compared.
        num_rows: Rows of the file, whether kept or not.
        exclusions: What was left out of what, and why.
        left_out_columns: Columns that are no groups, with the reason.
        remarks: What else the reader of a report must know.
    """

    source: str
    lines: Int64s
    ids: Sequence[str]
    counts: Int32s
    speakers: Labels | None
    groups: Mapping[str, Labels] = field(default_factory=dict)
    lat: Floats | None = None
    lon: Floats | None = None
    zips: Labels | None = None
    embeddings: Embeddings | None = None
    audio: Sequence[str] | None = None
    offset_s: Floats | None = None
    duration_s: Floats | None = None
    texts: Texts | None = None
    text_form: str = ""
    num_rows: int = 0
    exclusions: tuple[Exclusion, ...] = ()
    left_out_columns: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def words(self) -> Int64s:
        """(N,) reference words."""
        return np.asarray(self.counts[:, :3].sum(axis=1, dtype=np.int64))

    @property
    def errors(self) -> Int64s:
        """(N,) substitutions, deletions and insertions."""
        return np.asarray(self.counts[:, 1:].sum(axis=1, dtype=np.int64))

    @property
    def unit(self) -> str:
        """What is resampled: "speaker", or "utterance" where speakers are unknown."""
        return "utterance" if self.speakers is None else "speaker"

    @property
    def unit_codes(self) -> Int64s:
        """(N,) number of the speaker of each utterance, or of the utterance itself."""
        if self.speakers is None:
            return np.arange(len(self), dtype=np.int64)
        return self.speakers.codes.astype(np.int64)

    @property
    def num_units(self) -> int:
        """How many speakers (or utterances) there are."""
        return len(self) if self.speakers is None else len(self.speakers.names)


@dataclass(frozen=True, slots=True)
class Cells:
    """Sums over all utterances that agree in a speaker and in other codes: counts come first.

    Args:
        unit: (M,) speaker of each cell.
        codes: (K, M) the other codes of each cell.
        counts: (M, 4) summed hits, substitutions, deletions and insertions.
        utterances: (M,) how many were summed.
        of_row: (N,) cell of every utterance.
    """

    unit: Int64s
    codes: Int64s
    counts: Int64s
    utterances: Int64s
    of_row: Int64s

    @property
    def words(self) -> Floats:
        """(M,) reference words."""
        return np.asarray(self.counts[:, :3].sum(axis=1), np.float64)

    @property
    def errors(self) -> Floats:
        """(M,) word errors."""
        return np.asarray(self.counts[:, 1:].sum(axis=1), np.float64)


def cells(results: Results, columns: Sequence[npt.NDArray[np.integer]]) -> Cells:
    """Sum utterances by speaker and columns of codes.

    Args:
        results: N utterances.
        columns: K arrays of (N,) codes of at least -1.

    Returns:
        The cells, ordered by speaker.
    """
    key = results.unit_codes
    first: Int64s | None = None
    for column in columns:
        key, first = _joined(key, column)
    if first is None:
        _, first, key = np.unique(key, return_index=True, return_inverse=True)
    size = len(first)
    counts = np.empty((size, 4), np.int64)
    for kind in range(4):
        counts[:, kind] = np.bincount(key, weights=results.counts[:, kind], minlength=size)
    return Cells(
        results.unit_codes[first],
        np.stack([column[first] for column in columns]).astype(np.int64)
        if columns
        else np.empty((0, size), np.int64),
        counts,
        np.bincount(key, minlength=size),
        key,
    )


def _joined(key: Int64s, column: npt.NDArray[np.integer]) -> tuple[Int64s, Int64s]:
    """Number the pairs of a key and a code; with the first row of each pair."""
    width = int(column.max(initial=-1)) + 2
    both = key * width + (column.astype(np.int64) + 1)
    _, first, inverse = np.unique(both, return_index=True, return_inverse=True)
    return inverse.astype(np.int64), first.astype(np.int64)


def banded(labels: Labels) -> Labels:
    """Bands of a column that holds more than a few numbers, cut at quartiles of its rows.

    Args:
        labels: Any column.

    Returns:
        Up to four bands named "low to high", or the column itself where it has few values or
        one that is no finite number.
    """
    if len(labels.names) <= MAX_BANDED_VALUES:
        return labels
    try:
        numbers = np.array([float(name) for name in labels.names])
    except ValueError:
        return labels
    known = labels.codes >= 0
    if not np.isfinite(numbers).all() or not known.any():
        return labels
    values = numbers[labels.codes[known]]
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf"))
    band_of_value = np.searchsorted(edges, numbers, side="left")
    used, band_of_value = np.unique(band_of_value, return_inverse=True)
    codes = np.full(len(labels.codes), -1, np.int32)
    codes[known] = band_of_value[labels.codes[known]]
    names = []
    for band in range(len(used)):
        inside = numbers[band_of_value == band]
        names.append(f"{inside.min():g} to {inside.max():g}")
    return Labels(codes, names)
