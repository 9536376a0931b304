"""The report of a grid of experiments: one HTML page, the same in Markdown, every figure as CSV, and pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from model.experiments.figures import DARK, Figure
from model.experiments.results import CellResult
from model.experiments.sections import Block, Report, Section
from model.experiments.tables import Published
from model.training.plots import check_packages
from model.training.report import ReportTable, write_whole

TITLE: Final = "EMMR and the systems it is compared with: measured and published figures"
TEMPLATE: Final = Path(__file__).with_name("report.html")


def write_reproduction(results: Sequence[CellResult], out: Path, published: Published | None = None) -> None:
    """Write `index.html`, `report.md`, `runs.csv` and `figures/*.svg`; equal results give equal files.

    Args:
        results: finished cells, any part of a grid; what is missing is shown as not run.
        out: folder; it is made where it does not exist.
        published: figures of the paper and of later methods; those of the package if None.

    Raises:
        ConfigError: a package of the `train` extra is not installed, or cells were evaluated on different items.
    """
    check_packages()
    report = Report(sorted(results, key=lambda r: (r.corpus, r.variant, r.seed)), published or Published.load())
    sections = list(report.sections())
    for section in sections:
        for figure in (block for block in section.blocks if isinstance(block, Figure)):
            write_whole(figure.svg, out / "figures" / f"{figure.name}.svg")
            write_whole(figure.dark_svg, out / "figures" / f"{figure.name}-dark.svg")
    write_whole(report.measures.csv(), out / "runs.csv")
    write_whole(_html(sections), out / "index.html")
    write_whole(_markdown(sections), out / "report.md")


def _html(sections: Sequence[Section]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return page.render(title=TITLE, sections=sections, dark=DARK)


def _markdown(sections: Sequence[Section]) -> str:
    lines = [f"# {TITLE}", ""]
    lines += [f"- [{section.title}](#{section.slug})" for section in sections]
    for section in sections:
        lines += ["", f'<a id="{section.slug}"></a>', "", f"## {section.title}"]
        for block in section.blocks:
            lines += ["", *_markdown_block(block)]
    return "\n".join(lines) + "\n"


def _markdown_block(block: Block) -> Iterator[str]:
    if isinstance(block, str):
        yield block
    elif isinstance(block, ReportTable):
        yield f"**{block.title}**"
        yield ""
        yield from block.markdown("---:")
    elif isinstance(block, Figure):
        yield "<picture>"
        yield f'<source media="(prefers-color-scheme: dark)" srcset="figures/{block.name}-dark.svg">'
        yield f'<img src="figures/{block.name}.svg" alt="{block.text}">'
        yield "</picture>"
        yield ""
        yield block.text
    else:
        yield from (f"- {sentence}" for sentence in block)
