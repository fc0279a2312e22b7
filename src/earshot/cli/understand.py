"""`earshot understand`: check command templates and try them on text. No audio is heard here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earshot.cli.console import (
    EXPECTED_FAILURE,
    USAGE_ERROR,
    complain,
    note,
    reported,
    say,
)

if TYPE_CHECKING:
    from earshot.core.errors import CommandsError, CommandsProblem, PronunciationsError
    from earshot.core.understanding import Understanding
    from earshot.understand.review import Review

app = typer.Typer(
    help="Commands and intents in text: check templates, teach and try models.",
    no_args_is_help=True,
)

SHOWN_WARNINGS = 20  # --all shows the others

ModelOption = Annotated[
    Path | None,
    typer.Option(help="Model whose word pieces spell the words; by default the embedded one."),
]


@app.command()
def check(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE_OR_FOLDER...",
            help="Command templates; `homeassistant:en` are Home Assistant's own.",
        ),
    ],
    model: ModelOption = None,
    pronunciations: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="How words are pronounced, in the lines of CMUdict."),
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Sentences to show.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the sentences shown.")] = 1,
    every: Annotated[bool, typer.Option("--all", help="Show all warnings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is wrong with command templates, by file and line, and what they can say.

    Words that no dictionary has are named with the sounds that they are taken to have.

    Exits 0 if they can be used, 2 if not.
    """
    from earshot.core.errors import CommandsError, PronunciationsError

    with reported():
        from earshot.data.pronunciation import Lexicon
        from earshot.session.recognizer import embedded_model_path, tokenizer_of
        from earshot.understand.graph import compile_commands
        from earshot.understand.review import review_commands
        from earshot.understand.templates import load_commands

        tokenizer = tokenizer_of(model or embedded_model_path())
        lexicon = Lexicon.load()
        try:
            if pronunciations is not None:
                lexicon = lexicon.extended(pronunciations)
            graph = compile_commands(load_commands(paths), tokenizer)
        except (CommandsError, PronunciationsError) as err:
            if as_json:
                say(json.dumps(_broken(err), ensure_ascii=False))
                raise typer.Exit(USAGE_ERROR) from None
            raise
        review = review_commands(graph, tokenizer, lexicon, num_samples=samples, seed=seed)
    if as_json:
        say(json.dumps(_report(review), ensure_ascii=False))
    else:
        _print(review, shown=len(review.warnings) if every else SHOWN_WARNINGS)


def _parts(problem: CommandsProblem) -> dict[str, str]:
    return {"where": problem.where, "problem": problem.problem, "remedy": problem.remedy}


def _broken(error: CommandsError | PronunciationsError) -> dict[str, object]:
    return {"usable": False, "problems": [_parts(problem) for problem in error.problems]}


def _report(review: Review) -> dict[str, object]:
    return {
        "usable": True,
        "sentences": review.num_sentences,
        "words": review.num_words,
        "intents": review.by_intent,
        "samples": [
            {"text": s.text, "intent": s.intent, "slots": dict(s.slots)} for s in review.samples
        ],
        "warnings": [_parts(warning) for warning in review.warnings],
    }


def _print(review: Review, *, shown: int) -> None:
    width = max(map(len, review.by_intent))
    for intent, count in review.by_intent.items():
        say(f"{intent:<{width}}  {_figure(count)} {_counted(count, 'sentence')}")
    total = review.num_sentences
    say(
        f"{len(review.by_intent)} {_counted(len(review.by_intent), 'intent')}, "
        f"{_figure(total)} {_counted(total, 'sentence')}, "
        f"{review.num_words:,} different {_counted(review.num_words, 'word')}"
    )
    if review.samples:
        say("such as")
        for sample in review.samples:
            slots = ", ".join(f"{name}={value}" for name, value in sample.slots.items())
            say(f"  {sample.text}  -> {sample.intent}({slots})")
    for warning in review.warnings[:shown]:
        note(f"warning: {warning}")
    left = len(review.warnings) - shown
    if left > 0:
        note(f"and {left} more {_counted(left, 'warning')}; `--all` shows them.")


def _figure(count: int) -> str:
    """A count, or only its size where nobody would read its digits."""
    digits = int(count.bit_length() * 0.30103)
    return f"{count:,}" if digits < 30 else f"over 10^{digits - 1}"


def _counted(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


@app.command()
def text(
    sentence: Annotated[str, typer.Argument(help="What was said.")],
    commands: Annotated[
        list[str],
        typer.Option(
            metavar="FILE_OR_FOLDER", help="Command templates; may be given several times."
        ),
    ],
    exact: Annotated[
        bool, typer.Option("--exact", help="Only what a template says, nothing like it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a sentence wants, exactly or nearly. Exits 0 if it is a command, 1 if not."""
    with reported():
        from earshot.core.understanding import Understanding
        from earshot.data.spoken import spoken_form
        from earshot.understand.matching import Matcher
        from earshot.understand.templates import load_commands

        matcher = Matcher(load_commands(commands).network)
        said = spoken_form(sentence)
        found = matcher.exact_text(sentence) if exact else matcher.closest(sentence)
    result = found or Understanding(None, {}, 0.0)
    if as_json:
        say(json.dumps({"text": said, **result.as_dict()}, ensure_ascii=False))
    elif found is None:
        complain(f"'{said}' is no command. `earshot understand check` shows what can be said.")
    else:
        _print_understanding(found)
    if found is None:
        raise typer.Exit(EXPECTED_FAILURE)


def _print_understanding(found: Understanding) -> None:
    sure = "" if found.confidence == 1 else f"  (nearest, {found.confidence:.2f})"
    say(f"{found.intent}{sure}")
    for name, slot in found.slots.items():
        said = f'  "{slot.spoken}"' if slot.spoken else ""
        say(f"  {name} = {json.dumps(slot.value, ensure_ascii=False)}{said}")
