"""Trains the end-of-query head of a model file, whose encoder stays as it is.

The engine runs the encoder, so the head learns from the very frames that it will see; torch trains
four scores over them; the file is written again with one graph more. Minutes, for any model.
Its thresholds are then
chosen by `session.endpoint_tuning`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
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
from earshot.decode.endpoint import EndpointConfig, as_metadata
from earshot.modelfile.codecs import EncodedTensor, encode_f32, encode_int4
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_with_graph, write_with_metadata
from earshot.models.endpoint import CLASSES, EndpointHead
from earshot.runtime.session import GraphSession, open_model
from earshot.session.endpoint_tuning import (
    EndpointFigures,
    TracedClip,
    evaluate,
    record_traces,
    tune,
)
from earshot.session.recognizer import Recognizer
from earshot.train.batches import read_noise, read_rooms
from earshot.train.cuts import read_cuts
from earshot.train.endpoint_clips import PAUSE, ClipMaker, ClipMix, LabelledClip
from earshot.train.recipe import EndpointHeadConfig

__all__ = ["EndpointReport", "hidden_frames", "train_endpoint"]

logger = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]
_TOGETHER = 16  # clips that share a reading of the encoder's weights
_BATCH = 32

# What thresholds are chosen on: pauses of people who know what they want to say, and noise alone.
TUNING_MIX = ClipMix(
    sentences=0.5,
    unfinished=0.0,
    digits=0.25,
    noise=0.15,
    woken=0.1,
    paused=0.3,
    pause_s=(0.05, 0.4),
    digit_pause_s=(0.02, 0.4),
    long_pauses=0.0,
    tail_s=(2.5, 3.0),
    snr_db=(8.0, 40.0),
)


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """How well the head tells frames apart, on clips of voices that it was not trained with.

    Args:
        accuracy: Share of frames whose class it names, by class.
        pause_taken_for_end: Share of frames in pauses where it is at least 0.8 sure of the end.
        end_found: Share of ends of which it is at least 0.8 sure within 0.4 s.
        tuned: What both end-pointers cost with the thresholds that were written.
        noise_utterances_per_hour: Utterances that they find where there is only noise.
        seconds: That training took.
    """

    accuracy: dict[str, float]
    pause_taken_for_end: float
    end_found: float
    tuned: EndpointFigures
    noise_utterances_per_hour: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "accuracy": {name: round(value, 4) for name, value in self.accuracy.items()},
            "pause_taken_for_end": round(self.pause_taken_for_end, 4),
            "end_found": round(self.end_found, 4),
            "tuned": self.tuned.as_dict(),
            "noise_utterances_per_hour": round(self.noise_utterances_per_hour, 1),
            "seconds": round(self.seconds, 1),
        }


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
    tuning_maker = _maker(folder, "dev", recognizer, TUNING_MIX)
    total = config.clips + config.dev_clips + config.tuning_clips + 1
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
    # What is measured is what was written: four bits and all.
    accuracy, taken, found = _measure(output, dev_rows)
    clips = tuning_maker.make(config.tuning_clips, rng)
    tuned, figures, noise_per_hour = _tune(output, clips, config)
    write_with_metadata(ModelFile(output), output, as_metadata(tuned))
    progress(total, total)
    report = EndpointReport(
        accuracy, taken, found, figures, noise_per_hour, time.monotonic() - started
    )
    logger.info("endpoint: %s", json.dumps(report.as_dict()))
    return report


def _tune(
    model: Path, clips: Sequence[LabelledClip], config: EndpointHeadConfig
) -> tuple[EndpointConfig, EndpointFigures, float]:
    """Thresholds for a model with a head, what they cost, and what they find in noise."""
    recognizer = Recognizer.load(model)
    spoken = [
        TracedClip(str(n), clip.samples, clip.end_sample / SAMPLE_RATE_HZ)
        for n, clip in enumerate(clips)
        if clip.end_sample is not None
    ]
    traces = record_traces(recognizer, spoken, config=EndpointConfig())
    try:
        tuned = tune(
            traces,
            EndpointConfig(),
            max_cut_off=config.max_cut_off,
            max_withdrawn=config.max_withdrawn,
        )
    except ConfigError as err:  # the head is good all the same
        logger.warning("%s The thresholds are those of any model.", err)
        tuned = EndpointConfig()
    noise = [clip.samples for clip in clips if clip.end_sample is None]
    found, heard_s = 0, 0.0
    for samples in noise:
        stream = recognizer.create_event_stream(endpoint=tuned)
        stream.accept_waveform(SAMPLE_RATE_HZ, samples)
        stream.input_finished()
        stream.decode()
        found += stream.num_utterances
        heard_s += stream.duration_s
    return tuned, evaluate(traces, tuned), 3600 * found / max(heard_s, 1e-9)


def _quick_search() -> Any:
    from earshot.decode.search import SearchConfig

    return SearchConfig(method="greedy_search")


def _maker(
    folder: Path, part: str, recognizer: Recognizer, mix: ClipMix | None = None
) -> ClipMaker:
    cuts: list[dict[str, Any]] = []
    digits: list[dict[str, Any]] = []
    for path in sorted((folder / "cuts").glob("*.jsonl.gz")):
        if path.name.startswith("noise"):
            continue
        rows = read_cuts(path)
        if f"_{part}" in path.name:
            cuts += [row for row in rows if _kind(row) != "digit"]
        if "_train" in path.name:
            digits += [row for row in rows if _kind(row) == "digit"]
    # Recorded digits have too few speakers for sets of their own: one of training is held out.
    speakers = sorted({row["supervisions"][0]["speaker"] for row in digits})
    held_out = set(speakers[-1:]) if len(speakers) > 1 else set()
    cuts += [
        row
        for row in digits
        if (row["supervisions"][0]["speaker"] in held_out) == (part == "dev" and bool(held_out))
    ]
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
        mix=mix,
    )


def _kind(cut: Mapping[str, Any]) -> str | None:
    supervisions = cut["supervisions"]
    return supervisions[0].get("custom", {}).get("kind") if supervisions else None


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
    """Write the head in 4 bits a weight, both matrices of its LSTM as one: 6 kB with 16 units."""
    graph = head.describe()
    values = {
        name: tensor.value.detach().float().cpu().numpy() for name, tensor in graph.tensors.items()
    }
    for node in graph.nodes:
        if node["op"] == "lstm":
            parts = [values.pop(node["tensors"].pop(role)) for role in ("weight_x", "weight_h")]
            node["tensors"]["weight"] = f"{graph.name}.{node['out']}.weight"
            values[node["tensors"]["weight"]] = np.concatenate(parts, axis=1)
    tensors: dict[str, EncodedTensor] = {
        name: encode_f32(value) if value.ndim == 1 else encode_int4(value)
        for name, value in values.items()
    }
    write_with_graph(source, output, graph.name, graph.as_json(["log_probs"]), tensors)


def _measure(
    model: Path,
    rows: Sequence[tuple[npt.NDArray[np.float16], LabelledClip]],
) -> tuple[dict[str, float], float, float]:
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
    return (
        {name: float(r / max(n, 1)) for name, r, n in zip(CLASSES, right, counts, strict=True)},
        taken / max(pauses, 1),
        found / max(ends, 1),
    )
