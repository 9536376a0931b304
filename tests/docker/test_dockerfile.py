import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import pytest
from typer.main import get_command

from app.api import health
from app.cli import cli
from app.settings import Settings
from tests.docker.dockerfile import Stage
from tools.supply_chain.requirements import EXTRA

TARGETS: Final = ("cpu", "cuda")
SECRET: Final = re.compile("KEY|TOKEN|PASSWORD|SECRET|CREDENTIAL", re.IGNORECASE)


def with_ancestors(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage after the stages it is built on."""
    stage = stages[name]
    return [*with_ancestors(stages, stage.base), stage] if stage.base in stages else [stage]


def environment(stages: dict[str, Stage], name: str) -> dict[str, str]:
    """What the image of a stage has in its environment."""
    return {key: value for stage in with_ancestors(stages, name) for key, value in stage.environment.items()}


def ignore_rules(repository: Path) -> list[str]:
    """The rules of .dockerignore."""
    lines = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def reaches_the_builder(path: str, rules: list[str]) -> bool:
    """Whether .dockerignore lets a path through: the last rule that names it, or a folder it lies in, decides."""
    parts = path.split("/")
    names = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    sent = True
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/")
        if any(fnmatchcase(name, pattern) for name in names):
            sent = rule.startswith("!")
    return sent


def test_both_targets_exist_and_a_build_without_a_target_makes_the_cuda_one(stages: dict[str, Stage]) -> None:
    assert set(TARGETS) <= set(stages)
    assert list(stages)[-1] == "cuda"


def test_every_base_image_is_a_full_version(stages: dict[str, Stage]) -> None:
    bases = {stage.base for stage in stages.values() if stage.base not in stages}
    assert bases
    for base in bases:
        assert re.search(r":\d+\.\d+\.\d+-", base), base


def test_everything_copied_exists_and_reaches_the_builder(repository: Path, stages: dict[str, Stage]) -> None:
    rules = ignore_rules(repository)
    sources = [
        source
        for stage in stages.values()
        for copy in stage.all("COPY")
        if "from" not in copy.flags
        for source in copy.words[:-1]
    ]
    assert {"app", "model", "weights/default", "pyproject.toml", "docker/requirements.txt"} <= set(sources)
    for source in sources:
        assert (repository / source).exists(), source
        assert reaches_the_builder(source, rules), source
    for kept_out in (
        ".git/config",
        ".env",
        "emmr.env",
        "tests/conftest.py",
        ".venv/bin/python",
        "weights/mine/config.json",
    ):
        assert not reaches_the_builder(kept_out, rules), kept_out


def test_what_the_ray_image_installs_reaches_the_builder(repository: Path) -> None:
    rules = ignore_rules(repository)
    installed = (repository / "docker/ray/Dockerfile").read_text(encoding="utf-8")
    assert "--constraint constraints.txt --editable" in installed
    for source in ("constraints.txt", "pyproject.toml", "README.md", "app", "emmr", "model", "weights/default"):
        assert reaches_the_builder(source, rules), source


def test_what_one_stage_takes_from_another_is_made_there(stages: dict[str, Stage]) -> None:
    taken = [copy for stage in stages.values() for copy in stage.all("COPY") if "from" in copy.flags]
    assert taken
    for copy in taken:
        runs = [run for stage in with_ancestors(stages, copy.flags["from"]) for run in stage.all("RUN")]
        made = "\n".join(run.arguments for run in runs)
        for source in copy.words[:-1]:
            assert source.removeprefix("/srv/emmr/source/") in made, source


def installations(stages: dict[str, Stage], name: str) -> list[str]:
    """The `pip install` commands that a stage runs."""
    runs = [run.arguments for run in stages[name].all("RUN")]
    return [command for run in runs for command in re.findall(r"pip install [^|&;]+", run)]


@pytest.mark.parametrize(
    ("target", "torch"), [("cpu", ["torch-cpu", "torch-cuda"]), ("cuda", ["torch-cuda"])], ids=TARGETS
)
def test_every_package_is_installed_by_hash(stages: dict[str, Stage], target: str, torch: list[str]) -> None:
    sources = [copy.flags["from"] for copy in stages[target].all("COPY")]
    assert sources == ["packages", f"torch-{target}", "extras", "project"]
    *packages, own = [command for source in sources for command in installations(stages, source)]
    files = ["requirements.txt", *(f"requirements-{build}.txt" for build in torch), '"requirements-$extra.txt"']
    assert len(packages) == len(files)
    for command, file in zip(packages, files, strict=True):
        assert command.startswith(f"pip install --no-compile --no-deps --require-hashes --requirement {file}")
    assert own.split() == ["pip", "install", "--no-compile", "--no-deps", "dist/*.whl"]


@pytest.mark.parametrize("target", TARGETS)
def test_layers_are_slim_and_checked_to_be_complete(stages: dict[str, Stage], target: str) -> None:
    for copy in stages[target].all("COPY"):
        assert stages[copy.flags["from"]].all("RUN")[-1].arguments.endswith("&& ./slim.sh /srv/emmr/venv")
    assert stages[target].instructions[-2].arguments == "pip --python venv/bin/python check"


@pytest.mark.parametrize("extra", EXTRA)
def test_an_extra_of_the_image_is_one_of_the_project(
    repository: Path, stages: dict[str, Stage], compose: dict[str, Any], extra: str
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extra in project["optional-dependencies"]
    assert f"docker/requirements-{extra}.txt" in [word for copy in stages["extras"].all("COPY") for word in copy.words]
    arguments = {argument.words[0].rstrip("=") for stage in stages.values() for argument in stage.all("ARG")}
    assert arguments == set(compose["x-build"]["args"])


@pytest.mark.parametrize("target", TARGETS)
def test_every_emmr_variable_is_a_setting_with_a_valid_value(
    stages: dict[str, Stage], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {name: value for name, value in environment(stages, target).items() if name.startswith("EMMR_")}
    assert {"EMMR_HOST", "EMMR_PORT", "EMMR_WEIGHTS", "EMMR_DEVICE"} <= set(variables)
    for name, value in variables.items():
        assert name.removeprefix("EMMR_").lower() in Settings.model_fields, name
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.host == "0.0.0.0"
    assert settings.device == target


@pytest.mark.parametrize("target", TARGETS)
def test_the_port_is_the_same_everywhere_and_the_settings_own(stages: dict[str, Stage], target: str) -> None:
    default = Settings.model_fields["port"].default
    assert environment(stages, target)["EMMR_PORT"] == str(default)
    service = stages["service"]
    assert [word for expose in service.all("EXPOSE") for word in expose.words] == [str(default)]
    assert f"127.0.0.1:{default}/" in service.all("HEALTHCHECK")[0].arguments


def test_the_weights_lie_where_the_setting_points(stages: dict[str, Stage]) -> None:
    service = stages["service"]
    (folder,) = service.all("WORKDIR")
    targets = [copy.words[-1] for copy in service.all("COPY")]
    assert service.environment["EMMR_WEIGHTS"].removeprefix(folder.arguments + "/") in targets


def test_the_health_check_asks_a_route_of_the_service_with_a_script_of_the_image(
    stages: dict[str, Stage],
) -> None:
    service = stages["service"]
    _, _, command = service.all("HEALTHCHECK")[0].arguments.partition("CMD ")
    route = re.search(r"://[^/]+(/[a-z/]+)", command)
    assert route is not None
    assert route[1] in {getattr(route, "path", None) for route in health.router.routes}
    copied = [Path(source).name for copy in service.all("COPY") for source in copy.words[:-1]]
    assert "healthcheck.py" in command
    assert "healthcheck.py" in copied


def test_the_entry_point_is_the_console_script_and_its_command_exists(
    repository: Path, stages: dict[str, Stage]
) -> None:
    service = stages["service"]
    (entry,), (command,) = service.all("ENTRYPOINT"), service.all("CMD")
    scripts = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert entry.arguments.startswith("["), "exec form, or SIGTERM does not reach the service"
    assert command.arguments.startswith("[")
    assert entry.words[0] in scripts
    assert command.words[0] in getattr(get_command(cli), "commands", {})
    assert service.all("STOPSIGNAL")[0].arguments == "SIGTERM"


def test_the_service_does_not_run_as_root(stages: dict[str, Stage]) -> None:
    for target in TARGETS:
        users = [user.arguments for stage in with_ancestors(stages, target) for user in stage.all("USER")]
        assert users, target
        assert all(re.fullmatch(r"[1-9]\d+:[1-9]\d+", user) for user in users)


def test_no_secret_is_baked_in(stages: dict[str, Stage]) -> None:
    for stage in stages.values():
        named = [*stage.environment, *(argument.arguments for argument in stage.all("ARG"))]
        assert not [name for name in named if SECRET.search(name)]


def test_nothing_is_fetched_at_run_time_and_the_gpu_is_asked_for(stages: dict[str, Stage]) -> None:
    cuda = environment(stages, "cuda")
    assert cuda["HF_HUB_OFFLINE"] == "1"
    assert cuda["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert "compute" in cuda["NVIDIA_DRIVER_CAPABILITIES"].split(",")
