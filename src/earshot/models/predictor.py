"""Prediction networks: what the pieces so far say about the next one.

The stateless one sees the last two pieces only, which lets a search merge hypotheses and cache
results; the LSTM one sees them all. Knows nothing of audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from earshot.models.encoder import describe_lstm
from earshot.models.graph import GraphBuilder, GraphTensor

PredictorState = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorConfig:
    """Shape of the predictor."""

    type: Literal["stateless", "lstm"] = "stateless"
    context_size: int = 2  # pieces seen by a stateless predictor
    width: int = 192
    dropout: float = 0.1


class StatelessPredictor(nn.Module):
    """Embedding and one convolution over the last `context_size` pieces.

    Source:
        Ghodsi et al., "RNN-Transducer with stateless prediction network", ICASSP 2020.
    """

    def __init__(self, config: PredictorConfig, *, vocab_size: int, joiner_width: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.mix = nn.Linear(config.context_size * config.width, config.width)
        self.project = nn.Linear(config.width, joiner_width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, labels: Tensor) -> Tensor:
        """Predict after every prefix of `labels`.

        Args:
            labels: (B, U) piece ids, int64. Before the first piece stands the blank (0), and
                before that nothing (zeros), as in the engine.

        Returns:
            (B, U + 1, joiner_width).
        """
        batch, count = labels.shape
        context = self.config.context_size
        blank = torch.zeros(batch, 1, dtype=labels.dtype, device=labels.device)
        embedded = self.embedding(torch.cat([blank, labels], dim=1))
        nothing = embedded.new_zeros(batch, context - 1, embedded.shape[-1])
        padded = torch.cat([nothing, embedded], dim=1)
        windows = torch.cat([padded[:, i : i + count + 1] for i in range(context)], dim=-1)
        return self.project(self.dropout(torch.relu(self.mix(windows))))

    def describe(self, graph: GraphBuilder) -> str:
        """Append this predictor's nodes (input `y`); return the output's name."""
        table = GraphTensor(self.embedding.weight.detach(), "table")
        x = graph.node("embedding", ["y"], tensors={"table": table})
        x = graph.node(
            "conv1d",
            [x],
            kernel=self.config.context_size,
            dilation=1,
            padding="valid",
            tensors={
                "weight": GraphTensor(self.mix.weight.detach(), "matrix"),
                "bias": GraphTensor(self.mix.bias.detach(), "vector"),
            },
        )
        x = graph.node("relu", [x])
        return graph.linear(x, self.project, out="predictor_out")


class LstmPredictor(nn.Module):
    """Embedding and one LSTM over all pieces so far (Graves, 2012)."""

    def __init__(self, config: PredictorConfig, *, vocab_size: int, joiner_width: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.lstm = nn.LSTM(config.width, config.width, batch_first=True)
        self.project = nn.Linear(config.width, joiner_width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, labels: Tensor) -> Tensor:
        """Predict after every prefix: labels (B, U) -> (B, U + 1, joiner_width)."""
        blank = torch.zeros(labels.shape[0], 1, dtype=labels.dtype, device=labels.device)
        out, _ = self.step(torch.cat([blank, labels], dim=1), self.initial_state(len(labels)))
        return out

    def initial_state(self, batch: int = 1) -> PredictorState:
        """Zeros (1, B, width) for h and c."""
        weight = self.embedding.weight
        zeros = torch.zeros(1, batch, self.config.width, device=weight.device)
        return zeros, zeros

    def step(self, labels: Tensor, state: PredictorState) -> tuple[Tensor, PredictorState]:
        """Feed (B, U) ids, return (B, U, joiner_width) and the new state."""
        out, state = self.lstm(self.embedding(labels), state)
        return self.project(self.dropout(out)), state

    def describe(self, graph: GraphBuilder) -> str:
        """Append this predictor's nodes (input `y`); return the output's name."""
        table = GraphTensor(self.embedding.weight.detach(), "table")
        x = graph.node("embedding", ["y"], tensors={"table": table})
        x = describe_lstm(graph, x, self.lstm)
        return graph.linear(x, self.project, out="predictor_out")
