"""The command as a whole: start, help, exit codes, and what the documentation says of it."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import soundfile
import typer.main
from typer.testing import Result

import earshot as package
from earshot.cli.app import app

Earshot = Callable[..., Result]
COMMAND = [sys.executable, "-m", "earshot.cli"]


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    children = getattr(command, "commands", None)
    if not children:
        yield name, command
        return
    if command.invoke_without_command:  # a command that others stand below
        yield name, command
    for child in children:
        yield from commands(children[child], f"{name} {child}")


ALL_COMMANDS = dict(commands(typer.main.get_command(app), "earshot"))


def test_version(earshot: Earshot) -> None:
    assert earshot("--version").stdout == f"earshot {package.__version__}\n"


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_every_command_has_help_for_itself_and_its_options(earshot: Earshot, name: str) -> None:
    result = earshot(*name.split()[1:], "--help")
    assert result.exit_code == 0
    for parameter in ALL_COMMANDS[name].params:
        if parameter.name != "recipe":
            assert getattr(parameter, "help", None), (name, parameter.name)


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_the_reference_names_every_command_and_option(repository: Path, name: str) -> None:
    text = (repository / "docs" / "reference" / "cli.md").read_text()
    section = re.search(rf"^## `{name}`$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"docs/reference/cli.md has no section `{name}`"
    options = {option for p in ALL_COMMANDS[name].params for option in p.opts if option[0] == "-"}
    options = {option for option in options if option.startswith("--")} - {"--help"}
    documented = set(re.findall(r"^\| `(?:-\w, )?(--[\w-]+)", section[1], re.MULTILINE))
    assert documented == options


def test_unknown_commands_and_options_exit_2(earshot: Earshot) -> None:
    assert earshot("transcrib").exit_code == 2
    assert earshot("transcribe", "--frmat", "srt", "a.wav").exit_code == 2


def test_help_loads_neither_numpy_nor_the_engine() -> None:
    code = (
        "import sys\n"
        "from earshot.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('numpy', 'soundfile', 'torch', 'earshot._native') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_closed_pipe_ends_the_command_quietly(tmp_path: Path) -> None:
    """As in `earshot model verify ... | true`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "model", "verify", "--json", *["missing.ear"] * 50],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("command", [("transcribe", "a.wav"), ("model", "verify")])
def test_an_instruction_set_that_is_not_there_is_one_line(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*COMMAND, *command],
        env={**os.environ, "EARSHOT_ISA": "abacus"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: EARSHOT_ISA is 'abacus'")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_ends_a_pipe_and_keeps_its_words(repository: Path) -> None:
    samples, rate = soundfile.read(repository / "examples" / "turn-on-the-lights.flac")
    wav = io.BytesIO()
    soundfile.write(wav, samples, rate, format="WAV", subtype="PCM_16")
    data = bytearray(wav.getvalue())
    data[40:44] = b"\xff\xff\xff\x7f"  # a length that nobody knows yet
    with subprocess.Popen(
        [*COMMAND, "transcribe", "--stream", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=False,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(data)
        process.stdin.flush()
        first_words = process.stderr.readline().decode().split(" s  ")[1].split()
        process.send_signal(signal.SIGINT)
        words = process.stdout.read().decode().split()
        assert process.wait(timeout=30) == 0
    assert words[: len(first_words) - 1] == first_words[:-1]  # the last one may have grown
    assert words
