"""Generate the example inputs (`make examples`): sentences, synthetic voices, and simulated OpenFace files.

OpenFace 2.2's output format: Baltrusaitis et al., FG 2018. Action units of a smile: Ekman & Friesen, FACS.
"""

# The face consists of curves and ellipses, seen by a pinhole camera. Shapes: T frames, N landmarks.

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import av
import numpy as np
import soundfile

from model.features.visual.table import ACTION_UNIT_COLUMNS, ALL_COLUMNS
from model.types import BoolArray, DoubleArray, FloatArray
from tests.support.speech import SAMPLE_RATE, speak

Array = DoubleArray

FOLDER: Final = Path(__file__).parent
PAGE: Final = FOLDER.parent / "app" / "web" / "examples"
SENTENCE: Final = "I did not expect to like this film, and yet I did!"
FRAMES: Final = 60
FRAMES_PER_SECOND: Final = 30
FOCAL_LENGTH: Final = 500.0  # pixels, OpenFace's default for a 640 x 480 picture
CENTRE: Final = (320.0, 240.0)  # pixels
DISTANCE: Final = 600.0  # mm from camera to head
EYES: Final = ((-32.0, -30.0), (32.0, -30.0))  # mm from the middle of the head, y down

# Peak intensity of the action units that the smile moves (0 to 5), and how late each starts (share of the clip).
SMILE: Final = {"AU06": (2.2, 0.15), "AU12": (3.1, 0.10), "AU07": (0.9, 0.20), "AU25": (1.6, 0.35), "AU10": (0.5, 0.3)}
BLINKS: Final = (0.22, 0.71)  # share of the clip; AU45
# Peaks and starts of anger: brows lowered, lids tightened, lips pressed.
ANGER: Final = {"AU04": (3.2, 0.10), "AU05": (1.4, 0.15), "AU07": (2.4, 0.15), "AU23": (2.1, 0.20), "AU15": (1.2, 0.3)}
EXPRESSIONS: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {"smile": SMILE, "anger": ANGER, "lost": {}}

Face = Literal["smile", "anger", "lost"]
VOICES: Final = {"bright": (190, "en-us+f4"), "flat": (140, "en-us+m3"), "plain": (170, "en-us")}
"""Words per minute and eSpeak NG's voice."""
OPUS_BITS_PER_SECOND: Final = 24_000
OPUS_RATE: Final = 48_000
PAUSE_SECONDS: Final = 0.7
RECORDING_RATE: Final = 10  # frames per second of the recording's face


@dataclass(frozen=True, slots=True)
class PageExample:
    """An example of the page at `/`.

    Args:
        title: on its button.
        note: what is in it, in one sentence.
        text: the words.
        voice: a key of `VOICES`, `silent`, or None without a voice.
        face: an expression, `lost` for a file without a face, or None without a file.
    """

    title: str
    note: str
    text: str
    voice: str | None = None
    face: Face | None = None


PAGE_EXAMPLES: Final = {
    "friendly": PageExample(
        "Friendly throughout",
        "Friendly text, a bright voice and a smile.",
        "I love this film, it made me so happy!",
        "bright",
        face="smile",
    ),
    "sarcasm": PageExample(
        "Smile against text",
        "Harsh text with a smile: text and face disagree.",
        "This is the worst service I have ever had.",
        "plain",
        face="smile",
    ),
    "camera-off": PageExample(
        "Camera off",
        "Text and voice; the face file has no face in it.",
        "I guess that went as well as it could.",
        "flat",
        face="lost",
    ),
    "silent": PageExample(
        "Silent microphone",
        "Text and an angry face; the sound file is silent.",
        "You did it again, after all we agreed on.",
        "silent",
        face="anger",
    ),
    "contradiction": PageExample(
        "Kind text, angry face",
        "Kind text with a flat voice and an angry face.",
        "Thank you, that was really kind of you.",
        "flat",
        face="anger",
    ),
    "text-only": PageExample("Text only", "One sentence, with neither voice nor face.", "It was not bad at all."),
}
RECORDING: Final = (
    ("Ana", "bright", "I am so glad that you came today."),
    ("Ben", "flat", "The train was late, and nobody gave a reason."),
    ("Ana", "bright", "The meeting starts at ten."),
    ("Ben", "flat", "I hate these meetings, they are a waste of time."),
)
"""Speaker, voice and words of each utterance of the example recording."""
FILMED: Final = "Ana"


