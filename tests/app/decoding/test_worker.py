"""The worker's loop, run here in this process; `test_decode_pool` runs it where it belongs."""

import io
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from app.decoding.frames import PREFIX, Json, pack, parse
from app.decoding.replies import restore
from app.decoding.worker import perform, serve
from model.errors import CorruptModality
from model.features.audio.loading import SoundLimits, read_sound
from model.features.audio.raw_features import Voice, raw_audio_features
from model.features.visual.openface import FaceTrack, OpenFaceLimits
from tests.support.openface import simulate_openface_csv
from tests.support.sound import encode, voice_like

CPU_SECONDS = 3600.0  # of this process, which the worker's limit would otherwise end
SOUND_JOB: dict[str, object] = {
    "kind": "sound",
    "dynamics": True,
    "silence_dbfs": -60.0,
    "conditioned": False,
    "encoder": "acoustic",
    "limits": asdict(SoundLimits()),
}
FACE_JOB: dict[str, object] = {
    "kind": "openface",
    "columns": "action_units",
    "min_confidence": 0.5,
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
    serve(io.BytesIO(sent), writer, CPU_SECONDS)
    return frames(writer.getvalue())


def test_each_job_is_heard_then_answered() -> None:
    wav, csv = encode(voice_like(0.5), "wav"), simulate_openface_csv(3)
    ready, *rest = answers(pack(SOUND_JOB) + pack({}, len(wav)) + wav + pack(FACE_JOB) + pack({}, len(csv)) + csv)
    assert ready[0] == {"kind": "ready"}
    assert [message["kind"] for message, _ in rest] == ["started", "Voice", "started", "FaceTrack"]
    voice = restore(*rest[1])
    assert isinstance(voice, Voice)
    expected = raw_audio_features(read_sound(io.BytesIO(wav)).waveform, dynamics=True, silence_dbfs=-60.0)
    assert np.array_equal(voice.features, expected)
    track = restore(*rest[3])
    assert isinstance(track, FaceTrack)
    assert track.values.shape == (3, 35)


def test_a_clip_is_conditioned_where_the_job_says_so_and_its_channel_named() -> None:
    voice = np.pad(voice_like(0.5), 8_000)
    wav = encode(np.stack([np.zeros_like(voice), voice], axis=1), "wav", subtype="FLOAT")
    *_, reply = answers(pack(SOUND_JOB | {"conditioned": True}) + pack({}, len(wav)) + wav)
    heard = restore(*reply)
    assert isinstance(heard, Voice)
    assert (heard.seconds, heard.channel) == (1.5, 1)
    assert heard.spoken == pytest.approx(0.6, abs=0.05)
    expected = raw_audio_features(voice, dynamics=True, silence_dbfs=-60.0, conditioned=True)
    np.testing.assert_array_equal(heard.features, expected)


@pytest.mark.parametrize("sent", [b"", pack(SOUND_JOB), pack(SOUND_JOB)[:5], pack(SOUND_JOB) + pack({}, 9) + b"cut"])
def test_the_loop_ends_with_its_input(sent: bytes) -> None:
    kinds = [message["kind"] for message, _ in answers(sent)]
    assert kinds == ["ready", "started"][: len(kinds)]


def test_the_limits_of_the_job_are_kept() -> None:
    message, _ = perform(SOUND_JOB | {"limits": asdict(SoundLimits(max_seconds=0.1))}, encode(voice_like(0.2), "wav"))
    assert message["kind"] == "ModalityTooLarge"


def test_a_fault_of_the_file_is_a_reply() -> None:
    message, content = perform(FACE_JOB, b"frame\n1\n")
    assert message["kind"] == "UnsupportedFormat"
    message, content = perform(SOUND_JOB, encode(voice_like(0.1), "flac")[:-9])
    with pytest.raises(CorruptModality):
        restore(message, bytearray(content))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "sound"},
        SOUND_JOB | {"limits": 3},
        SOUND_JOB | {"silence_dbfs": None},
        FACE_JOB | {"min_confidence": "x"},
    ],
)
def test_a_job_that_makes_no_sense_is_the_caller_s_fault(wrong: Json) -> None:
    with pytest.raises((KeyError, TypeError)):
        perform(wrong, b"")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_the_worker_loads_neither_torch_nor_librosa_nor_a_web_framework() -> None:
    done = run_python("import sys, app.decoding.worker; print(*sys.modules)")
    loaded = set(done.stdout.split())
    assert "soundfile" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "librosa", "numba", "starlette", "fastapi", "pydantic"})


def test_a_confined_process_can_take_no_more_memory_and_write_no_file(tmp_path: object) -> None:
    done = run_python(
        "from app.decoding.worker import confine\n"
        "confine(2**30)\n"
        "try:\n"
        "    bytearray(2**31)\n"
        "except MemoryError:\n"
        "    print('no memory')\n"
        "try:\n"
        f"    open({str(tmp_path)!r} + '/file', 'w', buffering=1).write('x\\n')\n"
        "except OSError:\n"
        "    print('no file')\n"
    )
    assert done.stdout.splitlines() == ["no memory", "no file"]


def test_a_process_past_its_processor_time_is_ended() -> None:
    done = run_python("from app.decoding.worker import allow_processor\nallow_processor(0.1)\nwhile True: pass")
    assert done.returncode == -signal.SIGXCPU
