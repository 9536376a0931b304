"""Write the image's requirement files with hashes, and the list of licences (`make hashes`).

Reads pip's resolution of the dependencies under constraints.txt; standard library only, since it runs in a bare venv.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tools.supply_chain.requirements import (
    COMMON,
    EXTRA,
    FILES_ALONE,
    LICENSES,
    ROOT,
    TORCH,
    Package,
    normalised,
    read_requirements,
    write_requirements,
)

MACHINES: Final = ("x86_64", "aarch64")
PYTHON: Final = "3.11"  # of the image
GLIBC: Final = range(36, 4, -1)  # 2.x, of the image (Debian 12) and older
WRITTEN: Final = "Written by `make hashes`. Wheels for CPython 3.11 on Linux, x86-64 and AArch64."

CLASSIFIERS: Final = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
}
IDENTIFIERS: Final = {
    "AND", "OR", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "LicenseRef-NVIDIA-Proprietary", "MIT", "MPL-2.0",
}  # fmt: skip
"""Words of the older `License` field that are SPDX expressions; others are names or whole texts."""
STATED: Final = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "jinja2": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "numba": "BSD-2-Clause",
    "nvidia-cusparselt-cu13": "LicenseRef-NVIDIA-Proprietary",
    "nvidia-nvtx": "Apache-2.0",
    "protobuf": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "shellingham": "ISC",
    "soundfile": "BSD-3-Clause",
    "sympy": "BSD-3-Clause",
    "transformers": "Apache-2.0",
    "uvloop": "MIT OR Apache-2.0",
}
"""SPDX expressions of packages whose metadata has none and no unambiguous classifier, from their licence files."""

INTRODUCTION: Final = """# Licences