def main() -> None:
    """Write all files."""
    (FOLDER / "sentence.txt").write_text(SENTENCE + "\n", encoding="utf-8")
    soundfile.write(FOLDER / "speech.wav", speak(SENTENCE), SAMPLE_RATE, subtype="PCM_16")
    (FOLDER / "openface.csv").write_text(openface_csv(), encoding="utf-8")
    write_page_examples(PAGE)


def write_page_examples(folder: Path) -> None:
    """Write the sounds and face files of the page's examples, and `examples.json`, which lists them."""
    listed = []
    for name, example in PAGE_EXAMPLES.items():
        entry = {"name": name, "title": example.title, "note": example.note, "text": example.text}
        if example.voice is not None:
            entry["audio"] = f"{name}.ogg"
            (folder / entry["audio"]).write_bytes(opus(voice_of(example.text, example.voice)))
        if example.face is not None:
            entry["openface"] = f"{example.face}.csv"
            seen = np.full(FRAMES, example.face != "lost")
            (folder / entry["openface"]).write_text(face_csv(EXPRESSIONS[example.face], seen), encoding="utf-8")
        listed.append(entry)
    sound, transcript, face = recording()
    (folder / "recording.ogg").write_bytes(opus(sound))
    (folder / "recording.csv").write_text(face, encoding="utf-8")
    (folder / "recording.vtt").write_text(transcript, encoding="utf-8")
    (folder / "examples.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def voice_of(text: str, voice: str) -> FloatArray:
    """Return the sentence in a voice of `VOICES`, or two seconds of silence, `(S,)` at 16 kHz."""
    if voice == "silent":
        return np.zeros(2 * SAMPLE_RATE, dtype=np.float32)
    return speak(text, *VOICES[voice])


def recording() -> tuple[FloatArray, str, str]:
    """Return the example recording: sound `(S,)` at 16 kHz, transcript as WebVTT, and the face of `FILMED` as CSV."""
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), dtype=np.float32)
    sounds, cues, start = [], ["WEBVTT"], 0.0
    seen: list[bool] = []
    for speaker, voice, words in RECORDING:
        sound = speak(words, *VOICES[voice])
        end = start + sound.size / SAMPLE_RATE
        cues.append(f"00:{start:06.3f} --> 00:{end:06.3f}\n<v {speaker}>{words}")
        sounds += [sound, pause]
        start = end + PAUSE_SECONDS
        seen += [speaker == FILMED] * (round(start * RECORDING_RATE) - len(seen))
    face = face_csv(SMILE, np.array(seen), RECORDING_RATE)
    return np.concatenate(sounds), "\n\n".join(cues) + "\n", face


def opus(samples: FloatArray) -> bytes:
    """Encode `(S,)` samples at 16 kHz as OGG Opus; the same bytes each time."""
    coded = io.BytesIO()
    options = {"fflags": "+bitexact", "serial_offset": "1"}
    with av.open(coded, "w", format="ogg", options=options) as output:
        stream = output.add_stream("libopus", rate=OPUS_RATE, layout="mono", options={"application": "voip"})
        stream.bit_rate = OPUS_BITS_PER_SECOND
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        resampler = av.AudioResampler(format="s16", layout="mono", rate=OPUS_RATE)
        for resampled in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(resampled))
        output.mux(stream.encode(None))
    return coded.getvalue()


def face_csv(
    expression: Mapping[str, tuple[float, float]], seen: BoolArray, frames_per_second: int = FRAMES_PER_SECOND
) -> str:
    """Return a file with the action units of an expression, where `seen` `(T,)` is whether OpenFace found the face."""
    units = action_units(np.linspace(0, 1, seen.size), np.random.default_rng(12), expression)
    lines = [", ".join(("frame", "face_id", "timestamp", "confidence", "success", *ACTION_UNIT_COLUMNS))]
    for frame, found in enumerate(seen):
        fixed = (str(frame + 1), "0", f"{frame / frames_per_second:.3f}", *(("0.98", "1") if found else ("0.00", "0")))
        lines.append(", ".join((*fixed, *(f"{units[name][frame]:.2f}" for name in ACTION_UNIT_COLUMNS))))
    return "\n".join(lines) + "\n"


def openface_csv() -> str:
    """Return the clip in OpenFace's format: 714 columns, a space after each comma, a line for each frame."""
    header = ("frame", "face_id", "timestamp", "confidence", "success", *ALL_COLUMNS)
    columns = simulate_face()
    lines = [", ".join(header)]
    for frame in range(FRAMES):
        fixed = (str(frame + 1), "0", f"{frame / FRAMES_PER_SECOND:.3f}", "0.98", "1")
        cells = (f"{columns[name][frame]:.{decimals(name)}f}" for name in ALL_COLUMNS)
        lines.append(", ".join((*fixed, *cells)))
    return "\n".join(lines) + "\n"


