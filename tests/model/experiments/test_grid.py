from collections import Counter
from pathlib import Path

import pytest

from model.config import SYSTEMS
from model.errors import ConfigError
from model.experiments.grid import ABLATIONS, GRIDS, PARTIAL, VARIANTS, Cell, read_grid, select_cells
from model.modality import COMPLETE, Modality, ModalitySet
from model.training.settings import Recipe

CELL = Cell("mosi", "emmr", 0, Recipe.default())
RUNS = "runs: [{variants: [emmr], seeds: [0]}]"


def grid(folder: Path, text: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["full", "quick"])
def test_packaged_grids_compare_all_systems_on_mosi(name: str) -> None:
    cells = read_grid(GRIDS / f"{name}.yaml")
    first = [cell for cell in cells if cell.corpus == "mosi" and cell.seed == 0]
    assert set(SYSTEMS) | ABLATIONS.keys() | PARTIAL.keys() == {cell.variant for cell in first} | {"kl"}
    assert cells[: len(first)] == first
    assert len({cell.folder(Path()) for cell in cells}) == len(cells)


def test_the_full_grid_has_the_seeds_of_the_tables() -> None:
    runs = Counter((cell.corpus, cell.variant) for cell in read_grid(GRIDS / "full.yaml"))
    assert {runs["mosi", "emmr"], runs["composite2", "tate"], runs["mosi", "tf+ae"]} == {5}
    assert runs["composite", "mmin"] == 3
    assert runs["mosi", "late-fusion"] == 1  # it draws nothing at random


def test_seeds_are_outermost_within_a_corpus(tmp_path: Path) -> None:
    runs = "runs: [{variants: [emmr, ae], seeds: [1, 0]}, {variants: [tf], seeds: [1]}]"
    path = grid(tmp_path, f"corpora: [{{name: mosi, {runs}}}, {{name: composite, {RUNS}}}]")
    assert [(cell.corpus, cell.variant, cell.seed) for cell in read_grid(path)] == [
        ("mosi", "emmr", 0), ("mosi", "ae", 0), ("mosi", "emmr", 1), ("mosi", "ae", 1), ("mosi", "tf", 1),
        ("composite", "emmr", 0),
    ]  # fmt: skip


def test_a_recipe_replaces_values_of_the_default_one(tmp_path: Path) -> None:
    recipe = "recipe: {training: {epochs: 3, losses: {key_weight: 2}}, model: {text: {adapter_rank: 0}}}"
    (cell,) = read_grid(grid(tmp_path, f"corpora: [{{name: mosi, {recipe}, {RUNS}}}]"))
    default = Recipe.default()
    assert (cell.recipe.training.epochs, cell.recipe.model.text.adapter_rank) == (3, 0)
    assert cell.recipe.training.losses.key_weight == 2
    assert cell.recipe.training.batch_size == default.training.batch_size
    assert cell.recipe.model.network == default.model.network


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_alter_the_recipe_as_named(variant: str) -> None:
    recipe = Cell("mosi", variant, 0, Recipe.default()).recipe
    assert recipe.model.system == (variant if variant in SYSTEMS else "emmr")
    default = Recipe.default()
    changed = {
        "no-forward": lambda: recipe.training.losses.forward_weight == 0,
        "no-backward": lambda: recipe.training.losses.backward_weight == 0,
        "tf": lambda: recipe.model.network.branches == ("transformer",),
        "tf+ae": lambda: recipe.model.network.branches == ("transformer", "autoencoder"),
        "tf+mmin": lambda: recipe.model.network.branches == ("transformer", "cascade"),
        "maximum": lambda: recipe.model.network.ensemble == "maximum",
        "average": lambda: recipe.model.network.ensemble == "average",
        "mae": lambda: recipe.training.losses.similarity == "mae",
        "cosine": lambda: recipe.training.losses.similarity == "cosine",
    }
    assert changed[variant]() if variant in changed else recipe.training == default.training


def test_partial_variants_keep_the_modalities_of_their_names() -> None:
    assert Cell("mosi", "only-text", 0, Recipe.default()).modalities == ModalitySet.of(Modality.TEXT)
    assert Cell("mosi", "only-audio+visual", 0, Recipe.default()).modalities == ModalitySet.parse("audio+visual")
    assert Cell("mosi", "ae", 0, Recipe.default()).modalities == COMPLETE


def test_the_hash_depends_on_everything_but_the_seed() -> None:
    other = Recipe.default().model_copy(update={"training": Recipe.default().training.model_copy(update={"epochs": 9})})
    cells = [
        CELL,
        Cell("composite", "emmr", 0, CELL.base),
        Cell("mosi", "ae", 0, CELL.base),
        Cell("mosi", "only-text", 0, CELL.base),
        Cell("mosi", "emmr", 0, other),
        Cell("mosi", "emmr", 0, CELL.base, limit=5),
    ]
    assert len({cell.config_hash for cell in cells}) == len(cells)
    assert Cell("mosi", "emmr", 7, CELL.base).config_hash == CELL.config_hash
    assert CELL.folder(Path("w")) == Path("w/cells/mosi/emmr") / f"0-{CELL.config_hash}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"corpora: [{{name: mosy, {RUNS}}}]", "unknown corpus 'mosy'; known are composite, "),
        ("corpora: [{name: mosi, runs: [{variants: [emr], seeds: [0]}]}]", "unknown variant 'emr'; known are emmr, "),
        (f"corpora: [{{name: mosi, seed: 1, {RUNS}}}]", r"corpora\.0\.seed: Extra inputs are not permitted"),
        ("corpora: [{name: mosi, runs: [{variants: [emmr]}]}]", r"corpora\.0\.runs\.0\.seeds: Field required"),
        ("corpora: [{name: mosi, runs: []}]", r"corpora\.0\.runs: Tuple should have at least 1 item"),
        (f"corpora: [{{name: mosi, recipe: {{training: {{epoch: 1}}}}, {RUNS}}}]", r"mosi: no recipe: .*\n.*epoch"),
        (f"corpora: [{{name: mosi, {RUNS}}}, {{name: mosi, {RUNS}}}]", "mosi emmr, seed 0 is there twice"),
        ("corpora: [", "is no grid: while parsing"),
        ("", "is no grid: : Input should be"),
    ],
)
def test_errors_of_a_grid_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = grid(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as raised:
        read_grid(path)
    assert str(path) in str(raised.value)


def test_a_grid_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as raised:
        read_grid(tmp_path / "fully")
    assert "fully is no grid" in str(raised.value)


def test_filters_of_one_key_are_alternatives_and_keys_combine() -> None:
    cells = [Cell("mosi", variant, seed, CELL.base) for variant in ("emmr", "ae", "tf") for seed in (0, 1)]
    chosen = select_cells(cells, ["variant=emmr", "seed=1", "variant=tf"])
    assert [(cell.variant, cell.seed) for cell in chosen] == [("emmr", 1), ("tf", 1)]
    assert select_cells(cells, []) == cells


@pytest.mark.parametrize(
    ("filter_", "message"),
    [
        ("system=ae", "'system=ae' is no filter"),
        ("ae", "'ae' is no filter; those are key=value with corpus, variant, seed"),
        ("variant=ae", "the grid has no variant 'ae'; it has emmr"),
        ("seed=x", "the grid has no seed 'x'; it has 0"),
    ],
)
def test_filters_that_fit_nothing_are_errors(filter_: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        select_cells([CELL], [filter_])
    assert filter_.rpartition("=")[2] in str(raised.value)
