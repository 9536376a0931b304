import re

import pytest
from starlette.testclient import TestClient


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/v1/docs", "/v1/redoc"])
def test_the_pages_of_the_reference_load_from_the_service_alone(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page.text)
    assets = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(assets) >= 3
    base = path.rpartition("/")[0]
    assert [client.get(f"{base}/{asset}").status_code for asset in assets] == [200] * len(assets)


def test_the_scripts_of_the_reference_read_the_openapi_document(client: TestClient) -> None:
    for name in ("docs", "redoc"):
        assert '"openapi.json"' in client.get(f"/web/reference/{name}.js").text


def test_redoc_loads_no_logo_from_another_site(client: TestClient) -> None:
    script = client.get("/web/reference/redoc-standalone.js").text
    assert "cdn.redoc.ly" not in script
    assert script.count('src:"data:,"') == 1


def test_llms_txt_lists_every_operation(client: TestClient) -> None:
    answer = client.get("/llms.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.startswith("# EMMR\n\n> ")
    paths = client.get("/openapi.json").json()["paths"]
    documented = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}
    assert set(re.findall(r"`((?:GET|POST) /[^`]*)`", answer.text)) == documented
    for link in re.findall(r"\]\((/[^)]*)\)", answer.text):
        assert client.get(link).status_code == 200, link
