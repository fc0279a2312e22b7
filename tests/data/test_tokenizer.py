import io

import pytest
import sentencepiece

from earshot.core.errors import ConfigError
from earshot.data.tokenizer import RESERVED_PIECES, UNK_ID, Tokenizer

SENTENCES = ["turn on the light", "set a timer for ten minutes", "it's the boiler's turn"] * 20


def trained(**options) -> bytes:
    model = io.BytesIO()
    settings = {
        "sentence_iterator": iter(SENTENCES),
        "model_writer": model,
        "vocab_size": 40,
        "normalization_rule_name": "identity",
        "user_defined_symbols": list(RESERVED_PIECES[:2]),
        "unk_id": 2,
        "bos_id": -1,
        "eos_id": -1,
        "pad_id": -1,
        "hard_vocab_limit": False,
        "minloglevel": 2,
        "num_threads": 1,
    } | options
    sentencepiece.SentencePieceTrainer.train(**settings)
    return model.getvalue()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(trained())


@pytest.mark.parametrize("text", [*SENTENCES[:3], "", "the timer"])
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(i > UNK_ID for i in ids)
    assert tokenizer.decode(ids) == text


def test_reserved_ids_give_no_text(tokenizer):
    assert tokenizer.pieces[:3] == RESERVED_PIECES
    ids = tokenizer.encode("turn on")
    assert tokenizer.decode([0, *ids, 1, 2]) == "turn on"


def test_an_unknown_character_is_unk(tokenizer):
    assert UNK_ID in tokenizer.encode("\u4e16")


@pytest.mark.parametrize("bad", [-1, 10_000])
def test_ids_out_of_range_are_refused(tokenizer, bad):
    with pytest.raises(ValueError, match=rf"^tokenizer: id {bad}; ids must lie in 0\.\.\d+\.$"):
        tokenizer.decode([bad])


def test_bytes_that_are_no_model():
    with pytest.raises(ConfigError) as caught:
        Tokenizer(b"not a model")
    assert str(caught.value) == (
        "tokenizer: 11 bytes that are no SentencePiece model. Give it the bytes of a `.model` file."
    )


def test_reserved_pieces_must_come_first():
    with pytest.raises(ConfigError) as caught:
        Tokenizer(trained(user_defined_symbols=[], unk_id=0))
    message = str(caught.value)
    assert message.startswith("tokenizer: the first pieces are <unk>, ")
    assert message.endswith(
        "they must be <blk>, <sos/eos>, <unk>. Train it with these ids reserved."
    )
