"""A Dockerfile read into stages of instructions: enough of the format for what the tests ask."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its continuation lines joined; `arguments` without the keyword."""

    keyword: str
    arguments: str

    @property
    def words(self) -> list[str]:
        """The arguments: a JSON list's members, or the words of a line, without `--flags`."""
        if self.arguments.startswith("["):
            return [str(word) for word in json.loads(self.arguments)]
        return [word for word in shlex.split(self.arguments) if not word.startswith("--")]

    @property
    def flags(self) -> dict[str, str]:
        """`--from=packages` as {"from": "packages"}."""
        flags = (word[2:].partition("=") for word in shlex.split(self.arguments) if word.startswith("--"))
        return {name: value for name, _, value in flags}


@dataclass(slots=True)
class Stage:
    """One `FROM` and what follows it."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, keyword: str) -> list[Instruction]:
        """The stage's instructions of one kind."""
        return [instruction for instruction in self.instructions if instruction.keyword == keyword]

    @property
    def environment(self) -> dict[str, str]:
        """What `ENV` sets."""
        pairs = (word.partition("=") for instruction in self.all("ENV") for word in instruction.words)
        return {name: value for name, _, value in pairs}


def read_dockerfile(path: Path) -> dict[str, Stage]:
    """Stages by name, in file order."""
    stages: dict[str, Stage] = {}
    for instruction in _instructions(path):
        if instruction.keyword == "FROM":
            base, _, name = instruction.words
            stages[name] = Stage(name, base)
        else:
            list(stages.values())[-1].instructions.append(instruction)
    return stages


def _instructions(path: Path) -> Iterator[Instruction]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    joined = ""
    for line in lines:
        if not line or line.startswith("#"):
            continue
        joined += line.removesuffix("\\")
        if not line.endswith("\\"):
            keyword, _, arguments = joined.partition(" ")
            yield Instruction(keyword, arguments.strip())
            joined = ""
