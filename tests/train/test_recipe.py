"""Recipes: every wrong key or value is named, with what to do."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

from earshot.core.errors import ConfigError
from earshot.train.recipe import load_any_recipe, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = 'name = "x"\nfolder = "exp/x"\n[train]\nmax_steps = 10\n[sources.read]\nfirst = 1\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "r.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_load(path: Path) -> None:
    assert load_any_recipe(path).name == path.stem


def test_overrides_reach_nested_values(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path, SMALL),
        [
            "model.encoder.hidden=64",
            "synthesis.rate=[0.9, 1.1]",
            "sources.read.last=0.5",
            "name=y",
            "librispeech.dev_parts=['dev-other']",
        ],
    )
    assert recipe.model.encoder.hidden == 64
    assert recipe.synthesis.rate == (0.9, 1.1)
    assert recipe.sources["read"].last == 0.5
    assert recipe.name == "y"
    assert recipe.librispeech.dev_parts == ("dev-other",)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_step=3", "train: unknown key 'max_step'; did you mean 'max_steps'?"),
        ("train.max_steps=many", "train: max_steps: is 'many'; it must be of type int."),
        ("train.max_steps=true", "train: max_steps: is True; it must be of type int."),
        ("train=3", "train: is 3; it must be a section."),
        (
            "synthesis.rate=[1.0]",
            "synthesis: rate: is [1.0]; it must be of type tuple[float, float].",
        ),
        ("model.predictor.type=gru", "model: predictor: type: is 'gru'; it must be of type"),
        ("train.max_minutes=3", "exactly one must be above 0"),
        ("model.vocab_size=100", "model.vocab_size is 100 and tokenizer.vocab_size 384"),
        ("ngrams.order=7", "order must lie in 1..6"),
        ("ngrams.weight=11", "lm.weight is 11.0; it must lie in 0..10"),
        ("train", "must read section.key=value"),
        ("export.codec=int8", "export: codec: is 'int8'; it must be of type Literal"),
        ("train.warmup_steps=0", "train.warmup_steps is 0; it must be above 0"),
        ("augment.full=0.01", "they must satisfy 0 <= start < full <= 1"),
        ("sources.read.first=-1", "neither may be negative"),
        ("model.encoder.stack=2", "it must be 4"),
        ("model.rivals.scale=0", "model.rivals.scale is 0.0; it must lie in 0.001..10.0"),
        ("commands.rivals=-1", "commands.rivals is -1; it must not be negative"),
        ("commands.rivals=4", "rivals are commands, and told apart by phones"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, SMALL), [override])
    assert message in str(caught.value)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_recipe(write(tmp_path, "name = "))
    with pytest.raises(ConfigError, match="missing 1 required"):
        load_recipe(write(tmp_path, SMALL.replace('folder = "exp/x"\n', "")))
