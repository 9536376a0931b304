"""Frozen settings of a training run; they are stored with its results and compared when it is resumed."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.config import AudioConfig, ModelConfig, NetworkConfig, Slots, TextConfig, VisualConfig
from model.network.losses import LossSettings


class AdapterSettings(BaseModel):
    """Training of the low-rank adapters of the text encoder, which comes first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=2, ge=0)
    batch_size: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    head_learning_rate: float = Field(default=2e-3, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    emotion_weight: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of the emotion of a sentence, where the corpus has it."""
    seed: int = 0
    """Separate from the seed of the run: runs with different seeds share one adapted encoder."""


class TrainingSettings(BaseModel):
    """Schedule, regularisation and augmentation of the guidance network and EMMR."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=8, gt=0)
    baseline_epochs: int | None = Field(default=None, gt=0, exclude_if=lambda epochs: epochs is None)
    """Most epochs of each stage of a baseline; those of its source if None."""
    guidance_epochs: int = Field(default=2, ge=0)
    """Epochs of the guidance network on complete inputs; 0 omits the forward loss."""
    pretraining_epochs: int = Field(default=120, ge=0)
    """Epochs over distinct clips for the audio and visual encoders (`model.training.pretraining`)."""
    taught_pretraining_epochs: int = Field(default=200, ge=0)
    """The same with a teacher; its soft targets of random blends cannot be overfitted."""
    pretraining_clips: int = Field(default=512, gt=0)
    """Maximum number of clips of one modality and corpus per epoch of pretraining, drawn anew; balances the corpora."""
    emotion_weight: float = Field(default=0.5, ge=0)
    """Weight of the cross-entropy of the emotion of a clip in pretraining, where the corpus has it."""
    encoder_rate: float = Field(default=0.3, ge=0)
    """Factor on the learning rate of pretrained encoders."""
    batch_size: int = Field(default=64, gt=0)
    length_bucket: int = Field(default=1, gt=0)
    """Batches whose utterances are sorted by length together, which saves padding; 1 for a random order."""
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps with a linear increase of the learning rate; it then decreases as a cosine."""
    weight_decay: float = Field(default=0.1, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    patience: int = Field(default=8, gt=0)
    """Epochs without an improvement of the validation macro-F1 before training stops."""
    select_epoch: bool = Field(default=True, exclude_if=bool)
    """Whether EMMR's epoch with the best validation macro-F1 is kept; the last one if not, and none is left out."""
    average_decay: float = Field(default=0.995, ge=0, lt=1)
    """Decay of the moving average of the parameters, which is validated and returned."""
    complete_share: float = Field(default=0.3, ge=0, le=1)
    """Share of items without a missing modality."""
    one_missing_share: float = Field(default=0.35, ge=0, le=1)
    """Share of items with one missing modality; the others have two."""
    class_balance: float = Field(default=0.2, ge=0, le=1)
    """Exponent of the inverse class frequency as loss weight: 0 for none, 1 for full balance."""
    audio_noise: float = Field(default=0.3, ge=0)
    """Standard deviation of Gaussian noise on normalised audio features."""
    visual_noise: float = Field(default=0.4, ge=0)
    """Standard deviation of Gaussian noise on normalised visual features."""
    blend: float = Field(default=0.3, ge=0, lt=1)
    """Maximum share of another clip of the same polarity in audio and visual features (mixup)."""
    taught_blend: float = Field(default=0.9, ge=0, lt=1)
    """The same with a teacher, where the other clip may be of any polarity."""
    expert_steps: int = Field(default=2000, gt=0)
    """Optimiser steps of each member of the teacher's experts."""
    verdict_steps: int = Field(default=3000, gt=0)
    """Optimiser steps of the verdict on missing modalities."""
    teacher: bool = True
    """Train on soft targets (`model.training.teacher`) where the corpus has the polarity of each modality."""
    time_mask: float = Field(default=0.1, ge=0, lt=1)
    """Maximum share of the slots of a clip that are masked in a step, as one span."""
    word_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of text slots that are masked in a step."""
    text_exchange: float = Field(default=0.3, ge=0, le=1)
    """Share of utterances with several modalities whose text is exchanged for another's while the label stays. Each
    modality is more accurate on its training content than on new content; without exchange, fusion would rely on it too
    much."""
    audio_exchange: float = Field(default=0.3, ge=0, le=1)
    """The same for audio."""
    visual_exchange: float = Field(default=0.4, ge=0, le=1)
    """The same for visual."""
    audio_variants: int = Field(default=8, ge=0)
    """Augmented variants of each training clip; one of them or the clip itself is drawn each time."""
    redraw: bool = True
    """Draw training pairs anew in each epoch, where the corpus supports it."""
    losses: LossSettings = LossSettings()
    adapters: AdapterSettings = AdapterSettings()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.complete_share + self.one_missing_share > 1 + 1e-9:
            raise ValueError("complete_share and one_missing_share add up to more than one")
        return self


class Recipe(BaseModel):
    """A model config and its training settings, as read by `emmr train --config`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig
    training: TrainingSettings = TrainingSettings()

    @classmethod
    def default(cls) -> Self:
        """The recipe of the shipped weights."""
        return cls(
            model=ModelConfig(
                text=TextConfig(adapter_rank=16),
                audio=AudioConfig(encoder="whisper", conditioned=True),
                visual=VisualConfig(root=True),
                slots=Slots(text=20, audio=1, visual=1),
                network=NetworkConfig(
                    hidden=96,
                    feedforward=192,
                    autoencoder=(96, 64, 48, 24, 48, 64, 96),
                    dropout=0.1,
                    positions=True,
                    imputed_slots=Slots(text=4, audio=1, visual=1),
                ),
            )
        )
