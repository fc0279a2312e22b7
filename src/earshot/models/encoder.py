"""The streaming LSTM encoder: fbank frames of 10 ms in, hidden frames of 40 ms out.

Every layer is causal and carries its state explicitly, so `step` on chunks gives what
`forward` gives on the whole. Knows nothing of transducers or losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from earshot.modelfile.codecs import ROW_BLOCK, lstm_unit_blocks
from earshot.models.graph import GraphBuilder, GraphTensor
from earshot.models.lstm import run_lstm


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Shape of the encoder."""

    num_bins: int = 80
    stack: int = 4  # 10 ms frames joined into one of 40 ms
    hidden: int = 320
    layers: int = 4
    dropout: float = 0.1


@dataclass(slots=True)
class EncoderState:
    """What the encoder remembers between chunks: `h` and `c` are (layers, B, hidden)."""

    h: Tensor
    c: Tensor


class LstmEncoder(nn.Module):
    """Normalise, stack to 40 ms, project, then residual LSTM layers with layer norm.

    x (B, T, num_bins) -> hidden (B, ceil(T / stack), hidden). Mean and variance normalisation is
    part of the network, so that an exported model takes raw fbank.
    """

    mean: Tensor
    inv_std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.num_bins))
        self.register_buffer("inv_std", torch.ones(config.num_bins))
        self.project = nn.Linear(config.num_bins * config.stack, config.hidden)
        self.lstms = nn.ModuleList(
            nn.LSTM(config.hidden, config.hidden) for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        for lstm, _ in self._layers():
            open_forget_gates(lstm)

    def _layers(self) -> Iterator[tuple[nn.LSTM, nn.LayerNorm]]:
        for lstm, norm in zip(self.lstms, self.norms, strict=True):
            yield cast("nn.LSTM", lstm), cast("nn.LayerNorm", norm)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Fix the feature statistics, each (num_bins,). They never change afterwards."""
        self.mean.copy_(mean)
        self.inv_std.copy_(1.0 / std.clamp_min(1e-3))

    def initial_state(self, batch: int = 1) -> EncoderState:
        """Zeros for `batch` fresh streams."""
        shape = (self.config.layers, batch, self.config.hidden)
        device = self.mean.device
        return EncoderState(torch.zeros(shape, device=device), torch.zeros(shape, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Encode whole utterances.

        Args:
            x: (B, T, num_bins) log-mel; a T that is no multiple of `stack` is filled up by
                repeating the last frame, as the engine does when the input ends.

        Returns:
            (B, ceil(T / stack), hidden).
        """
        remainder = -x.shape[1] % self.config.stack
        if remainder:
            x = torch.cat([x, x[:, -1:].expand(-1, remainder, -1)], dim=1)
        hidden, _ = self.step(x, self.initial_state(x.shape[0]))
        return hidden

    def step(self, chunk: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """Encode the next frames of B streams.

        Args:
            chunk: (B, T, num_bins), T a multiple of `stack`.
            state: From `initial_state` or the step before; not modified.

        Returns:
            Hidden frames (B, T / stack, hidden) and the new state.

        Raises:
            ValueError: T is not a multiple of `stack`.
        """
        batch, frames, bins = chunk.shape
        stack = self.config.stack
        if frames % stack:
            raise ValueError(
                f"encoder: chunk has {frames} frames; it must be a multiple of {stack}. "
                "Keep the remainder for the next chunk."
            )
        x = (chunk - self.mean) * self.inv_std
        x = self.project(x.reshape(batch, frames // stack, bins * stack))
        x = x.transpose(0, 1).contiguous()  # (T, B, hidden): layers go frame by frame
        h, c = [], []
        for index, (lstm, norm) in enumerate(self._layers()):
            start = (state.h[index : index + 1].to(x.dtype), state.c[index : index + 1].to(x.dtype))
            x, last_h, last_c = run_layer(lstm, norm, self.dropout, x, start)
            h.append(last_h)
            c.append(last_c)
        return x.transpose(0, 1), EncoderState(torch.cat(h), torch.cat(c))

    def describe(self, graph: GraphBuilder) -> str:
        """Append this encoder's nodes to `graph` (input `x`); return the hidden value's name."""
        vector = {
            "mean": GraphTensor(self.mean, "vector"),
            "inv_std": GraphTensor(self.inv_std, "vector"),
        }
        x = graph.node("normalize", ["x"], tensors=vector)
        x = graph.node("stack", [x], factor=self.config.stack)
        x = graph.linear(x, self.project)
        last = self.config.layers - 1
        for index, (lstm, norm) in enumerate(self._layers()):
            x = describe_layer(graph, x, lstm, norm, out="hidden" if index == last else None)
        return x


def open_forget_gates(lstm: nn.LSTM) -> None:
    """Start a layer with forget gates that are open: gradients cross pauses."""
    biases = [p for name, p in lstm.named_parameters() if name.startswith("bias")]
    for bias in biases:
        nn.init.zeros_(bias)
    biases[0].data[lstm.hidden_size : 2 * lstm.hidden_size] = 1.0


def run_layer(
    lstm: nn.LSTM, norm: nn.LayerNorm, dropout: nn.Dropout, x: Tensor, state: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a residual LSTM layer with its norm over (T, B, hidden); arguments as of `run_lstm`."""
    out, h, c = run_lstm(lstm, x, state)
    # One mask per utterance, not per frame: kinder to recurrence and far cheaper to draw.
    return norm(x + out * dropout(torch.ones_like(out[:1]))), h, c


def describe_layer(
    graph: GraphBuilder, x: str, lstm: nn.LSTM, norm: nn.LayerNorm, *, out: str | None = None
) -> str:
    """Append a residual LSTM layer with its norm; return its output's name."""
    total = graph.node("add", [x, describe_lstm(graph, x, lstm)])
    return graph.node(
        "layer_norm",
        [total],
        out=out,
        eps=norm.eps,
        tensors={
            "gamma": GraphTensor(norm.weight.detach(), "vector"),
            "beta": GraphTensor(norm.bias.detach(), "vector"),
        },
    )


def describe_lstm(graph: GraphBuilder, x: str, lstm: nn.LSTM) -> str:
    """Append one single-layer torch LSTM as an `lstm` node; return its output's name."""

    def parameter(name: str) -> Tensor:
        return cast("Tensor", getattr(lstm, name)).detach()

    def arranged(stacked: Tensor) -> Tensor:
        return torch.from_numpy(lstm_unit_blocks(stacked.float().cpu().numpy()))

    def rows(name: str) -> Tensor:
        return arranged(parameter(name))

    def put_back(name: str, value: Tensor) -> None:
        blocks = value.reshape(-1, 4, ROW_BLOCK, *value.shape[1:])  # (block, gate, unit, ...)
        parameter(name).copy_(blocks.transpose(0, 1).reshape(value.shape))

    def put_back_bias(value: Tensor) -> None:
        put_back("bias_ih_l0", value)
        parameter("bias_hh_l0").zero_()

    def matrix(name: str) -> GraphTensor:
        restore = partial(put_back, name)
        return GraphTensor(rows(name), "matrix", restore, parameter(name), arranged)

    bias = rows("bias_ih_l0") + rows("bias_hh_l0")
    tensors = {
        "weight_x": matrix("weight_ih_l0"),
        "weight_h": matrix("weight_hh_l0"),
        "bias": GraphTensor(bias, "vector", put_back_bias),
    }
    return graph.node("lstm", [x], hidden=lstm.hidden_size, tensors=tensors)
