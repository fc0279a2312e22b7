"""Kills real processes with SIGKILL while they patch a model in place, and looks at what is left.

    python benchmarks/patch_kills.py --kills 200
    python benchmarks/patch_kills.py --base old.ear --result new.ear --kills 200

Each run patches a copy of the base and is killed at a random moment of the patch, from its first
instruction to somewhat beyond its usual end. What then stands under the model's name must be the
old model or the new one, byte for byte, and open. Without models it takes the embedded one and a
copy of it with other floats. The last line is one JSON object; exit code 1 if a model was broken.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from earshot.core.errors import ModelFileError
from earshot.modelfile.codecs import encode_f32
from earshot.modelfile.diff import compare_models
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_with_metadata
from earshot.session.recognizer import embedded_model_path

__all__ = ["KillReport", "kill_patches", "main", "write_changed"]

# Everything is imported before the parent starts the clock, so that moments fall into the patch.
_WORKER = """
import sys
from pathlib import Path
from earshot.modelfile.patch import patch_model
model, update = map(Path, sys.argv[1:])
print("ready", flush=True)
sys.stdin.readline()
patch_model(model, update, output=model)
print("done", flush=True)
"""
_REHEARSALS = 5
_BEYOND = 1.3  # of the usual time: some runs end before they are killed


@dataclass(slots=True)
class KillReport:
    """What was found after the kills.

    Args:
        kills: Processes that were killed, or had just ended.
        patch_s: How long an undisturbed patch takes; the median of five.
        old: Times the old model stood.
        new: Times the new model stood.
        broken: Times it was neither, or did not open.
        half_written: Times a temporary file was left beside it.
        left_at_end: Temporary files after one more patch that nobody killed.
    """

    kills: int = 0
    patch_s: float = 0.0
    old: int = 0
    new: int = 0
    broken: int = 0
    half_written: int = 0
    left_at_end: int = 0


def kill_patches(
    base: Path, result: Path, *, folder: Path, kills: int, seed: int = 1
) -> KillReport:
    """Kills patches of a model.

    Args:
        base: The old model.
        result: The new one.
        folder: Where to work; empty.
        kills: How many processes to kill.
        seed: Of the moments.
    """
    update, model = folder / "update.eard", folder / "model.ear"
    compare_models(ModelFile(base), ModelFile(result)).write(update)
    old, new = base.read_bytes(), result.read_bytes()
    known = {hashlib.sha256(old).digest(): "old", hashlib.sha256(new).digest(): "new"}
    report = KillReport(kills=kills)
    undisturbed = []
    for _ in range(_REHEARSALS):
        model.write_bytes(old)
        undisturbed.append(_patched(model, update, kill_after_s=None))
    report.patch_s = float(np.median(undisturbed))
    moments = random.Random(seed)
    for _ in range(kills):
        model.write_bytes(old)
        before = set(folder.iterdir())
        _patched(model, update, kill_after_s=moments.uniform(0, _BEYOND * report.patch_s))
        found = known.get(hashlib.sha256(model.read_bytes()).digest())
        try:
            ModelFile(model)
        except ModelFileError:
            found = None
        if found == "old":
            report.old += 1
        elif found == "new":
            report.new += 1
        else:
            report.broken += 1
        report.half_written += bool(set(folder.iterdir()) - before)
    model.write_bytes(old)
    _patched(model, update, kill_after_s=None)
    report.left_at_end = len(set(folder.iterdir()) - {update, model})
    return report


def _patched(model: Path, update: Path, *, kill_after_s: float | None) -> float:
    """Starts a patch, kills it at a moment or waits for its end; gives how long it ran."""
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(model), str(update)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != b"ready\n":
            raise SystemExit(f"error: a patch did not start: {process.stderr.read().decode()}")
        start = time.perf_counter()
        process.stdin.write(b"\n")
        process.stdin.flush()
        if kill_after_s is None:
            process.stdout.readline()
        else:
            time.sleep(kill_after_s)
            process.send_signal(signal.SIGKILL)
        wall_s = time.perf_counter() - start
        code = process.wait()
        if code not in (0, -signal.SIGKILL) or (kill_after_s is None and code):
            raise SystemExit(f"error: a patch failed: {process.stderr.read().decode()[-400:]}")
    return wall_s


def write_changed(source: ModelFile, path: Path, *, seed: int = 1) -> None:
    """Writes a copy of a model in which every float (biases, norms, embeddings) moved a little.

    Args:
        source: Any model.
        path: The file to make.
        seed: Of the changes.
    """
    rng = np.random.default_rng(seed)
    changed = {}
    for tensor in source.tensors:
        if tensor.codec == "f32":
            values = source.dequantise(tensor.name)
            changed[tensor.name] = encode_f32(values * rng.uniform(0.99, 1.01, values.shape))
    write_with_metadata(source, path, {"recipe": "every float moved a little"}, tensors=changed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, kills, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="the old model; default: the embedded one")
    parser.add_argument(
        "--result", type=Path, help="the new model; default: the old one with other floats"
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    base = options.base or embedded_model_path()
    with tempfile.TemporaryDirectory() as work:
        result = options.result
        if result is None:
            result = Path(work) / "new.ear"
            write_changed(ModelFile(base), result)
        folder = Path(work) / "device"
        folder.mkdir()
        report = kill_patches(base, result, folder=folder, kills=options.kills, seed=options.seed)
    print(
        f"{report.kills} kills within {_BEYOND * report.patch_s:.3f} s: {report.old} times the "
        f"old model, {report.new} times the new, {report.broken} times a broken one; "
        f"{report.half_written} half-written files left beside it, {report.left_at_end} after "
        "the next patch"
    )
    print(json.dumps(asdict(report)))
    return 1 if report.broken or report.left_at_end else 0


if __name__ == "__main__":
    sys.exit(main())
