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


def train_pieces(sentences: Iterable[str], config: TokenizerConfig) -> bytes:
    """Train word pieces.

    Args:
        sentences: Normalised training text.
        config: Vocabulary size and kind.

    Returns:
        A SentencePiece model, to be written to a file.
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
    return buffer.getvalue()


def load_tokenizer(path: Path) -> sentencepiece.SentencePieceProcessor:
    """The tokenizer of a SentencePiece model file."""
    return sentencepiece.SentencePieceProcessor(model_file=str(path))
