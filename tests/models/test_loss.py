"""The transducer loss against enumeration of alignments, gradcheck and autograd."""

import math
from itertools import combinations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from earshot.models import loss as loss_module
from earshot.models.loss import merged_transducer_loss, reference_transducer_loss


def enumerate_alignments(logits: torch.Tensor, labels: list[int], *, one_symbol: bool) -> float:
    """Minus log of the sum over all alignments, each walked arc by arc, without a grid."""
    log_probs = torch.log_softmax(logits.double(), dim=-1)
    frames, count = logits.shape[0], len(labels)
    total = -math.inf
    if one_symbol:  # choose the frames that emit
        for chosen in combinations(range(frames), count):
            u, score = 0, 0.0
            for t in range(frames):
                emits = t in chosen
                score += float(log_probs[t, u, labels[u] if emits else 0])
                u += emits
            total = float(np.logaddexp(total, score))
        return -total
    # choose which of the first T + U - 1 arcs are labels; the last arc is the final blank
    for chosen in combinations(range(frames + count - 1), count):
        t, u, score = 0, 0, 0.0
        for arc in range(frames + count):
            if arc in chosen:
                score += float(log_probs[t, u, labels[u]])
                u += 1
            else:
                score += float(log_probs[t, u, 0])
                t += 1
        total = float(np.logaddexp(total, score))
    return -total


@pytest.mark.parametrize("one_symbol", [False, True])
@pytest.mark.parametrize(("frames", "count"), [(1, 0), (1, 1), (3, 0), (3, 2), (4, 3), (4, 4)])
def test_reference_equals_the_sum_over_alignments(
    frames: int, count: int, one_symbol: bool
) -> None:
    torch.manual_seed(frames * 10 + count)
    logits = torch.randn(frames, count + 1, 5, dtype=torch.float64)
    labels = torch.randint(1, 5, (count,))
    loss = reference_transducer_loss(logits, labels, one_symbol_per_frame=one_symbol)
    oracle = enumerate_alignments(logits, labels.tolist(), one_symbol=one_symbol)
    assert float(loss) == pytest.approx(oracle, abs=1e-10)


def test_reference_is_infinite_without_an_alignment() -> None:
    logits = torch.randn(2, 4, 5)
    loss = reference_transducer_loss(logits, torch.tensor([1, 2, 3]), one_symbol_per_frame=True)
    assert math.isinf(float(loss))


@pytest.mark.parametrize("one_symbol", [False, True])
def test_reference_passes_gradcheck(one_symbol: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 3])
    assert torch.autograd.gradcheck(
        lambda z: reference_transducer_loss(z, labels, one_symbol_per_frame=one_symbol), (logits,)
    )


