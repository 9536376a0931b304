"""Low-rank adapters (LoRA, Hu et al. 2021) that fine-tune the text encoder to the polarity and emotion of sentences.

peft trains them; `model.features.text.encoder` merges them into the encoder without it.
"""
# Shapes: B batch, T tokens, d hidden size of the encoder, r rank, C classes, E emotions.

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from model.features.text.encoder import ADAPTER_SCALE, TextEncoder
from model.modality import Modality
from model.network.losses import IGNORED
from model.training.datasets.base import Example, TextSource
from model.training.settings import AdapterSettings

if TYPE_CHECKING:
    from peft import PeftModel

TARGETS: Final = ["query", "key", "value", "dense"]  # every linear layer of a BERT layer
BUCKET: Final = 50  # batches that are sorted by length together: little padding, and still a random order
POOL_DROPOUT: Final = 0.2
CLIP_NORM: Final = 1.0
WARMUP: Final = 0.1  # share of the steps


def train_adapters(
    encoder: TextEncoder, examples: Sequence[Example], classes: Sequence[str], settings: AdapterSettings
) -> dict[str, Tensor]:
    """Train on the distinct sentences of the examples; the encoder's own weights are not changed.

    The target is the polarity of the text alone where the corpus has it, else the label; the emotion is a second target
    where the corpus has it.

    Returns:
        `<module>.A` `(r, in)` and `<module>.B` `(out, r)` for `TextEncoder.merge`; empty if the rank or the epochs are
        0 or there is no text.
    """
    emotions = sorted({e.emotions[Modality.TEXT] for e in examples if Modality.TEXT in e.emotions})
    texts = {
        source.text: (
            classes.index(example.modality_labels.get(Modality.TEXT, example.label)),
            emotions.index(example.emotions[Modality.TEXT]) if Modality.TEXT in example.emotions else IGNORED,
        )
        for example in examples
        if isinstance(source := example.sources.get(Modality.TEXT), TextSource)
    }
    rank = encoder.config.adapter_rank
    if not (rank and settings.epochs and texts):
        return {}
    from peft import LoraConfig, get_peft_model  # takes seconds, which a training without adapters need not wait

    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    lora = LoraConfig(
        r=rank, lora_alpha=int(ADAPTER_SCALE * rank), lora_dropout=settings.dropout, target_modules=TARGETS
    )
    with warnings.catch_warnings():
        # peft reads an attribute of transformers by its deprecated name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        adapted = get_peft_model(encoder.model, lora)
    head = nn.Linear(encoder.config.size, len(classes) + len(emotions)).to(encoder.device)
    try:
        _fit(adapted, head, len(classes), encoder, [(text, *labels) for text, labels in texts.items()], settings, rng)
        return export(adapted)
    finally:
        adapted.unload()  # restores the encoder's own layers


def _fit(
    adapted: nn.Module,
    head: nn.Linear,
    classes: int,
    encoder: TextEncoder,
    data: Sequence[tuple[str, int, int]],
    settings: AdapterSettings,
    rng: np.random.Generator,
) -> None:
    trained = [p for p in adapted.parameters() if p.requires_grad]
    rates = [settings.learning_rate, settings.head_learning_rate]
    groups = [
        {"params": parameters, "lr": lr} for parameters, lr in zip((trained, head.parameters()), rates, strict=True)
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = settings.epochs * -(-len(data) // settings.batch_size)
    if steps * WARMUP == 1:  # the warm-up would end with the first step, and PyTorch would divide by its length
        steps += 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, pct_start=WARMUP)
    batches = [b for _ in range(settings.epochs) for b in _batches(data, settings.batch_size, rng)]
    adapted.train()
    for batch in track(batches, description="Text adapters"):
        texts, limit = [data[i][0] for i in batch], encoder.config.max_tokens
        tokens = encoder.tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        tokens = tokens.to(encoder.device)
        labels, emotions = torch.tensor([data[i][1:] for i in batch], device=encoder.device).unbind(dim=1)
        # Half the memory and twice the speed, on CPU and CUDA, at equal validation macro-F1.
        with torch.autocast(encoder.device.type, dtype=torch.bfloat16):
            hidden = adapted(**tokens).last_hidden_state.float()  # (B, T, d)
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden)
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)  # (B, d)
        logits = head(F.dropout(pooled, POOL_DROPOUT))  # (B, C + E)
        loss = F.cross_entropy(logits[:, :classes], labels)
        if settings.emotion_weight and bool((emotions != IGNORED).any()):
            loss = loss + settings.emotion_weight * F.cross_entropy(logits[:, classes:], emotions, ignore_index=IGNORED)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        optimiser.step()
        schedule.step()
    adapted.eval()


def _batches(data: Sequence[tuple[str, int, int]], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Indices of each batch in a random order; sentences of similar length share a batch."""
    order = rng.permutation(len(data)).tolist()
    batches = []
    for start in range(0, len(order), size * BUCKET):
        bucket = sorted(order[start : start + size * BUCKET], key=lambda i: len(data[i][0]))
        batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def export(adapted: "PeftModel") -> dict[str, Tensor]:
    """The matrices of a peft model by the name of the adapted module, with `.A` and `.B`."""
    from peft import get_peft_model_state_dict

    return {
        name.removeprefix("base_model.model.").replace(".lora_", ".").removesuffix(".weight"): value.cpu().clone()
        for name, value in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
    }
