"""How a network is trained: everything that is not part of the checkpoint's own config.

For: one frozen value that a run is started with, stored beside its results, and compared when a run is resumed.
Does not know: the corpus, or anything of serving.
"""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.config import AudioConfig, ModelConfig, NetworkConfig, Slots, TextConfig, VisualConfig
from model.network.losses import LossSettings


class AdapterSettings(BaseModel):
    """Low-rank adaptation of the text encoder, before anything else is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=2, ge=0)
    batch_size: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    head_learning_rate: float = Field(default=2e-3, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    emotion_weight: float = Field(default=1.0, ge=0)
    """Of the cross-entropy on a sentence's emotion beside its polarity, where the corpus knows it."""
    seed: int = 0
    """Its own: runs with different seeds share one adapted encoder."""


class TrainingSettings(BaseModel):
    """Schedule, regularisation and augmentation of guidance network and EMMR."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=8, gt=0)
    guidance_epochs: int = Field(default=2, ge=0)
    """Epochs of the guidance network on complete inputs; 0 leaves the forward loss out."""
    pretraining_epochs: int = Field(default=120, ge=0)
    """Epochs over the distinct clips in which voice and face encoders learn what each carries alone."""
    taught_pretraining_epochs: int = Field(default=200, ge=0)
    """The same with a teacher: what it says of ever new blends cannot be learnt by heart."""
    pretraining_clips: int = Field(default=512, gt=0)
    """Most clips of one modality and corpus in an epoch of pretraining, drawn anew: corpora count about equally."""
    emotion_weight: float = Field(default=0.5, ge=0)
    """Of the cross-entropy on the emotion of a clip in pretraining, where the corpus knows it."""
    encoder_rate: float = Field(default=0.3, ge=0)
    """Factor on the learning rate of encoders afterwards, if they were pretrained."""
    batch_size: int = Field(default=64, gt=0)
    length_bucket: int = Field(default=1, gt=0)
    """Batches whose utterances are sorted by length together, which saves padding; 1 leaves their order random."""
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps over which the rate rises; it then falls as a cosine."""
    weight_decay: float = Field(default=0.1, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    patience: int = Field(default=8, gt=0)
    """Epochs without a better validation macro-F1 after which training stops."""
    average_decay: float = Field(default=0.995, ge=0, lt=1)
    """Of the moving average of weights that is validated and kept."""
    complete_share: float = Field(default=0.3, ge=0, le=1)
    """Share of items that lose nothing; the rest lose one or two modalities in the proportion below."""
    one_missing_share: float = Field(default=0.35, ge=0, le=1)
    class_balance: float = Field(default=0.2, ge=0, le=1)
    """Exponent of inverse class frequency as loss weight: 0 for none, 1 for full balance."""
    audio_noise: float = Field(default=0.3, ge=0)
    """Standard deviation of Gaussian noise on normalised acoustic features."""
    visual_noise: float = Field(default=0.4, ge=0)
    """The same on face features."""
    blend: float = Field(default=0.3, ge=0, lt=1)
    """Largest share of another clip of the same polarity mixed into a clip's features, voice and face each."""
    taught_blend: float = Field(default=0.9, ge=0, lt=1)
    """The same of any clip, where a teacher says what the blend is worth."""
    expert_steps: int = Field(default=2000, gt=0)
    """Steps of each member of a teacher's experts."""
    verdict_steps: int = Field(default=3000, gt=0)
    """Steps of the key-missing verdict."""
    teacher: bool = True
    """Learn from soft targets (`model.training.teacher`) where the corpus knows what each modality carries alone."""
    time_mask: float = Field(default=0.1, ge=0, lt=1)
    """Longest share of a clip's slots hidden from one training step."""
    word_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of text slots hidden from one training step."""
    text_exchange: float = Field(default=0.3, ge=0, le=1)
    """Share of utterances with several modalities whose text is exchanged for another's, the label kept. A modality is
    right far more often on the texts and clips it was adapted to than on new ones; without this, fusion learns to trust
    it as if it were always that right."""
    audio_exchange: float = Field(default=0.3, ge=0, le=1)
    """The same of voices."""
    visual_exchange: float = Field(default=0.4, ge=0, le=1)
    """The same of faces."""
    audio_variants: int = Field(default=8, ge=0)
    """Augmented variants of each training clip, one drawn each time it is used."""
    redraw: bool = True
    """Draw training pairs anew each epoch where the corpus can."""
    losses: LossSettings = LossSettings()
    adapters: AdapterSettings = AdapterSettings()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.complete_share + self.one_missing_share > 1 + 1e-9:
            raise ValueError("complete_share and one_missing_share add up to more than one")
        return self


class Recipe(BaseModel):
    """A config and its training: what `emmr train --config` reads."""

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
