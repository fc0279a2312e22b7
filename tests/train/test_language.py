"""Training a language model: batches, what is held out, and a recipe from text to file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earshot.core.errors import ConfigError
from earshot.decode.language import EarScorer, sentence_scores
from earshot.decode.risk import edit_distances
from earshot.train import language_text, text
from earshot.train.language import pack, run_language
from earshot.train.recipe import LanguageRecipe, Recipe, load_any_recipe, load_recipe
from earshot.train.rescoring_weights import Readings, WeightsConfig, fit_weights, tune

pytestmark = pytest.mark.train

RECIPE = """
kind = "language-model"
name = "tiny"
folder = "{folder}"

[tokenizer]
vocab_size = {pieces}

[model]
vocab_size = {pieces}
width = 16
layers = 1
heads = 2
inner = 16
window = 8

[train]
max_steps = 4
batch_pieces = 64
precision = "32-true"
"""


@given(
    st.lists(st.lists(st.integers(3, 20), max_size=9), max_size=12),
    st.integers(1, 40),
    st.integers(0, 5),
)
def test_every_sentence_is_in_one_batch_with_its_marks(
    sentences: list[list[int]], most: int, seed: int
) -> None:
    seen = []
    for inputs, targets in pack(sentences, most, random.Random(seed)):
        assert inputs.shape == targets.shape
        assert inputs.numel() <= max(most, inputs.shape[1])
        for row, wanted in zip(inputs.tolist(), targets.tolist(), strict=True):
            said = [piece for piece in wanted if piece >= 0]
            assert said[-1] == 1
            assert row[: len(said)] == [1, *said[:-1]]  # each piece is told from those before it
            seen.append(said[:-1])
    assert sorted(seen) == sorted(sentences)


@given(st.floats(0, 4), st.integers(0, 100))
def test_repeats(count: float, seed: int) -> None:
    items = [text.TextItem(str(i), "word", str(i)) for i in range(50)]
    got = list(language_text.epoch(items, {"word": count}, random.Random(seed)))
    assert set(got) <= {item.text for item in items}
    for item in items:
        assert int(count) <= got.count(item.text) <= int(count) + 1
    assert list(language_text.epoch(items, {}, random.Random(seed))) == [i.text for i in items]


def test_nothing_that_is_held_out_is_trained_on(tmp_path: Path) -> None:
    """A sentence that one template holds out and another trains on is in neither's training."""
    folder = tmp_path / "text"
    held = [text.TextItem("lights off", "command", "ha:x"), text.TextItem("stop", "word", "word:s")]
    text.write_texts(held, folder / "heldout.jsonl")
    kept = [text.TextItem("lights on", "command", "ha:y")]
    text.write_texts(kept, folder / "language_train.jsonl")
    train, validation = language_text.load(tmp_path, language_text.LanguageTextConfig(), seed=1)
    assert train == kept
    assert not any(text.is_test(item.template) for item in validation)
    assert {item.text for item in validation}.isdisjoint(item.text for item in train)


def test_kinds_of_recipes(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.format(folder=tmp_path, pieces=57))
    assert isinstance(load_any_recipe(path), LanguageRecipe)
    with pytest.raises(ConfigError, match="of kind 'language-model'"):
        load_recipe(path)
    with pytest.raises(ConfigError, match="kind"):
        load_any_recipe(path, ["kind=other"])
    with pytest.raises(ConfigError, match="must be equal"):
        load_any_recipe(path, ["model.vocab_size=60"])
    with pytest.raises(ConfigError, match="exactly one"):
        load_any_recipe(path, ["train.max_minutes=3"])
    with pytest.raises(ConfigError, match="did you mean 'layers'"):
        load_any_recipe(path, ["model.layer=3"])
    root = Path(__file__).resolve().parents[2] / "recipes"
    assert isinstance(load_any_recipe(root / "rescoring-lm.toml"), LanguageRecipe)
    assert isinstance(load_any_recipe(root / "assistant-en.toml"), Recipe)


def test_a_recipe_from_text_to_a_model_that_scores(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.format(folder=tmp_path / "exp", pieces=57))
    recipe = load_any_recipe(path)
    assert isinstance(recipe, LanguageRecipe)
    folder = tmp_path / "exp" / "text"
    items = [text.TextItem(t, "word", f"word:{t}") for t in ("turn on", "turn off", "stop")] * 4
    text.write_texts(items, folder / "language_train.jsonl")
    text.write_texts([text.TextItem("go on", "word", "word:go")], folder / "heldout.jsonl")
    made = run_language(recipe, stages=["tokenizer", "train", "export"])
    scorer = EarScorer(made)
    scores = sentence_scores(scorer, [["turn", "on"], ["go"]])
    assert all(-100 < nats < 0 for nats in scores)
    state = torch.load(tmp_path / "exp/checkpoints/last.ckpt", weights_only=False)
    assert state["global_step"] == 4
    again = run_language(recipe, stages=["train", "export"])  # done already: goes on from there
    assert sentence_scores(EarScorer(again), [["turn", "on"], ["go"]]) == scores
    with pytest.raises(ConfigError, match="unknown"):
        run_language(recipe, stages=["synthesis"])


def test_weights_are_those_with_the_fewest_errors() -> None:
    """The first pass prefers what is wrong; the language model knows better from 0.5 on."""
    import numpy as np

    flat = np.zeros((2, 2))
    readings = [
        Readings(
            np.array([0.0, -1.0]), np.array([-4.0, -2.0]), np.array([2.0, 2.0]),
            np.array([1.0, 0.0]), flat, 2,
        )
    ] * 5  # fmt: skip
    grid = {"languages": (0.0, 0.25, 0.75, 1.0), "words": (0.0,)}
    config, errors = fit_weights(readings, **grid, risks=(0.0,))
    assert errors[:, 0, 0].tolist() == [5, 5, 0, 0]
    assert (config.language, config.word, config.risk) == (1.0, 0.0, 0.0)  # its neighbours, too


def test_readings_are_chosen_by_expected_errors_where_that_is_better() -> None:
    """The best by score is wrong in both words; the two behind it agree on the first."""
    import numpy as np

    sentences = (("a", "b"), ("c", "d"), ("c", "e"))
    readings = [
        Readings(
            np.array([0.0, -0.2, -0.3]), np.zeros(3), np.full(3, 2.0),
            np.array([2.0, 0.0, 1.0]), edit_distances(sentences), 2,
        )
    ] * 3  # fmt: skip
    config, errors = fit_weights(readings, languages=(0.0,), words=(0.0,), risks=(0.0, 0.5, 1.0))
    assert errors[0, 0].tolist() == [6, 0, 0]
    assert config.risk == 1.0


def test_weights_are_not_learned_from_what_nobody_heard(tmp_path: Path) -> None:
    import json
    import wave

    with wave.open(str(tmp_path / "silence.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps({"audio": "silence.wav", "text": "turn on"}) + "\n")
    with pytest.raises(ConfigError, match="heard nothing in 1 sentences"):
        tune(tmp_path / "none.ear", manifest, WeightsConfig())
