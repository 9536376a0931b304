"""The device report, on a CPU at tiny sizes."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.device import main, table

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results" / "device.json"


def test_report_and_table_are_written(tmp_path: Path) -> None:
    document, results = tmp_path / "page.md", tmp_path / "device.json"
    document.write_text("before\n<!-- device -->\nold\n<!-- /device -->\nafter\n", encoding="utf-8")
    main(["--device", "cpu", "--quick", "--sections", "network", "--json", str(results), "--document", str(document)])
    figures = json.loads(results.read_text(encoding="utf-8"))["network"]
    assert figures["status"] == 0
    assert figures["shipped"]["one_step_by_step_ms"] > 0
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| one utterance, step by step |" in text


def test_failed_section_leaves_its_cells_empty() -> None:
    failed = {"status": 1}
    found = {"device": "a", "machine": "b", "network": failed, "served": failed, "memory": failed}
    assert "| one utterance, replayed |  |  |  |  |" in table(found)


def test_committed_report_is_of_a_cuda_device() -> None:
    found = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert "NVIDIA" in found["device"]
    assert found["tests"]["passed"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_device_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "there is no CUDA device" in capsys.readouterr().err
