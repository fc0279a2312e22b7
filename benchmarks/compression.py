r"""Ways to compress, trained from the same parent and compared: a grid of named cells.

    earshot train run recipes/assistant-en-small.toml --stage text --stage noise --stage rooms \
        --stage corpora --stage synthesis --stage splicing --stage tokenizer  # once
    python benchmarks/compression.py                        # all cells that have no result yet
    python benchmarks/compression.py --cells qat-4-s1 ptq-4-s1
    python benchmarks/compression.py --report --plot docs/images/compression.svg
    python benchmarks/compression.py --sensitivity

A cell is trained from the parent, the dense embedded model, for some hundred steps, written as a
model file, and heard over every utterance that was not trained on; its result goes to
`<folder>/<cell>/result.json`, and a cell that has one is passed over. A cell that was killed in
training goes on from its checkpoint. Cells run one after another; `--make` hears none of them, so
that several processes, or another machine, may make some each (name them with `--cells`: two
processes must not make the same). `dense` cells are trained on as long as the others without
compression, and post-training cells are those, rounded. Prints a table, and as the last line one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pareto_plot import Point, pareto, svg
from speech_sets import SYNTHETIC_SENTENCES, data_folder, pooled_sets
from systems import EarshotSystem
from wer import circumstances, figure, measure, print_aligned

from earshot.data.atomic import replaced_file
from earshot.data.scoring import WordCounts, relative_change, word_error_rate
from earshot.modelfile.reader import ModelFile
from earshot.runtime.session import open_model

ROOT = Path(__file__).resolve().parents[1]
Made: TypeAlias = dict[str, Any]  # a cell's `made.json`, and with what was heard `result.json`
STEPS = 1000
SEEDS = (1, 2, 3)
TIMED_FRAMES = 1500


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to make a model.

    Args:
        name: Of its folder; the seed is its end.
        group: Cells that differ in nothing but the seed.
        seed: Of batches and augmentation.
        settings: Overrides of the recipe.
        rounded_from: The cell whose weights are taken as they are, for post-training cells.
        distilled: Whether a teacher is listened to.
    """

    name: str
    group: str
    seed: int
    settings: tuple[str, ...] = ()
    rounded_from: str = ""
    distilled: bool = False


def _sparse(percent: int, block: str, method: str = "gradual", *extra: str) -> tuple[str, ...]:
    return (
        f"compress.sparsify.share={percent / 100}",
        f'compress.sparsify.block="{block}"',
        f'compress.sparsify.method="{method}"',
        *extra,
    )


def _second_order(percent: int, bits: int) -> tuple[str, ...]:
    return (
        f"compress.second_order.share={percent / 100}",
        "compress.second_order.rounds=5",
        f"compress.second_order.bits={bits}",
    )


# Weights of sparse cells are rounded to 8 bits when the file is written: that costs little.
_ROUND_8 = ("compress.quantise.bits=8", "compress.quantise.aware=false")
_ONCE = ("compress.sparsify.start=0.0", "compress.sparsify.end=0.0")


def _aware(bits: int, *extra: str) -> tuple[str, ...]:
    return (f"compress.quantise.bits={bits}", *extra)


