"""A few steps of a tiny network on made batches, with the callbacks that a recipe would give."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import sentencepiece
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from earshot.compress.config import CompressConfig
from earshot.compress.export import export_transducer
from earshot.compress.methods import compression_callbacks
from earshot.models.encoder import EncoderConfig
from earshot.models.predictor import PredictorConfig
from earshot.models.transducer import Transducer, TransducerConfig
from earshot.train.batches import Batch, Progress
from earshot.train.loop import TrainingModule
from earshot.train.recipe import TrainConfig

SHAPE = TransducerConfig(
    vocab_size=48,
    joiner_width=16,
    encoder=EncoderConfig(hidden=32, layers=2, dropout=0.0),
    predictor=PredictorConfig(width=16, dropout=0.0),
)
TOKENIZER = b"made"


def batch(seed: int = 0) -> Batch:
    """Three utterances of noise with made-up pieces."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([64, 52, 60])
    pieces = torch.tensor([5, 3, 4])
    return Batch(
        features=torch.randn(3, 64, 80, generator=rng),
        feature_lengths=lengths,
        labels=torch.randint(3, 48, (3, 5), generator=rng),
        label_lengths=pieces,
        phones=torch.zeros(3, 0, dtype=torch.int64),
        phone_lengths=torch.zeros(3, dtype=torch.int64),
        texts=("",) * 3,
        kinds=("read",) * 3,
    )


def network(seed: int = 0) -> Transducer:
    torch.manual_seed(seed)
    return Transducer(SHAPE)


def write(model: Transducer, path: Path, **options: Any) -> Path:
    """A model file with made-up pieces."""
    pieces = ["<blk>", "<sos/eos>", "<unk>", *(f"▁w{i}" for i in range(45))]
    export_transducer(model, path, name="t", pieces=pieces, tokenizer=TOKENIZER, **options)
    return path


class _Follow(Callback):
    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress = progress
        self._steps = steps

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._progress.set(trainer.global_step / self._steps)


class _Watch(Callback):
    """Calls with the module after every step, when all bounds have been kept."""

    def __init__(self, see: Callable[[TrainingModule, int], None]) -> None:
        self._see = see

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        self._see(pl_module, trainer.global_step)


class Run:
    """One training of a tiny network.

    Args:
        config: `[compress]`.
        steps: Of the whole run.
        start: The network trained further; a new one by default.
        start_path: Its file.
        see: Called after every step.
        decay: Of the averaged weights.
    """

    def __init__(
        self,
        config: CompressConfig,
        *,
        steps: int,
        start: Transducer | None = None,
        start_path: Path | None = None,
        see: Callable[[TrainingModule, int], None] = lambda *_: None,
        decay: float = 0.8,
        rate: float = 5e-3,
    ) -> None:
        self.progress = Progress()
        train = TrainConfig(max_steps=steps, peak_lr=rate, warmup_steps=1)
        tokenizer = sentencepiece.SentencePieceProcessor()
        self.module = TrainingModule(SHAPE, train, tokenizer, self.progress)
        self.module.transducer.load_state_dict((start or network()).state_dict())
        self.methods: Sequence[Callback] = compression_callbacks(
            config,
            done=self.progress.get,
            decay=decay,
            start=start_path,
            tokenizer=TOKENIZER,
        )
        self._steps = steps
        self._see = see
        self.trainer: lightning.Trainer

    def until(self, step: int, *, resume: Path | None = None) -> Run:
        """Train up to a step, from a checkpoint or from nothing."""
        self.trainer = lightning.Trainer(
            max_epochs=-1,
            max_steps=step,
            accelerator="cpu",
            precision="32-true",
            gradient_clip_val=5.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[_Follow(self.progress, self._steps), *self.methods, _Watch(self._see)],
        )
        loader = DataLoader([batch()] * self._steps, batch_size=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice on workers and logging
            self.trainer.fit(self.module, loader, ckpt_path=resume, weights_only=False)
        return self

    def save(self, path: Path) -> dict[str, Any]:
        """Write a checkpoint, and read it back."""
        self.trainer.save_checkpoint(path)
        saved: dict[str, Any] = torch.load(path, weights_only=False)
        return saved


def whole_and_resumed(
    config: CompressConfig, folder: Path, *, steps: int = 20, killed: int = 9, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Checkpoints of a run, and of the same run gone on with from a checkpoint at `killed`."""
    middle = folder / "middle.ckpt"

    def see(module: TrainingModule, step: int) -> None:
        if step == killed:  # at the end of training the average is the network
            run.trainer.save_checkpoint(middle)

    run = Run(config, steps=steps, see=see, **options)
    whole = run.until(steps).save(folder / "whole.ckpt")
    again = Run(config, steps=steps, **options).until(steps, resume=middle)
    return whole, again.save(folder / "resumed.ckpt")
