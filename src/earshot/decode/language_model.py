"""Language models for the search: made from text or ARPA, quantised into a file, and opened.

A model is of word pieces, those of one recogniser, or of words, for any recogniser. In a file it
is the section `lm`, by itself or beside a recogniser; section 9 of `docs/formats/ear.md` is its
layout. Knows nothing of audio; the engine does the asking.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from earshot import _native
from earshot.core.errors import ConfigError, LanguageModelError, ModelFileError
from earshot.decode.arpa import Arpa
from earshot.decode.ngram import BOUNDARY, UNKNOWN, Ngrams, Order, estimate, prune
from earshot.modelfile.codecs import EncodedTensor, encode_f32, encode_u8
from earshot.modelfile.reader import ModelFile, engine_errors
from earshot.modelfile.writer import (
    stored_tensors,
    write_language_model,
    write_with_language_model,
)
from earshot.runtime.session import open_model

__all__ = [
    "LanguageModel",
    "LanguageModelConfig",
    "LanguageModelText",
    "compile_tensors",
    "embed",
    "from_arpa",
    "from_text",
    "language_model_of",
    "open_language_model",
    "save",
]

LEVELS = 256
Unit = Literal["piece", "word"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig:
    """How much a language model counts in the search.

    Args:
        weight: Of its log-probabilities, 0..10; 0 leaves it out.
        internal_weight: Share of the network's own language model that is taken off, 0..10.
        bonus: Nats for each of its symbols, -100..100: without one, short texts win.
        unknown_piece: Nats for each piece of a word that a model of words does not have, -100..0.

    Raises:
        ConfigError: A value is out of its range.
    """

    weight: float = 0.3
    internal_weight: float = 0.0
    bonus: float = 0.0
    unknown_piece: float = -4.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("weight", 0.0, 10.0),
            ("internal_weight", 0.0, 10.0),
            ("bonus", -100.0, 100.0),
            ("unknown_piece", -100.0, 0.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"lm.{name} is {value}; it must lie in {low:g}..{high:g}.")


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModel:
    """A model that was made, before it is a file.

    Args:
        unit: What its symbols are.
        ngrams: Of natural logarithms.
        words: Of symbols 2..V-1; of a model of pieces the recogniser's.
    """

    unit: Unit
    ngrams: Ngrams
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LanguageModelText:
    """What became of the text that a model was made from."""

    sentences: int
    words: int
    left_out: int  # sentences that the pieces cannot spell


def from_text(
    sentences: Iterable[str],
    model: _native.Model,
    *,
    unit: Unit = "piece",
    order: int = 4,
    most: int | None = None,
    max_words: int = 20_000,
) -> tuple[LanguageModel, LanguageModelText]:
    """Estimate a model from sentences.

    Args:
        sentences: In the spelling of the recogniser, words separated by blanks.
        model: The recogniser whose pieces spell them.
        unit: Of word pieces or of words.
        order: Symbols of the longest n-grams, 1..6.
        most: N-grams of two and more symbols, at most; None keeps all.
        max_words: Of a model of words: how many it knows, the most frequent ones.

    Returns:
        The model, and what the text was.

    Raises:
        ConfigError: A setting is out of range, there is no sentence, or the recogniser has no
            tokenizer.
    """
    try:
        speller = _native.Speller.of(model)
    except ValueError as err:
        raise ConfigError(f"{model.name}: text cannot be spelled, because {err}.") from None
    spelled: dict[str, list[int] | None] = {}
    rows: list[list[int]] = []
    texts: list[list[str]] = []
    left_out = 0
    for sentence in sentences:
        words = sentence.split()
        if not words:
            continue
        for word in words:
            if word not in spelled:
                ways = speller.spell(word)
                spelled[word] = ways[0][0] if ways else None
        pieces = [spelled[word] for word in words]
        if any(row is None for row in pieces):
            left_out += 1
            continue
        texts.append(words)
        rows.append([piece for row in pieces for piece in cast("list[int]", row)])
    report = LanguageModelText(len(texts), sum(map(len, texts)), left_out)
    if not texts:
        raise ConfigError(
            f"language model: {left_out} sentences, and {model.name} can spell none of them. "
            "Write one sentence a line, in the recogniser's own letters."
        )
    try:
        if unit == "piece":
            names = tuple(model.pieces[2:])
            # Blank and the unknown piece are never part of a text; piece 1 is the boundary.
            ngrams = estimate(rows, vocabulary=len(model.pieces), order=order, never=(0, 2))
        else:
            names = _frequent(texts, max_words)
            ids = {word: symbol for symbol, word in enumerate(names, start=2)}
            ngrams = estimate(
                [[ids.get(word, UNKNOWN) for word in words] for words in texts],
                vocabulary=len(names) + 2,
                order=order,
            )
    except ValueError as err:
        raise ConfigError(str(err)) from None
    if most is not None:
        ngrams = prune(ngrams, most=most)
    return LanguageModel(unit, ngrams, names), report


def _frequent(texts: Sequence[Sequence[str]], most: int) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for words in texts:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    # A word that came once says how likely unknown ones are.
    ranked = sorted((w for w, n in counts.items() if n > 1), key=lambda w: (-counts[w], w))
    return tuple(ranked[:most])


def from_arpa(arpa: Arpa, model: _native.Model) -> LanguageModel:
    """Take a model from an ARPA file: of pieces if all its words are the recogniser's pieces.

    Args:
        arpa: From `read_arpa`.
        model: The recogniser.

    Returns:
        The model. One of words keeps its spelling; words must be as the recogniser writes them.
    """
    ids = {piece: i for i, piece in enumerate(model.pieces) if i > 2}
    known = [word in ids for word in arpa.words]
    if not arpa.words or not all(known):
        return LanguageModel("word", arpa.ngrams, arpa.words)
    symbols = np.array([UNKNOWN, BOUNDARY, *(ids[word] for word in arpa.words)], np.int64)
    return LanguageModel(
        "piece", _renumbered(arpa.ngrams, symbols, len(model.pieces)), tuple(model.pieces[2:])
    )


def _renumbered(ngrams: Ngrams, symbols: npt.NDArray[np.int64], vocabulary: int) -> Ngrams:
    """The same with symbol i called `symbols[i]`, and others as likely as an unknown one."""
    first = ngrams.orders[0]
    log_prob = np.full(vocabulary, first.log_prob[UNKNOWN])
    backoff = np.zeros(vocabulary)
    log_prob[symbols] = first.log_prob
    backoff[symbols] = first.backoff
    orders = [Order(np.zeros(vocabulary, np.int64), np.arange(vocabulary), log_prob, backoff)]
    row = symbols  # the new row of each old one
    for order in ngrams.orders[1:]:
        parent, symbol = row[order.parent], symbols[order.symbol]
        placed = np.lexsort((symbol, parent))
        orders.append(
            Order(parent[placed], symbol[placed], order.log_prob[placed], order.backoff[placed])
        )
        row = np.empty(len(placed), np.int64)
        row[placed] = np.arange(len(placed))
    return Ngrams(tuple(orders))


def compile_tensors(model: LanguageModel) -> tuple[dict[str, object], dict[str, EncodedTensor]]:
    """The engine's table: sections by name, and what the header says but for weights.

    Args:
        model: At most 65,536 symbols.

    Returns:
        Header object with `unit` and `order`, and tensors.

    Raises:
        LanguageModelError: Two words have the same hash, or there are too many.
    """
    ngrams, words = model.ngrams, model.words
    if model.unit == "word":
        ngrams, words = _by_hash(ngrams, words)
    top = len(ngrams.orders)
    levels: list[npt.NDArray[np.float32]] = []
    tensors: dict[str, EncodedTensor] = {}
    backoff_levels: list[npt.NDArray[np.float32]] = []
    for k, order in enumerate(ngrams.orders):
        name = f".{k + 1}"
        codes, book = _quantised(np.maximum(order.log_prob, -1000.0))
        levels.append(np.minimum(book, 0))
        tensors[f"lm.log_probs{name}"] = encode_u8(codes.tobytes())
        if k:
            tensors[f"lm.symbols{name}"] = encode_u8(order.symbol.astype("<u2").tobytes())
        if k + 1 < top:
            codes, book = _quantised(order.backoff)
            backoff_levels.append(book)
            tensors[f"lm.backoffs{name}"] = encode_u8(codes.tobytes())
            begins = np.searchsorted(ngrams.orders[k + 1].parent, np.arange(len(order) + 1))
            tensors[f"lm.children{name}"] = encode_u8(_narrowed(begins))
    tensors["lm.levels"] = encode_f32(np.stack(levels + backoff_levels))
    if model.unit == "word":
        hashes = np.array([_hash(word) for word in words], "<u4")
        tensors["lm.words"] = encode_u8(hashes.tobytes())
    return {"unit": model.unit, "order": top}, tensors


def _narrowed(begins: npt.NDArray[np.int64]) -> bytes:
    """In two bytes each where the last and highest fits, else in four."""
    return begins.astype("<u2" if begins[-1] <= 0xFFFF else "<u4").tobytes()


def _quantised(
    values: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Codes and 256 levels: exact where there are no more values, else by Lloyd's rounds."""
    unique = np.unique(values)
    if len(unique) <= LEVELS:
        book = np.concatenate([unique, np.full(LEVELS - len(unique), unique[-1])])
    else:
        # Levels at equal shares of the values, then each moved to the mean of what it stands for.
        book = np.unique(np.quantile(values, np.linspace(0, 1, LEVELS)))
        for _ in range(8):
            at = np.searchsorted((book[1:] + book[:-1]) / 2, values)
            sums = np.bincount(at, weights=values, minlength=len(book))
            counts = np.bincount(at, minlength=len(book))
            book = np.sort(np.where(counts > 0, sums / np.maximum(counts, 1), book))
        book = np.concatenate([book, np.full(LEVELS - len(book), book[-1])])
    codes = np.searchsorted((book[1:] + book[:-1]) / 2, values)
    return codes.astype(np.uint8), book.astype(np.float32)


