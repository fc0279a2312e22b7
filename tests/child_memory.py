"""Peak memory of fresh processes, which nothing that ran before can have raised.

The kernel's high-water mark (VmHWM) is read by the process itself. What wait4 and getrusage
give will not do: it remembers the parent's size from before the new program was loaded, and in
a process that ran other tests the peak may be so high that no growth shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_STATUS = Path("/proc/self/status")
_PRELUDE = """
import sys
def peak_kib():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1])
"""


def child_figures(code: str, *arguments: object) -> list[int]:
    """Runs Python code in a fresh process, where `peak_kib()` gives its peak so far.

    Args:
        code: What to run; it prints whole numbers, such as `print(peak_kib())`.
        arguments: Its sys.argv[1:].

    Returns:
        The numbers that it printed.
    """
    if not _STATUS.exists() or "VmHWM" not in _STATUS.read_text():
        pytest.skip("this system does not tell the peak memory of a process (VmHWM in /proc)")
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [int(number) for number in done.stdout.split()]
