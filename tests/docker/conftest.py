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
def services(repository: Path) -> dict[str, dict[str, Any]]:
    compose = yaml.safe_load((repository / "docker-compose.yml").read_text(encoding="utf-8"))
    return cast(dict[str, dict[str, Any]], compose["services"])
