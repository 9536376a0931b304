"""Calls of the Linux kernel and of glibc that Python's standard library lacks; without effect on other systems."""

import ctypes
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38
M_TRIM_THRESHOLD: Final = -1  # malloc.h
M_MMAP_THRESHOLD: Final = -3
ENVIRONMENT_FIELD: Final = 47  # of /proc/self/stat after the command's name: `env_start`, before `env_end`; proc(5)


_libc: Final = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> bool:
    """Change an attribute of this process; return whether the kernel accepts it."""
    return sys.platform == "linux" and not _libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0)))


def system_call(number: int, *arguments: int) -> int:
    """Make a system call and return its result.

    Raises:
        OSError: the call fails.
    """
    result: int = _libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def forbid_dumps() -> bool:
    """Deny core dumps, and other processes of the same user access to this one's memory and environment.

    Processes with CAP_SYS_PTRACE, such as those of root, keep their access.

    Returns:
        Whether the kernel accepts it.
    """
    return prctl(PR_SET_DUMPABLE, 0)


def erase_variables(names: Collection[str]) -> None:
    """Remove environment variables, in upper or lower case, from `os.environ` and from /proc/self/environ.

    The kernel shows the memory in which the process was given its environment. `del os.environ[…]` does not change that
    memory, so the values there are overwritten.
    """
    wanted = {name.upper() for name in names}
    for name in [name for name in os.environ if name.upper() in wanted]:
        del os.environ[name]
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = map(int, fields[ENVIRONMENT_FIELD : ENVIRONMENT_FIELD + 2])
    except (OSError, ValueError):
        return
    for variable in ctypes.string_at(start, end - start).split(b"\0"):
        key, _, value = variable.partition(b"=")
        if os.fsdecode(key).upper() in wanted:
            ctypes.memset(start + len(key) + 1, 0, len(value))
        start += len(variable) + 1


def return_free_memory() -> None:
    """Return freed memory to the system, which glibc keeps otherwise; takes milliseconds."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(ctypes.c_size_t(0))


def keep_freed_memory(nbytes: int) -> None:
    """Let glibc keep that much freed memory for later allocations of up to half of it, instead of returning it.

    Memory that the system gives again is zeroed and mapped page by page: a fifth of the time of acoustic features.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_MMAP_THRESHOLD, nbytes // 2)
        _libc.mallopt(M_TRIM_THRESHOLD, nbytes)


def make_thread_nicer(by: int) -> None:
    """Lower the priority of the calling thread; other systems have none for a thread."""
    if sys.platform == "linux" and by:
        os.nice(by)  # of the thread, though POSIX says of the process
