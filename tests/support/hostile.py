"""What code that has taken over a decoder process may try, each as one call that is either refused or not.

As `python -m tests.support.hostile` it is a decoder process whose decoder makes all the attempts.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from app.decoding import worker
from app.decoding.protocol import Decoded, Json
from model.errors import EmptyModality
from model.modality import Modality

PTRACE_SEIZE = 0x4206  # linux/ptrace.h

_libc = ctypes.CDLL(None, use_errno=True)


def attempts(port: int, folder: str) -> dict[str, Callable[[], object]]:
    """Return the attempts by name.

    Args:
        port: of 127.0.0.1, where something listens.
        folder: holds the files `file` and `other`, and may be written to.
    """
    server, path = os.getppid(), Path(folder)
    here = ("127.0.0.1", port)
    return {
        "connect": lambda: socket.socket().connect(here),
        "listen": lambda: socket.socket().bind((here[0], 0)),
        "send a datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"key", here),
        "make a local socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(),
        "execute": lambda: os.execve("/nonexistent/program", ["program"], {}),
        "fork": _fork,
        "make a namespace": partial(_call, _libc.unshare, 0),
        "trace the server": partial(_call, _libc.ptrace, PTRACE_SEIZE, server, 0, 0),
        "read the server's memory": partial(_read_memory, server),
        "open the server's memory": lambda: Path(f"/proc/{server}/mem").open("rb").close(),
        "read the server's environment": lambda: Path(f"/proc/{server}/environ").read_bytes(),
        "change the server's limits": partial(resource.prlimit, server, resource.RLIMIT_NOFILE),
        "signal the server": partial(os.kill, server, 0),
        "signal a thread of the server": partial(_call, _libc.tgkill, server, server, 0),
        "signal all processes of the group": lambda: os.killpg(os.getpgid(0), 0),
        "open a handle of the server": lambda: signal.pidfd_send_signal(os.pidfd_open(server), 0),
        "read its own environment": lambda: Path("/proc/self/environ").read_bytes(),
        "read a file": (path / "file").read_bytes,
        "read the users": lambda: Path("/etc/passwd").read_bytes(),
        "read the program": lambda: Path(__file__).read_bytes(),
        "read relative to a folder": lambda: os.open("file", os.O_RDONLY, dir_fd=os.open(folder, os.O_RDONLY)),
        "list a folder": lambda: list(path.iterdir()),
        "ask for a file's size": (path / "file").stat,
        "write a new file": lambda: (path / "new").open("wb").close(),
        "write to a file": lambda: (path / "file").open("r+b").close(),
        "truncate a file": lambda: os.truncate(path / "file", 1),
        "change a file's mode": lambda: (path / "file").chmod(0o600),
        "make a folder": (path / "folder").mkdir,
        "make a link": lambda: (path / "link").symlink_to("/etc"),
        "rename a file": lambda: (path / "file").rename(path / "renamed"),
        "delete a file": (path / "other").unlink,
        "make a file in memory": lambda: os.close(os.memfd_create("code")),
        "change the folder": partial(os.chdir, "/"),
    }


def attempt_all(port: int, folder: str) -> dict[str, str]:
    """Make every attempt and return by name `refused`, or what happened."""
    return {name: _outcome(attempt) for name, attempt in attempts(port, folder).items()}


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        # Other errors, such as that a file is missing, mean that the kernel would have done what was asked for.
        return "refused" if error.errno in {errno.EPERM, errno.EACCES} else f"allowed: {error.strerror}"
    return "allowed"


def _call(function: Any, *arguments: int) -> None:
    if function(*map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _fork() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _read_memory(pid: int) -> None:
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)  # struct iovec: address, length
    address = ctypes.addressof(vector)
    _call(_libc.process_vm_readv, pid, address, 1, address, 1, 0)


def _decode(job: Json, file: BinaryIO) -> Decoded:
    del file
    targets: Mapping[str, Any] = job["targets"]
    raise EmptyModality(Modality.AUDIO, "attempts", json.dumps([attempt_all(**targets), dict(os.environ)]))


if __name__ == "__main__":
    vars(worker)["decode"] = _decode
    worker.main()
