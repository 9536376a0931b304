from collections.abc import Mapping
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from app.api.metrics import BUCKETS, Metrics
from tests.support.service import Part


def samples(client: TestClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_buckets_are_geometric_from_1_ms_to_30_s() -> None:
    assert (BUCKETS[0], BUCKETS[-1]) == (0.001, 30.0)
    ratios = [later / earlier for earlier, later in pairwise(BUCKETS)]
    assert max(ratios) / min(ratios) < 1.01


def test_a_prediction_is_counted_in_every_metric(client: TestClient, parts: Mapping[str, Part]) -> None:
    before = samples(client)
    answer = client.post("/predict", files={name: parts[name] for name in ("text", "audio")}).json()
    after = samples(client)

    def grew(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0)

    for stage in ("parse", "decode", "features", "queue", "forward"):
        assert grew("emmr_stage_seconds_count", stage=stage) == 1
    assert grew("emmr_request_seconds_count", route="/predict", status="200") == 1
    assert grew("emmr_batch_size_count") == 1
    assert grew("emmr_padding_ratio_count") == 1
    assert grew("emmr_modality_subset_total", subset="text+audio") == 1
    assert grew("emmr_polarity_total", polarity=answer["polarity"]) == 1
    for modality in answer["key_missing"]["modalities"]:
        assert grew("emmr_key_missing_total", modality=modality) == 1
    assert grew("emmr_ensemble_used_total") == answer["ensemble"]["used"]


def test_a_refusal_is_counted_by_reason(client: TestClient) -> None:
    key = ("emmr_rejected_total", (("reason", "unknown-part"),))
    before = samples(client).get(key, 0)
    client.post("/predict", files={"video": (None, b"x")})
    assert samples(client)[key] == before + 1


def test_the_gauges_show_the_state_of_the_service(client: TestClient) -> None:
    now = samples(client)
    assert now["emmr_queue_depth", ()] == 0
    assert now["emmr_in_flight", ()] == 1  # this request
    assert now["emmr_worker_up", ()] == 1
    assert now["emmr_device_memory_bytes", ()] == 0  # zero on a CPU
    version = client.get("/model").json()["version"]
    assert now["emmr_model_info", (("name", "tiny"), ("version", version))] == 1
    assert ("process_resident_memory_bytes", ()) in now


def test_two_applications_have_separate_registries() -> None:
    one, other = Metrics(), Metrics()
    one.ensemble_used.inc()
    assert other.registry.get_sample_value("emmr_ensemble_used_total") == 0
