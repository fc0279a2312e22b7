"""A small recogniser with trained biasing and random weights, and word pieces that spell."""

from __future__ import annotations

from pathlib import Path

import sentencepiece
import torch

from earshot.compress.export import export_transducer
from earshot.models.biasing import BiasConfig
from earshot.models.encoder import EncoderConfig
from earshot.models.predictor import PredictorConfig
from earshot.models.transducer import Transducer, TransducerConfig
from earshot.train.pieces import TokenizerConfig, train_pieces

SENTENCES = ["call anna", "bob miller is home", "tell otto", "zoe and tom call anna", "nan tom"]


def write_biased_model(path: Path) -> Path:
    """Write the recogniser and return its path."""
    torch.manual_seed(5)
    sentences = [*SENTENCES * 20, "abcdefghijklmnopqrstuvwxyz"]
    pieces = train_pieces(sentences, TokenizerConfig(vocab_size=48))
    spelling = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    model = Transducer(
        TransducerConfig(
            vocab_size=48,
            joiner_width=24,
            encoder=EncoderConfig(num_bins=20, hidden=32, layers=1),
            predictor=PredictorConfig(width=16),
            bias=BiasConfig(
                query="audio_and_label", width=12, hidden=24, key_width=8, value_width=12
            ),
        )
    )
    export_transducer(
        model.eval(),
        path,
        name="biased",
        pieces=[spelling.id_to_piece(i) for i in range(48)],
        tokenizer=pieces,
    )
    return path
