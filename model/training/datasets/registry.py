"""Corpora by name, as `--corpus` gives it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from model.errors import ConfigError
from model.training.datasets.base import Corpus
from model.training.datasets.composite import Composite2Corpus, CompositeCorpus
from model.training.datasets.composite_emotions import EMOTION_MAPS, EmotionCompositeCorpus
from model.training.datasets.csd import CsdCorpus
from model.training.datasets.iemocap import MAPS, IemocapCorpus
from model.training.datasets.manifest import ManifestCorpus
from model.training.datasets.meld import MeldCorpus
from model.training.datasets.mmsa import MmsaCorpus
from model.training.datasets.mosi import MosiCorpus
from model.training.datasets.ravdess import RavdessCorpus
from model.training.datasets.recordings import FacesCorpus, VoicesCorpus

CORPORA: Final[dict[str, Callable[[Path], Corpus]]] = {
    "composite": CompositeCorpus,
    "composite2": Composite2Corpus,
    **{f"composite-{classes}": partial(EmotionCompositeCorpus, classes=classes) for classes in EMOTION_MAPS},
    "voices": VoicesCorpus,
    "faces": FacesCorpus,
    "ravdess": RavdessCorpus,
    "ravdess-emotions": partial(RavdessCorpus, emotions=True),
    "meld": MeldCorpus,
    "meld-emotions": partial(MeldCorpus, emotions=True),
    "mosi": MosiCorpus,
    "mosi-scores": partial(MosiCorpus, regression=True),
    "mosi-static": partial(MosiCorpus, words="static"),
    "mosi-glove": partial(MosiCorpus, words="glove"),
    "mmsa": MmsaCorpus,
    "mmsa-scores": partial(MmsaCorpus, regression=True),
    "csd": CsdCorpus,
    "csd-scores": partial(CsdCorpus, regression=True),
    **{f"iemocap-{classes}": partial(IemocapCorpus, classes=classes) for classes in MAPS},
    "manifest": ManifestCorpus,
}
"""What each needs is described in `docs/data.md`."""


def open_corpus(name: str, data: Path) -> Corpus:
    """Open a corpus.

    Args:
        name: a key of `CORPORA`.
        data: for `manifest` and `mmsa` the file, for `csd` and `iemocap` the corpus's folder, for the others the folder
            that holds all corpora.

    Raises:
        ConfigError: no corpus has this name.
        CorpusError: the data is missing or has an error.
    """
    if name not in CORPORA:
        raise ConfigError(f"unknown corpus {name!r}; known are {', '.join(CORPORA)}")
    return CORPORA[name](data)
