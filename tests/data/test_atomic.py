"""Files appear whole or not at all, and what dead processes left is cleaned up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from earshot.data.atomic import remove_leftovers, replaced_file

WRITER = """
import sys
from pathlib import Path
from earshot.data.atomic import replaced_file
with replaced_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.readline()
    file.write(b" and half")
"""


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replaced_file(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    (tmp_path / ".a.txt.1.00000000.tmp").write_bytes(b"of another file")
    (tmp_path / ".a.backup.tmp").write_bytes(b"not ours")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        for _ in range(2)
    ]
    dead, living = writers
    for writer in writers:
        assert writer.stdout is not None and writer.stdin is not None
        assert writer.stdout.readline() == b"writing\n"
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 5
    assert remove_leftovers(path) == 1
    assert len(os.listdir(tmp_path)) == 4
    living.communicate(b"\n")
    assert living.returncode == 0
    assert path.read_bytes() == b"half and half"
    assert sorted(os.listdir(tmp_path)) == [".a.backup.tmp", ".a.txt.1.00000000.tmp", "a"]


@pytest.mark.parametrize("name", ["", ".", "/", "folder", "folder/..", "none/.."])
def test_a_folder_is_no_file_to_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IsADirectoryError) as caught, replaced_file(Path(name)):
        pass
    assert caught.value.filename == str(Path(name))
    assert os.listdir(tmp_path) == ["folder"]


def test_a_pipe_or_a_socket_is_not_replaced(tmp_path: Path) -> None:
    pipe, bound, link = tmp_path / "pipe", tmp_path / "socket", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bound))
        for path in (pipe, bound, link):
            with pytest.raises(OSError, match="Not a regular file"), replaced_file(path):
                pass
    assert pipe.is_fifo() and bound.is_socket() and link.is_symlink()
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_leads_to_the_file_that_is_written(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    link.symlink_to(target)
    if exists:
        target.write_bytes(b"old")
    with replaced_file(link) as file:
        file.write(b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"


def test_an_error_names_the_folder_and_not_the_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replaced_file(tmp_path / "none" / "a"):
        pass
    assert caught.value.filename == str(tmp_path / "none")