def decimals(column: str) -> int:
    """Return the number of decimals that OpenFace prints of a column."""
    if column.startswith("AU"):
        return 2
    if column.startswith(("gaze_0", "gaze_1")):
        return 6
    return 1 if column.startswith(("eye_lmk", "x_", "y_", "X_", "Y_", "Z_", "pose_T")) else 3


def simulate_face() -> dict[str, Array]:
    """Return each of `ALL_COLUMNS` as `(T,)` values."""
    rng = np.random.default_rng(12)
    time = np.linspace(0, 1, FRAMES)  # (T,) share of the clip
    turns = (0.06 * np.sin(4 * time), 0.10 * np.sin(3 * time + 1), 0.03 * np.sin(5 * time))
    rotation = np.stack(turns, axis=1)  # (T, 3) radians
    translation = np.stack([8 * np.sin(2 * time), 5 * np.cos(3 * time), DISTANCE + 10 * time], axis=1)  # (T, 3) mm
    smile = np.clip((time - 0.1) / 0.4, 0, 1)  # (T,)

    columns = dict(zip(("pose_Tx", "pose_Ty", "pose_Tz"), translation.T, strict=True))
    columns |= dict(zip(("pose_Rx", "pose_Ry", "pose_Rz"), rotation.T, strict=True))
    face = place(face_landmarks(smile), rotation, translation)  # (T, 68, 3)
    eyes = place(eye_landmarks(), rotation, translation)  # (T, 56, 3)
    for prefix, points in (("", face), ("eye_lmk_", eyes)):
        flat = FOCAL_LENGTH * points[..., :2] / points[..., 2:] + CENTRE  # (T, N, 2) pixels
        for number in range(points.shape[1]):
            columns |= {f"{prefix}{axis}_{number}": flat[:, number, i] for i, axis in enumerate("xy")}
            columns |= {f"{prefix}{axis}_{number}": points[:, number, i] for i, axis in enumerate("XYZ")}
    columns |= gaze(rotation)
    columns |= shape_parameters(rotation, face, rng)
    columns |= action_units(time, rng)
    return {name: columns[name] for name in ALL_COLUMNS}


def face_landmarks(smile: Array) -> Array:
    """Return the face's 68 points in mm about the middle of the head, `(T, 68, 3)`: arcs, and a mouth that widens."""
    jaw = arc(17, 70, 95, np.pi, 0, middle=(0.0, 0.0))
    brows = [arc(5, 18, 7, np.pi, 2 * np.pi, middle=(x, y - 18)) for x, y in EYES]
    bridge = np.stack([np.zeros(4), np.linspace(-28, 5, 4)], axis=1)
    nostrils = arc(5, 13, 5, np.pi, 0, middle=(0.0, 10.0))
    lids = [arc(6, 14, 6, np.pi, 3 * np.pi, middle=eye, closed=False) for eye in EYES]
    still = np.concatenate([jaw, *brows, bridge, nostrils, *lids])  # (48, 2)
    outer = arc(12, 24, 9, np.pi, 3 * np.pi, middle=(0.0, 40.0), closed=False)
    inner = arc(8, 16, 3, np.pi, 3 * np.pi, middle=(0.0, 40.0), closed=False)
    mouth = np.concatenate([outer, inner])  # (20, 2)
    wider = np.stack([1 + 0.3 * smile, 1 + 0.2 * smile], axis=1)  # (T, 2)
    moving = (mouth - (0.0, 40.0)) * wider[:, None, :] + (0.0, 40.0)  # (T, 20, 2)
    moving[..., 1] -= 6 * smile[:, None] * np.abs(mouth[:, 0]) / 24  # the corners rise
    flat = np.concatenate([np.broadcast_to(still, (smile.size, *still.shape)), moving], axis=1)  # (T, 68, 2)
    return add_depth(flat)


def eye_landmarks() -> Array:
    """Return 28 points of each eye, `(1, 56, 3)`: its lids (12) and two rings of the iris (8 each)."""
    rings = [
        arc(count, width, height, np.pi, 3 * np.pi, middle=eye, closed=False)
        for eye in EYES
        for count, width, height in ((8, 6.0, 6.0), (12, 14.0, 6.0), (8, 2.5, 2.5))
    ]
    return add_depth(np.concatenate(rings)[None])


