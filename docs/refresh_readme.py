"""Rewrite answers and results in the README and the pages, from a service and the shipped weights: `make readme`.

Each `<!-- answer -->` block gets what the command above it prints; the others come from `benchmarks/results/`,
`docs/results/` and `weights/default/results.json`.
"""

import csv
import json
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from model.baselines.systems import TITLES
from model.config import SYSTEMS
from model.training.missing_patterns import RATES
from model.training.report import markdown
from tools.load.service import serving

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = (
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("index.md", "answer.md", "results.md", "sizing.md")),
)
REPORT: Final = ROOT / "docs" / "results" / "report.md"  # of `emmr reproduce`
RUNS: Final = REPORT.with_name("runs.csv")
COMPARED: Final = {"mosi": "CMU-MOSI, 752 utterances", "composite2": "Composite 2, 1,226 utterances"}
"""Corpus → title of its table in README.md."""
RESULTS: Final = ROOT / "weights" / "default" / "results.json"
MEASURED: Final = ROOT / "benchmarks" / "results"
ADDRESS: Final = "127.0.0.1:8000"  # in the pages; replaced by that of the service
ANSWER: Final = re.compile(
    r"(?P<before>```bash\n(?P<command>[^`]+)```\n\n<!-- answer -->\n).*?(?P<after><!-- /answer -->)", re.DOTALL
)
SUMMARY: Final = re.compile(r"(?P<before><!-- summary -->\n).*?(?P<after><!-- /summary -->)", re.DOTALL)
TABLES: Final = re.compile(r"(?P<before><!-- results -->\n).*?(?P<after><!-- /results -->)", re.DOTALL)
COMPARISON: Final = re.compile(r"(?P<before><!-- comparison -->\n).*?(?P<after><!-- /comparison -->)", re.DOTALL)
SIZING: Final = re.compile(r"(?P<before><!-- sizing -->\n).*?(?P<after><!-- /sizing -->)", re.DOTALL)


def main() -> None:
    """Rewrite the blocks of every page."""
    with serving() as service:
        address = f"127.0.0.1:{service.port}"
        for path in PAGES:
            page = with_results(path.read_text(encoding="utf-8"))
            page = ANSWER.sub(
                lambda found: found["before"] + answered(found["command"], address) + found["after"], page
            )
            path.write_text(page, encoding="utf-8")


def with_results(page: str) -> str:
    """Return a page with the figures of the shipped weights in its blocks."""
    page = TABLES.sub(lambda found: found["before"] + results() + found["after"], page)
    page = SIZING.sub(lambda found: found["before"] + sizing() + found["after"], page)
    page = COMPARISON.sub(lambda found: found["before"] + comparison() + found["after"], page)
    return SUMMARY.sub(lambda found: found["before"] + summary() + found["after"], page)


def answered(command: str, address: str) -> str:
    """Run one of the pages' commands against the service at `address`; return its answer as a fenced block.

    Raises:
        SystemExit: the answer is an error.
        subprocess.CalledProcessError: the command fails.
    """
    command = command.replace(ADDRESS, address)
    run = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(run.stdout)
    if "polarity" not in answer:
        raise SystemExit(f"{command}answered {run.stdout}")
    return f"```json\n{in_lines(answer)}\n```\n"


def in_lines(answer: dict[str, Any]) -> str:
    """Write an answer with a line for each field, and for each member of the long ones; figures to three decimals."""
    lines = []
    for name, value in rounded(answer).items():
        whole = json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict) and len(whole) > 100:
            members = (f"    {json.dumps(key)}: {json.dumps(part, ensure_ascii=False)}" for key, part in value.items())
            whole = "{\n" + ",\n".join(members) + "\n  }"
        lines.append(f"  {json.dumps(name)}: {whole}")
    return "{\n" + ",\n".join(lines) + "\n}"


def rounded(answer: dict[str, Any]) -> dict[str, Any]:
    """Round every figure of an answer to three decimals."""
    return dict(json.loads(json.dumps(answer), parse_float=lambda figure: round(float(figure), 3)))


def results() -> str:
    """Return the tables of the validation and test parts, mean and standard deviation over all seeds.

    Where `emmr reproduce` has written its report, a link to it comes first.
    """
    seeds = json.loads(RESULTS.read_text(encoding="utf-8"))["seeds"]
    tests = [seed["test"] for seed in seeds.values()]
    parts = [f"### {part}\n\n{markdown([test[part] for test in tests]).strip()}\n" for part in tests[0]]
    report = "The comparison with other systems is in the [report of emmr reproduce](results/report.md).\n\n"
    return (
        (report if REPORT.exists() else "")
        + f"Mean ± standard deviation over {len(seeds)} seeds:\n\n"
        + "\n".join([validation([seed["validation"]["by_pattern"] for seed in seeds.values()]), *parts])
    )


