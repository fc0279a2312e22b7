"""Fine-tuning by hundreds of steps at most, with a pull towards where it started.

A sweep makes dozens of short runs, so this is a plain loop over clips rather than a recipe's: no
processes, no checkpoints, and a look at the weights whenever the caller wants one. Knows nothing of
cohorts, reports or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from earshot.compress.training import batch_losses
from earshot.models.transducer import Transducer
from earshot.train.batches import Batch
from earshot.train.mitigate_config import Part

__all__ = [
    "Anchor",
    "CohortInput",
    "TuningConfig",
    "averaged",
    "drawn_batches",
    "trained_names",
    "tune",
]

_DECODER = ("predictor.", "joiner.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningConfig:
    """One run."""

    steps: int
    peak_lr: float = 3e-4
    warmup_steps: int = 5
    clip_norm: float = 5.0
    bf16: bool = True  # products of matrices, as in training
    train: Part = "all"
    seed: int = 1


def trained_names(model: Transducer, part: Part) -> list[str]:
    """Names of the parameters that a run changes.

    Args:
        model: The network.
        part: `decoder` is predictor and joiner, what plays the language model; `encoder` is the
            rest, the acoustic model with its heads.
    """
    names = [name for name, _ in model.named_parameters()]
    if part == "all":
        return names
    return [name for name in names if name.startswith(_DECODER) == (part == "decoder")]


class Anchor:
    """Pulls weights towards where they started, each as strongly as it matters.

    The penalty is strength / 2 times the sum of importance times squared distance. It is not added
    to the loss, where Adam would divide its gradient by its own size and large strengths would make
    weights swing around the start: after a step of Adam each weight takes the implicit step of the
    penalty, in the metric of that step. Both come to rest in the same place, where the gradient of
    the loss and `gradient` cancel; but this is stable for any strength, at 0 it is plain
    fine-tuning to the last bit, and without bound it keeps the weights.

    Args:
        start: Parameter name to its value at the start.
        importance: The same names to non-negative tensors of the same shapes.
        strength: Lambda, at least 0.

    Source:
        Kirkpatrick et al., PNAS 114(13), 2017 (the penalty); Parikh and Boyd, "Proximal
        algorithms", Foundations and Trends in Optimization 1(3), 2014 (the step).
    """

    def __init__(
        self, start: Mapping[str, Tensor], importance: Mapping[str, Tensor], strength: float
    ) -> None:
        self._start = {name: value.detach().clone() for name, value in start.items()}
        self._importance = {name: importance[name] for name in start}
        self.strength = strength

    def penalty(self, model: nn.Module) -> Tensor:
        """What the loss would have added to it; differentiable."""
        parameters = dict(model.named_parameters())
        total = torch.zeros(())
        for name, start in self._start.items():
            total = total + (self._importance[name] * (parameters[name] - start).square()).sum()
        return 0.5 * self.strength * total

    def gradient(self, name: str, value: Tensor) -> Tensor:
        """Gradient of the penalty at a value of one parameter."""
        return self.strength * self._importance[name] * (value.detach() - self._start[name])

    @torch.no_grad()
    def pull(self, model: nn.Module, optimizer: torch.optim.Adam) -> None:
        """Take the implicit step, after `optimizer` has taken its own.

        Args:
            model: What is trained.
            optimizer: Its states say how long a step was for each weight.
        """
        if self.strength == 0:
            return
        group = optimizer.param_groups[0]
        _, decay = group["betas"]
        parameters = dict(model.named_parameters())
        for name, start in self._start.items():
            value = parameters[name]
            state = optimizer.state.get(value)
            if not state:
                continue
            size = (state["exp_avg_sq"] / (1 - decay ** float(state["step"]))).sqrt()
            rate = group["lr"] / (size + group["eps"])
            # theta minimises importance / 2 |theta - start|^2 + |theta - value|^2 / (2 rate)
            share = 1.0 / (1.0 + self.strength * rate * self._importance[name])
            value.copy_(start + share * (value - start))


class CohortInput(nn.Module):
    """A learned vector for each cohort, added to the encoder's input; 0 for anybody else.

    It is added where the stacked frames have been projected, so for one cohort it is a change of
    that layer's bias: `folded` puts it there, and an ordinary model file results.

    Args:
        cohorts: How many.
        width: Of the encoder.

    Source:
        After Dheram et al., "Toward fairness in speech recognition: discovery and mitigation of
        performance disparities", Interspeech 2022, which appends a two-dimensional embedding.
    """

    def __init__(self, cohorts: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(cohorts + 1, width, padding_idx=0)  # 0: unknown
        nn.init.zeros_(self.table.weight)

    @contextmanager
    def attached(self, model: Transducer, cohorts: Sequence[int]) -> Iterator[None]:
        """Inside, the network adds the vectors of its batch's utterances.

        Args:
            model: The network.
            cohorts: From 0, one for each utterance of the batch; -1 is nobody's.
        """
        rows = torch.tensor(cohorts, dtype=torch.int64) + 1

        def add(_: nn.Module, __: object, out: Tensor) -> Tensor:
            return out + self.table(rows)[:, None, :].to(out.dtype)

        handle = model.encoder.project.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def folded(self, model: Transducer, cohort: int) -> None:
        """Make a network that of one cohort, by the bias of its first layer."""
        model.encoder.project.bias.add_(self.table.weight[cohort + 1])


def drawn_batches(
    durations: Sequence[float], weights: Sequence[float], *, batch_s: float, seed: int
) -> Iterator[list[int]]:
    """Endless batches of clips drawn by weight.

    Clips of the same weight come in rounds, each once a round, so that few clips are seen evenly.

    Args:
        durations: Seconds of each clip.
        weights: How often each is drawn, relative to the others; 0 never.
        batch_s: Seconds of a batch; a longer clip is a batch of its own.
        seed: Of the draws.

    Yields:
        Indices of clips.
    """
    rng = np.random.default_rng(seed)
    levels = sorted({weight for weight in weights if weight > 0})
    members = [[i for i, weight in enumerate(weights) if weight == level] for level in levels]
    shares = np.array(
        [level * len(part) for level, part in zip(levels, members, strict=True)], dtype=np.float64
    )
    shares /= shares.sum()
    queues: list[list[int]] = [[] for _ in levels]
    batch: list[int] = []
    filled = 0.0
    while True:
        level = int(rng.choice(len(levels), p=shares))
        if not queues[level]:
            queues[level] = rng.permutation(members[level]).tolist()
        clip = queues[level].pop()
        if batch and filled + durations[clip] > batch_s:
            yield batch
            batch, filled = [], 0.0
        batch.append(clip)
        filled += durations[clip]


def averaged(
    start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Weights between two networks: `share` of the tuned one, the rest of the start."""
    return {name: torch.lerp(value, tuned[name], share) for name, value in start.items()}


