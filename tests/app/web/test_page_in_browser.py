import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.process import launching

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SENTENCE = "What a lovely afternoon!"
WEB = Path(__file__).parents[3] / "app" / "web"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def address(tiny_weights: Path) -> Iterator[str]:
    with launching() as launch:
        yield launch(tiny_weights).ready()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=options)


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page with its examples; the test fails where the console holds anything."""
    context = browser.new_context(base_url=address, reduced_motion="reduce", viewport={"width": 1280, "height": 900})
    messages: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto("/")
    expect(page.locator(".example")).to_have_count(6)
    yield page
    context.close()
    expected = "Failed to load resource: the server responded with a status of 422"
    assert [message for message in messages if not message.startswith(expected)] == []


def example(page: Page, name: str) -> None:
    page.locator(f'.example[value="{name}"]').click()
    expect(page.locator("body")).not_to_have_attribute("aria-busy", "true", timeout=20_000)


def test_one_click_fills_the_cards_and_answers(page: Page) -> None:
    example(page, "friendly")
    expect(page.locator("#text")).to_have_value(re.compile("happy"))
    expect(page.locator("#waveform")).to_have_attribute("aria-label", re.compile("Waveform of"))
    expect(page.locator(".unit")).to_have_count(4)
    expect(page.locator("#answer-heading")).to_contain_text(re.compile("negative|neutral|positive"))
    expect(page.locator("#lattice button.cell")).to_have_count(7)
    expect(page.locator("#subsets-verdict")).to_contain_text(re.compile("^(Key|No single)"))
    assert page.evaluate("document.activeElement.id") == "answer"
    assert Axe().run(page).violations_count == 0


def test_a_text_alone_is_answered_without_a_mouse(page: Page) -> None:
    page.locator("#text").focus()
    page.keyboard.type(SENTENCE)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#used-text")).to_contain_text("tokens")
    page.locator("#tab-utterance").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panel-recording")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#panel-utterance")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "tab-utterance"


def test_an_edit_marks_the_answer_as_stale(page: Page) -> None:
    example(page, "text-only")
    expect(page.locator(".stale-note")).to_be_hidden()
    page.locator("#text").fill(SENTENCE)
    expect(page.locator(".stale-note")).to_be_visible()
    assert "example" not in page.url


def test_dropped_files_reach_their_cards(page: Page) -> None:
    transfer = page.evaluate_handle(
        """() => { const t = new DataTransfer(); t.items.add(new File(["Good."], "words.txt", {type: "text/plain"}));
        t.items.add(new File(["AU01_r,success\\n1.0,1\\n"], "face.csv", {type: "text/csv"})); return t; }"""
    )
    page.dispatch_event("#main", "drop", {"dataTransfer": transfer})
    expect(page.locator("#text")).to_have_value("Good.")
    expect(page.locator("#units")).to_contain_text("1 of 1 rows with a face")
    assert page.evaluate("document.getElementById('openface').files[0].name") == "face.csv"


def test_a_recorded_voice_can_be_sent_and_removed(page: Page) -> None:
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator("#record")).to_contain_text("Stop (1 s)")
    page.locator("#record").click()
    expect(page.locator("#record-note")).to_have_text("Recorded.")
    page.locator("#text").fill(SENTENCE)
    page.locator("#send").click()
    expect(page.locator("#used-audio")).not_to_be_empty()
    page.get_by_role("button", name="Remove voice").click()
    expect(page.locator("#audio-content")).to_be_hidden()
    assert page.evaluate("document.getElementById('audio').files.length") == 0


def test_a_switch_takes_a_modality_away_and_answers_compare(page: Page) -> None:
    example(page, "sarcasm")
    page.get_by_role("switch", name="Use face").click()
    page.locator("#send").click()
    expect(page.locator(".eyebrow")).to_have_text("Smile against text: Text + Voice")
    assert page.url.endswith("#example=sarcasm&without=face&view=subsets")
    boxes = page.locator("#history-list input")
    for at in range(2):
        boxes.nth(at).check()
    expect(page.locator("#history-compare")).to_contain_text("In percentage points")
    assert "worst" not in page.evaluate("JSON.stringify(sessionStorage)")


def test_a_link_opens_an_example_with_its_switches(page: Page) -> None:
    page.goto("about:blank")
    page.goto("/#example=sarcasm&without=face,voice")
    expect(page.locator(".eyebrow")).to_have_text("Smile against text: Text", timeout=20_000)
    assert page.locator("#use-openface").is_checked() is False
    assert page.locator("#use-audio").is_checked() is False


def test_a_corrupt_file_is_explained_by_its_card(page: Page) -> None:
    page.locator("#openface").set_input_files(
        {"name": "face.csv", "mimeType": "text/csv", "buffer": b"frame, success\n1, 1\n"}
    )
    page.locator("#send").click()
    expect(page.locator("#problem-faults")).to_contain_text("Face:")
    assert page.locator("#answer").is_visible() is False


def test_the_request_is_copied_as_a_command(page: Page) -> None:
    example(page, "text-only")
    page.get_by_role("button", name="Copy curl").click()
    assert page.locator("#answer pre").inner_text().startswith("curl -s 'http")
    page.get_by_role("button", name="Copy Python").click()
    assert 'service.predict(text="It was not bad at all.")' in page.locator("#answer pre").inner_text()


def test_a_recording_is_drawn_as_it_is_answered(page: Page) -> None:
    page.get_by_role("tab", name="Recording").click()
    page.get_by_role("button", name="Example: a short dialogue").click()
    expect(page.locator("#recording-status")).to_have_text("4 utterances answered.", timeout=20_000)
    expect(page.locator("#timeline .panel h2")).to_have_text("Utterance 1 of 4")
    page.locator("#timeline canvas.lanes").press("End")
    expect(page.locator("#timeline .panel h2")).to_have_text("Utterance 4 of 4")
    assert Axe().run(page).violations_count == 0


def test_intended_use_and_model_card_are_one_click_away(page: Page) -> None:
    page.get_by_role("button", name="Intended use").click()
    expect(page.locator("#use-dialog")).to_contain_text("must not be used")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Model card").click()
    expect(page.locator("#card-text-content")).to_contain_text("Random, for tests.")
    assert page.evaluate("document.querySelector('#card-dialog').open") is True


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (2560, "light")])
def test_the_page_never_scrolls_sideways(page: Page, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    example(page, "contradiction")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert Axe().run(page).violations_count == 0
