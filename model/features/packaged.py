"""Encoder weights that are distributed as Python packages; the packages are located, never imported."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from model.errors import CheckpointError, ConfigError


def packaged_file(package: str, name: str, encoder: str, folder: str = "model") -> Path:
    """Return the path of a file in a folder of a package, whether or not it exists.

    Args:
        package: name of the distribution; its module has the same name with underscores.
        name: of the file.
        encoder: what the weights are of, for error messages.
        folder: of the package.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the package {package!r}, which carries the {encoder}, is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / folder / name


def verify_file(path: Path, sha256: str, encoder: str) -> None:
    """Compare a file with its published SHA-256.

    Raises:
        CheckpointError: the file is missing or differs.
    """
    if path.is_file():
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return
    raise CheckpointError(f"the {encoder}'s {path.name} is missing or not the published one")
