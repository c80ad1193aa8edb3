"""The order of modules in docs/design.md is the code's: imports run downwards, and nothing imports a door."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import PROJECT

PACKAGE = "federated_health"
DOORS = {"create_dataset", "client", "server", "predict"}
ABOVE = {"__main__", "demo"}
"""Modules of the package that are doors' work: nothing below may import them."""

LIST = (PROJECT / "docs/design.md").read_text().split(f"\n{PACKAGE}/\n", 1)[1].split("```", 1)[0]


def floors() -> dict[str, int]:
    """Module or folder of the package -> the entry of the list that names it, from the top."""
    found = dict.fromkeys(ABOVE, -1)
    for place, entry in enumerate(re.split(r"\n(?=  \S)", LIST)):
        if folder := re.match(r" *(\w+)/ ", entry):
            found[folder[1]] = place
        else:
            found |= dict.fromkeys(re.findall(r"\b(\w+)\.py\b", entry), place)
    return found


def imports(path: Path) -> Iterator[str]:
    """What a module imports, wherever in it: full names, of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (module, *(f"{module}.{name.name}" for name in names))


def floor_of(name: str, known: dict[str, int]) -> int | None:
    """Where in the list a full name's module or folder is; None of what is not there, such as a function."""
    package, _, inside = name.partition(".")
    return known.get(inside.split(".")[0]) if package == PACKAGE and inside else None


def sources() -> list[Path]:
    """The package's files, but for its own __init__.py."""
    return [path for path in (PROJECT / PACKAGE).rglob("*.py") if path != PROJECT / PACKAGE / "__init__.py"]


def own_floor(path: Path, known: dict[str, int]) -> int:
    return known[path.relative_to(PROJECT / PACKAGE).with_suffix("").parts[0]]


def test_imports_run_downwards() -> None:
    known = floors()
    upwards = [
        f"{path.relative_to(PROJECT)} imports {name}"
        for path in sources()
        for name in imports(path)
        if (floor := floor_of(name, known)) is not None and floor < own_floor(path, known)
    ]
    assert upwards == []


def test_nothing_in_the_package_imports_a_door() -> None:
    assert [path for path in sources() if DOORS & {name.split(".")[0] for name in imports(path)}] == []


def test_what_the_doors_share_knows_nothing_of_the_package() -> None:
    assert [name for name in imports(PROJECT / "utils.py") if name.startswith(PACKAGE)] == []


def test_imports_inside_a_function_count(tmp_path: Path) -> None:
    """A module that is imported late is imported all the same."""
    path = tmp_path / "late.py"
    path.write_text("import os.path\ndef late():\n    from federated_health import course\n")
    assert [*imports(path)] == ["os.path", "federated_health", "federated_health.server.run"]
    assert floor_of("federated_health.server.run", {"course": 7}) == 7
    assert floor_of("federated_health", {"course": 7}) is None
