"""Distillation: the path that is compared, and that a student nears its teacher."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from earshot.compress.config import CompressConfig, DistilConfig
from earshot.compress.distillation import Distiller, ctc_path
from earshot.compress.training import batch_losses
from earshot.core.errors import ConfigError
from tests.compress import tiny_training
from tests.compress.tiny_training import Run, batch, network, write


def collapsed(path: tuple[int, ...]) -> list[int]:
    """The labels of a CTC path: repeats joined, then blanks dropped."""
    return [s for s, _ in itertools.groupby(path) if s != 0]


def begun_before(path: tuple[int, ...]) -> list[int]:
    """How many labels have begun before every frame."""
    begins = [s != 0 and (t == 0 or path[t - 1] != s) for t, s in enumerate(path)]
    return [sum(begins[:t]) for t in range(len(path))]


@pytest.mark.parametrize("seed", range(6))
def test_the_path_is_the_best_of_all(seed: int) -> None:
    """Oracle: every path of every utterance, by enumeration."""
    rng = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(3, 6, 4, generator=rng).mul(2).log_softmax(dim=-1)
    frames, lengths = torch.tensor([6, 5, 4]), torch.tensor([2, 3, 0])
    labels = torch.tensor([[1, 1, 0], [2, 3, 3], [0, 0, 0]])
    before, aligned = ctc_path(log_probs, frames, labels, lengths)
    assert aligned.all()
    for row in range(3):
        count, wanted = int(frames[row]), labels[row, : lengths[row]].tolist()
        paths = [
            path for path in itertools.product(range(4), repeat=count) if collapsed(path) == wanted
        ]
        best = max(paths, key=lambda p: sum(float(log_probs[row, t, s]) for t, s in enumerate(p)))
        assert before[row, :count].tolist() == begun_before(best)


def test_an_utterance_too_short_for_its_labels_has_no_path() -> None:
    log_probs = torch.zeros(2, 3, 5).log_softmax(dim=-1)
    labels = torch.tensor([[1, 1, 2], [1, 2, 3]])  # the repeat needs a blank: four frames
    _, aligned = ctc_path(log_probs, torch.tensor([3, 3]), labels, torch.tensor([3, 3]))
    assert aligned.tolist() == [False, True]


def gap(run: Run, *, with_transducer: bool = True) -> float:
    """What a distiller finds between the student and its teacher, in a batch of either kind."""
    (distiller,) = (m for m in run.methods if isinstance(m, Distiller))
    data = batch()
    batch_losses(run.module.train().transducer, data, with_transducer=with_transducer)
    return float(distiller.loss(data).detach())


def test_a_student_nears_its_teacher_and_a_copy_of_it_is_there(tmp_path: Path) -> None:
    teacher = network(5)
    path = write(teacher, tmp_path / "teacher.ear", codec="f32_r16")
    config = CompressConfig(distil=DistilConfig(teacher=str(path), weight=20.0))
    copy = Run(config, steps=1, start=teacher, rate=0.0).until(1)
    assert gap(copy) == pytest.approx(0, abs=1e-2)
    gaps = {}
    for steps in (1, 40):
        gaps[steps] = gap(Run(config, steps=steps, start=network(6)).until(steps))
    assert gaps[40] < 0.5 * gaps[1]


def test_the_joiner_is_taught_in_the_batches_that_the_transducer_is_in(tmp_path: Path) -> None:
    path = write(network(5), tmp_path / "teacher.ear", codec="f32_r16")
    student = network(5)
    with torch.no_grad():
        student.joiner.bias += torch.randn_like(student.joiner.bias)  # nothing else differs
    config = CompressConfig(distil=DistilConfig(teacher=str(path)))
    run = Run(config, steps=1, start=student, rate=0.0).until(1)
    assert gap(run, with_transducer=False) == pytest.approx(0, abs=1e-4)
    assert gap(run, with_transducer=True) > 0.01


def test_the_phone_head_is_taught(tmp_path: Path, monkeypatch: Any) -> None:
    shape = dataclasses.replace(tiny_training.SHAPE, phones=True)
    monkeypatch.setattr(tiny_training, "SHAPE", shape)
    path = write(network(5), tmp_path / "teacher.ear", codec="f32_r16")
    student = network(5)
    assert student.phones is not None
    with torch.no_grad():
        student.phones.bias += torch.randn_like(student.phones.bias)
    config = CompressConfig(distil=DistilConfig(teacher=str(path)))
    run = Run(config, steps=1, start=student, rate=0.0).until(1)
    assert gap(run, with_transducer=False) > 0.01


def test_the_teacher_does_not_learn(tmp_path: Path) -> None:
    path = write(network(5), tmp_path / "teacher.ear", codec="f32_r16")
    config = CompressConfig(distil=DistilConfig(teacher=str(path)))
    run = Run(config, steps=3, start=network(6)).until(3)
    (distiller,) = (m for m in run.methods if isinstance(m, Distiller))
    teacher = distiller._teacher.state_dict()
    torch.testing.assert_close(teacher, network(5).state_dict())


def test_a_teacher_of_other_pieces_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    path = write(network(5), tmp_path / "teacher.ear")
    monkeypatch.setattr("tests.compress.tiny_training.TOKENIZER", b"other")
    with pytest.raises(ConfigError, match="has other word pieces than the recipe's tokenizer"):
        Run(CompressConfig(distil=DistilConfig(teacher=str(path))), steps=1)
