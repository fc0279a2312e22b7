"""The benchmark of lattices: from a manifest to its last line, with a tiny model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.benchmarks.conftest import BENCHMARKS
from tests.tiny_model import write_tiny_model

spec = importlib.util.spec_from_file_location("lattice_benchmark", BENCHMARKS / "lattice.py")
assert spec is not None and spec.loader is not None
benchmark = importlib.util.module_from_spec(spec)
import sys

sys.modules["lattice_benchmark"] = benchmark
spec.loader.exec_module(benchmark)


def test_from_manifests_to_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_model(tmp_path / "tiny.ear")
    rng = np.random.default_rng(3)
    rows = []
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", rng.normal(0, 0.1, 12000), 16000)
        rows.append({"id": str(i), "audio": f"{i}.wav", "text": "turn on the lights"})
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ["--manifest", str(manifest), "--model", str(model), "--lattice-paths", "4"]
    for part in (1, 2):
        records = str(tmp_path / f"{part}.jsonl")
        assert benchmark.main([*common, "--part", f"{part}/2", "--records", records]) == 0
    capsys.readouterr()
    assert benchmark.main(["--merge", str(tmp_path / "1.jsonl"), str(tmp_path / "2.jsonl")]) == 0
    merged = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert benchmark.main(common, rescorer=lambda data: "turn on the lights") == 0
    whole = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("wer", "oracle_wer", "nbest10_oracle_wer", "wire_over_pcm", "wire_bytes_per_s"):
        assert whole[name] == merged[name]
    assert merged["rescored_wer"] is None and whole["rescored_wer"] == 0.0
    assert whole["oracle_wer"] <= whole["nbest10_oracle_wer"] <= whole["wer"]
    assert whole["wire_bytes_per_s"] <= 200
    assert whole["wire_over_pcm"] == pytest.approx(whole["wire_bytes_per_s"] / 32000)
    row = whole["rows"][-1]
    assert row["utterances"] == 4 and row["words"] == 16 and row["best_paths_that_differ"] == 0
