"""Manifests: what is written comes back, and other people's forms mean the same."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earshot.core.errors import ManifestError
from earshot.core.utterance import Utterance
from earshot.data.manifest import GROUP_FIELDS, read_manifest, write_manifest

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SECONDS = st.floats(0, 1e5, allow_nan=False)
UTTERANCES = st.builds(
    Utterance,
    id=TEXT.filter(bool),
    audio=st.sampled_from([Path("/data/a.wav"), Path("/data/deep/b c.flac")]),
    text=st.none() | TEXT,
    speaker=st.none() | TEXT,
    offset_s=SECONDS,
    duration_s=st.none() | SECONDS.filter(lambda x: x > 0),
    split=st.none() | st.sampled_from(["train", "test"]),
    groups=st.dictionaries(st.sampled_from(GROUP_FIELDS), TEXT | SECONDS, max_size=3),
    extra=st.dictionaries(
        st.sampled_from(["licence", "tts", "slots"]), TEXT | st.lists(TEXT, max_size=2), max_size=2
    ),
)


@given(st.lists(UTTERANCES, min_size=1, max_size=5, unique_by=lambda u: u.id))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(tmp_path, utterances):
    path = tmp_path / "m.jsonl"
    write_manifest(path, utterances)
    back = read_manifest(path)
    assert [u.audio.resolve() for u in back] == [u.audio for u in utterances]
    for got, sent in zip(back, utterances, strict=True):
        for name in ("id", "text", "speaker", "offset_s", "duration_s", "split"):
            assert getattr(got, name) == getattr(sent, name)
        assert dict(got.groups) == dict(sent.groups)
        assert dict(got.extra) == dict(sent.extra)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text("old")

    def failing():
        yield Utterance(id="a", audio=Path("a.wav"))
        raise RuntimeError("the source of utterances broke")

    with pytest.raises(RuntimeError):
        write_manifest(path, failing())
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_paths_are_relative_to_the_manifest(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    write_manifest(folder / "m.jsonl", [Utterance(id="a", audio=Path("sound/a.wav"))])
    assert json.loads((folder / "m.jsonl").read_text())["audio"] == "../sound/a.wav"
    assert read_manifest(folder / "m.jsonl")[0].audio == folder / "../sound/a.wav"


def lines(path: Path, *rows: object) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


RECORDING = {
    "id": "rec1",
    "sources": [{"type": "file", "channels": [0], "source": "audio/a.wav"}],
    "sampling_rate": 16000,
    "num_samples": 32000,
    "duration": 2.0,
}
SUPERVISION = {
    "id": "rec1-0",
    "recording_id": "rec1",
    "start": 0.25,
    "duration": 1.5,
    "channel": 0,
    "text": "turn on the light",
    "language": "English",
    "speaker": "spk1",
    "gender": "F",
    "custom": {"accent": "Scots", "cohort": "x"},
}


def test_lhotse_supervisions_with_their_recordings(tmp_path):
    lines(tmp_path / "x_recordings_dev.jsonl.gz", RECORDING)
    path = lines(tmp_path / "x_supervisions_dev.jsonl.gz", SUPERVISION)
    (utterance,) = read_manifest(path)
    assert utterance == Utterance(
        id="rec1-0",
        audio=tmp_path / "audio/a.wav",
        text="turn on the light",
        speaker="spk1",
        offset_s=0.25,
        duration_s=1.5,
        groups={"gender": "F", "lang": "English", "accent": "Scots"},
        extra={"cohort": "x"},
    )


def test_lhotse_cuts(tmp_path):
    cut = {
        "id": "cut1",
        "start": 0.5,
        "duration": 1.0,
        "channel": 0,
        "supervisions": [SUPERVISION | {"start": 0.0, "duration": 1.0}],
        "recording": RECORDING,
        "type": "MonoCut",
    }
    bare = cut | {"id": "cut2", "supervisions": []}
    first, second = read_manifest(lines(tmp_path / "cuts.jsonl", cut, bare))
    assert (first.id, first.offset_s, first.duration_s) == ("cut1", 0.5, 1.0)
    assert (first.text, first.speaker) == ("turn on the light", "spk1")
    assert (second.text, second.speaker) == (None, None)


def test_what_lhotse_itself_writes(tmp_path):
    """Oracle: Lhotse's own writer and its own reading of the times."""
    lhotse = pytest.importorskip("lhotse")
    recording = lhotse.Recording.from_dict(RECORDING)
    supervision = lhotse.SupervisionSegment.from_dict(SUPERVISION)
    cuts = lhotse.CutSet.from_manifests(
        lhotse.RecordingSet.from_recordings([recording]),
        lhotse.SupervisionSet.from_segments([supervision]),
    ).trim_to_supervisions()
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    (utterance,) = read_manifest(tmp_path / "cuts.jsonl.gz")
    (cut,) = cuts
    assert (utterance.offset_s, utterance.duration_s) == (cut.start, cut.duration)
    assert utterance.text == "turn on the light"
    assert utterance.audio == tmp_path / "audio/a.wav"


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_kaldi_folder_with_segments(tmp_path):
    folder = kaldi(
        tmp_path / "data",
        wav__scp="rec1 a b.wav\nrec2 /abs/c.wav\n",
        segments="s1-u1 rec1 0.5 2.0\ns1-u2 rec2 0 -1\n",
        text="s1-u1 turn on  the light\ns1-u2\n",
        utt2spk="s1-u1 s1\ns1-u2 s1\n",
        spk2gender="s1 f\n",
        utt2lang="s1-u1 en\n",
    )
    first, second = read_manifest(folder)
    assert first == Utterance(
        id="s1-u1",
        audio=folder / "a b.wav",
        text="turn on  the light",
        speaker="s1",
        offset_s=0.5,
        duration_s=1.5,
        groups={"gender": "female", "lang": "en"},
    )
    assert (second.audio, second.text, second.duration_s) == (Path("/abs/c.wav"), "", None)


