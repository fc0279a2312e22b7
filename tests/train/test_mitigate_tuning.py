"""The pull towards the start, what is trained, and what is drawn."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed ([train])")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from earshot.models.transducer import Transducer
from earshot.train.batches import Batch
from earshot.train.mitigate_tuning import (
    Anchor,
    CohortInput,
    TuningConfig,
    averaged,
    drawn_batches,
    trained_names,
    tune,
)
from tests.train.test_mitigate_fisher import joined, network, utterance

pytestmark = pytest.mark.train

Batches = Iterator[tuple[Batch, list[int]]]


def batches() -> Batches:
    made = [joined([utterance(10 * n), utterance(10 * n + 1)]) for n in range(3)]
    while True:
        for batch in made:
            yield batch, [0, -1]


def tuned(model: Transducer, *, anchor: Anchor | None = None, **settings: object) -> Transducer:
    found = copy.deepcopy(model)
    config = TuningConfig(steps=6, peak_lr=3e-3, warmup_steps=1, bf16=False, **settings)  # type: ignore[arg-type]
    assert tune(found, batches(), config, anchor=anchor) == 6
    return found


def anchor(model: Transducer, strength: float, *, importance: float | None = None) -> Anchor:
    start = dict(model.named_parameters())
    rng = torch.Generator().manual_seed(1)
    known = {
        name: torch.rand(p.shape, generator=rng) + 0.1
        if importance is None
        else torch.full_like(p, importance)
        for name, p in start.items()
    }
    return Anchor(start, known, strength)


def distance(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return float(sum((p - q).detach().square().sum() for p, q in pairs))


def test_the_gradient_of_the_penalty_is_that_of_autograd() -> None:
    model = network(1)
    pulled = anchor(network(0), 3.0)
    pulled.penalty(model).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, pulled.gradient(name, parameter))
        numeric = 3.0 * pulled._importance[name] * (parameter - pulled._start[name])
        torch.testing.assert_close(parameter.grad, numeric.detach())
    assert float(anchor(model, 3.0).penalty(model).detach()) == 0.0


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0, 1e6])
def test_steps_end_where_loss_and_penalty_balance(strength: float) -> None:
    """Oracle: of |theta - goal|^2 / 2 + strength importance theta^2 / 2 the minimum is known."""
    goal, importance = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, 0.1, 0.0])
    model = nn.ParameterDict({"theta": nn.Parameter(torch.zeros(3))})
    pulled = Anchor({"theta": torch.zeros(3)}, {"theta": importance}, strength)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, betas=(0.9, 0.98))
    for step in range(800):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 800)
        optimizer.zero_grad()
        (0.5 * (model["theta"] - goal).square().sum()).backward()
        optimizer.step()
        pulled.pull(model, optimizer)
    expected = goal / (1 + strength * importance)
    torch.testing.assert_close(model["theta"].detach(), expected, rtol=0.02, atol=2e-3)


def test_strength_0_is_plain_fine_tuning_to_the_bit() -> None:
    model = network()
    plain, pulled = tuned(model), tuned(model, anchor=anchor(model, 0.0))
    assert distance(plain, model) > 1e-3
    for name, value in plain.state_dict().items():
        assert torch.equal(value, pulled.state_dict()[name]), name


def test_strength_without_bound_keeps_the_weights() -> None:
    model = network()
    moved = [distance(tuned(model, anchor=anchor(model, s)), model) for s in (0.0, 1.0, 100.0)]
    assert moved[0] > moved[1] > moved[2] > 0
    kept = tuned(model, anchor=anchor(model, 1e30))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(kept.state_dict()[name], value, rtol=0, atol=1e-9)


def test_weights_that_do_not_matter_are_free() -> None:
    model = network()
    free, plain = tuned(model, anchor=anchor(model, 1e30, importance=0.0)), tuned(model)
    assert distance(free, plain) < 1e-10


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_is_trained_and_the_other_is_not(part: str) -> None:
    model = network()
    names = set(trained_names(model, part))  # type: ignore[arg-type]
    other = set(trained_names(model, "decoder" if part == "encoder" else "encoder"))
    assert names | other == {name for name, _ in model.named_parameters()} and not names & other
    found = dict(tuned(model, train=part).named_parameters())
    for name, value in model.named_parameters():
        assert torch.equal(found[name], value) == (name in other), name


def test_a_look_may_end_a_run() -> None:
    seen: list[int] = []

    def look(step: int, _: Transducer) -> bool:
        seen.append(step)
        return step == 3

    config = TuningConfig(steps=9, bf16=False)
    assert tune(network(), batches(), config, look=look) == 3
    assert seen == [1, 2, 3]


def test_steps_compute_inside_and_train_what_is_outside() -> None:
    """Pushes that are too small for the levels of a file add up."""
    start = network()
    computed, looked = [], []

    @contextlib.contextmanager
    def rounded(model: Transducer) -> Iterator[None]:
        weight, kept = model.joiner.weight, model.joiner.weight.detach().clone()
        with torch.no_grad():
            weight.copy_((weight * 4).round() / 4)
        yield
        with torch.no_grad():
            weight.copy_(kept)

    def look(_: int, model: Transducer) -> bool:
        looked.append(distance(model.joiner, start.joiner))
        return False

    model = copy.deepcopy(start)
    model.register_forward_pre_hook(
        lambda m, _: computed.append(float((m.joiner.weight.detach() * 4 % 1).max()))
    )
    config = TuningConfig(steps=3, peak_lr=1e-3, warmup_steps=1, bf16=False)
    tune(model, batches(), config, rounded=rounded, look=look)
    assert computed == [0.0, 0.0, 0.0]
    assert 0 < looked[0] < looked[1] < looked[2]


def test_a_cohort_has_a_vector_and_nobody_else_is_touched() -> None:
    model = network().eval()
    vectors = CohortInput(2, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TuningConfig(steps=4, peak_lr=0.1, warmup_steps=1, bf16=False)
    tune(model, batches(), config, cohort_input=vectors)  # of cohort 0 and of nobody
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert vectors.table.weight[1].abs().max() > 0
    assert vectors.table.weight[0].abs().max() == vectors.table.weight[2].abs().max() == 0
    model.eval()
    batch = joined([utterance(5), utterance(6)])
    plain = model.encoder(batch.features)
    with vectors.attached(model, [-1, 0]):
        added = model.encoder(batch.features)
    torch.testing.assert_close(added[0], plain[0])
    assert not torch.allclose(added[1], plain[1])
    torch.testing.assert_close(model.encoder(batch.features), plain)  # detached again
    vectors.folded(model, 0)
    torch.testing.assert_close(model.encoder(batch.features)[1], added[1])


def test_averages_lie_between_two_networks() -> None:
    one, two = network(0).state_dict(), network(1).state_dict()
    for share in (0.0, 0.25, 1.0):
        for name, value in averaged(one, two, share).items():
            torch.testing.assert_close(value, (1 - share) * one[name] + share * two[name])


@settings(max_examples=40)
@given(
    durations=st.lists(st.floats(0.3, 9.0), min_size=2, max_size=20),
    seed=st.integers(0, 9),
)
def test_batches_hold_what_fits_and_all_clips_come_evenly(
    durations: list[float], seed: int
) -> None:
    weights = [1.0] * len(durations)
    drawn = drawn_batches(durations, weights, batch_s=10.0, seed=seed)
    order: list[int] = []
    while len(order) < 5 * len(durations):
        batch = next(drawn)
        assert len(batch) == 1 or sum(durations[n] for n in batch) <= 10.0
        order += batch
    for first in range(0, 4 * len(durations), len(durations)):
        assert sorted(order[first : first + len(durations)]) == list(range(len(durations)))


def test_clips_are_drawn_by_weight() -> None:
    weights = [3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    drawn = drawn_batches([1.0] * 7, weights, batch_s=10.0, seed=1)
    order = [n for _ in range(600) for n in next(drawn)]
    counts = torch.bincount(torch.tensor(order), minlength=7)
    assert counts[6] == 0
    assert float(counts[:2].sum()) / len(order) == pytest.approx(0.6, abs=0.03)


def test_a_tensor_is_not_shared_with_the_anchor() -> None:
    value: Tensor = torch.ones(3)
    held = Anchor({"a": value}, {"a": torch.ones(3)}, 1.0)
    value += 1
    assert held.gradient("a", torch.ones(3)).abs().max() == 0
