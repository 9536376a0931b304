"""Training of text adapters: the encoder is unchanged, and merged adapters give the trained outputs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.config import TextConfig
from model.features.text.encoder import ADAPTER_SCALE, TextEncoder
from model.modality import Modality
from model.training.adapters import TARGETS, export, train_adapters
from model.training.datasets.base import CLASSES, ActionUnitMeansSource, Example, TextSource
from model.training.settings import AdapterSettings

CPU = torch.device("cpu")
RANK = 2
ONE_EPOCH = AdapterSettings(epochs=1, batch_size=8)
WORDS = {"negative": "awful", "neutral": "ordinary", "positive": "wonderful"}
EXAMPLES = [
    Example(f"{label}-{n}", label, {Modality.TEXT: TextSource(f"meeting {n} was {WORDS[label]}")})
    for n in range(8)
    for label in CLASSES
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(TextConfig(adapter_rank=RANK), CPU)


@pytest.fixture(scope="module")
def adapters(encoder: TextEncoder) -> dict[str, Tensor]:
    return train_adapters(encoder, EXAMPLES, CLASSES, ONE_EPOCH)


def test_every_linear_layer_gets_a_pair_of_low_rank_matrices(encoder: TextEncoder, adapters: dict[str, Tensor]) -> None:
    linears = {name: m for name, m in encoder.model.named_modules() if isinstance(m, nn.Linear)}
    assert adapters.keys() == {name + end for name in linears for end in (".A", ".B")}
    for name, linear in linears.items():
        assert adapters[f"{name}.A"].shape == (RANK, linear.in_features)
        assert adapters[f"{name}.B"].shape == (linear.out_features, RANK)
    assert any(adapters[name].abs().max() > 0 for name in adapters if name.endswith(".B"))


def test_the_encoder_is_unchanged_afterwards() -> None:
    encoder = TextEncoder(TextConfig(adapter_rank=RANK), CPU)
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    (said,) = encoder(["a fine day"])
    train_adapters(encoder, EXAMPLES[:8], CLASSES, ONE_EPOCH)
    after = encoder.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not encoder.model.training
    np.testing.assert_array_equal(encoder(["a fine day"])[0].array, said.array)


def test_merged_adapters_separate_the_classes_better(adapters: dict[str, Tensor]) -> None:
    plain, adapted = (TextEncoder(TextConfig(adapter_rank=RANK), CPU) for _ in range(2))
    adapted.merge(train_adapters(plain, EXAMPLES, CLASSES, AdapterSettings(epochs=8, batch_size=8, learning_rate=1e-2)))
    assert separation(adapted) > 1.5 * separation(plain)


def separation(encoder: TextEncoder) -> float:
    """Distance between the classes' mean sentences, relative to the spread within a class, on unseen sentences."""
    by_class = [
        np.stack([f.array.mean(axis=0) for f in encoder([f"the {thing} looked {WORDS[label]}" for thing in THINGS])])
        for label in CLASSES
    ]
    means = np.stack([vectors.mean(axis=0) for vectors in by_class])
    within = float(np.mean([vectors.std(axis=0).mean() for vectors in by_class]))
    return float(means.std(axis=0).mean()) / within


THINGS = ("garden", "report", "kitchen", "bridge", "dress")


def test_training_repeats_with_its_seed(encoder: TextEncoder, adapters: dict[str, Tensor]) -> None:
    again = train_adapters(encoder, EXAMPLES, CLASSES, ONE_EPOCH)
    assert all(torch.equal(again[name], value) for name, value in adapters.items())
    other = train_adapters(encoder, EXAMPLES, CLASSES, ONE_EPOCH.model_copy(update={"seed": 1}))
    assert any(not torch.equal(other[name], value) for name, value in adapters.items())


def test_the_polarity_of_the_text_is_preferred_to_the_label(encoder: TextEncoder, adapters: dict[str, Tensor]) -> None:
    relabelled = [replace(e, label="neutral", modality_labels={Modality.TEXT: e.label}) for e in EXAMPLES]
    found = train_adapters(encoder, relabelled, CLASSES, ONE_EPOCH)
    assert all(torch.equal(found[name], value) for name, value in adapters.items())


FACE = Example("face", "neutral", {Modality.VISUAL: ActionUnitMeansSource("c", (0.0,))})


@pytest.mark.parametrize(
    ("rank", "epochs", "examples"),
    [(0, 1, EXAMPLES), (RANK, 0, EXAMPLES), (RANK, 1, [FACE]), (RANK, 1, [])],
    ids=["no rank", "no epochs", "no text", "no examples"],
)
def test_without_rank_epochs_or_text_there_are_no_adapters(rank: int, epochs: int, examples: Sequence[Example]) -> None:
    encoder = TextEncoder(TextConfig(adapter_rank=rank), CPU)
    assert train_adapters(encoder, examples, CLASSES, AdapterSettings(epochs=epochs)) == {}


def test_any_number_of_steps_can_be_trained(encoder: TextEncoder) -> None:
    for steps in (1, 9, 10, 11):
        settings = AdapterSettings(epochs=1, batch_size=1)
        assert train_adapters(encoder, EXAMPLES[:steps], CLASSES, settings)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_exported_adapters_merge_to_the_outputs_of_peft() -> None:
    from peft import LoraConfig, get_peft_model

    adapted, merged = (TextEncoder(TextConfig(adapter_rank=4), CPU) for _ in range(2))
    lora = LoraConfig(r=4, lora_alpha=int(4 * ADAPTER_SCALE), target_modules=TARGETS)
    model = get_peft_model(adapted.model, lora).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator)
    sentence = "well, what a waste of a perfectly good evening"
    (plain,) = merged([sentence])
    merged.merge(export(model))
    (ours,) = merged([sentence])
    with torch.inference_mode():
        theirs = model(**merged.tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
    np.testing.assert_allclose(ours.array, theirs, atol=1e-4)
    assert np.abs(ours.array - plain.array).max() > 0.05


def test_emotions_change_the_adapters_and_may_be_unknown(encoder: TextEncoder, adapters: dict[str, Tensor]) -> None:
    felt = [
        replace(e, emotions={Modality.TEXT: "joy" if e.label == "positive" else "anger"}) if n % 2 else e
        for n, e in enumerate(EXAMPLES)
    ]
    with_emotions = train_adapters(encoder, felt, CLASSES, ONE_EPOCH)
    assert with_emotions.keys() == adapters.keys()
    assert any(not torch.equal(value, adapters[name]) for name, value in with_emotions.items())
    without = train_adapters(encoder, felt, CLASSES, ONE_EPOCH.model_copy(update={"emotion_weight": 0.0}))
    assert any(not torch.equal(value, with_emotions[name]) for name, value in without.items())
