"""A plain FastAPI handler with the shipped weights: a peer of `benchmarks.service` (`--port N`).

librosa and pandas as their documentation shows them, transformers for text, `benchmarks.naive` as the network.
"""

import argparse
from pathlib import Path
from typing import Annotated, Any

import librosa
import numpy as np
import pandas as pd
import torch
import uvicorn
from fastapi import FastAPI, File, Form, UploadFile
from transformers import AutoModel, AutoTokenizer

from app.settings import DEFAULT_WEIGHTS
from benchmarks.naive import naive_port, pad
from model.checkpoint import load_checkpoint
from model.features.audio.raw_features import extract_voice
from model.features.normalization import reduce_to_slots
from model.features.text.encoder import packaged_folder
from model.features.visual.table import ACTION_UNIT_COLUMNS, ALL_COLUMNS
from model.modality import Modality, Utterance
from model.network.emmr import EMMR
from model.types import FloatArray


class Naive:
    """The loaded model."""

    def __init__(self, weights: Path) -> None:
        checkpoint = load_checkpoint(weights, torch.device("cpu"))
        self.config, self.statistics = checkpoint.config, checkpoint.preprocessing.statistics
        assert isinstance(checkpoint.network, EMMR)
        self.network = naive_port(checkpoint.network)
        packaged = self.config.text.encoder == "minilm"
        source = str(packaged_folder()) if packaged else self.config.text.encoder
        self.tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=packaged)
        self.encoder = AutoModel.from_pretrained(source, local_files_only=packaged).eval()
        self.encoder.load_state_dict(checkpoint.text_encoder.model.state_dict())  # with merged adapters

    def text(self, sentence: str) -> FloatArray:
        """Return `(T, d)` features."""
        tokens = self.tokenizer(sentence, truncation=True, max_length=self.config.text.max_tokens, return_tensors="pt")
        with torch.no_grad():
            return np.asarray(self.encoder(**tokens).last_hidden_state[0].numpy())

    def audio(self, file: Any) -> FloatArray:
        """Return `(T, d)` features."""
        y, rate = librosa.load(file, sr=16_000, mono=True)
        audio = self.config.audio
        if audio.encoder != "acoustic":  # transformers cannot read the packaged weights
            return extract_voice(
                np.asarray(y, dtype=np.float32),
                dynamics=audio.dynamics,
                silence_dbfs=audio.silence_dbfs,
                conditioned=audio.conditioned,
                encoder=audio.encoder,
            ).array
        zcr = librosa.feature.zero_crossing_rate(y, frame_length=512, hop_length=512)
        mfcc = librosa.feature.mfcc(y=y, sr=rate, n_mfcc=20, hop_length=512)
        chroma = librosa.feature.chroma_cqt(y=librosa.effects.harmonic(y), sr=rate, hop_length=512, bins_per_octave=12)
        frames = min(zcr.shape[1], mfcc.shape[1], chroma.shape[1])
        features = np.concatenate([zcr[:, :frames], mfcc[:, :frames], chroma[:, :frames]]).T  # (T, 33)
        if audio.dynamics:
            change = np.abs(np.diff(features, axis=0, prepend=features[:1]))
            features = np.concatenate([features, change], axis=1)
        return np.asarray(features, dtype=np.float32)

    def visual(self, file: Any) -> FloatArray:
        """Return `(T, d)` features."""
        table = pd.read_csv(file)
        table.columns = table.columns.str.strip()
        table = table[(table["success"] == 1) & (table["confidence"] >= self.config.visual.min_confidence)]
        wanted = ALL_COLUMNS if self.config.visual.columns == "all" else ACTION_UNIT_COLUMNS
        values = np.asarray(table[list(wanted)], dtype=np.float32)
        if self.config.visual.reduce == "mean":
            values = values.mean(axis=0, keepdims=True)
        if self.config.visual.root:
            values[:, -len(ACTION_UNIT_COLUMNS) :] **= 0.5
        return values

    def answer(self, raw: dict[Modality, FloatArray]) -> dict[str, object]:
        """Normalise, pad and run the network."""
        features = {}
        for modality, array in raw.items():
            known, slots = self.statistics.get(modality), self.config.slots
            normalised = array if known is None else known.normalise(array)
            features[modality] = reduce_to_slots(normalised, slots.of(modality), slots.reduction)
        answer = self.network(pad([Utterance(features)], self.config))
        probabilities = dict(zip(self.config.classes, answer.probabilities[0].tolist(), strict=True))
        return {
            "polarity": max(probabilities, key=lambda name: probabilities[name]),
            "probabilities": probabilities,
            "ensemble": bool(answer.ensemble_used[0]),
        }


def create_app(naive: Naive) -> FastAPI:
    """Return the application."""
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/predict")
    def predict(
        text: Annotated[str | None, Form()] = None,
        audio: Annotated[UploadFile | None, File()] = None,
        openface: Annotated[UploadFile | None, File()] = None,
    ) -> dict[str, object]:
        features = {}
        if text is not None:
            features[Modality.TEXT] = naive.text(text)
        if audio is not None:
            features[Modality.AUDIO] = naive.audio(audio.file)
        if openface is not None:
            features[Modality.VISUAL] = naive.visual(openface.file)
        return naive.answer(features)

    return app


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    options = parser.parse_args()
    app = create_app(Naive(options.weights))
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="error")


if __name__ == "__main__":
    main()