EMMR itself is under the Apache License 2.0, its weights under CC BY-NC-SA 4.0. The models that it builds on are listed
in [Licences and terms](terms.md). These are the packages in the image, with SPDX licence expressions
from their metadata; a wheel may contain libraries under further licences, which its own licence files list. Written by
`make hashes`.
"""


def license_of(metadata: Mapping[str, Any]) -> str:
    """Return the SPDX expression of a package from its core metadata.

    Raises:
        ValueError: the metadata does not say, and the package is not in `STATED`.
    """
    name = normalised(metadata["name"])
    if name in STATED:
        return STATED[name]
    if expression := metadata.get("license_expression"):
        return str(expression)
    stated = {CLASSIFIERS.get(one, "") for one in metadata.get("classifier", ()) if one.startswith("License ::")}
    if len(stated) == 1 and (only := stated.pop()):
        return only
    text = str(metadata.get("license", ""))
    if text and set(text.split()) <= IDENTIFIERS:
        return text
    raise ValueError(f"the licence of {name} is not known ({text[:40]!r}, {sorted(stated)}): add it to STATED")


def resolve(machine: str, requirements: Sequence[str], constraints: Path) -> list[dict[str, Any]]:
    """Return pip's report of what it would install, one entry a package.

    The requirements of `FILES_ALONE` are left out.

    Raises:
        ValueError: torch is a build with a local version, or a file has no hash: pip's configuration names other
            sources than a package index.
        subprocess.CalledProcessError: pip does not find a solution.
    """
    alone = [one for one in requirements if normalised(one.partition("==")[0]) in FILES_ALONE]
    found = _report(machine, [one for one in requirements if one not in alone], constraints)
    if alone:
        found += _report(machine, alone, constraints, "--no-deps")
    for one in found:
        if "+" in one["metadata"]["version"] or not _sha256(one):
            raise ValueError(f"{one['metadata']['name']} {one['metadata']['version']} does not come from an index")
    return found


def _report(machine: str, requirements: Sequence[str], constraints: Path, *options: str) -> list[dict[str, Any]]:
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC] + [f"manylinux2014_{machine}"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        # fast-deps reads the metadata from the end of a wheel where the index has none: wheels are not downloaded.
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--use-feature=fast-deps",
            "--ignore-installed", "--only-binary", ":all:", "--python-version", PYTHON, "--target", folder,
            "--report", str(report), "--constraint", str(constraints), *(f"--platform={one}" for one in platforms),
            *options, *requirements,
        ]  # fmt: skip
        subprocess.run(command, check=True)
        found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return found


def _sha256(entry: Mapping[str, Any]) -> str:
    return str(entry["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", ""))


def merge(reports: Iterable[Iterable[Mapping[str, Any]]]) -> list[Package]:
    """Return the packages of several machine types, each with its distinct hashes.

    Raises:
        ValueError: a package has different versions, or is not needed, on one of them.
    """
    tables = [
        {(normalised(one["metadata"]["name"]), one["metadata"]["version"]): _sha256(one) for one in report}
        for report in reports
    ]
    if differing := set().union(*tables) - set(tables[0]).intersection(*tables):
        raise ValueError(f"not the same on every machine type: {sorted(differing)}")
    return [Package(*key, tuple(dict.fromkeys(table[key] for table in tables))) for key in sorted(tables[0])]


def _licenses(title: str, packages: Iterable[Package], licenses: Mapping[str, str]) -> str:
    rows = "".join(f"| {one.name} | {one.version} | {licenses[one.name]} |\n" for one in packages)
    return f"\n## {title}\n\n| Package | Version | Licence |\n| --- | --- | --- |\n{rows}"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Write the image's requirement files and docs/licenses.md.")
    parser.add_argument("--cpu-wheel", type=Path, help="torch's CPU build for x86-64, where its version has changed")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    constraints = ROOT / "constraints.txt"
    reports = [resolve(machine, project["dependencies"], constraints) for machine in MACHINES]
    packages = merge(reports)
    extras: dict[str, list[Package]] = {}
    for name in EXTRA:
        its_own = [resolve(machine, project["optional-dependencies"][name], constraints) for machine in MACHINES]
        extras[name] = [one for one in merge(its_own) if one not in packages]
        reports[0] += its_own[0]
    pinned = {normalised(line.partition("==")[0]) for line in constraints.read_text(encoding="utf-8").splitlines()}
    # constraints.txt pins everything but the CUDA libraries, whose exact versions torch's own metadata names.
    common = [one for one in packages if one.name in pinned and one.name != "torch"]
    cuda = [one for one in packages if one not in common]
    (torch,) = (one for one in cuda if one.name == "torch")
    if options.cpu_wheel is not None:
        with options.cpu_wheel.open("rb") as wheel:
            cpu = Package("torch", torch.version, (hashlib.file_digest(wheel, "sha256").hexdigest(),))
    elif (cpu := read_requirements(TORCH["cpu"])[0]).version != torch.version:
        parser.error(f"torch is {torch.version} now: name its CPU build with --cpu-wheel")
    write_requirements(COMMON, [WRITTEN], common)
    for name, beside in extras.items():
        write_requirements(EXTRA[name], [WRITTEN, f"What the extra `{name}` needs beside."], beside)
    write_requirements(TORCH["cuda"], [WRITTEN, "torch's CUDA build, as the default index has it."], cuda)
    write_requirements(
        TORCH["cpu"],
        ["Written by `make hashes`. torch's CPU build for CPython 3.11 on x86-64, from PyTorch's index of CPU builds."],
        [cpu],
    )
    licenses = {normalised(one["metadata"]["name"]): license_of(one["metadata"]) for one in reports[0]}
    tables = _licenses("Service", [*common, torch], licenses)
    for name, beside in extras.items():
        tables += _licenses(f"Extra `{name}`, where the image is built with it", beside, licenses)
    tables += _licenses("CUDA libraries, in the `cuda` image", [one for one in cuda if one != torch], licenses)
    LICENSES.write_text(INTRODUCTION + tables, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
