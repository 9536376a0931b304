"""An answer as tables a person can read in a terminal.

For: `emmr predict --table`.
Does not know: where the answer came from.
"""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.api.schemas import ExplainedPrediction, Prediction


def render(answer: Prediction) -> RenderableType:
    """The whole answer."""
    parts: list[RenderableType] = [Text(answer.summary, style="bold"), _votes(answer), _used(answer)]
    parts += [Text(f"{warning.code}: {warning.detail}", style="yellow") for warning in answer.warnings]
    if isinstance(answer, ExplainedPrediction) and answer.reconstruction:
        parts.append(_reconstruction(answer))
    parts.append(Text(f"{answer.model.name} {answer.model.version[:12]}", style="dim"))
    return Group(*parts)


def _votes(answer: Prediction) -> Table:
    table = Table("head", *answer.model.classes)
    rows = dict(answer.votes) if isinstance(answer, ExplainedPrediction) else {}
    for head, vote in {**rows, "answer": answer.probabilities}.items():
        table.add_row(head, *(f"{vote[name]:.3f}" for name in answer.model.classes))
    return table


def _used(answer: Prediction) -> Table:
    table = Table("modality", "status", "used")
    for name, use in answer.modalities:
        figures = use.model_dump(exclude={"status", "reason"}, exclude_none=True)
        used = use.reason or ", ".join(f"{key} {value}" for key, value in figures.items())
        table.add_row(name, use.status, used)
    return table


def _reconstruction(answer: ExplainedPrediction) -> Table:
    table = Table("recovered", "figure", "value")
    for modality, figures in answer.reconstruction.items():
        for figure, value in figures.items():
            table.add_row(modality, figure, f"{value:.3f}")
    return table
