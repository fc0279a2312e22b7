"""Times and weighs whole processes: start to first line of output, peak memory, growth.

Peak memory is the kernel's high-water mark of the process itself (VmHWM), read from inside at
its end. The figure that wait4 gives is unusable here: it remembers the parent's size from
before the new program was loaded. Knows nothing of what the processes do.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["ColdStart", "cold_start", "peak_memory_mib", "watched"]

# Runs a Python command as `python -m` or `-c` would, and writes its own peak when it ends.
_WEIGHED = """
import atexit, sys
def report():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            sys.stderr.write("\\nPEAK_KIB " + line.split()[1] + "\\n")
atexit.register(report)
"""


@dataclass(slots=True)
class ColdStart:
    """Seconds from process start to the first line on stdout, one a run."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)  # of the whole process, to its end
    output: str = ""


def cold_start(command: Sequence[str], into: ColdStart) -> None:
    """Starts a process once and notes when its first line of output is there.

    Args:
        command: The program and its arguments.
        into: Gets the times and the output.

    Raises:
        SystemExit: The command failed or said nothing.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)  # finer than os.times()
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        into.wall_s.append(time.perf_counter() - start)
        rest = process.stdout.read()
        errors = process.stderr.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode or not line:
        raise SystemExit(f"error: {' '.join(command)} failed: {errors.strip()[-400:]}")
    into.output = (line + rest).strip()
    into.cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def peak_memory_mib(code: str) -> float:
    """Peak resident memory of a Python process that runs `code`, in MiB.

    Raises:
        SystemExit: The process failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", _WEIGHED + code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    for line in done.stderr.splitlines():
        if line.startswith("PEAK_KIB") and done.returncode == 0:
            return int(line.split()[1]) / 1024.0
    raise SystemExit(f"error: a measured process failed: {done.stderr.strip()[-400:]}")


def watched(code: str, *, every_s: float = 0.25) -> tuple[float, float, list[float]]:
    """Runs a Python process and looks at its resident memory while it runs.

    Args:
        code: What it runs.
        every_s: How often to look, in seconds.

    Returns:
        Peak MiB (from inside), wall seconds, and MiB at each look.

    Raises:
        SystemExit: The process failed.
    """
    start = time.perf_counter()
    seen: list[float] = []
    with subprocess.Popen(
        [sys.executable, "-c", _WEIGHED + code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None:
            resident = _resident_mib(process.pid)
            if resident is not None:
                seen.append(resident)
            time.sleep(every_s)
        assert process.stderr is not None
        errors = process.stderr.read()
    for line in errors.splitlines():
        if line.startswith("PEAK_KIB") and process.returncode == 0:
            return int(line.split()[1]) / 1024.0, time.perf_counter() - start, seen
    raise SystemExit(f"error: a measured process failed: {errors.strip()[-400:]}")


def _resident_mib(pid: int) -> float | None:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
