import os
import subprocess
import sys

import pytest

from app import linux
from app.settings import SECRET_VARIABLES, Settings

SECRET = "hunter2"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl(2) and /proc of Linux")


def run_python(code: str, **environment: str) -> str:
    """Run statements in a process of its own and return what they print."""
    done = subprocess.run(
        [sys.executable, "-c", f"from app import linux\n{code}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("name", ["EMMR_API_KEYS", "emmr_api_keys"])
def test_an_erased_variable_is_in_no_view_of_the_environment(name: str) -> None:
    shown = run_python(
        "import os, pathlib, subprocess\nlinux.erase_variables(['EMMR_API_KEYS'])\n"
        "print(dict(os.environ))\nprint(pathlib.Path('/proc/self/environ').read_bytes())\n"
        "subprocess.run(['cat', '/proc/self/environ'])",
        **{name: SECRET, "EMMR_PORT": "9000"},
    )
    assert SECRET not in shown
    assert shown.count("9000") == 3


def test_every_secret_setting_is_erased() -> None:
    secret = [f"EMMR_{name.upper()}" for name, field in Settings.model_fields.items() if "Secret" in str(field)]
    assert sorted(SECRET_VARIABLES) == sorted(secret)


def test_a_process_without_dumps_hides_its_environment() -> None:
    # The kernel then shows root as the owner of the files in /proc/PID. Root's own processes are not different.
    become_user = "os.setuid(65534)" if os.getuid() == 0 else ""
    owners = run_python(
        f"import os\n{become_user}\nlinux.prctl(linux.PR_SET_DUMPABLE, 1)\n"
        "print(os.stat('/proc/self/environ').st_uid, linux.forbid_dumps(), os.stat('/proc/self/environ').st_uid)"
    ).split()
    assert owners == [str(os.getuid() or 65534), "True", "0"]


def test_a_failing_system_call_raises_its_error() -> None:
    with pytest.raises(OSError, match="not implemented"):
        linux.system_call(1_000_000)


def test_freed_memory_is_returned() -> None:
    before, after = run_python(
        "import pathlib, resource\n"
        "def resident(): return int(pathlib.Path('/proc/self/statm').read_text().split()[1])\n"
        "blocks = [bytes(100_000) for _ in range(1000)]\nlast = bytes(100_000)\ndel blocks\nbefore = resident()\n"
        "linux.return_free_memory()\nprint(before, resident())"
    ).split()
    assert int(after) < int(before) / 2


def test_kept_memory_is_not_mapped_again() -> None:
    faults = (
        "import resource\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def work(): [bytes(1_000_000) for _ in range(10)]\n"
        "work()\nwork()\nbefore = faults()\n"
        "for _ in range(10): work()\nprint(faults() - before)"
    )
    (mapped,) = run_python(faults).split()
    (kept,) = run_python(f"linux.keep_freed_memory(64 * 2**20)\n{faults}").split()
    assert int(kept) < int(mapped) / 10


def test_only_the_calling_thread_becomes_nicer() -> None:
    before, after, others = run_python(
        "import os, threading\n"
        "def nice(): return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())\n"
        "found = [nice()]\n"
        "def run():\n    linux.make_thread_nicer(5)\n    found.append(nice())\n"
        "thread = threading.Thread(target=run)\nthread.start()\nthread.join()\nprint(*found, nice())"
    ).split()
    assert (int(after), int(others)) == (int(before) + 5, int(before))
