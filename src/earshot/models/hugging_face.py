"""Any causal language model in a Hugging Face folder as a scorer of words.

Read from disk only: no name is looked up anywhere, and no code from the folder is run. States share
their beginnings as keys and values of attention; words whose states are as long are scored in one
batch. Knows nothing of lattices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earshot.core.errors import ConfigError, MissingExtraError
from earshot.decode.language import UNKNOWN_LOG_PROB

__all__ = ["HuggingFaceScorer"]

_MAX_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """After some tokens.

    Args:
        past: Keys and values of every layer, (1, heads, length, width) each.
        following: (V,) log probabilities of the next token.
        length: Tokens so far.
    """

    past: tuple[tuple[Tensor, Tensor], ...]
    following: Tensor
    length: int


class HuggingFaceScorer:
    """A causal language model and its tokenizer, as `save_pretrained` writes them.

    Args:
        folder: Holds `config.json`, weights in safetensors, and the tokenizer's files.
        device: Such as "cpu" or "cuda".

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: The folder holds no such model, or one without a mark for the start of a text
            or without keys and values to go on from.
    """

    def __init__(self, folder: str | Path, *, device: str = "cpu") -> None:
        try:
            import transformers
        except ModuleNotFoundError:
            raise MissingExtraError(
                "rescoring with a Hugging Face folder", package="transformers", extra="rescore"
            ) from None
        path = Path(folder)
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"{path}: is no folder of a model (there is no config.json in it). Give one that "
                "`save_pretrained` wrote; names of models are not looked up."
            )
        kept: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(path), **kept)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(path), use_safetensors=True, dtype=torch.float32, **kept
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as err:
            line = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
            raise ConfigError(
                f"{path}: cannot be used as a causal language model ({line[:200]}). Give a folder "
                "with weights in safetensors and its tokenizer."
            ) from None
        self._cache_type: Any = transformers.DynamicCache
        self._model: Any = model.eval().to(device)
        self._device = device
        self._name = path.resolve().name
        start = self._tokenizer.bos_token_id
        end = self._tokenizer.eos_token_id
        if start is None and end is None:
            raise ConfigError(
                f"{path}: its tokenizer has no mark for the start or the end of a text; one is "
                "needed. Set bos_token or eos_token in its tokenizer_config.json."
            )
        self._end = start if end is None else end
        self._unknown = self._tokenizer.unk_token_id
        self._lead = self._leading_blank()
        self._words: dict[str, list[int]] = {}
        first = [self._end if start is None else start]
        states = self._step([((), 0)], [first])
        self._start = states[0][0]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._name

    def start(self) -> _State:
        """The state after the mark that begins a text."""
        return self._start

    def extend(self, after: Sequence[tuple[_State, str]]) -> list[tuple[float, _State]]:
        """Score one word each after a state."""
        out: list[tuple[float, _State] | None] = [None] * len(after)
        alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        tokens = [self._tokens(word) for _, word in after]
        for index, (state, _) in enumerate(after):
            alike[state.length, len(tokens[index])].append(index)
        for indices in alike.values():
            for at in range(0, len(indices), _MAX_BATCH):
                batch = indices[at : at + _MAX_BATCH]
                moved = self._step(
                    [(after[i][0].past, after[i][0].length) for i in batch],
                    [tokens[i] for i in batch],
                )
                for i, (state, rows) in zip(batch, moved, strict=True):
                    scores = [after[i][0].following, *rows[:-1]]
                    total = sum(
                        self._of(row, token) for row, token in zip(scores, tokens[i], strict=True)
                    )
                    out[i] = (total, state)
        return [entry for entry in out if entry is not None]

    def finish(self, states: Sequence[_State]) -> list[float]:
        """How likely the mark that ends a text is after each state."""
        return [float(state.following[self._end]) for state in states]

    def _of(self, row: Tensor, token: int) -> float:
        return UNKNOWN_LOG_PROB if token == self._unknown else float(row[token])

    @torch.inference_mode()
    def _step(
        self,
        after: Sequence[tuple[tuple[tuple[Tensor, Tensor], ...], int]],
        tokens: list[list[int]],
    ) -> list[tuple[_State, Tensor]]:
        """Feed as many tokens each to states of one length; new states, and scores (n, V)."""
        past, length = after[0]
        cache = None
        if past:
            layers = range(len(past))
            cache = self._cache_type(
                [
                    tuple(torch.cat([p[layer][i] for p, _ in after]) for i in range(2))
                    for layer in layers
                ]
            )
        ids = torch.tensor(tokens, device=self._device)
        out = self._model(input_ids=ids, past_key_values=cache, use_cache=True)
        rows = out.logits.float().log_softmax(-1).cpu()
        kept = [(layer.keys, layer.values) for layer in getattr(out.past_key_values, "layers", ())]
        total = length + ids.shape[1]
        if not kept or any(keys is None or keys.shape[2] != total for keys, _ in kept):
            raise ConfigError(
                f"{self._name}: the model keeps no keys and values of all of a text; one with "
                "attention over all of it is needed. Give another folder."
            )
        return [
            (
                _State(
                    tuple((k[i : i + 1], v[i : i + 1]) for k, v in kept), rows[i, -1].clone(), total
                ),
                rows[i],
            )
            for i in range(len(tokens))
        ]

    def _tokens(self, word: str) -> list[int]:
        known = self._words.get(word)
        if known is None:
            if len(self._words) > 50_000:
                self._words.clear()
            known = self._encoded(self._lead + word)
            self._words[word] = known
        return known

    def _encoded(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return [int(i) for i in ids] or [self._end]

    def _leading_blank(self) -> str:
        """What a word must begin with, so that words one after the other make a sentence."""
        joined = self._tokenizer.decode([*self._encoded("a"), *self._encoded("b")])
        return "" if joined.strip() == "a b" else " "
