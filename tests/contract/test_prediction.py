"""Fields of the prediction: none is removed or renamed."""

from collections.abc import Mapping

import pytest
from starlette.testclient import TestClient

from model.modality import SUBSETS, Modality, ModalitySet
from tests.support.openface import simulate_openface_csv
from tests.support.service import Part

PART_OF = {Modality.TEXT: "text", Modality.AUDIO: "audio", Modality.VISUAL: "openface"}
CLASSES = ["negative", "neutral", "positive"]
PAIRS = ["text+audio", "text+visual", "audio+visual", "all"]


def predict(client: TestClient, parts: Mapping[str, Part], subset: ModalitySet, query: str = "") -> dict[str, object]:
    files = {PART_OF[m]: parts[PART_OF[m]] for m in subset}
    response = client.post(f"/predict{query}", files=files)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer: dict[str, object] = response.json()
    return answer


def assert_distribution(probabilities: object) -> None:
    assert isinstance(probabilities, dict)
    assert list(probabilities) == CLASSES
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert min(probabilities.values()) >= 0


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
@pytest.mark.parametrize("query", ["", "?explain=true"])
def test_every_subset_has_every_field(
    client: TestClient, parts: Mapping[str, Part], subset: ModalitySet, query: str
) -> None:
    answer = predict(client, parts, subset, query)
    explained = ["votes", "reconstruction"] if query else []
    assert list(answer) == [
        "request_id",
        "model",
        "polarity",
        "confidence",
        "probabilities",
        "modalities",
        "key_missing",
        "summary",
        "ensemble",
        "warnings",
        "timings_ms",
        *explained,
    ]
    assert answer["model"] == {"name": "tiny", "version": client.get("/model").json()["version"], "classes": CLASSES}
    probabilities = answer["probabilities"]
    assert_distribution(probabilities)
    assert isinstance(probabilities, dict)
    assert answer["confidence"] == max(probabilities.values()) == probabilities[answer["polarity"]]

    modalities = answer["modalities"]
    assert isinstance(modalities, dict)
    assert {m: use["status"] == "present" for m, use in modalities.items()} == {m: m in subset for m in Modality}
    assert all(use["reason"] == "not_provided" for use in modalities.values() if use["status"] == "missing")
    assert list(modalities["text"]) == [
        "status",
        "reason",
        "familiarity",
        "source",
        "transcript",
        "tokens",
        "truncated",
    ]
    assert list(modalities["audio"]) == ["status", "reason", "familiarity", "seconds", "frames", "truncated"]
    assert list(modalities["visual"]) == [
        "status",
        "reason",
        "familiarity",
        "frames",
        "skipped",
        "faces",
        "truncated",
    ]
    # These weights have no fitted familiarity, and no input is doubtful.
    assert all(use["familiarity"] is None for use in modalities.values())

    key = answer["key_missing"]
    assert isinstance(key, dict)
    assert list(key) == [
        "detected",
        "modalities",
        "polarity_full",
        "polarity_available",
        "score",
        "by_modality",
        "threshold",
        "rule",
    ]
    assert key["detected"] == bool(key["modalities"])
    assert set(key["modalities"]) <= set(subset.missing)
    assert list(key["by_modality"]) == list(subset.missing)
    assert all(0 <= p <= 1 for p in (key["score"], key["threshold"], *key["by_modality"].values()))
    assert key["detected"] == (not subset.complete and key["score"] >= key["threshold"])
    assert key["polarity_full"] == answer["polarity"]
    assert key["polarity_available"] in CLASSES
    if not key["detected"]:
        assert key["polarity_available"] == answer["polarity"]
    assert list(key["rule"]) == ["detected", "modalities"]
    assert key["rule"]["detected"] == bool(key["rule"]["modalities"])
    assert set(key["rule"]["modalities"]) <= set(subset.missing)
    if subset.complete:
        assert key == {
            "detected": False,
            "modalities": [],
            "polarity_full": answer["polarity"],
            "polarity_available": answer["polarity"],
            "score": 0,
            "by_modality": {},
            "threshold": 0.5,
            "rule": {"detected": False, "modalities": []},
        }
    summary = answer["summary"]
    assert isinstance(summary, str)
    assert summary.startswith(f"{answer['polarity']} (")
    assert ("nothing is missing" in summary) == subset.complete

    ensemble = answer["ensemble"]
    assert isinstance(ensemble, dict)
    assert ensemble["used"] == key["rule"]["detected"]  # the paper's gate
    assert list(ensemble["weights"]) == ["transformer", "autoencoder", "cascade"]
    assert sum(ensemble["weights"].values()) == pytest.approx(1, abs=1e-5)
    timings = answer["timings_ms"]
    assert isinstance(timings, dict)
    assert {"parse", "features", "queue", "forward"} <= set(timings)
    assert all(value >= 0 for value in timings.values())

    if query:
        votes, reconstruction = answer["votes"], answer["reconstruction"]
        assert isinstance(votes, dict)
        assert list(votes) == PAIRS
        for vote in votes.values():
            assert_distribution(vote)
        assert isinstance(reconstruction, dict)
        assert set(reconstruction) == set(subset.missing)


