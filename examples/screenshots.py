"""Take the pictures in docs/screenshots of a running service: `python -m examples.screenshots http://127.0.0.1:8000`.

Needs Chromium, and writes PNG files of 256 colours.
"""

import io
import shutil
import sys
from pathlib import Path
from typing import Final, Literal

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

FOLDER: Final = Path(__file__).parents[1] / "docs" / "screenshots"
SUBSETS: Final = "#example=sarcasm&view=subsets"


def main(address: str) -> None:
    """Write wide.png, dark.png, phone.png and recording.png."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        take("wide", open_page(browser, address + SUBSETS, 1280, "light"))
        take("dark", open_page(browser, address + "#example=contradiction&view=subsets", 1280, "dark"))
        take("phone", open_page(browser, address + SUBSETS, 390, "light"), "#subsets")
        page = open_page(browser, address + "#tab=recording", 1280, "light")
        page.get_by_role("button", name="Example: a short dialogue").click()
        expect(page.locator("#recording-status")).to_have_text("4 utterances answered.", timeout=60_000)
        take("recording", page)


def open_page(browser: Browser, address: str, width: int, scheme: Literal["light", "dark"]) -> Page:
    """Open an address, and wait until nothing is in progress."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(address)
    expect(page.locator(".example")).to_have_count(6)
    if "example=" in address:
        expect(page.locator("#lattice button.cell")).to_have_count(7, timeout=60_000)
        expect(page.locator("body")).not_to_have_attribute("aria-busy", "true")
    return page


def take(name: str, page: Page, selector: str | None = None) -> None:
    """Write one picture of the page, or of one element."""
    data = page.locator(selector).screenshot() if selector else page.screenshot(full_page=True)
    Image.open(io.BytesIO(data)).convert("RGB").quantize(
        256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    ).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/") + "/")
