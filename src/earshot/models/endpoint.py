"""The end-of-query head: what the frames of an encoder are, with regard to an utterance.

Four classes a frame: speech, silence before it, a pause in it, silence after it. What tells the
last two apart is what was said and how, which is in the encoder's frames, and how long it has been
quiet, which the head's own memory counts. Small, so that any model gets one in minutes; the encoder
is left as it is. Knows nothing of files or of how utterances are labelled.

Source:
    Shannon, Simko, Chang and Parada, "Improved end-of-query detection for streaming speech
    recognition", Interspeech 2017 (the four classes).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from earshot.models.encoder import describe_lstm
from earshot.models.graph import GraphBuilder

__all__ = ["CLASSES", "EndpointHead"]

CLASSES = ("speech", "before", "pause", "after")


class EndpointHead(nn.Module):
    """A layer, an LSTM and four scores; or the scores alone.

    Args:
        width: Of the encoder's `hidden`.
        size: Of layer and LSTM, a multiple of 16; 0 scores each frame by itself.
    """

    def __init__(self, width: int, size: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(width, size) if size else None
        self.lstm = nn.LSTM(size, size, batch_first=True) if size else None
        self.last = nn.Linear(size or width, len(CLASSES))

    def forward(self, hidden: Tensor) -> Tensor:
        """Score frames.

        Args:
            hidden: (B, T, width) of utterances that begin with a clean state.

        Returns:
            (B, T, 4) log-probabilities.
        """
        x = hidden
        if self.first is not None and self.lstm is not None:
            x, _ = self.lstm(torch.tanh(self.first(hidden)))
        return self.last(x).log_softmax(dim=-1)

    def describe(self) -> GraphBuilder:
        """The head as graph `endpoint` of a model file.

        Returns:
            The graph; its output is `log_probs`.
        """
        graph = GraphBuilder("endpoint", ["hidden"])
        x = "hidden"
        if self.first is not None and self.lstm is not None:
            x = graph.node("tanh", [graph.linear("hidden", self.first)])
            x = describe_lstm(graph, x, self.lstm)
        graph.node("log_softmax", [graph.linear(x, self.last)], out="log_probs")
        return graph
