"""The second pass: the same phones once more, heard from the end of the utterance to its beginning.

The streaming encoder knows what came before a frame; at the end of an utterance its frames can be
read backwards, so that each also knows what came after (cascaded encoders: a causal one, and a
non-causal one on top of it). The layers are those of the encoder; their input is reversed.
Knows nothing of losses or grammars.

Source:
    Narayanan et al., "Cascaded encoders for unifying streaming and non-streaming ASR", 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from earshot.models.encoder import describe_layer, open_forget_gates, run_layer
from earshot.models.graph import GraphBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondPassConfig:
    """Shape of the second pass and the weight of its loss."""

    layers: int = 0  # 0: none
    dropout: float = 0.1
    weight: float = 2.0  # of its loss beside the others


class SecondPass(nn.Module):
    """Residual LSTM layers over reversed encoder frames, and a CTC head over phones.

    hidden (B, T, hidden) -> logits (B, T, outputs), both in the order of time.
    """

    def __init__(self, config: SecondPassConfig, *, hidden: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.lstms = nn.ModuleList(nn.LSTM(hidden, hidden) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.phones = nn.Linear(hidden, outputs)
        for lstm, _ in self._layers():
            open_forget_gates(lstm)

    def _layers(self) -> Iterator[tuple[nn.LSTM, nn.LayerNorm]]:
        for lstm, norm in zip(self.lstms, self.norms, strict=True):
            yield cast("nn.LSTM", lstm), cast("nn.LayerNorm", norm)

    def forward(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Logits of every frame, knowing the whole utterance.

        Args:
            hidden: (B, T, hidden) of the encoder.
            frames: (B,) how many of them are of the utterance; what is behind them is not read.

        Returns:
            (B, T, outputs); meaningless behind an utterance's frames.
        """
        order = reversed_order(frames, hidden.shape[1])
        index = order[:, :, None].expand(-1, -1, hidden.shape[2])
        x = hidden.gather(1, index).transpose(0, 1).contiguous()
        for lstm, norm in self._layers():
            zeros = x.new_zeros(1, x.shape[1], x.shape[2])
            x, _, _ = run_layer(lstm, norm, self.dropout, x, (zeros, zeros))
        x = x.transpose(0, 1)
        return self.phones(x.gather(1, index))

    def describe(self, graph: GraphBuilder) -> None:
        """Append the nodes to `graph`, whose input `hidden` comes last frame first."""
        x = "hidden"
        for lstm, norm in self._layers():
            x = describe_layer(graph, x, lstm, norm)
        graph.node("log_softmax", [graph.linear(x, self.phones)], out="log_probs")


def reversed_order(frames: Tensor, longest: int) -> Tensor:
    """Where each frame of a padded batch goes when its utterance is turned round.

    Args:
        frames: (B,).
        longest: T.

    Returns:
        (B, T) int64: frames - 1 down to 0, then the padding in its places. Its own inverse.
    """
    places = torch.arange(longest, device=frames.device)[None]
    return torch.where(places < frames[:, None], frames[:, None] - 1 - places, places)
