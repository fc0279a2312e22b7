"""`earshot understand train|evaluate|apply`: statistical models over words.

Knows options and how to print; what is learned is in `understand.training`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earshot.cli.console import (
    EXPECTED_FAILURE,
    StageBars,
    complain,
    note,
    reported,
    say,
    usage_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earshot.core.understanding import Understanding
    from earshot.understand.evaluation import Evaluation
    from earshot.understand.labelled import LabelledSentence

DataArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help='JSONL, a row {"text", "intent", "slots"} a line; may end in .gz.'
    ),
]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="What `earshot understand train` made.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ThresholdOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Confidence below which the intent is none.")
]


def train(
    data: DataArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .ear file to make.")],
    max_bytes: Annotated[int, typer.Option(min=1, help="Size of the file, at most.")] = 300_000,
    epochs: Annotated[int, typer.Option(min=1, help="How often every sentence is seen.")] = 20,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Teach a model intents and slots from labelled sentences.

    Rows whose `split` says test are left out, those that say val or dev are held out; where there
    are none, some are held out by themselves. Results on the held-out ones are printed.
    """
    if not output.absolute().parent.is_dir():
        raise usage_error(f"{output}: there is no such folder. Make it first.")
    if output.is_dir():
        raise usage_error(f"{output}: this is a folder. Name the file to make.")
    with reported():
        from earshot.understand.evaluation import evaluate as outcomes_of
        from earshot.understand.evaluation import summary
        from earshot.understand.labelled import read_labelled
        from earshot.understand.training import TrainingConfig, hold_out, train_model

        rows = read_labelled(data)
        learned, held_out, left_out = _by_split(rows)
        if not held_out:
            learned, held_out = hold_out(learned)
        if left_out:
            note(f"{left_out} rows of a test split are left out.")
        bars = StageBars()
        try:
            model = train_model(
                learned,
                held_out=held_out,
                config=TrainingConfig(max_bytes=max_bytes, epochs=epochs, seed=seed),
                name=output.stem,
                metadata={"data": data.name, "sentences": str(len(learned)), "seed": str(seed)},
                progress=lambda done, total: bars("training", done, total),
            )
        except KeyboardInterrupt:
            complain("stopped. Nothing was written.")
            raise typer.Exit(130) from None
        finally:
            bars.close()
        model.save(output)
        found = summary(outcomes_of(model, held_out))
    size = output.stat().st_size
    if as_json:
        report = {"path": str(output), "size_bytes": size, "learned": len(learned)}
        report |= {"intents": len(model.intents), "slots": len(model.slots)}
        say(json.dumps({**report, "held_out": found.as_dict()}))
        return
    say(f"{output}: {len(model.intents)} intents, {len(model.slots)} slots, {size:,} bytes")
    say(f"learned from {len(learned):,} sentences; of those held out")
    _print_evaluation(found)


def evaluate(
    path: ModelArgument,
    data: DataArgument,
    split: Annotated[
        str | None, typer.Option(help="Only rows of this split, such as test; by default all.")
    ] = None,
    threshold: ThresholdOption = 0.5,
    as_json: JsonOption = False,
) -> None:
    """Say how many labelled sentences a model understands.

    A `--split` of test also takes rows of splits that end in _test.
    """
    with reported():
        from earshot.understand.evaluation import evaluate as outcomes_of
        from earshot.understand.evaluation import summary
        from earshot.understand.labelled import read_labelled
        from earshot.understand.statistical import StatisticalModel

        model = StatisticalModel.load(path)
        rows = read_labelled(data)
        if split is not None:
            splits = sorted({row.split for row in rows if row.split is not None})
            rows = [row for row in rows if row.split and _is_split(row.split, split)]
            if not rows:
                there = ", ".join(splits) or "no splits"
                raise usage_error(f"{data}: no row of split '{split}'; there are {there}.")
        found = summary(outcomes_of(model, rows, threshold=threshold))
    if as_json:
        say(json.dumps({"path": str(path), "data": str(data), **found.as_dict()}))
    else:
        _print_evaluation(found)


def apply(
    path: ModelArgument,
    sentence: Annotated[
        str | None,
        typer.Argument(
            help="What was said. Without it, lines of stdin: a sentence, or a JSON list of "
            "[text, log-probability] that may have been said."
        ),
    ] = None,
    threshold: ThresholdOption = 0.5,
    as_json: JsonOption = False,
) -> None:
    """Say what sentences want. Exits 0 if all have an intent, 1 if one has none."""
    with reported():
        from earshot.understand.statistical import StatisticalModel

        model = StatisticalModel.load(path)
        all_found = True
        for text, hypotheses in _said(sentence):
            found = model.understand_best(hypotheses, threshold=threshold)
            all_found = all_found and found.intent is not None
            if as_json:
                say(json.dumps({"text": text, **found.as_dict()}, ensure_ascii=False))
            else:
                say(_as_line(found))
    if not all_found:
        raise typer.Exit(EXPECTED_FAILURE)


def _by_split(
    rows: list[LabelledSentence],
) -> tuple[list[LabelledSentence], list[LabelledSentence], int]:
    """Rows to learn from, rows held out, and how many are for tests."""
    learned: list[LabelledSentence] = []
    held_out: list[LabelledSentence] = []
    left_out = 0
    for row in rows:
        split = row.split or ""
        if _is_split(split, "test"):
            left_out += 1
        elif any(_is_split(split, name) for name in ("val", "valid", "validation", "dev")):
            held_out.append(row)
        else:
            learned.append(row)
    return learned, held_out, left_out


def _is_split(split: str, wanted: str) -> bool:
    return split == wanted or split.endswith(f"_{wanted}")


def _said(sentence: str | None) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Each text with what may have been said."""
    if sentence is not None:
        yield sentence, [(sentence, 0.0)]
        return
    for number, line in enumerate(sys.stdin, start=1):
        line = line.strip()
        if not line.startswith("["):
            if line:
                yield line, [(line, 0.0)]
            continue
        try:
            hypotheses = [(str(text), float(score)) for text, score in json.loads(line)]
            best = max(hypotheses, key=lambda hypothesis: hypothesis[1])[0]
        except (ValueError, TypeError):
            raise usage_error(
                f"stdin:{number}: this is no list of [text, log-probability]. Write "
                '[["turn on the light", -1.2], ...].'
            ) from None
        yield best, hypotheses


def _as_line(found: Understanding) -> str:
    slots = ", ".join(f"{name}={slot.value}" for name, slot in found.slots.items())
    return f"{found.intent or 'none'}({slots})  {found.confidence:.2f}"


def _print_evaluation(found: Evaluation) -> None:
    rows = (
        ("intents right", found.accuracy, f"of {found.in_scope:,} sentences in scope"),
        ("best intent right", found.best_accuracy, "rejected or not"),
        ("slots, F1", found.slot_f1, "right words and right name"),
        ("intent and slots right", found.all_right, f"of {found.sentences:,} sentences"),
        (
            "out of scope, recall",
            found.out_of_scope_recall,
            f"of {found.sentences - found.in_scope:,} sentences",
        ),
        ("out of scope, precision", found.out_of_scope_precision, "of those rejected"),
    )
    for name, share, what in rows:
        if share is not None:
            say(f"  {name:<24} {100 * share:6.2f} %  {what}")
