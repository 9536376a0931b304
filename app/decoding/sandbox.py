"""Restrictions of a decoder process: it computes, reads its input and writes its output, and can do nothing else."""

# Own code: the packages for Landlock and seccomp on PyPI need libseccomp of the system, or cover one of the two only.
# What the kernel lacks is left out and reported. References: landlock(7), seccomp(2), linux/landlock.h,
# linux/seccomp.h, linux/filter.h.

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterator
from typing import Final

from app.linux import PR_SET_NO_NEW_PRIVS, forbid_dumps, prctl, system_call

PARTS: Final = ("landlock", "seccomp", "no_new_privs")
"""What the kernel has to offer; see `confine`."""
OPEN_FILES: Final = 64

LANDLOCK_CREATE_RULESET: Final = 444  # the same number on every architecture
LANDLOCK_RESTRICT_SELF: Final = 446
LANDLOCK_CREATE_RULESET_VERSION: Final = 1  # flag
# ABI version → number of rights to the file system, number of rights to TCP, number of scopes.
# Version 6 isolates signals and abstract sockets; later versions handle nothing that seccomp does not deny.
_LANDLOCK_RIGHTS: Final = {1: (13, 0, 0), 2: (14, 0, 0), 3: (15, 0, 0), 4: (15, 2, 0), 5: (16, 2, 0), 6: (16, 2, 2)}

SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_TSYNC: Final = 1  # all threads
SECCOMP_RET_KILL_PROCESS: Final = 0x80000000
SECCOMP_RET_ERRNO: Final = 0x00050000
SECCOMP_RET_ALLOW: Final = 0x7FFF0000
# Offsets in `struct seccomp_data`; the low half of an argument, since the arguments compared are ints.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K

# Machine → AUDIT_ARCH constant (linux/audit.h), index of its system call numbers in the tables below.
_MACHINES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_SECCOMP: Final = (317, 277)
_ALLOWED: Final = {
    # input and output: of open descriptors, since none can be opened
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "lseek": (8, 62),
    "close": (3, 57),
    # memory
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    # time, locks, random numbers
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "restart_syscall": (219, 128),
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "getrandom": (318, 278),
    # itself and the machine
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "sched_getaffinity": (204, 123),
    # signals it receives, and its end
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
_PRLIMIT64: Final = (302, 261)
_TGKILL: Final = (234, 131)


def confine(memory_bytes: int) -> dict[str, bool]:
    """Restrict this process for good; call it when every file and library it needs is loaded, and from its only thread.

    - limits: address space, no writing to files, no new processes, no core dumps; its memory is closed to processes of
      the same user.
    - `no_new_privs`: no program run by it would gain privileges.
    - `landlock`: no access to the file system, no TCP, no signals to processes outside.
    - `seccomp`: only the system calls of `_ALLOWED`; the others fail with EPERM. There is none that opens a file or a
      socket, or starts, ends or inspects a process.

    Returns:
        Whether each of `PARTS` is in effect.
    """
    forbid_dumps()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    no_new_privs = prctl(PR_SET_NO_NEW_PRIVS, 1)  # first: without it the others need a privilege
    return {"landlock": restrict_files(), "seccomp": restrict_calls(), "no_new_privs": no_new_privs}


def restrict_files() -> bool:
    """Deny every access that Landlock handles; return whether the kernel does."""
    try:
        version = system_call(LANDLOCK_CREATE_RULESET, 0, 0, LANDLOCK_CREATE_RULESET_VERSION)
        rights = _LANDLOCK_RIGHTS[min(version, max(_LANDLOCK_RIGHTS))]
        # struct landlock_ruleset_attr, as long as this version knows it; there are no rules, so nothing is allowed.
        handled = ctypes.create_string_buffer(struct.pack("=3Q", *((1 << count) - 1 for count in rights)))
        size = 8 * sum(count > 0 for count in rights)
        ruleset = system_call(LANDLOCK_CREATE_RULESET, ctypes.addressof(handled), size, 0)
        try:
            system_call(LANDLOCK_RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError:  # not compiled in, not enabled, or denied by a container's own filter
        return False
    return True


def restrict_calls() -> bool:
    """Install the filter of system calls; return whether the kernel accepts it and the architecture is known."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    architecture, column = machine
    program = ctypes.create_string_buffer(b"".join(_filter(architecture, column, os.getpid())))
    instructions = (len(program) - 1) // 8
    described = ctypes.create_string_buffer(struct.pack("@HP", instructions, ctypes.addressof(program)))
    try:
        pointer = ctypes.addressof(described)
        system_call(_SECCOMP[column], SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, pointer)
    except OSError:
        return False
    return True


def _filter(architecture: int, column: int, pid: int) -> Iterator[bytes]:
    """Yield the instructions (`struct sock_filter`) of the filter."""
    yield _instruction(_LOAD, _ARCHITECTURE)
    yield _instruction(_EQUAL, architecture, skip_if_true=1)
    yield _instruction(_RETURN, SECCOMP_RET_KILL_PROCESS)  # 32-bit system calls, whose numbers differ
    yield _instruction(_LOAD, _NUMBER)
    for numbers in _ALLOWED.values():
        yield _instruction(_EQUAL, numbers[column], skip_if_false=1)
        yield _instruction(_RETURN, SECCOMP_RET_ALLOW)
    # `abort` and its own limits: the first argument is this process.
    for numbers, itself in ((_TGKILL, pid), (_PRLIMIT64, 0)):
        yield _instruction(_EQUAL, numbers[column], skip_if_false=4)
        yield _instruction(_LOAD, _FIRST_ARGUMENT)
        yield _instruction(_EQUAL, itself, skip_if_false=1)
        yield _instruction(_RETURN, SECCOMP_RET_ALLOW)
        yield _instruction(_RETURN, SECCOMP_RET_ERRNO | errno.EPERM)
    yield _instruction(_RETURN, SECCOMP_RET_ERRNO | errno.EPERM)


def _instruction(code: int, value: int, *, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, skip_if_true, skip_if_false, value)
