"""The moving average of the weights: short runs are not averaged with where they began."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from earshot.compress.config import CompressConfig
from earshot.compress.training import warmed_decay
from tests.compress.tiny_training import Run


def test_the_average_spans_a_tenth_of_the_run_at_most() -> None:
    weights: list[torch.Tensor] = []

    def see(module: Any, step: int) -> None:
        weights.append(module.transducer.joiner.weight.detach().clone())

    run = Run(CompressConfig(), steps=12, decay=0.4, see=see).until(12)
    expected = weights[0]
    for count, now in enumerate(weights[1:], start=1):
        kept = min(0.4, (1 + count) / (10 + count))
        expected = kept * expected + (1 - kept) * now
    # At the end of training the module holds the average.
    found = run.module.transducer.joiner.weight.detach()
    torch.testing.assert_close(found, expected)
    assert (found - weights[-1]).abs().max() > 1e-5


@pytest.mark.parametrize(("count", "kept"), [(1, 2 / 11), (290, 0.97), (9000, 0.998)])
def test_the_decay_is_reached_in_time(count: int, kept: float) -> None:
    assert warmed_decay(0.998, count) == pytest.approx(kept)
    assert float(warmed_decay(0.998, torch.tensor(count))) == pytest.approx(kept)
