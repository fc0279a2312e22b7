"""How long an audit of a million utterances takes, and how much memory.

Writes planted results (text, positions, ZIP codes, five groups) and float16 embeddings once, then
runs `earshot audit run` with all four discoveries in a process of its own and reads that process's
wall time, CPU time and peak memory. Knows nothing of whether the figures in the report are right.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from earshot.audit.simulate import World, census_of, plant

SENTENCES = 20_000


def write_inputs(folder: Path, utterances: int, speakers: int, size: int) -> None:
    """Results, embeddings and census; kept between runs."""
    world = World(speakers=speakers, utterances=utterances / speakers, seed=7)
    planted = plant(world)
    rng = np.random.default_rng(7)
    vocabulary = [f"{a}{b}" for a in "bcdfghjklm" for b in ("ane", "ore", "ill", "ump", "eck")]
    count = len(planted.speaker)
    picks = rng.integers(0, len(vocabulary), (SENTENCES, 24))
    with open(folder / "results.jsonl", "w", encoding="utf-8") as file:
        for at in range(count):
            who, n = int(planted.speaker[at]), int(planted.words[at])
            wrong = min(int(planted.errors[at]), n)
            ref = [vocabulary[w] for w in picks[at % SENTENCES][: min(n, 24)]]
            hyp = ["xx"] * min(wrong, len(ref)) + ref[min(wrong, len(ref)) :]
            row = {
                "id": f"u{at:07d}",
                "ref": " ".join(ref),
                "hyp": " ".join(hyp),
                "speaker": f"s{who:06d}",
                "lat": round(float(planted.lat[who]), 4),
                "lon": round(float(planted.lon[who]), 4),
                "zip": f"{10000 + int(planted.zip[who])}",
                "accent": "planted" if planted.in_group[who] else "other",
                "gender": ("female", "male")[planted.gender[who]],
                "age": ("teens", "twenties", "thirties", "forties", "fifties")[who % 5],
                "device": ("phone", "car", "watch")[at % 3],
                "room": ("quiet", "noisy")[at % 2],
            }
            file.write(json.dumps(row) + "\n")
    with open(folder / "census.csv", "w", encoding="utf-8") as file:
        names, shares = census_of(planted)
        file.write(",".join(["zip", *(f"background:{n}" for n in names)]) + "\n")
        for at, row in enumerate(shares):
            file.write(",".join([str(10000 + at), *map(str, row)]) + "\n")
    vectors = np.lib.format.open_memmap(
        folder / "embeddings.npy", mode="w+", dtype=np.float16, shape=(count, size)
    )
    centres = rng.normal(size=(world.num_clusters, size)).astype(np.float32)
    voice = centres[planted.cluster] + rng.normal(0, 0.4, (speakers, size)).astype(np.float32)
    for start in range(0, count, 50_000):
        who = planted.speaker[start : start + 50_000]
        noise = rng.normal(0, 0.4, (len(who), size)).astype(np.float32)
        vectors[start : start + 50_000] = voice[who] + noise
    vectors.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=1_000_000)
    parser.add_argument("--speakers", type=int, default=20_000)
    parser.add_argument("--embedding-size", type=int, default=192)
    parser.add_argument("--folder", type=Path, help="keep the inputs here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "embeddings.npy").exists():
            write_inputs(folder, options.utterances, options.speakers, options.embedding_size)
        report = folder / "report.html"
        command = [sys.executable, "-m", "earshot.cli", "audit", "run"]
        command += [str(folder / "results.jsonl"), "-o", str(report)]
        command += ["--census", str(folder / "census.csv")]
        command += ["--embeddings", str(folder / "embeddings.npy")]
        begin = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True)
        wall_s = time.perf_counter() - begin
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = json.loads(report.with_suffix(".json").read_text())
        figures = {
            "utterances": found["rows"]["read"],
            "speakers": found["overall"]["n_speakers"],
            "discoveries": [each["method"] for each in found["discoveries"]],
            "cores": len(os.sched_getaffinity(0)),
            "wall_s": round(wall_s, 1),
            "cpu_s": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 1),
            "peak_mib": round(used.ru_maxrss / 1024),
            "report_bytes": report.stat().st_size,
        }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
