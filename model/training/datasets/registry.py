"""Corpora by name.

For: the command line's `--corpus`.
Does not know: what is in a corpus.
"""

from pathlib import Path
from typing import Final

from model.errors import ConfigError
from model.training.datasets.base import Corpus
from model.training.datasets.composite import CompositeCorpus
from model.training.datasets.composite2 import Composite2Corpus
from model.training.datasets.faces import FacesCorpus
from model.training.datasets.manifest import ManifestCorpus
from model.training.datasets.voices import VoicesCorpus

CORPORA: Final = ("composite", "composite2", "voices", "faces", "manifest")


def open_corpus(name: str, data: Path) -> Corpus:
    """Open a corpus.

    Args:
        name: one of `CORPORA`.
        data: for `manifest` the manifest file, for the others the folder that holds all corpora.

    Raises:
        ConfigError: no corpus has this name.
        CorpusError: the data is missing or has a fault.
    """
    match name:
        case "composite":
            return CompositeCorpus(data)
        case "composite2":
            return Composite2Corpus(data)
        case "voices":
            return VoicesCorpus(data)
        case "faces":
            return FacesCorpus(data)
        case "manifest":
            return ManifestCorpus(data)
        case _:
            raise ConfigError(f"unknown corpus {name!r}; known are {', '.join(CORPORA)}")
