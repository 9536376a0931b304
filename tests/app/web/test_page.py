import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.web.page import _FILES

WEB = files("app.web")
SCRIPTS = sorted(path for path in _FILES if path.endswith(".js"))
EXAMPLES = json.loads(WEB.joinpath("examples", "examples.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(_FILES))
def test_every_file_is_served_with_its_media_type(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.content == _FILES[path].read_bytes()
    kinds = {".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".ogg": "audio/ogg"}
    assert response.headers["content-type"].startswith(kinds.get(Path(path).suffix, ""))


def test_the_page_requests_nothing_from_another_origin(client: TestClient) -> None:
    for path in ("/", "/web/style.css", "/web/timeline.css", *SCRIPTS):
        text = client.get(path).text
        without_comments = re.sub(r"(^|\s)//\s.*", "", text, flags=re.MULTILINE)
        assert "//" not in without_comments.replace("http://www.w3.org/2000/svg", ""), path  # a namespace, not fetched


def test_the_page_has_no_inline_script_or_style(client: TestClient) -> None:
    html = client.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", html)


@pytest.mark.parametrize("path", SCRIPTS)
def test_the_scripts_write_no_markup(client: TestClient, path: str) -> None:
    script = client.get(path).text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


def test_the_scripts_refer_to_existing_elements(client: TestClient) -> None:
    html = client.get("/").text
    named = {name for path in SCRIPTS for name in re.findall(r'byId\("([\w-]+)"\)', client.get(path).text)}
    assert named
    assert [name for name in sorted(named) if f'id="{name}"' not in html] == []


def test_every_file_of_an_example_is_served(client: TestClient) -> None:
    assert len(EXAMPLES) >= 6
    named = {example[part] for example in EXAMPLES for part in ("audio", "openface") if part in example}
    assert {name for name in named if f"/web/examples/{name}" not in _FILES} == set()


def test_the_page_weighs_at_most_400_kib() -> None:
    assert sum(len(file.read_bytes()) for file in _FILES.values()) <= 400 * 2**10
