"""Speech made from text: what engines are told, and clips that are what the plan says."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from earshot.core.errors import SynthesisError
from earshot.train import synthesis, text

VOICES, MISSING = synthesis.installed_voices()


def _voice(engine: str) -> synthesis.Voice:
    for voice in VOICES:
        if voice.engine == engine and voice.id not in synthesis.HELD_OUT_VOICES:
            return voice
    pytest.skip(f"{engine} is not installed here")


def _pitch_hz(samples: np.ndarray) -> float:
    """Median of the autocorrelation's peak over voiced frames."""
    frame, found = 640, []
    for start in range(0, len(samples) - frame, frame // 2):
        piece = samples[start : start + frame]
        if piece.std() < 0.3 * samples.std():
            continue
        correlation = np.correlate(piece, piece, "full")[frame - 1 :]
        lag = 53 + int(correlation[53:230].argmax())
        if correlation[lag] > 0.5 * correlation[0]:
            found.append(16000 / lag)
    return float(np.median(found))


def _envelope(samples: np.ndarray) -> np.ndarray:
    """Mean log spectrum of the loud frames, smoothed over pitch harmonics in the cepstrum."""
    frames = [samples[i : i + 1024] * np.hanning(1024) for i in range(0, len(samples) - 1024, 256)]
    power = np.abs(np.fft.rfft(np.array(frames))) ** 2
    loud = power.sum(axis=1) > 0.3 * np.median(power.sum(axis=1))
    cepstrum = np.fft.irfft(np.log(power[loud] + 1e-8).mean(axis=0))
    cepstrum[30:-30] = 0
    return np.fft.rfft(cepstrum).real


def _formant_shift(usual: np.ndarray, other: np.ndarray) -> float:
    """Factor on the frequency axis that lays one envelope over the other best."""
    hertz, grid = np.arange(513) * 16000 / 1024, np.linspace(300, 5000, 300)
    reference = np.interp(grid, hertz, _envelope(usual))
    shifts = np.arange(0.75, 1.3, 0.01)
    bent = _envelope(other)
    likeness = [np.corrcoef(reference, np.interp(grid * s, hertz, bent))[0, 1] for s in shifts]
    return float(shifts[int(np.argmax(likeness))])


def test_letters_are_not_read_as_articles() -> None:
    said = synthesis.spoken_form("s a f", "spelled", "flite", pauses=False)
    assert said == "s ay f"
    said = synthesis.spoken_form("turn on a light", "command", "flite", pauses=False)
    assert said == "turn on a light"
    said = synthesis.spoken_form("i am up at seven am", "time", "festival", pauses=False)
    assert said == "i am up at seven ay m"
    said = synthesis.spoken_form("one two", "digits", "pico", pauses=True)
    assert said == "one, two"


@pytest.mark.parametrize("engine", ["espeak-ng", "flite", "festival", "pico", "rhvoice"])
def test_every_installed_engine_speaks(engine: str) -> None:
    voice = _voice(engine)
    clip = synthesis.Clip("turn on the kitchen lights", "command", "t", voice, level_db=-23.0)
    spelled = synthesis.Clip("a b c", "spelled", "t", voice, pauses=True, tract=1.1)
    first, second = synthesis.speak([clip, spelled])
    assert first is not None
    assert second is not None
    assert 0.8 < len(first) / 16000 < 4.0
    assert np.isfinite(first).all()
    assert np.abs(first).max() <= 0.96
    spoken = first[1600:-3200]  # without the silence of the plan
    assert -27 < 20 * np.log10(np.sqrt(np.mean(spoken**2))) < -20
    assert np.abs(first[:800]).max() == 0.0


@pytest.mark.parametrize("engine", ["espeak-ng", "flite", "pico", "rhvoice"])
def test_vocal_tract_changes_neither_length_nor_pitch(engine: str) -> None:
    voice = _voice(engine)
    words = "turn on the lights in the living room"
    short, usual, long = synthesis.speak(
        [synthesis.Clip(words, "command", "t", voice, tract=t) for t in (1.15, 1.0, 0.87)]
    )
    assert short is not None
    assert usual is not None
    assert long is not None
    for bent in (short, long):
        assert len(bent) / len(usual) == pytest.approx(1.0, abs=0.12)
        assert _pitch_hz(bent) / _pitch_hz(usual) == pytest.approx(1.0, abs=0.12)

    assert _formant_shift(usual, short) == pytest.approx(1.15, abs=0.05)
    assert _formant_shift(usual, long) == pytest.approx(0.87, abs=0.05)


def test_rate_and_pitch_do_what_they_say() -> None:
    voice = _voice("flite")
    words = "turn on the lights in the living room"
    usual, fast, high = synthesis.speak(
        [
            synthesis.Clip(words, "command", "t", voice),
            synthesis.Clip(words, "command", "t", voice, rate=1.25),
            synthesis.Clip(words, "command", "t", voice, pitch=1.25),
        ]
    )
    assert usual is not None
    assert fast is not None
    assert high is not None
    silence = 0.3 * 16000
    assert (len(usual) - silence) / (len(fast) - silence) == pytest.approx(1.25, abs=0.1)
    assert _pitch_hz(high) / _pitch_hz(usual) == pytest.approx(1.25, abs=0.12)


def _write_texts(folder: Path) -> None:
    (folder / "text").mkdir()
    for name, first in (("train", 0), ("heldout", 50)):
        items = [
            {"text": f"set {text.number_words(n)}", "kind": "command", "template": f"ha:t{n}"}
            for n in range(first, first + 30)
        ]
        # Its pattern is trained on: never a test sentence.
        items += [
            {"text": f"timer {text.number_words(n)}", "kind": "timer", "template": f"timer:t{n}"}
            for n in range(first, first + 30)
        ]
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (folder / "text" / f"{name}.jsonl").write_text(lines)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of the training voices."""
    _voice("flite")
    folder = tmp_path_factory.mktemp("spoken")
    _write_texts(folder)
    synthesis.prepare(folder, seed=5, config=_SMALL)
    return folder


_SMALL = synthesis.SynthesisConfig(hours=0.005, clips_per_shard=8, dev_clips=4, niceness=0)


def _rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def test_shards_are_lhotse_cuts_of_existing_clips(spoken: Path) -> None:
    lhotse = pytest.importorskip("lhotse", reason="needs lhotse; install earshot[train]")
    shards = sorted((spoken / "cuts").glob("synthetic_train_*.jsonl.gz"))
    assert len(shards) >= 2
    seen = 0
    for shard in shards:
        for cut in lhotse.CutSet.from_file(shard):
            seen += 1
            supervision = cut.supervisions[0]
            assert supervision.text.startswith(("set ", "timer "))
            assert supervision.custom["engine"]
            assert supervision.speaker not in synthesis.HELD_OUT_VOICES
            info = sf.info(cut.recording.sources[0].source)
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert info.frames == cut.recording.num_samples
    assert seen > 8


def test_held_out_text_is_only_in_the_validation_cuts(spoken: Path) -> None:
    held_out = {i.text for i in text.load_texts(spoken / "text" / "heldout.jsonl")}
    dev = _rows(spoken / "cuts" / "synthetic_dev.jsonl.gz")
    assert {row["supervisions"][0]["text"] for row in dev} <= held_out
    for shard in (spoken / "cuts").glob("synthetic_train_*"):
        assert not {r["supervisions"][0]["text"] for r in _rows(shard)} & held_out


def test_a_stage_that_was_stopped_goes_on_with_the_same_clips(spoken: Path, tmp_path: Path) -> None:
    shards = sorted((spoken / "cuts").glob("synthetic_train_*.jsonl.gz"))
    wanted = [[r["supervisions"][0]["text"] for r in _rows(s)] for s in shards]
    waves = {p: p.stat().st_mtime_ns for p in (spoken / "synthetic").glob("*/*.wav")}
    shards[-1].unlink()
    some = next(iter(waves))
    some_bytes = some.read_bytes()
    some.unlink()
    synthesis.prepare(spoken, seed=5, config=_SMALL)
    assert [[r["supervisions"][0]["text"] for r in _rows(s)] for s in shards] == wanted
    made_anew = [p for p, when in waves.items() if not p.exists() or p.stat().st_mtime_ns != when]
    assert set(made_anew) <= {some}
    if some.exists():  # it belonged to the shard that was made again
        assert some.read_bytes() == some_bytes


def test_voices_that_are_missing_are_recorded(spoken: Path) -> None:
    record = json.loads((spoken / "synthesis.json").read_text())
    assert record["missing_voices"] == MISSING
    assert record["settings"]["seed"] == 5
    assert "hours" not in record["settings"]
    assert not set(record["voices"]) & set(synthesis.HELD_OUT_VOICES)
    assert sum(v for k, v in record["hours"].items() if k.startswith("engine/")) >= 0.005


def test_without_texts_the_stage_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Run the text stage"):
        synthesis.prepare(tmp_path, seed=1)


def test_held_out_test_is_in_the_held_out_voices_and_repeatable(
    spoken: Path, tmp_path: Path
) -> None:
    if not {v.id for v in VOICES} >= set(synthesis.HELD_OUT_VOICES):
        pytest.skip("flite's voices awb and rms are not installed here")
    texts = spoken / "text" / "heldout.jsonl"
    manifests = [
        synthesis.make_heldout_test(tmp_path / name, 6, texts=texts) for name in ("a", "b")
    ]
    first, second = (p.read_text() for p in manifests)
    assert first == second
    rows = [json.loads(line) for line in first.splitlines()]
    assert len(rows) == 6
    assert {row["speaker"] for row in rows} == set(synthesis.HELD_OUT_VOICES)
    dev = _rows(spoken / "cuts" / "synthetic_dev.jsonl.gz")
    validated = {row["supervisions"][0]["text"] for row in dev}
    held_out = {i.text: i for i in text.load_texts(texts)}
    for row in rows:
        assert text.is_test(held_out[row["text"]].template)
        assert row["kind"] == "command"
        assert row["text"] not in validated
        one, other = (p.parent / row["audio"] for p in manifests)
        assert one.read_bytes() == other.read_bytes()
        assert sf.info(one).duration == pytest.approx(row["duration"])


def test_test_and_validation_never_share_a_sentence() -> None:
    """Over all they could ever draw, whatever the seed."""
    sources = ("ha", "slurp", "clinc", "snips", "timer", "digits", "word")
    kinds = ("command", "assistant", "question", "music", "timer", "digits", "word")
    items = [
        text.TextItem(f"{source} {n}", kind, f"{source}:{n}")
        for source, kind in zip(sources, kinds, strict=True)
        for n in range(40)
    ]
    voices = [synthesis.Voice("flite-awb", "flite", "awb", 125.0)]
    test = {clip.text for clip in synthesis._test_clips(items, voices, 10**6, seed=1)}
    assert {said.split()[0] for said in test} == {"ha", "slurp", "clinc", "snips"}
    assert test == {i.text for i in items if text.is_test(i.template)}


def test_where_sentences_end_each_is_said_by_the_other_voice() -> None:
    items = [text.TextItem(f"ha {n}", "command", f"ha:{n}") for n in range(40)]
    voices = [synthesis.Voice(f"flite-{v}", "flite", v, 125.0) for v in ("awb", "rms")]
    every = synthesis._test_clips(items, voices, 10**6, seed=1)
    texts = {i.text for i in items if text.is_test(i.template)}
    assert {(clip.text, clip.voice.id) for clip in every} == {
        (said, voice.id) for said in texts for voice in voices
    }
    assert len(every) == 2 * len(texts)
    half = len(texts)
    assert every[: half + 3] == synthesis._test_clips(items, voices, half + 3, seed=1)


def test_another_choice_of_sentences_replaces_the_test(spoken: Path, tmp_path: Path) -> None:
    if not {v.id for v in VOICES} >= set(synthesis.HELD_OUT_VOICES):
        pytest.skip("flite's voices awb and rms are not installed here")
    texts = spoken / "text" / "heldout.jsonl"
    told: list[tuple[int, int]] = []
    manifest = synthesis.make_heldout_test(
        tmp_path, 4, texts=texts, progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (4, 4)
    before = manifest.stat().st_mtime_ns
    synthesis.make_heldout_test(tmp_path, 4, texts=texts)
    assert manifest.stat().st_mtime_ns == before
    synthesis.make_heldout_test(tmp_path, 3, texts=texts)
    assert len(list((tmp_path / "audio").iterdir())) == 3
    (tmp_path / "summary.json").unlink()  # as tests of earlier versions are
    synthesis.make_heldout_test(tmp_path, 2, texts=texts)
    assert len(manifest.read_text().splitlines()) == 2


@pytest.fixture
def no_speech(monkeypatch: pytest.MonkeyPatch) -> list[synthesis.Clip]:
    """One second of a tone for every clip; the list hears of them."""
    heard: list[synthesis.Clip] = []

    def tones(clips: list[synthesis.Clip]) -> list[np.ndarray]:
        heard.extend(clips)
        return [np.full(16000, 0.1, dtype=np.float32) for _ in clips]

    voices = [
        synthesis.Voice("pico-en-US", "pico", "en-US", 175.0),
        synthesis.Voice("mbrola-us1", "mbrola", "mb-us1", 120.0),
        synthesis.Voice("flite-awb", "flite", "awb", 125.0),
    ]
    monkeypatch.setattr(synthesis, "speak", tones)
    monkeypatch.setattr(synthesis, "installed_voices", lambda: (voices, []))
    return heard


def test_voices_of_mbrola_speak_only_when_asked(
    no_speech: list[synthesis.Clip], tmp_path: Path
) -> None:
    _write_texts(tmp_path)
    synthesis.prepare(tmp_path, seed=5, config=_SMALL)
    assert {clip.voice.engine for clip in no_speech} == {"pico"}
    record = json.loads((tmp_path / "synthesis.json").read_text())
    assert (record["voices"], record["unused_voices"]) == (["pico-en-US"], ["mbrola-us1"])
    asked = replace(_SMALL, engine_weights={"mbrola": 1.0})
    no_speech.clear()
    synthesis.prepare(tmp_path, seed=5, config=asked)
    assert {clip.voice.engine for clip in no_speech} == {"mbrola"}
    with pytest.raises(SynthesisError, match="weight above 0"):
        synthesis.prepare(tmp_path, seed=5, config=replace(_SMALL, engine_weights={"flite": 1.0}))


def _said(folder: Path) -> list[str]:
    shards = sorted((folder / "cuts").glob("synthetic_*.jsonl.gz"))
    return [row["supervisions"][0]["text"] for shard in shards for row in _rows(shard)]


def test_shards_of_other_settings_are_made_again(
    no_speech: list[synthesis.Clip], tmp_path: Path
) -> None:
    _write_texts(tmp_path)
    synthesis.prepare(tmp_path, seed=5, config=_SMALL)
    first = _said(tmp_path)
    no_speech.clear()
    synthesis.prepare(tmp_path, seed=5, config=replace(_SMALL, hours=0.004, niceness=1))
    assert not no_speech
    assert _said(tmp_path) == first
    synthesis.prepare(tmp_path, seed=6, config=_SMALL)
    assert _said(tmp_path) != first
    synthesis.prepare(tmp_path, seed=5, config=_SMALL)
    assert _said(tmp_path) == first


def test_another_source_has_texts_manifests_and_a_record_of_its_own(
    no_speech: list[synthesis.Clip], tmp_path: Path
) -> None:
    _write_texts(tmp_path)
    items = [text.TextItem("open the gate", "command", "commands:Gate")]
    for name in ("train", "heldout"):
        text.write_texts(items, tmp_path / "text" / f"commands_{name}.jsonl")
    synthesis.prepare(tmp_path, seed=5, config=_SMALL)
    first = _said(tmp_path)
    no_speech.clear()
    synthesis.prepare(tmp_path, seed=5, config=_SMALL, source="commands")
    assert {clip.text for clip in no_speech} == {"open the gate"}
    cuts = tmp_path / "cuts"
    assert {p.name for p in cuts.glob("commands*")} >= {
        "commands_dev.jsonl.gz",
        "commands_train_000.jsonl.gz",
    }
    assert (tmp_path / "synthesis_commands.json").is_file()
    assert _said(tmp_path) == first
    # Other sentences are spoken anew, and only those of their source.
    text.write_texts(
        [replace(items[0], text="shut the gate")], tmp_path / "text" / "commands_train.jsonl"
    )
    no_speech.clear()
    synthesis.prepare(tmp_path, seed=5, config=_SMALL, source="commands")
    synthesis.prepare(tmp_path, seed=5, config=_SMALL)
    assert "shut the gate" in {clip.text for clip in no_speech}
    assert not {clip.text for clip in no_speech} & set(first)
    assert _said(tmp_path) == first


def test_shards_without_a_record_are_taken_as_they_are(
    no_speech: list[synthesis.Clip], tmp_path: Path
) -> None:
    _write_texts(tmp_path)
    synthesis.prepare(tmp_path, seed=5, config=_SMALL)
    first = _said(tmp_path)
    record = json.loads((tmp_path / "synthesis.json").read_text())
    del record["settings"]
    (tmp_path / "synthesis.json").write_text(json.dumps(record))
    no_speech.clear()
    for seed in (6, 7):
        synthesis.prepare(tmp_path, seed=seed, config=_SMALL)
    assert not no_speech
    assert _said(tmp_path) == first


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"engine_weights": {"espeak": 1.0}}, "'espeak', which is unknown; known are espeak-ng,"),
        ({"kind_weights": {"commands": 1.0}}, "'commands', which is unknown; known are command,"),
        ({"engine_weights": {"pico": -1.0}}, "at least 0"),
        ({"kind_weights": {"command": 0.0}}, "no weight above 0"),
    ],
)
def test_weights_of_nothing_known_are_refused(weights: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthesis.SynthesisConfig(**weights)
