"""The server process after failures: answers, health checks and exit status."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import pytest

from tests.support import faulty
from tests.support.process import FAULTY, Launch, Process, launching

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.cuda))


@pytest.fixture
def launch() -> Iterator[Launch]:
    with launching() as start:
        yield start


@pytest.fixture(scope="module", params=DEVICES)
def process(tiny_weights: Path, request: pytest.FixtureRequest) -> Iterator[Process]:
    """A process that survives the tests; requests within half a second run in one batch."""
    with launching() as start:
        process = start(tiny_weights, FAULTY, request.param, EMMR_BATCH_DELAY_MS="500", EMMR_BODY_TIMEOUT="0.5")
        process.ready()
        yield process


def send(base: str, text: str) -> httpx2.Response:
    return httpx2.post(f"{base}/predict", data={"text": text}, timeout=60)


def send_together(base: str, texts: Sequence[str]) -> list[httpx2.Response]:
    answers: dict[int, httpx2.Response] = {}
    threads = [
        threading.Thread(target=lambda i=i, text=text: answers.update({i: send(base, text)}))
        for i, text in enumerate(texts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [answers[i] for i in range(len(texts))]


def kinds(answers: Sequence[httpx2.Response]) -> list[str]:
    return ["" if a.status_code == 200 else f"{a.status_code} {a.json()['type']}" for a in answers]


def test_only_the_request_that_fails_the_forward_pass_fails(process: Process) -> None:
    answers = send_together(process.base(), ["Hello.", faulty.FAILS, "Good day.", "Fine."])
    assert kinds(answers) == ["", "422 /problems/unprocessable", "", ""]
    assert process.health()["ready"]


def test_requests_too_large_for_one_batch_are_answered_separately(process: Process) -> None:
    before = process.health()["components"]["worker"]["detail"]["out_of_memory"]
    answers = send_together(process.base(), ["Hello.", faulty.NO_ROOM_FOR_TWO, "Good day."])
    assert kinds(answers) == ["", "", ""]
    health = process.health()
    assert health["components"]["worker"]["detail"]["out_of_memory"] > before
    assert health["ready"]


def test_a_request_too_large_for_the_memory_may_be_repeated(process: Process) -> None:
    answers = send_together(process.base(), ["Hello.", faulty.NO_ROOM])
    assert kinds(answers) == ["", "503 /problems/short-of-memory"]
    assert int(answers[1].headers["retry-after"]) >= 1
    assert send(process.base(), "Hello.").status_code == 200
    assert process.health()["ready"]


@pytest.mark.parametrize("body", [b"", b"text=Hel"], ids=["nothing", "a beginning"])
def test_a_body_that_does_not_arrive_is_refused(process: Process, body: bytes) -> None:
    host, _, port = process.base().removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        connection.sendall(head + b"Content-Length: 11\r\n\r\n" + body)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, problem = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert json.loads(problem)["type"] == "/problems/slow-body"


def test_a_body_that_arrives_slowly_is_refused(process: Process) -> None:
    def drip() -> Iterator[bytes]:
        for byte in b"text=Hello+there":
            time.sleep(0.1)
            yield bytes([byte])

    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = httpx2.post(f"{process.base()}/predict", content=drip(), headers=headers, timeout=30)
    assert answer.status_code == 408


@pytest.mark.parametrize("device", DEVICES)
def test_a_lost_device_ends_the_process_after_answering(launch: Launch, tiny_weights: Path, device: str) -> None:
    process = launch(tiny_weights, FAULTY, device, EMMR_BATCH_DELAY_MS="300")
    answers = send_together(process.ready(), ["Hello.", faulty.BREAKS])
    assert kinds(answers) == ["503 /problems/device-lost"] * 2
    assert process.exit_status(30) == 1
    assert any(event["event"] == "device lost" for event in process.events)


def await_silence(base: str) -> None:
    """Wait until the worker has had no heartbeat for too long."""
    while (live := httpx2.get(f"{base}/health/live")).status_code == 200:
        time.sleep(0.05)
    assert live.status_code == 503


@pytest.mark.parametrize(("workers", "other"), [("1", "503 /problems/device-lost"), ("2", "")])
def test_a_hanging_worker_is_reported_and_ends_the_process(
    launch: Launch, tiny_weights: Path, workers: str, other: str
) -> None:
    variables = {"EMMR_HEARTBEAT_TIMEOUT": "1", "EMMR_HANG_TIMEOUT": "4", "EMMR_COMPUTE_WORKERS": workers}
    process = launch(tiny_weights, FAULTY, **variables)
    base = process.ready()
    answers: list[httpx2.Response] = []
    threads = [
        threading.Thread(target=lambda text=text: answers.append(send(base, text))) for text in (faulty.HANGS, "Hello.")
    ]
    threads[0].start()
    await_silence(base)
    assert process.health()["components"]["worker"]["state"] == "silent"
    threads[1].start()  # queued behind the hanging one, unless there is another worker
    for thread in threads:
        thread.join(30)
    assert sorted(kinds(answers)) == sorted(["503 /problems/device-lost", other])
    assert process.exit_status(30) == 1
    lost = next(event for event in process.events if event["event"] == "worker lost")
    assert lost["reason"] == "the worker has been silent for 4 seconds"


def test_a_hanging_worker_does_not_block_draining(launch: Launch, tiny_weights: Path) -> None:
    process = launch(tiny_weights, FAULTY, EMMR_HEARTBEAT_TIMEOUT="1", EMMR_GRACE_PERIOD="0", EMMR_DRAIN_TIMEOUT="1")
    base = process.ready()
    threads = threading.Thread(target=lambda: send_together(base, [faulty.HANGS]), daemon=True)
    threads.start()
    await_silence(base)
    process.popen.terminate()
    assert process.exit_status(30) == 1  # an accepted request was not answered
    threads.join(10)
