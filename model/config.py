"""The frozen configuration of a checkpoint, as stored in `weights/<name>/config.json`.

Source: Table 7 of the paper for `ModelConfig.paper`; the shipped values were chosen on validation data.
"""

from itertools import pairwise
from typing import Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.modality import Modality

BRANCHES: Final = ("transformer", "autoencoder", "cascade")
"""The three reconstruction branches (paper 3.5), in the order of β."""
TRANSFORMER: Final = BRANCHES[0]
"""The branch that every answer needs: its encoding is classified and its reconstructions are voted on."""

Ensemble = Literal["attention", "average", "maximum"]

System = Literal["emmr", "ae", "cra", "mctn", "transm", "mmin", "tate", "late-fusion", "classical"]
"""The systems that can be trained; all but the first are in `model.baselines`."""
SYSTEMS: Final[tuple[System, ...]] = get_args(System)
EMMR: Final[System] = SYSTEMS[0]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextConfig(_Frozen):
    """Text features."""

    encoder: str = "minilm"
    """`minilm` (the packaged all-MiniLM-L6-v2), or a hub id or folder of any BERT-family model."""
    size: int = Field(default=384, gt=0)
    """Hidden size of that encoder: 384 for MiniLM, 768 for bert-base."""
    max_tokens: int = Field(default=48, ge=3)
    """Tokens kept, `[CLS]` and `[SEP]` among them."""
    adapter_rank: int = Field(default=0, ge=0)
    """Rank of the low-rank adapters merged into the encoder at load; 0 for none."""


class AudioConfig(_Frozen):
    """Audio features."""

    encoder: Literal["acoustic", "whisper", "both"] = "acoustic"
    """`acoustic`: the paper's 33 features, one slot per frame. `whisper`: the mean hidden state of Whisper tiny.en's
    encoder after two layers (384). `both`: that and the 33 features' means, deviations and mean changes (483). The
    latter two fill one slot per clip."""
    dynamics: bool = False
    """Append the difference of each of the 33 features from the previous frame (66 in all)."""
    silence_dbfs: float = -60.0
    """Level of the loudest frame in dBFS below which a clip counts as silent."""
    conditioned: bool = False
    """Trim leading and trailing non-speech and normalise loudness before computing acoustic features."""

    @property
    def size(self) -> int:
        """Features of a slot."""
        if self.encoder == "acoustic":
            return 66 if self.dynamics else 33
        return 384 if self.encoder == "whisper" else 384 + 3 * 33


class VisualConfig(_Frozen):
    """Visual features, from OpenFace output."""

    columns: Literal["all", "action_units"] = "action_units"
    """709 columns, or the 35 action-unit columns."""
    reduce: Literal["frames", "mean"] = "mean"
    """One slot per frame, or one slot with the mean over frames."""
    root: bool = False
    """Take the square root of the action units: half of a clip's means lie near 0, where small differences count."""
    min_confidence: float = Field(default=0.5, ge=0.0, le=1.0)
    """Frames with a lower OpenFace confidence are skipped and counted."""

    @property
    def size(self) -> int:
        """Features of a slot."""
        return 709 if self.columns == "all" else 35


class PrecomputedConfig(_Frozen):
    """Sizes of feature vectors that a corpus contains in place of recordings; None for features computed here."""

    text: int | None = Field(default=None, gt=0, exclude_if=lambda size: size is None)
    """Features of a text slot, instead of those of `TextConfig`. None is not written, as in older configs."""
    audio: int | None = Field(default=None, gt=0)
    """Features of an audio slot, instead of those of `AudioConfig`."""
    visual: int | None = Field(default=None, gt=0)
    """Features of a visual slot, instead of those of `VisualConfig`."""


class Slots(_Frozen):
    """The maximum number of time slots of each modality (the paper's T_t, T_a, T_v)."""

    text: int = Field(gt=0)
    audio: int = Field(gt=0)
    visual: int = Field(gt=0)
    reduction: Literal["truncate", "pool"] = "pool"
    """Longer input is cut (the paper), or averaged over time so that the end of a clip still counts."""

    def of(self, modality: Modality) -> int:
        """Slots of one modality."""
        return int(getattr(self, modality))


