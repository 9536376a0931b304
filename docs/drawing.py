"""Elements of the figures in `docs/`: SVG with light and dark colours, by the colour scheme of the page or system."""

from collections.abc import Iterable, Iterator
from html import escape
from typing import Final

LABEL, BAR = 116, 190  # pixels: width of a bar's label, of a bar at 1
FONT: Final = "system-ui, Segoe UI, Helvetica, Arial, sans-serif"
LIGHT: Final = {
    "ground": "#ffffff",
    "ink": "#111827",
    "soft": "#4b5563",
    "line": "#64748b",
    "box": "#f3f5f8",
    "track": "#e9ecf0",
    "present": "#e3eefb",
    "border": "#1f5fa8",
    "negative": "#b3392f",
    "neutral": "#6b7280",
    "positive": "#2e7d46",
    "verdict": "#7a5aa6",
}
DARK: Final = {
    "ground": "#1e2129",
    "ink": "#e8eaee",
    "soft": "#b8bfcb",
    "line": "#8c97a8",
    "box": "#2a2f3a",
    "track": "#343a47",
    "present": "#1d3350",
    "border": "#6ea8e8",
    "negative": "#e0786f",
    "neutral": "#9aa3b2",
    "positive": "#63b97f",
    "verdict": "#b195dc",
}
HEAD: Final = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0l8 4l-8 4z" class="tip"/></marker></defs>'
)
"""Of an arrow."""
FILLED: Final = ("ground", "ink", "soft", "track", "border", "negative", "neutral", "positive", "verdict")


def picture(width: int, height: int, label: str, elements: Iterable[str]) -> str:
    """Return an SVG document of some elements.

    Args:
        width: of its coordinates.
        height: of its coordinates.
        label: what it shows, for screen readers.
        elements: in the order in which they are drawn.
    """
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"',
            f'font-size="14" font-family="{FONT}" role="img" aria-label="{escape(label)}">',
            f"<style>{_style(LIGHT)}@media (prefers-color-scheme:dark){{{_style(DARK)}}}</style>",
            HEAD,
            f'<rect width="{width}" height="{height}" class="ground"/>',
            *elements,
            "</svg>",
            "",
        ]
    )


def _style(colours: dict[str, str]) -> str:
    filled = "".join(f".{name}{{fill:{colours[name]}}}" for name in FILLED)
    return (
        f"{filled}.tip{{fill:{colours['line']}}}"
        f".box{{fill:{colours['box']};stroke:{colours['line']}}}"
        f".present{{fill:{colours['present']};stroke:{colours['border']}}}"
        f".missing{{fill:none;stroke:{colours['line']};stroke-dasharray:4 3}}"
        f".line{{fill:none;stroke:{colours['line']}}}.mark{{stroke:{colours['ink']};stroke-dasharray:3 3}}"
    )


def text(
    x: int, y: int, content: str, *, size: int = 14, weight: int = 400, kind: str = "ink", anchor: str = "start"
) -> str:
    """Return a line of text whose baseline is at `y`."""
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    style = f'font-size="{size}" font-weight="{weight}" class="{kind}"{place}'
    return f'<text x="{x}" y="{y}" {style}>{escape(content)}</text>'


def bar(x: int, y: int, name: str, share: float, kind: str, digits: str = ".0%") -> Iterator[str]:
    """Yield a labelled bar whose length is a share, from 0 to 1."""
    yield text(x, y + 14, name, size=13)
    yield f'<rect x="{x + LABEL}" y="{y}" width="{BAR}" height="18" class="track"/>'
    yield f'<rect x="{x + LABEL}" y="{y}" width="{round(BAR * share)}" height="18" class="{kind}"/>'
    yield text(x + LABEL + 8 + BAR, y + 14, f"{share:{digits}}", size=13)


def box(x: int, y: int, width: int, title: str, lines: Iterable[str] = (), kind: str = "box") -> Iterator[str]:
    """Yield a box with a title and smaller lines below it, centred."""
    lines = list(lines)
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{box_height(len(lines))}" rx="6" class="{kind}"/>'
    yield text(x + width // 2, y + 24, title, weight=600, anchor="middle")
    for row, line in enumerate(lines):
        yield text(x + width // 2, y + 44 + 18 * row, line, size=13, kind="soft", anchor="middle")


def box_height(lines: int) -> int:
    """Return the height of a box with so many lines below its title."""
    return 38 + 18 * lines


def arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    """Return an arrow; it leaves and ends vertically where its ends are not above each other."""
    middle = (y + to_y) // 2
    path = f"M{x} {y}V{to_y}" if x == to_x else f"M{x} {y}V{middle}H{to_x}V{to_y}"
    return f'<path d="{path}" class="line" marker-end="url(#head)"/>'
