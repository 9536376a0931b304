"""Low-rank adaptation of the text encoder to the corpus's polarity.

For: adapters small enough to ship, trained before the network on the training texts alone.
Does not know: sound, faces, the network. Serving merges what this returns (`model.features.text.encoder`) and needs no peft.
Source: Hu et al. 2021 (LoRA), as peft implements it.
"""

import warnings
from collections.abc import Sequence
from typing import Final, cast

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from rich.progress import track
from torch import Tensor, nn

from model.features.text.encoder import ADAPTER_SCALE, TextEncoder
from model.modality import Modality
from model.network.losses import IGNORED
from model.training.datasets.base import Example, TextSource
from model.training.settings import AdapterSettings

TARGETS: Final = ["query", "key", "value", "dense"]  # every linear of a BERT layer
BUCKET: Final = 50  # batches sorted by length together: little padding, and still a random order
POOL_DROPOUT: Final = 0.2
CLIP_NORM: Final = 1.0
WARMUP: Final = 0.1


def train_adapters(
    encoder: TextEncoder, examples: Sequence[Example], classes: Sequence[str], settings: AdapterSettings
) -> dict[str, Tensor]:
    """Adapt to the polarity of the training sentences, each used once an epoch.

    The target is the polarity the text carries alone where the corpus knows it, else the label; beside it the emotion,
    where known, which tells more about a sentence than its polarity.

    Args:
        encoder: used as it is; its own weights are not changed.
        examples: of the training part; those without text are passed over.
        classes: names, in the order of the labels.
        settings: schedule; the rank is the encoder config's.

    Returns:
        `<module>.A` `(r, in)` and `<module>.B` `(out, r)`, as `TextEncoder.merge` takes them; empty when the rank or
        the epochs are 0 or there is no text.
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
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    lora = LoraConfig(
        r=rank, lora_alpha=int(ADAPTER_SCALE * rank), lora_dropout=settings.dropout, target_modules=TARGETS
    )
    with warnings.catch_warnings():
        # peft asks transformers by the older of two names.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        adapted = get_peft_model(encoder.model, lora)
    head = nn.Linear(encoder.config.size, len(classes) + len(emotions)).to(encoder.device)
    try:
        _fit(adapted, head, len(classes), encoder, [(text, *labels) for text, labels in texts.items()], settings, rng)
        return export(adapted)
    finally:
        adapted.unload()  # gives the encoder its own layers back


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
    optimiser = torch.optim.AdamW(
        [
            {"params": trained, "lr": settings.learning_rate},
            {"params": head.parameters(), "lr": settings.head_learning_rate},
        ],
        weight_decay=0.01,
    )
    steps = settings.epochs * -(-len(data) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        [settings.learning_rate, settings.head_learning_rate],
        total_steps=steps,
        pct_start=WARMUP,
    )
    batches = [b for _ in range(settings.epochs) for b in _batches(data, settings.batch_size, rng)]
    adapted.train()
    for batch in track(batches, description="Text adapters"):
        tokens = encoder.tokenizer(
            [data[i][0] for i in batch],
            padding=True,
            truncation=True,
            max_length=encoder.config.max_tokens,
            return_tensors="pt",
        ).to(encoder.device)
        labels, emotions = torch.tensor([data[i][1:] for i in batch], device=encoder.device).unbind(dim=1)
        # Half the bytes and twice the speed, on a CPU as on CUDA; adapters come out as good (validation macro-F1).
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
    """A random order in which sentences of similar length share a batch."""
    order = rng.permutation(len(data)).tolist()
    batches = []
    for start in range(0, len(order), size * BUCKET):
        bucket = sorted(order[start : start + size * BUCKET], key=lambda i: len(data[i][0]))
        batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def export(adapted: nn.Module) -> dict[str, Tensor]:
    """Parameter names of peft → the adapted module's own name with `.A` and `.B`."""
    exported = {}
    for name, parameter in adapted.named_parameters():
        for peft_name, own in ((".lora_A.default.weight", ".A"), (".lora_B.default.weight", ".B")):
            if name.endswith(peft_name):
                module = name.removeprefix("base_model.model.").removesuffix(peft_name)
                exported[module + own] = cast(Tensor, parameter).detach().cpu().clone()
    return exported
