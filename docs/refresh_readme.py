"""Fill the README with what is true today: the answers to its own commands, and the shipped weights' results.

For: `make readme`. Each `<!-- answer -->` block gets what the bash block above it prints, run against a service started
for it; each `<!-- results -->` block gets the tables of `weights/default/results.json`.
Does not know: any figure or answer.
"""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from model.training.report import markdown

ROOT: Final = Path(__file__).resolve().parents[1]
README: Final = ROOT / "README.md"
RESULTS: Final = ROOT / "weights" / "default" / "results.json"
ADDRESS: Final = "127.0.0.1:8000"  # as the README's commands have it
READY_SECONDS: Final = 120
ANSWER: Final = re.compile(
    r"(?P<before>```bash\n(?P<command>[^`]+)```\n\n<!-- answer -->\n).*?(?P<after><!-- /answer -->)", re.DOTALL
)
SUMMARY: Final = re.compile(r"(?P<before><!-- summary -->\n).*?(?P<after><!-- /summary -->)", re.DOTALL)
TABLES: Final = re.compile(r"(?P<before><!-- results -->\n).*?(?P<after><!-- /results -->)", re.DOTALL)


def main() -> None:
    """Rewrite the README's blocks."""
    page = README.read_text(encoding="utf-8")
    with service() as address:
        page = ANSWER.sub(lambda found: found["before"] + answered(found["command"], address) + found["after"], page)
    page = TABLES.sub(lambda found: found["before"] + results() + found["after"], page)
    page = SUMMARY.sub(lambda found: found["before"] + summary() + found["after"], page)
    README.write_text(page, encoding="utf-8")


@contextmanager
def service() -> Iterator[str]:
    """Serve the shipped weights while the block runs; its `host:port`.

    Raises:
        SystemExit: the service ends, or is not ready in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    emmr = Path(sys.executable).with_name("emmr")
    process = subprocess.Popen([emmr, "serve", "--port", str(port), "--log-level", "warning"], cwd=ROOT)
    try:
        wait_until_ready(process, address)
        yield address
    finally:
        process.terminate()
        process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    """Return when the service says that it is ready.

    Raises:
        SystemExit: it ends, or is not ready in time.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the service ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://{address}/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"the service was not ready within {READY_SECONDS} s")


def answered(command: str, address: str) -> str:
    """Run one of the README's commands and fence its answer.

    Raises:
        SystemExit: the command fails or its answer is an error.
    """
    run = subprocess.run(
        ["bash", "-c", command.replace(ADDRESS, address)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(run.stdout)
    if "polarity" not in answer:
        raise SystemExit(f"{command}answered {run.stdout}")
    return f"```json\n{in_lines(answer)}\n```\n"


def in_lines(answer: dict[str, Any]) -> str:
    """Write an answer with a line for each field, and for each member of the long ones; figures to three decimals."""
    lines = []
    for name, value in answer.items():
        whole = as_json(value)
        if isinstance(value, dict) and len(whole) > 100:
            members = ",\n".join(f"    {as_json(key)}: {as_json(member)}" for key, member in value.items())
            whole = f"{{\n{members}\n  }}"
        lines.append(f"  {as_json(name)}: {whole}")
    return "{\n" + ",\n".join(lines) + "\n}"


def as_json(value: object) -> str:
    """Write a value on one line."""
    return json.dumps(rounded(value), ensure_ascii=False)


def rounded(value: object) -> object:
    """Round every figure in a value to three decimals."""
    if isinstance(value, dict):
        return {key: rounded(member) for key, member in value.items()}
    if isinstance(value, list):
        return [rounded(member) for member in value]
    return round(value, 3) if isinstance(value, float) else value


def results() -> str:
    """Set every part's tables, mean and standard deviation over all seeds; the card has the shipped seed's."""
    seeds = [seed["test"] for seed in read_results()["seeds"].values()]
    parts = [f"### {part}\n\n{markdown([seed[part] for seed in seeds]).strip()}\n" for part in seeds[0]]
    return f"Mean ± standard deviation over {len(seeds)} seeds:\n\n" + "\n".join(parts)


def summary() -> str:
    """Set the few figures a reader should see first."""
    shipped = read_results()["test"]
    rows = ["| Given | Composite 2, test | Composite 2, unseen voices |", "| --- | ---: | ---: |"]
    test, ood = shipped["composite2 test"], shipped["composite2 ood"]
    for name in test["patterns"]:
        cells = (f"{part['patterns'][name]['macro_f1']:.2f}" for part in (test, ood))
        rows.append(f"| {name.replace('+', ', ')} | {' | '.join(cells)} |")
    voices, faces = (shipped[part]["corpora"]["by_corpus"] for part in ("voices ood", "faces test"))
    told = [f"{name} {scores['uar']:.2f}" for name, scores in (*voices.items(), *faces.items())]
    verdict = test["key_missing"]
    return (
        "Macro-F1 of three classes:\n\n" + "\n".join(rows) + "\n\n"
        "Unweighted recall (chance is .33) of a voice alone from unseen corpora, and of a face alone: "
        f"{', '.join(told)}. "
        f"The verdict on what is missing ranks with an AUROC of {verdict['one_missing']['auroc']:.2f} where one is "
        f"missing and {verdict['two_missing']['auroc']:.2f} where two are (composite 2, test).\n"
    )


def read_results() -> dict[str, Any]:
    """Read the shipped weights' results."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
