import re

import pytest
from starlette.testclient import TestClient

ASSETS = {
    "/web/icon.svg": "image/svg+xml",
    "/web/style.css": "text/css; charset=utf-8",
    "/web/page.js": "text/javascript; charset=utf-8",
}


def test_the_page_requests_nothing_from_another_origin(client: TestClient) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert sorted(re.findall(r'(?:src|href)="([^"]*)"', response.text)) == sorted(ASSETS)
    for text in (response.text, *(client.get(path).text for path in ASSETS)):
        without_comments = re.sub(r"^\s*//.*", "", text, flags=re.MULTILINE)
        assert "//" not in without_comments.replace("http://www.w3.org/2000/svg", "")  # a namespace, not fetched


@pytest.mark.parametrize(("path", "kind"), list(ASSETS.items()))
def test_the_static_files_are_served(client: TestClient, path: str, kind: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == kind


def test_the_page_has_no_inline_script_or_style(client: TestClient) -> None:
    html = client.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", html)


def test_every_control_has_a_label_and_live_regions_have_roles(client: TestClient) -> None:
    html = client.get("/").text
    controls = re.findall(r'<(?:input|textarea)[^>]*\bid="(\w+)"', html)
    assert controls == ["text", "audio", "openface", "key"]
    assert all(f'<label for="{control}">' in html for control in controls)
    assert 'lang="en"' in html
    assert 'role="status"' in html
    assert 'role="alert"' in html


def test_the_page_shows_the_summary_unchanged(client: TestClient) -> None:
    assert 'byId("summary").textContent = answer.summary;' in client.get("/web/page.js").text


def test_the_script_refers_to_existing_elements(client: TestClient) -> None:
    html, script = client.get("/").text, client.get("/web/page.js").text
    named = set(re.findall(r'byId\("([\w-]+)"\)', script))
    assert named
    assert all(f'id="{name}"' in html for name in named)
