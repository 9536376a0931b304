import json
import re
import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from tests.docker.dockerfile import Stage

Services = dict[str, dict[str, Any]]


def test_each_service_builds_a_stage_of_the_dockerfile(
    repository: Path, services: Services, stages: dict[str, Stage]
) -> None:
    assert {service["build"]["target"] for service in services.values()} == {"cpu", "cuda"}
    for service in services.values():
        build = service["build"]
        assert (repository / build["context"] / build["dockerfile"]).samefile(repository / "docker" / "Dockerfile")
        assert build["target"] in stages


def test_the_base_image_is_replaced_by_its_digest(services: Services, stages: dict[str, Stage]) -> None:
    (base,) = {stage.base for stage in stages.values() if stage.base not in stages}
    for service in services.values():
        ((name, source),) = service["build"]["additional_contexts"].items()
        assert name == base
        assert re.fullmatch(rf"docker-image://{re.escape(base)}@sha256:[0-9a-f]{{64}}", source)


def test_the_page_builds_the_same_base_image(repository: Path, services: Services) -> None:
    page = (repository / "docs" / "supply-chain.md").read_text(encoding="utf-8")
    for service in services.values():
        ((name, source),) = service["build"]["additional_contexts"].items()
        assert f"{name}={source} ." in page


def started(repository: Path, compose: dict[str, Any], *profiles: str) -> set[str]:
    """The services of `docker compose --profile … up`; without profiles, those of .env."""
    default = (repository / ".env").read_text(encoding="utf-8").split("COMPOSE_PROFILES=")[1].strip().split(",")
    chosen = set(profiles or default)
    return {name for name, one in compose["services"].items() if not one.get("profiles") or chosen & {*one["profiles"]}}


@pytest.mark.parametrize(
    ("profiles", "services"),
    [
        ((), {"gpu", "emmr"}),
        (("cpu",), {"emmr-cpu"}),
        (("monitoring",), {"prometheus", "grafana"}),
        (("cpu", "monitoring"), {"emmr-cpu", "prometheus", "grafana"}),
    ],
)
def test_a_profile_starts_its_own_services(
    repository: Path, compose: dict[str, Any], profiles: tuple[str, ...], services: set[str]
) -> None:
    assert started(repository, compose, *profiles) == services


def test_the_gpu_service_waits_for_the_check_of_the_driver(compose: dict[str, Any]) -> None:
    check, service = compose["services"]["gpu"], compose["services"]["emmr"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert service["depends_on"] == {"gpu": {"condition": "service_completed_successfully"}}
    assert (check["image"], check["network_mode"], check["cap_drop"]) == (service["image"], "none", ["ALL"])
    assert "reservations" not in check["deploy"]["resources"]
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a GPU")
    ended = subprocess.run([*check["entrypoint"], *check["command"]], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "docker compose --profile cpu up" in ended.stderr


def test_the_port_is_published_to_this_machine_only_and_is_the_images(
    services: Services, stages: dict[str, Stage]
) -> None:
    inside = stages["service"].environment["EMMR_PORT"]
    for service in services.values():
        ((host, published, target),) = (port.split(":") for port in service["ports"])
        assert ip_address(host).is_loopback
        assert published == target == inside


def test_the_health_check_is_the_images(services: Services, stages: dict[str, Stage]) -> None:
    _, _, command = stages["service"].all("HEALTHCHECK")[0].arguments.partition("CMD ")
    for service in services.values():
        kind, *words = service["healthcheck"]["test"]
        assert kind == "CMD"
        assert re.findall(r'"([^"]+)"', command) == words


def test_there_is_time_to_drain_before_the_kill(services: Services) -> None:
    fields = Settings.model_fields
    needed = fields["grace_period"].default + fields["drain_timeout"].default
    for service in services.values():
        assert float(service["stop_grace_period"].removesuffix("s")) > needed


def test_the_container_writes_to_temporary_files_alone_without_privileges(services: Services) -> None:
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged", False)
        assert service["volumes"] == ["uploads:/tmp"]
        assert "tmpfs" not in service


def test_memory_and_processes_are_limited(services: Services) -> None:
    for service in services.values():
        limit = service["deploy"]["resources"]["limits"]["memory"]
        needed = Settings.model_fields["decode_memory_bytes"].default
        assert int(limit.removesuffix("g")) * 2**30 > needed
        assert service["pids_limit"] > 0
        assert service["restart"] == "unless-stopped"


def test_settings_come_from_an_optional_file_that_is_never_committed(repository: Path, services: Services) -> None:
    ignored = (repository / ".gitignore").read_text(encoding="utf-8").splitlines()
    for service in services.values():
        *_, source = service["env_file"]  # the last one takes precedence
        assert source["required"] is False
        assert f"*{Path(source['path']).suffix}" in ignored
        assert "!/.env" in ignored  # the default profile alone
        assert "environment" not in service


def test_docker_itself_reads_the_file_when_it_is_here(repository: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed; the schema check of `make docker-lint` stands in for it")
    read = subprocess.run(
        [docker, "compose", "--file", "docker-compose.yml", "--profile", "cpu", "config", "--quiet"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.returncode == 0, read.stderr


def test_the_published_loopback_port_has_a_list_of_hosts(repository: Path, services: Services) -> None:
    for name, service in services.items():
        settings = (repository / service["env_file"][0]["path"]).read_text(encoding="utf-8")
        (hosts,) = re.findall(r"^EMMR_ALLOWED_HOSTS=(.*)$", settings, re.MULTILINE)
        assert name in Settings(allowed_hosts=json.loads(hosts)).allowed_hosts
