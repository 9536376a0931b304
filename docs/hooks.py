"""Hooks of the documentation site (`mkdocs.yml`): pages from the repository root, and links out of the site.

A page in `docs/` links to other files of the repository as GitHub shows them; the site has no page for most of these.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[1]
# File of the repository → page of the site.
PAGES: Final = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "weights/default/README.md": "model-card.md",
}
LINK: Final = re.compile(r"\[(?P<text>(?:[^][]|\[[^][]*\])*)\]\((?P<target>[^)\s]+)\)")
OWN: Final = "README.md"  # the site has a first page of its own in its place


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside `docs/`."""
    for source, page in PAGES.items():
        if source != OWN:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: object) -> str:
    """Lead links to files of the repository to their pages; where there is none, leave their text alone."""
    origins = {name: source for source, name in PAGES.items() if source != OWN}
    origin = origins.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def led(found: re.Match[str]) -> str:
        path, hash_sign, anchor = found["target"].partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return found[0]
        target = os.path.normpath(PurePosixPath(origin).parent / path)
        uri = PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else "")
        if not uri or files.get_file_from_path(uri) is None:
            return found["text"] if (ROOT / target).exists() else found[0]
        relative = os.path.relpath(uri, PurePosixPath(page.file.src_uri).parent)
        return f"[{found['text']}]({relative}{hash_sign}{anchor})"

    return LINK.sub(led, markdown)
