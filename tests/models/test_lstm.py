import pytest

torch = pytest.importorskip("torch", reason="the torch wing needs the extra [train]")

from torch import nn

from earshot.models.lstm import run_lstm
from earshot.train import precision

pytestmark = pytest.mark.skipif(
    not precision._cpu_multiplies_bf16(),
    reason="this CPU multiplies no bfloat16, and torch's LSTM does not run in it there",
)


def _gradients(layer, x, weight, *, quick):
    layer.zero_grad()
    x = x.clone().requires_grad_()
    start = (torch.full((1, x.shape[1], 24), 0.1), torch.full((1, x.shape[1], 24), -0.2))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=quick):
        out, h, c = run_lstm(layer, x, start)
    (out.float() * weight).sum().backward()
    gradients = [x.grad, *(p.grad for p in layer.parameters())]
    return out.detach().float(), h, c, [g.clone() for g in gradients]


@pytest.mark.parametrize(("frames", "batch"), [(1, 1), (5, 3), (40, 2)])
def test_quick_backward_agrees_with_autograd_in_float32(frames, batch):
    torch.manual_seed(frames)
    layer = nn.LSTM(16, 24)
    x, weight = torch.randn(frames, batch, 16), torch.randn(frames, batch, 24)
    expected = _gradients(layer, x, weight, quick=False)
    got = _gradients(layer, x, weight, quick=True)
    torch.testing.assert_close(got[0], expected[0], atol=0.02, rtol=0.02)
    for low, exact in zip(got[3], expected[3], strict=True):
        assert float((low - exact).norm() / exact.norm()) < 0.02


def test_quick_backward_differs_where_the_input_differs():
    # Guards the test above: its tolerance must not hide a gradient that ignores time.
    torch.manual_seed(0)
    layer = nn.LSTM(16, 24)
    x, weight = torch.randn(10, 2, 16), torch.randn(10, 2, 24)
    _, _, _, forward = _gradients(layer, x, weight, quick=True)
    _, _, _, reversed_ = _gradients(layer, x.flip(0), weight, quick=True)
    assert float((forward[2] - reversed_[2]).norm() / forward[2].norm()) > 0.1
