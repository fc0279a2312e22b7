"""Language models: sums to one, kenlm and a slow back-off as oracles, ARPA files of all kinds."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import earshot
from earshot import _native
from earshot.core.errors import ConfigError, LanguageModelError, ModelFileError
from earshot.decode.arpa import read_arpa, write_arpa
from earshot.decode.language_model import (
    LanguageModel,
    LanguageModelConfig,
    compile_tensors,
    embed,
    from_arpa,
    from_text,
    open_language_model,
    save,
)
from earshot.decode.ngram import (
    BOUNDARY,
    UNKNOWN,
    Ngrams,
    estimate,
    prune,
    score,
    sentence_score,
)
from earshot.modelfile.codecs import encode_f32, encode_u8
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_language_model, write_with_language_model
from earshot.runtime.session import open_model
from earshot.session.recognizer import embedded_model_path

VOCABULARY = 7
symbols = st.integers(2, VOCABULARY - 1)
sentences = st.lists(st.lists(symbols, max_size=6), min_size=1, max_size=12)


def every_context(model: Ngrams) -> list[list[int]]:
    inner = range(2, model.vocabulary)
    return [
        [*begin, *rest]
        for length in range(3)
        for begin in ([], [BOUNDARY])
        for rest in map(list, itertools.product(inner, repeat=length))
    ]


@settings(max_examples=60)
@given(text=sentences, order=st.integers(1, 4), most=st.integers(0, 40), counted=st.booleans())
def test_probabilities_sum_to_one_whole_and_pruned(
    text: list[list[int]], order: int, most: int, counted: bool
) -> None:
    model = estimate(text, vocabulary=VOCABULARY, order=order, continuation=not counted)
    smaller = prune(model, most=most)
    assert sum(map(len, smaller.orders[1:])) <= most
    for either in (model, smaller):
        for context in every_context(either)[::7]:
            sums = sum(math.exp(score(either, [*context, s])) for s in range(VOCABULARY))
            assert sums == pytest.approx(1, abs=1e-6)


def test_symbols_that_never_come_have_no_probability() -> None:
    model = estimate([[3, 4], [3, 5]], vocabulary=6, order=2, never=(0, 2))
    for context in ([], [1], [3], [5]):
        assert math.exp(score(model, [*context, 2])) < 1e-90
        assert sum(math.exp(score(model, [*context, s])) for s in range(6)) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"in 0\.\.3"):
        estimate([[4]], vocabulary=4, order=2)
    with pytest.raises(ValueError, match="0 sentences"):
        estimate([], vocabulary=4, order=2)
    with pytest.raises(ValueError, match=r"1\.\.6"):
        estimate([[2]], vocabulary=4, order=7)


def test_modified_kneser_ney_by_hand() -> None:
    """Two orders, from the counts as the paper writes them."""
    text = [[2, 3], [2, 3], [2, 4], [5, 3], [5, 4], [2, 2, 3], [3], [3]]
    model = estimate(text, vocabulary=6, order=2)
    pairs: dict[tuple[int, int], int] = {}
    for sentence in text:
        for pair in itertools.pairwise([1, *sentence, 1]):
            pairs[pair] = pairs.get(pair, 0) + 1
    follows = {s: len({a for a, b in pairs if b == s}) for s in range(6)}

    def discounts(counts: list[int]) -> list[float]:
        n = [counts.count(c) for c in (1, 2, 3, 4)]
        if not (n[0] and n[1]):
            return [0.0, 0.5, 0.5, 0.5]
        y = n[0] / (n[0] + 2 * n[1])
        return [0.0] + [
            min(max(c - (c + 1) * y * n[c] / n[c - 1] if n[c - 1] else c, 0.05), c)
            for c in (1, 2, 3)
        ]

    low, high = discounts(list(follows.values())), discounts(list(pairs.values()))
    total = sum(follows.values())
    freed = sum(low[min(c, 3)] for c in follows.values()) / total
    single = {s: max(c - low[min(c, 3)], 0) / total + freed / 6 for s, c in follows.items()}
    for (a, b), count in pairs.items():
        row = [c for (x, _), c in pairs.items() if x == a]
        rest = sum(high[min(c, 3)] for c in row) / sum(row)
        want = (count - high[min(count, 3)]) / sum(row) + rest * single[b]
        assert math.exp(score(model, [a, b])) == pytest.approx(want)


WORDS = ("turn", "on", "the", "light", "é")


def arpa_of(folder: Path, text: list[list[int]], *, order: int, most: int = 10**6) -> Path:
    path = folder / "m.arpa"
    model = prune(estimate(text, vocabulary=len(WORDS) + 2, order=order), most=most)
    write_arpa(path, model, WORDS)
    return path


TEXT = [[2, 3, 4, 5], [2, 3, 4], [4, 5, 2], [6], [2, 3, 6], [], [5, 5, 5], [2, 4, 5, 6, 3]]


@pytest.mark.parametrize(("order", "most"), [(2, 99), (3, 99), (4, 99), (4, 15)])
def test_kenlm_agrees(tmp_path: Path, order: int, most: int) -> None:
    kenlm = pytest.importorskip("kenlm", reason="the oracle needs `pip install kenlm`")
    path = arpa_of(tmp_path, TEXT, order=order, most=most)
    oracle = kenlm.Model(str(path))
    arpa = read_arpa(path)
    assert oracle.order == len(arpa.ngrams.orders)
    ids = {word: symbol for symbol, word in enumerate(arpa.words, start=2)}
    native = engine_of(tmp_path, LanguageModel("word", arpa.ngrams, arpa.words))
    rng = np.random.default_rng(order)
    for _ in range(40):
        words = [str(w) for w in rng.choice([*WORDS, "unheard"], rng.integers(0, 7))]
        want = oracle.score(" ".join(words)) * math.log(10)
        symbols_said = [ids.get(word, UNKNOWN) for word in words]
        assert sentence_score(arpa.ngrams, symbols_said) == pytest.approx(want, abs=1e-4)
        found = [native.find_word(word) for word in words]
        assert [f == UNKNOWN for f in found] == [s == UNKNOWN for s in symbols_said]
        scores, _ = native.scores(np.array(found, np.int32))
        assert sum(scores) == pytest.approx(want, abs=1e-4)


def engine_of(folder: Path, model: LanguageModel, *, pieces: int = 9) -> _native.Ngram:
    path = folder / "lm.ear"
    save(model, path, pieces=pieces, config=LanguageModelConfig())
    return open_language_model(path)[0]


@settings(max_examples=30)
@given(text=sentences, order=st.integers(1, 6), most=st.integers(0, 60), said=sentences)
def test_the_engine_is_the_slow_back_off(
    text: list[list[int]],
    order: int,
    most: int,
    said: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = prune(estimate(text, vocabulary=VOCABULARY, order=order), most=most)
    made = LanguageModel("piece", model, ())
    native = engine_of(tmp_path_factory.mktemp("lm"), made, pieces=VOCABULARY)
    for sentence in said:
        scores, _ = native.scores(np.array(sentence, np.int32))
        whole = [BOUNDARY, *sentence, BOUNDARY]
        want = [score(model, whole[: end + 1]) for end in range(1, len(whole))]
        assert scores == pytest.approx(want, abs=1e-4)


def test_files_round_trip(tmp_path: Path) -> None:
    path = arpa_of(tmp_path, TEXT, order=3)
    arpa = read_arpa(path)
    write_arpa(tmp_path / "again.arpa", arpa.ngrams, arpa.words)
    again = read_arpa(tmp_path / "again.arpa")
    assert again.words == arpa.words == WORDS
    for a, b in zip(again.ngrams.orders, arpa.ngrams.orders, strict=True):
        np.testing.assert_array_equal(a.symbol, b.symbol)
        np.testing.assert_array_equal(a.parent, b.parent)
        np.testing.assert_allclose(a.log_prob, b.log_prob, atol=1e-6)
        np.testing.assert_allclose(a.backoff, b.backoff, atol=1e-6)


GOOD = """made by hand
\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.30103
-0.7\t</s>
-0.6\tturn\t-0.2
-0.5\ton

