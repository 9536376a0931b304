import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("app", "emmr", "model")
FOLDERS: Final = (*PACKAGES, "benchmarks", "docker", "docs", "examples", "tests", "tools", ".ci")
TOP_LEVEL: Final = (
    ".dockerignore", ".editorconfig", ".github/workflows/ci.yml", ".gitignore", ".pre-commit-config.yaml",
    "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "Makefile", "README.md", "SECURITY.md", "constraints.txt",
    "docker-compose.yml", "mkdocs.yml", "pyproject.toml",
)  # fmt: skip
TEXT_SUFFIXES: Final = {"", ".css", ".html", ".js", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
LONGEST_FILE: Final = 450  # lines
LONGEST_MAIN: Final = 60  # lines
LONGEST_DOCSTRING: Final = 3  # lines of a module docstring
MACHINE_PATH: Final = re.compile(r"(?<![\w.}])/(?:work|farm|root|home|Users|mnt|media)/")
REGISTRY: Final = re.compile(r"pypi\.org|python[h]osted|registry\.npm|deb\.debian|download\.pytorch", re.IGNORECASE)
# Words without a meaning in this field; the glossary in docs/architecture.md has one term for each concept.
PRIVATE_WORDS: Final = re.compile(
    r"[D]oes not know|[c]rowd|[b]ury|[d]esk|[l]ast words|[h]ear on|[c]ome_up|[W]orkplace|[L]esson"
)
LEFT_OVER: Final = re.compile(r"#.*\b(?:[T]ODO|[F]IXME|[X]XX|[n]oqa)\b|[p]ragma: no cover")


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def text_files() -> Iterator[Path]:
    yield from (ROOT / name for name in TOP_LEVEL)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts:
                yield path


def lines_matching(pattern: re.Pattern[str], paths: Iterator[Path] | list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]


def dotted(node: ast.AST) -> str:
    """Dotted name of a node, `os.environ.get` for example; empty for any other expression."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def uses(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Every dotted name in a file, with its node."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if name := dotted(node):
            yield name, node


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in requirements}


def test_patterns_match_what_they_forbid() -> None:
    assert MACHINE_PATH.search("open('/" + "home/me/data.csv')")
    assert not MACHINE_PATH.search("../home/me or https://example.com/" + "home/")
    assert REGISTRY.search("https://py" + "pi.org/simple")
    assert LEFT_OVER.search("x = 1  # TO" + "DO")
    assert len(python_files(*PACKAGES)) > 30


def test_no_file_contains_a_path_of_one_machine() -> None:
    assert not lines_matching(MACHINE_PATH, text_files())


def test_no_file_contains_a_package_registry() -> None:
    assert not lines_matching(REGISTRY, text_files())


def test_no_suppressed_checks_or_open_tasks() -> None:
    assert not lines_matching(LEFT_OVER, python_files(*FOLDERS))


def test_files_are_not_too_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in python_files(*FOLDERS)
    }
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FILE}
    assert lengths["app/main.py"] <= LONGEST_MAIN


def test_source_uses_the_common_vocabulary() -> None:
    paths = [*python_files(*PACKAGES, "tools", "benchmarks", "examples"), *sorted((ROOT / "docs").glob("*.py"))]
    assert not lines_matching(PRIVATE_WORDS, paths)


def test_module_docstrings_are_short() -> None:
    lengths = {}
    for path in python_files(*PACKAGES):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if path.is_relative_to(ROOT / "model" / "network"):
            docstring = docstring.partition("\n\nShapes:")[0]
        lengths[str(path.relative_to(ROOT))] = sum(bool(line.strip()) for line in docstring.splitlines())
    assert not {name: length for name, length in lengths.items() if length > LONGEST_DOCSTRING}


def test_only_settings_read_the_environment() -> None:
    # Allowed: setting a library's variable before its import (`os.environ.setdefault`), and passing the variables that
    # a child process cannot start without.
    excepted = {ROOT / "app" / "settings.py", ROOT / "app" / "decoding" / "process.py"}
    readers = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in python_files(*PACKAGES)
        if path not in excepted
        for name, _ in uses(path)
        if name in {"os.getenv", "os.environb", "os.environ.get", "os.environ.items", "os.environ.copy"}
    }
    subscripts = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files(*PACKAGES)
        if path not in excepted
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript) and dotted(node.value) == "os.environ" and isinstance(node.ctx, ast.Load)
    }
    assert not readers | subscripts


def test_no_pickle_is_loaded() -> None:
    unsafe = {"pickle.load", "pickle.loads", "torch.load", "joblib.load", "marshal.loads", "dill.load"}
    users = [f"{path.relative_to(ROOT)}: {name}" for path in python_files(*PACKAGES) for name, _ in uses(path)]
    assert not [user for user in users if user.partition(": ")[2] in unsafe]


def test_no_array_is_loaded_with_pickle_allowed() -> None:
    allowing = re.compile(r"allow_pickle=(?!False\b)")
    assert allowing.search("np.load(path, allow_pickle=True)")
    assert not lines_matching(allowing, python_files(*PACKAGES))


@pytest.mark.parametrize("package", PACKAGES)
def test_tests_mirror_the_source_folders(package: str) -> None:
    strays = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests" / package).rglob("test_*.py")
        if not (ROOT / path.parent.relative_to(ROOT / "tests")).is_dir()
    ]
    assert not strays


def test_every_dependency_has_a_pin_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    wanted = [Requirement(line) for line in [*project["dependencies"], *extras]]
    pinned = pins()
    for requirement in wanted:
        if requirement.name == project["name"]:
            continue
        version = pinned[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement


def test_every_pin_is_an_exact_version() -> None:
    assert all(re.fullmatch(r"==[0-9][0-9a-z.]*", version) for version in pins().values())
    assert pins()["torch"] == "==2.13.0"


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "exec make test"


def test_make_targets_in_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", readme, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"serve", "test"} <= {first or second for first, second in named} <= targets


def test_paths_in_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in link]
    drawn = re.findall(r"^([a-z]+/) ", readme, re.MULTILINE)
    assert len(linked) > 2
    assert len(drawn) > 5
    assert not [name for name in [*linked, *drawn] if not (ROOT / name).exists()]
