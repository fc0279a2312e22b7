"""The loss that tells sentences from their rivals, against sums over all paths."""

from __future__ import annotations

import itertools
import math

import pytest

torch = pytest.importorskip("torch")

from earshot.models.rival_loss import RivalBatch, RivalLossConfig, rival_loss

pytestmark = pytest.mark.train


def _likelihood(scores: list[list[float]], sentence: list[int]) -> float:
    """Log of the sum over all paths that say a sentence."""
    total = 0.0
    for path in itertools.product(range(len(scores[0])), repeat=len(scores)):
        said = [v for v, _ in itertools.groupby(path) if v]
        if said == sentence:
            total += math.exp(sum(row[v] for row, v in zip(scores, path, strict=True)))
    return math.log(total) if total else -math.inf


def _batch(rivals: list[tuple[int, list[int]]]) -> RivalBatch:
    longest = max(len(sentence) for _, sentence in rivals)
    rows = [sentence + [0] * (longest - len(sentence)) for _, sentence in rivals]
    return RivalBatch(
        torch.tensor(rows),
        torch.tensor([len(sentence) for _, sentence in rivals]),
        torch.tensor([clip for clip, _ in rivals]),
    )


def test_it_is_the_share_of_the_truth_as_the_search_scores_it() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 5, 4, generator=generator) * 2
    frames = torch.tensor([5, 4, 5])
    truths = [[1, 2], [3], [2, 2]]
    # The middle clip has none; of the last one's, the second does not fit into its frames.
    rivals = [(0, [1, 3, 2]), (0, [2]), (2, [1, 2]), (2, [1, 1, 1, 1])]
    config = RivalLossConfig(scale=0.3, blank_penalty=1.5)
    expected = []
    for clip in (0, 2):
        scores = torch.log_softmax(logits[clip, : frames[clip]], dim=-1)
        scores[:, 0] -= config.blank_penalty
        among = [truths[clip], *(sentence for at, sentence in rivals if at == clip)]
        weights = [math.exp(0.3 * _likelihood(scores.tolist(), sentence)) for sentence in among]
        expected.append(-math.log(weights[0] / sum(weights)))
    loss = rival_loss(
        logits,
        frames,
        torch.tensor([[1, 2], [3, 0], [2, 2]]),
        torch.tensor([2, 1, 2]),
        _batch(rivals),
        blank=0,
        config=config,
    )
    assert float(loss) == pytest.approx(sum(expected) / 2, abs=1e-4)


def test_a_step_against_its_gradient_favours_the_truth() -> None:
    logits = torch.zeros(1, 6, 4, requires_grad=True)
    config = RivalLossConfig()

    def loss() -> torch.Tensor:
        truth, rival = torch.tensor([[1, 2]]), _batch([(0, [1, 3])])
        frames, length = torch.tensor([6]), torch.tensor([2])
        return rival_loss(logits, frames, truth, length, rival, blank=0, config=config)

    before = loss()
    before.backward()
    assert logits.grad is not None
    with torch.no_grad():
        logits -= logits.grad
    assert before.item() == pytest.approx(math.log(2))
    assert loss().item() < before.item() - 0.05


def test_without_a_rival_that_fits_nothing_is_learnt() -> None:
    logits = torch.zeros(1, 2, 4, requires_grad=True)
    loss = rival_loss(
        logits,
        torch.tensor([2]),
        torch.tensor([[1, 2]]),
        torch.tensor([2]),
        _batch([(0, [1, 1, 1])]),
        blank=0,
        config=RivalLossConfig(),
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()
