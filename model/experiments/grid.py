"""The grid of an experiment: a YAML file read as cells, each a corpus, a variant of a system, and a seed."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.config import EMMR, SYSTEMS, System
from model.errors import ConfigError
from model.modality import COMPLETE, SUBSETS, ModalitySet
from model.training.datasets.registry import CORPORA
from model.training.settings import Recipe

GRIDS: Final = Path(__file__).parent / "grids"
"""The folder of the packaged grids, `full.yaml` and `quick.yaml`."""

ABLATIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "no-forward": {"training": {"losses": {"forward_weight": 0.0}}},
    "no-backward": {"training": {"losses": {"backward_weight": 0.0}}},
    "tf": {"model": {"network": {"branches": ("transformer",)}}},
    "tf+ae": {"model": {"network": {"branches": ("transformer", "autoencoder")}}},
    "tf+mmin": {"model": {"network": {"branches": ("transformer", "cascade")}}},
    "maximum": {"model": {"network": {"ensemble": "maximum"}}},
    "average": {"model": {"network": {"ensemble": "average"}}},
    "kl": {"training": {"losses": {"similarity": "kl"}}},
    "mae": {"training": {"losses": {"similarity": "mae"}}},
    "cosine": {"training": {"losses": {"similarity": "cosine"}}},
}
"""Variants of EMMR: name → the changes of the recipe (paper, Tables 2 and 3, Fig. 5)."""

PARTIAL: Final[Mapping[str, ModalitySet]] = {f"only-{subset.name}": subset for subset in SUBSETS[1:]}
"""Variants of EMMR that are trained and evaluated with some modalities alone (paper, Table 2)."""

VARIANTS: Final = (*SYSTEMS, *ABLATIONS, *PARTIAL)
KEYS: Final = ("corpus", "variant", "seed")


@dataclass(frozen=True, slots=True)
class Cell:
    """One training run and its evaluation.

    Args:
        corpus: a key of `CORPORA`.
        variant: one of `VARIANTS`.
        seed: of everything random but the text adapters.
        base: the recipe of the corpus, which its features, adapters and teacher depend on.
        limit: most examples of each part of the corpus; None for all.
    """

    corpus: str
    variant: str
    seed: int
    base: Recipe
    limit: int | None = None

    @property
    def system(self) -> System:
        """The system of the variant."""
        return next((system for system in SYSTEMS if system == self.variant), EMMR)

    @property
    def modalities(self) -> ModalitySet:
        """The modalities that the system is given."""
        return PARTIAL.get(self.variant, COMPLETE)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the corpus with the changes of the variant.

        Raises:
            ConfigError: the changes give no recipe.
        """
        changes = _merged({"model": {"system": self.system}}, ABLATIONS.get(self.variant, {}))
        return _recipe(_merged(self.base.model_dump(), changes), self.variant)

    @property
    def config_hash(self) -> str:
        """Identifies corpus, recipe and variant; the same for every seed."""
        content: list[object] = [self.corpus, self.recipe.model_dump(mode="json"), self.variant]
        content += [] if self.limit is None else [self.limit]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.corpus} {self.variant}, seed {self.seed}"

    def folder(self, work: Path) -> Path:
        """The folder of its results."""
        return work / "cells" / self.corpus / self.variant / f"{self.seed}-{self.config_hash}"


class _Runs(BaseModel):
    """Variants, and the seeds of each of them."""

    model_config = ConfigDict(extra="forbid")

    variants: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)


class _CorpusRuns(BaseModel):
    """The runs on one corpus; `recipe` holds what differs from `Recipe.default()`."""

    model_config = ConfigDict(extra="forbid")

    name: str
    recipe: dict[str, Any] = {}
    limit: int | None = Field(default=None, gt=0)
    runs: tuple[_Runs, ...] = Field(min_length=1)


class _Grid(BaseModel):
    model_config = ConfigDict(extra="forbid")

    corpora: tuple[_CorpusRuns, ...] = Field(min_length=1)


def read_grid(path: Path) -> list[Cell]:
    """Read the cells of a grid in their order of execution: by corpus, then by seed, then by variant.

    Raises:
        ConfigError: the file cannot be read, is no grid, has an unknown key, corpus or variant, or names a cell twice.
    """
    try:
        grid = _Grid.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"{path} is no grid: {'; '.join(faults)}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is no grid: {error}") from error
    cells: list[Cell] = []
    for corpus in grid.corpora:
        _require(corpus.name, CORPORA, "corpus", path)
        base = _recipe(_merged(Recipe.default().model_dump(), corpus.recipe), f"{path}: {corpus.name}")
        cells += _cells(corpus, base, path)
    if len(set(cells)) < len(cells):
        twice = next(cell for number, cell in enumerate(cells) if cell in cells[:number])
        raise ConfigError(f"{path}: {twice.name} is there twice")
    return cells


def _cells(corpus: _CorpusRuns, base: Recipe, path: Path) -> Iterator[Cell]:
    for seed in sorted({seed for runs in corpus.runs for seed in runs.seeds}):
        for runs in corpus.runs:
            for variant in runs.variants if seed in runs.seeds else ():
                _require(variant, VARIANTS, "variant", path)
                yield Cell(corpus.name, variant, seed, base, corpus.limit)


def select_cells(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells that fit all filters.

    Args:
        cells: of a grid.
        only: `key=value` with one of `KEYS`; several values of one key are alternatives.

    Raises:
        ConfigError: a filter of another form, or one that fits no cell.
    """
    wanted: dict[str, set[str]] = {}
    for filter_ in only:
        key, equals, value = filter_.partition("=")
        if key not in KEYS or not equals:
            raise ConfigError(f"{filter_!r} is no filter; those are key=value with {', '.join(KEYS)}")
        if value not in (known := {str(getattr(cell, key)) for cell in cells}):
            raise ConfigError(f"the grid has no {key} {value!r}; it has {', '.join(sorted(known))}")
        wanted.setdefault(key, set()).add(value)
    return [cell for cell in cells if all(str(getattr(cell, key)) in values for key, values in wanted.items())]


def _require(name: str, known: Collection[str], kind: str, path: Path) -> None:
    if name not in known:
        raise ConfigError(f"{path}: unknown {kind} {name!r}; known are {', '.join(known)}")


def _recipe(content: Mapping[str, Any], place: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{place}: no recipe: {error}") from error


def _merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with some of its values replaced."""
    merged = dict(content)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
