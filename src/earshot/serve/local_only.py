"""Takes away from this process, for good, the means to reach any other machine.

Where the kernel helps (Linux on x86-64 and aarch64), a filter of system calls refuses to make,
bind or connect a socket: what listens already goes on to accept, and nothing else is ever opened,
whatever the library that tries. Elsewhere only sockets of Python are refused. Knows nothing of
servers; call it once they listen.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from typing import Any

_SECCOMP_SET_MODE_FILTER = 1
_FILTER_FLAG_TSYNC = 1  # all threads, also those that run already
_PR_SET_NO_NEW_PRIVS = 38
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_GREATER_OR_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # the latter: EPERM
_X32_CALLS = 0x40000000  # x86-64 answers to a second set of numbers from here on

# machine: (AUDIT_ARCH, number of seccomp, numbers of socket, connect, bind, io_uring_setup; the
# last because a ring makes sockets without any of the others)
_MACHINES = {
    "x86_64": (0xC000003E, 317, (41, 42, 49, 425)),
    "aarch64": (0xC00000B7, 277, (198, 203, 200, 425)),
}

_watched = False


def lock() -> str:
    """Refuse every new socket of this process from now on; it cannot be undone.

    Returns:
        "kernel" where the kernel refuses them, "python" where only Python does.
    """
    if _lock_in_kernel():
        return "kernel"
    _lock_in_python()
    return "python"


def _program(arch: int, calls: tuple[int, ...]) -> bytes:
    """Berkeley packet filter over `struct seccomp_data {int nr; u32 arch; ...}`.

    A foreign architecture's numbers mean other calls, so all of its calls are refused.
    """
    steps = [
        (_LOAD_WORD, 0, 0, 4),
        (_JUMP_IF_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD_WORD, 0, 0, 0),
        (_JUMP_IF_GREATER_OR_EQUAL, 0, 1, _X32_CALLS),
        (_RETURN, 0, 0, _REFUSE),
    ]
    for number in calls:
        steps += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _lock_in_kernel() -> bool:
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return False
    if struct.calcsize("P") != 8:
        return False
    arch, seccomp, calls = _MACHINES[platform.machine()]
    code = _program(arch, calls)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _FilterProgram(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    # Without this promise the kernel takes filters from root only.
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    done = libc.syscall(
        seccomp, _SECCOMP_SET_MODE_FILTER, _FILTER_FLAG_TSYNC, ctypes.byref(program)
    )
    return bool(done == 0)


def _lock_in_python() -> None:
    global _watched
    if _watched:
        return
    _watched = True

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"):
            raise PermissionError(
                f"{event}{arguments[1:]!r}: refused, because the server was started with "
                "--local-only"
            )

    sys.addaudithook(refuse)


def open_sockets() -> list[str]:
    """What this process has open that is a socket, for tests and the log.

    Returns:
        One entry a socket, such as `socket:[4711]`; empty where /proc is missing.
    """
    found = []
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return []
    for name in names:
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.append(target)
    return found
