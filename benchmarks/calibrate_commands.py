"""Chooses how commands are searched for and when one is believed, on development data only.

    python benchmarks/calibrate_commands.py
    python benchmarks/calibrate_commands.py --model mine.ear --json calibration.json

Commands are sentences of grammars made for this (`benchmarks/calibration`), of
`examples/smart-home.yaml` and of recorded read sentences taken as a list; spoken by the two voices
that no training batch has or by people, without noise and with noise that training mixes in too,
at 6 to 24 dB. What is no command is read speech of the development split, assistant sentences of
the validation half, words of wake-word recordings, the commands of the other grammars, and noise
alone. The coffee recordings, their grammar and their noise are never opened here; neither are the
test rows and sentences that acceptance outside the grammar is reported on.

First the search settings: the share of commands whose best interpretation is right, one setting
changed at a time. Then two logistic regressions for the confidence, where commands weigh as much
as all other speech and each kind of either the same, and the lowest threshold at which every kind
of other speech is accepted at most as often as `--false-accepts` says. Prints the values of
`understand.confidence.CommandConfig`, which `--output` puts into the model's file; the last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from noisy_speech import Noise, load_noise
from speech_sets import REAL_SETS, SAMPLE_RATE_HZ, Clip, data_folder, read_clip
from wer import progress

from earshot.core.understanding import Understanding
from earshot.data.atomic import replaced_file
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_with_metadata
from earshot.runtime.session import open_model
from earshot.session.looks import hear
from earshot.session.recognizer import Recognizer, embedded_model_path, lexicon_of, tokenizer_of
from earshot.train.calibrate import FALSE_ACCEPTS
from earshot.understand.calibration import (
    METADATA_KEY,
    Heard,
    acceptance,
    as_metadata,
    balanced_weights,
    calibrated,
    confidence_of,
    weigh,
)
from earshot.understand.confidence import CommandConfig
from earshot.understand.graph import CommandGraph, compile_commands
from earshot.understand.templates import load_commands

ROOT = Path(__file__).resolve().parents[1]
SEED = 2711
SNRS_DB = (6.0, 9.0, 12.0, 15.0, 18.0, 21.0, 24.0)
BATCH = 8  # streams decoded together
MIN_GAIN = 0.003  # of the share that is right: less is chance
# Tried one after the other, each around the best of those before. More paths are never worse, only
# slower: how many there are is a matter of speed, and the table says what they are worth.
SEARCHES: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("ctc_weight", (0.0, 0.1, 0.3, 0.5)),
    ("ctc_blank_penalty", (1.0, 3.0)),
    ("grammar_blank_penalty", (-0.5, 0.5, 1.0)),
    ("language_weight", (0.4, 0.6, 0.9)),
    ("word_penalty", (-0.5, 0.5)),
)
PHONE_SEARCHES: tuple[tuple[str, tuple[float, ...]], ...] = (  # of models that hear phones
    ("phone_blank_penalty", (1.0, 1.5, 2.5, 3.0)),
    ("transducer_weight", (0.0, 0.15, 0.6)),
    ("language_weight", (0.3, 0.45, 0.75)),
    ("piece_ctc_weight", (0.2,)),
    ("word_penalty", (-0.5, 0.5)),
)
PATHS = ("grammar_paths", (8, 32, 64))
PHONE_PATHS = ("phone_paths", (32, 64, 256))

FILLERS = ("please", "now", "well", "just", "then", "thank you")
DROPPED = frozenset({"the", "a", "an", "my", "some", "to", "for", "in", "at", "of"})

COMMANDS, NOISY_COMMANDS, LOOSE_COMMANDS = "commands", "commands in noise", "loose commands"
ALIKE = ({"house", "smart-home"},)  # what is said to one of them is nearly said to the other
DIGITS, SENTENCES = "digits", "sentences"  # grammars whose clips are recordings of people
WORD_SETS = ("wake_words", "mycroft_wake_words")

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trial:
    """One recording heard with one grammar: is what comes out right?

    `kind` names what it is; `meaning` is that of a command, None where it is none.
    """

    id: str
    grammar: str
    kind: str
    text: str
    meaning: str | None
    read: Callable[[], Samples]


def meaning_of(intent: str | None, values: Mapping[str, object]) -> str:
    return json.dumps([intent, dict(sorted(values.items()))], default=str)


def is_meant(meaning: str | None, understanding: Understanding) -> bool:
    slots = understanding.slots
    found = meaning_of(understanding.intent, {name: slots[name].value for name in slots})
    return found == meaning


# ---------------------------------------------------------------- what is heard


def spoken(texts: Sequence[str], folder: Path) -> list[tuple[str, str, Callable[[], Samples]]]:
    """Texts in the two held-out voices, a little bent: (id, text, reader), made when absent."""
    from earshot.train.cuts import write_wav
    from earshot.train.synthesis import HELD_OUT_VOICES, installed_voices, speak
    from earshot.train.synthesis import Clip as Spoken

    voices = [voice for voice in installed_voices()[0] if voice.id in HELD_OUT_VOICES]
    if len(voices) != len(HELD_OUT_VOICES):
        raise SystemExit(
            f"flite has {len(voices)} of the voices {' and '.join(HELD_OUT_VOICES)}; both are "
            "needed. Run: apt-get install flite"
        )
    made = []
    for number, text in enumerate(texts):
        rng = np.random.default_rng([SEED, zlib.crc32(text.encode())])
        clip = Spoken(
            text=text,
            kind="command",
            template="",
            voice=voices[number % len(voices)],
            rate=round(float(rng.uniform(0.85, 1.2)), 3),
            pitch=round(float(rng.uniform(0.9, 1.1)), 3),
            tract=round(float(rng.uniform(0.9, 1.12)), 3),
            lead_s=0.2,
            tail_s=0.4,
        )
        path = folder / f"{clip.key}.wav"
        if not path.is_file():
            waveform = speak([clip])[0]
            if waveform is None:
                continue
            write_wav(path, waveform)
        made.append((clip.key, text, functools.partial(read_clip, path)))
        if number % 50 == 49:
            progress(f"speaking {number + 1}/{len(texts)}")
    progress(None)
    return made


def noisy(read: Callable[[], Samples], noise: Noise, clip_id: str, snr_db: float) -> Samples:
    return noise.under(read(), clip_id=clip_id, snr_db=snr_db, draw=0)


def grammar_files(folder: Path, data: Path) -> dict[str, Path]:
    """Name to file: those of the repository, and one that lists recorded sentences."""
    files = {path.stem: path for path in sorted((ROOT / "benchmarks/calibration").glob("*.yaml"))}
    files["smart-home"] = ROOT / "examples" / "smart-home.yaml"
    files[SENTENCES] = folder / "sentences.yaml"
    document = {
        "language": "en",
        "intents": {"read": {"data": [{"sentences": ["{sentence}"]}]}},
        "lists": {
            "sentence": {"values": [{"in": c.text, "out": c.id} for c in read_sentences(data)]}
        },
    }
    with replaced_file(files[SENTENCES]) as file:
        file.write(yaml.safe_dump(document, sort_keys=False).encode())
    return files


def read_sentences(data: Path) -> list[Clip]:
    """Sentences that people read out for Common Voice, those short enough for a command."""
    clips = REAL_SETS["common_voice"](data, ["train", "dev"]).clips
    return [clip for clip in clips if len(clip.text.split()) <= 12]


def own_commands(
    files: Mapping[str, Path], folder: Path, data: Path, *, count: int
) -> Iterator[Trial]:
    """Sentences of every grammar, without noise and with it."""
    noise = load_noise("train", data=data)
    for name, path in files.items():
        said: list[tuple[str, str, str, Callable[[], Samples]]] = []  # id, text, meaning, reader
        if name == SENTENCES:
            for clip in read_sentences(data):
                meaning = meaning_of("read", {"sentence": clip.id})
                said.append((clip.id, clip.text, meaning, clip.read))
        elif name == DIGITS:
            for clip in REAL_SETS["digits"](data, ["dev"]).clips[:count]:
                digits = enumerate(clip.text.split(), start=1)
                meaning = meaning_of("dial", {f"digit_{at}": digit for at, digit in digits})
                said.append((clip.id, clip.text, meaning, clip.read))
        else:
            samples = load_commands([path]).sample(count, seed=SEED)
            meanings = {one.text: meaning_of(one.intent, one.slots) for one in samples}
            for clip_id, text, read in spoken(list(meanings), folder):
                said.append((clip_id, text, meanings[text], read))
        for number, (clip_id, text, meaning, read) in enumerate(said):
            yield Trial(clip_id, name, COMMANDS, text, meaning, read)
            snr = SNRS_DB[number % len(SNRS_DB)]
            under = functools.partial(noisy, read, noise, clip_id, snr)
            yield Trial(f"{clip_id}+{snr:.0f}dB", name, NOISY_COMMANDS, text, meaning, under)


def loose_commands(
    files: Mapping[str, Path], graphs: Mapping[str, CommandGraph], folder: Path, *, count: int
) -> Iterator[Trial]:
    """Sentences of the grammars with a word too many or too few: the meaning stays."""
    for name in files:
        if name in (DIGITS, SENTENCES):
            continue
        rng = random.Random(f"{SEED}:{name}")
        meanings: dict[str, str] = {}
        for sample in load_commands([files[name]]).sample(3 * count, seed=SEED + 1):
            words = sample.text.split()
            small = [at for at, word in enumerate(words) if word in DROPPED]
            if small and rng.random() < 0.5:
                del words[rng.choice(small)]
            else:
                words.insert(rng.randrange(len(words) + 1), rng.choice(FILLERS))
            if len(meanings) < count and graphs[name].interpret(words) is None:
                meanings[" ".join(words)] = meaning_of(sample.intent, sample.slots)
        for clip_id, text, read in spoken(list(meanings), folder):
            yield Trial(clip_id, name, LOOSE_COMMANDS, text, meanings[text], read)


def other_speech(
    graphs: Mapping[str, CommandGraph],
    own: Sequence[Trial],
    texts: Path,
    folder: Path,
    data: Path,
    *,
    count: int,
) -> Iterator[Trial]:
    """What is no command of a grammar; each recording is heard with two of the grammars."""
    from earshot.train.text import is_test, load_texts

    rng = random.Random(SEED)
    noise = load_noise("train", data=data)
    sounds: list[tuple[str, str, str, Callable[[], Samples]]] = []  # kind, id, text, reader
    # Not of the training split: what a network was trained on it tells apart too well.
    read = list(REAL_SETS["librispeech"](data, ["dev"]).clips)
    sounds += [("read speech", c.id, c.text, c.read) for c in rng.sample(read, count)]
    held_out = [item.text for item in load_texts(texts) if not is_test(item.template)]
    for number, (clip_id, text, clean) in enumerate(
        spoken(rng.sample(held_out, 2 * count), folder)
    ):
        snr = SNRS_DB[number // 2 % len(SNRS_DB)]
        under = functools.partial(noisy, clean, noise, clip_id, snr)
        sounds.append(("assistant sentences", clip_id, text, under if number % 2 else clean))
    words = [row for name in WORD_SETS for row in training_words(data / name)]
    sounds += [("single words", *word) for word in rng.sample(words, count)]
    for number in range(count // 2):
        stretch = functools.partial(
            noise.stretch, 3 * SAMPLE_RATE_HZ, clip_id=str(number), snr_db=0.0, draw=1
        )
        sounds.append(("noise alone", f"noise-{number}", "", stretch))
    names = list(graphs)
    for number, (kind, clip_id, text, reader) in enumerate(sounds):
        for name in (names[number % len(names)], names[(number + 3) % len(names)]):
            if graphs[name].interpret(text.split()) is None:
                yield Trial(clip_id, name, kind, text, None, reader)
    # Commands of another grammar are as like a command as other speech can be.
    for number, trial in enumerate(own):
        name = names[number % len(names)]
        outside = graphs[name].interpret(trial.text.split()) is None
        related = name == trial.grammar or {name, trial.grammar} in ALIKE
        if not related and trial.kind == COMMANDS and outside:
            yield Trial(trial.id, name, "other commands", trial.text, None, trial.read)


def training_words(folder: Path) -> Iterator[tuple[str, str, Callable[[], Samples]]]:
    """(id, text, reader) of the training split's English recordings of one word."""
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["split"] == "train" and row.get("lang") == "en" and row.get("text"):
            yield row["id"], row["text"], functools.partial(read_clip, folder / row["audio"])


