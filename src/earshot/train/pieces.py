"""Trains the word pieces of a model on its training text.

SentencePiece with the identity normaliser over lower-case letters, apostrophe and blank: any
word can be spelled, so the vocabulary is open. Ids 0 and 1 are reserved for the blank and the
sentence mark, 2 is `<unk>` and is never emitted.
"""

from __future__ import annotations

import io
import string
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from earshot.train.recipe import TokenizerConfig


def train_tokenizer(
    sentences: Iterable[str], config: TokenizerConfig, path: Path
) -> sentencepiece.SentencePieceProcessor:
    """Train word pieces and write them.

    Args:
        sentences: Normalised training text.
        config: Vocabulary size and kind.
        path: SentencePiece model to write.

    Returns:
        The tokenizer, loaded.
    """
    # Every letter alone, with and without a blank before it, so that none is ever unknown.
    letters = [f"{a} {a}{a}" for a in string.ascii_lowercase] * 20 + ["'a a'b"] * 20
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*sentences, *letters]),
        model_writer=buffer,
        vocab_size=config.vocab_size,
        model_type=config.model_type,
        character_coverage=1.0,
        normalization_rule_name="identity",
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        minloglevel=1,
        num_threads=1,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return load_tokenizer(path)


def load_tokenizer(path: Path) -> sentencepiece.SentencePieceProcessor:
    """The tokenizer that `train_tokenizer` wrote."""
    return sentencepiece.SentencePieceProcessor(model_file=str(path))
