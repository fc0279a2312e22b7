"""From a recipe's section `[compress]` to the Lightning callbacks that carry it out.

Knows which files the methods read, and in which order they act; knows nothing of how they work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from earshot.compress.config import CompressConfig, DistilConfig
from earshot.compress.distillation import Distiller
from earshot.compress.export import file_grids, read_transducer, transducer_config
from earshot.compress.grid import Grid
from earshot.compress.quantisation import QuantisationAware, fit_grids, unpacked_grids
from earshot.compress.sparsity import Sparsifier
from earshot.compress.training import ConstrainedAveraging
from earshot.compress.updates import LimitedChange
from earshot.core.errors import ConfigError
from earshot.modelfile.reader import ModelFile
from earshot.models.transducer import Transducer

__all__ = ["compression_callbacks", "export_grids"]


def compression_callbacks(
    config: CompressConfig,
    *,
    done: Callable[[], float],
    decay: float,
    start: Path | None,
    tokenizer: bytes,
) -> Sequence[Callback]:
    """What a run needs to train for compression, the averaging of its weights included.

    Args:
        config: `[compress]`.
        done: The share of the run that is done.
        decay: Of the average of the weights.
        start: The model file that training starts from; None from nothing.
        tokenizer: The SentencePiece model, which a teacher must share.

    Returns:
        Callbacks in the order in which they must act.

    Raises:
        ConfigError: The teacher has other word pieces.
        ModelFileError: A file is not sound.
    """
    bounded: list[QuantisationAware | Sparsifier | LimitedChange] = []
    if config.sparsify.share > 0:
        bounded.append(Sparsifier(config.sparsify, done))
    if config.quantise.bits and config.quantise.aware:
        bounded.append(QuantisationAware(config.quantise, done))
    if config.limits_change:
        bounded.append(_limited(config, done, start))
    callbacks: list[Callback] = list(bounded)
    if config.distil.teacher:
        callbacks.append(Distiller(config.distil, _teacher(config.distil, tokenizer)))
    # Last, so that what is averaged is within bounds.
    return [*callbacks, ConstrainedAveraging(decay, [method.constrain for method in bounded])]


def export_grids(
    config: CompressConfig, checkpoint: Mapping[str, Any], model: Transducer
) -> Mapping[str, Grid]:
    """The grids that a trained network is written on.

    Args:
        config: `[compress]` of the recipe it was trained with.
        checkpoint: What training wrote.
        model: The network of the checkpoint.

    Returns:
        Tensor name to grid: those of training, else fitted now; empty if `[export]` decides.
    """
    if checkpoint.get("grids"):
        return unpacked_grids(checkpoint["grids"])
    return fit_grids(model, config.quantise) if config.quantise.bits else {}


def _limited(
    config: CompressConfig, done: Callable[[], float], start: Path | None
) -> LimitedChange:
    assert start is not None  # a recipe without it is refused
    file = ModelFile(start)
    codecs = {tensor.name: tensor.codec for tensor in file.tensors}
    grids = file_grids(file, Transducer(transducer_config(file)))
    return LimitedChange(config, done, codecs=codecs, grids=grids)


def _teacher(config: DistilConfig, tokenizer: bytes) -> Transducer:
    path = Path(config.teacher)
    file = ModelFile(path)
    model = read_transducer(path, transducer_config(file))
    if file.tensor_bytes("tokenizer") != tokenizer:
        raise ConfigError(
            f"compress.distil.teacher: {path} has other word pieces than the recipe's tokenizer; "
            "its answers would mean other words. Train both with the same tokenizer.model."
        )
    return model
