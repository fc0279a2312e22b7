"""Lists of utterances: the package's own JSONL, Lhotse's manifests and Kaldi's data folders.

Lhotse and Kaldi are read without their packages. Audio paths are relative to the manifest's
folder. Does not open audio, and does not check that it is there.

The own form is one JSON object a line: `id`, `audio`, and where known `text, speaker, offset,
duration, split, gender, age, accent, nationality, native_language, region, lat, lon, lang`;
other fields are carried along.
"""

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from earshot.core.errors import ManifestError
from earshot.core.utterance import Utterance
from earshot.data.atomic import replaced_file

GROUP_FIELDS = (
    "gender",
    "age",
    "accent",
    "nationality",
    "native_language",
    "region",
    "lat",
    "lon",
    "lang",
)
_OWN_FIELDS = ("id", "audio", "text", "speaker", "offset", "duration", "split")
_FORMS = (
    "It must be JSON lines with `id` and `audio`, a Lhotse manifest of cuts or supervisions, or a "
    "Kaldi data folder"
)

_Row = dict[str, Any]  # one parsed JSON object; every value is checked before it is used


def read_manifest(path: Path) -> list[Utterance]:
    """Read a manifest of any supported form.

    Args:
        path: A `.jsonl` or `.jsonl.gz` file (own form, Lhotse cuts, or Lhotse supervisions
            with their recordings beside them), or a Kaldi data folder.

    Returns:
        The utterances in order.

    Raises:
        ManifestError: The manifest is absent, of no known form, empty, has a bad line, or has
            an id twice.
    """
    if path.is_dir():
        utterances = _read_kaldi(path)
    else:
        utterances = _read_lines(path)
    seen: set[str] = set()
    found = []
    for where, utterance in utterances:
        if utterance.id in seen:
            raise ManifestError(
                where, f"the id '{utterance.id}' appears twice", remedy="Make every id unique"
            )
        seen.add(utterance.id)
        found.append(utterance)
    if not found:
        raise ManifestError(path, "there are no utterances", remedy=_FORMS)
    return found


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write utterances in the package's own form; the file appears complete or not at all.

    Args:
        path: The file to make or replace; audio paths are written relative to its folder.
        utterances: What to write.

    Raises:
        OSError: The file cannot be written.
    """
    folder = path.parent.resolve()
    with replaced_file(path) as file:
        for utterance in utterances:
            row: _Row = {
                "id": utterance.id,
                "audio": os.path.relpath(utterance.audio.resolve(), folder),
            }
            if utterance.offset_s:
                row["offset"] = utterance.offset_s
            for key, value in (
                ("duration", utterance.duration_s),
                ("text", utterance.text),
                ("speaker", utterance.speaker),
                ("split", utterance.split),
            ):
                if value is not None:
                    row[key] = value
            row.update(utterance.groups)
            row.update(utterance.extra)
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _read_lines(path: Path) -> Iterator[tuple[str, Utterance]]:
    rows = _json_rows(path)
    first = next(rows, None)
    if first is None:
        return
    where, row = first
    if "audio" in row:
        read = _own
    elif "recording" in row and "start" in row:
        read = _lhotse_cut
    elif "recording_id" in row:
        recordings = _lhotse_recordings(path)

        def read(where: str, row: _Row, folder: Path) -> Utterance:
            return _lhotse_supervision(where, row, folder, recordings=recordings)

    else:
        raise ManifestError(where, f"fields {', '.join(row) or 'none'}", remedy=_FORMS)
    yield where, read(where, row, path.parent)
    for where, row in rows:
        yield where, read(where, row, path.parent)


def _json_rows(path: Path) -> Iterator[tuple[str, _Row]]:
    """Every line as an object, with `file:line`."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (UnicodeDecodeError, json.JSONDecodeError) as err:
                    raise ManifestError(
                        where, f"this is not JSON ({err})", remedy="Write one JSON object a line"
                    ) from None
                if not isinstance(row, dict):
                    raise ManifestError(
                        where,
                        f"this is a {type(row).__name__}, not an object",
                        remedy="Write one JSON object a line",
                    )
                yield where, row
    except FileNotFoundError:
        raise ManifestError(path, "there is no such file", remedy="Check the path") from None
    except (OSError, EOFError) as err:
        raise ManifestError(path, f"it cannot be read ({err})", remedy="Check the file") from None


