"""Zeros and few bits without forgetting: what is taken away is made up for by what stays.

A matrix multiplies inputs that go together, so that an input which is taken away, or a weight
which is rounded, can mostly be said by the others. How much a change of weights costs is told by an
estimate of the second derivative of the loss, for each block of 16 rows by itself: the outer
products of its inputs, weighed by the squares of the loss's gradients at its outputs (the empirical
Fisher information, its rows' diagonal). Columns of 16 rows go one by one, always that which costs
least once all others have made up for it; all matrices compete by the same measure, so that each
gives up what it can spare. Knows nothing of files.

Source:
    Hassibi and Stork, "Second order derivatives for network pruning: optimal brain surgeon", NIPS
    1992, for the solution; Frantar et al., "GPTQ: accurate post-training quantization for
    generative pre-trained transformers", ICLR 2023, for rounding column by column. Weighing by the
    outputs' gradients, and one measure for blocks of all matrices, are ours.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from earshot.compress.config import SecondOrderConfig
from earshot.compress.grid import Grid
from earshot.compress.quantisation import fit_grids
from earshot.compress.training import LabelledBatch, batch_losses
from earshot.compress.weights import list_weights
from earshot.modelfile.codecs import ROW_BLOCK
from earshot.models.transducer import Transducer

__all__ = ["Site", "observe", "prune", "removal_order", "round_weights", "rounded", "without"]

logger = logging.getLogger(__name__)

_CAPPED = 0.999  # quantile of the weights of frames: a few frames must not decide everything


@dataclass(slots=True)
class Site:
    """Where matrices multiply the same frames: one of a linear layer, both of an LSTM's.

    Args:
        paths: Of the parameters, (M, K1), (M, K2)...; their columns stand side by side.
        inputs: (N, K) with K = K1 + K2..., float16.
        gradients: (N, M) of the loss by what comes out, bfloat16: they are very small.
        seen: How many frames there were, of which N are kept.
    """

    paths: tuple[str, ...]
    inputs: Tensor
    gradients: Tensor
    seen: int

    def weights(self, model: Transducer) -> Tensor:
        """(M, K), a copy."""
        return torch.cat([model.get_parameter(p).detach() for p in self.paths], dim=1).float()

    def put(self, model: Transducer, weights: Tensor) -> None:
        """Give a network these weights, (M, K)."""
        parameters = [model.get_parameter(path) for path in self.paths]
        parts = weights.split([p.shape[1] for p in parameters], dim=1)
        with torch.no_grad():
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.copy_(part)

    def curvature(self, row: int, config: SecondOrderConfig) -> Tensor:
        """The second derivative by the weights of each row of a block of 16, (K, K).

        Rows of a block share the mean of theirs. Part of it is the one that weighs all frames
        alike, as few frames have large gradients.

        Args:
            row: The block's first.
            config: Of `[compress.second_order]`.
        """
        weight = self.gradients[:, row : row + ROW_BLOCK].float().square().mean(dim=1)
        weight = weight.clamp_max(weight.quantile(_CAPPED))
        weight = (1 - config.even) * weight + config.even * weight.mean()
        weighed = self.inputs.float() * weight.sqrt()[:, None]
        total = (weighed.t() @ weighed) * (self.seen / len(weighed))
        total.diagonal().add_(config.damping * total.diagonal().mean().clamp_min(1e-30))
        return total


class _WatchedLstm(nn.Module):
    """An LSTM layer, frame by frame, whose gates' gradients can be seen."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm
        self.inputs: Tensor | None = None
        self.gates: Tensor | None = None

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        w_input, w_hidden, b_input, b_hidden = self.lstm.parameters()
        # The gradient by a gate is that by the part of it which the input brings.
        gates = x @ w_input.t() + b_input + b_hidden
        gates.retain_grad()
        h, c = state[0][0], state[1][0]
        before, after = [], []
        for frame in gates:
            before.append(h)
            i, f, g, o = (frame + h @ w_hidden.t()).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            after.append(h)
        self.inputs = torch.cat([x.detach(), torch.stack(before).detach()], dim=2)
        self.gates = gates
        return torch.stack(after), (h[None], c[None])


