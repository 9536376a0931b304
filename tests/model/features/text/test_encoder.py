import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import TextConfig
from model.errors import CheckpointError, ConfigError
from model.features.text import encoder as text
from model.features.text.encoder import ADAPTER_SCALE, TextEncoder, packaged_folder

CPU = torch.device("cpu")
LONG = "well I must say that this was by far the most wonderful evening of the whole long year"
SENTENCES = [" ".join(LONG.split()[: 1 + n % 19]) for n in range(70)]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(TextConfig(), CPU)


@pytest.fixture(scope="module")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved BERT of another size with random weights."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=30_522, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(packaged_folder() / name, folder / name)
    return folder


def small(folder: Path, **changes: int) -> TextConfig:
    return TextConfig.model_validate({"encoder": str(folder), "size": 24, **changes})


def test_features_are_the_last_hidden_states_from_cls_to_sep(encoder: TextEncoder) -> None:
    (features,) = encoder(["A fine day."])
    tokens = encoder.tokenizer("A fine day.", return_tensors="pt")
    assert encoder.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0].tolist()) == [
        "[CLS]", "a", "fine", "day", ".", "[SEP]",
    ]  # fmt: skip
    with torch.inference_mode():
        expected = encoder.model(**tokens).last_hidden_state[0]
    assert features.array.shape == (6, 384)
    assert features.array.dtype == np.float32
    assert (features.tokens, features.truncated) == (6, False)
    np.testing.assert_allclose(features.array, expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "relu"], ids=["packed", "transformers"])
def test_special_tokens_in_a_sentence_are_words(small_bert: Path, tmp_path: Path, activation: str) -> None:
    folder = Path(shutil.copytree(small_bert, tmp_path / "bert"))
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config.replace('"gelu"', f'"{activation}"'), encoding="utf-8")
    typed, spaced = TextEncoder(small(folder), CPU)(["[PAD][CLS] good [SEP]", "[ PAD ] [ CLS ] good [ SEP ]"])
    assert typed.tokens == spaced.tokens == 13  # [CLS] [ pad ] [ cl ##s ] good [ sep ] [SEP]
    np.testing.assert_allclose(typed.array, spaced.array, atol=1e-5)


@pytest.mark.parametrize(
    ("sentence", "found"), [("a", True), ("[PAD]", True), ("🙂", True), ("\ufe0f", False), ("\u200b\x01\u0301", False)]
)
def test_sentence_of_control_characters_and_accents_has_no_tokens(
    encoder: TextEncoder, sentence: str, found: bool
) -> None:
    assert encoder.has_tokens(sentence) == found


def test_truncation_keeps_sep_and_is_reported() -> None:
    encoder = TextEncoder(TextConfig(max_tokens=8), CPU)
    exact, cut = encoder(["one two three four five six", LONG])
    assert (exact.array.shape[0], exact.tokens, exact.truncated) == (8, 8, False)
    assert (cut.array.shape[0], cut.tokens, cut.truncated) == (8, len(LONG.split()) + 2, True)
    ids = encoder.tokenizer(LONG)["input_ids"]
    assert isinstance(ids, list)
    kept = torch.tensor([[*ids[:7], encoder.tokenizer.sep_token_id]])
    with torch.inference_mode():
        expected = encoder.model(input_ids=kept).last_hidden_state[0]
    np.testing.assert_allclose(cut.array, expected, atol=1e-5)


def test_batch_and_order_do_not_change_a_sentence(encoder: TextEncoder) -> None:
    together = encoder(SENTENCES)
    backwards = encoder(SENTENCES[::-1])[::-1]
    for sentence, one, other in zip(SENTENCES[:19], together, backwards, strict=False):
        (alone,) = encoder([sentence])
        assert one.array.shape == alone.array.shape
        np.testing.assert_allclose(one.array, alone.array, atol=1e-5)
        np.testing.assert_allclose(other.array, alone.array, atol=1e-5)


def test_empty_list_of_sentences_has_no_features(encoder: TextEncoder) -> None:
    assert encoder([]) == []


def test_encoder_is_in_eval_mode_without_gradients(encoder: TextEncoder) -> None:
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())


def test_altered_packaged_weights_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = bytearray((packaged_folder() / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    package = tmp_path / text.PACKAGED_MODULE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    altered = package / "model" / "model.safetensors"
    altered.write_bytes(weights)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match="missing or not the published one"):
        TextEncoder(TextConfig(), CPU)
    altered.unlink()
    with pytest.raises(CheckpointError, match="missing or not the published one"):
        packaged_folder()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PACKAGED_MODULE", "no_such_encoder_package")
    with pytest.raises(ConfigError, match=r"'no_such_encoder_package'.*is not installed"):
        packaged_folder()


def test_any_bert_family_folder_is_accepted(small_bert: Path) -> None:
    short, long = TextEncoder(small(small_bert), CPU)(["A fine day.", LONG])
    assert short.array.shape == (6, 24)
    assert long.array.shape == (len(LONG.split()) + 2, 24)


def test_hidden_size_other_than_the_config_s_is_rejected(small_bert: Path) -> None:
    with pytest.raises(ConfigError, match="hidden size 24, the config says 32"):
        TextEncoder(small(small_bert, size=32), CPU)


def test_folder_without_an_encoder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TextEncoder(small(tmp_path), CPU)


def test_pickled_weights_are_not_loaded(small_bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_bert, tmp_path / "bert"))
    torch.save(TextEncoder(small(folder), CPU).model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TextEncoder(small(folder), CPU)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # raised by peft
def test_merged_adapters_equal_peft(small_bert: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = small(small_bert, adapter_rank=4)
    adapted = TextEncoder(config, CPU)
    peft_model = get_peft_model(
        adapted.model, LoraConfig(r=4, lora_alpha=int(4 * ADAPTER_SCALE), target_modules=["query", "value", "dense"])
    ).eval()
    adapters: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(5)
    for name, parameter in peft_model.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
            module, _, rest = name.removeprefix("base_model.model.").partition(".lora_")
            adapters[f"{module}.{rest[0]}"] = parameter.data
    assert len(adapters) == 2 * (2 * 5 + 1)  # query, value and three dense of two layers, and the pooler
    merged = TextEncoder(config, CPU)
    (plain,) = merged([LONG])
    merged.merge(adapters)
    (ours,) = merged([LONG])
    with torch.inference_mode():
        theirs = peft_model(**merged.tokenizer(LONG, return_tensors="pt")).last_hidden_state[0]
    np.testing.assert_allclose(ours.array, theirs, atol=1e-4)
    assert np.abs(ours.array - plain.array).max() > 0.1


@pytest.mark.parametrize(
    "adapters",
    [
        {"encoder.layer.0.attention.self.query.A": torch.zeros(2, 24)},
        {"nowhere.A": torch.zeros(2, 24), "nowhere.B": torch.zeros(24, 2)},
        {
            "encoder.layer.0.attention.self.query.A": torch.zeros(2, 24),
            "encoder.layer.0.attention.self.query.B": torch.zeros(25, 2),
        },
    ],
    ids=["half", "module", "size"],
)
def test_adapters_that_do_not_fit_are_rejected(small_bert: Path, adapters: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match="does not fit the text encoder"):
        TextEncoder(small(small_bert), CPU).merge(adapters)