# ---------------------------------------------------------------- hearing


class Ears:
    """A model that hears trials with one search setting."""

    def __init__(
        self, model: Path, graphs: Mapping[str, CommandGraph], config: CommandConfig
    ) -> None:
        native = open_model(model)
        self._graphs, self._config = graphs, config
        self._engines = {
            name: Recognizer(native, commands=graph, command_config=config).engine
            for name, graph in graphs.items()
        }

    def hear(self, trials: Sequence[Trial], *, nearest: bool = True) -> list[Heard]:
        """Decode some trials of one grammar together; without `nearest` there is one look only."""
        graph, engine = self._graphs[trials[0].grammar], self._engines[trials[0].grammar]
        found = hear(
            engine, [trial.read() for trial in trials], self._config.looks if nearest else ()
        )
        return [
            weigh(
                looks,
                graph,
                kind=trial.kind,
                grammar=trial.grammar,
                is_command=trial.meaning is not None,
                is_right=functools.partial(is_meant, trial.meaning),
                nearest=nearest,
            )
            for looks, trial in zip(found, trials, strict=True)
        ]

    def hear_all(self, trials: Sequence[Trial], *, nearest: bool = True) -> list[Heard]:
        """Decode all trials, those of a grammar and of like length together."""
        heard: list[Heard] = []
        by_grammar: dict[str, list[Trial]] = defaultdict(list)
        for trial in trials:
            by_grammar[trial.grammar].append(trial)
        for mine in by_grammar.values():
            for start in range(0, len(mine), BATCH):
                heard += self.hear(mine[start : start + BATCH], nearest=nearest)
                progress(f"hearing {len(heard)}/{len(trials)}")
        progress(None)
        return heard