class NetworkConfig(_Frozen):
    """Sizes of the network (paper, Table 7 and Fig. 8)."""

    hidden: int = Field(default=300, gt=0)
    heads: int = Field(default=4, gt=0)
    feedforward: int = Field(default=1200, gt=0)
    autoencoder: tuple[int, ...] = (300, 256, 128, 64, 128, 256, 300)
    """Widths of h1 … h7 of the AE and of each residual autoencoder; h4 is the code."""
    residual_blocks: int = Field(default=5, gt=0)
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    missing_slots: Literal["token", "pooled"] = "pooled"
    """Content of the slots of a missing modality: a learned token, or that plus the pooled present modalities."""
    positions: bool = False
    """Add a learned position embedding to audio and visual slots; text hidden states already contain positions."""
    imputed_slots: Slots
    """Slots that a missing modality is reconstructed with; at most `ModelConfig.slots`."""
    branches: tuple[str, ...] = Field(default=BRANCHES, exclude_if=lambda branches: branches == BRANCHES)
    """The branches of the ensemble, in the order of `BRANCHES`; fewer than three are ablations (the paper's Table 3).
    All three are not written, so that configs from before there was a choice stay the same."""
    ensemble: Ensemble = Field(default="attention", exclude_if=lambda ensemble: ensemble == "attention")
    """How the branches' key features are combined: weighted by β (Eq. 12), or, as ablations, by their average or their
    element-wise maximum. The first is not written, for the same reason."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.hidden % 2 or self.hidden % self.heads:
            raise ValueError("hidden must be even and a multiple of heads")
        if len(self.autoencoder) != 7 or self.autoencoder[-1] != self.hidden:
            raise ValueError("autoencoder needs seven widths, the last equal to hidden")
        if TRANSFORMER not in self.branches or self.branches != tuple(b for b in BRANCHES if b in self.branches):
            raise ValueError(f"branches must be {TRANSFORMER}, alone or with others of {BRANCHES}, in this order")
        return self


class ModelConfig(_Frozen):
    """Everything needed to build the network of a checkpoint."""

    name: str = "default"
    system: System = Field(default=EMMR, exclude_if=lambda system: system == EMMR)
    """What answers. EMMR is not written, so that configs from before there were others stay the same."""
    classes: tuple[str, ...] = ("negative", "neutral", "positive")
    task: Literal["classification", "regression"] = "classification"
    """`regression`: the classes are numbers in ascending order, and the score of an utterance is the expected value of
    its class distribution (Rothe et al., "DEX: Deep EXpectation", ICCV workshops 2015)."""
    text: TextConfig = TextConfig()
    audio: AudioConfig = AudioConfig()
    visual: VisualConfig = VisualConfig()
    precomputed: PrecomputedConfig = PrecomputedConfig()
    """Sizes of feature vectors that are read from a corpus. Weights with any are for evaluation only: a service would
    have to compute such vectors from uploads."""
    slots: Slots
    network: NetworkConfig

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.classes) not in (2, 3, 4, 7) or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must be 2, 3, 4 or 7 different names")
        for modality in Modality:
            if self.network.imputed_slots.of(modality) > self.slots.of(modality):
                raise ValueError(f"{modality}: more slots imputed than the modality can have")
        if self.precomputed.audio is None and self.audio.encoder != "acoustic" and self.slots.audio != 1:
            raise ValueError("a voice described as a whole fills exactly one audio slot")
        if self.precomputed.visual is None and self.visual.reduce == "mean" and self.slots.visual != 1:
            raise ValueError("the mean over frames fills exactly one visual slot")
        if self.task == "regression" and not _ascending_numbers(self.classes):
            raise ValueError("the classes of a regression must be numbers in ascending order")
        return self

    @property
    def class_values(self) -> tuple[float, ...]:
        """The classes of a regression as numbers."""
        return tuple(float(name) for name in self.classes)

    def feature_size(self, modality: Modality) -> int:
        """d_m: features of one slot of a modality."""
        return int(getattr(self.precomputed, modality, None) or getattr(self, modality).size)

    @classmethod
    def paper(cls) -> Self:
        """The published sizes: 768/33/709 features, 25/150/100 slots, 300 hidden."""
        slots = Slots(text=25, audio=150, visual=100, reduction="truncate")
        return cls(
            name="paper",
            text=TextConfig(encoder="bert-base-uncased", size=768, max_tokens=25),
            visual=VisualConfig(columns="all", reduce="frames"),
            slots=slots,
            network=NetworkConfig(imputed_slots=slots),
        )


def _ascending_numbers(names: tuple[str, ...]) -> bool:
    try:
        values = [float(name) for name in names]
    except ValueError:
        return False
    return all(a < b for a, b in pairwise(values))
