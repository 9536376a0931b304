"""Draw `docs/picture.svg`, the README's picture, from the answers of a service in `docs/picture.json`.

`python -m docs.picture` asks a service it starts and draws; with `--draw` it draws the committed answers again.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx2

from docs.drawing import BAR, LABEL, bar, picture, text
from tools.load.service import serving

ROOT: Final = Path(__file__).resolve().parents[1]
ANSWERS: Final = Path(__file__).with_name("picture.json")
PICTURE: Final = Path(__file__).with_name("picture.svg")
SENTENCE: Final = ROOT / "examples" / "sentence.txt"
FACE: Final = ROOT / "examples" / "openface.csv"
CASES: Final = {"Text alone": ("text",), "Text and face": ("text", "openface")}
NAMES: Final = {"text": "text", "audio": "voice", "visual": "face"}
PANEL, MARGIN, HEIGHT = 440, 24, 384  # pixels: width of a panel, its margin, its height


def main() -> None:
    """Take the answers, unless `--draw` is given, and draw them."""
    if sys.argv[1:] != ["--draw"]:
        with serving() as service:
            taken = {title: ask(service.port, parts) for title, parts in CASES.items()}
        ANSWERS.write_text(json.dumps(taken, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    PICTURE.write_text(draw(json.loads(ANSWERS.read_text(encoding="utf-8"))), encoding="utf-8")


def ask(port: int, parts: tuple[str, ...]) -> dict[str, Any]:
    """Return the answer to a form of sample files.

    Raises:
        httpx2.HTTPStatusError: the answer is an error.
    """
    files = {"text": (None, SENTENCE.read_bytes()), "openface": (FACE.name, FACE.read_bytes())}
    url = f"http://127.0.0.1:{port}/predict"
    response = httpx2.post(url, files={part: files[part] for part in parts}, timeout=60)
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


def draw(answers: dict[str, dict[str, Any]]) -> str:
    """Return the picture: one panel for each answer, side by side."""
    sentence = SENTENCE.read_text(encoding="utf-8").strip()
    lines = [
        line
        for position, (title, answer) in enumerate(answers.items())
        for line in panel(PANEL * position + MARGIN, title, sentence, answer)
    ]
    return picture(PANEL * len(answers), HEIGHT, f"Answers of the service to the sentence: {sentence}", lines)


def panel(x: int, title: str, sentence: str, answer: dict[str, Any]) -> Iterator[str]:
    """Yield the elements of one answer: what was given, the probabilities, and what is missing."""
    verdict = answer["key_missing"]
    missing = list(verdict["by_modality"])
    yield text(x, 32, title, size=18, weight=600)
    yield text(x, 58, f"“{sentence}”", kind="soft", size=13)
    for position, (modality, use) in enumerate(answer["modalities"].items()):
        present = use["status"] == "present"
        left = x + 130 * position
        kind = "present" if present else "missing"
        yield f'<rect x="{left}" y="74" width="120" height="28" rx="6" class="{kind}"/>'
        yield text(left + 10, 93, f"{NAMES[modality]}: {use['status']}", size=13)
    yield text(x, 134, f"Polarity: {answer['polarity']}", weight=600)
    for row, (name, probability) in enumerate(answer["probabilities"].items()):
        yield from bar(x, 150 + 26 * row, name, probability, name)
    yield text(x, 256, "Probability of another answer if given", weight=600)
    chances = {NAMES[modality]: verdict["by_modality"][modality] for modality in missing}
    if len(missing) > 1:
        chances = {" and ".join(chances): verdict["score"], **chances}
    for row, (name, probability) in enumerate(chances.items()):
        yield from bar(x, 272 + 26 * row, name, probability, "verdict")
    limit = x + LABEL + round(BAR * verdict["threshold"])
    yield f'<path d="M{limit} 268v26" class="mark"/>'
    found = ", ".join(NAMES[modality] for modality in verdict["modalities"]) or "none"
    yield text(x, HEIGHT - 14, f"Key missing modality: {found} (dashed: threshold)", kind="soft", size=13)


if __name__ == "__main__":
    main()
