"""Rescoring against every path listed, and the engine's model against sums written another way."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lattices import lattices, make, paths, said, score
from scorers import HashScorer

from earshot.core.errors import ConfigError, ModelFileError
from earshot.data.scoring import count_words
from earshot.decode import rescoring
from earshot.decode.language import UNKNOWN_LOG_PROB, EarScorer, sentence_scores
from earshot.decode.lattice import Lattice, nbest
from earshot.decode.rescoring import (
    COMPARED,
    LocalRescorer,
    RescoringConfig,
    rank_paths,
    rescore,
    stored_config,
)
from earshot.modelfile.codecs import encode_u8
from earshot.modelfile.writer import write_model

WIDE = {"beam": 1e5, "max_histories": 1000, "max_moves": 100_000, "order": 100}
weights = st.sampled_from([(0.0, 0.0), (0.5, 0.0), (1.0, -0.7), (0.3, 2.0)])


def every_reading(
    lattice: Lattice, scorer: HashScorer, language: float, word: float
) -> dict[tuple[str, ...], float]:
    out: dict[tuple[str, ...], float] = {}
    for path in paths(lattice):
        words = said(lattice, path)
        total = score(lattice, path) + language * scorer.sentence(words) + word * len(words)
        out[words] = max(total, out.get(words, -np.inf))
    return out


@given(lattices(max_states=8), weights)
def test_readings_equal_those_of_every_path(lattice: Lattice, weight: tuple[float, float]) -> None:
    config = RescoringConfig(language=weight[0], word=weight[1], **WIDE)
    scorer = HashScorer()
    found = rescore([lattice], scorer, config, nbest=1000)[0]
    want = every_reading(lattice, scorer, *weight)
    assert {h.words: pytest.approx(h.score, abs=1e-6) for h in found} == want
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    for h in found:
        assert said(lattice, h.arcs) == h.words
        assert h.first == pytest.approx(score(lattice, h.arcs), abs=1e-6)
        assert h.language == pytest.approx(scorer.sentence(h.words), abs=1e-6)


@given(lattices(max_states=7), weights, st.sampled_from([0.3, 1.0]))
def test_the_fewest_expected_errors_are_those_over_every_reading(
    lattice: Lattice, weight: tuple[float, float], scale: float
) -> None:
    config = RescoringConfig(language=weight[0], word=weight[1], risk=scale, **WIDE)
    scorer = HashScorer()
    readings = every_reading(lattice, scorer, *weight)
    kept = sorted(readings.items(), key=lambda item: -item[1])[:COMPARED]
    highest = kept[0][1]
    mass = {words: math.exp(scale * (score - highest)) for words, score in kept}
    total = sum(mass.values())

    def errors(one: tuple[str, ...], other: tuple[str, ...]) -> int:
        texts = (" ".join(word.replace(" ", "") for word in words) for words in (one, other))
        return count_words(*texts).errors

    want = {
        words: sum(m * errors(other, words) / total for other, m in mass.items()) for words in mass
    }
    found = rescore([lattice], scorer, config, nbest=1000)[0]
    assert [h.errors for h in found] == sorted(h.errors for h in found)
    if len(readings) <= COMPARED:  # ties at the last place may be kept either way
        assert {h.words: pytest.approx(h.errors, abs=1e-6) for h in found} == want
    assert len(found) == len(kept)


def test_words_that_many_readings_share_win_over_the_likeliest_reading() -> None:
    arcs = [
        (0, 1, "stop", 0, 1, 0.0, 0.0), (0, 2, "turn", 0, 1, -0.3, 0.0),
        (1, 3, "it", 1, 2, 0.0, 0.0), (2, 3, "on", 1, 2, 0.0, 0.0), (2, 3, "off", 1, 2, -0.1, 0.0),
    ]  # fmt: skip
    lattice = make(arcs)
    by_score = RescoringConfig(language=0.0, **WIDE)
    assert rescore([lattice], HashScorer(), by_score)[0][0].text == "stop it"
    by_errors = RescoringConfig(language=0.0, risk=1.0, **WIDE)
    best = rescore([lattice], HashScorer(), by_errors)[0][0]
    assert best.text == "turn on"
    assert rank_paths(nbest(lattice, 3), [0.0] * 3, by_errors)[0].words == best.words


@given(lattices(max_states=8), weights, st.integers(1, 3))
def test_merging_is_exact_for_a_model_that_hears_as_little(
    lattice: Lattice, weight: tuple[float, float], memory: int
) -> None:
    """A model of `order - 1` words cannot tell merged histories apart: the best stays the best."""
    config = RescoringConfig(language=weight[0], word=weight[1], **{**WIDE, "order": memory + 1})
    scorer = HashScorer(memory)
    best = rescore([lattice], scorer, config)[0][0]
    want = every_reading(lattice, scorer, *weight)
    assert best.score == pytest.approx(max(want.values()), abs=1e-6)


@given(st.lists(lattices(), min_size=1, max_size=4), st.integers(1, 3))
def test_lattices_together_are_as_alone(many: list[Lattice], memory: int) -> None:
    config = RescoringConfig(language=0.7, word=0.2, max_histories=4, beam=6.0, order=2)
    together = rescore(many, HashScorer(memory), config)
    assert together == [rescore([lattice], HashScorer(memory), config)[0] for lattice in many]


@given(lattices(max_states=8), st.integers(1, 4), st.floats(0.01, 5))
def test_narrow_limits_still_give_a_path(lattice: Lattice, most: int, beam: float) -> None:
    config = RescoringConfig(language=1.0, max_histories=most, max_moves=most, beam=beam, order=2)
    scorer = HashScorer()
    found = rescore([lattice], scorer, config, nbest=3)[0]
    assert 1 <= len(found) <= 3
    assert max(scorer.batches, default=0) <= most
    for h in found:
        assert tuple(h.arcs) in set(paths(lattice))


@given(lattices())
def test_without_weights_the_first_pass_stands(lattice: Lattice) -> None:
    config = RescoringConfig(language=0.0, word=0.0, **WIDE)
    found = rescore([lattice], HashScorer(), config, nbest=5)[0]
    want = nbest(lattice, 5)
    assert [h.score for h in found] == pytest.approx([path.score for path in want], abs=1e-6)


def test_beginnings_are_shared() -> None:
    """Three words in a row, two arcs each, the same two words: 2 + 4 + 8 histories, no more."""
    arcs = [
        (i, i + 1, word, 5 * i, 5 * i + 5, -0.1 * j, 0.0)
        for i in range(3)
        for j, word in enumerate(("a", "b"))
    ]
    scorer = HashScorer()
    rescore([make(arcs)], scorer, RescoringConfig(language=0.1, **WIDE))
    assert scorer.batches == [2, 4, 8]
    scorer.batches.clear()
    rescore([make(arcs)], scorer, RescoringConfig(language=0.1, **{**WIDE, "order": 2}))
    assert scorer.batches == [2, 4, 4]


def test_paths_are_ranked_by_the_same_sum() -> None:
    arcs = [(0, 1, "a", 0, 5, -1.0, 0.0), (0, 1, "b", 0, 5, -1.2, 0.0), (0, 1, "c", 0, 5, -3, 0)]
    lattice = make(arcs)
    scorer = HashScorer()
    config = RescoringConfig(language=0.9, word=0.5, **WIDE)
    whole = rescore([lattice], scorer, config)[0]
    listed = nbest(lattice, 10)
    scores = sentence_scores(scorer, [path.words for path in listed])
    ranked = rank_paths(listed, scores, config)
    assert [h.words for h in ranked] == [h.words for h in whole]
    assert [h.score for h in ranked] == pytest.approx([h.score for h in whole])


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=5), max_size=6))
def test_whole_sentences(sentences: list[list[str]]) -> None:
    scorer = HashScorer()
    got = sentence_scores(scorer, sentences)
    assert got == pytest.approx([scorer.sentence(tuple(s)) for s in sentences])
    assert sum(scorer.batches) == len({tuple(s[:i]) for s in sentences for i in range(1, 6)
                                       if len(s) >= i})  # fmt: skip


def test_settings_out_of_range() -> None:
    for name, value in (
        ("language", -0.1), ("language", float("nan")), ("word", 11), ("order", 1), ("beam", 0),
        ("max_histories", 0), ("max_moves", 0),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"rescoring\.{name} is"):
            RescoringConfig(**{name: value})
    with pytest.raises(ValueError, match="at least 1"):
        rescore([make([(0, 1, "a", 0, 1, 0.0, 0.0)])], HashScorer(), RescoringConfig(), nbest=0)


# --- the engine's model ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file with random weights and real word pieces, made without torch's training."""
    torch = pytest.importorskip("torch", reason="the network is described by torch")
    from earshot.compress.language_export import export_language_model
    from earshot.models.language_model import LanguageModel, LanguageModelConfig
    from earshot.train.pieces import train_pieces
    from earshot.train.recipe import TokenizerConfig

    sentences = ["turn on the light", "turn off the fan", "what time is it"] * 4
    pieces = train_pieces(sentences, TokenizerConfig(vocab_size=58))
    torch.manual_seed(1)
    model = LanguageModel(
        LanguageModelConfig(vocab_size=58, width=32, layers=2, heads=2, inner=32, window=16)
    ).eval()
    path = tmp_path_factory.mktemp("lm") / "tiny.ear"
    export_language_model(
        model,
        path,
        name="tiny",
        tokenizer=pieces,
        metadata=RescoringConfig(language=0.25, word=-0.5).as_metadata(),
    )
    return path


