"""Trains the end-of-query head of a model file, whose encoder stays as it is.

The engine runs the encoder, so the head learns from the very frames that it will see; torch trains
four scores over them; the file is written again with one graph more. Minutes, for any model.
Knows nothing of how thresholds are chosen: that is `train.endpoint_tuning`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earshot import _native
from earshot.core.errors import ConfigError, ModelFileError
from earshot.core.features import SAMPLE_RATE_HZ
from earshot.modelfile.codecs import EncodedTensor, encode_f32, encode_int8
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_with_graph
from earshot.models.endpoint import CLASSES, EndpointHead
from earshot.runtime.session import GraphSession, open_model
from earshot.session.recognizer import Recognizer
from earshot.train.batches import read_noise, read_rooms
from earshot.train.cuts import read_cuts
from earshot.train.endpoint_clips import PAUSE, ClipMaker, LabelledClip

__all__ = ["EndpointHeadConfig", "EndpointReport", "hidden_frames", "train_endpoint"]

logger = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]
_TOGETHER = 16  # clips that share a reading of the encoder's weights
_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointHeadConfig:
    """How the head is trained.

    Args:
        clips: Training clips, of about four seconds each; 0 trains no head.
        dev_clips: Clips of other voices that the figures are of.
        size: Of its layers, a multiple of 16.
        epochs: Passes over the clips.
        learning_rate: At the start; it falls to zero.
        pause_weight: How much more a frame of a pause counts than others: a pause that is taken
            for the end cuts somebody off.

    Raises:
        ConfigError: A value is out of its range.
    """

    clips: int = 0
    dev_clips: int = 160
    size: int = 32
    epochs: int = 24
    learning_rate: float = 4e-3
    pause_weight: float = 2.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("clips", 0, 100_000),
            ("dev_clips", 16, 10_000),
            ("size", 16, 256),
            ("epochs", 1, 1000),
            ("learning_rate", 1e-6, 1.0),
            ("pause_weight", 0.01, 100.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"endpoint.{name} is {value}; it must lie in {low}..{high}.")
        if self.size % 16:
            raise ConfigError(f"endpoint.size is {self.size}; it must be a multiple of 16.")


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """How well the head tells frames apart, on clips of voices that it was not trained with.

    Args:
        accuracy: Share of frames whose class it names, by class.
        pause_taken_for_end: Share of frames in pauses where it is at least 0.8 sure of the end.
        end_found: Share of ends of which it is at least 0.8 sure within 0.4 s.
        seconds: That training took.
    """

    accuracy: dict[str, float]
    pause_taken_for_end: float
    end_found: float
    seconds: float


def hidden_frames(
    encoder: _native.Graph, clips: Sequence[Samples]
) -> list[npt.NDArray[np.float32]]:
    """The encoder's `hidden` of some clips, each from a clean state.

    Args:
        encoder: A model's graph.
        clips: Shape (N,) each, 16 kHz.

    Returns:
        Shape (T, width) each.
    """
    bins = encoder.widths["x"]
    out = []
    for first in range(0, len(clips), _TOGETHER):
        features = [_native.fbank(clip, bins) for clip in clips[first : first + _TOGETHER]]
        states = [encoder.initial_state() for _ in features]
        steps = encoder.step_batch(list(features), states, flush=True)
        out += [step["hidden"] for step in steps]
    return out


def train_endpoint(
    model: Path,
    output: Path,
    *,
    folder: Path,
    config: EndpointHeadConfig,
    seed: int = 0,
    progress: Callable[[float, float], None] = lambda *_: None,
) -> EndpointReport:
    """Give a model an end-of-query head, or a new one.

    Args:
        model: A recogniser's `.ear` file.
        output: The file to make or replace; may be `model`.
        folder: Of a recipe's run: its cuts, noise and rooms are what the clips are made of.
        config: How.
        seed: Of clips and weights.
        progress: Called with (done, total) now and then.

    Returns:
        Figures of the head on held-out clips.

    Raises:
        ModelFileError: The model has no `hidden` to listen to.
        ConfigError: The folder has no cuts to train on.
    """
    started = time.monotonic()
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 17))
    recognizer = Recognizer(open_model(model), _quick_search())
    encoder = open_model(model).graph("encoder")
    if "hidden" not in encoder.outputs:
        raise ModelFileError(
            model,
            "its encoder puts out no `hidden` for a head to listen to",
            remedy="Export it again with this version",
        )
    train_maker, dev_maker = (_maker(folder, part, recognizer) for part in ("train", "dev"))
    total = config.clips + config.dev_clips + 1
    done = 0

    def gather(maker: ClipMaker, count: int) -> list[tuple[npt.NDArray[np.float16], LabelledClip]]:
        nonlocal done
        rows = []
        for first in range(0, count, 64):
            clips = maker.make(min(64, count - first), rng)
            hidden = hidden_frames(encoder, [clip.samples for clip in clips])
            rows += [(h.astype(np.float16), c) for h, c in zip(hidden, clips, strict=True)]
            done += len(clips)
            progress(done, total)
        return rows

    train_rows = gather(train_maker, config.clips)
    dev_rows = gather(dev_maker, config.dev_clips)
    head = EndpointHead(encoder.widths["hidden"], config.size)
    _fit(head, train_rows, config, seed=seed)
    _write(ModelFile(model), output, head)
    # What is measured is what was written: eight bits and all.
    report = _measure(output, dev_rows, seconds=time.monotonic() - started)
    progress(total, total)
    logger.info("endpoint head: %s", report)
    return report


def _quick_search() -> Any:
    from earshot.decode.search import SearchConfig

    return SearchConfig(method="greedy_search")


def _maker(folder: Path, part: str, recognizer: Recognizer) -> ClipMaker:
    cuts: list[dict[str, Any]] = []
    for path in sorted((folder / "cuts").glob(f"*_{part}*.jsonl.gz")):
        if not path.name.startswith("noise"):
            cuts += read_cuts(path)
    if not cuts:
        raise ConfigError(
            f"{folder}: has no cuts/*_{part}*.jsonl.gz; the head is trained on a recipe's clips. "
            "Run the recipe's stages up to `synthesis` first."
        )
    return ClipMaker(
        cuts,
        read_noise(folder),
        read_rooms(folder),
        gaps=lambda clips: _word_gaps(recognizer, clips),
    )


def _word_gaps(recognizer: Recognizer, clips: Sequence[Samples]) -> list[list[int]]:
    """The quietest place between each two words, going by what the recogniser hears."""
    out = []
    for first in range(0, len(clips), 32):
        some = clips[first : first + 32]
        streams = []
        for clip in some:
            stream = recognizer.create_stream()
            stream.accept_waveform(SAMPLE_RATE_HZ, clip)
            stream.input_finished()
            streams.append(stream)
        recognizer.decode_streams(streams)
        for stream, clip in zip(streams, some, strict=True):
            words = stream.result().words
            gaps = []
            for left, right in pairwise(words):
                start, stop = (int(t * SAMPLE_RATE_HZ) for t in (left.start_s, right.start_s))
                energy = np.convolve(np.square(clip[start:stop]), np.ones(320), mode="same")
                if len(energy) > 320:
                    gaps.append(start + int(np.argmin(energy)))
            out.append(gaps)
    return out


def _fit(
    head: EndpointHead,
    rows: Sequence[tuple[npt.NDArray[np.float16], LabelledClip]],
    config: EndpointHeadConfig,
    *,
    seed: int,
) -> None:
    weights = torch.ones(len(CLASSES))
    weights[PAUSE] = config.pause_weight
    loss_of = torch.nn.NLLLoss(weight=weights, ignore_index=-1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    steps = config.epochs * -(-len(rows) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, steps)
    head.train()
    for epoch in range(config.epochs):
        order = torch.randperm(len(rows), generator=generator).tolist()
        sum_loss = 0.0
        for first in range(0, len(order), _BATCH):
            hidden, labels = _batch([rows[i] for i in order[first : first + _BATCH]])
            loss = loss_of(head(hidden).flatten(0, 1), labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            sum_loss += float(loss.detach()) * len(hidden)
        logger.info("endpoint head: epoch %d, loss %.4f", epoch, sum_loss / len(order))
    head.eval()


def _batch(
    rows: Sequence[tuple[npt.NDArray[np.float16], LabelledClip]],
) -> tuple[Tensor, Tensor]:
    """(B, T, W) frames and (B, T) labels, -1 where a clip is over."""
    longest = max(len(hidden) for hidden, _ in rows)
    frames = torch.zeros(len(rows), longest, rows[0][0].shape[1])
    labels = torch.full((len(rows), longest), -1, dtype=torch.long)
    for i, (hidden, clip) in enumerate(rows):
        count = min(len(hidden), len(clip.labels))
        frames[i, :count] = torch.from_numpy(hidden[:count].astype(np.float32))
        labels[i, :count] = torch.from_numpy(clip.labels[:count])
    return frames, labels


def _write(source: ModelFile, output: Path, head: EndpointHead) -> None:
    graph = head.describe()
    tensors: dict[str, EncodedTensor] = {}
    for name, tensor in graph.tensors.items():
        value = tensor.value.detach().float().cpu().numpy()
        tensors[name] = encode_f32(value) if tensor.role == "vector" else encode_int8(value)
    write_with_graph(source, output, graph.name, graph.as_json(["log_probs"]), tensors)


def _measure(
    model: Path,
    rows: Sequence[tuple[npt.NDArray[np.float16], LabelledClip]],
    *,
    seconds: float,
) -> EndpointReport:
    head = GraphSession(open_model(model), "endpoint")
    right, counts = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    taken, pauses, found, ends = 0, 0, 0, 0
    for hidden, clip in rows:
        out, _ = head.step(hidden.astype(np.float32))
        count = min(len(hidden), len(clip.labels))
        log_probs, labels = out["log_probs"][:count], clip.labels[:count]
        for label in range(len(CLASSES)):
            here = labels == label
            right[label] += int((log_probs[here].argmax(axis=1) == label).sum())
            counts[label] += int(here.sum())
        sure = np.exp(log_probs[:, 3]) >= 0.8
        taken += int(sure[labels == PAUSE].sum())
        pauses += int((labels == PAUSE).sum())
        if clip.end_sample is not None:
            first = clip.end_sample // 640
            ends += 1
            found += bool(sure[first : first + 10].any())
    return EndpointReport(
        {name: float(r / max(n, 1)) for name, r, n in zip(CLASSES, right, counts, strict=True)},
        taken / max(pauses, 1),
        found / max(ends, 1),
        seconds,
    )


def as_json(report: EndpointReport) -> str:
    """A report on one line."""
    return json.dumps(
        {
            "accuracy": {name: round(value, 4) for name, value in report.accuracy.items()},
            "pause_taken_for_end": round(report.pause_taken_for_end, 4),
            "end_found": round(report.end_found, 4),
            "seconds": round(report.seconds, 1),
        }
    )
