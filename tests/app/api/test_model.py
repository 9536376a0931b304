from starlette.testclient import TestClient

from tests.conftest import CARD


def test_the_card_the_classes_and_the_limits_are_told(client: TestClient) -> None:
    response = client.get("/model")
    assert response.status_code == 200
    model = response.json()
    assert (model["name"], model["classes"], model["card"]) == ("tiny", ["negative", "neutral", "positive"], CARD)
    assert len(model["version"]) == 12
    assert model["openface_columns"] == "action_units"
    assert model["limits"]["body_bytes"] == 25 * 2**20
    assert model["limits"]["audio_rate"] == [8000, 192000]
    assert (model["limits"]["queue"], model["limits"]["wait_seconds"]) == (256, 3.0)
