"""The same as `stream_race.c`, for the Python interfaces of the two engines.

    python benchmarks/stream_race.py METHOD CHUNK_SAMPLES CLIPS MODEL.ear
    python benchmarks/stream_race.py METHOD CHUNK_SAMPLES CLIPS ENCODER DECODER JOINER TOKENS

`stream_race.c` says what CLIPS holds and what is printed. Imports nothing that its engine does not
need, because imports are a part of what is measured.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

RATE_HZ = 16000


def earshot_runs(method: str, model: list[str]) -> Callable[[Any], str]:
    import earshot

    (path,) = model
    # Without a language model: the other engine has none.
    recognizer = earshot.Recognizer.load(
        path, method=method, lm_weight=0.0, internal_lm_weight=0.0, lm_bonus=0.0
    )

    def text(chunks: Any) -> str:
        stream = recognizer.create_stream()
        for chunk in chunks:
            stream.accept_waveform(RATE_HZ, chunk)
            stream.decode()
        stream.input_finished()
        stream.decode()
        return stream.result().text

    return text


def sherpa_runs(method: str, model: list[str]) -> Callable[[Any], str]:
    import sherpa_onnx  # type: ignore[import-not-found]

    files = dict(zip(("encoder", "decoder", "joiner", "tokens"), model, strict=True))
    recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
        **files, num_threads=1, decoding_method=method, model_type="lstm"
    )

    def text(chunks: Any) -> str:
        stream = recognizer.create_stream()
        for chunk in chunks:
            stream.accept_waveform(RATE_HZ, chunk)
            while recognizer.is_ready(stream):
                recognizer.decode_stream(stream)
        stream.input_finished()
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        return str(recognizer.get_result(stream))

    return text


def peak_kib() -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main() -> int:
    method, chunk, path, *model = sys.argv[1:]
    run = (earshot_runs if len(model) == 1 else sherpa_runs)(method, model)
    start = time.process_time()
    with open(path, "rb") as clips:
        while head := clips.read(4):
            (left,) = struct.unpack("=I", head)
            sizes = [min(int(chunk), left - at) for at in range(0, left, int(chunk))]
            chunks = (
                np.frombuffer(clips.read(2 * size), np.int16).astype(np.float32) / 32768.0
                for size in sizes
            )
            print(run(chunks), flush=True)
    print(json.dumps({"cpu_s": time.process_time() - start, "peak_kib": peak_kib()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
