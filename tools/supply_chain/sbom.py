"""Write a software bill of materials of the image, in CycloneDX (`make sbom`).

Contains the packages of the requirement files, the libraries that wheels bundle, the weights, and packaged encoders.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Final

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

from model.features.audio import whisper
from model.features.packaged import packaged_file, verify_file
from model.features.text import encoder
from tools.supply_chain.requirements import COMMON, ROOT, TORCH, Package, normalised, read_licenses, read_requirements

OUT: Final = ROOT / "build" / "sbom"
WEIGHTS: Final = ROOT / "weights" / "default"


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that a Python package carries.

    Args:
        group, name: of the model at its publisher.
        license: SPDX expression, of the publisher; the package has its own.
        package: that carries it.
        file: in the package's folder `model`.
        sha256: of that file.
    """

    group: str
    name: str
    license: str
    package: str
    file: str
    sha256: str


ENCODERS: Final = (
    PackagedModel(
        "sentence-transformers", "all-MiniLM-L6-v2", "Apache-2.0",
        normalised(encoder.PACKAGED_MODULE), "model.safetensors", encoder.PACKAGED_SHA256,
    ),
    PackagedModel("openai", "whisper-tiny.en", "MIT", whisper.PACKAGE, "model.bin", whisper.PACKAGED_SHA256),
)  # fmt: skip


def bill(target: str, weights: Path = WEIGHTS) -> Bom:
    """Return the bill of materials of the image `target`.

    Args:
        target: `cpu` or `cuda`.
        weights: the folder of the weights.

    Raises:
        CheckpointError: an encoder is missing or not the published one.
        ValueError: the licence of a package is not listed.
    """
    licenses = read_licenses()
    packages = [*read_requirements(COMMON), *read_requirements(TORCH[target])]
    if unknown := sorted({one.name for one in packages} - set(licenses)):
        raise ValueError(f"docs/licenses.md does not list {', '.join(unknown)}")
    root = Component(
        type=ComponentType.APPLICATION,
        name="emmr",
        version=version("emmr"),
        bom_ref="emmr",
        licenses=[LicenseExpression("Apache-2.0")],
        purl=PackageURL("pypi", name="emmr", version=version("emmr")),
    )
    libraries = {one.name: _library(one, licenses[one.name]) for one in packages}
    models = [_weights(weights), *map(_encoder, ENCODERS)]
    bom = Bom(components=[*libraries.values(), *models])
    bom.metadata.component = root
    bom.register_dependency(root, [*models, *_needed("emmr", libraries)])
    for name, library in libraries.items():
        bom.register_dependency(library, _needed(name, libraries))
    return bom


def _library(package: Package, license_expression: str) -> Component:
    return Component(
        name=package.name,
        version=package.version,
        bom_ref=f"pypi/{package.name}",
        licenses=[LicenseExpression(license_expression)],
        purl=PackageURL("pypi", name=package.name, version=package.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one) for one in package.hashes],
        components=list(_bundled(package.name)),
    )


def _bundled(name: str) -> Iterator[Component]:
    """Yield the shared libraries that the installed wheel brings from elsewhere; none where it is not installed."""
    try:
        files = distribution(name).files or ()
    except PackageNotFoundError:
        return
    for file in files:
        bundled = file.parts[0].endswith(".libs") or "_soundfile_data" in file.parts[0]
        if bundled and ".so" in file.name:
            yield Component(
                type=ComponentType.FILE,
                name=file.name,
                bom_ref=f"pypi/{name}/{file.name}",
                hashes=[_sha256(Path(str(file.locate())))],
            )


def _needed(name: str, libraries: dict[str, Component]) -> list[Component]:
    """Return the components that the installed package `name` requires."""
    try:
        requirements = map(Requirement, distribution(name).requires or ())
        found = {
            normalised(one.name) for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})
        }
    except PackageNotFoundError:
        return []
    return [libraries[one] for one in sorted(found) if one in libraries]


def _weights(folder: Path) -> Component:
    hashes: dict[str, str] = json.loads((folder / "hashes.json").read_text(encoding="utf-8"))
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["name"]
    (license_line,) = (
        line for line in (folder / "LICENSE").read_text(encoding="utf-8").splitlines() if "SPDX-License-Id" in line
    )
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=f"emmr-weights-{name}",
        version=version("emmr"),
        bom_ref="weights",
        licenses=[LicenseExpression(license_line.partition(":")[2].strip())],
        components=[
            Component(
                type=ComponentType.FILE,
                name=file,
                bom_ref=f"weights/{file}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
            )
            for file, sha256 in hashes.items()
        ],
    )


def _encoder(model: PackagedModel) -> Component:
    verify_file(packaged_file(model.package, model.file, model.name), model.sha256, model.name)
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        group=model.group,
        name=model.name,
        bom_ref=f"model/{model.name}",
        licenses=[LicenseExpression(model.license)],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model.sha256)],
        properties=[Property(name="emmr:package", value=model.package), Property(name="emmr:file", value=model.file)],
    )


def _sha256(path: Path) -> HashType:
    with path.open("rb") as file:
        return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.file_digest(file, "sha256").hexdigest())


def write(targets: Iterable[str], out: Path) -> list[Path]:
    """Write `emmr-<target>.cdx.json` into the folder `out` for each target; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for target in targets:
        path = out / f"emmr-{target}.cdx.json"
        path.write_text(JsonV1Dot6(bill(target)).output_as_string(indent=2) + "\n", encoding="utf-8")
        written.append(path)
    return written


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Write the bill of materials of the images.")
    parser.add_argument("targets", nargs="*", choices=[*TORCH, []], metavar="target", help=f"of {', '.join(TORCH)}")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    for path in write(options.targets or TORCH, options.out):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
