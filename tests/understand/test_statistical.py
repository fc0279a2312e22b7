"""Statistical understanding: its network, what it learns, its file and its confidence."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot.core.errors import ConfigError, ModelFileError
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model
from earshot.understand.labelled import LabelledSentence
from earshot.understand.network import (
    IMPOSSIBLE,
    Activations,
    Gains,
    Vocabulary,
    Weights,
    best_labels,
    forward,
    pair_features,
    word_features,
)
from earshot.understand.statistical import (
    Calibration,
    StatisticalModel,
    allowed_moves,
    labels_of,
    packed,
    rounded,
    table_codes,
    unpacked,
)
from earshot.understand.training import (
    TrainingConfig,
    backward,
    hold_out,
    label_gradient,
    train_model,
)

ROOMS = ("kitchen", "bathroom", "living room", "guest room", "cellar", "garden")
THINGS = ("lights", "fan", "heater", "radio")
SENTENCES = [["turn", "on", "the", "lights"], ["stop"], ["turn", "the", "kitchen", "fan", "off"]]


def sentence(text: str, intent: str | None) -> LabelledSentence:
    """Words in capitals are a room's; "living room" is LIVING ROOM."""
    words = text.split()
    labels, inside = [], False
    for word in words:
        label = "O" if word.islower() else "I-room" if inside else "B-room"
        labels.append(label)
        inside = not word.islower()
    return LabelledSentence(tuple(word.lower() for word in words), intent, tuple(labels))


@pytest.fixture(scope="module")
def corpus() -> list[LabelledSentence]:
    rows = []
    for room, thing in itertools.product(ROOMS, THINGS):
        rows.append(sentence(f"turn on the {thing} in the {room.upper()}", "on"))
        rows.append(sentence(f"please switch the {room.upper()} {thing} on", "on"))
        rows.append(sentence(f"turn off the {thing} in the {room.upper()}", "off"))
        rows.append(sentence(f"switch the {room.upper()} {thing} off now", "off"))
        rows.append(sentence(f"is the {thing} in the {room.upper()} on", "ask"))
    strange = ("weather", "news", "score", "time", "recipe", "joke", "capital", "price")
    rows += [sentence(f"tell me the {word} of {day}", None) for word in strange for day in strange]
    return rows


@pytest.fixture(scope="module")
def model(corpus: list[LabelledSentence]) -> StatisticalModel:
    learned, held_out = hold_out(corpus)
    config = TrainingConfig(width=16, hidden=32, epochs=20, min_steps=0, batch_size=8)
    return train_model(learned, held_out=held_out, config=config, name="rooms")


def random_network(labels: int, intents: int = 3, *, seed: int = 0) -> tuple[Weights, Vocabulary]:
    rng = np.random.default_rng(seed)
    features = {f for words in SENTENCES for word in words for f in word_features(word)}
    features |= {f for words in SENTENCES for f in pair_features(words)}
    width, hidden = 4, 6
    shapes = {
        "table": (len(features), width),
        "first": (5 * width, hidden),
        "first_bias": (hidden,),
        "second": (3 * hidden, hidden),
        "second_context": (hidden, hidden),
        "second_bias": (hidden,),
        "intent": (2 * width + 2 * hidden, intents),
        "intent_bias": (intents,),
        "label": (2 * hidden, labels),
        "label_bias": (labels,),
        "transition": (labels + 1, labels),
    }
    parts = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return Weights(**parts), Vocabulary(np.array(sorted(features), np.uint32))


def gains_for(size: int, time: int, rng: np.random.Generator) -> Gains:
    def drawn(*shape: int) -> np.ndarray:
        return rng.choice(np.array([0, 1.5], np.float32), shape)

    return Gains(
        drawn(size, time, 1),
        drawn(size, time, 6),
        drawn(size, time, 6),
        drawn(size, 8),
        drawn(size, 12),
    )


# ---------------------------------------------------------------- the network


def test_a_sentence_scores_the_same_alone_and_in_a_batch() -> None:
    weights, vocabulary = random_network(5)
    together = forward(weights, vocabulary.batch(SENTENCES))
    for at, words in enumerate(SENTENCES):
        alone = forward(weights, vocabulary.batch([words]))
        np.testing.assert_allclose(together.intent[at], alone.intent[0], rtol=1e-5, atol=1e-5)
        label = together.label[at, : len(words)]
        np.testing.assert_allclose(label, alone.label[0], rtol=1e-5, atol=1e-5)


