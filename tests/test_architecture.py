"""The plan of the house, as tests: floors, the torch-free wing, a quick import.

Each check starts a process of its own, because what is asked is what a fresh interpreter loads.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TORCH_WING = ("models", "compress", "train")
HEAVY = ("torch", "lightning", "lhotse", "scipy", "pyroomacoustics", "onnxruntime", "sklearn")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def shipped_modules(repository: Path) -> list[str]:
    """Every module outside the torch wing, read from the source tree."""
    root = repository / "src" / "earshot"
    names = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] in TORCH_WING:
            continue
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        names.append(".".join(("earshot", *parts)))
    return names


def test_imports_obey_the_floors(repository: Path) -> None:
    pytest.importorskip("importlinter", reason="import-linter is not installed ([dev])")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--config",
            str(repository / "pyproject.toml"),
            "--no-cache",
        ],
        cwd=repository / "src",
        env={**os.environ, "PYTHONPATH": str(repository / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


def test_the_shipped_wing_loads_without_torch(repository: Path) -> None:
    modules = shipped_modules(repository)
    assert "earshot.cli.app" in modules
    assert "earshot.session.recognizer" in modules
    wing = tuple(f"earshot.{name}" for name in TORCH_WING)
    code = (
        "import importlib, sys\n"
        f"for name in {HEAVY!r}: sys.modules[name] = None\n"  # importing one now raises
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"loaded = [n for n in sys.modules if n.startswith({wing!r})]\n"
        "assert not loaded, loaded\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, earshot\n"
        f"print([n for n in {(*HEAVY, 'numpy', 'soundfile', 'typer')!r} if n in sys.modules])\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    import earshot

    assert earshot.__version__
    missing = [name for name in earshot.__all__ if not hasattr(earshot, name)]
    assert not missing
    assert "Recognizer" in earshot.__all__


@pytest.mark.parametrize("wing", TORCH_WING)
def test_the_torch_wing_is_a_folder_of_its_own(wing: str) -> None:
    assert importlib.util.find_spec(f"earshot.{wing}") is not None