def cells() -> list[Cell]:
    """The grid, the most wanted first."""
    found = []

    def add(group: str, *settings: str, seeds: Sequence[int] = (1,), **options: Any) -> None:
        found.extend(Cell(f"{group}-s{seed}", group, seed, settings, **options) for seed in seeds)

    for seed in SEEDS:
        add("dense", seeds=(seed,))
        for bits in (5, 4) if seed > 1 else (8, 6, 5, 4):
            rounded = _aware(bits, "compress.quantise.aware=false")
            add(f"ptq-{bits}", *rounded, seeds=(seed,), rounded_from=f"dense-s{seed}")
        for bits in (5, 4):
            add(f"qat-{bits}", *_aware(bits), seeds=(seed,))
        pruned = _sparse(75, "16x1", "gradual", "compress.sparsify.end=0.5")
        add("qat-8+gmp-75-16x1", *pruned, *_aware(8, "compress.quantise.full=0.8"), seeds=(seed,))
        add("so-75-16x1", *_second_order(75, 8), seeds=(seed,))
    add("gmp-75-16x1", *_sparse(75, "16x1"), *_ROUND_8)
    add("div-75-16x1", *_sparse(75, "16x1", "divergence"), *_ROUND_8)
    add("qat-6", *_aware(6))
    add("qat-8", *_aware(8))
    for bits in (5, 4):
        add(f"ste-{bits}", *_aware(bits, "compress.quantise.method=straight_through"))
    add("once-75-16x1", *_sparse(75, "16x1", "gradual", *_ONCE), *_ROUND_8)
    add("gmp-50-16x1", *_sparse(50, "16x1"), *_ROUND_8)
    add("gmp-90-16x1", *_sparse(90, "16x1"), *_ROUND_8)
    add("gmp-75-16x4", *_sparse(75, "16x4"), *_ROUND_8)
    add("gmp-90-16x4", *_sparse(90, "16x4"), *_ROUND_8)
    add("gmp-75-1x1", *_sparse(75, "1x1"), *_ROUND_8)
    late = ("compress.quantise.start=0.5", "compress.quantise.full=0.8")
    pruned = _sparse(75, "16x1", "gradual", "compress.sparsify.end=0.5")
    add("qat-4+gmp-75-16x1", *pruned, *_aware(4, *late))
    add("so-75-16x1+teacher", *_second_order(75, 8), distilled=True)
    return found


class Bench:
    """What the cells share: the recipe, the parent, the sets."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.folder: Path = options.folder
        self._sets: list[Any] = []

    def path(self, cell: str) -> Path:
        return self.folder / cell

    def recipe(self, cell: Cell) -> Any:
        from earshot.train.recipe import load_recipe

        options = self._options
        settings = [
            f'name="{cell.name}"',
            f'folder="{self.path(cell.name)}"',
            f'data.prepared="{options.shared}"',
            f'train.start_from="{options.parent}"',
            "train.max_minutes=0",
            f"train.max_steps={options.steps}",
            f"train.seed={cell.seed}",
            "train.peak_lr=1e-3",
            "train.warmup_steps=30",
            "train.ema_decay=0.99",
            "train.validate_minutes=10000",
            "train.checkpoint_minutes=1.0",
            "augment.start=0.0",
            "augment.full=0.01",
            "compress.second_order.share=0.0",
            "compress.second_order.bits=0",
            "compress.second_order.exceptions={}",
            'compress.distil.teacher=""',
            'export.codec="f32_r16"',
            'export.output="model.ear"',
            *cell.settings,
        ]
        if cell.distilled:
            settings.append(f'compress.distil.teacher="{options.teacher or options.parent}"')
        return load_recipe(options.recipe, [*settings, *options.overrides])

    def asked(self, cell: Cell) -> Made:
        """What a result must have been made with."""
        return {
            "settings": list(cell.settings),
            "steps": self._options.steps,
            "overrides": list(self._options.overrides),
        }

    def make(self, cell: Cell) -> Made:
        """Train a cell's model and write it, unless that is done."""
        folder = self.path(cell.name)
        made = folder / "made.json"
        steps, asked = self._options.steps, self.asked(cell)
        if made.is_file():
            found: Made = json.loads(made.read_text(encoding="utf-8"))
            _refuse_other(made, found, asked)
            return found
        from earshot.train import run
        from earshot.train.loop import read_checkpoint

        print(f"cell {cell.name}", file=sys.stderr)
        recipe = self.recipe(cell)
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter(), time.process_time()
        source = self.path(cell.rounded_from or cell.name) / "checkpoints" / "last.ckpt"
        trained_steps = read_checkpoint(source)["global_step"] if source.is_file() else 0
        if trained_steps > steps or (cell.rounded_from and trained_steps < steps):
            raise SystemExit(
                f"error: {cell.name}: {source} has {trained_steps} of {steps} steps; run the cell "
                f"{cell.rounded_from or cell.name} with as many first, or give another --folder."
            )
        stages = ["tokenizer"] if trained_steps == steps else ["tokenizer", "prune", "train"]
        run.run(recipe, stages=stages, training_bar=False)
        run.export(recipe, checkpoint=source)
        trained = time.perf_counter() - began[0], time.process_time() - began[1]
        found = {
            "cell": cell.name,
            "group": cell.group,
            "seed": cell.seed,
            "rounded_from": cell.rounded_from,
            **asked,
            "wall_s": round(trained[0], 1),
            "cpu_s": round(trained[1], 1),
            **self._stored(recipe, source),
        }
        with replaced_file(made) as file:
            file.write(json.dumps(found).encode())
        return found

    def run(self, cell: Cell) -> Made:
        """Make a cell's model and measure it."""
        folder = self.path(cell.name)
        result = {
            **self.make(cell),
            **self._heard(folder / "model.ear"),
            "sentences": self._options.sentences,
            "us_per_frame": frame_us(folder / "model.ear"),
        }
        with replaced_file(folder / "result.json") as file:
            file.write(json.dumps(result).encode())
        return result

    def _stored(self, recipe: Any, source: Path) -> dict[str, Any]:
        """What the weights take, and how far they were from their grids before rounding."""
        from earshot.compress.export import file_grids
        from earshot.compress.methods import export_grids
        from earshot.compress.report import stored_tensors
        from earshot.models.transducer import Transducer
        from earshot.train.loop import read_checkpoint

        state = read_checkpoint(source)
        model = Transducer(recipe.model)
        prefix = "transducer."
        weights = {
            key.removeprefix(prefix): value
            for key, value in state["state_dict"].items()
            if key.startswith(prefix)
        }
        model.load_state_dict(weights)
        compress = recipe.compress
        if compress.second_order.bits:
            block = "16x1"
            grids = file_grids(ModelFile(Path(recipe.folder) / recipe.export.output), model)
        else:
            block = compress.sparsify.block if compress.sparsify.share > 0 else None
            grids = export_grids(compress, state, model)
        tensors = stored_tensors(model, grids, block=block)
        count = sum(t.weights for t in tensors)
        distances = [t.distance for t in tensors if not math.isnan(t.distance)]
        return {
            "weights": count,
            "zeros": sum(t.zeros * t.weights for t in tensors) / count,
            "bits_per_weight": sum(t.bits_per_weight * t.weights for t in tensors) / count,
            "distance_to_grid": statistics.fmean(distances) if distances else None,
            "tensors": [asdict(t) | {"distance": None} for t in tensors],
        }

    def _heard(self, model: Path) -> dict[str, Any]:
        """Errors on every utterance, greedy search."""
        if not self._sets:
            options = self._options
            self._sets = pooled_sets(
                data=options.data, synthetic=options.synthetic, sentences=options.sentences
            )
        file = ModelFile(model)
        system = EarshotSystem(model)
        counts: list[WordCounts] = []
        speakers: list[str | None] = []
        by_set = {}
        for speech in self._sets:
            measured = measure(speech, [system])
            found = measured.outcomes[0].counts
            counts += found
            speakers += measured.speakers
            by_set[speech.name] = sum(found, WordCounts()).wer
        others = ("tokenizer", "lm.")  # that no cell changes
        return {
            "file_bytes": file.size_bytes,
            "tensor_bytes": sum(t.num_bytes for t in file.tensors if not t.name.startswith(others)),
            "codecs": sorted({t.codec for t in file.tensors}),
            "wer_by_set": by_set,
            "counts": [[c.hits, c.substitutions, c.deletions, c.insertions] for c in counts],
            "speakers": speakers,
        }


