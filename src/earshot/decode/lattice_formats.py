"""Lattices in files: HTK's SLF, Kaldi's text, JSON, and the wire's protobuf.

Seconds and costs are met here only: inside, lattices have frames and natural logs. Reading takes
what other tools write too: words on nodes, empty arcs, any order of states, several ends.
Knows nothing of where bytes come from or go.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from earshot.core.errors import ConfigError, LatticeError
from earshot.core.features import ENCODER_CLOCK
from earshot.decode.lattice import NOTHING, Arc, Lattice, assembled, from_arcs, from_json, to_json

__all__ = [
    "MAX_FILE_BYTES",
    "LatticeFormat",
    "format_of",
    "parse_lattice",
    "read_lattice",
    "render_lattice",
    "state_frames",
]

MAX_FILE_BYTES = 64 << 20
_NULL = "!NULL"  # HTK's word that says nothing
_EPSILON = "<eps>"  # Kaldi's
_SILENT, _SPOKEN = "1", "2"  # our ids of frames in a Kaldi lattice
_MAX_FRAME = 1 << 28


class LatticeFormat(StrEnum):
    """How a lattice is written down."""

    SLF = "slf"  # HTK standard lattice format
    KALDI = "kaldi"  # compact lattice as text, words as themselves
    JSON = "json"
    PROTOBUF = "pb"  # as on the wire: quantised


_ENDINGS = {
    ".slf": LatticeFormat.SLF,
    ".htk": LatticeFormat.SLF,
    ".lat": LatticeFormat.KALDI,
    ".kaldi": LatticeFormat.KALDI,
    ".txt": LatticeFormat.KALDI,
    ".json": LatticeFormat.JSON,
    ".pb": LatticeFormat.PROTOBUF,
}


def format_of(path: str | Path) -> LatticeFormat:
    """The format that a file's name ends in.

    Raises:
        ConfigError: It ends in something else.
    """
    ending = Path(path).suffix.lower()
    if ending not in _ENDINGS:
        raise ConfigError(
            f"{path}: the ending '{ending}' names no lattice format; it must be one of "
            f"{', '.join(_ENDINGS)}. Rename the file or use `--lattice-format`."
        )
    return _ENDINGS[ending]


def render_lattice(lattice: Lattice, form: LatticeFormat, *, utterance: str) -> bytes:
    """Write a lattice down.

    Args:
        lattice: A lattice.
        form: How.
        utterance: Its name, for formats that have one; white space in it becomes `_`.

    Returns:
        What a file holds.

    Raises:
        LatticeError: A word cannot be written in this format.
    """
    name = "_".join(utterance.split()) or "-"
    if form is LatticeFormat.SLF:
        return _slf(lattice, name).encode()
    if form is LatticeFormat.KALDI:
        return _kaldi(lattice, name).encode()
    if form is LatticeFormat.JSON:
        value = {"utterance": utterance, **to_json(lattice)}
        return (json.dumps(value, ensure_ascii=False) + "\n").encode()
    from earshot.decode.lattice_wire import encode_lattice

    return encode_lattice(lattice)


def parse_lattice(data: bytes, form: LatticeFormat, *, where: str = "lattice") -> Lattice:
    """Read a lattice from the bytes of a file.

    Args:
        data: The bytes; of several Kaldi lattices the first is read.
        form: How they are written.
        where: Names them in errors.

    Raises:
        LatticeError: They hold no lattice in this format.
    """
    if len(data) > MAX_FILE_BYTES:
        raise LatticeError(
            where, f"it has {len(data)} bytes; at most {MAX_FILE_BYTES} are read", remedy="Prune it"
        )
    if form is LatticeFormat.PROTOBUF:
        from earshot.decode.lattice_wire import decode_lattice

        return decode_lattice(data, where=where)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise LatticeError(
            where, f"byte {err.start} is no UTF-8 text", remedy=f"Is it {form.value}?"
        ) from None
    if form is LatticeFormat.SLF:
        return _SlfReader(text, where).lattice()
    if form is LatticeFormat.KALDI:
        return _read_kaldi(text, where)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as err:
        line = f" in line {err.lineno}" if isinstance(err, json.JSONDecodeError) else ""
        raise LatticeError(where, f"it is no JSON{line}", remedy="Write it again") from None
    return from_json(value, where=where)


def read_lattice(path: str | Path, form: LatticeFormat | None = None) -> Lattice:
    """Read a lattice file.

    Args:
        path: The file.
        form: How it is written; None goes by its ending.

    Raises:
        LatticeError: It cannot be read, or holds no lattice in this format.
        ConfigError: Its ending names no format.
    """
    form = format_of(path) if form is None else form
    try:
        if Path(path).stat().st_size > MAX_FILE_BYTES:
            raise LatticeError(path, "it is larger than any lattice", remedy="Prune it")
        data = Path(path).read_bytes()
    except OSError as err:
        raise LatticeError(
            path, f"it cannot be read ({err.strerror})", remedy="Check the name"
        ) from None
    return parse_lattice(data, form, where=str(path))


def state_frames(lattice: Lattice) -> list[int]:
    """When each state is passed: the first frame of what leaves it, and of what leads on.

    Returns:
        S frames that do not fall along arcs; 0 for the first state, and for the last the end of
        the last word.
    """
    frames = [_MAX_FRAME] * lattice.num_states
    for state, start in zip(lattice.src.tolist(), lattice.start_frame.tolist(), strict=True):
        frames[state] = min(frames[state], start)
    frames[0] = 0
    frames[-1] = lattice.num_frames
    for src, dst in zip(lattice.src.tolist(), lattice.dst.tolist(), strict=True):
        frames[dst] = max(frames[dst], frames[src])
    return frames


def _number(value: float) -> str:
    return f"{value:.9g}"  # exact for float32


# --- HTK SLF --------------------------------------------------------------------------------


def _slf(lattice: Lattice, utterance: str) -> str:
    frames = state_frames(lattice)
    lines = [
        "VERSION=1.0",
        f"UTTERANCE={utterance}",
        "acscale=1.0",
        "lmscale=1.0",
        "wdpenalty=0.0",
        f"start=0 end={lattice.num_states - 1}",
        f"N={lattice.num_states} L={lattice.num_arcs}",
    ]
    lines += [f"I={i} t={_seconds(frame)}" for i, frame in enumerate(frames)]
    for arc in range(lattice.num_arcs):
        src, word = int(lattice.src[arc]), lattice.word_at(arc)
        if word in (_NULL, _EPSILON):
            raise _unwritable(word, "SLF")
        start, end = int(lattice.start_frame[arc]), int(lattice.end_frame[arc])
        gap, length = max(0, start - frames[src]), end - start
        lines.append(
            f"J={arc} S={src} E={lattice.dst[arc]} W={_quoted(word) if word else _NULL} "
            f"a={_number(lattice.acoustic[arc])} l={_number(lattice.prior[arc])} "
            f"d=:sil,{_seconds(gap)}:word,{_seconds(length)}:"
        )
    return "\n".join([*lines, ""])


def _unwritable(word: str, form: str) -> LatticeError:
    return LatticeError(
        "lattice", f"the word {word!r} means something else in {form}", remedy="Write JSON instead"
    )


def _seconds(frame: int) -> str:
    return f"{ENCODER_CLOCK.start_s(frame):.2f}"


def _frames(seconds: float) -> int:
    return round(seconds / ENCODER_CLOCK.start_s(1))


def _quoted(word: str) -> str:
    if re.fullmatch(r"[^\s\"'\\=]+", word):
        return word
    return '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'


# A field: name=value, the value in quotes where it must be.
_FIELD = re.compile(r"""([^\s=]+)=(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|(\S*))\s*""")


class _SlfReader:
    """One SLF file; links and nodes by their numbers."""

    def __init__(self, text: str, where: str) -> None:
        self._where = where
        self._header: dict[str, str] = {}
        self._times: dict[int, int] = {}
        self._node_words: dict[int, str] = {}
        self._links: list[tuple[int, dict[str, str]]] = []  # with their line
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                self._take(number, self._fields(number, line.strip()))

    def _problem(self, line: int, problem: str) -> LatticeError:
        where = f"{self._where}:{line}" if line else self._where
        return LatticeError(where, problem, remedy="Write the lattice again as HTK SLF")

    def _fields(self, number: int, line: str) -> dict[str, str]:
        fields, at = {}, 0
        while at < len(line):
            found = _FIELD.match(line, at)
            if found is None:
                raise self._problem(number, f"'{line[at : at + 20]}' is no field name=value")
            name, double, single, plain = found.groups()
            quoted = double if double is not None else single
            fields[name] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            at = found.end()
        return fields

    def _take(self, number: int, fields: dict[str, str]) -> None:
        node = fields.get("I")
        if node is not None:
            if "L" in fields:
                raise self._problem(number, "it has a lattice within, which is not read")
            index = self._whole(number, node)
            if index in self._times:
                raise self._problem(number, f"node {index} is there twice")
            seconds = self._real(number, fields.get("t", fields.get("time", "0")))
            frame = _frames(seconds) if 0 <= seconds < 1e7 else -1
            if not 0 <= frame < _MAX_FRAME:
                raise self._problem(number, f"node {index} is at {seconds} s")
            self._times[index] = frame
            word = fields.get("W", fields.get("WORD"))
            if word is not None:
                self._node_words[index] = word
        elif "J" in fields:
            self._links.append((number, fields))
        else:
            self._header.update(fields)

    def _whole(self, line: int, text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise self._problem(line, f"'{text[:20]}' is no number of a node or link")
        return int(text)

    def _real(self, line: int, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._problem(line, f"'{text[:20]}' is no number")
        return value

    def _scale(self, name: str, default: float) -> float:
        return self._real(0, self._header[name]) if name in self._header else default

    def lattice(self) -> Lattice:
        for name, count in (("N", len(self._times)), ("L", len(self._links))):
            said = self._header.get(name, self._header.get({"N": "NODES", "L": "LINKS"}[name]))
            if said is None or self._whole(0, said) != count:
                raise self._problem(0, f"it says {name}={said} and has {count}")
        base = self._scale("base", math.e)
        if not base > 1:
            raise self._problem(0, f"its logarithms have base {base}; it must be above 1")
        unit = math.log(base)
        acoustic, prior = self._scale("acscale", 1.0), self._scale("lmscale", 1.0)
        penalty = self._scale("wdpenalty", 0.0)
        arcs = []
        for line, fields in self._links:
            src, dst = (
                self._whole(line, fields.get(short, fields.get(long, "")))
                for short, long in (("S", "START"), ("E", "END"))
            )
            for node in (src, dst):
                if node not in self._times:
                    raise self._problem(line, f"there is no node {node}")
            word = fields.get("W", fields.get("WORD", self._node_words.get(dst, _NULL)))
            word = NOTHING if word in (_NULL, _EPSILON) else " ".join(word.split())
            a = acoustic * unit * self._real(line, fields.get("a", fields.get("acoustic", "0")))
            p = prior * unit * self._real(line, fields.get("l", fields.get("language", "0")))
            if word != NOTHING:
                p += penalty * unit
            start, end = self._span(line, fields, src, dst)
            arcs.append(Arc(src, dst, word, start, end, a, p))
        enters, leaves = {arc.dst for arc in arcs}, {arc.src for arc in arcs}
        start = self._end_node("start", set(self._times) - enters)
        end = self._end_node("end", set(self._times) - leaves)
        return _lattice(arcs, start=start, finals={end: 0.0}, where=self._where)

    def _span(self, line: int, fields: dict[str, str], src: int, dst: int) -> tuple[int, int]:
        """The link's own times, as we write them; else those of its nodes."""
        start, end = self._times[src], max(self._times[src], self._times[dst])
        parts = [part.split(",") for part in fields.get("d", "").split(":") if part]
        if [part[0] for part in parts] == ["sil", "word"] and all(len(part) == 2 for part in parts):
            gap, length = (_frames(self._real(line, part[1])) for part in parts)
            if not (0 <= gap < _MAX_FRAME and 0 <= length < _MAX_FRAME):
                raise self._problem(line, "its alignment is no time")
            start += gap
            end = start + length
        return start, end

    def _end_node(self, name: str, candidates: set[int]) -> int:
        if name in self._header:
            return self._whole(0, self._header[name])
        if len(candidates) != 1:
            raise self._problem(0, f"{len(candidates)} nodes could be its {name}; say {name}=")
        return candidates.pop()