def arc(
    count: int, width: float, height: float, start: float, stop: float, middle: tuple[float, float], closed: bool = True
) -> Array:
    """Return points along an ellipse between two angles, `(count, 2)`; the last angle only if `closed`."""
    angles = np.linspace(start, stop, count, endpoint=closed)
    return np.stack([width * np.cos(angles), height * np.sin(angles)], axis=1) + middle


def add_depth(flat: Array) -> Array:
    """Add the depth on a rounded head to `(T, N, 2)` points, `(T, N, 3)`; negative is towards the camera."""
    depth = -60 * np.sqrt(np.clip(1 - (flat[..., 0] / 90) ** 2 - (flat[..., 1] / 130) ** 2, 0, 1))
    return np.concatenate([flat, depth[..., None]], axis=-1)


def place(points: Array, rotation: Array, translation: Array) -> Array:
    """Turn and move `(T or 1, N, 3)` points by `(T, 3)` radians and mm; `(T, N, 3)` in camera coordinates."""
    turned = points @ rotation_matrices(rotation).transpose(0, 2, 1)  # (T, N, 3)
    return turned + translation[:, None, :]


def rotation_matrices(rotation: Array) -> Array:
    """Return the rotations about x, then y, then z of `(T, 3)` radians, `(T, 3, 3)`."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(rotation).T, np.sin(rotation).T
    zero, one = np.zeros_like(cx), np.ones_like(cx)
    about_x = np.array([[one, zero, zero], [zero, cx, -sx], [zero, sx, cx]])
    about_y = np.array([[cy, zero, sy], [zero, one, zero], [-sy, zero, cy]])
    about_z = np.array([[cz, -sz, zero], [sz, cz, zero], [zero, zero, one]])
    product: Array = np.einsum("ijt,jkt,klt->til", about_x, about_y, about_z)
    return product


def gaze(rotation: Array) -> dict[str, Array]:
    """Return the gaze of both eyes, slightly inwards: unit vectors, and their mean angle in radians."""
    columns: dict[str, Array] = {}
    vectors = []
    for eye, inwards in enumerate((0.05, -0.05)):
        vector = np.stack([rotation[:, 1] + inwards, -rotation[:, 0] + 0.1, -np.ones(FRAMES)], axis=1)  # (T, 3)
        vector /= np.linalg.norm(vector, axis=1, keepdims=True)
        vectors.append(vector)
        columns |= {f"gaze_{eye}_{axis}": vector[:, i] for i, axis in enumerate("xyz")}
    mean = np.mean(vectors, axis=0)  # (T, 3)
    return columns | {f"gaze_angle_{axis}": np.arctan2(mean[:, i], -mean[:, 2]) for i, axis in enumerate("xy")}


def shape_parameters(rotation: Array, face: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Return the 6 rigid parameters of the face model (scale, rotation, translation) and 34 of shape, a random walk."""
    middle = FOCAL_LENGTH * face[..., :2].mean(axis=1) / DISTANCE + CENTRE  # (T, 2) pixels
    columns = {"p_scale": FOCAL_LENGTH / face[..., 2].mean(axis=1)}
    columns |= dict(zip(("p_rx", "p_ry", "p_rz"), rotation.T, strict=True))
    columns |= dict(zip(("p_tx", "p_ty"), middle.T, strict=True))
    spread = np.geomspace(10, 0.3, 34)
    wander = rng.normal(0, 1, 34) + rng.normal(0, 0.05, (FRAMES, 34)).cumsum(axis=0)  # (T, 34)
    return columns | {f"p_{number}": spread[number] * wander[:, number] for number in range(34)}


def action_units(
    time: Array, rng: np.random.Generator, expression: Mapping[str, tuple[float, float]] = SMILE
) -> dict[str, Array]:
    """Return intensities (0 to 5) and presences (0 or 1) of an expression that grows and stays, with two blinks."""
    columns: dict[str, Array] = {}
    for name in (name for name in ALL_COLUMNS if name.startswith("AU")):
        unit = name.partition("_")[0]
        peak, start = expression.get(unit, (0.0, 0.0))
        level = peak / (1 + np.exp(-30 * (time - start - 0.15)))
        if unit == "AU45":
            level = sum((2.5 * np.exp(-(((time - blink) / 0.025) ** 2)) for blink in BLINKS), start=level)
        if name.endswith("_r"):
            columns[name] = np.clip(level + rng.normal(0, 0.06, time.size), 0, 5)
        else:
            columns[name] = (level > 0.8).astype(np.float64)
    return columns


if __name__ == "__main__":
    main()
