"""Draw the figures of the documentation: `python -m docs.figures`.

`answer.svg` from the answer in `picture.json`, `method.svg` from the configuration of the shipped weights, and
`scores.svg` from their results.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from docs.drawing import BAR, LABEL, arrow, bar, box, picture, text
from model.config import ModelConfig
from model.modality import MODALITIES, Modality

FOLDER: Final = Path(__file__).parent
WEIGHTS: Final = FOLDER.parent / "weights" / "default"
CASE: Final = "Text alone"  # of picture.json
MEANINGS: Final = 424  # x of the second column of answer.svg
SUBSETS: Final = "text+audio · text+visual · audio+visual · all three"


def main() -> None:
    """Write every figure."""
    for name, draw in FIGURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")


def answer() -> str:
    """Return an answer field by field, with the meaning of each beside it."""
    given: dict[str, Any] = _read(FOLDER / "picture.json")[CASE]
    return picture(880, 566, "The fields of an answer and their meaning", _fields(given))


def _fields(given: dict[str, Any]) -> Iterator[str]:
    verdict = given["key_missing"]
    yield from _section(16, "The answer")
    yield from _field(62, "polarity", given["polarity"], "the most probable class")
    yield from _field(88, "confidence", f"{given['confidence']:.2f}", "calibrated probability that polarity is right")
    for row, (name, share) in enumerate(given["probabilities"].items()):
        yield from bar(40, 104 + 26 * row, name, share, name, ".2f")
    yield text(MEANINGS, 144, "probabilities: calibrated, of all classes; their sum is 1", size=13, kind="soft")
    yield from _section(194, "modalities: what was used")
    meanings = {
        "text": "familiarity 1: like what the weights were trained on",
        "audio": "not_provided: not sent; other reasons are silent, no_speech, …",
        "visual": "a missing modality is recovered from the present ones",
    }
    for row, (name, use) in enumerate(given["modalities"].items()):
        y, present = 228 + 34 * row, use["status"] == "present"
        yield f'<rect x="40" y="{y}" width="330" height="28" rx="6" class="{"present" if present else "missing"}"/>'
        detail = f"familiarity {use['familiarity']:g}, {use['tokens']} tokens" if present else use["reason"]
        yield text(50, y + 19, f"{name}: {use['status']}, {detail}", size=13)
        yield text(MEANINGS, y + 19, meanings[name], size=13, kind="soft")
    yield from _section(342, "key_missing: what would change the answer")
    yield from bar(40, 378, "score", verdict["score"], "verdict", ".2f")
    limit = 40 + LABEL + round(BAR * verdict["threshold"])
    yield f'<path d="M{limit} 372v30" class="mark"/>'
    meaning = "probability that polarity changes if all that is missing is given"
    yield text(MEANINGS, 392, meaning, size=13, kind="soft")
    yield text(limit, 417, f"threshold {verdict['threshold']:.2f}", size=12, kind="soft", anchor="middle")
    for row, (name, share) in enumerate(verdict["by_modality"].items()):
        yield from bar(40, 432 + 26 * row, name, share, "verdict", ".2f")
    yield text(MEANINGS, 459, "by_modality: the same if this modality alone is given", size=13, kind="soft")
    found = f"{verdict['detected']}".lower()
    names = ", ".join(verdict["modalities"]) or "none"
    yield from _field(510, "detected", found, "whether score ≥ threshold")
    yield from _field(536, "modalities", names, "the key missing modalities, most likely first")


def _section(y: int, title: str) -> Iterator[str]:
    yield text(24, y + 14, title, size=15, weight=600)
    yield f'<path d="M24 {y + 22}H856" class="line"/>'


def _field(y: int, name: str, value: str, meaning: str) -> Iterator[str]:
    yield text(40, y, name, size=13)
    yield text(40 + LABEL, y, value, weight=600)
    yield text(MEANINGS, y, meaning, size=13, kind="soft")


def method() -> str:
    """Return the way of an utterance without voice through the network, with the sizes of the shipped weights."""
    config = ModelConfig.model_validate_json((WEIGHTS / "config.json").read_bytes())
    return picture(760, 874, "From text, voice and face to an answer and its verdict", _network(config))


def _network(config: ModelConfig) -> Iterator[str]:
    slots, hidden, blocks = config.slots, config.network.hidden, config.network.residual_blocks
    left, width, gap = 20, 226, 21
    columns = [left + (width + gap) * position for position in range(3)]
    whole, half = 3 * width + 2 * gap, (3 * width + gap) // 2
    thirds = [x + width // 2 for x in columns]
    halves = [left + half // 2, left + half + gap + half // 2]
    sizes = {m: config.feature_size(m) for m in MODALITIES}
    inputs = {
        "Text": (f"at most {config.text.max_tokens} tokens", f"{slots.text} slots of {sizes[Modality.TEXT]} features"),
        "Voice": ("not given", f"{slots.audio} slot of {sizes[Modality.AUDIO]} features"),
        "Face": ("action units, mean over frames", f"{slots.visual} slot of {sizes[Modality.VISUAL]} features"),
    }
    for x, centre, (name, lines) in zip(columns, thirds, inputs.items(), strict=True):
        missing = name == "Voice"
        yield from box(x, 16, width, name, lines, "missing" if missing else "present")
        yield arrow(centre, 90, centre, 116)
        second = ("Imputed slots", "filled from text and face") if missing else ("Encoder", "to the common space")
        yield from box(x, 116, width, second[0], second[1:], "missing" if missing else "box")
        yield arrow(centre, 172, centre, 198)
    yield from box(
        left, 198, whole, "Common sequence", (f"the slots of all three, {hidden} features each, with a mask",)
    )
    branches = {
        "Transformer": "attends to all slots",
        "Autoencoder": "slot by slot",
        "Cascade": f"{blocks} residual autoencoders",
    }
    for x, centre, (name, line) in zip(columns, thirds, branches.items(), strict=True):
        yield arrow(centre, 254, centre, 280)
        yield from box(x, 280, width, name, (line, "recovers the slots of the voice"))
        yield arrow(centre, 354, centre, 380)
    yield from box(left, 380, whole, "Subset heads", (f"votes of {SUBSETS}",))
    yield arrow(thirds[1], 436, thirds[1], 462)
    question = "does the vote of all three name the class that the vote of text+visual names?"
    yield from box(left, 462, whole, "Consistency check", (question,))
    for centre, case in zip(halves, ("yes", "no"), strict=True):
        yield arrow(centre, 518, centre, 556)
        yield text(centre + 10, 540, case, size=13, kind="soft")
    yield from box(left, 556, half, "Transformer path", ("the transformer branch decides",))
    yield from box(left + half + gap, 556, half, "Ensemble path", ("the three branches decide, each with a weight",))
    fitted = "a temperature for each subset; an unfamiliar modality counts in proportion"
    yield from box(left, 638, whole, "Calibration and familiarity", (fitted,))
    for centre in halves:
        yield arrow(centre, 612, centre, 638)
        yield arrow(centre, 694, centre, 720)
    classes = ("polarity, and the probability of each of", ", ".join(config.classes))
    yield from box(left, 720, half, "Answer", classes, "present")
    verdict = ("probability, 0 to 1, that giving the voice", "would change the answer")
    yield from box(left + half + gap, 720, half, "Verdict (key_missing)", verdict, "present")
    yield text(left, 824, "Blue: given or returned. Dashed: missing, filled from what is given.", size=13)
    yield text(left, 846, "A slot is a time step of the network's input. Sizes are those of weights/default.", size=13)


def scores() -> str:
    """Return macro-F1 by what is given, on the test part and with voices of unseen corpora."""
    results = _read(WEIGHTS / "results.json")["test"]
    title = "Macro-F1 of three classes, by what is given (0 to 1)"
    return picture(680, 432, title, [text(24, 28, title, size=15, weight=600), *_bars(results)])


def _bars(results: dict[str, Any]) -> Iterator[str]:
    parts = {"composite2 test": ("test", "border"), "composite2 ood": ("unseen voices", "verdict")}
    for position, (part, (label, kind)) in enumerate(parts.items()):
        x = 24 + 90 * position
        yield f'<rect x="{x}" y="42" width="14" height="14" class="{kind}"/>'
        yield text(x + 22, 54, label, size=13)
        for row, (name, figures) in enumerate(results[part]["patterns"].items()):
            y, score = 76 + 50 * row + 19 * position, figures["macro_f1"]
            if position == 0:
                yield text(24, y + 22, name.replace("+", ", "), size=13)
            yield f'<rect x="170" y="{y}" width="440" height="16" class="track"/>'
            yield f'<rect x="170" y="{y}" width="{round(440 * score)}" height="16" class="{kind}"/>'
            yield text(618, y + 13, f"{score:.2f}", size=13)


FIGURES: Final[dict[str, Callable[[], str]]] = {"answer.svg": answer, "method.svg": method, "scores.svg": scores}


def _read(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


if __name__ == "__main__":
    main()
