"""Rows of a file with their line numbers: JSON lines, CSV, JSON lists, Kaldi folders.

A line that cannot be read is reported and costs no other line. Knows nothing of what columns
mean.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from earshot.core.errors import ResultsError, ResultsProblem
from earshot.core.utterance import Utterance

Row = dict[str, Any]


def opened(path: Path) -> Any:
    """A file of bytes, unpacked where its name ends in .gz."""
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    except FileNotFoundError:
        raise cannot_read(path, "there is no such file", "check the path") from None
    except OSError as err:
        raise cannot_read(path, f"it cannot be read ({err})", "check the file") from None


def head_of(path: Path) -> bytes:
    """The first 64 KiB of a file that is not empty."""
    try:
        with opened(path) as file:
            head: bytes = file.read(1 << 16)
    except (OSError, EOFError) as err:
        raise cannot_read(path, f"it cannot be read ({err})", "check the file") from None
    if not head.strip():
        raise cannot_read(path, "it is empty", "write one result a line")
    return head


def kind_of(path: Path, head: bytes) -> str:
    """One of "csv", "json" (a list), "lhotse" and "jsonl"."""
    name = path.name.removesuffix(".gz")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if name.endswith((".csv", ".tsv", ".txt")):
        return "csv"
    if text.startswith(b"["):
        return "json"
    if not text.startswith(b"{") and not name.endswith((".jsonl", ".json", ".ndjson")):
        return "csv"
    try:
        first = json.loads(text.split(b"\n", 1)[0])
    except ValueError:
        return "jsonl"
    if isinstance(first, dict) and (
        "recording_id" in first or {"recording", "start"} <= set(first)
    ):
        return "lhotse"
    return "jsonl"


def cannot_read(where: Path | str, problem: str, remedy: str) -> ResultsError:
    """One problem as an error."""
    return ResultsError([ResultsProblem(os.fspath(where), problem, remedy)])


def json_rows(lines: list[bytes], bad: list[tuple[int, str]]) -> Iterator[tuple[int, Row | None]]:
    """Objects by line number; None for a line that `bad` says is none."""
    loads = json.loads
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if not text.strip():
                continue
            row = loads(text)
        except UnicodeDecodeError as err:
            bad.append((number, f"it is not UTF-8 (byte {err.start + 1})"))
            yield number, None
            continue
        except (ValueError, RecursionError) as err:
            bad.append((number, f"it is not JSON ({err})"))
            yield number, None
            continue
        if type(row) is not dict:
            bad.append((number, f"it is a {type(row).__name__}, not an object"))
            yield number, None
            continue
        yield number, row


def json_list(path: Path) -> Iterator[tuple[int, Row | None]]:
    """Objects of a JSON list, numbered from 1."""
    with opened(path) as file:
        try:
            rows = json.load(file)
        except (ValueError, RecursionError) as err:
            raise cannot_read(
                path, f"it is not JSON ({err})", "write one JSON object a line"
            ) from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise cannot_read(
                f"{path}, item {number}", f"it is a {type(row).__name__}", "it must be an object"
            )
        yield number, row


def csv_header(path: Path, head: bytes) -> tuple[tuple[str, ...], str]:
    """Names of the columns, and what separates them."""
    try:
        line = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode().rstrip("\r")
    except UnicodeDecodeError:
        raise cannot_read(f"{path}:1", "it is not UTF-8", "save the file as UTF-8") from None
    delimiter = "\t" if "\t" in line else ";" if ";" in line and "," not in line else ","
    header = tuple(name.strip() for name in next(csv.reader([line], delimiter=delimiter)))
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise cannot_read(f"{path}:1", f"the column '{twice[0]}' comes twice", "rename one")
    return header, delimiter


def csv_rows(
    lines: list[bytes],
    header: tuple[str, ...],
    delimiter: str,
    bad: list[tuple[int, str]],
    *,
    skip: int,
) -> Iterator[tuple[int, Row | None]]:
    """Records of one line each: a quote left open costs its own line and no other."""
    texts: list[str | None] = []
    for number, line in enumerate(lines[skip:], start=skip + 1):
        try:
            texts.append(line.decode().rstrip("\r"))
        except UnicodeDecodeError as err:
            bad.append((number, f"it is not UTF-8 (byte {err.start + 1})"))
            texts.append(None)
    width = len(header)
    for number, values in _csv_records(texts, delimiter, skip, bad):
        if values is None:
            yield number, None
        elif len(values) == width:
            yield number, dict(zip(header, values, strict=True))
        elif values:
            bad.append((number, f"it has {len(values)} fields; the header has {width}"))
            yield number, None


def _csv_records(
    texts: list[str | None], delimiter: str, skip: int, bad: list[tuple[int, str]]
) -> Iterator[tuple[int, list[str] | None]]:
    at, size = 0, len(texts)
    while at < size:
        start = at
        reader = csv.reader(
            ("" if text is None else text for text in texts[start:]),
            delimiter=delimiter,
            strict=True,
        )
        while at < size:
            number = skip + at + 1
            problem = ""
            try:
                values = next(reader)
                if reader.line_num != at - start + 1:
                    problem = "a quote is left open; a record must be one line"
            except csv.Error as err:
                problem = f"its quotes do not fit ({err})"
                if "unexpected end" in str(err):
                    problem = "a quote is left open; a record must be one line"
            except StopIteration:  # an open quote at the end has swallowed the rest
                problem = "a quote is left open; a record must be one line"
            text = texts[at]
            at += 1
            if text is None:
                yield number, None
            elif problem:
                bad.append((number, problem))
                yield number, None
                break  # begin again on the next line
            else:
                yield number, values


def from_utterance(utterance: Utterance) -> Row:
    """A row as the own form has it, from a Lhotse manifest."""
    row: Row = {**utterance.extra, **utterance.groups}
    row |= {"id": utterance.id, "ref": utterance.text, "audio": str(utterance.audio)}
    if utterance.speaker is not None:
        row["speaker"] = utterance.speaker
    if utterance.offset_s:
        row["offset"] = utterance.offset_s
    if utterance.duration_s is not None:
        row["duration"] = utterance.duration_s
    return row


def _kaldi_table(path: Path) -> Iterator[tuple[int, str, str]]:
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode().strip()
            except UnicodeDecodeError:
                raise cannot_read(
                    f"{path}:{number}", "it is not UTF-8", "repair the line"
                ) from None
            if text:
                key, _, value = text.partition(" ")
                key, _, tabbed = key.partition("\t")
                yield number, key, f"{tabbed} {value}".strip()


def kaldi_rows(folder: Path) -> Iterator[tuple[int, Row | None]]:
    """`text` is the reference; `hyp` beside it, `utt2*` and `spk2*` become columns."""
    if not (folder / "text").is_file():
        raise cannot_read(folder, "the folder has no file 'text'", "a Kaldi folder must have one")
    by_utterance: dict[str, dict[str, str]] = {}
    by_speaker: dict[str, dict[str, str]] = {}
    for file in sorted(folder.iterdir()):
        left, two, name = file.name.partition("2")
        if two and file.is_file() and name not in ("utt", "dur", "num_frames"):
            table = {key: value for _, key, value in _kaldi_table(file)}
            if left == "utt":
                by_utterance["speaker" if name == "spk" else name] = table
            elif left == "spk":
                by_speaker[name] = table
    for name in ("hyp", "hyp.txt", "hypothesis"):
        if (folder / name).is_file():
            by_utterance["hyp"] = {key: value for _, key, value in _kaldi_table(folder / name)}
            break
    if (folder / "wav.scp").is_file() and not (folder / "segments").is_file():
        by_utterance["audio"] = {
            key: value for _, key, value in _kaldi_table(folder / "wav.scp") if value[-1:] != "|"
        }
    for number, key, text in _kaldi_table(folder / "text"):
        row: Row = {"id": key, "ref": text}
        for name, table in by_utterance.items():
            row[name] = table.get(key)
        for name, table in by_speaker.items():
            row[name] = table.get(row.get("speaker") or "")
        yield number, row


def read_hypotheses(path: Path) -> dict[str, str]:
    """Texts by id: JSON lines or CSV with `id` and `hyp` or `text`, or Kaldi's `id words`.

    Raises:
        ResultsError: The file cannot be read, lacks those columns, or has an id twice.
    """
    head = head_of(path)
    kind = kind_of(path, head)
    is_kaldi = kind == "csv" and not path.name.removesuffix(".gz").endswith((".csv", ".tsv"))
    found: dict[str, str] = {}
    pairs: Iterator[tuple[int, Any, Any]]
    if is_kaldi:
        pairs = _kaldi_table(path)
    else:
        pairs = _hypothesis_pairs(path, head, kind)
    for number, key, text in pairs:
        name = str(key)
        if name in found:
            raise cannot_read(f"{path}:{number}", f"the id '{name}' comes twice", "keep one")
        found[name] = text
    return found


def _hypothesis_pairs(path: Path, head: bytes, kind: str) -> Iterator[tuple[int, Any, Any]]:
    bad: list[tuple[int, str]] = []
    with opened(path) as file:
        lines = [line.rstrip(b"\n") for line in file]
    if kind == "csv":
        header, delimiter = csv_header(path, head)
        rows = csv_rows(lines, header, delimiter, bad, skip=1)
    elif kind == "json":
        rows = json_list(path)
    else:
        rows = json_rows(lines, bad)
    for number, row in rows:
        if row is None:
            raise cannot_read(f"{path}:{number}", bad[-1][1], "repair the line")
        text = row.get("hyp", row.get("text"))
        if row.get("id") is None or not isinstance(text, str):
            raise cannot_read(
                f"{path}:{number}", "it has no `id` with a `hyp` or `text`", "write both"
            )
        yield number, row["id"], text
