"""New sentences in recorded voices: what is cut, that it says what it should, and the stage."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from earshot.data.audio import read_audio
from earshot.data.pronunciation import Lexicon
from earshot.train import forced_alignment, splicing
from earshot.train.corpora import Row, training_rows
from earshot.train.forced_alignment import Aligned
from earshot.train.splicing import Speaker, SplicingConfig

EXAMPLES = {
    "close-the-garage-door": "close the garage door",
    "set-a-timer-for-five-minutes": "set a timer for five minutes",
    "turn-on-the-fan-in-the-bedroom": "turn on the fan in the bedroom",
    "turn-on-the-lights": "turn on the lights",
}
RATE = 16_000


def made_up(seed: int, *, recordings: int = 12, phones: int = 20, kinds: int = 6) -> Speaker:
    """A speaker of noises: phone p is noise around p kHz, in frames 10 to 20 long."""
    rng = np.random.default_rng(seed)
    known = []
    for _ in range(recordings):
        said = rng.integers(1, kinds + 1, size=phones)
        lengths = rng.integers(5, 20, size=phones)
        starts = 20 + np.cumsum(lengths) - lengths
        total = int(starts[-1] + lengths[-1] + 20)
        samples = 0.01 * rng.standard_normal(total * 160)
        for p, start, length in zip(said, starts, lengths, strict=True):
            t = np.arange(start * 160, (start + length) * 160)
            samples[t] += 0.3 * np.sin(2 * np.pi * 900 * p * t / RATE)
        columns = (said, starts, starts + lengths)
        known.append((samples.astype(np.float32), Aligned(*(tuple(map(int, c)) for c in columns))))
    speaker = Speaker("somebody", known)
    speaker.known = known  # type: ignore[attr-defined]
    return speaker


def test_what_was_recorded_is_said_as_it_was() -> None:
    speaker = made_up(1)
    for sound, (_, said) in enumerate(speaker.known):  # type: ignore[attr-defined]
        found = speaker.select(said.phones, np.random.default_rng(sound))
        assert found == [(sound, said.starts[0], said.ends[-1])]


@pytest.mark.parametrize("seed", range(8))
def test_stretches_say_the_phones_and_nothing_else(seed: int) -> None:
    """Each stretch is cut at the beginnings, middles and ends of phones; together they are all."""
    rng = np.random.default_rng((5, seed))
    speaker = made_up(seed)
    wanted = rng.integers(1, 7, size=30).tolist()
    found = speaker.select(wanted, rng)
    assert found is not None
    halves = []
    for sound, first, last in found:
        _, said = speaker.known[sound]  # type: ignore[attr-defined]
        for phone, start, end in zip(said.phones, said.starts, said.ends, strict=True):
            middle = (start + end) // 2
            for half, (a, b) in enumerate(((start, middle), (middle, end))):
                if first <= a and b <= last:
                    halves.append((phone, half))
                else:
                    assert b <= first or a >= last
    assert halves == [(phone, half) for phone in wanted for half in (0, 1)]
    assert len(found) < 2 * len(wanted)  # longer stretches than halves were found
    sound = speaker.sound_of(found, 0.2, 0.3, rng)
    frames = sum(last - first for _, first, last in found)
    assert abs(len(sound) / RATE - (0.5 + frames / 100)) < 0.01
    assert abs(20 * np.log10(np.sqrt(np.mean(np.square(sound)))) + 23) < 0.5
    assert np.abs(sound).max() <= 1


def test_what_nobody_ever_said_is_not_said() -> None:
    speaker = made_up(1)
    assert speaker.select([1, 30], np.random.default_rng(0)) is None
    assert splicing.say(speaker, "", Lexicon.load(), np.random.default_rng(0)) is None
    assert splicing.say(speaker, "été", Lexicon.load(), np.random.default_rng(0)) is None


def test_amounts_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="hours is -1"):
        SplicingConfig(hours=-1)
    with pytest.raises(ValueError, match="least_minutes 0"):
        SplicingConfig(least_minutes=0)


# ---------------------------------------------------------------- speech


@pytest.fixture(scope="module")
def recorded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of the examples, said by a speaker of training and one of development."""
    root = tmp_path_factory.mktemp("spliced")
    folder = root / "librispeech_dev_clean_half"
    (folder / "audio").mkdir(parents=True)
    rows = []
    for split in ("train", "dev"):
        for n in range(3):
            for name, text in EXAMPLES.items():
                samples = read_audio(repository / "examples" / f"{name}.flac")
                cut = f"{split}-{n}-{name}"
                noise = np.random.default_rng(n).standard_normal(len(samples)) * 1e-4
                sf.write(folder / "audio" / f"{cut}.wav", samples + noise, RATE)
                rows.append(
                    {
                        "id": cut, "audio": f"audio/{cut}.wav", "split": split, "lang": "en",
                        "text": text, "speaker": split, "duration": len(samples) / RATE,
                    }
                )  # fmt: skip
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def rows(recorded: Path) -> list[Row]:
    return list(training_rows(recorded))[: len(EXAMPLES)]


