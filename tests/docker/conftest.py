from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tests.docker.dockerfile import Stage, read_dockerfile


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def stages(repository: Path) -> dict[str, Stage]:
    return read_dockerfile(repository / "docker" / "Dockerfile")


@pytest.fixture(scope="session")
def compose(repository: Path) -> dict[str, Any]:
    return cast(dict[str, Any], yaml.safe_load((repository / "docker-compose.yml").read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Those that serve, which are built here."""
    return {name: service for name, service in compose["services"].items() if "build" in service}


@pytest.fixture(scope="session")
def monitoring(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Those that watch."""
    return {name: one for name, one in compose["services"].items() if one.get("profiles") == ["monitoring"]}
