"""A folder that the test writes itself: a GPT-2 of a few thousand weights and its tokenizer."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the scorer needs the extra [rescore]")

import tokenizers
import torch
import transformers

from earshot.core.errors import ConfigError
from earshot.decode.language import sentence_scores
from earshot.decode.rescoring import RescoringConfig, rescore
from earshot.models.hugging_face import HuggingFaceScorer

SENTENCES = ["turn on the light", "turn off the fan", "what time is it", "stop"]


def write_gpt2(folder: Path) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(2)
    config = transformers.GPT2Config(
        vocab_size=len(fast), n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf") / "tiny-gpt2"
    write_gpt2(path)
    return path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a name was looked up or a connection made")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return


@pytest.mark.usefixtures("no_network")
def test_words_add_up_to_what_the_model_gives_the_whole_sentence(folder: Path) -> None:
    """Oracle: one pass over all tokens of a sentence, without any state."""
    scorer = HuggingFaceScorer(folder)
    assert scorer.name == "tiny-gpt2"
    sentences = [text.split() for text in SENTENCES]
    got = sentence_scores(scorer, sentences)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    for text, nats in zip(SENTENCES, got, strict=True):
        ids = [0, *tokenizer.encode(" " + text), 0]
        with torch.no_grad():
            rows = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        want = sum(float(rows[i, token]) for i, token in enumerate(ids[1:]))
        assert nats == pytest.approx(want, abs=1e-4)


def test_a_state_can_be_gone_on_from_twice_and_in_any_company(folder: Path) -> None:
    scorer = HuggingFaceScorer(folder)
    start = scorer.start()
    ((_, turn),) = scorer.extend([(start, "turn")])
    together = scorer.extend([(turn, "on"), (start, "what"), (turn, "the"), (turn, "zyx")])
    alone = [scorer.extend([pair])[0] for pair in
             ((turn, "on"), (start, "what"), (turn, "the"), (turn, "zyx"))]  # fmt: skip
    assert [n for n, _ in together] == pytest.approx([n for n, _ in alone], abs=1e-5)
    ends = scorer.finish([state for _, state in together])
    assert ends == pytest.approx([scorer.finish([state])[0] for _, state in alone], abs=1e-5)


def test_it_rescores_a_lattice(folder: Path) -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "decode"))
    from lattices import make

    lattice = make(
        [(0, 1, "turn", 0, 5, -1.0, 0.0), (0, 1, "stop", 0, 5, -1.1, 0.0),
         (1, 2, "on", 5, 9, -0.3, 0.0), (1, 2, "off", 5, 9, -0.2, 0.0)]
    )  # fmt: skip
    scorer = HuggingFaceScorer(folder)
    config = RescoringConfig(language=0.5, order=10)
    found = rescore([lattice], scorer, config)[0]
    assert len(found) == 4
    for h in found:
        assert h.language == pytest.approx(sentence_scores(scorer, [h.words])[0], abs=1e-4)


def test_folders_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        HuggingFaceScorer("gpt2")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be used as a causal language model"):
        HuggingFaceScorer(tmp_path)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match="safetensors"):
        HuggingFaceScorer(pickled)