def test_the_used_amount_of_each_modality_is_stated(client: TestClient, parts: Mapping[str, Part]) -> None:
    modalities = predict(client, parts, SUBSETS[0])["modalities"]
    assert isinstance(modalities, dict)
    assert modalities["text"]["tokens"] > 5
    assert modalities["audio"]["seconds"] == pytest.approx(1.0)
    assert modalities["audio"]["frames"] == 32
    assert (modalities["visual"]["frames"], modalities["visual"]["faces"]) == (4, 1)


def test_the_face_to_follow_may_be_chosen(client: TestClient) -> None:
    rows = simulate_openface_csv(5, "action_units", faces=(0, 4), confidence=(0.9, 0.7))
    alone = rows.splitlines(keepends=True)[0] + b"".join(rows.splitlines(keepends=True)[2::2])
    answers = [
        client.post(f"/predict{query}", files={"openface": ("f", content, "text/csv")}).json()
        for query, content in (("", rows), ("?face_id=0", rows), ("?face_id=4", rows), ("", alone))
    ]
    votes = [answer["probabilities"] for answer in answers]
    assert votes[0] == pytest.approx(votes[1], abs=1e-6) != pytest.approx(votes[2], abs=1e-6)
    assert votes[2] == pytest.approx(votes[3], abs=1e-6)
    assert "face 4, the one asked for, was followed" in answers[2]["warnings"][0]["detail"]


def test_text_alone_may_be_urlencoded(client: TestClient) -> None:
    plain = client.post("/predict", data={"text": "Good & bad = 50 %"})
    multipart = client.post("/predict", files={"text": (None, b"Good & bad = 50 %", "text/plain")})
    assert plain.status_code == multipart.status_code == 200
    assert plain.json()["probabilities"] == pytest.approx(multipart.json()["probabilities"], abs=1e-6)


def test_explain_does_not_change_the_prediction(client: TestClient, parts: Mapping[str, Part]) -> None:
    for subset in SUBSETS:
        plain, explained = predict(client, parts, subset), predict(client, parts, subset, "?explain=true")
        for field in ("polarity", "summary", "modalities", "warnings"):
            assert plain[field] == explained[field]
        keys = [answer["key_missing"] for answer in (plain, explained)]
        assert all(isinstance(key, dict) for key in keys)
        scores = [[key.pop("score"), *key.pop("by_modality").values()] for key in keys if isinstance(key, dict)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
        assert keys[0] == keys[1]
        assert plain["probabilities"] == pytest.approx(explained["probabilities"], abs=1e-5)


def test_openapi_names_the_parts_and_the_problems(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    content = operation["requestBody"]["content"]
    assert list(content["multipart/form-data"]["schema"]["properties"]) == ["text", "audio", "openface"]
    assert list(content["application/x-www-form-urlencoded"]["schema"]["properties"]) == ["text"]
    face_id = next(option for option in operation["parameters"] if option["name"] == "face_id")
    assert face_id["schema"].items() >= {"type": "integer", "minimum": 0, "maximum": 10**9}.items()
    assert {"200", "400", "408", "413", "415", "422", "429", "503", "504"} <= set(operation["responses"])
    assert "application/problem+json" in operation["responses"]["422"]["content"]
