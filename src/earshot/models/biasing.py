"""Trained biasing: attention over a list of phrases, from sound and from the pieces so far.

A phrase is read as the transitions between its word pieces: entry i of the list says "after these
pieces comes that one", and may say how that sounds. An encoder turns each into a key and a value,
once per list; frames and label histories look entries up by their keys and get values back, which
are added to what the joiner reads. Beside the entries stands one that means "none of them": its
key is learned and its value is 0, so that where nothing fits, and for an empty list, nothing is
added.
Knows nothing of text, audio or search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from earshot.core.errors import ConfigError
from earshot.data.phones import NUM_PHONE_OUTPUTS
from earshot.models.graph import GraphBuilder, GraphTensor

NO_PIECE = -1  # in a window: before the first piece or phone of a phrase, or behind its last
MAX_PHONES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasConfig:
    """Shape of the biasing networks. `query` says what asks: nothing, sound, or sound and label."""

    query: Literal["none", "audio", "audio_and_label"] = "none"
    before: int = 2  # pieces of the phrase that an entry knows before its own,
    after: int = 0  # and behind it
    phones: int = 0  # of the phrase that it knows, up to the last of its own piece
    width: int = 64  # of embeddings, and of frames in front of the convolution
    hidden: int = 160
    heads: int = 2
    key_width: int = 32  # a head
    value_width: int = 48  # a head
    audio_context: int = 6  # frames of 40 ms that a query sees, the newest included

    def __post_init__(self) -> None:
        if not (1 <= self.before <= 4 and 0 <= self.after <= 4):
            raise ConfigError(
                f"model.bias: before is {self.before} and after {self.after}; they must lie in "
                "1..4 and 0..4. Change one."
            )
        if not 0 <= self.phones <= MAX_PHONES:
            raise ConfigError(
                f"model.bias.phones is {self.phones}; it must lie in 0..{MAX_PHONES}. Change it."
            )

    @property
    def window(self) -> int:
        """Ids that an entry knows: pieces, then phones."""
        return self.before + 1 + self.after + self.phones

    def header(self) -> dict[str, int]:
        """The `bias` object of a model file's header."""
        sounds = {"phones": self.phones} if self.phones else {}
        return {"before": self.before, "after": self.after, **sounds}


@dataclass(frozen=True, slots=True)
class PhraseBatch:
    """The list of a training batch, and which of its entries each piece is.

    windows (E, window) int64, distinct; label_entries (B, U + 1) int64: the entry of the piece that
    comes after each prefix, `NONE` where it is of no listed phrase, `UNGUIDED` in the padding;
    frame_entries (B, T) the same of what a frame emits, None where that is not known.
    """

    windows: Tensor
    label_entries: Tensor
    frame_entries: Tensor | None = None


NONE, UNGUIDED = -1, -2
QUIET = 10.0  # nats of the guide for as much energy added, where nothing is wanted, as there was
_UNSEEN = -1e4  # the score of an entry that may not be seen: of infinity there is no gradient


@dataclass(frozen=True, slots=True)
class Looked:
    """What a lookup gives: `added` (..., J), and log-weights (..., H, E + 1), no-bias last."""

    added: Tensor
    log_weights: Tensor


def phrase_windows(
    pieces: Sequence[int],
    config: BiasConfig,
    *,
    phones: Sequence[int] = (),
    ends: Sequence[int] = (),
    vocab_size: int = 0,
) -> list[tuple[int, ...]]:
    """The entries of a phrase: one a piece, each with its neighbours and its sound.

    Args:
        pieces: Ids of the phrase.
        config: Says how many neighbours and phones.
        phones: Of the whole phrase, 1 and up; unused where `config.phones` is 0, and so are:
        ends: Of each piece, how many phones there are up to its end.
        vocab_size: Number of pieces; phone p is the id `vocab_size + p`.

    Returns:
        `window` ids each, `NO_PIECE` beyond the ends.
    """
    padded = [NO_PIECE] * config.before + list(pieces) + [NO_PIECE] * config.after
    reach = config.before + 1 + config.after
    windows = [tuple(padded[i : i + reach]) for i in range(len(pieces))]
    if config.phones == 0:
        return windows
    sounds = [NO_PIECE] * config.phones + [vocab_size + phone for phone in phones]
    return [
        (*window, *sounds[end : end + config.phones])
        for window, end in zip(windows, ends, strict=True)
    ]


