"""The worker's loop, run in this process; `test_pool` runs it in processes of its own."""

import io
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from app.decoding.protocol import PREFIX, Json, decode_reply, pack, parse
from app.decoding.worker import perform, serve
from model.errors import CorruptModality
from model.features.audio.loading import SoundLimits, read_sound
from model.features.audio.raw_features import AudioFeatures, extract_voice
from model.features.visual.openface import FaceTrack
from model.features.visual.table import OpenFaceLimits
from tests.support.openface import simulate_openface_csv
from tests.support.sound import CONTAINERS, encode, voice_like

SANDBOX = {"landlock": True, "seccomp": False, "no_new_privs": True}
CPU_SECONDS = 3600.0  # of this process, which the worker's limit would otherwise end
AUDIO_CONFIG = {"dynamics": True, "silence_dbfs": -60.0, "conditioned": False, "encoder": "acoustic"}
AUDIO_JOB: dict[str, object] = {
    "kind": "audio",
    "config": AUDIO_CONFIG,
    "limits": asdict(SoundLimits()),
}
FACE_JOB: dict[str, object] = {
    "kind": "openface",
    "config": {"columns": "action_units", "min_confidence": 0.5},
    "limits": asdict(OpenFaceLimits()),
}


@pytest.fixture(autouse=True)
def _keep_the_processor_limit() -> object:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_CPU)
    yield
    resource.setrlimit(resource.RLIMIT_CPU, before)


def frames(data: bytes) -> list[tuple[Json, bytearray]]:
    found = []
    reader = io.BytesIO(data)
    while prefix := reader.read(PREFIX.size):
        message_bytes, content_bytes = PREFIX.unpack(prefix)
        found.append((parse(reader.read(message_bytes)), bytearray(reader.read(content_bytes))))
    return found


def answers(sent: bytes) -> list[tuple[Json, bytearray]]:
    writer = io.BytesIO()
    serve(io.BytesIO(sent), writer, CPU_SECONDS, SANDBOX, perform)
    return frames(writer.getvalue())


def test_each_job_is_confirmed_then_answered() -> None:
    wav, csv = encode(voice_like(0.5), "wav"), simulate_openface_csv(3)
    ready, *rest = answers(pack(AUDIO_JOB) + pack({}, len(wav)) + wav + pack(FACE_JOB) + pack({}, len(csv)) + csv)
    assert ready[0] == {"kind": "ready", "sandbox": SANDBOX}
    assert [message["kind"] for message, _ in rest] == ["started", "AudioFeatures", "started", "FaceTrack"]
    voice = decode_reply(*rest[1])
    assert isinstance(voice, AudioFeatures)
    expected = extract_voice(read_sound(io.BytesIO(wav))[0], dynamics=True, silence_dbfs=-60.0).array
    assert np.array_equal(voice.array, expected)
    track = decode_reply(*rest[3])
    assert isinstance(track, FaceTrack)
    assert track.values.shape == (3, 35)


def test_a_clip_is_conditioned_if_the_job_says_so() -> None:
    voice = np.pad(voice_like(0.5), 8_000)
    wav = encode(np.stack([np.zeros_like(voice), voice], axis=1), "wav", subtype="FLOAT")
    *_, reply = answers(pack(AUDIO_JOB | {"config": AUDIO_CONFIG | {"conditioned": True}}) + pack({}, len(wav)) + wav)
    trimmed = decode_reply(*reply)
    assert isinstance(trimmed, AudioFeatures)
    assert (trimmed.seconds, list(trimmed.warnings)) == (1.5, ["channel"])
    assert trimmed.spoken == pytest.approx(0.6, abs=0.05)
    expected = extract_voice(voice, dynamics=True, silence_dbfs=-60.0, conditioned=True).array
    np.testing.assert_array_equal(trimmed.array, expected)


@pytest.mark.parametrize("sent", [b"", pack(AUDIO_JOB), pack(AUDIO_JOB)[:5], pack(AUDIO_JOB) + pack({}, 9) + b"cut"])
def test_the_loop_ends_with_its_input(sent: bytes) -> None:
    kinds = [message["kind"] for message, _ in answers(sent)]
    assert kinds == ["ready", "started"][: len(kinds)]


def test_the_limits_of_the_job_apply() -> None:
    message, _ = perform(AUDIO_JOB | {"limits": asdict(SoundLimits(max_seconds=0.1))}, encode(voice_like(0.2), "wav"))
    assert message["kind"] == "ModalityTooLarge"


def test_an_error_of_the_file_is_a_reply() -> None:
    message, content = perform(FACE_JOB, b"frame\n1\n")
    assert message["kind"] == "UnsupportedFormat"
    message, content = perform(AUDIO_JOB, encode(voice_like(0.1), "flac")[:-9])
    with pytest.raises(CorruptModality):
        decode_reply(message, bytearray(content))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "audio"},
        AUDIO_JOB | {"limits": 3},
        AUDIO_JOB | {"limits": {"max_pitch": 1}},
        FACE_JOB | {"config": {"rows": 3}},
    ],
)
def test_an_invalid_job_raises(wrong: Json) -> None:
    with pytest.raises((KeyError, TypeError)):
        perform(wrong, b"")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_the_worker_imports_no_torch_librosa_or_web_framework() -> None:
    done = run_python("import sys, app.decoding.worker; print(*sys.modules)")
    loaded = set(done.stdout.split())
    assert "soundfile" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "librosa", "numba", "starlette", "fastapi", "pydantic"})


def test_decoding_imports_nothing_that_was_not_loaded(tmp_path: Path) -> None:
    for container in CONTAINERS:
        rate = 48_000 if container == "webm" else 16_000
        sound = encode(voice_like(0.5, rate), container, rate)
        (tmp_path / container).write_bytes(sound)
        (tmp_path / f"damaged {container}").write_bytes(sound[:-9])
    (tmp_path / "face.csv").write_bytes(simulate_openface_csv(3))
    (tmp_path / "utf-16.csv").write_bytes(simulate_openface_csv(3).decode().encode("utf-16"))
    done = run_python(
        "import sys\nfrom pathlib import Path\nfrom app.decoding.worker import load_everything, perform\n"
        "load_everything()\nbefore = set(sys.modules)\n"
        f"for file in sorted(Path({str(tmp_path)!r}).iterdir()):\n"
        f"    job = {FACE_JOB!r} if file.suffix else {AUDIO_JOB | {'config': AUDIO_CONFIG | {'encoder': 'both'}}!r}\n"
        "    kind = perform(job, file.read_bytes())[0]['kind']\n"
        "    print(f'{file.name}: {kind}', *sorted(set(sys.modules) - before))\n"
    )
    kinds = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert len(kinds) == 2 * len(CONTAINERS) + 2, done.stderr
    for container in CONTAINERS:
        assert kinds[container] == "AudioFeatures"
    assert kinds["face.csv"] == "FaceTrack"
    assert not any(" " in kind for kind in kinds.values()), "a module was imported"


def test_a_process_past_its_processor_time_is_killed() -> None:
    done = run_python(
        "from app.decoding.worker import limit_processor_time\nlimit_processor_time(0.1)\nwhile True: pass"
    )
    assert done.returncode == -signal.SIGXCPU
