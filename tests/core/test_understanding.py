"""What understanding ends in: its JSON form, and errors with a line a problem."""

import json
import pickle

from earshot.core.errors import CommandsError, CommandsProblem
from earshot.core.understanding import SlotValue, Understanding


def test_an_understanding_as_json():
    found = Understanding("Dim", {"level": SlotValue(22, "twenty two")}, 0.123456)
    assert json.loads(json.dumps(found.as_dict())) == {
        "intent": "Dim",
        "slots": {"level": {"value": 22, "spoken": "twenty two"}},
        "confidence": 0.1235,
    }


def test_nothing_understood_is_an_understanding_too():
    assert Understanding(None, {}, 0.2).as_dict() == {
        "intent": None,
        "slots": {},
        "confidence": 0.2,
    }


def test_problems_are_a_line_each_and_cross_a_process_boundary():
    problems = [
        CommandsProblem("a.yaml:3", "the list is empty", "fill it"),
        CommandsProblem("b.yaml:7", "there is no rule <x>", "define it"),
    ]
    error = pickle.loads(pickle.dumps(CommandsError(problems)))
    assert str(error) == (
        "a.yaml:3: the list is empty; fill it.\nb.yaml:7: there is no rule <x>; define it."
    )
    assert list(error.problems) == problems