def right_share(heard: Sequence[Heard]) -> float:
    """Mean over kinds and grammars of the share whose best interpretation is right."""
    groups: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for one in heard:
        groups[one.kind, one.grammar].append(one.right)
    return float(np.mean([np.mean(group) for group in groups.values()]))


def choose_search(
    model: Path, graphs: Mapping[str, CommandGraph], trials: Sequence[Trial]
) -> tuple[CommandConfig, list[dict[str, Any]]]:
    """The best search setting, changed one value at a time, and all that were tried."""
    best = CommandConfig()
    tried: list[dict[str, Any]] = []
    by_phones = bool(open_model(model).phones)
    searches, (paths, numbers) = (PHONE_SEARCHES, PHONE_PATHS) if by_phones else (SEARCHES, PATHS)

    def measure(config: CommandConfig) -> float:
        share = right_share(Ears(model, graphs, config).hear_all(trials, nearest=False))
        row = {name: getattr(config, name) for name in (*(name for name, _ in searches), paths)}
        tried.append({**row, "right": round(share, 4)})
        print("  ".join(f"{name} {value}" for name, value in tried[-1].items()), flush=True)
        return share

    highest = measure(best)
    for name, values in searches:
        for value in values:
            config = replace(best, **{name: value})
            if config == best:
                continue
            share = measure(config)
            if share > highest + MIN_GAIN:
                best, highest = config, share
    for number in numbers:
        measure(replace(best, **{paths: number}))
    return best, tried