def _field(where: str, row: _Row, key: str, kind: type | tuple[type, ...], *, needed: bool) -> Any:
    """A field of a row, refused when it has the wrong type (JSON's true is no number)."""
    value = row.get(key)
    if value is None and not needed:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = "text" if kind is str else "a number" if kind == (int, float) else "an object"
        problem = f"field '{key}' is missing" if value is None else f"field '{key}' is {value!r}"
        raise ManifestError(where, problem, remedy=f"It must be {wanted}")
    return value


def _times(where: str, row: _Row, start_key: str) -> tuple[float, float | None]:
    offset = _field(where, row, start_key, (int, float), needed=False) or 0.0
    duration = _field(where, row, "duration", (int, float), needed=False)
    if not offset >= 0 or not (duration is None or duration > 0):
        raise ManifestError(
            where,
            f"{start_key} is {offset} s and duration {duration} s",
            remedy="Times must be seconds, the start not negative and the duration positive",
        )
    return float(offset), None if duration is None else float(duration)


def _groups(row: Mapping[str, Any]) -> dict[str, str | float]:
    return {key: row[key] for key in GROUP_FIELDS if row.get(key) is not None}


def _own(where: str, row: _Row, folder: Path) -> Utterance:
    offset, duration = _times(where, row, "offset")
    known = {*_OWN_FIELDS, *GROUP_FIELDS}
    return Utterance(
        id=_field(where, row, "id", str, needed=True),
        audio=folder / _field(where, row, "audio", str, needed=True),
        text=_field(where, row, "text", str, needed=False),
        speaker=_field(where, row, "speaker", str, needed=False),
        offset_s=offset,
        duration_s=duration,
        split=_field(where, row, "split", str, needed=False),
        groups=_groups(row),
        extra={key: value for key, value in row.items() if key not in known},
    )


def _lhotse_source(where: str, recording: _Row, folder: Path) -> Path:
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise ManifestError(
            where, "the recording has not exactly one source", remedy="Merge its channels first"
        )
    kind = sources[0].get("type")
    if kind != "file":
        raise ManifestError(
            where,
            f"the recording's source is of type '{kind}'",
            remedy="Only files can be read: save the recordings as files first",
        )
    return folder / str(_field(where, sources[0], "source", str, needed=True))


def _lhotse_speech(where: str, row: _Row) -> dict[str, Any]:
    """The fields of an utterance that Lhotse keeps in a supervision."""
    custom = _field(where, row, "custom", dict, needed=False) or {}
    groups = _groups({**custom, "gender": row.get("gender"), "lang": row.get("language")})
    return {
        "text": _field(where, row, "text", str, needed=False),
        "speaker": _field(where, row, "speaker", str, needed=False),
        "groups": groups,
        "extra": {key: value for key, value in custom.items() if key not in groups},
    }


def _lhotse_cut(where: str, row: _Row, folder: Path) -> Utterance:
    kind = row.get("type", "MonoCut")
    if kind != "MonoCut":
        raise ManifestError(
            where, f"the cut is a {kind}", remedy="Save mixed and padded cuts as audio first"
        )
    start, duration = _times(where, row, "start")
    supervisions = row.get("supervisions") or []
    if len(supervisions) > 1:
        raise ManifestError(
            where,
            f"the cut has {len(supervisions)} supervisions",
            remedy="Split it with `lhotse cut trim-to-supervisions`",
        )
    return Utterance(
        id=_field(where, row, "id", str, needed=True),
        audio=_lhotse_source(where, _field(where, row, "recording", dict, needed=True), folder),
        offset_s=start,
        duration_s=duration,
        **(_lhotse_speech(where, supervisions[0]) if supervisions else {}),
    )