def test_words_score_as_the_pieces_of_the_whole_sentence(tiny: Path) -> None:
    scorer = EarScorer(tiny)
    words = ["turn", "off", "the", "light"]
    state, total = scorer.start(), 0.0
    for word in words:
        ((nats, state),) = scorer.extend([(state, word)])
        total += nats
    total += scorer.finish([state])[0]
    ids = [1, *(i for word in words for i in scorer._tokenizer.encode(word))]
    rows = scorer._graph.step(np.array(ids, np.int32))["log_probs"]
    want = sum(float(row[i]) for row, i in zip(rows, [*ids[1:], 1], strict=True))
    assert total == pytest.approx(want, abs=1e-4)
    assert sentence_scores(scorer, [words, []])[0] == pytest.approx(want, abs=1e-4)


def test_a_state_can_be_gone_on_from_twice(tiny: Path) -> None:
    scorer = EarScorer(tiny)
    start = scorer.start()
    first = scorer.extend([(start, "turn"), (start, "what")])
    again = scorer.extend([(start, "what"), (start, "turn")])
    assert [n for n, _ in first] == [n for n, _ in reversed(again)]
    after = [scorer.extend([(first[0][1], "on")])[0][0] for _ in range(2)]
    assert after[0] == after[1]
    assert scorer.extend([]) == []


