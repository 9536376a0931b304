"""Corpora by name, as `--corpus` gives it."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from model.errors import ConfigError
from model.training.datasets.base import Corpus
from model.training.datasets.composite import Composite2Corpus, CompositeCorpus
from model.training.datasets.manifest import ManifestCorpus
from model.training.datasets.recordings import FacesCorpus, VoicesCorpus

CORPORA: Final[dict[str, Callable[[Path], Corpus]]] = {
    "composite": CompositeCorpus,
    "composite2": Composite2Corpus,
    "voices": VoicesCorpus,
    "faces": FacesCorpus,
    "manifest": ManifestCorpus,
}


def open_corpus(name: str, data: Path) -> Corpus:
    """Open a corpus.

    Args:
        name: a key of `CORPORA`.
        data: for `manifest` the manifest file, for the others the folder that holds all corpora.

    Raises:
        ConfigError: no corpus has this name.
        CorpusError: the data is missing or has an error.
    """
    if name not in CORPORA:
        raise ConfigError(f"unknown corpus {name!r}; known are {', '.join(CORPORA)}")
    return CORPORA[name](data)