def test_unseen_words_are_left_out_and_not_mistaken() -> None:
    weights, vocabulary = random_network(5)
    batch = vocabulary.batch([["zzz", "qqq"]])
    assert len(batch.word_rows) == 0
    assert not vocabulary.knows("zzz") and vocabulary.knows("lights")
    assert np.isfinite(forward(weights, batch).intent).all()


def test_gradients_equal_finite_differences() -> None:
    """Oracle: the loss moved a little in every direction, in double precision of sums."""
    rng = np.random.default_rng(3)
    weights, vocabulary = random_network(5)
    batch = vocabulary.batch(SENTENCES)
    gains = gains_for(*batch.word.shape, rng)
    pull = forward(weights, batch, gains)
    intent = rng.standard_normal(pull.intent.shape).astype(np.float32)
    label = rng.standard_normal(pull.label.shape).astype(np.float32) * batch.mask[:, :, None]

    def value(changed: Weights) -> float:
        seen: Activations = forward(changed, batch, gains)
        return float(
            np.vdot(seen.intent.astype(float), intent) + np.vdot(seen.label.astype(float), label)
        )

    found = backward(weights, batch, pull, gains, intent=intent, label=label)
    assert set(found) == set(Weights.names()) - {"transition"}
    for name, gradient in found.items():
        own = getattr(weights, name)
        for _ in range(6):
            at = tuple(int(rng.integers(n)) for n in own.shape)
            step = np.zeros_like(own)
            step[at] = 1e-2
            up, down = (replace(weights, **{name: own + sign * step}) for sign in (1, -1))
            slope = (value(up) - value(down)) / 2e-2
            assert gradient[at] == pytest.approx(slope, rel=0.05, abs=0.02), (name, at)


def all_labellings(length: int, count: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(count), repeat=length))


def path_score(label: np.ndarray, transition: np.ndarray, path: tuple[int, ...]) -> float:
    score = transition[-1, path[0]] + label[0, path[0]]
    for at in range(1, len(path)):
        score += transition[path[at - 1], path[at]] + label[at, path[at]]
    return float(score)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_label_probabilities_and_the_best_labels_equal_enumeration(seed: int, length: int) -> None:
    """Oracle: every labelling is listed and scored."""
    rng = np.random.default_rng(seed)
    label = rng.standard_normal((length, 3)).astype(np.float32)
    transition = rng.standard_normal((4, 3)).astype(np.float32)
    transition[3, 2] = transition[0, 2] = IMPOSSIBLE
    paths = all_labellings(length, 3)
    scores = np.array([path_score(label, transition, path) for path in paths])
    gold = paths[int(np.argsort(scores)[-2])] if len(paths) > 1 else paths[0]
    padded = np.concatenate([label, rng.standard_normal((2, 3)).astype(np.float32)])
    mask = np.arange(length + 2) < length
    target = np.array([[*gold, 0, 0]])
    nats, by_label, by_move = label_gradient(padded[None], transition, target, mask[None])
    total = np.logaddexp.reduce(scores)
    assert nats == pytest.approx(total - path_score(label, transition, gold), abs=1e-3)

    chance = np.exp(scores - total)
    want, moves = np.zeros((length + 2, 3)), np.zeros((4, 3))
    for path, p in [*zip(paths, chance, strict=True), (gold, -1.0)]:
        for at, name in enumerate(path):
            want[at, name] += p
            moves[path[at - 1] if at else 3, name] += p
    np.testing.assert_allclose(by_label[0], want, atol=1e-4)
    np.testing.assert_allclose(by_move, moves, atol=1e-4)
    best, score = best_labels(label, transition)
    assert tuple(best) == paths[int(scores.argmax())]
    assert score == pytest.approx(scores.max(), abs=1e-4)


def test_a_further_word_follows_only_its_own_slot() -> None:
    names = labels_of(["room", "thing"])
    allowed = allowed_moves(["room", "thing"])
    for before, after in itertools.product(range(len(names) + 1), range(len(names))):
        slot = names[after][2:]
        legal = not names[after].startswith("I") or (
            before < len(names) and names[before] in (f"B-{slot}", f"I-{slot}")
        )
        assert allowed[before, after] == legal


