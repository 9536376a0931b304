import io
import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from app.logging import configure_logging, get_logger


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_event_is_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    get_logger().info("ready", seconds=1.5)
    (line,) = lines(capsys)
    assert (line["event"], line["seconds"], line["level"]) == ("ready", 1.5, "info")


def test_a_librarys_message_is_cut_to_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    logging.getLogger("uvicorn.error").warning("a first line\nsecret words in the second")
    (line,) = lines(capsys)
    assert line["event"] == "a first line"


@pytest.mark.parametrize("name", ["emmr", "uvicorn.error"])
def test_an_exceptions_message_is_never_written(capsys: pytest.CaptureFixture[str], name: str) -> None:
    configure_logging("info")
    try:
        raise ValueError("secret words")
    except ValueError as error:
        if name == "emmr":
            get_logger().error("failed", exc_info=error)
        else:
            logging.getLogger(name).exception("failed")
    out = capsys.readouterr().err
    line = json.loads(out)
    assert line["error"] == "builtins.ValueError"
    assert "test_logging.py" in line["at"][-1]
    assert "secret" not in out


def test_an_event_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning")
    get_logger().info("ready")
    assert lines(capsys) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("form", "terminal", "text"),
    [("auto", True, True), ("auto", False, False), ("json", True, False), ("text", False, True)],
)
def test_lines_are_text_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, form: Literal["auto", "json", "text"], terminal: bool, text: bool
) -> None:
    shown = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    configure_logging("info", form)
    get_logger().info("ready", seconds=1.5)
    line = shown.getvalue()
    assert line.startswith("{") is not text
    assert ('"seconds": 1.5' in line) is not text


def test_text_has_no_message_of_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text")
    try:
        raise ValueError("secret words")
    except ValueError as error:
        get_logger().error("failed", exc_info=error)
    shown = capsys.readouterr().err
    assert "builtins.ValueError" in shown
    assert "secret" not in shown