def _hash(word: str) -> int:
    """FNV-1a of 32 bits over UTF-8, as the engine computes it from the pieces of a word."""
    value = 2166136261
    for byte in word.encode():
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def _by_hash(ngrams: Ngrams, words: tuple[str, ...]) -> tuple[Ngrams, tuple[str, ...]]:
    """The same with symbols in the order of their words' hashes."""
    hashes = np.array([_hash(word) for word in words], np.int64)
    placed = np.argsort(hashes, kind="stable")
    twice = np.flatnonzero(np.diff(hashes[placed]) == 0)
    if len(twice):
        pair = [words[i] for i in placed[twice[0] : twice[0] + 2]]
        raise LanguageModelError(
            "language model",
            f"'{pair[0]}' and '{pair[1]}' have the same hash",
            remedy="Leave one of them out",
        )
    symbols = np.empty(len(words) + 2, np.int64)
    symbols[:2] = UNKNOWN, BOUNDARY
    symbols[placed + 2] = np.arange(2, len(words) + 2)
    return _renumbered(ngrams, symbols, len(symbols)), tuple(words[i] for i in placed)


def _header(
    model: LanguageModel, config: LanguageModelConfig, pieces: int, base: Mapping[str, object]
) -> dict[str, object]:
    settings = asdict(config)
    if model.unit == "piece":
        settings["unknown_piece"] = 0.0
    return {**base, "pieces": pieces, **settings}