# ---------------------------------------------------------------- confidence


def calibration_error(heard: Sequence[Heard], config: CommandConfig) -> float:
    """Mean distance of confidence from the share that is right, over ten groups, as weighed."""
    decided = [confidence_of(one, config) for one in heard]
    table = np.column_stack([decided, balanced_weights(heard)])
    groups = np.array_split(table[np.argsort(table[:, 0])], 10)
    apart = [abs(np.average(group[:, 0] - group[:, 1], weights=group[:, 2])) for group in groups]
    return float(np.average(apart, weights=[group[:, 2].sum() for group in groups]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, help="a .ear file; without it, the embedded model")
    parser.add_argument("--data", type=Path, help="recordings; default EARSHOT_DATA")
    parser.add_argument(
        "--texts",
        type=Path,
        default=Path("exp/assistant-en/text/heldout.jsonl"),
        help="held-out sentences of the model's training; the validation half is used",
    )
    parser.add_argument("--folder", type=Path, default=Path("exp/calibration"), help="for clips")
    parser.add_argument("--count", type=int, default=80, help="commands of each grammar")
    parser.add_argument("--false-accepts", type=float, default=FALSE_ACCEPTS, help="of every kind")
    parser.add_argument("--keep-search", action="store_true", help="only weights and threshold")
    parser.add_argument("--output", type=Path, help="the model with the values in it; may be it")
    parser.add_argument("--json", type=Path, help="write everything here too")
    options = parser.parse_args()
    data = data_folder(options.data)
    model = options.model or embedded_model_path()
    options.folder.mkdir(parents=True, exist_ok=True)

    started = time.perf_counter()
    tokenizer = tokenizer_of(model)
    files = grammar_files(options.folder, data)
    graphs = {
        name: compile_commands(load_commands([f]), tokenizer, lexicon=lexicon_of(model))
        for name, f in files.items()
    }
    clips = options.folder / "spoken"
    own = [
        replace(trial, read=functools.cache(trial.read))  # heard once for every setting
        for trial in own_commands(files, clips, data, count=options.count)
    ]
    config, tried = CommandConfig(), []
    if not options.keep_search:
        config, tried = choose_search(model, graphs, own)
    trials = [
        *own,
        *loose_commands(files, graphs, clips, count=options.count // 2),
        *other_speech(graphs, own, options.texts, clips, data, count=options.count),
    ]
    heard = Ears(model, graphs, config).hear_all(trials)
    config = calibrated(config, heard, false_accepts=options.false_accepts)
    rows = acceptance(heard, config)
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    for field in fields(config):
        print(f"{field.name}: {getattr(config, field.name)}")
    if options.output:
        write_with_metadata(ModelFile(model), options.output, {METADATA_KEY: as_metadata(config)})
    result = {
        "model": model.name,
        "config": asdict(config),
        "searches": tried,
        "groups": rows,
        "calibration_error": round(calibration_error(heard, config), 4),
        "seconds": round(time.perf_counter() - started),
    }
    if options.json:
        with replaced_file(options.json) as file:
            file.write(json.dumps(result, indent=1).encode() + b"\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