def _lhotse_recordings(supervisions: Path) -> dict[str, Path]:
    """Recording id to file, from the manifest that Lhotse names alike."""
    name = supervisions.name.replace("supervisions", "recordings")
    candidates = [supervisions.with_name(name)]
    if name.endswith(".gz"):
        candidates.append(supervisions.with_name(name.removesuffix(".gz")))
    else:
        candidates.append(supervisions.with_name(f"{name}.gz"))
    for path in candidates:
        if path != supervisions and path.exists():
            return {
                _field(where, row, "id", str, needed=True): _lhotse_source(where, row, path.parent)
                for where, row in _json_rows(path)
            }
    raise ManifestError(
        supervisions,
        "these are supervisions, but their recordings are not beside them",
        remedy="Put both manifests into one folder and name them alike, such as "
        "x_supervisions.jsonl and x_recordings.jsonl",
    )


def _lhotse_supervision(
    where: str, row: _Row, folder: Path, *, recordings: Mapping[str, Path]
) -> Utterance:
    recording = _field(where, row, "recording_id", str, needed=True)
    if recording not in recordings:
        raise ManifestError(
            where,
            f"the recording '{recording}' is not in the recordings manifest",
            remedy="Export both manifests from the same data",
        )
    start, duration = _times(where, row, "start")
    return Utterance(
        id=_field(where, row, "id", str, needed=True),
        audio=recordings[recording],
        offset_s=start,
        duration_s=duration,
        **_lhotse_speech(where, row),
    )


def _kaldi_table(path: Path, *, needed: bool = False) -> dict[str, str]:
    """A Kaldi file: a key and, after the first space, a value on every line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        if not needed:
            return {}
        raise ManifestError(
            path.parent, f"the folder has no '{path.name}'", remedy=_FORMS
        ) from None
    except (OSError, UnicodeDecodeError) as err:
        raise ManifestError(path, f"it cannot be read ({err})", remedy="Check the file") from None
    table = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            key, _, value = line.strip().partition(" ")
            if key in table:
                raise ManifestError(
                    f"{path}:{number}", f"the key '{key}' appears twice", remedy="Remove one"
                )
            table[key] = value.strip()
    return table


def _read_kaldi(folder: Path) -> Iterator[tuple[str, Utterance]]:
    scp = folder / "wav.scp"
    recordings = _kaldi_table(scp, needed=True)
    segments = _kaldi_table(folder / "segments")
    texts = _kaldi_table(folder / "text")
    speakers = _kaldi_table(folder / "utt2spk")
    genders = _kaldi_table(folder / "spk2gender")
    languages = _kaldi_table(folder / "utt2lang")
    for key, location in recordings.items():
        if location.endswith("|"):
            raise ManifestError(
                scp,
                f"'{key}' is the command `{location}`",
                remedy="Commands are not run: write its output to a file and name that",
            )
    stretches = segments or {key: key for key in recordings}
    for number, (key, value) in enumerate(stretches.items(), start=1):
        where = f"{folder / 'segments'}:{number}" if segments else f"{scp}:{number}"
        recording, start, end = _kaldi_segment(where, value) if segments else (key, 0.0, None)
        if recording not in recordings:
            raise ManifestError(
                where, f"the recording '{recording}' is not in wav.scp", remedy="Add it"
            )
        speaker = speakers.get(key)
        groups: dict[str, str | float] = {}
        if speaker in genders:
            groups["gender"] = {"m": "male", "f": "female"}.get(
                genders[speaker].lower(), genders[speaker]
            )
        if key in languages:
            groups["lang"] = languages[key]
        yield (
            where,
            Utterance(
                id=key,
                audio=folder / recordings[recording],
                text=texts.get(key),
                speaker=speaker,
                offset_s=start,
                duration_s=None if end is None else end - start,
                groups=groups,
            ),
        )


def _kaldi_segment(where: str, value: str) -> tuple[str, float, float | None]:
    """`recording start end`; an end of -1 means the end of the file."""
    parts = value.split()
    try:
        recording, start, end = parts[0], float(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        raise ManifestError(
            where,
            f"'{value}' after the utterance id",
            remedy="It must be `recording start end` with times in seconds",
        ) from None
    if end == -1 and start >= 0:
        return recording, start, None
    if not 0 <= start < end:
        raise ManifestError(
            where, f"it runs from {start} s to {end} s", remedy="The end must follow the start"
        )
    return recording, start, end