# ---------------------------------------------------------------- learning and using


def test_it_learns_intents_slots_and_what_is_out_of_scope(model: StatisticalModel) -> None:
    found = model.understand("turn on the fan in the guest room")
    assert found.intent == "on"
    assert found.slots["room"].value == "guest room"
    assert found.confidence > 0.5
    assert model.understand("switch the cellar radio off now").intent == "off"
    strange = model.understand("tell me the price of the news")
    assert strange.intent is None and not strange.slots


def test_a_room_that_was_never_said_is_found_by_its_place(model: StatisticalModel) -> None:
    found = model.understand("turn on the lights in the pantry")
    assert found.slots["room"].spoken == "pantry"


def test_the_same_seed_gives_the_same_model(corpus: list[LabelledSentence]) -> None:
    config = TrainingConfig(width=8, hidden=8, min_steps=6, epochs=2)
    one, two = (train_model(corpus[:60], held_out=corpus[60:80], config=config) for _ in range(2))
    np.testing.assert_array_equal(one.weights.table, two.weights.table)
    assert one.calibration == two.calibration


def test_hypotheses_vote_by_their_probability(model: StatisticalModel) -> None:
    heard = [
        ("turn of the lights in the cellar", -3.0),
        ("turn off the lights in the cellar", -3.1),
        ("turn off the lights in the seller", -3.2),
    ]
    found = model.understand_best(heard)
    assert found.intent == "off"
    assert found.slots["room"].value == "cellar"
    shifted = model.understand_best([(text, score - 500) for text, score in heard])
    assert shifted.intent == found.intent
    assert shifted.confidence == pytest.approx(found.confidence, abs=1e-4)
    certain = model.understand_best([("tell me the news", 0.0), (heard[1][0], -40.0)])
    assert certain.intent is None


def test_the_confidence_is_that_of_one_text_when_all_hypotheses_are_alike(
    model: StatisticalModel,
) -> None:
    text = "is the fan in the garden on"
    both = model.understand_best([(text, -1.0), (text, -2.0)])
    assert both.confidence == pytest.approx(model.understand(text).confidence, abs=1e-6)


def test_thresholds_decide_and_are_checked(model: StatisticalModel) -> None:
    text = "turn on the fan in the kitchen"
    assert model.understand(text, threshold=1.0).intent is None
    assert model.understand(text, threshold=0.0).intent == "on"
    assert model.understand("?!").intent is None
    with pytest.raises(ConfigError, match="threshold"):
        model.understand(text, threshold=1.5)
    with pytest.raises(ConfigError, match="finite"):
        model.understand_best([(text, float("nan"))])


def test_numbers_come_out_as_values() -> None:
    words = ("ten", "twelve", "forty", "twenty two", "nine", "thirty")
    rows = []
    for said in words:
        count = len(said.split())
        labels = ("O", "O", "O", "B-level", *["I-level"] * (count - 1))
        rows.append(LabelledSentence(("set", "level", "to", *said.split()), "set", labels))
        rows.append(LabelledSentence(("hold", "on", *said.split()), "hold", ("O",) * (count + 2)))
    config = TrainingConfig(width=8, hidden=16, epochs=1, min_steps=200)
    small = train_model(rows, held_out=rows, config=config)
    assert small.understand("set level to 22").slots["level"].value == 22


def test_one_intent_is_too_few(corpus: list[LabelledSentence]) -> None:
    rows = [row for row in corpus if row.intent == "on"]
    with pytest.raises(ConfigError, match="1 intent"):
        train_model(rows, held_out=rows)


def test_a_size_that_holds_no_words_is_refused(corpus: list[LabelledSentence]) -> None:
    config = TrainingConfig(max_bytes=10_000, epochs=1, min_steps=0)
    with pytest.raises(ConfigError, match="max_bytes"):
        train_model(corpus, held_out=corpus, config=config)


def test_holding_out_is_stable_and_leaves_every_intent(corpus: list[LabelledSentence]) -> None:
    learned, aside = hold_out(corpus)
    assert len(aside) == len(corpus) // 5
    assert {row.intent for row in learned} == {row.intent for row in corpus}
    assert set(hold_out(corpus[::-1])[1]) == set(aside)
    assert not set(learned) & set(aside)


