import io

from rich.console import Console

from app.api.schemas import ExplainedPrediction
from app.offline import render
from tests.support.answers import prediction


def test_the_tables_show_the_whole_prediction() -> None:
    answer = ExplainedPrediction(
        **dict(prediction(detected=True)),
        votes={"text+audio": {"negative": 0.6, "positive": 0.4}},
        reconstruction={"visual": {"agreement": 0.875}},
    )
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(answer))
    shown = console.export_text()
    for words in (
        "negative (75 %), and the missing face would change this with 50 %.",
        "text+audio",
        "0.600",
        "no_face",
        "tokens 5",
        "familiarity 0.25, seconds 1.0",
        "frames_skipped",
        "0.875",
        "0123456789ab",
    ):
        assert words in shown
