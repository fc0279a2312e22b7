"""The training loop: Lightning around a `Transducer`.

Schedules follow `Progress`, the share of the recipe's minutes or steps that is done, so a run
that was killed and resumed ends where an uninterrupted one would. Knows nothing of how data
came to be.
"""

from __future__ import annotations

import ctypes
import logging
import math
import platform
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import sentencepiece
import torch
from lightning.pytorch.callbacks import (
    Callback,
    ModelCheckpoint,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger

from earshot.compress.export import read_transducer
from earshot.compress.methods import compression_callbacks
from earshot.compress.training import batch_losses
from earshot.data.scoring import WordCounts, count_words
from earshot.data.tokenizer import Tokenizer
from earshot.models.biasing import PhraseBatch
from earshot.models.transducer import Transducer, TransducerConfig
from earshot.train.batches import (
    Batch,
    PlacedBatch,
    Progress,
    read_noise,
    read_rooms,
    read_sources,
    training_loader,
    validation_loader,
)
from earshot.train.phrase_text import rare_words
from earshot.train.phrases import PhraseSampler
from earshot.train.precision import usual_precision
from earshot.train.recipe import Recipe, TrainConfig
from earshot.train.resident import Resident, read_resident
from earshot.train.text import load_texts

logger = logging.getLogger(__name__)


class TrainingModule(lightning.LightningModule):
    """One optimisation step, and word error rates by kind of clip when validating."""

    def __init__(
        self,
        model: TransducerConfig,
        train: TrainConfig,
        tokenizer: sentencepiece.SentencePieceProcessor,
        progress: Progress,
    ) -> None:
        super().__init__()
        self.transducer = Transducer(model)
        self._train_config = train
        self._tokenizer = tokenizer
        self._progress = progress
        self.phrases: PhraseSampler | None = None  # of a network with biasing
        self.resident: Resident | None = None  # of clips in the GPU's memory
        self._phrase_rng = random.Random(train.seed)
        self.extra_losses: list[Callable[[Batch], torch.Tensor]] = []  # of `earshot.compress`
        self._audio_s = 0.0
        self._counts: defaultdict[str, WordCounts] = defaultdict(WordCounts)

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingModule:
        """A copy for weight averaging: own weights, same tokenizer and progress."""
        copy = TrainingModule(
            self.transducer.config, self._train_config, self._tokenizer, self._progress
        )
        copy.load_state_dict(self.state_dict())
        return copy

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; the rate is set step by step in `learning_rate`."""
        return torch.optim.AdamW(
            self.parameters(),
            lr=self._train_config.peak_lr,
            weight_decay=self._train_config.weight_decay,
            betas=(0.9, 0.98),
        )

    def learning_rate(self) -> float:
        """Linear warm-up by steps, then cosine by progress down to `final_lr_share`."""
        config = self._train_config
        floor = config.final_lr_share
        cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self._progress.get()))
        return config.peak_lr * cosine * min(1.0, (self.global_step + 1) / config.warmup_steps)

    def on_after_batch_transfer(self, batch: Batch | PlacedBatch, dataloader_idx: int) -> Batch:
        """Features of clips that lie on the device already."""
        if isinstance(batch, Batch):
            return batch
        assert self.resident is not None
        return batch.heard(*self.resident.features(batch.clips, self._progress.get()))

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """Loss of one batch, in nats per piece."""
        rate = self.learning_rate()
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = rate
        losses = batch_losses(
            self.transducer,
            batch,
            with_transducer=index % self._train_config.transducer_every == 0,
            phrases=self._phrases_of(batch),
            rivals=batch.rivals,
        )
        self._audio_s += float(batch.feature_lengths.sum()) / 100
        self.log_dict(
            {
                "loss": losses.transducer,
                "ctc": losses.ctc,
                "phones": losses.phones,
                "second_pass": losses.second_pass,
                "guide": losses.guide,
                "rivals": losses.rivals,
                "lr": rate,
                "hours": self._audio_s / 3600,
                "done": self._progress.get(),
            },
            prog_bar=True,
        )
        total: torch.Tensor = losses.total
        for extra in self.extra_losses:
            total = total + extra(batch)
        return total

    def _phrases_of(self, batch: Batch) -> PhraseBatch | None:
        """A list for the batch, where the network has biasing."""
        if self.phrases is None:
            return None
        phrases = batch.phrases or (None,) * len(batch.texts)
        drawn, _ = self.phrases.draw(batch.texts, phrases, self._progress.get(), self._phrase_rng)
        device = batch.labels.device
        return PhraseBatch(drawn.windows.to(device), drawn.label_entries.to(device))

    def on_after_backward(self) -> None:
        """Drop gradients that are not finite; all devices see the same sum, so all drop it."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            logger.warning("step %d: gradients are not finite; dropped", self.global_step)
            for gradient in gradients:
                gradient.zero_()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep how much audio was seen."""
        checkpoint["audio_s"] = self._audio_s

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting audio where the run stopped."""
        self._audio_s = checkpoint["audio_s"]

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation's counts."""
        self._counts.clear()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Greedy search on one clip; errors are pooled by kind."""
        for row, (text, kind) in enumerate(zip(batch.texts, batch.kinds, strict=True)):
            frames = int(batch.feature_lengths[row])
            tokens, _ = self.transducer.greedy_search(batch.features[row, :frames])
            self._counts[kind] += count_words(text, self._tokenizer.decode(tokens))

    def on_validation_epoch_end(self) -> None:
        """Log WER in percent, one figure a kind."""
        rates = {
            f"wer_{kind}": 100.0 * counts.errors / max(1, counts.reference_words)
            for kind, counts in self._counts.items()
        }
        self.log_dict(rates)
        text = ", ".join(f"{name} {rate:.1f}" for name, rate in sorted(rates.items()))
        logger.info("step %d, %.0f h: %s", self.global_step, self._audio_s / 3600, text)


class _BarOnStderr(TQDMProgressBar):
    """Lightning's bar, away from stdout: that is for results."""

    def init_train_tqdm(self) -> Any:
        return self._moved(super().init_train_tqdm())

    def init_validation_tqdm(self) -> Any:
        return self._moved(super().init_validation_tqdm())

    @staticmethod
    def _moved(bar: Any) -> Any:
        bar.fp = sys.stderr
        return bar


class _FollowProgress(Callback):
    """Publishes the share of the run that is done, and reports it now and then."""

    def __init__(
        self,
        config: TrainConfig,
        timer: Timer,
        progress: Progress,
        report: Callable[[float, float], None] | None,
    ) -> None:
        self._config = config
        self._timer = timer
        self._progress = progress
        self._report = report

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        if self._config.max_minutes > 0:
            done, total = self._timer.time_elapsed() / 60, self._config.max_minutes
        else:
            done, total = float(trainer.global_step), float(self._config.max_steps)
        self._progress.set(done / total)
        if self._report is not None and batch_idx % 5 == 0:
            self._report(min(done, total), total)


def train(
    recipe: Recipe,
    folder: Path,
    tokenizer: sentencepiece.SentencePieceProcessor,
    statistics: tuple[torch.Tensor, torch.Tensor] | None,
    *,
    material: Path | None = None,
    resume: bool = True,
    progress: Callable[[float, float], None] | None = None,
) -> Path:
    """Train until the recipe's minutes or steps are used up.

    Args:
        recipe: All settings.
        folder: Checkpoints go to `checkpoints/`, figures to `logs/`.
        tokenizer: Word pieces.
        statistics: Mean and standard deviation of the features, (num_bins,) each; None when
            `start_from` brings them.
        material: Holds `cuts/`, `noise/` and `rooms/`, and `text/` where commands have rivals;
            `folder` by default.
        resume: Go on from `checkpoints/last.ckpt` when there is one.
        progress: Called with minutes or steps (done, of all) now and then, instead of a bar on
            stderr.

    Returns:
        The last checkpoint; its `state_dict` holds the averaged weights.

    Raises:
        ManifestError: There is nothing to train on.
        ConfigError: `start_from` holds a network of another shape.
        KeyboardInterrupt: Stopped by Ctrl-C, after a checkpoint was written.
    """
    config = recipe.train
    _keep_freed_memory()
    torch.set_num_threads(config.threads)
    lightning.seed_everything(config.seed, verbose=False)
    share = Progress()
    module = TrainingModule(recipe.model, config, tokenizer, share)
    if statistics is not None:
        module.transducer.encoder.set_statistics(*statistics)
    if config.start_from:  # brings its own statistics: they never change once trained with
        start = read_transducer(Path(config.start_from), recipe.model)
        module.transducer.load_state_dict(start.state_dict())
    if recipe.model.bias.query != "none":
        module.phrases = phrase_sampler(
            recipe, folder, Tokenizer(tokenizer.serialized_model_proto())
        )
    last = folder / "checkpoints" / "last.ckpt"
    resumed = resume and last.exists()
    if not resumed:  # a later resume must not find an older run's checkpoint
        for old in last.parent.glob("*.ckpt"):
            old.rename(old.with_suffix(".old"))
    seed = config.seed
    if resumed:  # new draws: the clips of the first part of the run are not repeated in order
        seed += int(read_checkpoint(last)["global_step"])
    timer = Timer(timedelta(minutes=config.max_minutes) if config.max_minutes > 0 else None)
    trainer = lightning.Trainer(
        max_epochs=-1,
        max_steps=config.max_steps if config.max_steps > 0 else -1,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        precision=usual_precision(config.precision, accelerator=config.accelerator),
        gradient_clip_val=config.clip_norm,
        val_check_interval=timedelta(minutes=config.validate_minutes),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        enable_model_summary=False,
        enable_progress_bar=progress is None,
        use_distributed_sampler=False,
        logger=CSVLogger(folder / "logs", name="", flush_logs_every_n_steps=100),
        callbacks=[
            timer,
            _FollowProgress(config, timer, share, progress),
            *compression_callbacks(
                recipe.compress,
                done=share.get,
                decay=config.ema_decay,
                start=Path(config.start_from) if config.start_from else None,
                tokenizer=tokenizer.serialized_model_proto(),
            ),
            ModelCheckpoint(
                folder / "checkpoints",
                filename="step{step}",
                auto_insert_metric_name=False,
                train_time_interval=timedelta(minutes=config.checkpoint_minutes),
                save_last=True,
                save_top_k=1,
                save_on_exception=True,
                enable_version_counter=False,
            ),
            *([_BarOnStderr(refresh_rate=20)] if progress is None else []),
        ],
    )
    loader_seed = 1000 * trainer.global_rank + seed
    source = material or folder
    sources = read_sources(source / "cuts", recipe.sources)
    places = None
    if config.resident:
        audio = read_resident(sources)
        places = audio.places
        module.resident = Resident(
            recipe.augment,
            audio,
            read_noise(source),
            read_rooms(source),
            num_bins=recipe.model.encoder.num_bins,
            device=trainer.strategy.root_device,
            seed=loader_seed,
        )
    loader = training_loader(
        recipe, source, tokenizer, share, seed=loader_seed, sources=sources, places=places
    )
    try:
        trainer.fit(
            module,
            loader,
            validation_loader(recipe, source, tokenizer),
            ckpt_path=last if resumed else None,
            weights_only=False,
        )
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into an exit code; say what it was
            raise KeyboardInterrupt from None
        raise
    trainer.save_checkpoint(last)
    return last


def phrase_sampler(recipe: Recipe, folder: Path, tokenizer: Tokenizer) -> PhraseSampler:
    """Draws lists for training from the texts of an experiment folder."""
    texts = [item.text for item in load_texts(folder / "text" / "train.jsonl")]
    known = {word for text in texts for word in text.split()}
    trained, _ = rare_words(known, held_out=recipe.phrases.held_out_words)
    return PhraseSampler(tokenizer, recipe.model.bias, recipe.lists, rare=trained, texts=texts)


# Of glibc's <malloc.h>, with what they are set to.
_MALLOC_OPTIONS = (
    (-4, 0),  # M_MMAP_MAX: large blocks come from the heap, too
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: the heap does not shrink
    (-2, 256 << 20),  # M_TOP_PAD: it grows in steps of 256 MB
)


def _keep_freed_memory() -> None:
    """Keep what a step frees for the next one.

    By default glibc gives large blocks back to the system, which clears them when they are asked
    for again: 30,000 page faults and 3 % of the time of six steps of the shipped network, against
    a handful of faults with this, at the same peak of memory.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in _MALLOC_OPTIONS:
            libc.mallopt(option, value)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that this loop wrote, on the CPU."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return checkpoint
