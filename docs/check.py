"""Run the commands of the README, CONTRIBUTING and the documentation pages: `make docs-check`.

A fenced `bash` or `python` block is run against a service started for it, unless the line above the fence is
`<!-- not run: REASON -->`. A block that is neither run nor excused is an error.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.load.service import serving

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "results"),  # of `emmr reproduce`
)
ADDRESS: Final = "127.0.0.1:8000"  # in the pages; replaced by that of the service
TIMEOUT: Final = 120  # seconds for one block
BLOCK: Final = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?```(?P<language>bash|sh|shell|console|python)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
RUNNABLE: Final = re.compile(
    r"curl |make help|(\.venv/bin/)?(emmr (predict|doctor|(\w+ )?--help|--version)|python -m docs\.\w+ --check)"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of commands.

    Args:
        place: page and line, for messages.
        language: `bash` or `python`.
        code: its content.
        reason: why it is not run; empty where it is.
    """

    place: str
    language: str
    code: str
    reason: str

    @property
    def commands(self) -> list[str]:
        """Shell commands on one line each, without comments; a Python block is one command."""
        if self.language == "python":
            return [self.code]
        joined = re.sub(r"\\\n\s*", "", self.code)
        return [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]

    @property
    def runnable(self) -> bool:
        """Whether every command is of a kind that this program runs."""
        return self.language == "python" or all(RUNNABLE.match(command) for command in self.commands)


def main() -> None:
    """Run every block that is not excused.

    Raises:
        SystemExit: a block is neither run nor excused, or fails.
    """
    found = list(blocks(PAGES))
    failures = [f"{block.place}: neither run nor excused" for block in found if not (block.reason or block.runnable)]
    with serving() as service:
        for block in found:
            if block.reason:
                print(f"not run  {block.place}: {block.reason}")
                continue
            if not block.runnable:
                continue
            started = time.monotonic()
            error = run(block, f"127.0.0.1:{service.port}")
            print(f"{'FAILED' if error else 'run':<8} {block.place} ({time.monotonic() - started:.1f} s)")
            failures += [f"{block.place}: {error}"] if error else []
    if failures:
        raise SystemExit("\n".join(failures))


def blocks(pages: Iterable[Path]) -> Iterator[Block]:
    """Yield the blocks of commands of some Markdown pages."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("code"))
            yield Block(f"{page.name}:{line}", match["language"], match["code"], match["reason"] or "")


def run(block: Block, address: str) -> str:
    """Run a block in the repository root against the service at `address`; return what went wrong, or nothing."""
    code = block.code.replace(ADDRESS, address)
    program = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    with tempfile.TemporaryDirectory() as folder:
        # curl then ends with an error where the status is one.
        Path(folder, ".curlrc").write_text("fail-with-body\n", encoding="utf-8")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        environment = {**os.environ, "CURL_HOME": folder, "PATH": path}
        try:
            done = subprocess.run(
                [*program, code],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no end within {TIMEOUT} s"
    return "" if done.returncode == 0 else f"status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


if __name__ == "__main__":
    main()
