import json
import shutil
from pathlib import Path

import pytest
import torch

from model.features.text.bert import MIN_ROWS, PackedBert, padded_rows

CPU = torch.device("cpu")
SENTENCES = [[101, 7, 8, 9, 102], [101, 102], [101, *range(200, 260), 102], [101, 5, 102]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel

    path = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=300, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = BertModel(config)
        for parameter in model.parameters():  # by default, biases are zeros and scales ones
            parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(path)
    return path


def read(folder: Path) -> PackedBert:
    encoder = PackedBert.read(folder, CPU)
    assert encoder is not None
    return encoder


def of_transformers(folder: Path) -> torch.nn.Module:
    from transformers import BertModel

    model: torch.nn.Module = BertModel.from_pretrained(folder)
    return model


def test_batch_of_sentences_equals_transformers(folder: Path) -> None:
    reference = of_transformers(folder)
    with torch.inference_mode():
        expected = [reference(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in SENTENCES]
    for ours, theirs in zip(read(folder)(SENTENCES), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("module", ["query", "key", "value"])
def test_weight_changed_in_place_is_used_by_the_next_call(folder: Path, module: str) -> None:
    name = f"encoder.layer.1.attention.self.{module}"
    changed = read(folder)
    reference = of_transformers(folder)
    before = changed(SENTENCES)[0]
    with torch.no_grad():
        delta = torch.randn(24, 24)
        changed.weight(name).add_(delta)
        dict(reference.named_parameters())[f"{name}.weight"].add_(delta)
        theirs = reference(input_ids=torch.tensor([SENTENCES[0]])).last_hidden_state[0]
    ours = changed(SENTENCES)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert (ours - before).abs().max() > 1e-3


def test_other_models_are_not_read(folder: Path, tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    DistilBertModel(DistilBertConfig(vocab_size=30, dim=12, n_layers=1, n_heads=2, hidden_dim=8)).save_pretrained(
        tmp_path / "distil"
    )
    assert PackedBert.read(tmp_path / "distil", CPU) is None
    assert PackedBert.read(tmp_path, CPU) is None
    relative = Path(shutil.copytree(folder, tmp_path / "relative"))
    config = json.loads((relative / "config.json").read_text(encoding="utf-8"))
    (relative / "config.json").write_text(
        json.dumps(config | {"position_embedding_type": "relative_key"}), encoding="utf-8"
    )
    assert PackedBert.read(relative, CPU) is None


def test_weights_that_do_not_fit_their_config_are_named(folder: Path, tmp_path: Path) -> None:
    deeper = Path(shutil.copytree(folder, tmp_path / "deeper"))
    config = json.loads((deeper / "config.json").read_text(encoding="utf-8"))
    (deeper / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks 'encoder.layer.2"):
        PackedBert.read(deeper, CPU)


def test_broken_weights_file_raises_value_error(folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        PackedBert.read(broken, CPU)


def test_unknown_module_has_no_weight(folder: Path) -> None:
    with pytest.raises(KeyError):
        read(folder).weight("nowhere")


def test_padded_row_counts_are_few_and_close() -> None:
    wanted = range(1, 4_097)
    assert all(rows <= padded_rows(rows) <= max(rows + MIN_ROWS - 1, rows * 17 / 16) for rows in wanted)
    assert len({padded_rows(rows) for rows in wanted}) < 120


def test_padding_rows_do_not_change_the_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = [[5, 9, 2], [7] * 10]
    expected = read(folder)(sentences)
    monkeypatch.setattr("model.features.text.bert.padded_rows", lambda rows: rows)
    for ours, plain in zip(expected, read(folder)(sentences), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=0)