def tune(
    model: Transducer,
    batches: Iterator[tuple[Batch, Sequence[int]]],
    config: TuningConfig,
    *,
    anchor: Anchor | None = None,
    cohort_input: CohortInput | None = None,
    constrain: Callable[[int, Transducer], None] = lambda *_: None,
    rounded: Callable[[Transducer], AbstractContextManager[None]] = lambda _: nullcontext(),
    look: Callable[[int, Transducer], bool] = lambda *_: False,
) -> int:
    """Train a network further, in place.

    Args:
        model: The network.
        batches: Endless; with each the cohorts of its utterances.
        config: How long and how fast.
        anchor: Pulls weights back; None is plain fine-tuning.
        cohort_input: Trained instead of the network's own weights.
        constrain: Called after every step to put weights back within bounds.
        rounded: Inside, the network computes with weights as a file will hold them; gradients
            are found there and what they move is the weights outside (straight through).
        look: Called with the step and the network after every step; True ends the run.

    Returns:
        Steps taken.
    """
    torch.manual_seed(config.seed)
    model.train()
    names = set(trained_names(model, config.train))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(cohort_input is None and name in names)
    trained = (
        [p for p in model.parameters() if p.requires_grad]
        if cohort_input is None
        else list(cohort_input.parameters())
    )
    optimizer = torch.optim.Adam(trained, lr=config.peak_lr, betas=(0.9, 0.98))
    cast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16)
    for step in range(1, config.steps + 1):
        batch, cohorts = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = config.peak_lr * min(1.0, step / config.warmup_steps)
        attached = cohort_input.attached(model, cohorts) if cohort_input else nullcontext()
        optimizer.zero_grad()
        with rounded(model):
            with cast, attached:
                losses = batch_losses(model, batch)
            losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        if bool(torch.isfinite(norm)):
            optimizer.step()
            if anchor is not None:
                anchor.pull(model, optimizer)
            constrain(step, model)
        if look(step, model):
            return step
        model.train()
    return config.steps
