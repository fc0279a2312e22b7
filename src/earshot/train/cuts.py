"""Clips and Lhotse cut manifests on disk, as the preparing stages write them.

Cuts are plain objects of JSON, so that preparing data needs no Lhotse. Every file appears whole or
not at all. Knows nothing of where clips come from.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf

from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.atomic import replaced_file

__all__ = ["file_cut", "read_cuts", "write_cuts", "write_json", "write_wav"]


def write_wav(path: Path, samples: npt.NDArray[np.float32] | npt.NDArray[np.int16]) -> None:
    """Write 16-bit WAV at 16 kHz, its folder too.

    Args:
        path: The file.
        samples: Shape (N,); float samples beyond [-1, 1] are clipped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clipped = samples if samples.dtype == np.int16 else np.clip(samples, -1, 1)
    with replaced_file(path) as out:
        sf.write(out, clipped, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")


def file_cut(
    cut_id: str, path: Path, count: int, *, text: str, speaker: str, custom: Mapping[str, Any]
) -> dict[str, Any]:
    """A Lhotse MonoCut over a whole 16 kHz file.

    Args:
        cut_id: Also of its recording and supervision.
        path: The file.
        count: Its samples.
        text: What is said.
        speaker: Who says it.
        custom: Of the supervision, such as `kind`.
    """
    duration = count / SAMPLE_RATE_HZ
    return {
        "id": cut_id,
        "start": 0.0,
        "duration": duration,
        "channel": 0,
        "supervisions": [
            {
                "id": cut_id,
                "recording_id": cut_id,
                "start": 0.0,
                "duration": duration,
                "channel": 0,
                "text": text,
                "language": "en",
                "speaker": speaker,
                "custom": dict(custom),
            }
        ],
        "recording": {
            "id": cut_id,
            "sources": [{"type": "file", "channels": [0], "source": str(path.resolve())}],
            "sampling_rate": SAMPLE_RATE_HZ,
            "num_samples": count,
            "duration": duration,
            "channel_ids": [0],
        },
        "type": "MonoCut",
    }


def write_cuts(cuts: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write a `.jsonl.gz` manifest, its folder too; the same cuts give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(cut) + "\n" for cut in cuts)
    with replaced_file(path) as out:
        out.write(gzip.compress(lines.encode(), compresslevel=5, mtime=0))


def read_cuts(path: Path) -> list[dict[str, Any]]:
    """Cuts of a `.jsonl.gz` manifest as plain objects."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_json(value: object, path: Path) -> None:
    """Write an indented JSON file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as out:
        out.write(json.dumps(value, indent=1).encode())
