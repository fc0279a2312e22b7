"""Trains and exports the language model of a rescoring recipe.

Stages are idempotent as those of `train.run`. Sentences stand for themselves: each begins and
ends with the sentence mark, and a batch holds sentences of about the same length.
"""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from earshot.compress.language_export import export_language_model
from earshot.core.errors import ConfigError
from earshot.data.atomic import replaced_file
from earshot.data.tokenizer import SOS_EOS_ID
from earshot.models.language_model import LanguageModel
from earshot.train import language_text
from earshot.train.pieces import load_tokenizer, train_pieces
from earshot.train.precision import usual_precision
from earshot.train.recipe import LanguageRecipe, LanguageTrainConfig
from earshot.train.rescoring_weights import tune
from earshot.train.synthesis import make_validation_speech

logger = logging.getLogger(__name__)

__all__ = ["LANGUAGE_STAGES", "pack", "run_language"]

LANGUAGE_STAGES = ("text", "tokenizer", "train", "export", "weights")
_IGNORED = -100  # targets behind the end of a sentence


def pack(
    sentences: Sequence[list[int]], batch_pieces: int, rng: random.Random
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of sentences of about the same length, in random order.

    Args:
        sentences: Piece ids, without sentence marks.
        batch_pieces: Positions in a batch at most, but for single sentences longer than that.
        rng: Source of the order.

    Yields:
        Inputs and targets, (B, T) int64 each; targets behind the end of a sentence are ignored by
        `cross_entropy`.
    """
    order = list(range(len(sentences)))
    rng.shuffle(order)
    order.sort(key=lambda i: len(sentences[i]))  # stable: equal lengths stay shuffled
    batches: list[list[int]] = []
    longest = 0
    for i in order:
        longest = len(sentences[i]) + 1
        if not batches or longest * (len(batches[-1]) + 1) > batch_pieces:
            batches.append([])
        batches[-1].append(i)
    rng.shuffle(batches)
    for batch in batches:
        length = max(len(sentences[i]) for i in batch) + 1
        inputs = torch.full((len(batch), length), SOS_EOS_ID)
        targets = torch.full((len(batch), length), _IGNORED)
        for row, i in enumerate(batch):
            ids = torch.tensor([*sentences[i], SOS_EOS_ID])
            inputs[row, 1 : len(ids)] = ids[:-1]
            targets[row, : len(ids)] = ids
        yield inputs, targets


class _Epochs(IterableDataset[tuple[Tensor, Tensor]]):
    """Epoch after epoch, each with its own draws."""

    def __init__(self, recipe: LanguageRecipe, folder: Path, tokenizer: Any, *, seed: int) -> None:
        self._recipe = recipe
        self._items = language_text.load(folder, recipe.language_text, seed=recipe.train.seed)[0]
        self._encoded: dict[str, list[int]] = {
            item.text: tokenizer.encode(item.text) for item in self._items
        }
        self._rng = random.Random(f"{seed}:epochs")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            repeats = self._recipe.language_text.repeats
            drawn = language_text.epoch(self._items, repeats, self._rng)
            sentences = [self._encoded[sentence] for sentence in drawn]
            yield from pack(sentences, self._recipe.train.batch_pieces, self._rng)


class _Module(lightning.LightningModule):
    """One optimisation step, and nats per word when validating."""

    def __init__(self, recipe: LanguageRecipe, share: Callable[[], float]) -> None:
        super().__init__()
        self.language = LanguageModel(recipe.model)
        self._settings: LanguageTrainConfig = recipe.train
        self._share = share
        self._nats = self._pieces = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; weights decay, vectors do not."""
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim <= 1]
        return torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self._settings.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=self._settings.peak_lr,
            betas=(0.9, 0.98),
        )

    def _loss(self, batch: tuple[Tensor, Tensor], *, reduction: str) -> Tensor:
        inputs, targets = batch
        logits = self.language(inputs).float()
        return functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED, reduction=reduction
        )

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Loss of a batch in nats per piece."""
        settings = self._settings
        floor = settings.final_lr_share
        cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, self._share())))
        warm = min(1.0, (self.global_step + 1) / settings.warmup_steps)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = settings.peak_lr * cosine * warm
        loss = self._loss(batch, reduction="mean")
        self.log_dict({"loss": loss.detach(), "done": self._share()})
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation's sums."""
        self._nats = self._pieces = 0.0

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Add up what the batch costs."""
        self._nats += float(self._loss(batch, reduction="sum"))
        self._pieces += float((batch[1] != _IGNORED).sum())

    def on_validation_epoch_end(self) -> None:
        """Log nats per piece of held-out sentences."""
        rate = self._nats / max(1.0, self._pieces)
        self.log("validation", rate)
        logger.info("step %d: %.4f nats per held-out piece", self.global_step, rate)


class _Follow(Callback):
    """Knows the share of the run that is done, and reports it now and then."""

    def __init__(
        self, config: LanguageTrainConfig, timer: Timer, report: Callable[[float, float], None]
    ) -> None:
        self._config, self._timer, self._report = config, timer, report
        self.share = 0.0

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        config = self._config
        if config.max_minutes > 0:
            done, total = self._timer.time_elapsed() / 60, config.max_minutes
        else:
            done, total = float(trainer.global_step), float(config.max_steps)
        self.share = done / total
        if batch_idx % 20 == 0:
            self._report(min(done, total), total)


def run_language(
    recipe: LanguageRecipe,
    *,
    stages: Sequence[str] | None = None,
    resume: bool = True,
    progress: Callable[[str, float, float], None] = lambda *_: None,
) -> Path:
    """Run the stages of a language model's recipe in order.

    Args:
        recipe: All settings.
        stages: Names out of `LANGUAGE_STAGES`; all by default.
        resume: Go on from the last checkpoint; False trains anew.
        progress: Called with (stage, done, total) now and then.

    Returns:
        The exported model.

    Raises:
        ConfigError: A stage that does not exist.
    """
    for stage in stages or ():
        if stage not in LANGUAGE_STAGES:
            raise ConfigError(
                f"stage '{stage}': is unknown; known are {', '.join(LANGUAGE_STAGES)}."
            )
    folder = Path(recipe.folder)
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(os.environ.get("EARSHOT_DATA", recipe.data.recordings))
    steps: dict[str, Callable[[], object]] = {
        "text": lambda: language_text.prepare(
            folder, seed=recipe.train.seed, config=recipe.text, root=root
        ),
        "tokenizer": lambda: _prepare_tokenizer(recipe, folder),
        "train": lambda: _train(recipe, folder, resume=resume, progress=progress),
        "export": lambda: export(recipe),
        "weights": lambda: _learn_weights(recipe, folder, progress=progress),
    }
    for stage in LANGUAGE_STAGES:
        if stages is None or stage in stages:
            logger.info("stage %s", stage)
            steps[stage]()
    return folder / recipe.export.output


def _learn_weights(
    recipe: LanguageRecipe, folder: Path, *, progress: Callable[[str, float, float], None]
) -> None:
    """What the model counts beside a recogniser; goes into the exported file."""
    config = recipe.weights
    manifest = make_validation_speech(
        folder / "validation",
        config.clips,
        seed=recipe.train.seed,
        texts=folder / "text" / "heldout.jsonl",
        processes=config.processes,
    )
    path = folder / recipe.export.output
    tune(path, manifest, config, progress=lambda done, total: progress("weights", done, total))


def _prepare_tokenizer(recipe: LanguageRecipe, folder: Path) -> None:
    path = folder / "tokenizer.model"
    if not path.exists():
        train, _ = language_text.load(folder, recipe.language_text, seed=recipe.train.seed)
        rng = random.Random(f"{recipe.train.seed}:tokenizer")
        sentences = list(language_text.epoch(train, recipe.language_text.repeats, rng))
        pieces = train_pieces(sentences, recipe.tokenizer)
        with replaced_file(path) as out:
            out.write(pieces)
    size = load_tokenizer(path).get_piece_size()
    if size != recipe.tokenizer.vocab_size:
        raise ConfigError(
            f"{path}: has {size} pieces; the recipe says {recipe.tokenizer.vocab_size}. Delete it "
            "and the checkpoints beside it, or give the recipe another folder."
        )


def _train(
    recipe: LanguageRecipe,
    folder: Path,
    *,
    resume: bool,
    progress: Callable[[str, float, float], None],
) -> None:
    config = recipe.train
    torch.set_num_threads(config.threads)
    lightning.seed_everything(config.seed, verbose=False)
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    last = folder / "checkpoints" / "last.ckpt"
    resumed = resume and last.exists()
    if not resumed:
        for old in last.parent.glob("*.ckpt"):
            old.rename(old.with_suffix(".old"))
    timer = Timer(timedelta(minutes=config.max_minutes) if config.max_minutes > 0 else None)
    follow = _Follow(config, timer, lambda done, total: progress("train", done, total))
    module = _Module(recipe, lambda: follow.share)
    seed = config.seed
    if resumed:  # new draws: the first part of the run is not repeated in order
        seed += int(_read_checkpoint(last)["global_step"])
    validation = language_text.load(folder, recipe.language_text, seed=config.seed)[1]
    encoded = [tokenizer.encode(item.text) for item in validation]
    held_out = list(pack(encoded, 4 * config.batch_pieces, random.Random(0)))
    trainer = lightning.Trainer(
        max_epochs=-1,
        max_steps=config.max_steps if config.max_steps > 0 else -1,
        accelerator=config.accelerator,
        devices=1,
        precision=usual_precision(config.precision, accelerator=config.accelerator),
        gradient_clip_val=config.clip_norm,
        val_check_interval=timedelta(minutes=config.validate_minutes),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=CSVLogger(folder / "logs", name="", flush_logs_every_n_steps=100),
        callbacks=[
            timer,
            follow,
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
        ],
    )
    try:
        trainer.fit(
            module,
            DataLoader(_Epochs(recipe, folder, tokenizer, seed=seed), batch_size=None),
            DataLoader(held_out, batch_size=None),  # type: ignore[arg-type]
            ckpt_path=last if resumed else None,
            weights_only=False,
        )
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into an exit code; say what it was
            raise KeyboardInterrupt from None
        raise
    trainer.save_checkpoint(last)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return checkpoint


def read_language_model(recipe: LanguageRecipe, checkpoint: Path | None = None) -> LanguageModel:
    """The network of a checkpoint, by default the last one, on the CPU."""
    path = checkpoint or Path(recipe.folder) / "checkpoints" / "last.ckpt"
    state = _read_checkpoint(path)["state_dict"]
    model = LanguageModel(recipe.model)
    prefix = "language."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in state.items()})
    return model.eval()


def export(recipe: LanguageRecipe, *, checkpoint: Path | None = None) -> Path:
    """Write the model of a checkpoint, by default the last one.

    Args:
        recipe: The recipe it was trained by.
        checkpoint: A file that training wrote.

    Returns:
        The model file.
    """
    folder = Path(recipe.folder)
    path = folder / recipe.export.output
    state = _read_checkpoint(checkpoint or folder / "checkpoints" / "last.ckpt")
    export_language_model(
        read_language_model(recipe, checkpoint),
        path,
        name=recipe.name,
        tokenizer=(folder / "tokenizer.model").read_bytes(),
        codec=recipe.export.codec,
        metadata={
            "licence": recipe.export.licence,
            "description": recipe.export.description,
            "recipe": recipe.name,
            "steps": str(state["global_step"]),
        },
    )
    logger.info("wrote %s, %d bytes", path, path.stat().st_size)
    return path
