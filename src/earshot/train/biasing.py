"""Trains biasing as an adapter: the recogniser stays as it is, bit for bit.

Nothing in front of the attention learns, so its frames are computed once, by the engine that
will run it, from clean and from augmented audio, and kept. Steps are then so short that one core
trains a model in minutes. The exported file is the recogniser's own, with the biasing graphs added.
Knows nothing of search; `train.loop` trains biasing together with everything else instead.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import MonoCut
from torch import Tensor

from earshot import _native
from earshot.compress.export import pack_graphs, read_transducer
from earshot.compress.training import warmed_decay
from earshot.core.errors import ConfigError
from earshot.data.atomic import replaced_file
from earshot.data.pronunciation import Lexicon
from earshot.data.scoring import WordCounts, count_words
from earshot.data.tokenizer import Tokenizer
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_with_graphs
from earshot.models.biasing import NONE, UNGUIDED, BiasConfig, PhraseBatch, PhraseBias
from earshot.models.loss import merged_transducer_loss
from earshot.models.transducer import BLANK_ID, UNK_ID, Transducer
from earshot.runtime.session import open_model
from earshot.train.alignment import emission_frames, piece_spans
from earshot.train.augment import Augmenter
from earshot.train.batches import (
    kind_of,
    load_audio,
    read_cuts,
    read_noise,
    read_rooms,
    read_sources,
)
from earshot.train.phrase_text import phrase_in, rare_words
from earshot.train.phrases import PhraseSampler
from earshot.train.precision import usual_precision
from earshot.train.recipe import Recipe
from earshot.train.text import load_texts

__all__ = ["export", "freeze", "train"]

logger = logging.getLogger(__name__)

_SHARD = 400  # clips
_STREAMS = 16  # encoded together
_NEAR_FRAMES = 3  # frames before a phrase's first piece that nothing is known about


@dataclass(frozen=True, slots=True)
class FrozenClip:
    """What the recogniser makes of a clip.

    hidden (T, W) float16; pieces (U,) and the frame each is emitted at on the likeliest path.
    """

    hidden: npt.NDArray[np.float16]
    pieces: npt.NDArray[np.int32]
    frames: npt.NDArray[np.int32]
    text: str
    phrase: str | None


# ---------------------------------------------------------------- frozen frames


def freeze(
    recipe: Recipe, folder: Path, *, progress: Callable[[float, float], None] = lambda *_: None
) -> Path:
    """Compute the frozen frames of the recipe's clips, those that are not there yet.

    Shards are written one by one as they are complete.

    Args:
        recipe: `train.start_from` is the recogniser; `adapter.clips` says how many clips,
            `sources` their shares.
        folder: Holds `cuts/`, and `noise/` and `rooms/` where there are any.
        progress: Called with clips (done, of all) now and then.

    Returns:
        The folder of the shards, which belong to this recogniser, these clips and settings alone.

    Raises:
        ManifestError: There is nothing to train on.
    """
    start = Path(recipe.train.start_from)
    network = read_transducer(start, _without_bias(recipe)).eval()
    model = open_model(start)
    tokenizer = Tokenizer(ModelFile(start).tensor_bytes("tokenizer"))
    every = {split: _chosen(recipe, folder, split) for split in ("dev", "train")}
    key = [recipe.train.seed, repr(recipe.augment), recipe.adapter.clean_share]
    named = json.dumps([*key, *([cut.id for cut in cuts] for cuts in every.values())]).encode()
    out = folder / "frozen" / f"{zlib.crc32(named, zlib.crc32(start.read_bytes())):08x}"
    out.mkdir(parents=True, exist_ok=True)
    augmenter = Augmenter(recipe.augment, read_noise(folder), read_rooms(folder))
    for split, cuts in every.items():
        for first in range(0, len(cuts), _SHARD):
            path = out / f"{split}_{first // _SHARD:03d}.npz"
            if not path.exists():
                rng = np.random.default_rng((recipe.train.seed, first, split == "dev"))
                chosen = cuts[first : first + _SHARD]
                clips = _freeze_clips(
                    chosen, model, network, tokenizer, augmenter if split == "train" else None, rng,
                    clean_share=recipe.adapter.clean_share,
                )  # fmt: skip
                _write_shard(path, clips)
            progress(min(first + _SHARD, len(cuts)), len(cuts))
    return out


def _without_bias(recipe: Recipe) -> Any:
    return replace(recipe.model, bias=BiasConfig())


def _chosen(recipe: Recipe, folder: Path, split: str) -> list[MonoCut]:
    """The clips of a split, by the recipe's shares, in a stable order."""
    if split == "train":
        sources = read_sources(folder / "cuts", recipe.sources)
        count = recipe.adapter.clips
    else:
        sources = {}
        for path in sorted((folder / "cuts").glob("*_dev.jsonl.gz")):
            label = path.name.split("_dev")[0]
            for cut in read_cuts(path):
                name = kind_of(cut) if label == "real" else label
                if name in recipe.sources:
                    sources.setdefault(name, []).append(cut)
        count = recipe.train.validation_clips * max(1, len(sources))
    shares = {name: recipe.sources[name].last for name in sources}
    cuts: list[MonoCut] = []
    for name, found in sorted(sources.items()):
        order = sorted(found, key=lambda cut: zlib.crc32(cut.id.encode()))
        cuts += order[: round(count * shares[name] / sum(shares.values()))]
    return sorted(cuts, key=lambda cut: zlib.crc32(b"." + cut.id.encode()))


