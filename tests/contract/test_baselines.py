"""Answers of weights of another system: the same fields, null where the system has no notion of them."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from rich.console import Console
from starlette.testclient import TestClient

from app.api.schemas import ExplainedPrediction
from app.offline import render
from model.baselines.systems import build_network
from model.checkpoint import load_checkpoint, save_checkpoint
from model.modality import SUBSETS, Modality, ModalitySet
from tests.support.service import Part, make_app, ready

PART_OF = {Modality.TEXT: "text", Modality.AUDIO: "audio", Modality.VISUAL: "openface"}


@pytest.fixture(scope="module")
def baseline(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of a service with weights of TATE."""
    folder = tmp_path_factory.mktemp("weights") / "tate"
    emmr = load_checkpoint(tiny_weights, torch.device("cpu"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(emmr.config.model_copy(update={"system": "tate", "name": "tate"}))
    save_checkpoint(folder, network, emmr.preprocessing)
    with TestClient(make_app(folder)) as client:
        ready(client)
        yield client


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_fields_without_a_meaning_are_null(
    client: TestClient, baseline: TestClient, parts: Mapping[str, Part], subset: ModalitySet
) -> None:
    files = {PART_OF[m]: parts[PART_OF[m]] for m in subset}
    response = baseline.post("/predict?explain=true&threshold=0.1", files=files)
    assert response.status_code == 200, response.text
    answer, other = response.json(), client.post("/predict?explain=true", files=files).json()
    assert answer["model"]["name"] == "tate"
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["summary"] == f"{answer['polarity']} ({100 * answer['confidence']:.0f} %)."
    assert answer["key_missing"] == dict.fromkeys(other["key_missing"])
    assert answer["ensemble"] == {"used": None, "weights": None}
    assert (answer["votes"], answer["reconstruction"]) == (None, None)
    assert list(answer) == list(other)
    assert answer["modalities"] == other["modalities"]


def test_an_answer_with_null_fields_is_rendered(baseline: TestClient) -> None:
    answer = baseline.post("/predict?explain=true", data={"text": "What a lovely day!"}).json()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(ExplainedPrediction.model_validate(answer)))
    shown = console.export_text()
    assert answer["summary"] in shown
    assert "answer" in shown


def test_the_null_fields_are_in_the_openapi_document(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    nullable = {
        name: {field for field, schema in schemas[name]["properties"].items() if {"type": "null"} in schema["anyOf"]}
        for name in ("KeyMissing", "Ensemble")
    }
    assert nullable == {name: set(schemas[name]["properties"]) for name in nullable}


def test_the_system_of_the_weights_is_shown(baseline: TestClient) -> None:
    assert baseline.get("/model").json()["system"] == "tate"
