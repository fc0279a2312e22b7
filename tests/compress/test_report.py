"""Bits that are counted, and what compressing one matrix alone costs."""

import pytest

torch = pytest.importorskip("torch")

from earshot.compress.config import QuantiseConfig
from earshot.compress.quantisation import fit_grids
from earshot.compress.report import sensitivities, stored_tensors
from earshot.compress.weights import list_weights
from tests.compress.tiny_training import network


def test_bits_are_those_of_values_and_mask() -> None:
    """75 % zeros in blocks of 16x1 at 4 bits: a quarter of 4, and a sixteenth for the mask."""
    model = network()
    with torch.no_grad():
        model.ctc.weight[:, :24] = 0
    grids = fit_grids(model, QuantiseConfig(bits=4))
    by_name = {t.name: t for t in stored_tensors(model, grids, block="16x1")}
    sparse = by_name["ctc.linear0.weight"]
    assert sparse.zeros == pytest.approx(0.75)
    assert sparse.bits_per_weight == pytest.approx(0.25 * 4 + 1 / 16)
    assert by_name["joiner.logits.weight"].bits_per_weight == 4  # nothing to leave out: no mask
    assert by_name["predictor.embedding0.table"].bits_per_weight == 8
    assert 0.1 < by_name["joiner.logits.weight"].distance < 0.3
    dense = {t.name: t for t in stored_tensors(model, {}, block=None)}
    assert dense["ctc.linear0.weight"].bits_per_weight == 32
    assert sum(t.weights for t in dense.values()) == sum(
        w.of(model).numel() for w in list_weights(model) if w.role != "vector"
    )


def test_each_matrix_and_table_is_compressed_alone_and_put_back() -> None:
    model = network()
    original = {k: v.clone() for k, v in model.state_dict().items()}
    reference = [original[w.path] for w in list_weights(model)]
    seen: list[list[int]] = []

    def measure(tried: torch.nn.Module) -> float:
        """How far a network is from the original; notes which parameters differ."""
        weights = [tried.get_parameter(w.path) for w in list_weights(tried)]
        gaps = [float((a - b).detach().norm()) for a, b in zip(weights, reference, strict=True)]
        seen.append([n for n, gap in enumerate(gaps) if gap])
        return sum(gaps)

    found = list(sensitivities(model, measure, bits=(8, 4), shares=(0.75,)))
    matrices = [w.name for w in list_weights(model) if w.role == "matrix"]
    tables = [w.name for w in list_weights(model) if w.role == "table"]
    assert [f.change for f in found if f.name in tables] == len(tables) * ["8 bits", "4 bits"]
    assert tables
    found = [f for f in found if f.name not in tables]
    assert [f.change for f in found[:3]] == ["8 bits", "4 bits", "75% 16x1"]
    assert [f.name for f in found[::3]] == matrices and len(found) == 3 * len(matrices)
    assert seen[0] == []
    assert all(len(changed) == 1 for changed in seen[1:])
    for eight, four, pruned in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert 0 < eight.cost < 0.2 * four.cost
        assert four.cost < pruned.cost
    torch.testing.assert_close(model.state_dict(), original, rtol=0, atol=0)