def _freeze_clips(
    cuts: Sequence[MonoCut],
    model: _native.Model,
    network: Transducer,
    tokenizer: Tokenizer,
    augmenter: Augmenter | None,
    rng: np.random.Generator,
    *,
    clean_share: float,
) -> list[FrozenClip]:
    graph, bins = model.graph("encoder"), model.num_bins
    clips: list[FrozenClip] = []
    lexicon = Lexicon.load()
    for first in range(0, len(cuts), _STREAMS):
        part = cuts[first : first + _STREAMS]
        features: list[Any] = []
        for cut in part:
            samples = load_audio(cut)
            if augmenter is not None:
                strength = 0.0 if rng.random() < clean_share else float(rng.uniform(0.3, 1.0))
                samples = augmenter.perturb_audio(samples, strength, rng)
            features.append(_native.fbank(samples, bins))
        states = [graph.initial_state() for _ in part]
        results = graph.step_batch(features, states, flush=True)
        for cut, result in zip(part, results, strict=True):
            supervision = cut.supervisions[0]
            text = supervision.text or ""
            pieces = np.asarray(tokenizer.encode(text), np.int32)
            hidden = np.asarray(result["hidden"])
            if UNK_ID in pieces or len(pieces) > 0.8 * len(hidden):
                continue
            heard = torch.from_numpy(hidden)
            spans = None
            if network.phones is not None:
                with torch.no_grad():
                    phones = torch.log_softmax(network.phones(heard), dim=-1).numpy()
                spans = piece_spans(text, tokenizer, lexicon, phones)
            frames = emission_frames(network, heard, pieces, spans)
            template = str((supervision.custom or {}).get("template", ""))
            clips.append(
                FrozenClip(
                    hidden.astype(np.float16), pieces, frames, text, phrase_in(text, template)
                )
            )
    return clips


def _write_shard(path: Path, clips: Sequence[FrozenClip]) -> None:
    meta = [{"text": c.text, "phrase": c.phrase} for c in clips]
    with replaced_file(path) as out:
        np.savez(
            out,
            hidden=np.concatenate([c.hidden for c in clips]) if clips else np.zeros((0, 1)),
            lengths=np.array([len(c.hidden) for c in clips], np.int64),
            pieces=np.concatenate([c.pieces for c in clips] or [np.zeros(0, np.int32)]),
            frames=np.concatenate([c.frames for c in clips] or [np.zeros(0, np.int32)]),
            counts=np.array([len(c.pieces) for c in clips], np.int64),
            meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
        )


