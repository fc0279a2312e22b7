"""Oracle: what the machine says of itself, and how long it takes, answered for it."""

from collections.abc import Iterator

import pytest
import torch

from earshot.train import precision
from earshot.train.precision import usual_precision
from earshot.train.recipe import TrainConfig


@pytest.mark.parametrize("asked", ["bf16-mixed", "16-mixed", "32-true"])
def test_what_a_recipe_asks_for_stays(asked: str) -> None:
    assert usual_precision(asked) == asked  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _measured_anew() -> Iterator[None]:
    precision._bf16_is_faster.cache_clear()
    yield
    precision._bf16_is_faster.cache_clear()


@pytest.mark.parametrize(
    ("bf16", "amx", "low_s", "expected"),
    [
        (False, False, 1.0, "32-true"),  # emulated: not even timed
        (True, False, 1.0, "bf16-mixed"),
        (True, False, 3.0, "32-true"),  # has it, and is slower with it
        (True, False, 1.9, "32-true"),  # too near to tell
        (False, True, 1.0, "bf16-mixed"),
    ],
)
def test_bfloat16_only_where_the_cpu_is_faster_with_it(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, amx: bool, low_s: float, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(
        precision, "_step_seconds", lambda dtype: low_s if dtype == torch.bfloat16 else 2.0
    )
    assert usual_precision(TrainConfig().precision) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_timed_in_a_moment(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not precision._cpu_multiplies_bf16():
        pytest.skip("this CPU multiplies no bfloat16, and is not timed in it")
    assert 0 < precision._step_seconds(dtype) < 20


def test_timing_draws_nothing_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_step_seconds", lambda dtype: float(torch.randn(1)))
    torch.manual_seed(1)
    wanted = torch.randn(1)
    torch.manual_seed(1)
    precision._bf16_is_faster(1)
    assert torch.equal(torch.randn(1), wanted)


def test_a_torch_that_cannot_tell_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert usual_precision("auto") == "32-true"


def test_a_gpu_is_asked_where_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert usual_precision("auto", accelerator="auto") == "bf16-mixed"
    assert usual_precision("auto", accelerator="cpu") == "32-true"