# ---------------------------------------------------------------- the file


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000))
def test_packing_comes_back(rows: int, half: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-7, 8, (rows, 2 * half)).astype(np.int8)
    data = packed(codes)
    assert len(data) == rows * half
    np.testing.assert_array_equal(unpacked(data, 2 * half), codes)


def test_rounding_errs_by_half_a_step_and_not_twice() -> None:
    table = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    table[3] = 0
    once = rounded(table)
    step = table_codes(table)[1].astype(np.float32)[:, None]
    assert (np.abs(once - table) <= 0.51 * step + 1e-3 * np.abs(table)).all()
    np.testing.assert_array_equal(table_codes(once)[0], table_codes(table)[0])
    assert not once[3].any()


def test_a_saved_model_says_the_same(model: StatisticalModel, tmp_path) -> None:
    path = tmp_path / "rooms.ear"
    model.save(path)
    again = StatisticalModel.load(path)
    assert again.name == "rooms"
    for text in ("turn on the fan in the guest room", "tell me the joke of time", "stop"):
        one, two = model.understand(text), again.understand(text)
        assert (one.intent, one.slots) == (two.intent, two.slots)
        assert one.confidence == pytest.approx(two.confidence, abs=0.02)
    summary = ModelFile(path).summary()
    assert summary["graphs"] == {} and summary["num_pieces"] == 0
    assert summary["understanding"]["intents"] == ["ask", "off", "on"]


def test_the_file_keeps_to_its_size(corpus: list[LabelledSentence], tmp_path) -> None:
    config = TrainingConfig(width=16, hidden=16, epochs=2, min_steps=0, max_bytes=20_000)
    small = train_model(corpus, held_out=corpus[:20], config=config)
    path = tmp_path / "small.ear"
    small.save(path)
    assert path.stat().st_size <= 20_000
    whole = train_model(corpus, held_out=corpus[:20], config=replace(config, compressed=False))
    assert len(whole.vocabulary) > len(small.vocabulary)


def test_a_recogniser_is_no_such_model(tmp_path) -> None:
    path = tmp_path / "none.ear"
    write_model(path, name="none", graphs={}, tensors={})
    with pytest.raises(ModelFileError, match="does not understand"):
        StatisticalModel.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("width", 3), ("width", None), ("intents", ["a", "a"]), ("slots", "x"), ("confidence", [1])],
)
def test_parts_that_do_not_fit_are_refused(
    model: StatisticalModel, tmp_path, key: str, value: object
) -> None:
    model.save(tmp_path / "sound.ear")
    sound = ModelFile(tmp_path / "sound.ear")
    from earshot.modelfile.codecs import EncodedTensor

    tensors = {
        row.name: EncodedTensor(row.codec, row.shape, sound.tensor_bytes(row.name))
        for row in sound.tensors
    }
    settings = {**sound.header["understanding"], key: value}
    path = tmp_path / "odd.ear"
    write_model(path, name="odd", graphs={}, tensors=tensors, understanding=settings)
    with pytest.raises(ModelFileError, match="do not fit"):
        StatisticalModel.load(path)


def test_confidence_is_a_probability() -> None:
    calibration = Calibration((1.0, 0.0, 2.0, -1.0), 0.5)
    assert calibration.probability((1e6, 0, 0, 0)) == pytest.approx(1.0)
    assert calibration.probability((-1e6, 0, 0, 0)) == pytest.approx(0.0)
    assert calibration.probability((0, 0, 0, 0.5)) == pytest.approx(0.5)


def test_a_model_that_knows_no_intent_is_refused(model: StatisticalModel, tmp_path) -> None:
    from earshot.modelfile.codecs import EncodedTensor, encode_f32, encode_int8

    model.save(tmp_path / "sound.ear")
    sound = ModelFile(tmp_path / "sound.ear")
    tensors = {
        row.name: EncodedTensor(row.codec, row.shape, sound.tensor_bytes(row.name))
        for row in sound.tensors
    }
    tensors["understand.intent"] = encode_int8(sound.dequantise("understand.intent")[:1])
    tensors["understand.intent_bias"] = encode_f32(np.zeros(1, np.float32))
    settings = {**sound.header["understanding"], "intents": [], "out_of_scope": True}
    path = tmp_path / "none.ear"
    write_model(path, name="none", graphs={}, tensors=tensors, understanding=settings)
    with pytest.raises(ModelFileError, match="there are no intents"):
        StatisticalModel.load(path)
