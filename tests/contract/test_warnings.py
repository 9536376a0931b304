"""Warnings, familiarity and key missing modalities of a prediction."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.settings import DEFAULT_WEIGHTS
from model.features.visual.table import ACTION_UNIT_COLUMNS
from model.modality import SUBSETS, Modality, ModalitySet
from model.network.reliability import Reliability
from tests.support.openface import simulate_openface_csv
from tests.support.openface_files import with_cell
from tests.support.service import Part, make_app, ready
from tests.support.sound import encode, voice_like

T, A, V = Modality
PART_OF = {T: "text", A: "audio", V: "openface"}
FACE = simulate_openface_csv(10)
ENGLISH = "What a lovely surprise, thank you so much!"
FRENCH = "Je ne sais pas pourquoi il est parti si vite hier soir."


def zero_face() -> bytes:
    header, row, _ = simulate_openface_csv(1).decode().split("\n")
    cells = ",".join([*row.split(",")[: -len(ACTION_UNIT_COLUMNS)], *[" 0.00"] * len(ACTION_UNIT_COLUMNS)])
    return f"{header}\n{cells}\n{cells}\n".encode()


@pytest.fixture(scope="module")
def shipped() -> Iterator[TestClient]:
    """A service with the shipped weights; their figures are not tested here."""
    with TestClient(make_app(DEFAULT_WEIGHTS)) as client:
        ready(client)
        yield client


@pytest.fixture
def reliability(application: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reliability]:
    """The reliability model of `client`: not fitted until a test changes it."""
    pipeline = application.state.engine.predictor.pipeline
    fitted: Reliability = pipeline.checkpoint.reliability
    before = {name: value.clone() for name, value in fitted.state_dict().items()}
    monkeypatch.setattr(pipeline.extractor, "reliability", fitted)
    yield fitted
    fitted.load_state_dict(before)


def predict(client: TestClient, query: str = "", /, **files: bytes | str | Part) -> dict[str, Any]:
    parts: dict[str, Part] = {}
    for name, given in files.items():
        if isinstance(given, tuple):
            parts[name] = given
        else:
            parts[name] = (None, given.encode(), "text/plain") if isinstance(given, str) else ("a", given, "any/any")
    response = client.post(f"/predict{query}", files=parts)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert_consistent(answer)
    return answer


def assert_consistent(answer: Mapping[str, Any]) -> None:
    key, modalities = answer["key_missing"], answer["modalities"]
    missing = [name for name, use in modalities.items() if use["status"] == "missing"]
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert answer["confidence"] == max(answer["probabilities"].values())
    assert list(key["by_modality"]) == missing
    assert key["detected"] == (bool(missing) and key["score"] >= key["threshold"]) == bool(key["modalities"])
    assert key["polarity_full"] == answer["polarity"]
    assert key["detected"] or key["polarity_available"] == answer["polarity"]
    assert all(use["familiarity"] is None for use in modalities.values() if use["status"] == "missing")
    assert answer["summary"].startswith(f"{answer['polarity']} ({100 * answer['confidence']:.0f} %)")
    assert answer["summary"].endswith(".")


def codes(answer: Mapping[str, Any]) -> list[str]:
    return [warning["code"] for warning in answer["warnings"]]


def detail(answer: Mapping[str, Any], code: str) -> str:
    (found,) = [warning["detail"] for warning in answer["warnings"] if warning["code"] == code]
    assert isinstance(found, str)
    return found


def uniform(answer: Mapping[str, Any]) -> bool:
    probabilities = list(answer["probabilities"].values())
    return bool(np.allclose(probabilities, 1 / len(probabilities)))


# ---- text


@pytest.mark.parametrize(
    ("text", "likely"),
    [
        (FRENCH, "(likely French: fr)"),
        ("Ich weiß wirklich nicht, warum er so schnell gegangen ist.", "(likely German: de)"),
        ("今天的天气真的很好。", "(likely Chinese: zh)"),
        ("ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᎤᏁᎳᏅᎯ", "(in which language was not recognised)"),
    ],
)
def test_a_foreign_text_gives_a_warning_and_has_no_influence(shipped: TestClient, text: str, likely: str) -> None:
    answer = predict(shipped, text=text)
    assert codes(answer) == ["language"]
    assert likely in detail(answer, "language")
    assert answer["modalities"]["text"]["familiarity"] == 0
    assert uniform(answer)


@pytest.mark.parametrize("text", ["😀 👍", "42 !!", ":-)"])
def test_a_text_without_words_gives_a_warning_and_has_no_influence(shipped: TestClient, text: str) -> None:
    answer = predict(shipped, text=text)
    assert codes(answer) == ["low_information"]
    assert answer["modalities"]["text"]["familiarity"] == 0
    assert uniform(answer)


def test_the_content_of_a_foreign_text_has_no_influence_beside_a_face(shipped: TestClient) -> None:
    texts = (FRENCH, "Quelle belle journée, je suis tellement heureuse aujourd'hui !")
    one, other = (predict(shipped, text=text, openface=FACE) for text in texts)
    assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


@pytest.mark.parametrize("text", [ENGLISH, "No.", "Chandler.", "lol ok"])
def test_an_english_text_gives_no_warning(client: TestClient, text: str) -> None:
    assert codes(predict(client, text=text)) == []


# ---- face


def test_an_all_zero_face_gives_a_warning_and_has_no_influence(shipped: TestClient) -> None:
    answer = predict(shipped, openface=zero_face())
    assert codes(answer) == ["unfamiliar_face"]
    assert answer["modalities"]["visual"]["familiarity"] == 0
    assert answer["confidence"] <= 0.6
    assert uniform(answer)


def test_action_units_outside_their_scale_give_a_warning(shipped: TestClient) -> None:
    face = with_cell(with_cell(FACE, 3, "AU12_r", b"5.5"), 4, "AU45_c", b"0.5")
    assert "2 of 10 frames" in detail(predict(shipped, openface=face), "out_of_scale")
    assert "out_of_scale" not in codes(predict(shipped, openface=FACE))


@pytest.mark.parametrize(
    ("column", "cell", "scale"),
    [("AU12_r", b"100000", "0 to 5"), ("AU12_r", b"-3", "0 to 5"), ("AU45_c", b"4", "0 or 1")],
)
def test_action_units_far_outside_their_scale_are_refused(
    shipped: TestClient, column: str, cell: bytes, scale: str
) -> None:
    face = with_cell(FACE, 3, column, cell)
    response = shipped.post("/predict", files={"openface": ("a.csv", face, "text/csv")})
    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "/problems/corrupt-part"
    (fault,) = problem["errors"]
    assert (fault["part"], fault["place"]) == ("openface", f"line 3, column {column}")
    assert scale in fault["detail"]


# ---- voice


def set_speech_probability(reliability: Reliability, probability: float) -> None:
    """Give every audio clip this probability of being speech."""
    reliability.speech.weight.zero_()
    reliability.speech.bias.fill_(float(np.log(probability / (1 - probability))))
    reliability.speech_fitted.fill_(True)


def test_certain_nonspeech_counts_as_missing(
    client: TestClient, parts: Mapping[str, Part], reliability: Reliability
) -> None:
    set_speech_probability(reliability, 0.019)
    answer = predict(client, text=ENGLISH, audio=parts["audio"])
    assert codes(answer) == ["audio_no_speech"]
    assert answer["modalities"]["audio"]["status"] == "missing"
    assert answer["modalities"]["audio"]["reason"] == "no_speech"
    alone = client.post("/predict", files={"audio": parts["audio"]})
    assert (alone.status_code, alone.json()["type"]) == (422, "/problems/nothing-usable")


def test_likely_nonspeech_gives_a_warning_and_has_no_influence(
    client: TestClient, parts: Mapping[str, Part], reliability: Reliability
) -> None:
    set_speech_probability(reliability, 0.49)
    answer = predict(client, audio=parts["audio"])
    assert codes(answer) == ["not_speech"]
    assert answer["modalities"]["audio"]["familiarity"] == 0
    assert uniform(answer)


def test_speech_gives_no_warning(client: TestClient, parts: Mapping[str, Part], reliability: Reliability) -> None:
    set_speech_probability(reliability, 0.51)
    assert codes(predict(client, audio=parts["audio"])) == []


def test_a_service_starts_even_if_its_warm_up_audio_is_nonspeech(
    application: FastAPI, client: TestClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from model.checkpoint import save_checkpoint

    checkpoint = application.state.engine.predictor.pipeline.checkpoint
    reliability = Reliability(checkpoint.config).requires_grad_(False)
    set_speech_probability(reliability, 0.001)
    folder = tmp_path_factory.mktemp("mute")
    save_checkpoint(folder, checkpoint.network, checkpoint.preprocessing, reliability=reliability)
    with TestClient(make_app(folder)) as own:
        ready(own)
        assert predict(own, text=ENGLISH)


@pytest.mark.parametrize(
    ("left", "right", "used"), [(0.0, 1.0, "channel 2"), (1.0, 0.0, "channel 1"), (1.0, -0.99, "channel 1")]
)
def test_a_channel_used_alone_is_named(client: TestClient, left: float, right: float, used: str) -> None:
    voice = voice_like(1.0)
    answer = predict(client, audio=encode(np.stack([left * voice, right * voice], axis=1).astype(np.float32), "wav"))
    assert codes(answer) == ["channel"]
    assert used in detail(answer, "channel")


# ---- familiarity


def set_familiarity_bounds(reliability: Reliability, modality: Modality, near: float, far: float) -> None:
    reliability.familiarity[modality].get_buffer("bounds").copy_(torch.tensor([near, far]))
    reliability.familiarity[modality].get_buffer("residual").fill_(1.0)


@pytest.mark.parametrize(
    ("modality", "name", "code"),
    [(T, "text", "unfamiliar_text"), (A, "audio", "unfamiliar_voice"), (V, "visual", "unfamiliar_face")],
)
def test_an_unfamiliar_modality_gives_a_warning(
    client: TestClient, parts: Mapping[str, Part], reliability: Reliability, modality: Modality, name: str, code: str
) -> None:
    files = {PART_OF[m]: parts[PART_OF[m]] for m in Modality}
    set_familiarity_bounds(reliability, modality, near=0.0, far=1e-9)
    answer = predict(client, **files)
    assert codes(answer) == [code]
    assert "trained on" in detail(answer, code)
    familiarity = {m: use["familiarity"] for m, use in answer["modalities"].items()}
    assert familiarity.pop(name) == pytest.approx(0, abs=1e-3)
    assert set(familiarity.values()) == {None}

    set_familiarity_bounds(reliability, modality, near=1e9, far=1e10)
    answer = predict(client, **files)
    assert codes(answer) == []
    assert answer["modalities"][name]["familiarity"] == 1


def test_familiarity_is_rounded_and_specific_warnings_take_precedence(
    client: TestClient, reliability: Reliability
) -> None:
    set_familiarity_bounds(reliability, T, near=0.0, far=1e-3)
    familiarity = predict(client, text=ENGLISH)["modalities"]["text"]["familiarity"]
    assert 0 <= familiarity < 0.5
    assert familiarity == round(familiarity, 4)
    assert codes(predict(client, text=FRENCH)) == ["language"]


# ---- what is missing


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_the_summary_agrees_with_the_prediction(
    client: TestClient, parts: Mapping[str, Part], reliability: Reliability, subset: ModalitySet
) -> None:
    with torch.no_grad():
        for parameter in reliability.verdict.parameters():
            parameter.mul_(3)
    reliability.verdict.fitted.fill_(True)
    answer = predict(client, **{PART_OF[m]: parts[PART_OF[m]] for m in subset})
    key, summary = answer["key_missing"], answer["summary"]
    if subset.complete:
        assert summary.endswith("; nothing is missing.")
        return
    assert f"would change this with {100 * key['score']:.0f} %" in summary
    if len(subset.missing) == 1:
        assert key["by_modality"] == {str(subset.missing[0]): key["score"]}
    else:
        assert f"alone with {100 * max(key['by_modality'].values()):.0f} %." in summary


def test_unfitted_weights_state_no_probability(client: TestClient) -> None:
    summary = predict(client, text=ENGLISH)["summary"]
    assert summary.endswith("; how likely the missing voice and face would change this is not known.")


@pytest.mark.parametrize("which", ["client", "shipped"])
def test_a_request_may_set_the_threshold(request: pytest.FixtureRequest, which: str) -> None:
    service = request.getfixturevalue(which)
    default = predict(service, text=ENGLISH)["key_missing"]
    low, high = (predict(service, f"?threshold={t}", text=ENGLISH)["key_missing"] for t in ("0", "1"))
    assert (low["threshold"], low["detected"]) == (0, True)
    assert (high["threshold"], high["detected"]) == (1, False)
    assert low["score"] == high["score"] == pytest.approx(default["score"])
    assert predict(service, "?threshold=0", text=ENGLISH, audio=encode(voice_like(1.0), "wav"), openface=FACE)


@pytest.mark.parametrize("threshold", ["-0.01", "1.01", "nan", "inf", "half", ""])
def test_an_invalid_threshold_is_refused(client: TestClient, threshold: str) -> None:
    response = client.post(f"/predict?threshold={threshold}", data={"text": ENGLISH})
    assert (response.status_code, response.json()["type"]) == (422, "/problems/invalid-query")
    assert response.json()["errors"][0]["place"] == "query.threshold"


@pytest.fixture
def key_threshold_setting(application: FastAPI) -> Iterator[None]:
    before = application.state.settings
    application.state.settings = before.model_copy(update={"key_threshold": 0.125})
    yield
    application.state.settings = before


@pytest.mark.usefixtures("key_threshold_setting")
def test_the_setting_is_the_default_threshold(client: TestClient) -> None:
    assert predict(client, text=ENGLISH)["key_missing"]["threshold"] == 0.125
    assert predict(client, "?threshold=0.75", text=ENGLISH)["key_missing"]["threshold"] == 0.75
