"""Code that has taken over a decoder process is refused everything but computing and answering."""

import asyncio
import ctypes
import errno
import io
import json
import os
import platform
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import linux
from app.decoding import sandbox
from app.decoding.pool import DecodePool
from model.errors import EmptyModality
from model.features.audio.raw_features import AudioFeatures
from tests.support.hostile import attempts

Outcomes = dict[str, str]
NAMES = list(attempts(0, ""))
# What Landlock's first version and what the filter of system calls refuse on their own.
FILES = {
    "open the server's memory",
    "read the server's environment",
    "read its own environment",
    "read a file",
    "read the users",
    "read the program",
    "read relative to a folder",
    "list a folder",
    "write a new file",
    "write to a file",
    "make a folder",
    "make a link",
    "delete a file",
}
TRACING = {"trace the server", "read the server's memory"}  # which a system may restrict for every process

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are parts of Linux")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def make_folder(parent: Path) -> str:
    for name in ("file", "other"):
        (parent / name).write_text("content")
    return str(parent)


@pytest.fixture(scope="module")
def taken_over(port: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcomes, dict[str, str]]:
    """Outcomes of the attempts in a process of a pool, and its environment."""
    targets = {"port": port, "folder": make_folder(tmp_path_factory.mktemp("taken_over"))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.decoding.process.WORKER", "tests.support.hostile")
        patch.setenv("EMMR_API_KEYS", '["hunter2"]')
        pool = DecodePool(workers=1)
        pool.start()
        try:
            with pytest.raises(EmptyModality) as caught:
                asyncio.run(pool.run({"targets": targets}, io.BytesIO(), "audio", AudioFeatures))
        finally:
            pool.stop()
    outcomes, environment = json.loads(caught.value.detail)
    return outcomes, environment


def attempt_after(preparation: str, port: int, folder: Path) -> Outcomes:
    """Make the attempts in a process of their own, after some statements."""
    code = (
        "import json, sys\nfrom app.decoding import sandbox\nfrom tests.support.hostile import attempt_all\n"
        f"{preparation}\nprint(json.dumps(attempt_all({port}, {make_folder(folder)!r})))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    outcomes: Outcomes = json.loads(done.stdout)
    return outcomes


def refused(outcomes: Outcomes) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome == "refused"}


@on_linux
@pytest.mark.parametrize("name", NAMES)
def test_an_attempt_of_a_taken_over_decoder_is_refused(name: str, taken_over: tuple[Outcomes, dict[str, str]]) -> None:
    outcomes, _ = taken_over
    assert outcomes[name] == "refused"


def test_a_decoder_does_not_inherit_the_environment(taken_over: tuple[Outcomes, dict[str, str]]) -> None:
    _, environment = taken_over
    assert "PYTHONPATH" in environment
    assert "EMMR_API_KEYS" not in environment


@on_linux
def test_the_attempts_succeed_in_a_process_without_sandbox(port: int, tmp_path: Path) -> None:
    outcomes = attempt_after("", port, tmp_path)
    assert list(outcomes) == NAMES
    assert refused(outcomes) <= TRACING


@on_linux
def test_without_a_filter_of_system_calls_files_and_tcp_are_refused(port: int, tmp_path: Path) -> None:
    outcomes = attempt_after("sandbox.restrict_calls = lambda: False\nsandbox.confine(2**31)", port, tmp_path)
    assert refused(outcomes) >= FILES | {"trace the server"}
    version = linux.system_call(sandbox.LANDLOCK_CREATE_RULESET, 0, 0, sandbox.LANDLOCK_CREATE_RULESET_VERSION)
    if version >= max(sandbox._LANDLOCK_RIGHTS):
        assert refused(outcomes) >= {"connect", "listen", "truncate a file", "signal the server"}


@on_linux
def test_the_first_version_of_landlock_refuses_files(port: int, tmp_path: Path) -> None:
    first = "sandbox._LANDLOCK_RIGHTS = {1: sandbox._LANDLOCK_RIGHTS[1]}"
    outcomes = attempt_after(f"{first}\nsandbox.restrict_calls = lambda: False\nsandbox.confine(2**31)", port, tmp_path)
    assert refused(outcomes) >= FILES
    assert outcomes["connect"] == "allowed"


@on_linux
def test_without_landlock_every_attempt_is_refused(port: int, tmp_path: Path) -> None:
    outcomes = attempt_after("sandbox.restrict_files = lambda: False\nsandbox.confine(2**31)", port, tmp_path)
    assert refused(outcomes) == set(NAMES)


@on_linux
def test_a_confined_process_cannot_exceed_its_memory(port: int, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        attempt_after("sandbox.confine(2**30)\nbytearray(2**31)", port, tmp_path)
    assert b"\nMemoryError\n" in caught.value.stderr


@pytest.mark.parametrize(
    ("version", "size", "rights"),
    [
        (1, 8, (2**13 - 1, 0, 0)),
        (2, 8, (2**14 - 1, 0, 0)),
        (3, 8, (2**15 - 1, 0, 0)),
        (4, 16, (2**15 - 1, 3, 0)),
        (5, 16, (2**16 - 1, 3, 0)),
        (6, 24, (2**16 - 1, 3, 3)),
        (9, 24, (2**16 - 1, 3, 3)),
    ],
)
def test_each_version_of_landlock_is_given_the_rights_it_knows(
    version: int, size: int, rights: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []

    def kernel(number: int, *arguments: int) -> int:
        if number == sandbox.LANDLOCK_RESTRICT_SELF:
            return 0
        if arguments[2] == sandbox.LANDLOCK_CREATE_RULESET_VERSION:
            return version
        address, length, _ = arguments
        calls.append((length, *struct.unpack("=3Q", ctypes.string_at(address, 24))))
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(sandbox, "system_call", kernel)
    assert sandbox.restrict_files()
    assert calls == [(size, *rights)]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_what_the_kernel_lacks_is_reported(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(*_: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(sandbox, "system_call", kernel)
    assert not sandbox.restrict_files()
    assert not sandbox.restrict_calls()


def test_an_unknown_machine_has_no_filter_of_system_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not sandbox.restrict_calls()


# ---- the filter's program --------------------------------------------------------------------------------------------

PID = 4242


def run_filter(machine: str, architecture: int, number: int, first: int = 0) -> int:
    """Interpret the filter of a machine on one system call; return its verdict."""
    expected, column = sandbox._MACHINES[machine]
    program = [struct.unpack("=HBBI", raw) for raw in sandbox._filter(expected, column, PID)]
    data = {0: number, 4: architecture, 16: first}  # struct seccomp_data
    accumulator = position = 0
    while True:
        code, skip_if_true, skip_if_false, value = program[position]
        position += 1
        match code:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                accumulator = data[value]
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                position += skip_if_true if accumulator == value else skip_if_false
            case 0x06:  # BPF_RET | BPF_K
                return int(value)
            case other:
                raise AssertionError(other)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_allows_its_list_alone(machine: str) -> None:
    architecture, column = sandbox._MACHINES[machine]
    verdicts = {number: run_filter(machine, architecture, number) for number in range(600)}
    listed = {numbers[column] for numbers in sandbox._ALLOWED.values()}
    allowed = {number for number, verdict in verdicts.items() if verdict == sandbox.SECCOMP_RET_ALLOW}
    assert allowed == listed | {sandbox._PRLIMIT64[column]}  # whose first argument is 0, this process
    assert {verdicts[number] for number in verdicts.keys() - allowed} == {sandbox.SECCOMP_RET_ERRNO | errno.EPERM}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_allows_a_process_to_abort_itself_alone(machine: str) -> None:
    architecture, column = sandbox._MACHINES[machine]
    verdicts = [run_filter(machine, architecture, sandbox._TGKILL[column], first) for first in (PID, PID + 1, 0)]
    assert [verdict == sandbox.SECCOMP_RET_ALLOW for verdict in verdicts] == [True, False, False]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_system_calls_of_another_architecture_end_the_process(machine: str) -> None:
    verdict = run_filter(machine, 0x40000003, 0)  # AUDIT_ARCH_I386
    assert verdict == sandbox.SECCOMP_RET_KILL_PROCESS
