"""Makes the oracles importable for the tests beside them: pytest imports by path alone here."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ear_builder as eb

from earshot import _native


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[eb.Ear], _native.Model]:
    folder = tmp_path_factory.mktemp("models")
    count = itertools.count()

    def open_model(ear: eb.Ear) -> _native.Model:
        path = folder / f"{next(count)}.ear"
        path.write_bytes(ear.bytes())
        return _native.Model(str(path))

    return open_model