\\2-grams:
-0.2\t<s> turn
-0.1\tturn on

\\end\\
"""


def read(folder: Path, text: str) -> Ngrams:
    path = folder / "a.arpa"
    path.write_text(text, encoding="utf-8")
    return read_arpa(path).ngrams


def test_a_file_by_hand(tmp_path: Path) -> None:
    model = read(tmp_path, GOOD)
    turn, on = 2, 3
    for said, log10 in (
        ([1, turn], -0.2),
        ([turn, on], -0.1),
        ([1, on], -0.30103 - 0.5),
        ([turn, 1], -0.2 - 0.7),
        ([on, 0], -1.0),
    ):
        assert score(model, said) == pytest.approx(log10 * math.log(10))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", r":18: there is no line '\\data\\'"),
        ("ngram 2=2", "ngram 3=2", ":4: 'ngram 3=2' is not of order 2"),
        ("ngram 1=5\nngram 2=2\n", "", "0 orders"),
        ("ngram 1=5", "ngram 1=99999", "99,999 words"),
        ("ngram 2=2", "ngram 2=999999999999", "n-grams"),
        ("ngram 1=5", "ngram 1=6", ":13: here is '.*after 5 n-grams"),
        ("ngram 1=5", "ngram 1=4", r":11: here is '-0.5"),
        ("ngram 2=2", "ngram 2=1", ":15: here is"),
        ("\\2-grams:", "\\3-grams:", "must be '.2-grams:'"),
        ("-0.6\tturn", "0.6\tturn", ":10: '0.6' is no number in -inf..0"),
        ("-0.6\tturn", "nan\tturn", "'nan' is no number"),
        ("-0.6\tturn", "-1e999\tturn", "'-1e999' is no number"),
        ("-0.6\tturn", "-0x6\tturn", "'-0x6' is no number"),
        ("-0.6\tturn", "-0.6 turn on here", ":10: the line has 5 fields"),
        ("-0.5\ton", "-0.5", ":11: the line has 1 fields"),
        ("turn\t-0.2", "turn\tinf", "'inf' is no number"),
        ("turn on", "turn on -0.3", "longest n-grams have a back-off"),
        ("turn on", "turn off", ":15: 'off' is not among the single words"),
        ("turn on", "turn <s>", "goes beyond a sentence"),
        ("turn on", "</s> on", "goes beyond a sentence"),
        ("-0.1\tturn on", "-0.1\t<s> turn", "comes a second time"),
        ("-0.5\ton", "-0.5\tturn", "comes a second time"),
        ("-0.7\t</s>", "-0.7\toff", "no word '</s>'"),
        ("\\end\\", "", "the file ends before"),
        ("-0.5\ton", "-0.5\t" + "o" * 10_001, "10,006 characters"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(LanguageModelError, match=message):
        read(tmp_path, GOOD.replace(old, new))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LanguageModelError, match="no such file"):
        read_arpa(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(LanguageModelError, match="cannot be read"):
        read_arpa(tmp_path / "binary")


damage = st.tuples(
    st.integers(0, len(GOOD)), st.integers(0, 20), st.text("-0.5e\\ \n\tts<>", max_size=8)
)


@settings(max_examples=200)
@given(damage=damage)
def test_damaged_files_are_refused_or_read(
    damage: tuple[int, int, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cut, length, put = damage
    try:
        model = read(tmp_path_factory.mktemp("arpa"), GOOD[:cut] + put + GOOD[cut + length :])
    except LanguageModelError:
        return
    assert all(np.isfinite(order.log_prob).all() for order in model.orders)


# --- in files -------------------------------------------------------------------------------


def parts(folder: Path) -> tuple[dict[str, object], dict[str, object]]:
    made = LanguageModel("piece", estimate(TEXT, vocabulary=7, order=3), ())
    header, tensors = compile_tensors(made)
    lm = {**header, "pieces": 7, "weight": 0.3, "internal_weight": 0.1, "bonus": 0.5}
    return {**lm, "unknown_piece": 0}, dict(tensors)


def test_files_that_break_a_rule(tmp_path: Path) -> None:
    def refused(message: str, **changes: object) -> None:
        lm, tensors = parts(tmp_path)
        for name, value in changes.items():
            if name.startswith("lm."):
                if value is None:
                    tensors.pop(name)
                else:
                    tensors[name] = value
            elif value is None:
                lm.pop(name)
            else:
                lm[name] = value
        path = tmp_path / "bad.ear"
        write_language_model(path, name="bad", lm=lm, tensors=tensors)  # type: ignore[arg-type]
        with pytest.raises(ModelFileError, match=message):
            open_language_model(path)

    lm, tensors = parts(tmp_path)
    count = len(tensors["lm.log_probs.2"].data)  # type: ignore[attr-defined]
    begins = np.frombuffer(tensors["lm.children.1"].data, "<u2").copy()  # type: ignore[attr-defined]
    follows = np.frombuffer(tensors["lm.symbols.2"].data, "<u2").copy()  # type: ignore[attr-defined]
    levels = np.zeros((5, 256), np.float32)
    refused("unit", unit="letter")
    refused("order", order=7)
    refused("order", order=None)
    refused("weight", weight=11)
    refused("bonus", bonus="x")
    refused('unknown key "colour"', colour=1)
    refused("`lm.pieces` bytes", pieces=8)
    refused("no tensor 'lm.levels'", **{"lm.levels": None})
    refused("codec f32", **{"lm.levels": encode_u8(b"x")})
    refused("4096 bytes; it must have 5120", **{"lm.levels": encode_f32(levels[:4])})
    refused("no log-probability", **{"lm.levels": encode_f32(levels + 1)})
    refused("must have", **{"lm.symbols.2": encode_u8(bytes(2 * count - 2))})
    refused("must have", **{"lm.backoffs.1": encode_u8(bytes(3))})
    refused("must have 32", **{"lm.children.1": encode_u8(bytes(3 * 8))})
    for width in (2, 4):
        refused("does not divide", **{"lm.children.1": encode_u8(bytes(width * 8))})
        begins[3] = 2**15
        bent = begins.astype(f"<u{width}").tobytes()
        refused("not ascending", **{"lm.children.1": encode_u8(bent)})
    for value in (7, 65535):
        follows[0] = value
        refused("out of range", **{"lm.symbols.2": encode_u8(follows.tobytes())})
    write_language_model(tmp_path / "good.ear", name="good", lm=lm, tensors=tensors)  # type: ignore[arg-type]
    assert open_language_model(tmp_path / "good.ear")[1].bonus == 0.5


def test_children_may_be_numbered_in_four_bytes(tmp_path: Path) -> None:
    lm, tensors = parts(tmp_path)
    write_language_model(tmp_path / "narrow.ear", name="m", lm=lm, tensors=tensors)  # type: ignore[arg-type]
    for k in (1, 2):
        narrow = np.frombuffer(tensors[f"lm.children.{k}"].data, "<u2")  # type: ignore[attr-defined]
        tensors[f"lm.children.{k}"] = encode_u8(narrow.astype("<u4").tobytes())
    write_language_model(tmp_path / "wide.ear", name="m", lm=lm, tensors=tensors)  # type: ignore[arg-type]
    narrow_one, wide_one = (
        open_language_model(tmp_path / f"{name}.ear")[0] for name in ("narrow", "wide")
    )
    for text in TEXT:
        symbols = np.array(text, np.int32)
        assert narrow_one.scores(symbols) == wide_one.scores(symbols)


def test_many_ngrams_need_four_bytes() -> None:
    rng = np.random.default_rng(0)
    rows = [list(row) for row in rng.integers(3, 2003, size=(35_000, 4))]
    made = LanguageModel("piece", estimate(rows, vocabulary=2003, order=3), ())
    _, tensors = compile_tensors(made)
    for k in (1, 2):
        nodes, longer = (len(tensors[f"lm.log_probs.{n}"].data) for n in (k, k + 1))
        width = 2 if longer <= 0xFFFF else 4
        assert len(tensors[f"lm.children.{k}"].data) == width * (nodes + 1)
    assert len(tensors["lm.log_probs.3"].data) > 0xFFFF


SAID = ["turn on the lights", "turn off the lights", "turn on the kitchen lights", "stop"] * 3
CLIP = Path(__file__).parents[2] / "examples" / "turn-on-the-lights.flac"


def test_from_text_into_a_model_and_off_again(tmp_path: Path) -> None:
    model_path = tmp_path / "bare.ear"  # the embedded one carries a language model
    write_with_language_model(ModelFile(embedded_model_path()), model_path, lm=None, tensors={})
    model = open_model(model_path)
    made, report = from_text([*SAID, "ж"], model, order=3)
    assert (report.sentences, report.words, report.left_out) == (12, 42, 1)
    lm = tmp_path / "lm.ear"
    save(
        made,
        lm,
        pieces=len(model.pieces),
        config=LanguageModelConfig(weight=0.5, internal_weight=0.1, bonus=1.0),
    )
    own = tmp_path / "own.ear"
    embed(model_path, lm, own)
    assert ModelFile(own).header["lm"] == ModelFile(lm).header["lm"]
    scores = []
    for recognizer in (
        earshot.Recognizer.load(model_path),
        earshot.Recognizer.load(model_path, lm=lm),
        earshot.Recognizer.load(own),
        earshot.Recognizer.load(own, lm_weight=0, internal_lm_weight=0, lm_bonus=0),
        earshot.Recognizer.load(own, lm_weight=0.25),
    ):
        assert recognizer.transcribe_file(CLIP).text == "turn on the lights"
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, np.zeros(16000, np.float32))
        stream.input_finished()
        stream.decode()
        assert stream.result().text == ""  # silence is no sentence, whatever is likely
        scores.append(recognizer.language_model_config.weight)
    assert scores == [0.0, 0.5, 0.5, 0.0, 0.25]
    with pytest.raises(ModelFileError, match="has no language model"):
        earshot.Recognizer.load(model_path, lm=model_path)
    with pytest.raises(ConfigError, match="carries no language model"):
        earshot.Recognizer.load(model_path, lm_weight=0.5)
    with pytest.raises(ConfigError, match=r"0\.\.10"):
        earshot.Recognizer.load(own, lm_weight=11)
    with pytest.raises(ConfigError, match="can spell none"):
        from_text(["ж"], model)


def test_a_language_model_says_what_is_likely(tmp_path: Path) -> None:
    """Text that always says one thing is heard where the sound leaves a choice."""
    model = open_model(embedded_model_path())
    texts = {}
    for said in ("turn on the lights", "turn on the light"):
        made, _ = from_text([said] * 20, model, order=4)
        path = tmp_path / f"{len(said)}.ear"
        save(
            made, path, pieces=len(model.pieces), config=LanguageModelConfig(weight=2.0, bonus=2.0)
        )
        recognizer = earshot.Recognizer.load(lm=path, max_active_paths=16)
        texts[said] = recognizer.transcribe_file(CLIP).text
    assert texts == {said: said for said in texts}


def test_words_are_found_by_their_spelling_however_they_are_cut(tmp_path: Path) -> None:
    model = open_model(embedded_model_path())
    made, _ = from_text(SAID, model, unit="word", order=3)
    path = tmp_path / "words.ear"
    save(made, path, pieces=5, config=LanguageModelConfig(weight=0.3, bonus=1.0))
    ngram, _ = open_language_model(path)
    assert ngram.of_words
    known = {word: ngram.find_word(word) for word in ("turn", "lights", "light", "lamp")}
    assert [symbol > 1 for symbol in known.values()] == [True, True, False, False]
    recognizer = earshot.Recognizer.load(lm=path)  # of words: any pieces will do
    assert recognizer.transcribe_file(CLIP).text == "turn on the lights"
    pieces, _ = from_text(SAID, model, order=2)
    save(pieces, path, pieces=len(model.pieces), config=LanguageModelConfig())
    _native.Recognizer(model, lm=open_language_model(path)[0], lm_weight=1.0)


def test_arpa_of_pieces_is_told_from_one_of_words(tmp_path: Path) -> None:
    model = open_model(embedded_model_path())
    made, _ = from_text(SAID, model, order=3)
    write_arpa(tmp_path / "pieces.arpa", made.ngrams, made.words)
    back = from_arpa(read_arpa(tmp_path / "pieces.arpa"), model)
    assert back.unit == "piece" and back.ngrams.vocabulary == len(model.pieces)
    native = [engine_of(tmp_path, m, pieces=len(model.pieces)) for m in (made, back)]
    ids = np.array(_native.Speller.of(model).spell("turn on the lights")[0][0], np.int32)
    assert native[0].scores(ids)[0] == pytest.approx(native[1].scores(ids)[0], abs=2e-3)
    words = from_arpa(read_arpa(arpa_of(tmp_path, TEXT, order=2)), model)
    assert words.unit == "word" and words.words == WORDS


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from earshot.cli.app import app

    def run(*arguments: str | Path) -> dict[str, object]:
        with pytest.raises(SystemExit) as left:
            app([str(a) for a in arguments])
        assert left.value.code == 0
        out: dict[str, object] = json.loads(capsys.readouterr().out)
        return out

    text = tmp_path / "text.txt"
    text.write_text("Turn on the lights!\nSet a timer for 5 minutes\n" * 4, encoding="utf-8")
    arpa, lm, again, own = (tmp_path / n for n in ("m.arpa", "lm.ear", "again.ear", "own.ear"))
    built = run("lm", "build", text, "-o", lm, "--arpa", arpa, "--order", "3", "--json")
    assert built["unit"] == "piece" and built["size_bytes"] == lm.stat().st_size
    compiled = run("lm", "compile", arpa, "-o", again, "--weight", "0.4", "--json")
    assert compiled["unit"] == "piece"
    assert open_language_model(again)[1].weight == 0.4
    run("lm", "embed", lm, "-o", own, "--json")
    assert "lm" in ModelFile(own).header
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"words": 1}\n', encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        app(["lm", "build", str(bad), "-o", str(lm)])
    assert left.value.code == 1
    assert "bad.jsonl:1: the line is no JSON object" in capsys.readouterr().err
