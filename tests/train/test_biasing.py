"""Lists to train with, and the adapter: it learns, goes on, and leaves the recogniser alone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

pytest.importorskip("torch")
pytest.importorskip("lhotse")

import torch

from earshot import Recognizer
from earshot.compress.export import export_transducer
from earshot.core.errors import ConfigError
from earshot.data.phones import NUM_PHONE_OUTPUTS
from earshot.data.pronunciation import Lexicon
from earshot.data.tokenizer import Tokenizer
from earshot.modelfile.reader import ModelFile
from earshot.models.biasing import NONE, UNGUIDED, BiasConfig, phrase_windows
from earshot.models.encoder import EncoderConfig
from earshot.models.predictor import PredictorConfig
from earshot.models.transducer import Transducer, TransducerConfig
from earshot.train import biasing
from earshot.train.alignment import emission_frames, label_frames, piece_spans
from earshot.train.cuts import file_cut, write_cuts, write_wav
from earshot.train.phrase_text import PhraseTextConfig, phrase_in, prepare, rare_words
from earshot.train.phrases import ListConfig, PhraseSampler
from earshot.train.pieces import TokenizerConfig, train_pieces
from earshot.train.recipe import Recipe, load_recipe
from earshot.train.text import TextItem, write_texts

REPOSITORY = Path(__file__).parents[2]
TEXTS = ["call anna now", "tell bob miller hello", "the lights are on", "call bob", "anna is home"]
BIAS = BiasConfig(query="audio_and_label", width=8, hidden=16, key_width=8, value_width=8)


@pytest.fixture(scope="module")
def pieces() -> bytes:
    return train_pieces([*TEXTS * 20, "abcdefghijklmnopqrstuvwxyz"], TokenizerConfig(vocab_size=48))


@pytest.fixture(scope="module")
def tokenizer(pieces: bytes) -> Tokenizer:
    return Tokenizer(pieces)


def sampler(tokenizer: Tokenizer, **lists: Any) -> PhraseSampler:
    return PhraseSampler(
        tokenizer, BIAS, ListConfig(**lists), rare=["zorn", "quell", "vax"], texts=TEXTS
    )


# --- lists ----------------------------------------------------------------------------------


def test_every_piece_of_a_listed_phrase_is_found_and_no_other(
    tokenizer: Tokenizer,
) -> None:
    """Oracle: spell the text around the phrase by itself."""
    batch = sampler(tokenizer).batch(TEXTS, ["bob miller", "anna", "bob"])
    rows = [tuple(w) for w in batch.windows.tolist()]
    assert len(rows) == len(set(rows))
    for text, entries in zip(TEXTS, batch.label_entries.tolist(), strict=True):
        want: list[Any] = []
        for part in text.replace("bob miller", "bob_miller").split():
            spelled = part.replace("_", " ")
            windows = phrase_windows(tokenizer.encode(spelled), BIAS)
            want += windows if part in ("anna", "bob", "bob_miller") else [None] * len(windows)
        assert len(want) == len(tokenizer.encode(text))
        found = [None if e == NONE else rows[e] for e in entries[: len(want)]]
        assert found == want
        assert entries[len(want)] == NONE
        assert set(entries[len(want) + 1 :]) <= {UNGUIDED}


def test_lists_grow_and_leave_phrases_out(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    lists = sampler(tokenizer, smallest=2, largest_first=4, largest_last=60, alone_share=0.3)
    early, late, said, alone = [], [], 0, 0
    for _ in range(60):
        _, listed = lists.draw(TEXTS[:1], ["anna"], 0.0, rng)
        early.append(len(listed))
        _, listed = lists.draw(TEXTS[:1], ["anna"], 1.0, rng)
        late.append(len(listed))
        said += "anna" in listed
        alone += not any(f" {p} " in f" {TEXTS[0]} " for p in listed)
    assert max(early) <= 5 < max(late) <= 61
    assert 15 < said < 55
    assert alone > 5


def test_a_list_without_phrases_guides_to_no_bias(
    tokenizer: Tokenizer,
) -> None:
    batch = sampler(tokenizer).batch(TEXTS, [])
    assert batch.windows.shape == (0, BIAS.window)
    assert set(batch.label_entries.flatten().tolist()) == {NONE, UNGUIDED}


def test_lists_that_shrink_are_refused() -> None:
    with pytest.raises(ConfigError, match="they must not fall"):
        ListConfig(smallest=9, largest_first=3)


def test_held_out_words_are_in_no_training_sentence(tmp_path: Path) -> None:
    write_texts([TextItem(t, "command", t) for t in TEXTS], tmp_path / "text" / "train.jsonl")
    config = PhraseTextConfig(hours=1, sentences=300, dev_sentences=100)
    counts = prepare(tmp_path, seed=1, config=config)
    assert counts == {"train": 300, "heldout": 100}
    known = {w for t in TEXTS for w in t.split()}
    trained, held_out = rare_words(known, held_out=config.held_out_words)
    assert not set(trained) & set(held_out)
    assert not known & {*trained, *held_out}
    from earshot.train.text import load_texts

    items = load_texts(tmp_path / "text" / "phrases_train.jsonl")
    phrases = [phrase_in(item.text, item.template) or "" for item in items]
    assert all(phrase and phrase in item.text for phrase, item in zip(phrases, items, strict=True))
    assert not {w for phrase in phrases for w in phrase.split()} & set(held_out)
    assert phrase_in("call anna", "ha:HassTurnOn:x") is None


# --- the adapter ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pieces: bytes) -> Path:
    """A recogniser, texts, and clips of noise that are said to be speech."""
    torch.manual_seed(2)
    out = tmp_path_factory.mktemp("adapter")
    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    model = Transducer(
        TransducerConfig(
            vocab_size=48,
            joiner_width=16,
            phones=True,
            encoder=EncoderConfig(hidden=16, layers=1),
            predictor=PredictorConfig(width=8),
        )
    )
    export_transducer(
        model.eval(), out / "start.ear", name="start",
        pieces=[processor.id_to_piece(i) for i in range(48)], tokenizer=pieces,
        metadata={"licence": "CC0-1.0"},
    )  # fmt: skip
    write_texts([TextItem(t, "command", t) for t in TEXTS], out / "text" / "train.jsonl")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("dev", 3)):
        cuts = []
        for n in range(count):
            path = out / "wav" / f"{split}{n}.wav"
            samples = rng.normal(0, 0.1, 16000 + 800 * n).astype(np.float32)
            write_wav(path, samples)
            carrier, phrase = ("call {}", "bob") if n % 2 else ("{} is home", "anna")
            custom = {"kind": "name", "template": f"phrase:{carrier}"}
            cuts.append(
                file_cut(
                    f"{split}{n}",
                    path,
                    len(samples),
                    text=carrier.format(phrase),
                    speaker="s",
                    custom=custom,
                )
            )
        write_cuts(
            cuts, out / "cuts" / f"phrases_{split}{'_000' if split == 'train' else ''}.jsonl.gz"
        )
    return out


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Recipe:
    base = load_recipe(
        REPOSITORY / "recipes" / "assistant-en-bias.toml",
        [
            f"folder={folder}", f"train.start_from={folder / 'start.ear'}", "train.max_minutes=0",
            "train.max_steps=6", "train.batch_s=4", "train.warmup_steps=2", "adapter.clips=12",
            "train.precision=32-true", "adapter.one_path_until=0.5", "lists.largest_first=6",
            "lists.largest_last=8", "tokenizer.vocab_size=48", "model.vocab_size=48",
            "model.joiner_width=16", "model.encoder.hidden=16",
            "model.encoder.layers=1", "model.predictor.width=8", "model.bias.width=8",
            "model.bias.hidden=16", "model.bias.key_width=8", "model.bias.value_width=8",
        ],
    )  # fmt: skip
    return replace(base, sources={"phrases": base.sources["phrases"]})


@pytest.fixture(scope="module")
def made(recipe: Recipe, folder: Path) -> Path:
    checkpoint = biasing.train(recipe, folder, biasing.freeze(recipe, folder))
    return biasing.export(recipe, folder, checkpoint)


def test_the_recogniser_stays_as_it_was(made: Path, folder: Path) -> None:
    start, biased = ModelFile(folder / "start.ear"), ModelFile(made)
    assert (start.version, biased.version) == (1, 3)
    for tensor in start.tensors:
        assert biased.tensor_bytes(tensor.name) == start.tensor_bytes(tensor.name)
    graphs: Any = biased.header["graphs"]
    for name, graph in dict(start.header["graphs"]).items():  # type: ignore[call-overload]
        assert graphs[name] == graph
    assert biased.header["metadata"]["licence"] == "CC0-1.0"  # type: ignore[index]
    samples = np.random.default_rng(5).normal(0, 0.1, 24000).astype(np.float32)
    said = [
        r.transcribe(samples)
        for r in (
            Recognizer.load(folder / "start.ear"),
            Recognizer.load(made),
            Recognizer.load(made, hotwords=[]),
        )
    ]
    assert said[0] == said[1] == said[2]


def test_all_of_the_biasing_learns(made: Path, recipe: Recipe, folder: Path) -> None:
    saved = torch.load(folder / "checkpoints" / "bias.ckpt", weights_only=False)
    assert saved["step"] == 6
    torch.manual_seed(recipe.train.seed)
    network = biasing.read_transducer(folder / "start.ear", recipe.model)
    fresh = network.bias
    assert fresh is not None
    biasing._start_like(fresh, network)
    same = [n for n, value in fresh.state_dict().items() if torch.equal(value, saved["last"][n])]
    assert same == []


@torch.no_grad()
def test_training_starts_from_what_the_ctc_head_hears() -> None:
    """At first the entry of the piece that CTC hears is the one that is looked at."""
    torch.manual_seed(4)
    bias = BiasConfig(query="audio_and_label")
    network = Transducer(
        TransducerConfig(
            vocab_size=30,
            joiner_width=36,
            encoder=EncoderConfig(hidden=40, layers=1),
            predictor=PredictorConfig(width=8),
            bias=bias,
        )
    ).eval()
    network.ctc.weight *= 6
    assert network.bias is not None
    biasing._start_like(network.bias, network)
    hidden = torch.randn(1, 200, 40)
    table = torch.tensor([[-1, -1, piece] for piece in range(3, 30)])
    looked = network.bias.look_up_audio(hidden, network.bias.encode(table))
    found = looked.log_weights[0, :, 0].argmax(dim=-1)
    logits = network.ctc(hidden)[0][:, [*range(3, 30), 0]]  # no bias stands for blank
    assert float((found == logits.argmax(dim=-1)).float().mean()) > 0.8
    # What an entry adds raises its own piece more than others.
    values = network.bias.audio_values(network.bias.encode(table))
    raised = network.bias.audio.out(values) @ network.joiner.weight.T
    assert float((raised.argmax(dim=1) == table[:, 2]).float().mean()) > 0.8


def test_training_goes_on_and_frozen_frames_are_not_computed_again(
    made: Path, recipe: Recipe, folder: Path
) -> None:
    shards = sorted((folder / "frozen").rglob("*.npz"))
    before = [path.stat().st_mtime_ns for path in shards]
    longer = replace(recipe, train=replace(recipe.train, max_steps=8))
    checkpoint = biasing.train(longer, folder, biasing.freeze(longer, folder))
    assert torch.load(checkpoint, weights_only=False)["step"] == 8
    assert [path.stat().st_mtime_ns for path in shards] == before


def test_biasing_again_replaces_the_first(made: Path, recipe: Recipe, folder: Path) -> None:
    again = replace(
        recipe,
        train=replace(recipe.train, start_from=str(made)),
        export=replace(recipe.export, output="again.ear"),
    )
    out = biasing.export(again, folder, folder / "checkpoints" / "bias.ckpt")
    names = [tensor.name for tensor in ModelFile(out).tensors]
    assert sorted(names) == sorted(tensor.name for tensor in ModelFile(made).tensors)


def test_alignments_are_the_likeliest_path(recipe: Recipe, folder: Path) -> None:
    """Oracle: try every way to place the pieces."""
    from itertools import combinations

    network = biasing.read_transducer(
        folder / "start.ear", replace(recipe.model, bias=BiasConfig())
    )
    network.eval()
    hidden = torch.randn(6, 16)
    pieces = np.array([5, 9, 7], np.int32)
    frames = emission_frames(network, hidden, pieces)
    with torch.no_grad():
        encoded = network.encoder_out(hidden)
        predicted = network.predictor(torch.from_numpy(pieces.astype(np.int64))[None])[0]
        joint = torch.tanh(encoded[:, None] + predicted)
        log_probs = torch.log_softmax(network.joiner(joint), -1).double()

    def score(placed: tuple[int, ...]) -> float:
        total, said = 0.0, 0
        for t in range(6):
            emits = t in placed
            total += float(log_probs[t, said, pieces[said] if emits else 0])
            said += emits
        return total

    every = list(combinations(range(6), 3))
    assert tuple(frames.tolist()) == max(every, key=score)
    # Where sounds say when, the likeliest path among those that agree.
    spans = np.array([[1, 2], [2, 4], [4, 9]])
    agree = [p for p in every if all(a <= t <= b for t, (a, b) in zip(p, spans, strict=True))]
    within = emission_frames(network, hidden, pieces, spans)
    assert tuple(within.tolist()) == max(agree, key=score)
    nowhere = np.array([[1, 1], [1, 1], [4, 9]])
    assert emission_frames(network, hidden, pieces, nowhere).tolist() == frames.tolist()


@pytest.mark.parametrize("labels", [[2, 1], [1, 1], [1, 2, 2]])
def test_phones_are_found_on_the_likeliest_path(labels: list[int]) -> None:
    """Oracle: every path of the head over phones."""
    from itertools import groupby, product

    rng = np.random.default_rng(len(labels))
    log_probs = np.log(rng.dirichlet(np.ones(3), 6)).astype(np.float32)

    def reads(path: tuple[int, ...]) -> bool:
        return [k for k, _ in groupby(path) if k] == labels

    best = max(
        filter(reads, product(range(3), repeat=6)),
        key=lambda path: sum(log_probs[t, k] for t, k in enumerate(path)),
    )
    runs, t = [], 0
    for label, run in groupby(best):
        length = len(list(run))
        if label:
            runs.append(max(range(t, t + length), key=lambda i: log_probs[i, label]))
        t += length
    assert label_frames(log_probs, labels).tolist() == runs
    assert len(label_frames(log_probs[: len(labels) - 1], labels)) == 0


def test_a_piece_may_be_emitted_about_when_its_last_phone_is_heard(pieces: bytes) -> None:
    tokenizer, lexicon = Tokenizer(pieces), Lexicon.load()
    text = "call anna now"
    phones = [p for word in text.split() for p in lexicon.pronounce(word)[0]]
    log_probs = np.full((80, NUM_PHONE_OUTPUTS), -8.0, np.float32)
    log_probs[:, 0] = -0.01
    for n, phone in enumerate(phones):
        log_probs[5 + 6 * n, phone] = 0.0
    spans = piece_spans(text, tokenizer, lexicon, log_probs)
    assert spans is not None and len(spans) == len(tokenizer.encode(text))
    ends = np.cumsum([len(tokenizer.encode(word)) for word in text.split()]) - 1
    heard = np.cumsum([len(lexicon.pronounce(word)[0]) for word in text.split()]) - 1
    assert (spans[ends, 0] <= 5 + 6 * heard).all() and (5 + 6 * heard <= spans[ends, 1]).all()
    assert (np.diff(spans, axis=0) >= 0).all()
    assert piece_spans("", tokenizer, lexicon, log_probs) is None
    assert piece_spans(text, tokenizer, lexicon, log_probs[:5]) is None


def test_entries_cannot_sound_where_no_phones_are_heard() -> None:
    with pytest.raises(ConfigError, match="but the model hears no phones"):
        load_recipe(REPOSITORY / "recipes" / "assistant-en-bias.toml", ["model.phones=false"])


@pytest.mark.parametrize("missing", ["train.start_from=", "model.bias.query=none"])
def test_an_adapter_needs_a_recogniser_and_a_query(missing: str) -> None:
    with pytest.raises(ConfigError, match="an adapter needs a recogniser and a query"):
        load_recipe(REPOSITORY / "recipes" / "assistant-en-bias.toml", [missing])