def test_phones_of_a_recording_have_their_times(rows: list[Row]) -> None:
    lexicon = Lexicon.load()
    for row, said in zip(rows, forced_alignment.align(rows, lexicon), strict=True):
        assert said is not None, row.text
        ways = [lexicon.pronounce(word) for word in row.text.split()]
        assert len(said.phones) in range(
            sum(min(map(len, way)) for way in ways), sum(max(map(len, way)) for way in ways) + 1
        )
        assert list(said.starts) == sorted(said.starts)
        assert all(a < b for a, b in zip(said.starts, said.ends, strict=True))
        assert all(b <= a for a, b in zip(said.starts[1:], said.ends, strict=False))
        assert said.ends[-1] * 0.01 <= row.duration_s
        # Sound is loud where phones are, and not before and behind them.
        samples = read_audio(row.audio)
        loud = np.mean(np.square(samples[said.starts[0] * 160 : said.ends[-1] * 160]))
        before = np.mean(np.square(samples[: max(160, said.starts[0] * 160 - 320)]))
        assert loud > 10 * before


def test_alignment_is_the_same_by_two_processes_and_of_no_use_for_other_words(
    rows: list[Row],
) -> None:
    lexicon = Lexicon.load()
    many = rows * 4
    assert (
        forced_alignment.align(many, lexicon, processes=2)
        == forced_alignment.align(rows, lexicon) * 4
    )
    otherwise = Row(
        **{f: getattr(rows[0], f) for f in rows[0].__slots__}
        | {"text": "a very long sentence that nobody said here at all " * 3}
    )
    assert forced_alignment.align([otherwise, rows[1]], lexicon)[0] is None
    assert forced_alignment.align([otherwise, rows[1]], lexicon)[1] is not None


class Stage:
    """The stage over the examples, in a folder of its own."""

    def __init__(self, folder: Path, recorded: Path) -> None:
        self.folder, self.recorded = folder, recorded
        self.cuts = folder / "cuts"

    def write(self, *texts: str) -> None:
        (self.folder / "text").mkdir(exist_ok=True)
        lines = [json.dumps({"text": t, "kind": "command", "template": "c"}) for t in texts]
        for name in ("train", "heldout"):
            path = self.folder / "text" / f"commands_{name}.jsonl"
            path.write_text("\n".join(lines) + "\n")

    def make(self, processes: int = 1, **settings: object) -> dict[str, float]:
        amounts = {"hours": 0.02, "dev_clips": 7, "least_minutes": 0.2, "most_minutes": 5.0}
        config = SplicingConfig(**(amounts | settings))  # type: ignore[arg-type]
        return splicing.prepare(
            self.folder, seed=3, root=self.recorded, source="commands", config=config,
            processes=processes,
        )  # fmt: skip

    def made(self, split: str) -> list[dict]:
        with gzip.open(self.cuts / f"spliced_{split}.jsonl.gz", "rt") as lines:
            return [json.loads(line) for line in lines]

    def texts(self, split: str) -> set[str]:
        return {cut["supervisions"][0]["text"] for cut in self.made(split)}


def sound_of(cut: dict) -> Path:
    return Path(cut["recording"]["sources"][0]["source"])


@pytest.fixture
def stage(tmp_path: Path, recorded: Path) -> Stage:
    return Stage(tmp_path, recorded)


