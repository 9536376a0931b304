"""Write `app/api/examples.json`, the examples of the OpenAPI document, from answers of the shipped weights.

`python -m docs.api_examples` needs a minute.
"""

import base64
import csv
import io
import json
import time
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import soundfile
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "app" / "api" / "examples.json"
SECONDS: Final = 1.6  # of the voice, so that the document stays small
ROWS: Final = 24  # of the OpenFace file
SUMMARIES: Final = {"text": "text", "audio": "voice", "openface": "face"}
TRANSCRIPT: Final = """WEBVTT

00:00.000 --> 00:02.000
<v Ana>What a lovely surprise!

00:02.500 --> 00:05.000
<v Ben>I want my money back.
"""
KEY: Final = "an-administrators-key"
ID: Final = {"X-Request-ID": "example"}


def main() -> None:
    """Write the file."""
    settings = Settings(device="cpu", log_level="error", transcribe="never", admin_keys=(SecretStr(KEY),))
    PAGE.write_text(json.dumps(samples(create_app(settings)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def samples(app: FastAPI) -> dict[str, Any]:
    """Return operation → media type of its body, or status and media type of an answer → examples by name."""
    parts = inputs()
    with TestClient(app, headers=ID) as client:
        starting = client.get("/health").json()
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.5)
        bodies, answers = {}, {}
        for size in (1, 2, 3):
            for names in combinations(parts, size):
                summary = " and ".join(SUMMARIES[name] for name in names).capitalize()
                body = {name: parts[name] for name in names}
                bodies["-".join(names)] = {"summary": summary, "value": body}
                answers["-".join(names)] = {"summary": summary, "value": client.post("/predict", json=body).json()}
        text = {"text": {"summary": "Text", "value": {"text": parts["text"]}}}
        explained = client.post("/predict?explain=true", json=text["text"]["value"]).json()
        answers["explained"] = {"summary": "Text, with `explain=true`", "value": explained}
        items = [{"id": "first", **parts}, {"id": "second", "text": "I want my money back."}, {"id": "third"}]
        batch = {"items": items}
        recording = client.post("/recordings", files={"transcript": ("words.vtt", TRANSCRIPT.encode(), "text/vtt")})
        reloaded = client.post("/model/reload", headers={"X-API-Key": KEY})
        model = client.get("/model").json()
        model["card"] = model["card"].partition("\n\n")[0]
        ready = client.get("/health").json()
        metrics = [line for line in client.get("/metrics").text.splitlines() if "emmr_queue_depth" in line]
        return {
            "POST /predict": {
                "multipart/form-data": text,
                "application/json": bodies,
                "application/x-www-form-urlencoded": text,
                "200 application/json": answers,
            },
            "POST /predict/batch": {
                "application/json": {"batch": {"summary": "Three items, one without content", "value": batch}},
                "200 application/json": one(client.post("/predict/batch", json=batch).json()),
            },
            "POST /recordings": {
                "multipart/form-data": {"transcript": {"summary": "Text", "value": {"transcript": TRANSCRIPT}}},
                "200 application/x-ndjson": one(recording.text),
            },
            "GET /model": {"200 application/json": one(model)},
            "POST /model/reload": {"200 application/json": one(reloaded.json())},
            "GET /metrics": {"200 text/plain": one("\n".join(metrics) + "\n")},
            "GET /problems": {"200 application/json": one(client.get("/problems").json()[:3])},
            "GET /problems/{code}": {"200 application/json": one(client.get("/problems/queue-full").json())},
            **{
                f"GET /health{path}": {
                    "200 application/json": one(ready),
                    "503 application/problem+json": {"starting": {"summary": "While starting", "value": starting}},
                }
                for path in ("", "/ready", "/live")
            },
        }


def one(value: object) -> dict[str, Any]:
    """Return the only example of an answer."""
    return {"answer": {"summary": "An answer", "value": value}}


def inputs() -> dict[str, str]:
    """Return the parts of an utterance as in a JSON body, from the files in `examples/`, shortened."""
    samples, rate = soundfile.read(ROOT / "examples" / "speech.wav", dtype="float32")
    sound = io.BytesIO()
    soundfile.write(sound, samples[: int(SECONDS * rate)], rate, format="OGG", subtype="OPUS", compression_level=1.0)
    with (ROOT / "examples" / "openface.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))[:ROWS]
    names = ["frame", "timestamp", "confidence", "success", *(name for name in rows[0] if name.startswith("AU"))]
    face = io.StringIO()
    table = csv.DictWriter(face, names, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return {
        "text": (ROOT / "examples" / "sentence.txt").read_text(encoding="utf-8").strip(),
        "audio": base64.b64encode(sound.getvalue()).decode(),
        "openface": base64.b64encode(face.getvalue().encode()).decode(),
    }


if __name__ == "__main__":
    main()