def _read_shards(folder: Path, split: str) -> list[FrozenClip]:
    clips: list[FrozenClip] = []
    for path in sorted(folder.glob(f"{split}_*.npz")):
        with np.load(path) as saved:
            meta = json.loads(saved["meta"].tobytes())
            hidden = np.split(saved["hidden"], np.cumsum(saved["lengths"])[:-1]) if meta else []
            cuts = np.cumsum(saved["counts"])[:-1]
            pieces, frames = np.split(saved["pieces"], cuts), np.split(saved["frames"], cuts)
        clips += [
            FrozenClip(hidden[i], pieces[i], frames[i], row["text"], row["phrase"])
            for i, row in enumerate(meta)
        ]
    return clips


# ---------------------------------------------------------------- batches


@dataclass(frozen=True, slots=True)
class _Batch:
    hidden: Tensor  # (B, T, W)
    frames: Tensor  # (B,)
    labels: Tensor  # (B, U)
    label_lengths: Tensor  # (B,)
    emitted: Tensor  # (B, U): the frame of each piece


def _collated(clips: Sequence[FrozenClip]) -> _Batch:
    longest = -(-max(len(c.hidden) for c in clips) // 16) * 16
    hidden = np.zeros((len(clips), longest, clips[0].hidden.shape[1]), np.float32)
    labels = np.zeros((len(clips), max(len(c.pieces) for c in clips)), np.int64)
    emitted = np.full_like(labels, longest)
    for row, clip in enumerate(clips):
        hidden[row, : len(clip.hidden)] = clip.hidden
        labels[row, : len(clip.pieces)] = clip.pieces
        emitted[row, : len(clip.pieces)] = clip.frames
    return _Batch(
        torch.from_numpy(hidden),
        torch.tensor([len(c.hidden) for c in clips]),
        torch.from_numpy(labels),
        torch.tensor([len(c.pieces) for c in clips]),
        torch.from_numpy(emitted),
    )


def _with_frames(clips: Sequence[FrozenClip], phrases: PhraseBatch, longest: int) -> PhraseBatch:
    """Which entry each frame is of: that of the piece it emits, none where no phrase is near."""
    table = torch.full((len(clips), longest), UNGUIDED)
    for row, clip in enumerate(clips):
        entries = phrases.label_entries[row, : len(clip.pieces)]
        table[row, : len(clip.hidden)] = NONE
        inside = (entries >= 0).nonzero().flatten().tolist()
        for piece in inside:  # between the piece before and this one something of it is heard
            before = clip.frames[piece - 1] + 1 if piece else 0
            first = max(before, clip.frames[piece] - _NEAR_FRAMES)
            table[row, first : clip.frames[piece]] = UNGUIDED
        table[row, clip.frames] = entries
    return replace(phrases, frame_entries=table)


def _batches(
    clips: Sequence[FrozenClip], batch_frames: int, rng: random.Random
) -> Iterator[list[FrozenClip]]:
    """Endless batches of clips of like length, each clip once before any comes again."""
    while True:
        order = sorted(range(len(clips)), key=lambda i: len(clips[i].hidden) + rng.uniform(-12, 12))
        groups: list[list[FrozenClip]] = [[]]
        frames = 0
        for i in order:
            if groups[-1] and frames + len(clips[i].hidden) > batch_frames:
                groups.append([])
                frames = 0
            groups[-1].append(clips[i])
            frames += len(clips[i].hidden)
        rng.shuffle(groups)
        yield from groups


# ---------------------------------------------------------------- training


def train(
    recipe: Recipe,
    folder: Path,
    frozen: Path,
    *,
    resume: bool = True,
    progress: Callable[[float, float], None] = lambda *_: None,
) -> Path:
    """Train the biasing networks on frozen frames until the recipe's minutes or steps are used up.

    Args:
        recipe: All settings.
        folder: Checkpoints go to `checkpoints/`.
        frozen: From `freeze`.
        resume: Go on from `checkpoints/bias.ckpt` if it is of the same recogniser.
        progress: Called with minutes or steps (done, of all) now and then.

    Returns:
        The checkpoint: averaged weights of the biasing networks.

    Raises:
        ConfigError: There are no clips.
    """
    config = recipe.train
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    start = Path(config.start_from)
    network = read_transducer(start, recipe.model).eval()
    bias = network.bias
    assert bias is not None  # the recipe was checked
    tokenizer = Tokenizer(ModelFile(start).tensor_bytes("tokenizer"))
    clips, dev = _read_shards(frozen, "train"), _read_shards(frozen, "dev")
    if not clips:
        raise ConfigError(f"{frozen}: has no clips to train on. Prepare audio first: all stages.")
    _start_like(bias, network)
    average = {name: value.detach().clone() for name, value in bias.state_dict().items()}
    optimizer = torch.optim.AdamW(
        bias.parameters(), lr=config.peak_lr, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    path = folder / "checkpoints" / "bias.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    step, before_s = 0, 0.0
    if resume and path.exists():
        saved = torch.load(path, map_location="cpu", weights_only=False)
        if saved["recogniser"] == frozen.name and saved["bias_config"] == recipe.model.bias:
            bias.load_state_dict(saved["last"])
            optimizer.load_state_dict(saved["optimizer"])
            average, step, before_s = saved["average"], saved["step"], saved["seconds"]
    known = {w for item in load_texts(folder / "text" / "train.jsonl") for w in item.text.split()}
    trained, held_out = rare_words(known, held_out=recipe.phrases.held_out_words)
    texts = [clip.text for clip in clips]
    sampler = PhraseSampler(tokenizer, recipe.model.bias, recipe.lists, rare=trained, texts=texts)
    dev_sampler = PhraseSampler(
        tokenizer, recipe.model.bias, recipe.lists, rare=held_out, texts=texts
    )
    rng = random.Random(f"{config.seed}:{step}")
    batches = _batches(clips, round(config.batch_s * 25), rng)
    began = saved_at = validated_at = time.monotonic()

    def save() -> None:
        with replaced_file(path) as out:
            torch.save(
                {
                    "recogniser": frozen.name,
                    "bias_config": recipe.model.bias,
                    "average": average,
                    "last": bias.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "seconds": before_s + time.monotonic() - began,
                },
                out,
            )

    low = usual_precision(config.precision) == "bf16-mixed"
    sums: dict[str, float] = {}
    while True:
        seconds = before_s + time.monotonic() - began
        done, total = (
            (seconds / 60, config.max_minutes)
            if config.max_minutes > 0
            else (float(step), float(config.max_steps))
        )
        progress(min(done, total), total)
        if done >= total:
            break
        share = done / total
        rate = config.peak_lr * min(1.0, (step + 1) / config.warmup_steps)
        floor = config.final_lr_share
        rate *= floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = next(batches)
        batch = _collated(chosen)
        phrases, _ = sampler.draw([c.text for c in chosen], [c.phrase for c in chosen], share, rng)
        phrases = _with_frames(chosen, phrases, batch.hidden.shape[1])
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            one_path = share < recipe.adapter.one_path_until
            loss, guide = _losses(network, batch, phrases, one_path=one_path)
            objective = loss + recipe.model.guide_weight * guide
        optimizer.zero_grad(set_to_none=True)
        objective.backward()
        norm = torch.nn.utils.clip_grad_norm_(bias.parameters(), config.clip_norm)
        if torch.isfinite(norm):
            optimizer.step()
        else:
            logger.warning("step %d: gradients are not finite; dropped", step)
        step += 1
        decay = warmed_decay(config.ema_decay, step)
        for name, value in bias.state_dict().items():
            average[name].lerp_(value, 1 - decay)
        for name, value in (("loss", loss), ("guide", guide)):
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if step % 50 == 0:
            logger.info(
                "step %d, %.1f min, %d entries: loss %.3f, guide %.3f",
                step, seconds / 60, len(phrases.windows), sums["loss"] / 50, sums["guide"] / 50,
            )  # fmt: skip
            sums.clear()
        now = time.monotonic()
        if now - saved_at > config.checkpoint_minutes * 60:
            save()
            saved_at = now
        if dev and now - validated_at > config.validate_minutes * 60:
            _validate(network, average, dev, dev_sampler, tokenizer, step)
            validated_at = time.monotonic()
    save()
    if dev:
        _validate(network, average, dev, dev_sampler, tokenizer, step)
    return path


@torch.no_grad()
def _start_like(bias: PhraseBias, network: Transducer) -> None:
    """Start from what the recogniser knows, where there is room for it.

    At first a frame's score of an entry is about the CTC head's logit of the entry's piece, that
    of no bias the blank's, and what an entry adds raises its piece in the joiner. All this is
    learnt from random weights too, in many times the steps.
    """
    config = bias.config
    axes = (*network.ctc.weight.shape, *network.joiner.weight.shape)
    most = min(config.width // 2, config.key_width, config.value_width, *axes) - 1
    room = 4 * config.width <= 2 * config.hidden and 4 * most <= config.hidden
    if most < 1 or not room:
        return
    width, heads = config.width, config.heads
    heard, heard_basis = _principal(network.ctc.weight, most)  # (V, most), and what projects
    said, said_basis = _principal(network.joiner.weight, most)
    pieces = len(heard)
    table = torch.zeros_like(bias.embedding.weight[:pieces])
    table[:, :most] = heard
    table[:, most] = network.ctc.bias - network.ctc.bias.mean()
    table[:, most + 1 : 2 * most + 1] = said
    bias.embedding.weight[:pieces] = table  # what follows is of phones
    # Through thresholds at 0 a value passes as its positive and its negative part.
    own = slice(config.before * width, (config.before + 1) * width)
    _pass_pairs(bias.mix, own, width)
    bias.second.weight[: 2 * width] = 0
    bias.second.bias[: 2 * width] = 0
    bias.second.weight[: 2 * width, : 2 * width] = torch.eye(2 * width)
    gain = 3.0 / network.joiner.weight.square().sum(1).mean()
    kinds = [(bias.audio_keys, bias.audio_values, bias.audio)]
    if bias.label is not None:
        kinds.append((bias.label_keys, bias.label_values, bias.label))
    for keys, values, lookup in kinds:
        lookup.out.weight.mul_(0.1)
        for head in range(heads):
            at = head * config.value_width
            values.weight[at : at + most] = 0
            values.bias[at : at + most] = 0
            _read_pairs(values.weight, at, most + 1, most, width)
            lookup.out.weight[:, at : at + most] = gain / heads * said_basis.T
        if lookup is not bias.audio:
            continue
        lookup.query.weight.mul_(0.1)
        for head in range(heads):
            at = head * config.key_width
            span = slice(at, at + most + 1)
            keys.weight[span], keys.bias[span] = 0, 0
            _read_pairs(keys.weight, at, 0, most + 1, width)
            lookup.no_bias_key[at : at + config.key_width] = 0
            lookup.no_bias_key[span] = table[BLANK_ID, : most + 1]
            # The newest frame asks in the first head, the last three in the others.
            scale = math.sqrt(config.key_width)
            frames = 1 if head == 0 else min(3, config.audio_context)
            first = 2 * most * min(head, 1)
            lookup.query.weight[span], lookup.query.bias[span] = 0, 0
            lookup.query.bias[at + most] = scale
            for k in range(most):
                plus, minus = first + k, first + most + k
                bias.audio_mix.weight[[plus, minus]] = 0
                bias.audio_mix.bias[[plus, minus]] = 0
                for frame in range(config.audio_context - frames, config.audio_context):
                    bias.audio_mix.weight[plus, frame * width + k] = 1 / frames
                    bias.audio_mix.weight[minus, frame * width + k] = -1 / frames
                lookup.query.weight[at + k, plus] = scale
                lookup.query.weight[at + k, minus] = -scale
    bias.audio_in.weight[:most] = heard_basis
    bias.audio_in.bias[:most] = 0


def _principal(weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows less their mean on the axes on which they differ most, and those axes."""
    rows = weight.float() - weight.float().mean(dim=0)
    _, _, axes = torch.linalg.svd(rows, full_matrices=False)
    return rows @ axes[:count].T, axes[:count]


def _pass_pairs(layer: torch.nn.Linear, columns: slice, width: int) -> None:
    """The first outputs become the inputs of `columns`, then their negatives."""
    layer.weight[: 2 * width] = 0
    layer.bias[: 2 * width] = 0
    layer.weight[:width, columns] = torch.eye(width)
    layer.weight[width : 2 * width, columns] = -torch.eye(width)


def _read_pairs(weight: Tensor, row: int, first: int, count: int, width: int) -> None:
    """Rows from `row` on become the values `first`, `first + 1`, ... that pass as pairs."""
    for k in range(count):
        weight[row + k] = 0
        weight[row + k, first + k] = 1
        weight[row + k, width + first + k] = -1


def _losses(
    network: Transducer, batch: _Batch, phrases: PhraseBatch, *, one_path: bool
) -> tuple[Tensor, Tensor]:
    """Nats per piece, and the guide's; gradients for the biasing networks alone.

    Of one path, the recogniser's own alignment, a frame has one row of logits instead of one for
    every number of pieces: a step takes a tenth of the time. It bounds the loss from above.
    """
    with torch.no_grad():
        encoded = network.encoder_out(batch.hidden)
        predicted = network.predictor(batch.labels)
    bias = cast("PhraseBias", network.bias)
    encoded, predicted, guide = bias(batch.hidden, encoded, predicted, batch.labels, phrases)
    pieces = batch.label_lengths.sum().clamp_min(1)
    if one_path:
        return _path_loss(network, batch, encoded, predicted) / pieces, guide
    loss = merged_transducer_loss(
        encoded, predicted, network.joiner.weight.detach(), network.joiner.bias.detach(),
        batch.labels, batch.frames, batch.label_lengths,
        one_symbol_per_frame=network.config.one_symbol_per_frame,
    )  # fmt: skip
    return loss / pieces, guide


def _path_loss(network: Transducer, batch: _Batch, encoded: Tensor, predicted: Tensor) -> Tensor:
    """-log of the probability of the recogniser's own alignments, summed over the batch."""
    frames = torch.arange(encoded.shape[1])
    rows, times = (frames < batch.frames[:, None]).nonzero(as_tuple=True)
    before = (batch.emitted[:, :, None] < frames).sum(dim=1)  # (B, T) pieces emitted earlier
    labels = torch.cat([batch.labels, batch.labels.new_zeros(len(batch.labels), 1)], dim=1)
    emits = (batch.emitted[:, :, None] == frames).any(dim=1)
    targets = torch.where(emits, labels.gather(1, before), BLANK_ID)
    joint = torch.tanh(encoded[rows, times] + predicted[rows, before[rows, times]])
    logits = torch.nn.functional.linear(
        joint, network.joiner.weight.detach(), network.joiner.bias.detach()
    )
    return torch.nn.functional.cross_entropy(logits.float(), targets[rows, times], reduction="sum")


# ---------------------------------------------------------------- validation


def _validate(
    network: Transducer,
    average: dict[str, Tensor],
    dev: Sequence[FrozenClip],
    sampler: PhraseSampler,
    tokenizer: Tokenizer,
    step: int,
) -> None:
    """Word errors in and beside phrases, by greedy search, without and with a list of 300.

    And how often the largest weight is the right entry's: of the frames, and of the histories,
    that a piece of a listed phrase is emitted in and after.
    """
    bias = cast("PhraseBias", network.bias)
    kept = {name: value.clone() for name, value in bias.state_dict().items()}
    bias.load_state_dict(average)
    phrases = [clip.phrase for clip in dev if clip.phrase]
    listed = phrases + sampler.distractors(300 - min(300, len(phrases)), random.Random(1))
    windows = sampler.batch([], listed).windows
    counts: dict[str, WordCounts] = {}
    for clip in dev:
        for name, table in (("none", None), ("list", windows)):
            tokens = _greedy(network, torch.from_numpy(clip.hidden.astype(np.float32)), table)
            heard = tokenizer.decode(tokens)
            kind = "phrases" if clip.phrase else "others"
            key = f"{kind}/{name}"
            counts[key] = counts.get(key, WordCounts()) + count_words(clip.text, heard)
    found = _first_places(network, [clip for clip in dev if clip.phrase], listed, sampler)
    bias.load_state_dict(kept)
    logger.info(
        "step %d, dev WER: %s; right entry first: %s",
        step,
        ", ".join(
            f"{k} {100 * c.errors / max(1, c.reference_words):.1f}"
            for k, c in sorted(counts.items())
        ),
        ", ".join(f"{k} {100 * share:.1f} %" for k, share in found.items()),
    )


@torch.no_grad()
def _first_places(
    network: Transducer, clips: Sequence[FrozenClip], listed: Sequence[str], sampler: PhraseSampler
) -> dict[str, float]:
    """Share of places in listed phrases where the entry that is right has the largest weight."""
    bias = cast("PhraseBias", network.bias)
    found: dict[str, list[bool]] = {}
    for clip in clips:
        batch = _collated([clip])
        phrases = _with_frames([clip], sampler.batch([clip.text], listed), batch.hidden.shape[1])
        entries = bias.encode(phrases.windows)
        looked = [("sound", bias.look_up_audio(batch.hidden, entries), phrases.frame_entries)]
        if bias.label is not None:
            last = torch.nn.functional.pad(batch.labels, (1, 0))
            by_label = bias.look_up_label(
                network.predictor(batch.labels), entries, phrases.windows, last
            )
            looked.append(("label", by_label, phrases.label_entries))
        for name, attention, wanted in looked:
            assert wanted is not None
            inside = wanted[0] >= 0
            weights = attention.log_weights[0, inside].exp().mean(dim=1)
            right = (weights.argmax(dim=-1) == wanted[0, inside]).tolist()
            found.setdefault(name, []).extend(right)
    return {name: sum(right) / max(1, len(right)) for name, right in found.items()}


@torch.no_grad()
def _greedy(network: Transducer, hidden: Tensor, windows: Tensor | None) -> list[int]:
    encoded = network.encoder_out(hidden)
    bias = network.bias
    entries = table = None
    if windows is not None and bias is not None:
        table, entries = windows, bias.encode(windows)
        encoded = encoded + bias.look_up_audio(hidden[None], entries).added[0]
    tokens: list[int] = []
    cache: dict[tuple[int, ...], Tensor] = {}
    size = network.config.predictor.context_size

    def predict() -> Tensor:
        stateless = network.config.predictor.type == "stateless"
        history = tuple(tokens[-size:] if stateless else tokens)
        if history not in cache:
            out = network.predictor(torch.tensor([history], dtype=torch.int64))[:, -1:]
            if table is not None and entries is not None and bias is not None and bias.label:
                last = torch.tensor([[tokens[-1] if tokens else BLANK_ID]])
                out = out + bias.look_up_label(out, entries, table, last).added
            cache[history] = out[0, 0]
        return cache[history]

    for vector in encoded:
        logits = network.joiner(torch.tanh(vector + predict()))
        logits[UNK_ID] = -torch.inf
        best = int(logits.argmax())
        if best != BLANK_ID:
            tokens.append(best)
    return tokens


# ---------------------------------------------------------------- export


def export(recipe: Recipe, folder: Path, checkpoint: Path) -> Path:
    """Write the recogniser's file with the biasing graphs; all that was in it stays as it was.

    Args:
        recipe: Says where to, and which codec.
        folder: The experiment's.
        checkpoint: From `train`.

    Returns:
        The model file.
    """
    start = ModelFile(Path(recipe.train.start_from))
    network = read_transducer(start.path, recipe.model).eval()
    saved = torch.load(checkpoint, map_location="cpu", weights_only=False)
    bias = cast("PhraseBias", network.bias)
    bias.load_state_dict(saved["average"])
    graphs, tensors = pack_graphs(bias.describe(), recipe.export.codec)
    path = folder / recipe.export.output
    write_with_graphs(
        start,
        path,
        graphs,
        tensors,
        bias=recipe.model.bias.header(),
        metadata={"bias_recipe": recipe.name, "bias_steps": str(saved["step"])},
    )
    logger.info("wrote %s, %d bytes", path, path.stat().st_size)
    return path
