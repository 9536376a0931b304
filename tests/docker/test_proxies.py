"""nginx and Caddy with the configurations of the repository, in front of a running service."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tools.load.service import Service, serving

NAME = "emmr.example"
LIMIT = 2_000_000  # bytes of a body
SETTINGS = (
    f'EMMR_ALLOWED_HOSTS=["{NAME}"]',
    'EMMR_TRUSTED_PROXIES=["127.0.0.1"]',
    "EMMR_RATE_LIMIT=1000/hour",
    f"EMMR_MAX_BODY_BYTES={LIMIT}",
    "EMMR_DECODE_WORKERS=1",
)


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Service]:
    with serving(tiny_weights, prefix=("env", *SETTINGS)) as service:
        yield service


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def replaced(path: Path, values: dict[str, str]) -> str:
    """A configuration with other ports and paths; each of them has to occur."""
    text = path.read_text(encoding="utf-8")
    for old, new in values.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def certificate(folder: Path) -> None:
    """Write a self-signed certificate and its key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", f"/CN={NAME}", "-keyout", "key.pem", "-out", "fullchain.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


@contextmanager
def nginx(folder: Path, repository: Path, service: Service) -> Iterator[tuple[int, int]]:
    plain, encrypted = free_port(), free_port()
    certificate(folder)
    ports = {"listen 80;": f"listen {plain};", "listen 443 ": f"listen {encrypted} "}
    values = {**ports, "127.0.0.1:8000": f"127.0.0.1:{service.port}", "/etc/ssl/emmr": str(folder)}
    (folder / "emmr.conf").write_text(replaced(repository / "docker/nginx/emmr.conf", values), encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""  # the folder of a test is its user's alone
    whole = f"{user} pid {folder}/nginx.pid; events {{}} http {{ access_log off; include {folder}/emmr.conf; }}"
    (folder / "nginx.conf").write_text(whole, encoding="utf-8")
    command = ["nginx", "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]
    subprocess.run(command, check=True, timeout=30)  # returns once it listens
    try:
        yield plain, encrypted
    finally:
        subprocess.run([*command, "-s", "stop"], check=True, timeout=30)


@contextmanager
def caddy(folder: Path, repository: Path, service: Service) -> Iterator[tuple[int, int]]:
    encrypted = free_port()
    values = {"127.0.0.1:8000": f"127.0.0.1:{service.port}", f"\n{NAME} {{": f"\n{NAME}:{encrypted} {{"}
    text = replaced(repository / "docker/caddy/Caddyfile", values)
    options = "{\n\tadmin off\n\tlocal_certs\n\tskip_install_trust\n\tauto_https disable_redirects\n}\n"
    (folder / "Caddyfile").write_text(options + text, encoding="utf-8")
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = ["caddy", "start", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with (folder / "log").open("wb") as log:  # returns once it listens
        pid = ["--pidfile", str(folder / "pid")]
        subprocess.run([*command, *pid], check=True, timeout=30, env=environment, stdout=log, stderr=log)
    try:
        yield 0, encrypted
    finally:
        os.kill(int((folder / "pid").read_text(encoding="utf-8")), signal.SIGTERM)


PROXIES = {"nginx": nginx, "caddy": caddy}


class Proxy:
    """Requests to a proxy by its name, from any loopback address."""

    def __init__(self, plain: int, encrypted: int) -> None:
        self.plain, self.encrypted = plain, encrypted
        self._context = ssl.create_default_context()
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE

    def send(self, method: str, path: str, *, address: str = "127.0.0.1", **request: Any) -> httpx2.Response:
        transport = httpx2.HTTPTransport(verify=self._context, local_address=address)
        request["headers"] = {"Host": NAME, **request.get("headers", {})}
        with httpx2.Client(transport=transport, timeout=60) as client:
            url = f"https://127.0.0.1:{self.encrypted}{path}"
            return client.request(method, url, extensions={"sni_hostname": NAME}, **request)


@pytest.fixture(scope="module", params=list(PROXIES))
def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    name = str(request.param)
    missing = [program for program in (name, "openssl") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    repository = Path(__file__).resolve().parents[2]
    service: Service = request.getfixturevalue("service")
    with PROXIES[name](tmp_path_factory.mktemp(name), repository, service) as (plain, encrypted):
        yield Proxy(plain, encrypted)


def left(response: httpx2.Response) -> int:
    """Requests that the client of a response has left."""
    found = re.search(r"r=(\d+)", response.headers["RateLimit"])
    assert found
    return int(found[1])


def test_an_utterance_is_answered_through_the_proxy(proxy: Proxy, examples: dict[str, bytes]) -> None:
    files = {"audio": ("speech.wav", examples["speech.wav"]), "openface": ("face.csv", examples["openface.csv"])}
    response = proxy.send("POST", "/predict", files=files)
    assert response.status_code == 200, response.text
    assert "polarity" in response.json()
    assert response.headers["Strict-Transport-Security"].startswith("max-age=")


def test_lines_of_a_recording_pass_the_proxy(proxy: Proxy, examples: dict[str, bytes]) -> None:
    response = proxy.send("POST", "/recordings", files={"audio": ("speech.wav", examples["speech.wav"])})
    assert response.headers["Content-Type"].startswith("application/x-ndjson")
    assert '"type":"summary"' in response.text.splitlines()[-1].replace(" ", "")


def test_clients_are_counted_by_their_own_address(proxy: Proxy) -> None:
    first, second = (proxy.send("POST", "/predict", address="127.0.0.9", data={"text": "Good."}) for _ in range(2))
    other = proxy.send("POST", "/predict", address=f"127.0.{proxy.encrypted % 250}.8", data={"text": "Good."})
    assert left(first) - left(second) == 1
    assert left(other) == 999


def test_a_forged_address_does_not_reach_the_service(proxy: Proxy) -> None:
    usual = proxy.send("POST", "/predict", address="127.0.0.7", data={"text": "Good."})
    headers = {"X-Forwarded-For": "10.9.8.7", "Forwarded": "for=10.9.8.7"}
    forged = proxy.send("POST", "/predict", address="127.0.0.7", data={"text": "Good."}, headers=headers)
    assert left(usual) - left(forged) == 1


def test_a_body_that_is_too_large_gets_the_error_of_the_service(proxy: Proxy) -> None:
    response = proxy.send("POST", "/predict", files={"audio": ("a.wav", bytes(LIMIT + 1))})
    assert response.status_code == 413
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["type"].endswith("/body-too-large")


@pytest.mark.parametrize(("method", "path"), [("GET", "/metrics"), ("POST", "/model/reload?weights=x")])
def test_inner_routes_are_not_published(proxy: Proxy, service: Service, method: str, path: str) -> None:
    assert proxy.send(method, path).status_code == 404
    assert httpx2.request(method, f"http://127.0.0.1:{service.port}{path}").status_code != 404


def test_plain_requests_are_redirected_by_nginx(proxy: Proxy) -> None:
    if not proxy.plain:
        pytest.skip("Caddy redirects from port 80, which a test does not take")
    response = httpx2.get(f"http://127.0.0.1:{proxy.plain}/health", headers={"Host": NAME})
    assert response.status_code == 308
    assert response.headers["Location"] == f"https://{NAME}/health"


@pytest.fixture(scope="module")
def examples() -> dict[str, bytes]:
    folder = Path(__file__).resolve().parents[2] / "examples"
    return {name: (folder / name).read_bytes() for name in ("speech.wav", "openface.csv")}