@dataclass(slots=True)
class _Watch:
    """What a site's module has multiplied, while a network is observed."""

    paths: tuple[str, ...]
    inputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    seen: int = 0

    def keep(
        self, inputs: Tensor, gradients: Tensor, most: int, generator: torch.Generator
    ) -> None:
        """Keep some of the frames that the loss asks for: not those behind an utterance's end."""
        inputs, gradients = inputs.flatten(0, -2), gradients.flatten(0, -2)
        asked = gradients.abs().amax(dim=1).nonzero()[:, 0]
        self.seen += len(asked)
        chosen = asked[torch.randperm(len(asked), generator=generator)[:most]]
        self.inputs.append(inputs[chosen].half())
        self.gradients.append(gradients[chosen].bfloat16())

    def site(self) -> Site:
        """All that was kept; the watch forgets it."""
        inputs, gradients = torch.cat(self.inputs), torch.cat(self.gradients)
        self.inputs, self.gradients = [], []
        return Site(self.paths, inputs, gradients, self.seen)


def observe(
    model: Transducer, batches: Iterable[LabelledBatch], config: SecondOrderConfig, *, seed: int = 0
) -> list[Site]:
    """Let a network hear labelled speech, and see what its matrices multiply.

    Args:
        model: On the CPU; it is not changed.
        batches: As in training.
        config: How many frames of them are kept.
        seed: Of the choice of frames.

    Returns:
        All linear layers and LSTMs that the loss minds. What the transducer's loss does inside of
        itself, the joiner's product, is not among them, nor an LSTM of the predictor.
    """
    model = copy.deepcopy(model).eval().requires_grad_(True)
    linears, lstms, watches = {}, {}, {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            linears[name] = module
            watches[name] = _Watch((f"{name}.weight",))
        elif isinstance(module, nn.LSTM) and not module.batch_first:
            watched = _WatchedLstm(module)
            parent, _, last = name.rpartition(".")
            model.get_submodule(parent)._modules[last] = watched
            lstms[name] = watched
            watches[name] = _Watch((f"{name}.weight_ih_l0", f"{name}.weight_hh_l0"))
    heard: dict[str, tuple[Tensor, Tensor]] = {}
    for name, linear in linears.items():
        linear.register_forward_hook(_listener(name, heard))
    generator = torch.Generator().manual_seed(seed)
    most = max(1, config.frames // config.batches)
    for batch in batches:
        heard.clear()
        batch_losses(model, batch).total.backward()
        heard |= {
            name: (watched.inputs, watched.gates)
            for name, watched in lstms.items()
            if watched.inputs is not None and watched.gates is not None
        }
        for name, (inputs, outputs) in heard.items():
            if outputs.grad is not None:
                watches[name].keep(inputs, outputs.grad, most, generator)
        model.zero_grad()
    return [watch.site() for watch in watches.values() if watch.seen]


def _listener(name: str, heard: dict[str, tuple[Tensor, Tensor]]) -> Callable[..., None]:
    def listen(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        output.retain_grad()
        heard[name] = (inputs[0].detach(), output)

    return listen


def removal_order(weights: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
    """In which order the columns of a block go, and what each costs.

    Args:
        weights: (R, K), of up to 16 rows.
        curvature: (K, K), positive definite.

    Returns:
        Column by column (K,) int64, and twice what each adds to the loss (K,), never falling: where
        a column costs less than one before it, both cost as much as the first.
    """
    left = weights.clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(curvature))
    gone = torch.zeros(weights.shape[1])
    order, costs = [], []
    for _ in range(weights.shape[1]):
        diagonal = inverse.diagonal()
        each = left.square().sum(dim=0) / diagonal + gone
        column = int(each.argmin())
        order.append(column)
        costs.append(float(each[column]))
        line = inverse[column].clone()
        scale = float(line[column])
        left.addr_(left[:, column].clone(), line, alpha=-1 / scale)
        inverse.addr_(line, line, alpha=-1 / scale)
        gone[column] = math.inf
        left[:, column] = 0
        inverse[column, column] = 1
    return torch.tensor(order), torch.tensor(costs).cummax(dim=0).values


def without(weights: Tensor, curvature: Tensor, kept: Tensor) -> Tensor:
    """A block without some of its columns, the others having made up for them.

    Args:
        weights: (R, K).
        curvature: (K, K), positive definite.
        kept: (K,) bool.

    Returns:
        (R, K), 0 in the columns that are not kept; of all such it adds least to the loss.
    """
    out = torch.zeros_like(weights)
    if kept.any():
        factor = torch.linalg.cholesky(curvature[kept][:, kept])
        pull = curvature[kept][:, ~kept] @ weights[:, ~kept].t()
        out[:, kept] = weights[:, kept] + torch.cholesky_solve(pull, factor).t()
    return out


def rounded(weights: Tensor, curvature: Tensor, grids: Sequence[tuple[int, Grid]]) -> Tensor:
    """A block that will be rounded, each column having made up for those rounded before it.

    Args:
        weights: (R, K); columns of zeros stay so.
        curvature: (K, K), positive definite.
        grids: How many columns each grid is for, and the grid with the R rows' scales.

    Returns:
        (R, K): what it will be rounded from; the nearest levels to it are the block's.
    """
    kept = weights.abs().amax(dim=0).nonzero()[:, 0]
    if not len(kept):
        return weights.clone()
    # Those that matter most first, while there is most left to make up for them.
    kept = kept[curvature.diagonal()[kept].argsort(descending=True, stable=True)]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(curvature[kept][:, kept]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    of_column = [grid for columns, grid in grids for _ in range(columns)]
    left = weights[:, kept].clone()
    for place, column in enumerate(kept.tolist()):
        values = left[:, place : place + 1]
        error = (values - of_column[column].nearest(values)) / upper[place, place]
        left[:, place + 1 :] -= error * upper[place, place + 1 :]
    out = torch.zeros_like(weights)
    out[:, kept] = left
    return out


def prune(model: Transducer, sites: Sequence[Site], config: SecondOrderConfig) -> dict[str, float]:
    """Make columns of blocks of 16 rows zero, in place, those of all sites that cost least.

    Args:
        model: The network that was observed.
        sites: What was observed.
        config: The share that goes.

    Returns:
        By parameter, the share of its weights that is zero.
    """
    orders, costs = [], []
    for site in sites:
        weights = site.weights(model)
        for row in range(0, len(weights), ROW_BLOCK):
            own = weights[row : row + ROW_BLOCK]
            order, cost = removal_order(own, site.curvature(row, config))
            orders.append(order)
            costs.append(cost)
        logger.info("ordered the columns of %s", " and ".join(site.paths))
    if not costs:
        return {}
    every = torch.cat(costs).sort().values
    count = round(config.share * len(every))
    limit = float(every[count - 1]) if count else -math.inf
    shares, block = {}, 0
    for site in sites:
        weights = site.weights(model)
        for row in range(0, len(weights), ROW_BLOCK):
            rows = slice(row, row + ROW_BLOCK)
            kept = torch.ones(weights.shape[1], dtype=torch.bool)
            kept[orders[block][costs[block] <= limit]] = False
            if not kept.all():  # once more: all of them together would be gigabytes
                weights[rows] = without(weights[rows], site.curvature(row, config), kept)
            block += 1
        site.put(model, weights)
        for path in site.paths:
            shares[path] = float((model.get_parameter(path) == 0).float().mean())
            logger.info("%s: %.0f %% zeros", path, 100 * shares[path])
    return shares


def round_weights(
    model: Transducer, seen: Callable[[Transducer], Sequence[Site]], config: SecondOrderConfig
) -> dict[str, Grid]:
    """Prepare all matrices and tables of a network for rounding, in place.

    Tables are rounded to the nearest level first, so that the matrices which follow make up for it.

    Args:
        model: The network.
        seen: Observes it once its tables are rounded; matrices that it does not name are rounded to
            the nearest level.
        config: Bits.

    Returns:
        Tensor name to grid, rows in the parameter's order.
    """
    grids = fit_grids(model, config)
    of_path = {}
    for weight in list_weights(model):
        if weight.name in grids:
            of_path[weight.path] = grids[weight.name]
        if weight.role == "table":
            values = weight.of(model).detach()
            values.copy_(grids[weight.name].nearest(values))
    for site in seen(model):
        weights = site.weights(model)
        parts = [(model.get_parameter(p).shape[1], of_path[p]) for p in site.paths]
        for row in range(0, len(weights), ROW_BLOCK):
            rows = slice(row, row + ROW_BLOCK)
            own = [(columns, Grid(grid.levels, grid.scale[rows])) for columns, grid in parts]
            weights[rows] = rounded(weights[rows], site.curvature(row, config), own)
        site.put(model, weights)
        logger.info("rounded %s", " and ".join(site.paths))
    return grids