class _Lookup(nn.Module):
    """Multi-head attention from queries to the entries and to the no-bias entry.

    Source:
        Chang et al., "Context-aware transformer transducer for speech recognition", ASRU 2021
        (attention over a list, from audio and label); Munkhdalai et al., "Fast contextual
        adaptation with neural associative memory for on-device personalized speech recognition",
        ICASSP 2022 (entries are transitions between pieces).
    """

    def __init__(self, config: BiasConfig, joiner_width: int) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Linear(config.hidden, config.heads * config.key_width)
        self.no_bias_key = nn.Parameter(torch.randn(config.heads * config.key_width))
        # Without a bias: a value of 0 adds nothing.
        self.out = nn.Linear(config.heads * config.value_width, joiner_width, bias=False)

    def forward(
        self, hidden: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None
    ) -> Looked:
        """Look entries up: hidden (..., hidden), keys (E, H K), values (E, H V).

        `allowed` (..., E) says which entries each query may see; all if it is None.
        """
        heads = self.config.heads
        lead = hidden.shape[:-1]
        queries = self.query(hidden).reshape(-1, heads, self.config.key_width)
        every = torch.cat([keys, self.no_bias_key[None].to(keys.dtype)])
        every = every.reshape(len(every), heads, self.config.key_width)
        scores = torch.einsum("nhk,ehk->nhe", queries, every.to(queries.dtype)).float()
        scores = scores / math.sqrt(self.config.key_width)
        if allowed is not None:
            hide = functional.pad(~allowed.reshape(len(queries), 1, -1), (0, 1))
            scores = scores.masked_fill(hide, _UNSEEN)
        log_weights = functional.log_softmax(scores, dim=-1)
        weights = log_weights[..., :-1].exp()
        read = values.reshape(len(values), heads, self.config.value_width)
        context = torch.einsum("nhe,ehv->nhv", weights.to(read.dtype), read)
        added = self.out(context.reshape(len(context), -1))
        return Looked(
            added.reshape(*lead, -1), log_weights.reshape(*lead, heads, log_weights.shape[-1])
        )

    def describe(self, graph: GraphBuilder, x: str, *, kind: str, entries: str, out: str) -> None:
        """Append query, attention and output to `graph`."""
        query = graph.linear(x, self.query, out="query")
        context = graph.node(
            "phrase_attention",
            [query],
            out="context",
            heads=self.config.heads,
            keys=f"{kind}_keys",
            values=f"{kind}_values",
            entries=entries,
            tensors={"no_bias_key": GraphTensor(self.no_bias_key.detach(), "vector")},
        )
        graph.linear(context, self.out, out=out)


