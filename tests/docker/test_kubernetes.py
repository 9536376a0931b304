"""The manifests of docker/kubernetes against the image, the settings, the routes and the metrics."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings
from tests.docker.dockerfile import Stage

Manifests = dict[str, dict[str, Any]]
VARIANTS = {"base": "cpu", "gpu": "cuda"}


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "docker" / "kubernetes"


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(Settings())


@pytest.fixture(scope="module")
def manifests(folder: Path) -> Manifests:
    """Those of the base, by kind."""
    found = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted((folder / "base").glob("*.yaml"))]
    return {manifest["kind"]: manifest for manifest in found}


@pytest.fixture(scope="module")
def pod(manifests: Manifests) -> dict[str, Any]:
    spec: dict[str, Any] = manifests["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return dict(found)


def quantity(text: str) -> int:
    """Bytes of a Kubernetes quantity in GiB."""
    return int(text.removesuffix("Gi")) * 2**30


def test_the_customisation_names_every_manifest(folder: Path, manifests: Manifests) -> None:
    files = {file.name for file in (folder / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(manifests["Kustomization"]["resources"]) == files
    patches = yaml.safe_load((folder / "gpu" / "kustomization.yaml").read_text(encoding="utf-8"))["patches"]
    others = {file.name for file in (folder / "gpu").glob("*.yaml")} - {"kustomization.yaml"}
    assert {patch["path"] for patch in patches} == others


def test_the_images_are_stages_of_the_dockerfile(folder: Path, container: Mapping[str, Any]) -> None:
    images = yaml.safe_load((folder / "gpu" / "kustomization.yaml").read_text(encoding="utf-8"))["images"]
    assert container["image"] == f"emmr:{VARIANTS['base']}"
    assert images == [{"name": "emmr", "newTag": VARIANTS["gpu"]}]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_settings_are_accepted(folder: Path, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = yaml.safe_load((folder / variant / "settings.yaml").read_text(encoding="utf-8"))["data"]
    for name, value in data.items():
        assert name.removeprefix("EMMR_").lower() in Settings.model_fields
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.decode_workers == int(data["EMMR_DECODE_WORKERS"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_threads_are_those_of_the_requested_processors(folder: Path, variant: str) -> None:
    data = yaml.safe_load((folder / variant / "settings.yaml").read_text(encoding="utf-8"))["data"]
    deployment = yaml.safe_load((folder / variant / "deployment.yaml").read_text(encoding="utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    requested = int(container["resources"]["requests"]["cpu"])
    assert int(data["EMMR_DECODE_WORKERS"]) == requested
    assert int(data["EMMR_COMPUTE_THREADS"]) <= max(1, requested // 2)
    assert int(data["EMMR_COMPUTE_THREADS"]) * int(data.get("EMMR_COMPUTE_WORKERS", 1)) <= requested


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_a_route_of_the_service(container: Mapping[str, Any], probe: str, app: FastAPI) -> None:
    asked = container[probe]["httpGet"]
    assert "get" in app.openapi()["paths"][asked["path"]]
    assert asked["port"] in {port["name"] for port in container["ports"]}


def test_the_port_is_the_images(
    container: Mapping[str, Any], manifests: Manifests, stages: Mapping[str, Stage]
) -> None:
    (port,) = container["ports"]
    assert str(port["containerPort"]) == stages["service"].environment["EMMR_PORT"]
    assert [one["targetPort"] for one in manifests["Service"]["spec"]["ports"]] == [port["name"]]
    assert manifests["NetworkPolicy"]["spec"]["ingress"][0]["ports"] == [{"port": port["name"]}]
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])


def test_pods_run_as_the_images_user_without_privileges(
    pod: Mapping[str, Any], container: Mapping[str, Any], stages: Mapping[str, Stage]
) -> None:
    user = stages["service"].all("USER")[0].arguments.split(":")
    context = pod["securityContext"]
    assert [str(context["runAsUser"]), str(context["runAsGroup"])] == user
    assert context["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False


def test_there_is_time_to_drain_before_a_pod_is_killed(pod: Mapping[str, Any]) -> None:
    fields = Settings.model_fields
    assert pod["terminationGracePeriodSeconds"] > fields["grace_period"].default + fields["drain_timeout"].default


def test_variables_of_services_are_not_taken_for_settings(pod: Mapping[str, Any]) -> None:
    assert pod["enableServiceLinks"] is False  # EMMR_PORT would be tcp://…


def test_uploads_fit_the_temporary_folder(pod: Mapping[str, Any], container: Mapping[str, Any]) -> None:
    settings = Settings()
    recording = settings.recording_max_body_bytes + settings.recording_max_sound_bytes
    needed = settings.max_spooled_bytes + settings.max_recordings * recording
    (volume,) = pod["volumes"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/tmp"}]
    assert needed <= quantity(volume["emptyDir"]["sizeLimit"])
    assert quantity(volume["emptyDir"]["sizeLimit"]) < quantity(container["resources"]["limits"]["ephemeral-storage"])


def test_the_scaler_follows_a_metric_that_the_adapter_provides(
    folder: Path, manifests: Manifests, app: FastAPI
) -> None:
    scaler = manifests["HorizontalPodAutoscaler"]["spec"]
    (metric,) = (one["pods"]["metric"]["name"] for one in scaler["metrics"])
    (rule,) = yaml.safe_load((folder / "prometheus-adapter.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
    assert rule["name"]["as"] == metric
    assert rule["seriesQuery"].startswith(f"{metric}{{")
    assert metric in {found.name for found in app.state.metrics.registry.collect()}
    assert scaler["scaleTargetRef"]["name"] == manifests["Deployment"]["metadata"]["name"]
    assert "replicas" not in manifests["Deployment"]["spec"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_kubectl_renders_the_manifests(folder: Path, variant: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    text = subprocess.run([kubectl, "kustomize", folder / variant], check=True, capture_output=True, text=True).stdout
    rendered: Manifests = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}
    labels = {"app.kubernetes.io/name": "emmr"}
    assert rendered["Deployment"]["spec"]["template"]["metadata"]["labels"] == labels
    assert rendered["Service"]["spec"]["selector"] == labels
    assert rendered["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert rendered["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    (container,) = rendered["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"emmr:{VARIANTS[variant]}"
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (variant == "gpu")