def _refuse_other(path: Path, found: Made, asked: Made) -> None:
    """A cell that was made or heard otherwise is not passed over: rows must be comparable."""
    for key, value in asked.items():
        if found.get(key) != value:
            raise SystemExit(
                f"error: {path}: {key} is {found.get(key)!r} and {value!r} is asked for; ask for "
                "the same, or give another --folder."
            )


def frame_us(model: Path) -> dict[str, float]:
    """Microseconds of the encoder for one frame of 40 ms, stepped as a stream is."""
    graph = open_model(model).graph("encoder")
    state = graph.initial_state()
    rng = np.random.default_rng(1)
    frames = rng.standard_normal((64, 4, 80), dtype=np.float32)
    taken = []
    for number in range(TIMED_FRAMES):
        began = time.perf_counter()
        graph.step({"x": frames[number % len(frames)]}, state, False)
        taken.append(1e6 * (time.perf_counter() - began))
    taken = taken[TIMED_FRAMES // 10 :]
    return {"median": statistics.median(taken), "p10": float(np.percentile(taken, 10))}


def _counts(result: dict[str, Any]) -> list[WordCounts]:
    return [WordCounts(*row) for row in result["counts"]]


def _summed(results: Sequence[dict[str, Any]]) -> list[WordCounts]:
    """Errors of all seeds on each utterance, so that utterances are what is resampled."""
    total = _counts(results[0])
    for result in results[1:]:
        total = [a + b for a, b in zip(total, _counts(result), strict=True)]
    return total


def summary(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a group: pooled over its seeds, and against `dense` of the same seeds."""
    by_group: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_group.setdefault(result["group"], []).append(result)
    dense = {result["seed"]: result for result in by_group.get("dense", [])}
    rows = []
    for group, members in by_group.items():
        counts, speakers = _summed(members), members[0]["speakers"]
        row: dict[str, Any] = {
            "group": group,
            "seeds": [m["seed"] for m in members],
            "wer": figure(word_error_rate(counts, speakers)),
            "wer_by_seed": [sum(_counts(m), WordCounts()).wer for m in members],
            "zeros": members[0]["zeros"],
            "bits_per_weight": members[0]["bits_per_weight"],
            "tensor_bytes": members[0]["tensor_bytes"],
            "codecs": members[0]["codecs"],
            "us_per_frame": min(m["us_per_frame"]["p10"] for m in members),
            "distance_to_grid": members[0]["distance_to_grid"],
        }
        if group != "dense" and all(m["seed"] in dense for m in members):
            base = _summed([dense[m["seed"]] for m in members])
            row["against_dense"] = figure(relative_change(base, counts, speakers))
        if group.startswith("qat-") and "+" not in group:
            paired = {r["seed"]: r for r in by_group.get(group.replace("qat", "ptq"), [])}
            if all(m["seed"] in paired for m in members):
                base = _summed([paired[m["seed"]] for m in members])
                row["against_post_training"] = figure(relative_change(base, counts, speakers))
        rows.append(row)
    smallest = pareto([(r["tensor_bytes"], r["wer"]["value"]) for r in rows])
    # Times that are equal to two digits are equal.
    quickest = pareto([(float(f"{r['us_per_frame']:.2g}"), r["wer"]["value"]) for r in rows])
    for row, small, quick in zip(rows, smallest, quickest, strict=True):
        row["on_front"] = [n for n, on in (("size", small), ("time", quick)) if on]
    return rows


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    def change(row: dict[str, Any], key: str) -> str:
        if key not in row:
            return ""
        found = row[key]
        return (
            f"{100 * found['value']:+.1f} % [{100 * found['ci95_low']:+.1f}, "
            f"{100 * found['ci95_high']:+.1f}]"
        )

    lines = [
        ("cell", "seeds", "WER %", "95 %", "against dense", "against post-training", "zeros",
         "bits/weight", "file kB", "us/frame", "front")
    ]  # fmt: skip
    for row in sorted(rows, key=lambda r: -float(r["tensor_bytes"])):
        wer = row["wer"]
        lines.append(
            (
                row["group"],
                str(len(row["seeds"])),
                f"{100 * wer['value']:.2f}",
                f"{100 * wer['ci95_low']:.1f}-{100 * wer['ci95_high']:.1f}",
                change(row, "against_dense"),
                change(row, "against_post_training"),
                f"{100 * row['zeros']:.0f} %",
                f"{row['bits_per_weight']:.2f}",
                f"{row['tensor_bytes'] / 1000:.0f}",
                f"{row['us_per_frame']:.1f}",
                "+".join(row["on_front"]),
            )
        )
    print_aligned(lines)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Size and time against word error rate, side by side."""
    size = [
        Point(
            r["group"], r["tensor_bytes"] / 1000, 100 * r["wer"]["value"], "size" in r["on_front"]
        )
        for r in rows
    ]
    quick = [
        Point(r["group"], r["us_per_frame"], 100 * r["wer"]["value"], "time" in r["on_front"])
        for r in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        file.write(
            svg(
                [
                    ("kB of the file, without its language model", size),
                    ("microseconds a frame of 40 ms, encoder", quick),
                ],
                title="Word error rate (%) of compressed models; filled: nothing else is better "
                "in both",
            ).encode()
        )


def sensitivity(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What compressing each matrix alone costs, in nats per piece on the development clips."""
    import torch

    from earshot.compress.export import read_transducer
    from earshot.compress.report import sensitivities
    from earshot.train.batches import validation_loader
    from earshot.train.pieces import load_tokenizer
    from earshot.train.recipe import load_recipe

    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe, [f"train.validation_clips={options.clips}"])
    tokenizer = load_tokenizer(options.shared / "tokenizer.model")
    batches = list(validation_loader(recipe, options.shared, tokenizer))
    model = read_transducer(options.parent, recipe.model).eval()

    @torch.no_grad()
    def loss(tried: Any) -> float:
        total, pieces = 0.0, 0
        for batch in batches:
            count = int(batch.label_lengths.sum())
            losses = tried(
                batch.features, batch.feature_lengths, batch.labels, batch.label_lengths,
                phones=batch.phones, phone_lengths=batch.phone_lengths,
            )  # fmt: skip
            total += float(losses.transducer) * max(1, count)
            pieces += count
        return total / pieces

    lines: list[tuple[str, ...]] = [("tensor", "weights", "change", "nats a piece more")]
    rows = []
    for found in sensitivities(model, loss):
        rows.append(asdict(found))
        lines.append((found.name, str(found.weights), found.change, f"{found.cost:+.4f}"))
        print(f"{found.name} {found.change}: {found.cost:+.4f}", file=sys.stderr)
    print_aligned(lines)
    return rows


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    exp = ROOT / "exp"
    parser.add_argument("--cells", nargs="+", metavar="NAME", help="Only these; see --list.")
    parser.add_argument("--list", action="store_true", help="Print the names of the cells.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--make", action="store_true", help="Train and write, hear nothing.")
    what.add_argument("--report", action="store_true", help="Train nothing: table and plot.")
    what.add_argument("--sensitivity", action="store_true", help="Each matrix by itself.")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/assistant-en-small.toml")
    parser.add_argument(
        "--parent", type=Path, default=ROOT / "recipes/starts/assistant-en-dense.ear"
    )
    parser.add_argument(
        "--shared", type=Path, default=exp / "assistant-en-small", help="With what is trained on."
    )
    parser.add_argument("--folder", type=Path, default=exp / "compression")
    parser.add_argument("--teacher", type=Path, help="Of the distilled cell; default: the parent.")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--synthetic", type=Path, default=exp / "assistant-en/synthetic_test")
    parser.add_argument(
        "--sentences", type=int, default=SYNTHETIC_SENTENCES, help="Of the synthetic test."
    )
    parser.add_argument("--clips", type=int, default=40, help="Of each kind, for --sensitivity.")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--json", type=Path, help="Also write the JSON object here.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs, reports. Returns the exit status."""
    options = arguments(argv)
    grid = cells()
    if options.list:
        print("\n".join(cell.name for cell in grid))
        return 0
    unknown = sorted(set(options.cells or ()) - {cell.name for cell in grid})
    if unknown:
        print(f"error: no such cell: {', '.join(unknown)}; --list names them.", file=sys.stderr)
        return 2
    if not options.parent.is_file():
        print(
            f"error: {options.parent} is not there; --parent names the dense model.",
            file=sys.stderr,
        )
        return 1
    if options.sensitivity and not (options.shared / "tokenizer.model").is_file():
        print(
            f"error: {options.shared} is not prepared; run the stages of {options.recipe} up to "
            "`tokenizer` first (docs/guides/compress.md), or name the folder with --shared.",
            file=sys.stderr,
        )
        return 1
    report: dict[str, Any] = {"circumstances": circumstances([options.parent])}
    if options.sensitivity:
        report["sensitivity"] = sensitivity(options)
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        bench = Bench(options)
        results = []
        for cell in grid:
            if options.cells and cell.name not in options.cells:
                continue
            done = bench.path(cell.name) / "result.json"
            if done.is_file():
                found = json.loads(done.read_text(encoding="utf-8"))
                if not options.report:
                    _refuse_other(done, found, bench.asked(cell) | {"sentences": options.sentences})
                results.append(found)
            elif options.make:
                bench.make(cell)
            elif not options.report:
                results.append(bench.run(cell))
        if options.make:
            return 0
        if not results:
            print(f"error: no cell below {options.folder} has a result yet.", file=sys.stderr)
            return 1
        report["steps"] = sorted({result["steps"] for result in results})
        report["rows"] = summary(results)
        print_table(report["rows"])
        if options.plot:
            plot(report["rows"], options.plot)
    if options.json:
        with replaced_file(options.json) as file:
            file.write(json.dumps(report).encode())
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