@pytest.mark.parametrize("one_symbol", [False, True])
def test_merged_loss_and_gradients_equal_autograd_through_the_reference(one_symbol: bool) -> None:
    torch.manual_seed(2)
    lengths, pieces = [7, 5, 6], [3, 0, 4]
    encoded = torch.randn(3, 7, 6, requires_grad=True)
    predicted = torch.randn(3, 5, 6, requires_grad=True)
    weight = torch.randn(9, 6, requires_grad=True)
    bias = torch.randn(9, requires_grad=True)
    labels = torch.randint(1, 9, (3, 4))
    merged = merged_transducer_loss(
        encoded, predicted, weight, bias, labels, torch.tensor(lengths), torch.tensor(pieces),
        one_symbol_per_frame=one_symbol,
    )  # fmt: skip
    inputs = (encoded, predicted, weight, bias)
    gradients = torch.autograd.grad(2.0 * merged, inputs)
    expected = torch.zeros(())
    for b, (t, u) in enumerate(zip(lengths, pieces, strict=True)):
        joint = torch.tanh(encoded[b, :t, None] + predicted[b, None, : u + 1])
        expected = expected + reference_transducer_loss(
            joint @ weight.t() + bias, labels[b, :u], one_symbol_per_frame=one_symbol
        )
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(gradients, torch.autograd.grad(2.0 * expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_fastemit_scales_label_gradients_and_keeps_the_value() -> None:
    torch.manual_seed(3)
    arguments = (
        torch.randn(1, 6, 4),
        torch.randn(1, 3, 4),
        torch.randn(5, 4, requires_grad=True),
        torch.zeros(5),
        torch.tensor([[1, 2]]),
        torch.tensor([6]),
        torch.tensor([2]),
    )
    plain = merged_transducer_loss(*arguments)
    pushed = merged_transducer_loss(*arguments, fastemit_lambda=0.5)
    assert float(plain) == float(pushed)
    (without,) = torch.autograd.grad(plain, arguments[2])
    (with_push,) = torch.autograd.grad(pushed, arguments[2])
    assert not torch.allclose(without, with_push)


def test_an_utterance_without_alignment_counts_nothing() -> None:
    loss = merged_transducer_loss(
        torch.randn(1, 2, 4), torch.randn(1, 4, 4), torch.randn(5, 4), torch.zeros(5),
        torch.tensor([[1, 2, 3]]), torch.tensor([2]), torch.tensor([3]), one_symbol_per_frame=True,
    )  # fmt: skip
    assert float(loss) == 0.0


@pytest.mark.parametrize("fastemit_lambda", [0.0, 0.5])
@pytest.mark.parametrize("one_symbol", [False, True])
def test_many_utterances_at_once_agree_with_one_by_one(
    monkeypatch: pytest.MonkeyPatch, one_symbol: bool, fastemit_lambda: float
) -> None:
    torch.manual_seed(5)
    lengths = torch.tensor([31, 4, 17, 1, 2, 60])
    pieces = torch.tensor([9, 4, 0, 1, 3, 20])  # the last but one has no alignment if one symbol
    encoded, predicted = torch.randn(6, 64, 8), torch.randn(6, 21, 8)
    weight, bias = 3.0 * torch.randn(11, 8), torch.randn(11)
    labels = torch.randint(1, 11, (6, 20))

    def gradients() -> tuple[float, list[torch.Tensor]]:
        inputs = [x.clone().requires_grad_() for x in (encoded, predicted, weight, bias)]
        loss = merged_transducer_loss(
            *inputs, labels, lengths, pieces,
            one_symbol_per_frame=one_symbol, fastemit_lambda=fastemit_lambda,
        )  # fmt: skip
        return float(loss), list(torch.autograd.grad(loss, inputs))

    value, expected = gradients()
    monkeypatch.setattr(loss_module, "_losses", loss_module._losses_together)
    monkeypatch.setattr(loss_module, "_NODES", 500)  # three groups
    together, ours = gradients()
    assert together == pytest.approx(value, rel=1e-5)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("one_symbol", [False, True])
def test_bf16_on_the_cpu_agrees_with_float32(one_symbol: bool) -> None:
    torch.manual_seed(3)
    encoded, predicted = torch.randn(2, 6, 8), torch.randn(2, 4, 8)
    weight, bias = torch.randn(10, 8), torch.randn(10)
    labels, frames, lengths = (
        torch.randint(1, 10, (2, 3)),
        torch.tensor([6, 4]),
        torch.tensor([3, 2]),
    )

    def gradients(*, low: bool) -> tuple[float, list[torch.Tensor]]:
        inputs = [x.clone().requires_grad_() for x in (encoded, predicted, weight, bias)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            loss = merged_transducer_loss(
                *inputs, labels, frames, lengths, one_symbol_per_frame=one_symbol
            )
        loss.backward()
        return float(loss.detach()), [x.grad for x in inputs]

    exact, low = gradients(low=False), gradients(low=True)
    assert low[0] == pytest.approx(exact[0], rel=0.01)
    for rounded, reference in zip(low[1], exact[1], strict=True):
        assert float((rounded - reference).norm() / reference.norm()) < 0.02
    assert not low[1][0][1, 4:].any() and not low[1][1][1, 3:].any()  # beyond the utterance