def test_kaldi_folder_without_segments(tmp_path):
    (utterance,) = read_manifest(kaldi(tmp_path / "data", wav__scp="u1 a.wav\n"))
    assert utterance == Utterance(id="u1", audio=tmp_path / "data/a.wav")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [],
            ": there are no utterances. It must be JSON lines with `id` and `audio`, a Lhotse "
            "manifest of cuts or supervisions, or a Kaldi data folder.",
        ),
        (
            [{"id": "a", "audio": "a.wav"}, {"id": "a", "audio": "b.wav"}],
            ":2: the id 'a' appears twice. Make every id unique.",
        ),
        ([{"audio": "a.wav"}], ":1: field 'id' is missing. It must be text."),
        ([{"id": 7, "audio": "a.wav"}], ":1: field 'id' is 7. It must be text."),
        (
            [{"id": "a", "audio": "a.wav", "offset": "1"}],
            ":1: field 'offset' is '1'. It must be a number.",
        ),
        (
            [{"id": "a", "audio": "a.wav", "offset": True}],
            ":1: field 'offset' is True. It must be a number.",
        ),
        (
            [{"id": "a", "audio": "a.wav", "duration": 0}],
            ":1: offset is 0.0 s and duration 0 s. Times must be seconds, the start not negative "
            "and the duration positive.",
        ),
        (
            [{"id": "a", "audio": "a.wav", "offset": float("nan")}],
            ":1: offset is nan s and duration None s. Times must be seconds, the start not "
            "negative and the duration positive.",
        ),
        (
            [{"path": "a.wav"}],
            ":1: fields path. It must be JSON lines with `id` and `audio`, a Lhotse manifest of "
            "cuts or supervisions, or a Kaldi data folder.",
        ),
        ([["a"]], ":1: this is a list, not an object. Write one JSON object a line."),
        (
            [{"id": "c", "start": 0, "type": "MixedCut", "recording": RECORDING}],
            ":1: the cut is a MixedCut. Save mixed and padded cuts as audio first.",
        ),
        (
            [{"id": "c", "start": 0, "recording": RECORDING, "supervisions": [{}, {}]}],
            ":1: the cut has 2 supervisions. Split it with `lhotse cut trim-to-supervisions`.",
        ),
        (
            [{"id": "c", "start": 0, "recording": {"sources": []}}],
            ":1: the recording has not exactly one source. Merge its channels first.",
        ),
        (
            [{"id": "c", "start": 0, "recording": {"sources": [{"type": "url", "source": "x"}]}}],
            ":1: the recording's source is of type 'url'. Only files can be read: save the "
            "recordings as files first.",
        ),
        (
            [SUPERVISION],
            ": these are supervisions, but their recordings are not beside them. Put both "
            "manifests into one folder and name them alike, such as x_supervisions.jsonl and "
            "x_recordings.jsonl.",
        ),
    ],
)
def test_bad_manifests_say_where_and_what(tmp_path, rows, message):
    path = lines(tmp_path / "m.jsonl", *rows)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value) == f"{path}{message}"


def test_a_line_that_is_not_json(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a", "audio": "a.wav"}\n\n{broken\n')
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:3: this is not JSON (")
    assert str(caught.value).endswith("). Write one JSON object a line.")


def test_a_broken_archive(tmp_path):
    path = lines(tmp_path / "m.jsonl.gz", {"id": "a", "audio": "a.wav"})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: it cannot be read (")


def test_absent_files(tmp_path):
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "no.jsonl")
    assert str(caught.value) == f"{tmp_path}/no.jsonl: there is no such file. Check the path."
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: the folder has no 'wav.scp'. It must be ")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"wav__scp": "r flac -dc a.flac |\n"},
            "wav.scp: 'r' is the command `flac -dc a.flac |`. Commands are not run: write its "
            "output to a file and name that.",
        ),
        (
            {"wav__scp": "r a.wav\n", "segments": "u q 0 1\n"},
            "segments:1: the recording 'q' is not in wav.scp. Add it.",
        ),
        (
            {"wav__scp": "r a.wav\n", "segments": "u r 0\n"},
            "segments:1: 'r 0' after the utterance id. It must be `recording start end` with times "
            "in seconds.",
        ),
        (
            {"wav__scp": "r a.wav\n", "segments": "u r 2 1\n"},
            "segments:1: it runs from 2.0 s to 1.0 s. The end must follow the start.",
        ),
        (
            {"wav__scp": "r a.wav\nr b.wav\n"},
            "wav.scp:2: the key 'r' appears twice. Remove one.",
        ),
    ],
)
def test_bad_kaldi_folders(tmp_path, files, message):
    folder = kaldi(tmp_path / "data", **files)
    with pytest.raises(ManifestError) as caught:
        read_manifest(folder)
    assert str(caught.value) == f"{folder}/{message}"


def test_every_real_manifest_reads_and_its_audio_is_there(real_data):
    folders = sorted(path.parent for path in real_data.glob("*/manifest.jsonl"))
    assert len(folders) >= 10
    for folder in folders:
        utterances = read_manifest(folder / "manifest.jsonl")
        rows = (folder / "manifest.jsonl").read_text().splitlines()
        assert len(utterances) == len(rows)
        assert all(u.audio.is_file() for u in utterances[:: max(1, len(utterances) // 50)])
