"""The site as MkDocs builds it: without a warning, and without anything from another host."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from docs.check import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with every warning an error, as `make docs` makes it."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config: Any = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


class Requests(HTMLParser):
    """Collects what a browser requests to show a page: not the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        names = ("src", "srcset", "poster", "data") if tag != "link" else ("href",)
        self.found += [value for name in names if (value := values.get(name))]
        self.found += re.findall(r"url\(([^)]+)\)", values.get("style") or "")


def test_no_page_requests_anything_from_another_host(site: Path) -> None:
    folders = (site, site / "development")
    pages = [page for folder in folders for page in folder.glob("*.html") if page.name != "404.html"]
    assert len(pages) > 25
    for page in pages:
        parser = Requests()
        parser.feed(page.read_text(encoding="utf-8"))
        assert len(parser.found) > 3, page
        absolute = [url for url in parser.found if re.match(r"(https?:)?//", url)]
        assert not absolute, page
        assert not [url for url in parser.found if not url.startswith("data:") and not (page.parent / url).exists()]


def test_no_style_sheet_requests_anything_from_another_host(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert len(sheets) > 2
    assert not [s for s in sheets if re.search(r"url\(['\"]?(https?:)?//|@import", s.read_text(encoding="utf-8"))]


def test_pages_of_the_repository_root_are_part_of_the_site(site: Path) -> None:
    assert "Keep a Changelog" in (site / "changelog.html").read_text(encoding="utf-8")
    security = (site / "security.html").read_text(encoding="utf-8")
    assert 'href="limits.html"' in security
    assert 'href="contributing.html"' in (site / "index.html").read_text(encoding="utf-8")


def test_a_link_to_a_file_without_a_page_becomes_its_text(site: Path) -> None:
    html = (site / "configuration.html").read_text(encoding="utf-8")
    assert "<code>app/settings.py</code>" in html
    assert "../app/settings.py" not in html


def test_every_page_of_the_documentation_is_in_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    pages = [page.relative_to(site).as_posix() for page in site.rglob("*.html")]
    named = [page for page in pages if page not in {"404.html", "index.html"} and not page.startswith("results/")]
    assert not [page for page in named if f'href="{page}"' not in home]