def test_the_stage(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.write("turn on the garage timer", "a vision of pleasure")  # nobody ever said zh
    hours = stage.make()
    train, dev = stage.made("train"), stage.made("dev")
    assert hours["train"] >= 0.02
    assert len(dev) == 7
    assert stage.texts("train") == {"turn on the garage timer"}
    for split, cuts in (("train", train), ("dev", dev)):
        assert len({cut["id"] for cut in cuts}) == len(cuts)
        for cut in cuts:
            supervision = cut["supervisions"][0]
            assert supervision["speaker"] == split
            assert supervision["custom"]["synthetic"] is True
            assert sf.info(sound_of(cut)).frames == cut["recording"]["num_samples"]
    # Nothing is made twice, and nothing aligned twice.
    first = sound_of(train[0]).read_bytes()
    monkeypatch.setattr(splicing, "align", None)
    said = splicing._said
    monkeypatch.setattr(splicing, "_said", None)
    assert stage.make() == hours
    monkeypatch.setattr(splicing, "_said", said)
    shutil.rmtree(stage.cuts)
    assert stage.make(processes=2) == hours
    assert stage.made("train") == train
    assert sound_of(train[0]).read_bytes() == first
    stage.write("close the fan")
    stage.make()
    assert stage.texts("train") == stage.texts("dev") == {"close the fan"}


def test_a_corrected_transcript_is_aligned_anew(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(recorded, root)
    stage = Stage(tmp_path, root)
    stage.write("turn on the lights")
    stage.make()
    manifest = root / "librispeech_dev_clean_half" / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[1]["text"] += " now"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    aligned: list[str] = []

    def see(some: list[Row], *_: object, **__: object) -> list[None]:
        aligned.extend(row.id for row in some)
        return [None] * len(some)

    monkeypatch.setattr(splicing, "align", see)
    stage.make()
    assert aligned == [rows[1]["id"]]


def test_sentences_that_nobody_can_say_end_the_stage(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.write("a vision of pleasure")
    assert stage.make() == {"train": 0.0, "dev": 0.0}
    assert "lack sounds of nearly all sentences" in caplog.text
    assert stage.made("train") == []


def test_what_another_request_left_is_not_taken_for_this_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.write("turn on the lights")
    stage.make()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    stage.write("close the fan")
    with monkeypatch.context() as patched:
        patched.setattr(splicing, "_clips", killed)
        with pytest.raises(KeyboardInterrupt):
            stage.make()
    assert not list(stage.cuts.glob("spliced*"))
    stage.write("turn on the lights")
    stage.make()
    assert stage.texts("train") == {"turn on the lights"}
    assert stage.make(hours=0.0) == {}
    assert not list(stage.cuts.glob("spliced*"))


def test_other_pronunciations_are_said_and_aligned(stage: Stage, tmp_path: Path) -> None:
    stage.write("turn on the lights")
    stage.make()
    before = sound_of(stage.made("train")[0]).read_bytes()
    own = tmp_path / "own.dict"
    own.write_text("lights  F AE N\n")
    splicing.prepare(
        stage.folder, seed=3, root=stage.recorded, source="commands", pronunciations=own,
        config=SplicingConfig(hours=0.02, dev_clips=7, least_minutes=0.2, most_minutes=5.0),
    )  # fmt: skip
    assert sound_of(stage.made("train")[0]).read_bytes() != before


def test_nobody_is_in_both_splits(recorded: Path, tmp_path: Path) -> None:
    manifest = recorded / "librispeech_dev_clean_half" / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    root = tmp_path / "data"
    shutil.copytree(recorded, root)
    for row in rows:
        row["speaker"] = "both"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "librispeech_dev_clean_half" / "manifest.jsonl").write_text(lines)
    stage = Stage(tmp_path, root)
    stage.write("turn on the lights")
    assert stage.make()["dev"] == 0.0
    assert stage.made("train")


def test_without_recordings_or_hours_nothing_is_made(tmp_path: Path) -> None:
    for root, hours in ((tmp_path / "none", 1.0), (tmp_path, 0.0)):
        made = splicing.prepare(
            tmp_path, seed=1, root=root, source="commands",
            config=SplicingConfig(hours=hours),
        )  # fmt: skip
        assert made == {}
    assert not (tmp_path / "cuts").exists()


def test_recordings_without_sound_are_no_obstacle(rows: list[Row], tmp_path: Path) -> None:
    values = {f: getattr(rows[0], f) for f in rows[0].__slots__}
    path = tmp_path / "silence.wav"
    sf.write(path, np.zeros(RATE, np.float32), RATE)
    beyond = Row(**values | {"audio": path, "offset_s": 5.0})  # the file has ended by then
    short = Row(**values | {"audio": path, "duration_s": 0.01})
    silence = Row(**values | {"audio": path, "duration_s": 1.0})
    aligned = forced_alignment.align([beyond, short, silence, rows[1]], Lexicon.load())
    assert aligned[:2] == [None, None]
    assert aligned[3] is not None