def validation(seeds: Sequence[Mapping[str, float]]) -> str:
    """Return the table of macro-F1 on the validation part, by what is present; one mapping for each seed."""
    rows = ["### composite2 validation", "", "| Present | Macro-F1 |", "| --- | ---: |"]
    for name in seeds[0]:
        scores = [seed[name] for seed in seeds]
        deviation = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        rows.append(f"| {name} | {statistics.mean(scores):.3f}{deviation} |")
    return "\n".join(rows) + "\n"


def sizing() -> str:
    """Return the table of sustained rates of the service, from the recorded benchmarks on a CPU and on a device."""
    service, device = (json.loads((MEASURED / f"{name}.json").read_text("utf-8")) for name in ("service", "device"))
    rates = service["medians"]
    rows = [f"{service['machine']}:\n", "| Given | Answers a second | p50 | p99 |", "| --- | ---: | ---: | ---: |"]
    for name in (key.split("_")[1] for key in rates if re.fullmatch(r"ours_[^_]+_goodput_per_s", key)):
        figures = [rates[f"ours_{name}_{figure}"] for figure in ("goodput_per_s", "p50_ms", "p99_ms")]
        rows.append("| {} | {:.0f} | {:.0f} ms | {:.0f} ms |".format(name.replace("+", ", "), *figures))
    rows += [
        f"\n{device['device']}, {device['machine']}:\n",
        "| Given | Answers a second | p99 |",
        "| --- | ---: | ---: |",
    ]
    served = device["served"]["cuda"]
    for name in ("text+audio+visual", "text"):
        figures = [served[f"{name}_{figure}"] for figure in ("goodput_per_s", "p99_ms")]
        rows.append("| {} | {:.0f} | {:.0f} ms |".format(name.replace("+", ", "), *figures))
    return "\n".join(rows) + "\n"


def comparison() -> str:
    """Return tables of every system by missing rate, one of each of `COMPARED`, from the runs of `emmr reproduce`."""
    scores: dict[tuple[str, str, float], list[float]] = {}
    with RUNS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if (row["split"], row["protocol"], row["metric"]) == ("test", "rates", "macro_f1"):
                key = row["corpus"], row["variant"], float(row["condition"])
                scores.setdefault(key, []).append(100 * float(row["value"]))
    lines = []
    for corpus, title in COMPARED.items():
        lines += ["", f"| {title} | Seeds | " + " | ".join(f"{rate:.0%}" for rate in RATES) + " |"]
        lines.append("| --- |" + " ---: |" * (1 + len(RATES)))
        for system in SYSTEMS:
            found = [scores[corpus, system, rate] for rate in RATES]
            cells = (
                f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")
                for values in found
            )
            lines.append(f"| {TITLES[system]} | {len(found[0])} | {' | '.join(cells)} |")
    return "\n".join(lines[1:]) + "\n"


def summary() -> str:
    """Return the few figures a reader should see first, of the shipped seed."""
    shipped = json.loads(RESULTS.read_text(encoding="utf-8"))["test"]
    rows = ["| Given | Composite 2, test | Composite 2, unseen voices |", "| --- | ---: | ---: |"]
    test, ood = shipped["composite2 test"], shipped["composite2 ood"]
    for name in test["patterns"]:
        cells = (f"{part['patterns'][name]['macro_f1']:.2f}" for part in (test, ood))
        rows.append(f"| {name.replace('+', ', ')} | {' | '.join(cells)} |")
    voices, faces = (shipped[part]["corpora"]["by_corpus"] for part in ("voices ood", "faces test"))
    recalls = ", ".join(f"{name} {scores['uar']:.2f}" for name, scores in (*voices.items(), *faces.items()))
    verdict = test["key_missing"]
    return (
        "Macro-F1 of three classes:\n\n" + "\n".join(rows) + "\n\n"
        f"Unweighted recall (chance is .33) of a voice alone from unseen corpora, and of a face alone: {recalls}. "
        f"The verdict on what is missing ranks with an AUROC of {verdict['one_missing']['auroc']:.2f} where one is "
        f"missing and {verdict['two_missing']['auroc']:.2f} where two are (composite 2, test).\n"
    )


if __name__ == "__main__":
    main()
