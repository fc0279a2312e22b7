"""The stock sherpa-onnx wheel, in a process of its own: what it cannot load, it ends or crashes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SAMPLES_PER_FRAME = 160

# argv: settings as JSON, clips as .npz; prints a JSON list of [tokens, start times].
_PROGRAM = """
import json, sys
import numpy as np
import sherpa_onnx

settings = json.loads(sys.argv[1])
chunk, together = settings.pop("chunk_samples"), settings.pop("together")
clips = list(np.load(sys.argv[2]).values())
recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(num_threads=1, **settings)

def advance(streams):
    while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
        recognizer.decode_streams(ready) if together else recognizer.decode_stream(ready[0])

def run(clips):
    streams = [recognizer.create_stream() for _ in clips]
    for start in range(0, max(map(len, clips)), chunk):
        for stream, clip in zip(streams, clips):
            if start < len(clip):
                stream.accept_waveform(16000, clip[start : start + chunk])
        advance(streams)
    for stream in streams:
        stream.input_finished()
    advance(streams)
    results = map(recognizer.get_result_all, streams)
    return [[result.tokens, result.timestamps] for result in results]

print(json.dumps(run(clips) if together else [run([clip])[0] for clip in clips]))
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """Word pieces and the encoder frames they came out at."""

    pieces: list[str]
    frames: list[int]


def whole_chunks(
    clip: npt.NDArray[np.float32], *, chunk_frames: int, silence_s: float = 0.5
) -> npt.NDArray[np.float32]:
    """The clip and silence after it, so long that the wheel hears what the engine hears.

    The wheel drops what does not fill a chunk and wants one frame more than it takes; the engine
    cannot compute the last frame before the input is finished. With a frame more than whole
    chunks, both take exactly the chunks.
    """
    frames = -(-(len(clip) + round(16000 * silence_s)) // SAMPLES_PER_FRAME)
    chunks = -(-frames // chunk_frames)
    samples = (chunks * chunk_frames + 1) * SAMPLES_PER_FRAME
    return np.concatenate([clip, np.zeros(samples - len(clip), np.float32)])


def heard_by_wheel(
    folder: Path,
    clips: Sequence[npt.NDArray[np.float32]],
    scratch: Path,
    *,
    method: str = "greedy_search",
    ending: str = "",
    chunk_samples: int = 1600,
    num_bins: int = 80,
    together: bool = False,
    **more: str | float,
) -> list[Heard]:
    """Decode clips with an exported folder, one by one or as one batch."""
    files = {
        part: str(folder / f"{part}{ending}.onnx") for part in ("encoder", "decoder", "joiner")
    }
    settings = files | {"tokens": str(folder / "tokens.txt"), "decoding_method": method}
    settings |= {"chunk_samples": chunk_samples, "feature_dim": num_bins, "together": together}
    settings |= more
    np.savez(scratch / "clips.npz", *clips)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(settings), str(scratch / "clips.npz")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return [
        Heard([t.replace(" ", "\u2581", 1) for t in tokens], [round(25 * s) for s in starts])
        for tokens, starts in found
    ]
