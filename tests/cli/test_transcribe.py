"""`earshot transcribe`: what is printed where, in which order, and what happens to bad input."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import Result

from earshot.session.recognizer import Recognizer

Earshot = Callable[..., Result]
Speech = Callable[..., Path]

USUAL = inspect.signature(Recognizer.load).parameters  # before `loaded` takes its place

pytestmark = pytest.mark.usefixtures("loaded")


def errors(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_text_of_one_file_is_its_words(earshot: Earshot, speech: Speech) -> None:
    result = earshot("transcribe", speech("a.wav", 1.2))
    assert result.exit_code == 0
    assert result.stdout == "w0 w1\n"
    assert result.stderr.startswith("1 of 1 done: 1.2 s of audio in ")


def test_text_of_several_files_names_them_in_order(earshot: Earshot, speech: Speech) -> None:
    b, a = speech("b.flac", 0.6), speech("a.wav", 1.0, rate_hz=8000, channels=2)
    result = earshot("transcribe", b, a)
    assert result.stdout == f"{b}: w0\n{a}: w0 w1\n"


def test_json_has_exactly_these_keys(earshot: Earshot, speech: Speech) -> None:
    result = earshot("transcribe", "--json", speech("a.wav", 1.0))
    value = json.loads(result.stdout)
    assert list(value) == ["text", "words", "duration_s", "processing_s", "model"]
    assert value["words"][1] == {"word": "w1", "start_s": 0.5, "end_s": 0.98, "confidence": 0.75}
    assert value["duration_s"] == 1.0
    assert value["model"] == "counting"


def test_json_of_several_files_says_which(earshot: Earshot, speech: Speech) -> None:
    paths = [speech("a.wav"), speech("b.wav")]
    result = earshot("transcribe", "--json", *paths)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["file"] for row in rows] == list(map(str, paths))


def test_standard_input(earshot: Earshot, speech: Speech) -> None:
    result = earshot("transcribe", "-", stdin=speech("a.flac").read_bytes())
    assert (result.exit_code, result.stdout) == (0, "w0 w1\n")


@pytest.mark.parametrize("content", [b"", b"not audio " * 99, b"RIFF" + bytes(99), bytes(256)])
def test_standard_input_that_is_not_audio_is_one_line(earshot: Earshot, content: bytes) -> None:
    result = earshot("transcribe", "-", stdin=content)
    assert result.exit_code == 1
    assert len(errors(result)) == 1
    assert errors(result)[0].startswith("error: standard input: ")
    assert result.stdout == ""


def test_settings_reach_the_recogniser(
    earshot: Earshot, speech: Speech, loaded: list[object], tmp_path: Path
) -> None:
    model = tmp_path / "my.ear"
    options = ("--model", model, "--method", "modified_beam_search", "--max-active-paths", 8)
    earshot("transcribe", speech("a.wav"), *options)
    settings = {"path": model, "method": "modified_beam_search", "max_active_paths": 8}
    passed = vars(loaded[0])["settings"]
    assert {name: passed[name] for name in settings} == settings
    for name in passed.keys() - settings.keys():
        assert passed[name] == USUAL[name].default, name


def test_captions_and_ctm(earshot: Earshot, speech: Speech) -> None:
    path = speech("talk.wav", 1.0)
    srt = earshot("transcribe", "--format", "srt", path).stdout
    assert srt == "1\n00:00:00,000 --> 00:00:00,980\nw0 w1\n\n"
    vtt = earshot("transcribe", "-f", "vtt", path).stdout
    assert vtt == "WEBVTT\n\n00:00:00.000 --> 00:00:00.980\nw0 w1\n\n"
    ctm = earshot("transcribe", "-f", "ctm", path).stdout
    assert ctm == "talk 0 0.00 0.48 w0 0.75\ntalk 0 0.50 0.48 w1 0.75\n"


def test_ctm_is_sorted_by_recording_and_keeps_equal_names_apart(
    earshot: Earshot, speech: Speech
) -> None:
    z, a1, a2 = speech("z.wav", 0.5), speech("one/a.wav", 0.5), speech("two/a.wav", 0.5)
    rows = earshot("transcribe", "-f", "ctm", z, a2, a1).stdout.splitlines()
    names = [row.split()[0] for row in rows]
    assert names == sorted(names)
    assert names[2] == "z"
    assert [name[-5:] for name in names[:2]] == ["one_a", "two_a"] or len(set(names)) == 3


def test_captions_of_several_files_need_a_folder(
    earshot: Earshot, speech: Speech, tmp_path: Path
) -> None:
    paths = [speech("a.wav"), speech("b.wav")]
    refused = earshot("transcribe", "-f", "srt", *paths)
    assert refused.exit_code == 2
    assert "--output" in refused.stderr
    assert refused.stdout == ""
    done = earshot("transcribe", "-f", "srt", "-o", f"{tmp_path}/captions/", *paths)
    assert done.exit_code == 0
    assert sorted(os.listdir(tmp_path / "captions")) == ["a.srt", "b.srt"]
    assert (tmp_path / "captions" / "b.srt").read_text().startswith("1\n00:00:00,000 --> ")


def test_a_manifest_gives_a_line_for_each_row(
    earshot: Earshot, speech: Speech, tmp_path: Path
) -> None:
    speech("audio/long.flac", 4.0)
    rows = [
        {"id": "u1", "audio": "audio/long.flac"},
        {"id": "u2", "audio": "audio/long.flac", "offset": 1.5, "duration": 1.0},
        {"id": "u3", "audio": "audio/long.flac", "offset": 3.5},
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out.jsonl"
    result = earshot("transcribe", "--manifest", manifest, "--output", output)
    assert (result.exit_code, result.stdout) == (0, "")
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in written] == ["u1", "u2", "u3"]
    assert [row["duration_s"] for row in written] == [4.0, 1.0, 0.5]
    assert [len(row["words"]) for row in written] == [8, 2, 1]
    assert list(written[0]) == ["id", "text", "words", "duration_s", "processing_s", "model"]


def test_bad_rows_are_reported_and_the_others_done(
    earshot: Earshot, speech: Speech, tmp_path: Path
) -> None:
    speech("good.wav", 1.0)
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(
        '{"id": "gone", "audio": "gone.wav"}\n'
        '{"id": "beyond", "audio": "good.wav", "offset": 0.5, "duration": 9}\n'
        '{"id": "good", "audio": "good.wav"}\n'
    )
    result = earshot("transcribe", "--manifest", manifest)
    assert result.exit_code == 1
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["good"]
    assert len(errors(result)) == 2
    assert "gone.wav" in errors(result)[0]
    assert "9.500 s" in errors(result)[1]
    assert result.stderr.splitlines()[-1].endswith("; 2 failed")


@pytest.mark.parametrize("content", ["", "not json\n", '{"id": "a"}\n', '["a"]\n'])
def test_a_bad_manifest_is_one_line(earshot: Earshot, tmp_path: Path, content: str) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(content)
    output = tmp_path / "out.jsonl"
    result = earshot("transcribe", "--manifest", manifest, "-o", output)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {manifest}")
    assert result.stderr.count("\n") == 1
    assert not output.exists()


def bad_files(folder: Path) -> dict[str, Path]:
    """Everything that is not a recording but might be given as one."""
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.1, 16000).astype(np.float32)
    paths = {}
    for ending in ("wav", "flac", "ogg", "mp3"):
        whole = folder / f"whole.{ending}"
        soundfile.write(whole, noise, 16000)
        paths[f"truncated {ending}"] = folder / f"truncated.{ending}"
        data = whole.read_bytes()
        paths[f"truncated {ending}"].write_bytes(data[: len(data) * 2 // 3])
        whole.unlink()
    paths["text"] = folder / "text.wav"
    paths["text"].write_text("these are words, not sound\n" * 100)
    paths["empty"] = folder / "empty.wav"
    paths["empty"].write_bytes(b"")
    paths["no samples"] = folder / "nothing.wav"
    soundfile.write(paths["no samples"], noise[:0], 16000)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        paths[name] = folder / f"{name}.wav"
        samples = noise.copy()
        samples[777] = value
        soundfile.write(paths[name], samples, 16000, subtype="FLOAT")
    paths["folder"] = folder / "folder.wav"
    paths["folder"].mkdir()
    paths["missing"] = folder / "missing.wav"
    paths["random bytes"] = folder / "random.flac"
    paths["random bytes"].write_bytes(rng.bytes(5000))
    return paths


def test_bad_files_give_one_line_each_and_the_others_are_done(
    earshot: Earshot, speech: Speech, tmp_path: Path
) -> None:
    bad = bad_files(tmp_path)
    first, last = speech("first.wav"), speech("last.wav")
    result = earshot("transcribe", first, *bad.values(), last)
    assert result.exit_code == 1
    assert result.stdout == f"{first}: w0 w1\n{last}: w0 w1\n"
    lines = result.stderr.splitlines()
    assert len(lines) == len(bad) + 1
    for line, path in zip(lines, bad.values(), strict=False):
        # What it is, and what to do: two sentences at least.
        assert line.startswith(f"error: {path}: ")
        assert line.count(". ") >= 1
    assert "sample 777 is nan" in lines[list(bad).index("nan")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file(earshot: Earshot, speech: Speech) -> None:
    path = speech("secret.wav")
    path.chmod(0)
    result = earshot("transcribe", path)
    assert result.exit_code == 1
    assert "may not be read" in errors(result)[0]


def test_output_is_written_whole_or_not_at_all(
    earshot: Earshot, speech: Speech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from earshot.cli import formats

    output = tmp_path / "out.txt"
    output.write_text("what was there")

    def interrupted(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "json_line", interrupted)
    result = earshot("transcribe", "--json", "-o", output, speech("a.wav"))
    assert result.exit_code != 0
    assert output.read_text() == "what was there"
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "out.txt"]


def test_an_output_file_stays_as_it_was_when_nothing_could_be_done(
    earshot: Earshot, tmp_path: Path
) -> None:
    output = tmp_path / "out.txt"
    output.write_text("what was there")
    result = earshot("transcribe", "-o", output, tmp_path / "none.wav")
    assert result.exit_code == 1
    assert output.read_text() == "what was there"
    assert result.stderr.endswith("0 of 1 done; 1 failed\n")


def test_text_files_in_a_folder_hold_the_words_alone(
    earshot: Earshot, speech: Speech, tmp_path: Path
) -> None:
    earshot("transcribe", "-o", f"{tmp_path}/texts/", speech("a.wav"), speech("b.wav"))
    assert (tmp_path / "texts" / "a.txt").read_text() == "w0 w1\n"


def test_files_of_one_name_lose_nothing(
    earshot: Earshot, speech: Speech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """../a/x, a/x and a_x would all be called a_x."""
    for at, name in enumerate(("a/x.wav", "here/a/x.wav", "here/a_x.wav", "here/a_x-2.wav")):
        speech(name, 0.5 * (at + 1))
    monkeypatch.chdir(tmp_path / "here")
    files = ("a_x.wav", "../a/x.wav", "a/x.wav", "a_x.wav", "a_x-2.wav")
    result = earshot("transcribe", "-f", "json", "-o", f"{tmp_path}/out/", *files)
    assert result.exit_code == 0
    written = sorted((tmp_path / "out").iterdir())
    heard = [(v["file"], v["duration_s"]) for v in (json.loads(p.read_text()) for p in written)]
    lengths = (1.5, 0.5, 1.0, 1.5, 2.0)
    assert sorted(heard) == sorted(zip(files, lengths, strict=True))
    again = earshot("transcribe", "-f", "ctm", "a_x.wav", "a_x.wav").stdout.splitlines()
    assert len({row.split()[0] for row in again}) == 2


def test_manifest_ids_that_are_one_file_name_lose_nothing(
    earshot: Earshot, speech: Speech, tmp_path: Path
) -> None:
    speech("x.wav")
    ids = ["a/b", "a_b", "a_b-2", ".", "..", "c"]
    manifest = tmp_path / "m.jsonl"
    rows = ({"id": name, "audio": "x.wav"} for name in ids)
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    earshot("transcribe", "--manifest", manifest, "-o", f"{tmp_path}/out/")
    written = [json.loads(path.read_text())["id"] for path in (tmp_path / "out").iterdir()]
    assert sorted(written) == sorted(ids)
    assert (tmp_path / "out" / "a_b-2.json").is_file()
    ctm = earshot("transcribe", "--manifest", manifest, "-f", "ctm").stdout.splitlines()
    assert {row.split()[0] for row in ctm} == set(ids)  # a list keeps ids as they are


def test_output_that_cannot_be_written_is_one_line(
    earshot: Earshot, speech: Speech, tmp_path: Path
) -> None:
    result = earshot("transcribe", "-o", tmp_path / "no" / "such" / "out.txt", speech("a.wav"))
    assert result.exit_code == 1
    assert len(errors(result)) == 1
    assert "Traceback" not in result.stderr


def test_stream_shows_words_as_they_come(earshot: Earshot, speech: Speech) -> None:
    path = speech("a.wav", 1.3)
    result = earshot("transcribe", "--stream", path)
    assert result.stdout == "w0 w1\n"
    partials = [line.split(" s  ") for line in result.stderr.splitlines() if " s  " in line]
    assert [(float(t), text) for t, text in partials] == [(0.5, "w0"), (1.0, "w0 w1")]


def test_stream_and_json_give_partial_objects_first(earshot: Earshot, speech: Speech) -> None:
    result = earshot("transcribe", "--stream", "--json", speech("a.wav", 1.0))
    first, second, final = map(json.loads, result.stdout.splitlines())
    assert first == {"type": "partial", "t_s": 0.5, "text": "w0"}
    assert second == {"type": "partial", "t_s": 1.0, "text": "w0 w1"}
    assert final["text"] == "w0 w1"
    assert "type" not in final


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--manifest"),
        (("a.wav", "--manifest", "m.jsonl"), "--manifest"),
        (("a.wav", "--json", "--format", "srt"), "--format srt"),
        (("-", "-"), "only once"),
        (("a.wav", "--format", "docx"), "docx"),
        (("a.wav", "--max-active-paths", "0"), "max-active-paths"),
    ],
)
def test_wrong_usage_exits_2(earshot: Earshot, arguments: tuple[str, ...], named: str) -> None:
    result = earshot("transcribe", *arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stdout == ""