class PhraseBias(nn.Module):
    """Phrase encoder and the lookups from sound and from label."""

    def __init__(
        self, config: BiasConfig, *, vocab_size: int, encoder_width: int, joiner_width: int
    ) -> None:
        super().__init__()
        self.config = config
        sounds = NUM_PHONE_OUTPUTS if config.phones else 0
        self.embedding = nn.Embedding(vocab_size + sounds, config.width)
        self.mix = nn.Linear(config.window * config.width, config.hidden)
        self.second = nn.Linear(config.hidden, config.hidden)
        self.audio_in = nn.Linear(encoder_width, config.width)
        self.audio_mix = nn.Linear(config.audio_context * config.width, config.hidden)
        self.audio = _Lookup(config, joiner_width)
        keys, values = config.heads * config.key_width, config.heads * config.value_width
        self.audio_keys = nn.Linear(config.hidden, keys)
        self.audio_values = nn.Linear(config.hidden, values)
        self.label: _Lookup | None = None
        if config.query == "audio_and_label":
            self.label_in = nn.Linear(joiner_width, config.hidden)
            self.label = _Lookup(config, joiner_width)
            self.label_keys = nn.Linear(config.hidden, keys)
            self.label_values = nn.Linear(config.hidden, values)

    def encode(self, windows: Tensor) -> Tensor:
        """Entries (E, window) of ids, `NO_PIECE` for none, as vectors (E, hidden)."""
        known = (windows >= 0).unsqueeze(-1)
        embedded = self.embedding(windows.clamp_min(0)) * known
        return torch.relu(self.second(torch.relu(self.mix(embedded.flatten(1)))))

    def look_up_audio(self, hidden: Tensor, entries: Tensor) -> Looked:
        """From sound.

        Args:
            hidden: (B, T, encoder_width).
            entries: From `encode`.

        Returns:
            `added` is for the encoder's output, (B, T, joiner_width).
        """
        x = self.audio_in(hidden)
        context = self.config.audio_context
        x = functional.pad(x, (0, 0, context - 1, 0))
        frames = hidden.shape[1]
        taps = torch.cat([x[:, i : i + frames] for i in range(context)], dim=-1)
        mixed = torch.relu(self.audio_mix(taps))
        return self.audio(mixed, self.audio_keys(entries), self.audio_values(entries))

    def look_up_label(
        self, predicted: Tensor, entries: Tensor, windows: Tensor, last: Tensor
    ) -> Looked:
        """From the pieces so far.

        Only entries that can come next are seen: those that begin a phrase, and those whose piece
        before is the last one of the history.

        Args:
            predicted: (B, U + 1, joiner_width), the predictor's outputs.
            entries: From `encode`.
            windows: (E, window), what they were encoded from.
            last: (B, U + 1) the last piece of each history, blank where there is none.

        Returns:
            `added` is for the predictor's output, of its shape.
        """
        assert self.label is not None
        mixed = torch.relu(self.label_in(predicted))
        before = windows[:, self.config.before - 1]
        allowed = (before == NO_PIECE) | (before == last[..., None])
        return self.label(mixed, self.label_keys(entries), self.label_values(entries), allowed)

    def forward(
        self,
        hidden: Tensor,
        encoded: Tensor,
        predicted: Tensor,
        labels: Tensor,
        phrases: PhraseBatch,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder and predictor outputs with what the list adds, and the guide's loss.

        The guide is the cross-entropy of the attention, averaged over heads, against the entries
        that are known to be right: without it, what to attend to is learnt from nothing. What is
        added where no phrase is said counts as well, as a share of what it is added to: else an
        adapter learns how the sentences of its training go, and harms all others.

        Args:
            hidden: (B, T, encoder_width).
            encoded: (B, T, joiner_width).
            predicted: (B, U + 1, joiner_width).
            labels: (B, U) piece ids.
            phrases: The list.

        Returns:
            `encoded` and `predicted` with the context vectors added; nats per guided place.
        """
        entries = self.encode(phrases.windows)
        guide = encoded.new_zeros((), dtype=torch.float32)
        audio = self.look_up_audio(hidden, entries)
        if phrases.frame_entries is not None:
            guide = guide + _guide(audio.log_weights, phrases.frame_entries)
            guide = guide + QUIET * _noise(audio.added, encoded, phrases.frame_entries)
        encoded = encoded + audio.added
        if self.label is not None:
            last = functional.pad(labels, (1, 0))
            label = self.look_up_label(predicted, entries, phrases.windows, last)
            guide = guide + _guide(label.log_weights, phrases.label_entries)
            guide = guide + QUIET * _noise(label.added, predicted, phrases.label_entries)
            predicted = predicted + label.added
        return encoded, predicted, guide

    def describe(self) -> list[tuple[GraphBuilder, list[str]]]:
        """The graphs `bias`, `bias_audio` and, where there is one, `bias_label`: outputs beside."""
        phrases = GraphBuilder("bias", ["y"])
        table = GraphTensor(self.embedding.weight.detach(), "table")
        x = phrases.node("embedding", ["y"], tensors={"table": table})
        x = phrases.node("conv1d", [x], **_taps(self.mix, self.config.window, "valid"))
        x = phrases.node("relu", [x])
        x = phrases.node("relu", [phrases.linear(x, self.second)])
        outputs = ["audio_keys", "audio_values"]
        phrases.linear(x, self.audio_keys, out="audio_keys")
        phrases.linear(x, self.audio_values, out="audio_values")
        if self.label is not None:
            phrases.linear(x, self.label_keys, out="label_keys")
            phrases.linear(x, self.label_values, out="label_values")
            outputs += ["label_keys", "label_values"]

        audio = GraphBuilder("bias_audio", ["hidden"])
        x = audio.linear("hidden", self.audio_in)
        x = audio.node("conv1d", [x], **_taps(self.audio_mix, self.config.audio_context, "causal"))
        self.audio.describe(
            audio, audio.node("relu", [x]), kind="audio", entries="all", out="encoder_bias"
        )
        made = [(phrases, outputs), (audio, ["encoder_bias"])]
        if self.label is not None:
            label = GraphBuilder("bias_label", ["predictor_out"])
            x = label.node("relu", [label.linear("predictor_out", self.label_in)])
            self.label.describe(label, x, kind="label", entries="next", out="predictor_bias")
            made.append((label, ["predictor_bias"]))
        return made


def _guide(log_weights: Tensor, wanted: Tensor) -> Tensor:
    """Mean of -log(weight of the wanted entry), (B, N, H, E + 1) at (B, N), where one is known.

    Places in phrases and places where nothing is wanted count the same, however many there are:
    nine in ten want nothing, and whoever says so everywhere would have little to lose. So that
    attention still expects phrases as seldom as they come, no bias is taken to weigh less here by
    how much more often it is wanted (Menon et al., "Long-tail learning via logit adjustment", ICLR
    2021).
    """
    heads = log_weights.shape[-2]
    inside, outside = wanted >= 0, wanted == NONE
    counts = [int(part.sum()) for part in (inside, outside)]
    if all(counts):
        own = log_weights.new_zeros(log_weights.shape[-1])
        own[-1] = math.log(counts[0] / counts[1])
        log_weights = functional.log_softmax(log_weights + own, dim=-1)
    parts = []
    for part, count in zip((inside, outside), counts, strict=True):
        if count:
            mean = torch.logsumexp(log_weights[part], dim=-2) - math.log(heads)
            of_part = torch.where(wanted == NONE, mean.shape[-1] - 1, wanted)[part]
            parts.append(functional.nll_loss(mean, of_part))
    return torch.stack(parts).mean() if parts else log_weights.new_zeros(())


def _noise(added: Tensor, base: Tensor, wanted: Tensor) -> Tensor:
    """Energy of what is added where nothing is wanted, relative to that of what is there."""
    outside = wanted == NONE
    if not outside.any():
        return added.new_zeros((), dtype=torch.float32)
    energy = base.detach()[outside].float().square().mean()
    return added[outside].float().square().mean() / energy.clamp_min(1e-6)


def _taps(layer: nn.Linear, kernel: int, padding: str) -> dict[str, Any]:
    """A linear layer over joined frames as attributes of a `conv1d` node."""
    tensors = {
        "weight": GraphTensor(layer.weight.detach(), "matrix"),
        "bias": GraphTensor(layer.bias.detach(), "vector"),
    }
    return {"kernel": kernel, "dilation": 1, "padding": padding, "tensors": tensors}
