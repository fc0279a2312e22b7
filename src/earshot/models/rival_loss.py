"""A loss that tells what was said from what could have been said instead.

Of a sentence and its rivals the network should find the sentence likeliest: minus the logarithm of
its share of the likelihood of all of them (maximum mutual information, the denominator sampled).
Likelihoods are those that the search for commands compares: CTC over phones, the blank handicapped.
Knows nothing of where rivals come from.

Source:
    Povey et al., "Purely sequence-trained neural networks for ASR based on lattice-free MMI", 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from earshot.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalLossConfig:
    """How sentences are compared with their rivals."""

    weight: float = 4.0  # of this loss beside the others
    scale: float = 0.5  # of the log-likelihoods; the lower, the wider the margin that is asked for
    blank_penalty: float = 2.0  # nats off the blank's score, as the search takes them off

    def __post_init__(self) -> None:
        for name, low, high in (
            ("weight", 0.0, 100.0),
            ("scale", 1e-3, 10.0),
            ("blank_penalty", -100.0, 100.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(
                    f"model.rivals.{name} is {value}; it must lie in {low}..{high}. Change it."
                )


@dataclass(frozen=True, slots=True)
class RivalBatch:
    """What could have been said instead in the clips of a batch.

    phones (R, P) int64 padded with 0; phone_lengths (R,); clips (R,) int64: the row of the batch
    that each is a rival of. A clip may have any number of them, or none.
    """

    phones: Tensor
    phone_lengths: Tensor
    clips: Tensor


def rival_loss(
    logits: Tensor,
    frames: Tensor,
    phones: Tensor,
    phone_lengths: Tensor,
    rivals: RivalBatch,
    *,
    blank: int,
    config: RivalLossConfig,
) -> Tensor:
    """Mean over the clips that have rivals of -log of the truth's share, in nats.

    Args:
        logits: (B, T, V) of a CTC head over phones.
        frames: (B,).
        phones: (B, P) what was said.
        phone_lengths: (B,).
        rivals: What was not.
        blank: Its id.
        config: Scale and handicap.

    Returns:
        A scalar; 0 where no clip and a rival of it fit into its frames.
    """
    handicap = torch.zeros(logits.shape[2], device=logits.device)
    handicap[blank] = config.blank_penalty
    log_probs = functional.log_softmax(logits.float() - handicap, dim=-1)
    rows = torch.unique(rivals.clips)  # of the batch, sorted
    clips = torch.cat([rows, rivals.clips])
    sentences = [phones[rows], rivals.phones]
    longest = max(part.shape[1] for part in sentences)
    losses = functional.ctc_loss(
        log_probs[clips].transpose(0, 1),
        torch.cat([functional.pad(part, (0, longest - part.shape[1])) for part in sentences]),
        frames[clips],
        torch.cat([phone_lengths[rows], rivals.phone_lengths]),
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    fits = losses > 0  # what has no path at all comes as 0; nothing that has one is that certain
    scores = torch.where(fits, -config.scale * losses, -torch.inf)
    of_row = torch.searchsorted(rows, clips)
    table = scores.new_full((len(rows), len(clips)), -torch.inf)
    table = table.scatter(0, of_row[None], scores[None])
    told = fits[: len(rows)] & (table.isfinite().sum(dim=1) > 1)
    if not told.any():
        return logits.sum() * 0.0
    return (torch.logsumexp(table[told], dim=1) - scores[: len(rows)][told]).mean()