def test_letters_that_the_model_never_saw_cost_a_constant(tiny: Path) -> None:
    scorer = EarScorer(tiny)
    ((nats, _),) = scorer.extend([(scorer.start(), "ж")])
    assert nats <= UNKNOWN_LOG_PROB / 2
    assert np.isfinite(nats)


def test_weights_travel_with_the_model(tiny: Path, tmp_path: Path) -> None:
    assert stored_config(tiny) == RescoringConfig(language=0.25, word=-0.5)
    lattice = make([(0, 1, "turn", 0, 5, -1.0, 0.0), (0, 1, "what", 0, 5, -1.0, 0.0)])
    rescored = LocalRescorer(tiny).rescore(lattice)
    assert rescored.note.status == "rescored"
    assert rescored.note.model == "tiny"
    assert len(rescored.hypotheses) == 2
    best = rescored.hypotheses[0]
    assert best.score == pytest.approx(best.first + 0.25 * best.language - 0.5)


@pytest.mark.parametrize(
    "stored",
    ["no json", "[]", '{"langauge": 1}', '{"language": "1"}', '{"language": 99}',
     '{"order": 4.5}', '{"order": true}', '{"language": NaN}'],
)  # fmt: skip
def test_weights_that_cannot_be_used_are_refused(stored: str, tmp_path: Path) -> None:
    path = tmp_path / "m.ear"
    write_model(
        path,
        name="m",
        graphs={},
        tensors={"t": encode_u8(b"x")},
        metadata={rescoring.METADATA_KEY: stored},
    )
    with pytest.raises(ModelFileError, match="metadata 'rescoring' cannot be used"):
        stored_config(path)


def test_a_file_that_is_no_language_model(tmp_path: Path) -> None:
    path = tmp_path / "m.ear"
    write_model(path, name="m", graphs={}, tensors={"t": encode_u8(b"x")})
    assert stored_config(path) is None
    with pytest.raises(ModelFileError, match="no language model"):
        EarScorer(path)
    with pytest.raises(ModelFileError, match="no such file"):
        EarScorer(tmp_path / "none.ear")
