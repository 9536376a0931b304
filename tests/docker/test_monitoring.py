"""Prometheus, Grafana and the dashboard: what they ask for is there, and they expose nothing."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import AggregateExpr, Expr, VectorSelector
from starlette.testclient import TestClient

from tests.docker.test_proxies import free_port
from tests.support.service import Part
from tools.load.service import serving

Services = dict[str, dict[str, Any]]
ALWAYS = {"instance", "job", "le", "__name__"}  # labels that Prometheus itself adds, and the buckets'
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "info": ("_info",)}


def read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


@pytest.fixture(scope="module")
def dashboard(repository: Path) -> dict[str, Any]:
    (path,) = (repository / "docker" / "grafana" / "dashboards").glob("*.json")
    found: dict[str, Any] = read(path)
    return found


@pytest.fixture(scope="module")
def expressions(repository: Path, dashboard: dict[str, Any]) -> list[str]:
    """Every PromQL expression, as Grafana would send it."""
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    alerts = read(repository / "docker" / "prometheus" / "alerts.yml")
    rules = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert len(panels) > 15
    assert len(rules) >= 3
    return [expression.replace("$__rate_interval", "1m") for expression in (*panels, *rules)]


@pytest.fixture(scope="module")
def metrics(client: TestClient, parts: Mapping[str, Part]) -> dict[str, set[str]]:
    """The labels of each metric that a service shows once it has answered and refused."""
    assert client.post("/predict", files=dict(parts)).status_code == 200
    assert client.post("/predict", data={"video": "x"}).status_code == 422
    shown: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for suffix in SUFFIXES.get(family.type, ("",)):
            shown[family.name + suffix] = set()
        for sample in family.samples:
            shown.setdefault(sample.name, set()).update(sample.labels)
    return shown


def within(expression: Expr) -> Iterator[Expr]:
    found: list[Expr] = []
    promql_parser.walk(expression, found.append)
    yield from found


def test_every_expression_is_promql_about_metrics_and_labels_that_the_service_shows(
    expressions: list[str], metrics: dict[str, set[str]]
) -> None:
    for expression in expressions:
        nodes = list(within(promql_parser.parse(expression)))
        names = [node.name for node in nodes if isinstance(node, VectorSelector) and node.name != "up"]
        assert names or "up" in expression
        assert set(names) <= set(metrics), expression
        # A counter that nothing has happened to yet shows no labels.
        known = ALWAYS.union(*(metrics[name] for name in names if name))
        known |= {"modality"} if "emmr_key_missing_total" in names else set()
        matched = {m.name for node in nodes if isinstance(node, VectorSelector) for m in node.matchers.matchers}
        grouped = {
            label
            for node in nodes
            if isinstance(node, AggregateExpr) and node.modifier
            for label in node.modifier.labels
        }
        assert matched | grouped <= known, expression


def test_every_metric_of_the_service_is_on_the_dashboard(
    dashboard: dict[str, Any], metrics: dict[str, set[str]]
) -> None:
    shown = json.dumps(dashboard)
    families = {
        re.sub(r"_(bucket|sum|count|created|total|info)$", "", name) for name in metrics if name.startswith("emmr_")
    }
    assert len(families) > 10
    assert not {family for family in families if family not in shown}


def test_every_panel_has_a_place_of_its_own_and_says_what_it_shows(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_dashboard_asks_the_source_that_is_provisioned(
    repository: Path, dashboard: dict[str, Any], monitoring: Services
) -> None:
    (source,) = read(repository / "docker/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    asked = {panel["datasource"]["uid"] for panel in dashboard["panels"] if "datasource" in panel}
    assert asked == {source["uid"]}
    host, port = source["url"].removeprefix("http://").split(":")
    assert monitoring[host]["ports"][0].endswith(f":{port}")
    (provider,) = read(repository / "docker/grafana/provisioning/dashboards/emmr.yml")["providers"]
    mounts = [volume.split(":") for volume in monitoring["grafana"]["volumes"]]
    assert [host for host, inside, *_ in mounts if inside == provider["options"]["path"]] == [
        "./docker/grafana/dashboards"
    ]


def test_prometheus_finds_each_service_under_its_name_and_port(
    repository: Path, services: Services, monitoring: Services, client: TestClient
) -> None:
    configuration = read(repository / "docker" / "prometheus" / "prometheus.yml")
    (job,) = configuration["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    assert set(discovery["names"]) == set(services)
    assert {service["ports"][0].rpartition(":")[2] for service in services.values()} == {str(discovery["port"])}
    assert client.get(job["metrics_path"]).status_code == 200
    assert all((repository / "docker" / "prometheus" / name).is_file() for name in configuration["rule_files"])
    assert "./docker/prometheus:/etc/prometheus:ro" in monitoring["prometheus"]["volumes"]


def test_monitoring_comes_only_when_asked_for_pinned_and_without_privileges(monitoring: Services) -> None:
    assert set(monitoring) == {"prometheus", "grafana"}
    for service in monitoring.values():
        assert service["profiles"] == ["monitoring"]
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", service["image"])
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"]["memory"]
        for port in service["ports"]:
            assert ip_address(port.split(":")[0]).is_loopback


def test_what_is_mounted_is_there_and_cannot_be_written_to(
    repository: Path, compose: dict[str, Any], monitoring: Services
) -> None:
    for service in monitoring.values():
        for volume in service["volumes"]:
            source, _, *mode = volume.split(":")
            if source.startswith("."):
                assert (repository / source).is_dir()
                assert mode == ["ro"]
            else:
                assert source in compose["volumes"]


def test_every_alert_has_a_severity_and_a_runbook(repository: Path) -> None:
    (group,) = read(repository / "docker" / "prometheus" / "alerts.yml")["groups"]
    page = (repository / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for rule in group["rules"]:
        severity, runbook = rule["labels"]["severity"], rule["annotations"]["runbook"]
        assert severity in {"critical", "warning"}
        assert f"| [{rule['alert']}](#{rule['alert'].lower()}) | {severity} |" in page
        assert f"\n### {rule['alert']}\n" in page
        assert runbook == f"docs/monitoring.md#{rule['alert'].lower()}"
    assert page.count("\n### ") == len(group["rules"])


def test_every_metric_of_the_service_is_described(repository: Path, metrics: dict[str, set[str]]) -> None:
    page = (repository / "docs" / "monitoring.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `(emmr_\w+)", page, re.MULTILINE))
    shown = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in metrics if name.startswith("emmr_")}
    # A family of counters is listed by the name of its samples, and the family itself as well.
    assert described == {name for name in shown if f"{name}_total" not in shown and f"{name}_info" not in shown}


@pytest.fixture(scope="module")
def prometheus(
    repository: Path, tiny_weights: Path, parts: Mapping[str, Part], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx2.Client]:
    """The API of Prometheus, with the configuration of the repository, once it has scraped a service."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed")
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = read(repository / "docker" / "prometheus" / "prometheus.yml")
    (job,) = configuration["scrape_configs"]
    for replaced in ("dns_sd_configs", "relabel_configs"):  # the names are those of the compose file's network
        del job[replaced]
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shutil.copy(repository / "docker" / "prometheus" / "alerts.yml", folder)
    port = free_port()
    with serving(tiny_weights, EMMR_DECODE_WORKERS="1", EMMR_GRACE_PERIOD="0") as service:
        address = f"http://127.0.0.1:{service.port}"
        assert httpx2.post(f"{address}/predict", files=dict(parts), timeout=60).status_code == 200
        job["static_configs"] = [{"targets": [f"127.0.0.1:{service.port}"]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
        options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        command = [program, *options, f"--web.listen-address=127.0.0.1:{port}"]
        with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as running:
            try:
                transport = httpx2.HTTPTransport(retries=5)  # with pauses, until it listens
                with httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1", transport=transport) as api:
                    end = time.monotonic() + 60
                    scraped = 'count_over_time(up{job="emmr"}[1m]) > 1'  # a rate needs two values
                    while not (
                        api.get(f"http://127.0.0.1:{port}/-/ready").is_success
                        and result(api, scraped)
                        and all(rule["health"] == "ok" for rule in rules(api))
                    ):
                        assert time.monotonic() < end, (folder / "log").read_text(encoding="utf-8")
                        time.sleep(0.2)  # it has no event to wait for
                    yield api
            finally:
                running.terminate()


def result(api: httpx2.Client, expression: str) -> list[Any]:
    """The series of an expression; Prometheus accepts it."""
    response = api.get("/query", params={"query": expression})
    assert response.status_code == 200, (expression, response.text)
    found: list[Any] = response.json()["data"]["result"]
    return found


def rules(api: httpx2.Client) -> list[dict[str, Any]]:
    """The alerts with their state and the result of their last evaluation."""
    return [rule for group in api.get("/rules").json()["data"]["groups"] for rule in group["rules"]]


def test_prometheus_scrapes_the_service(prometheus: httpx2.Client) -> None:
    assert [series["value"][1] for series in result(prometheus, 'up{job="emmr"}')] == ["1"]
    (answered,) = result(prometheus, 'emmr_request_seconds_count{route="/predict", status="200"}')
    assert int(answered["value"][1]) == 1


def test_prometheus_evaluates_every_expression_of_the_dashboard(
    prometheus: httpx2.Client, dashboard: dict[str, Any]
) -> None:
    answered = 0
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            answered += bool(result(prometheus, expression))
    assert answered > 15


def test_prometheus_evaluates_every_alert(repository: Path, prometheus: httpx2.Client) -> None:
    (group,) = read(repository / "docker" / "prometheus" / "alerts.yml")["groups"]
    assert {rule["name"]: (rule["health"], rule["state"]) for rule in rules(prometheus)} == {
        rule["alert"]: ("ok", "inactive") for rule in group["rules"]
    }


def test_promtool_accepts_the_configuration(repository: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    command = [program, "check", "config", "docker/prometheus/prometheus.yml"]
    checked = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
