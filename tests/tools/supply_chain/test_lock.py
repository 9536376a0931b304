from typing import Any

import pytest

from tools.supply_chain.lock import license_of, merge
from tools.supply_chain.requirements import Package


def entry(name: str, version: str, sha256: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"archive_info": {"hashes": {"sha256": sha256}}},
    }


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"name": "a", "license_expression": "MIT AND Zlib", "license": "BSD"}, "MIT AND Zlib"),
        ({"name": "a", "classifier": ["License :: OSI Approved :: MIT License"]}, "MIT"),
        ({"name": "a", "license": "MPL-2.0 AND MIT"}, "MPL-2.0 AND MIT"),
        ({"name": "SciPy", "license": "Copyright (c) 2001"}, "BSD-3-Clause"),
    ],
)
def test_licences_are_spdx_expressions(metadata: dict[str, Any], expected: str) -> None:
    assert license_of(metadata) == expected


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": "a"},
        {"name": "a", "license": "BSD"},
        {"name": "a", "classifier": ["License :: OSI Approved :: BSD License"]},
        {"name": "a", "classifier": ["License :: Other/Proprietary License", "License :: OSI Approved :: MIT License"]},
    ],
)
def test_ambiguous_licences_are_errors(metadata: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the licence of a is not known"):
        license_of(metadata)


def test_hashes_of_several_machine_types_are_merged() -> None:
    first = [entry("A_b", "1", "x"), entry("c", "2", "y")]
    second = [entry("A_b", "1", "z"), entry("c", "2", "y")]
    assert merge([first, second]) == [Package("a-b", "1", ("x", "z")), Package("c", "2", ("y",))]


@pytest.mark.parametrize("other", [[entry("a", "2", "x")], []])
def test_different_packages_on_a_machine_type_are_errors(other: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="not the same on every machine type"):
        merge([[entry("a", "1", "x")], other])
