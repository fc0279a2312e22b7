"""Letter to sound: a model that does not fit itself is refused, whatever is wrong with it.

What it finds is tested in tests/data/test_pronunciation.py.
"""

from typing import Any

import numpy as np
import pytest

from earshot import _native


def model(**changes: Any) -> _native.LetterToSound:
    """Letters a and b: unit 0 says 1, unit 1 says 2; unit 2 ends a word, unit 3 begins one."""
    arrays: dict[str, Any] = {
        "first": [1, 5, 5, 5, 5, 5],
        "units": [0, 0, 1, 2, 3],
        "suffix": [0, 0, 0, 0, 0],
        "state": [0, 0, 0, 0, 0],
        "log_prob": [0.0, -1.0, -1.0, -1.0, -1.0],
        "backoff": [0.0] * 5,
        "phones": [b"\x01", b"\x02", b"", b""],
        "letters": [0, 1, 2, 3],
        "start": 0,
        **changes,
    }
    kinds = {"units": np.uint16, "log_prob": np.float32, "backoff": np.float32}
    for name, value in arrays.items():
        if name not in ("phones", "start"):
            arrays[name] = np.array(value, kinds.get(name, np.int32))
    return _native.LetterToSound(**arrays)


def test_words_are_said() -> None:
    assert model().best(bytes([0, 1, 1]), 2) == [(b"\x01\x02\x02", -4.0)]
    assert model().best(b"", 2) == []


def test_unknown_letters_are_refused() -> None:
    with pytest.raises(ValueError, match="letter 2 is not in the model"):
        model().best(bytes([0, 2]), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"first": [1, 5, 5, 5, 5]},
        {"first": [1, 6, 6, 6, 6, 7]},
        {"first": [5, 1, 5, 5, 5, 5]},
        {"units": []},
        {"units": [0, 0, 1, 2, 4]},
        {"suffix": [0, 0, 0, 0, 5]},
        {"suffix": [0, 0, 3, 0, 0]},
        {"state": [0, -1, 0, 0, 0]},
        {"log_prob": [0.0]},
        {"backoff": [0.0] * 6},
        {"letters": [0, 1, 2, 9]},
        {"letters": [2, 1, 0, 3]},
        {"letters": [0]},
        {"start": 5},
        {"start": -1},
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="letter_to_sound"):
        model(**changes)
