"""A few made voices, a tiny recogniser, and what an audit would say of both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from earshot.compress.export import export_transducer
from earshot.models.encoder import EncoderConfig
from earshot.models.predictor import PredictorConfig
from earshot.models.transducer import Transducer, TransducerConfig
from earshot.train.mitigate_figures import hear, scored
from earshot.train.pieces import train_pieces
from earshot.train.recipe import TokenizerConfig

REGIONS = {"north": (1.0, 1.0), "south": (-1.0, 1.0), "east": (1.0, -1.0)}
TEXTS = ("light on", "lamp off", "fan on", "light off")
SHAPE = TransducerConfig(
    vocab_size=56,
    joiner_width=16,
    phones=True,
    encoder=EncoderConfig(hidden=32, layers=1, dropout=0.0),
    predictor=PredictorConfig(width=16, dropout=0.0),
)


@dataclass(frozen=True, slots=True)
class Island:
    """Files of a small audit."""

    folder: Path
    model: Path
    results: Path
    report: Path


def write_model(path: Path, *, seed: int = 1, codec: str = "i8_r16x4") -> Path:
    """A network that says a piece now and then."""
    import sentencepiece

    torch.manual_seed(seed)
    model = Transducer(SHAPE)
    tokenizer = train_pieces(list(TEXTS) * 20, TokenizerConfig(vocab_size=56))
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    with torch.no_grad():
        model.joiner.bias[0] = 1.0
        model.joiner.weight *= 6
    export_transducer(
        model.eval(),
        path,
        name="tiny",
        pieces=[pieces.id_to_piece(i) for i in range(56)],
        tokenizer=tokenizer,
        codec=codec,  # type: ignore[arg-type]
        metadata={"licence": "Apache-2.0"},
    )
    return path


def make_island(folder: Path, *, speakers: int = 6, clips: int = 2) -> Island:
    """Three regions of so many speakers with so many clips, heard by a tiny model."""
    folder.mkdir(parents=True, exist_ok=True)
    model = write_model(folder / "model.ear")
    rng = np.random.default_rng(1)
    rows = []
    for number, (region, (lat, lon)) in enumerate(REGIONS.items()):
        for speaker in range(speakers):
            for clip in range(clips):
                name = f"{region}-{speaker}-{clip}"
                time = np.arange(9600) / 16000
                sound = np.sin(2 * np.pi * (200 + 90 * number + 10 * speaker) * time * (1 + time))
                sound = 0.2 * sound + 0.02 * rng.standard_normal(len(time))
                path = folder / f"{name}.wav"
                soundfile.write(path, sound.astype(np.float32), 16000)
                rows.append(
                    {
                        "id": name,
                        "ref": TEXTS[(speaker + clip) % len(TEXTS)],
                        "speaker": f"{region}-{speaker}",
                        "lat": lat * (1 + speaker),
                        "lon": lon * (1 + speaker),
                        "region": region,
                        "audio": path.name,
                        "hyp": "",
                    }
                )
    island = Island(folder, model, folder / "results.jsonl", folder / "report.json")
    write_rows(island.results, rows)
    texts = hear(model, _utterances(island))
    write_rows(island.results, [{**row, "hyp": t} for row, t in zip(rows, texts, strict=True)])
    cohorts = []
    for region in REGIONS:
        counts = [
            c
            for row, c in zip(rows, scored(_utterances(island), texts), strict=True)
            if row["region"] == region
        ]
        errors = sum(c.errors for c in counts)
        words = sum(c.reference_words for c in counts)
        cohorts.append({"name": region, "rule": f"region = {region}", "wer": errors / words})
    tree = {
        "results": "results.jsonl",
        "overall": {},
        "discoveries": [
            {"method": "groups", "cohorts": cohorts},
            {
                "method": "regions",
                "cohorts": [
                    {"name": "A", "rule": "lat >= 0 and lon >= 0", "wer": 0.9},
                    {"name": "B", "rule": "lat < 0", "wer": 0.5},
                    {"name": "C", "rule": "0 <= lat < 100 and lon < 0", "wer": 0.1},
                ],
            },
        ],
    }
    island.report.write_text(json.dumps(tree))
    return island


def _utterances(island: Island) -> list:  # type: ignore[type-arg]
    from earshot.train.mitigate_data import read_rows

    return [row.utterance for row in read_rows(island.results)]


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path: Path) -> list[dict[str, object]]:
    """Rows of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]
