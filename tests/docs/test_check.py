from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from docs import check
from docs.check import Block
from tools.load.service import Service, serving

PAGE: Final = """# Page

```bash
# A comment.
curl -s http://127.0.0.1:8000/health \\
  -o file
```

<!-- not run: takes minutes -->
```bash
make test
```

```json
{"curl": 1}
```
"""


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Service]:
    with serving(tiny_weights) as service:
        yield service


def shell(code: str, reason: str = "") -> Block:
    return Block("page.md:1", "bash", code, reason)


def test_blocks_have_their_place_commands_and_reason(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    run, excused = check.blocks([page])
    assert (run.place, run.commands) == ("page.md:3", ["curl -s http://127.0.0.1:8000/health -o file"])
    assert (excused.commands, excused.reason) == (["make test"], "takes minutes")


@pytest.mark.parametrize("code", ["curl -s x", ".venv/bin/emmr predict --text 'x'", "emmr --help", "make help"])
def test_commands_without_lasting_effects_are_run(code: str) -> None:
    assert shell(code).runnable


@pytest.mark.parametrize("code", ["make clean", "emmr serve", "curl -s x\nrm -r y", "docker compose up"])
def test_other_commands_need_a_reason(code: str) -> None:
    assert not shell(code).runnable


def test_every_command_of_the_pages_is_run_or_excused() -> None:
    found = list(check.blocks(check.PAGES))
    assert len(found) > 10
    assert not [block.place for block in found if not (block.reason or block.runnable)]


def test_every_fence_of_a_page_names_its_language() -> None:
    for page in check.PAGES:
        fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("```")]
        assert all(line != "```" for line in fences[::2]), page.name
        assert len(fences) % 2 == 0, page.name


def test_the_curl_commands_of_the_pages_succeed(service: Service) -> None:
    curl = [
        block
        for block in check.blocks(check.PAGES)
        if not block.reason and all(command.startswith("curl") for command in block.commands)
    ]
    assert len(curl) > 3
    errors = {block.place: check.run(block, f"127.0.0.1:{service.port}") for block in curl}
    assert not {place: error for place, error in errors.items() if error}


def test_an_error_of_the_service_is_an_error_of_the_command(service: Service) -> None:
    assert "status 22" in check.run(shell(f"curl -s http://{check.ADDRESS}/nowhere"), f"127.0.0.1:{service.port}")


def test_a_python_block_is_run_as_python() -> None:
    assert not check.run(Block("page.md:1", "python", "import json", ""), check.ADDRESS)
    assert "ZeroDivisionError" in check.run(Block("page.md:1", "python", "1 / 0", ""), check.ADDRESS)
