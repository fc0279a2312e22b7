"""How much each weight of a transducer matters: Fisher's information, its diagonal, and a cache.

Gradients are squared utterance by utterance. Squaring the gradient of a batch instead is common and
wrong: gradients of different utterances cancel in it, and importance comes out smaller by about the
size of the batch. The loss is a kernel of the engine and has no batching rule, so utterances go one
by one rather than through `torch.vmap`. Knows nothing of what the importance is used for.

Source:
    Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 114(13), 2017;
    for speech and regions: Trinh et al., "Reducing geographic disparities in automatic speech
    recognition via elastic weight consolidation", Interspeech 2022.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from earshot.compress.training import batch_losses
from earshot.core.errors import ConfigError
from earshot.data.atomic import replaced_file
from earshot.models.transducer import BLANK_ID, Transducer
from earshot.train.batches import Batch

__all__ = [
    "cached_information",
    "fisher_information",
    "information_key",
    "normalised",
    "sampled_labels",
    "utterance_loss",
]

Progress = Callable[[float, float], None]
_MOST_SYMBOLS = 10  # per frame, of models that are not limited to one


def utterance_loss(model: Transducer, batch: Batch) -> Tensor:
    """Nats of an utterance under all heads, weighted as in training.

    Args:
        model: The network.
        batch: One utterance.

    Returns:
        Scalar: what fine-tuning minimises, times the number of pieces.
    """
    return batch_losses(model, batch).total * batch.label_lengths.sum().clamp_min(1)


@torch.no_grad()
def sampled_labels(model: Transducer, batch: Batch, generator: torch.Generator) -> Batch:
    """The same sound with a transcript that the model itself might give.

    Args:
        model: The network.
        batch: One utterance.
        generator: Of the draws.

    Returns:
        The utterance with pieces drawn frame by frame from the transducer, and phones from their
        head where there is one.
    """

    def draw(logits: Tensor) -> int:
        return int(torch.multinomial(torch.softmax(logits.float(), dim=-1), 1, generator=generator))

    hidden = model.encoder(batch.features)[0]
    stack = model.config.encoder.stack
    frames = (int(batch.feature_lengths[0]) + stack - 1) // stack
    hidden = hidden[:frames]
    cap = 1 if model.config.one_symbol_per_frame else _MOST_SYMBOLS
    pieces: list[int] = []
    for encoded in model.encoder_out(hidden):
        for _ in range(cap):
            history = torch.tensor([pieces], dtype=torch.int64)
            predicted = model.predictor(history)[0, -1]
            piece = draw(model.joiner(torch.tanh(encoded + predicted)))
            if piece == BLANK_ID:
                break
            pieces.append(piece)
    phones = batch.phones
    phone_lengths = batch.phone_lengths
    if model.phones is not None:
        path = [draw(logits) for logits in model.phones(hidden)]
        collapsed = [p for p, before in zip(path, [0, *path], strict=False) if p not in (0, before)]
        phones = torch.tensor([collapsed], dtype=torch.int64)
        phone_lengths = torch.tensor([len(collapsed)])
    return replace(
        batch,
        labels=torch.tensor([pieces], dtype=torch.int64),
        label_lengths=torch.tensor([len(pieces)]),
        phones=phones,
        phone_lengths=phone_lengths,
    )


def fisher_information(
    model: Transducer,
    utterances: Iterable[Batch],
    *,
    sampled: bool = False,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Mean squared gradient of every weight over utterances.

    Args:
        model: The network; it is left in evaluation mode, its weights as they are.
        utterances: One a batch: the data that shall not be forgotten.
        sampled: Transcripts are drawn from the model, as the definition has it, instead of the
            true ones, the empirical form that is common in practice.
        seed: Of the draws.
        progress: Called with the utterances done.

    Returns:
        Parameter name to a float32 tensor of its shape, in squared nats per squared weight.

    Raises:
        ValueError: A batch holds more than one utterance, or there is none.
    """
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    found = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    count = 0
    for batch in utterances:
        if len(batch.features) != 1:
            raise ValueError(
                f"fisher_information: a batch has {len(batch.features)} utterances; it must have "
                "one, or their gradients cancel."
            )
        if sampled:
            batch = sampled_labels(model, batch, generator)
        gradients = torch.autograd.grad(
            utterance_loss(model, batch), list(parameters.values()), allow_unused=True
        )
        known: list[Tensor | None] = list(gradients)  # torch's types hide what is unused
        for total, gradient in zip(found.values(), known, strict=True):
            if gradient is not None and torch.isfinite(gradient).all():
                total += gradient.float().square()
        count += 1
        progress(count)
    if not count:
        raise ValueError("fisher_information: there are 0 utterances; there must be at least one.")
    return {name: total / count for name, total in found.items()}


def normalised(information: Mapping[str, Tensor], *, clip: float = 0.0) -> dict[str, Tensor]:
    """Importance with a mean of 1 over all weights, so that strengths mean the same everywhere.

    Args:
        information: From `fisher_information`.
        clip: Highest importance, times the mean; 0 does not clip.

    Returns:
        Same names and shapes.

    Raises:
        ConfigError: It is 0 everywhere, or not finite.
    """
    count = sum(value.numel() for value in information.values())

    def mean(values: Mapping[str, Tensor]) -> float:
        return sum(float(value.double().sum()) for value in values.values()) / count

    size = mean(information)
    if not 0 < size < float("inf"):
        raise ConfigError(
            f"mitigate: mean importance of the weights is {size:g}; it must be above 0. The "
            "utterances that it was estimated on have no speech, or the model is broken."
        )
    scaled = {name: value / size for name, value in information.items()}
    if clip > 0:
        scaled = {name: value.clamp_max(clip) for name, value in scaled.items()}
        size = mean(scaled)
        scaled = {name: value / size for name, value in scaled.items()}
    return scaled


def information_key(model: Path, data: Sequence[str], *, sampled: bool, seed: int) -> str:
    """Names a cache: another model, other data or another kind of estimate has another key.

    Args:
        model: The model file.
        data: What stands for each utterance, its sound and transcript.
        sampled: As of `fisher_information`.
        seed: Of the draws; it does not count where none are made.
    """
    key = hashlib.blake2b(model.read_bytes(), digest_size=12)
    for part in data:
        key.update(hashlib.blake2b(part.encode(), digest_size=16).digest())
    key.update(f"sampled {seed}".encode() if sampled else b"empirical")
    return key.hexdigest()


def cached_information(
    folder: Path, key: str, model: Transducer, make: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Importance from `fisher-<key>.safetensors`, or made and kept there.

    Args:
        folder: Of the cache.
        key: From `information_key`.
        model: Whose names and shapes it must have; a cache that does not is made anew.
        make: Makes it.
    """
    path = folder / f"fisher-{key}.safetensors"
    wanted = {name: p.shape for name, p in model.named_parameters()}
    if path.is_file():
        try:
            found = safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError):
            found = {}
        if {name: value.shape for name, value in found.items()} == wanted:
            return dict(found)
    made = {name: value.contiguous() for name, value in make().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        file.write(safetensors.torch.save(made, metadata={"key": key}))
    return made
