"""A small causal transformer over word pieces: what the words so far say about the next one.

Pre-norm layers of attention and a two-layer network, with tied embeddings. Where a piece stands
is said by a learned bias for every head and distance, and pieces further back than `window` are
not seen, so the state has a fixed size. `step` on chunks gives what `forward` gives on the whole.
Describes itself as the graph `language` of a `.ear` file. Knows nothing of text or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from earshot.models.graph import GraphBuilder, GraphTensor

__all__ = ["LanguageModel", "LanguageModelConfig"]

LanguageState = tuple[Tensor, ...]  # keys and values of every layer, (B, <= window - 1, 2 * width)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig:
    """Shape of the network."""

    vocab_size: int = 1024
    width: int = 256
    layers: int = 3
    heads: int = 4
    inner: int = 768  # width between the two layers of a feed-forward network
    window: int = 64  # pieces that attention sees, the present one included
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"model.width is {self.width} and model.heads {self.heads}; the width must be a "
                "multiple of the heads"
            )
        if not 1 <= self.window <= 1024:
            raise ValueError(f"model.window is {self.window}; it must lie in 1..1024")


class _Layer(nn.Module):
    """x + attention(norm(x)), then x + network(norm(x))."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.distance = nn.Parameter(torch.zeros(config.heads, config.window))
        self.attention_out = nn.Linear(width, width)
        self.network_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, config.inner)
        self.narrow = nn.Linear(config.inner, width)
        self.dropout = nn.Dropout(config.dropout)
        # Heads start with views of different lengths, from all of the window to a few pieces.
        for head in range(config.heads):
            slope = 2.0 ** (-8.0 * (head + 1) / config.heads) if head else 0.0
            distance = torch.arange(config.window, dtype=torch.float32)
            self.distance.data[head] = -slope * distance

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run one layer: x (B, T, W), past (B, P, 2W) -> x', and keys and values with the new ones."""
        batch, count, width = x.shape
        query, fresh = self.query_key_value(self.attention_norm(x)).split((width, 2 * width), -1)
        kept = fresh if past is None else torch.cat([past.to(fresh.dtype), fresh], dim=1)
        key, value = kept.split(width, -1)

        def by_head(t: Tensor) -> Tensor:
            return t.view(batch, t.shape[1], self.heads, -1).transpose(1, 2)

        bias = self._bias(count, kept.shape[1]).to(query.dtype)
        mixed = functional.scaled_dot_product_attention(
            by_head(query), by_head(key), by_head(value), attn_mask=bias[None]
        )
        mixed = mixed.transpose(1, 2).reshape(batch, count, width)
        x = x + self.dropout(self.attention_out(mixed))
        inner = torch.relu(self.widen(self.network_norm(x)))
        return x + self.dropout(self.narrow(inner)), kept

    def _bias(self, count: int, total: int) -> Tensor:
        """(heads, count, total): the bias of each distance, -inf where nothing is seen."""
        window = self.distance.shape[1]
        device = self.distance.device
        now = torch.arange(total - count, total, device=device)
        back = now[:, None] - torch.arange(total, device=device)
        seen = (back >= 0) & (back < window)
        bias = self.distance[:, back.clamp(0, window - 1)]
        return bias.masked_fill(~seen, -torch.inf)


class LanguageModel(nn.Module):
    """Causal transformer language model.

    Source:
        Vaswani et al., "Attention is all you need", NeurIPS 2017; distances as in Raffel et al.,
        "Exploring the limits of transfer learning with a unified text-to-text transformer",
        JMLR 21, 2020, with a bias of its own for every one.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = nn.Dropout(config.dropout)
        for name, parameter in self.named_parameters():
            if name.endswith(("attention_out.weight", "narrow.weight")):
                parameter.data.div_(math.sqrt(2 * config.layers))

    def forward(self, pieces: Tensor) -> Tensor:
        """Scores of the piece after every one.

        Args:
            pieces: (B, T) ids, int64; the first of a sentence is the sentence mark.

        Returns:
            (B, T, vocab_size) logits.
        """
        return self.step(pieces, None)[0]

    def step(self, pieces: Tensor, state: LanguageState | None) -> tuple[Tensor, LanguageState]:
        """Feed (B, T) ids after those that `state` has seen; logits (B, T, V) and the new state."""
        x = self.dropout(self.embedding(pieces) * math.sqrt(self.config.width))
        after = []
        for index, layer in enumerate(self.layers):
            x, kept = layer(x, None if state is None else state[index])
            after.append(kept[:, max(0, kept.shape[1] - self.config.window + 1) :])
        logits = functional.linear(self.norm(x), self.embedding.weight, self.bias)
        return logits, tuple(after)

    def graphs(self) -> tuple[dict[str, Any], dict[str, GraphTensor]]:
        """The network as the `.ear` graph `language`, input `y`, output `log_probs`.

        The factor on embeddings is a `normalize` node with a mean of zero.

        Returns:
            Graph name to its JSON form, and tensor name to tensor.
        """
        graph = GraphBuilder("language", ["y"])
        width = self.config.width
        table = GraphTensor(self.embedding.weight.detach(), "table")
        x = graph.node("embedding", ["y"], tensors={"table": table})
        scale = torch.full((width,), math.sqrt(width))
        x = graph.node(
            "normalize",
            [x],
            tensors={
                "mean": GraphTensor(torch.zeros(width), "vector"),
                "inv_std": GraphTensor(scale, "vector"),
            },
        )
        for module in self.layers:
            layer = cast("_Layer", module)
            normed = _describe_norm(graph, x, layer.attention_norm)
            mixed = graph.node(
                "causal_attention",
                [graph.linear(normed, layer.query_key_value)],
                heads=self.config.heads,
                window=self.config.window,
                tensors={"distance": GraphTensor(layer.distance.detach(), "vector")},
            )
            x = graph.node("add", [x, graph.linear(mixed, layer.attention_out)])
            normed = _describe_norm(graph, x, layer.network_norm)
            inner = graph.node("relu", [graph.linear(normed, layer.widen)])
            x = graph.node("add", [x, graph.linear(inner, layer.narrow)])
        logits = graph.node(
            "linear",
            [_describe_norm(graph, x, self.norm)],
            out="logits",
            tensors={
                "weight": GraphTensor(self.embedding.weight.detach(), "matrix"),
                "bias": GraphTensor(self.bias.detach(), "vector"),
            },
        )
        graph.node("log_softmax", [logits], out="log_probs")
        return {"language": graph.as_json(["log_probs"])}, graph.tensors


def _describe_norm(graph: GraphBuilder, x: str, norm: nn.LayerNorm) -> str:
    tensors = {
        "gamma": GraphTensor(norm.weight.detach(), "vector"),
        "beta": GraphTensor(norm.bias.detach(), "vector"),
    }
    return graph.node("layer_norm", [x], eps=norm.eps, tensors=tensors)
