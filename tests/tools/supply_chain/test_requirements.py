import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools.supply_chain.requirements import (
    COMMON,
    EXTRA,
    FILES_ALONE,
    LICENSES,
    ROOT,
    TORCH,
    Package,
    normalised,
    read_licenses,
    read_requirements,
    write_requirements,
)

FILES = (COMMON, *EXTRA.values(), *TORCH.values())


def needed(*extras: str) -> set[str]:
    """The packages that the service requires, transitively, as they are installed here; torch's build is one's own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: set[str] = set()
    optional = [one for extra in extras for one in project["optional-dependencies"][extra]]
    waiting = [(Requirement(one), "") for one in (*project["dependencies"], *optional)]
    while waiting:
        requirement, extra = waiting.pop()
        name = normalised(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        if name in found and not requirement.extras:
            continue
        found.add(name)
        installed = () if name in FILES_ALONE else distribution(name).requires or ()
        waiting += [(Requirement(one), extra) for one in installed for extra in ("", *requirement.extras)]
    return found


def test_every_package_of_the_service_has_hashes_of_the_tested_version() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    tested = {normalised(name): version for name, version in pins.items()}
    listed = {one.name: one.version for one in read_requirements(COMMON)}
    with_torch = {one.name for one in read_requirements(TORCH["cuda"])}  # its CUDA build needs more packages
    assert set(listed) | with_torch >= needed()
    assert listed == {name: tested[name] for name in listed}
    assert set(listed) == needed() - with_torch | {"setuptools"}  # and no other: they make the image larger
    for file in TORCH.values():
        assert {one.name: one.version for one in read_requirements(file)}["torch"] == tested["torch"]


def test_an_extra_has_the_packages_that_it_alone_needs() -> None:
    with_service = {one.name for one in (*read_requirements(COMMON), *read_requirements(TORCH["cuda"]))}
    assert {one.name for one in read_requirements(EXTRA["asr"])} == needed("asr") - with_service


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_requirement_files_hold_hashes_and_no_address(file: Path) -> None:
    packages = read_requirements(file)
    assert [one.name for one in packages] == sorted({one.name for one in packages})
    assert all(one.hashes for one in packages)
    assert not re.search(r"://|\bindex|find-links", file.read_text(encoding="utf-8").partition("==")[2])


def test_only_the_cuda_libraries_are_beside_torch() -> None:
    assert [one.name for one in read_requirements(TORCH["cpu"])] == ["torch"]
    beside = {one.name for one in read_requirements(TORCH["cuda"])} - {"torch", "triton"}
    assert len(beside) > 10
    assert all(name.startswith(("cuda-", "nvidia-")) for name in beside)


def test_the_licence_of_every_package_is_listed() -> None:
    licenses = read_licenses()
    assert {one.name for file in FILES for one in read_requirements(file)} == set(licenses)
    assert all(re.fullmatch(r"[\w.+-]+( (AND|OR|WITH) [\w.+-]+)*", one) for one in licenses.values())
    text = LICENSES.read_text(encoding="utf-8")
    for one in (*read_requirements(COMMON), *read_requirements(TORCH["cuda"])):
        assert f"| {one.name} | {one.version} |" in text


def test_written_files_read_back(tmp_path: Path) -> None:
    packages = [Package("b", "1.0", ("0" * 64, "1" * 64)), Package("a", "2.0.post1", ("2" * 64,))]
    write_requirements(tmp_path / "r.txt", ["About."], packages)
    assert read_requirements(tmp_path / "r.txt") == packages[::-1]


@pytest.mark.parametrize("line", ["a==1", "a>=1 \\\n    --hash=sha256:" + "0" * 64, "-r other.txt"])
def test_lines_without_a_version_or_hash_are_errors(tmp_path: Path, line: str) -> None:
    (tmp_path / "r.txt").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not a pinned requirement"):
        read_requirements(tmp_path / "r.txt")
