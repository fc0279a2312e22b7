"""The grid of compressed models: its cells, how results become rows, and the front."""

from typing import Any

import pytest

pytest.importorskip("torch")

from pareto_plot import Point, pareto, svg


def result(group: str, seed: int, errors: list[int], bits: float = 8.0) -> dict[str, Any]:
    return {
        "cell": f"{group}-s{seed}",
        "group": group,
        "seed": seed,
        "steps": 10,
        "weights": 1000,
        "zeros": 0.0,
        "bits_per_weight": bits,
        "distance_to_grid": None,
        "file_bytes": 2000,
        "tensor_bytes": int(100 * bits),
        "codecs": ["i8_r16x4"],
        "us_per_frame": {"median": 12.0, "p10": bits},
        "counts": [[10 - e, e, 0, 0] for e in errors],
        "speakers": [None] * len(errors),
    }


def test_every_cell_is_a_recipe_that_loads_and_has_its_base_before_it() -> None:
    from compression import Bench, arguments, cells

    grid, bench = cells(), Bench(arguments([]))
    names = [cell.name for cell in grid]
    assert len(set(names)) == len(names) >= 10
    trained_before: set[str] = set()
    for cell in grid:
        compress = bench.recipe(cell).compress
        rounded = compress.quantise.bits or compress.second_order.bits
        assert bool(rounded) == (cell.group != "dense")
        assert bool(compress.distil.teacher) == cell.distilled
        assert not cell.rounded_from or cell.rounded_from in trained_before
        trained_before.add(cell.name)
    for group in ("qat-5", "qat-4", "ptq-5", "ptq-4", "qat-8+gmp-75-16x1", "so-75-16x1"):
        assert sorted(c.seed for c in grid if c.group == group) == [1, 2, 3]


def test_rows_pool_seeds_and_compare_with_the_same_seeds() -> None:
    from compression import summary

    base = [1, 2, 3, 2]
    rows = {
        row["group"]: row
        for row in summary(
            [
                *(result("dense", seed, base, 32.0) for seed in (1, 2)),
                *(result("ptq-4", seed, [e + 2 for e in base], 4.0) for seed in (1, 2)),
                *(result("qat-4", seed, [e + seed - 1 for e in base], 4.0) for seed in (1, 2)),
            ]
        )
    }
    assert rows["dense"]["wer"]["value"] == pytest.approx(0.2)
    assert rows["ptq-4"]["against_dense"]["value"] == pytest.approx(1.0)
    assert rows["qat-4"]["wer_by_seed"] == pytest.approx([0.2, 0.3])
    assert rows["qat-4"]["against_dense"]["value"] == pytest.approx(0.25)
    found = rows["qat-4"]["against_post_training"]
    assert found["value"] == pytest.approx(12 / 8 * 10 / 24 - 1)
    assert found["units"] == 4  # utterances, not utterances of each seed
    assert found["ci95_high"] < 0
    assert rows["ptq-4"]["on_front"] == []
    assert rows["qat-4"]["on_front"] == rows["dense"]["on_front"] == ["size", "time"]


def test_times_that_are_equal_to_two_digits_are_equal() -> None:
    from compression import summary

    rows = summary([result("dense", 1, [1, 2], 25.2), result("ptq-4", 1, [2, 3], 24.9)])
    assert [row["on_front"] for row in rows] == [["size", "time"], ["size"]]


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (2.0, 4.0), (3.0, 3.0), (4.0, 1.0)]
    assert pareto(points) == [True, True, False, False, True]


def test_the_plot_names_every_point_and_fills_those_on_the_front() -> None:
    text = svg(
        [("kB", [Point("qat-4", 100, 20, True), Point("ptq-4 <&>", 100, 30, False)])], title="t"
    )
    assert ">qat-4</text>" in text
    assert "ptq-4 &lt;&amp;&gt;" in text
    assert text.count('fill="white"/>') == 2  # the ground, and the point that is beaten
