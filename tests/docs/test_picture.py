import json

from docs import picture
from model.checkpoint import verify_hashes


def test_the_committed_picture_is_drawn_from_the_committed_answers() -> None:
    answers = json.loads(picture.ANSWERS.read_text(encoding="utf-8"))
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.draw(answers)


def test_the_answers_are_to_the_forms_the_picture_names() -> None:
    answers = json.loads(picture.ANSWERS.read_text(encoding="utf-8"))
    given = {"text": "text", "visual": "openface"}
    for title, parts in picture.CASES.items():
        present = {name for name, use in answers[title]["modalities"].items() if use["status"] == "present"}
        assert {given[name] for name in present} == set(parts)


def test_the_answers_are_those_of_the_shipped_weights() -> None:
    answers = json.loads(picture.ANSWERS.read_text(encoding="utf-8"))
    version = verify_hashes(picture.ROOT / "weights" / "default")
    assert {answer["model"]["version"] for answer in answers.values()} == {version}
    pages = [picture.ROOT / "docs" / name for name in ("index.md", "answer.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert text.count(f'"version": "{version}"') == 3