# --- Kaldi ----------------------------------------------------------------------------------


def _kaldi(lattice: Lattice, utterance: str) -> str:
    """A compact lattice: costs, and one id a frame: 1 is silence, 2 the word."""
    frames = state_frames(lattice)
    lines = [utterance]
    for arc in range(lattice.num_arcs):
        src, dst, word = int(lattice.src[arc]), int(lattice.dst[arc]), lattice.word_at(arc)
        if word in (_NULL, _EPSILON, "0") or " " in word:
            raise _unwritable(word, "a Kaldi lattice")
        length = frames[dst] - frames[src]
        start = min(max(0, int(lattice.start_frame[arc]) - frames[src]), length)
        end = min(max(start, int(lattice.end_frame[arc]) - frames[src]), length)
        ids = [_SILENT] * start + [_SPOKEN] * (end - start) + [_SILENT] * (length - end)
        lines.append(
            f"{src} {dst} {word or _EPSILON} "
            f"{_number(-lattice.prior[arc])},{_number(-lattice.acoustic[arc])},{'_'.join(ids)}"
        )
    return "\n".join([*lines, str(lattice.num_states - 1), "", ""])


def _read_kaldi(text: str, where: str) -> Lattice:
    def problem(line: int, what: str) -> LatticeError:
        return LatticeError(
            f"{where}:{line}", what, remedy="Write it with `lattice-copy ark:- ark,t:-`"
        )

    def state(line: int, field: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", field):
            raise problem(line, f"'{field[:20]}' is no state")
        return int(field)

    def weight(line: int, field: str) -> tuple[float, float, list[str]]:
        parts = field.split(",")
        try:
            graph, acoustic = (float(part) for part in parts[:2])
        except ValueError:
            graph = acoustic = math.nan
        if len(parts) > 3 or not (math.isfinite(graph) and math.isfinite(acoustic)):
            raise problem(line, f"'{field[:20]}' is no pair of costs")
        ids = parts[2].split("_") if len(parts) > 2 and parts[2] else []
        return -graph, -acoustic, ids

    lines = text.splitlines()
    at = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    # The first line is a name, unless the lattice comes without one.
    if at < len(lines) and len(lines[at].split()) == 1 and at + 1 < len(lines):
        at += 1
    rows: list[tuple[int, int, str, float, float, list[str]]] = []
    finals: dict[int, float] = {}
    for number in range(at, len(lines)):
        fields = lines[number].split()
        line = number + 1
        if not fields:
            break
        if len(fields) in (3, 4):
            prior, acoustic, ids = weight(line, fields[3]) if len(fields) == 4 else (0.0, 0.0, [])
            src, dst = state(line, fields[0]), state(line, fields[1])
            rows.append((src, dst, fields[2], acoustic, prior, ids))
        elif len(fields) in (1, 2):
            prior, acoustic, _ = weight(line, fields[1]) if len(fields) == 2 else (0.0, 0.0, [])
            finals[state(line, fields[0])] = acoustic + prior
        else:
            raise problem(line, f"{len(fields)} fields; an arc has 3 or 4, an end 1 or 2")
    if not rows:
        raise problem(at + 1, "there is no arc")
    start = rows[0][0]
    times = {start: 0}
    arcs = []
    ours = {_SILENT, _SPOKEN}
    for src, dst, word, acoustic, prior, ids in sorted(rows, key=lambda row: row[0]):
        begin = times.setdefault(src, 0)
        times.setdefault(dst, begin + len(ids))
        first, last = begin, begin + len(ids)
        if ours.issuperset(ids):
            first += ids.index(_SPOKEN) if _SPOKEN in ids else 0
            last = begin + len(ids) - ids[::-1].index(_SPOKEN) if _SPOKEN in ids else first
        said = NOTHING if word in (_EPSILON, "0") else word
        arcs.append(Arc(src, dst, said, first, last, acoustic, prior))
    return _lattice(arcs, start=start, finals=finals, where=where)


def _lattice(arcs: Sequence[Arc], *, start: int, finals: dict[int, float], where: str) -> Lattice:
    """The lattice of these arcs, with their states as numbered where that will do."""
    last = max((arc.dst for arc in arcs), default=0)
    if start == 0 and finals == {last: 0.0} and all(arc.src < arc.dst for arc in arcs):
        try:
            return from_arcs(arcs)
        except LatticeError:
            pass  # states that lie on no path, or empty arcs within
    return assembled(arcs, start=start, finals=finals, where=where)
