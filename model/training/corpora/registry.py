"""Corpora by name.

For: the command line's `--corpus`.
Does not know: what is in a corpus.
"""

from pathlib import Path
from typing import Final

from model.errors import ConfigError
from model.training.corpora.base import Corpus
from model.training.corpora.composite import CompositeCorpus
from model.training.corpora.manifest import ManifestCorpus

CORPORA: Final = ("composite", "manifest")


def open_corpus(name: str, data: Path) -> Corpus:
    """Open a corpus.

    Args:
        name: one of `CORPORA`.
        data: for `composite` the folder that holds its parts, for `manifest` the manifest file.

    Raises:
        ConfigError: no corpus has this name.
        CorpusError: the data is missing or has a fault.
    """
    match name:
        case "composite":
            return CompositeCorpus(data)
        case "manifest":
            return ManifestCorpus(data)
        case _:
            raise ConfigError(f"unknown corpus {name!r}; known are {', '.join(CORPORA)}")
