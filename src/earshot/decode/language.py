"""Language models that score words one by one: the protocol, and the engine's own model.

A scorer is asked for many words at once, each after a state of its own, so that the weights are
read once for all of them; states are shared by everything that begins with the same words. Knows
nothing of lattices, servers or audio.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from earshot import _native
from earshot.core.errors import ConfigError, ModelFileError
from earshot.data.tokenizer import SOS_EOS_ID, UNK_ID, Tokenizer
from earshot.modelfile.reader import ModelFile
from earshot.runtime.session import open_model

__all__ = ["UNKNOWN_LOG_PROB", "EarScorer", "LanguageScorer", "sentence_scores"]

UNKNOWN_LOG_PROB = -12.0
"""What a piece counts that the model has never seen, such as a letter of another alphabet."""

_MAX_CACHED_WORDS = 50_000
GRAPH = "language"


class LanguageScorer(Protocol):
    """Scores words after what was said before them.

    States are values: extending one leaves it as it was. One thread at a time may call a scorer.
    """

    @property
    def name(self) -> str:
        """What the model is called."""
        ...

    def start(self) -> Any:
        """The state before the first word of a sentence."""
        ...

    def extend(self, after: Sequence[tuple[Any, str]]) -> list[tuple[float, Any]]:
        """Score one word each after a state.

        Args:
            after: States and words. Pairs that are equal should come once.

        Returns:
            For each: log probability of the word, nats, and the state after it.
        """
        ...

    def finish(self, states: Sequence[Any]) -> list[float]:
        """Log probability, nats, that the sentence ends here, for each state."""
        ...


class _State:
    """After some pieces: what the engine carries, and the scores of the piece that comes next."""

    __slots__ = ("carried", "following")

    def __init__(self, carried: _native.GraphState, following: Any) -> None:
        self.carried = carried
        self.following = following  # (V,) float32, nats


class EarScorer:
    """A language model in a `.ear` file, run by the engine.

    Args:
        path: A file with the graph `language` and a tokenizer, as `earshot train run
            recipes/rescoring-lm.toml` makes it.

    Raises:
        ModelFileError: The file is broken, or is no language model.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        model = open_model(self.path)
        self._name = model.name
        file = ModelFile(self.path)
        if GRAPH not in model.graph_names or not any(t.name == "tokenizer" for t in file.tensors):
            raise ModelFileError(
                self.path,
                "it is no language model: the graph 'language' or the tokenizer is missing",
                remedy="Make one with `earshot train run recipes/rescoring-lm.toml`",
            )
        self._graph = model.graph(GRAPH)
        try:
            self._tokenizer = Tokenizer(file.tensor_bytes("tokenizer"))
        except ConfigError as err:
            raise ModelFileError(
                self.path,
                f"its tokenizer cannot be used ({err})",
                remedy="Make the model again with `earshot train run recipes/rescoring-lm.toml`",
            ) from None
        pieces = len(self._tokenizer.pieces)
        width = self._graph.widths.get("log_probs")
        if self._graph.inputs != ["y"] or width != pieces:
            raise ModelFileError(
                self.path,
                f"its graph 'language' gives {width} scores for {pieces} word pieces",
                remedy="Make the model again with `earshot train run recipes/rescoring-lm.toml`",
            )
        self._words: dict[str, npt.NDArray[np.int32]] = {}
        carried = self._graph.initial_state()
        first = self._graph.step(np.array([SOS_EOS_ID], np.int32), carried)
        self._start = _State(carried, first["log_probs"][-1])

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    def start(self) -> _State:
        """The state after the sentence mark; always the same object."""
        return self._start

    def extend(self, after: Sequence[tuple[_State, str]]) -> list[tuple[float, _State]]:
        """Score one word each after a state, all of them in one call of the engine."""
        if not after:
            return []
        ids = [self._ids(word) for _, word in after]
        chunks: list[Any] = list(ids)
        carried = [state.carried.copy() for state, _ in after]
        steps = self._graph.step_batch(chunks, carried)
        out = []
        for (state, _), word, moved, step in zip(after, ids, carried, steps, strict=True):
            rows = step["log_probs"]
            score = _of(state.following, int(word[0]))
            for row, piece in zip(rows[:-1], word[1:].tolist(), strict=True):
                score += _of(row, piece)
            out.append((score, _State(moved, rows[-1].copy())))
        return out

    def finish(self, states: Sequence[_State]) -> list[float]:
        """How likely the sentence mark is after each state."""
        return [float(state.following[SOS_EOS_ID]) for state in states]

    def _ids(self, word: str) -> npt.NDArray[np.int32]:
        known = self._words.get(word)
        if known is None:
            if len(self._words) >= _MAX_CACHED_WORDS:
                self._words.clear()
            known = np.array(self._tokenizer.encode(word) or [UNK_ID], np.int32)
            self._words[word] = known
        return known


def _of(scores: Any, piece: int) -> float:
    return UNKNOWN_LOG_PROB if piece == UNK_ID else float(scores[piece])


def sentence_scores(scorer: LanguageScorer, sentences: Sequence[Sequence[str]]) -> list[float]:
    """Log probability of whole sentences, each beginning shared by all that have it.

    Args:
        scorer: A language model.
        sentences: Words of each; may be empty.

    Returns:
        Nats, the end of the sentence included.
    """
    reached: dict[tuple[str, ...], tuple[float, Any]] = {(): (0.0, scorer.start())}
    longest = max((len(sentence) for sentence in sentences), default=0)
    for length in range(1, longest + 1):
        wanted = list({tuple(s[:length]): None for s in sentences if len(s) >= length})
        pairs = [(reached[prefix[:-1]][1], prefix[-1]) for prefix in wanted]
        for prefix, (score, state) in zip(wanted, scorer.extend(pairs), strict=True):
            reached[prefix] = (reached[prefix[:-1]][0] + score, state)
    ends = scorer.finish([reached[tuple(s)][1] for s in sentences])
    return [reached[tuple(s)][0] + end for s, end in zip(sentences, ends, strict=True)]
