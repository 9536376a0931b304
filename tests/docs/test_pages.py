import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from docs.check import PAGES, ROOT

WRITTEN: Final = [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
FILE: Final = re.compile(
    r"`((?:app|model|docs|tests|tools|benchmarks|docker|examples|weights)/[\w./-]*)(?::([\w.]+))?`"
)
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
LINE: Final = re.compile(r"( *)([\w.,/ -]+?)(?:  +\S.*)?$")


def drawn() -> Iterator[Path]:
    """Every path of the project layout; names that share a line are separated by commas."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page.partition("## Project layout")[2].partition("```text\n")[2].partition("```")[0]
    folders: list[str] = []
    for line in tree.splitlines():
        match = LINE.match(line)
        assert match, line
        depth = len(match[1]) // 2
        for name in match[2].strip().split(", "):
            yield ROOT.joinpath(*folders[:depth], name)
        folders = [*folders[:depth], match[2].strip()]


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def defined(path: Path, name: str) -> bool:
    """Whether a file defines a name, or a class of it the part after the dot."""
    source = path.read_text(encoding="utf-8")
    patterns = (rf"^\s*(?:async def|def|class) {part}\b|^{part}\b.*=" for part in name.split("."))
    return all(re.search(pattern, source, re.MULTILINE) for pattern in patterns)


def test_every_path_of_the_project_layout_exists() -> None:
    paths = list(drawn())
    assert len(paths) > 40
    assert not [str(path.relative_to(ROOT)) for path in paths if not path.exists()]


def test_the_project_layout_shows_every_folder_of_the_code() -> None:
    shown = set(drawn())
    folders = {path.parent for package in ("app", "model") for path in (ROOT / package).rglob("*.py")}
    assert not sorted(str(folder.relative_to(ROOT)) for folder in folders - shown)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_file_and_name_a_page_mentions_exists(page: Path) -> None:
    found = FILE.findall(page.read_text(encoding="utf-8"))
    assert not [path for path, _ in found if not (ROOT / path).exists()]
    assert not [f"{path}:{name}" for path, name in found if name and not defined(ROOT / path, name)]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, fragment = link.partition("#")
        if "://" in link:
            continue
        target = page if not path else (page.parent / path)
        assert target.exists(), link
        if fragment:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in {anchor(heading) for heading in headings}, link


def test_citation_and_changelog_name_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_hooks_and_the_workflow_run_commands_of_this_repository() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step] == [
        ".ci/run",
        "make coverage",
        "make audit",
    ]