def save(
    model: LanguageModel,
    path: Path,
    *,
    pieces: int,
    config: LanguageModelConfig,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file of its own.

    Args:
        model: The model.
        path: A `.ear` file to make or replace.
        pieces: Word pieces of the recogniser that it was made for.
        config: Weights that the file recommends.
        metadata: Licence, sources and so on.

    Raises:
        LanguageModelError: As `compile_tensors`.
        OSError: The file cannot be written.
    """
    header, tensors = compile_tensors(model)
    write_language_model(
        path,
        name=path.stem[:100],
        lm=_header(model, config, pieces, header),
        tensors=tensors,
        metadata=metadata,
    )


def embed(source: Path, language_model: Path, output: Path) -> None:
    """Put a language model into a recogniser's file, in the place of one that is there.

    Args:
        source: The recogniser.
        language_model: A file of `save`.
        output: The file to make or replace; may be `source`.

    Raises:
        ModelFileError: A file cannot be used, or the two are of different pieces.
        OSError: The file cannot be written.
    """
    recogniser, own = ModelFile(source), ModelFile(language_model)
    if "lm" not in own.header:
        raise _no_language_model(language_model)
    header = cast("dict[str, object]", own.header["lm"])
    count = len(cast("list[str]", recogniser.header.get("pieces", [])))
    if header["unit"] == "piece" and header["pieces"] != count:
        raise ModelFileError(
            language_model,
            f"it was made for {header['pieces']} pieces and {source} has {count}",
            remedy="Make it for this recogniser with `earshot lm build --model`",
        )
    tensors = {
        name: tensor for name, tensor in stored_tensors(own).items() if name.startswith("lm.")
    }
    write_with_language_model(recogniser, output, lm=header, tensors=tensors)


def _no_language_model(path: Path) -> ModelFileError:
    return ModelFileError(
        path, "it has no language model", remedy="Make one with `earshot lm build`"
    )


def open_language_model(path: Path) -> tuple[_native.Ngram, LanguageModelConfig]:
    """Open a file, by itself or a recogniser's that carries one.

    Args:
        path: A `.ear` file.

    Returns:
        What the engine asks, and the weights that the file recommends.

    Raises:
        ModelFileError: The file cannot be used or has no language model.
    """
    model = open_model(path)
    found = language_model_of(model)
    if found is None:
        raise _no_language_model(path)
    return found


def language_model_of(model: _native.Model) -> tuple[_native.Ngram, LanguageModelConfig] | None:
    """The language model that an opened file carries; None if there is none.

    Args:
        model: From `open_model`.

    Raises:
        ModelFileError: It breaks a rule of the format.
    """
    with engine_errors():
        ngram = _native.Ngram.find(model)
    if ngram is None:
        return None
    return ngram, LanguageModelConfig(
        weight=_short(ngram.weight),
        internal_weight=_short(ngram.internal_weight),
        bonus=_short(ngram.bonus),
        unknown_piece=_short(ngram.unknown_piece),
    )


def _short(value: float) -> float:
    """A float32 as it was written."""
    return float(f"{value:.7g}") if math.isfinite(value) else value
