"""Rewrite the README: its answers, from its commands, and its figures, from the shipped weights: `make readme`.

Each `<!-- answer -->` block gets what the command above it prints; the others come from `weights/default/results.json`.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

from model.training.report import markdown
from tools.load.service import serving

ROOT: Final = Path(__file__).resolve().parents[1]
README: Final = ROOT / "README.md"
RESULTS: Final = ROOT / "weights" / "default" / "results.json"
ADDRESS: Final = "127.0.0.1:8000"  # in the README; replaced by that of the service
ANSWER: Final = re.compile(
    r"(?P<before>```bash\n(?P<command>[^`]+)```\n\n<!-- answer -->\n).*?(?P<after><!-- /answer -->)", re.DOTALL
)
SUMMARY: Final = re.compile(r"(?P<before><!-- summary -->\n).*?(?P<after><!-- /summary -->)", re.DOTALL)
TABLES: Final = re.compile(r"(?P<before><!-- results -->\n).*?(?P<after><!-- /results -->)", re.DOTALL)


def main() -> None:
    """Rewrite the README's blocks."""
    page = README.read_text(encoding="utf-8")
    with serving() as service:
        address = f"127.0.0.1:{service.port}"
        page = ANSWER.sub(lambda found: found["before"] + answered(found["command"], address) + found["after"], page)
    page = TABLES.sub(lambda found: found["before"] + results() + found["after"], page)
    page = SUMMARY.sub(lambda found: found["before"] + summary() + found["after"], page)
    README.write_text(page, encoding="utf-8")


def answered(command: str, address: str) -> str:
    """Run one of the README's commands against the service at `address`; return its answer as a fenced block.

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
    """Return every part's tables, mean and standard deviation over all seeds; the card has the shipped seed's."""
    shipped = json.loads(RESULTS.read_text(encoding="utf-8"))
    seeds = [seed["test"] for seed in shipped["seeds"].values()]
    parts = [f"### {part}\n\n{markdown([seed[part] for seed in seeds]).strip()}\n" for part in seeds[0]]
    return f"Mean ± standard deviation over {len(seeds)} seeds:\n\n" + "\n".join(parts)


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
