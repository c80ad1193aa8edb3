"""Names that docstrings refer to exist."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGE = PROJECT / "federated_health"
FOLDERS = "|".join(sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()))
REFERENCE = re.compile(rf"`(?:federated_health\.)?((?:{FOLDERS})\.(?!py\b)[a-z_]+(?:\.\w+)*)(?:\(\))?`")


def references_in(path: Path) -> Iterator[str]:
    """Dotted names in backticks, such as `ml.training.LocalTrainer`, in a module's docstrings."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from REFERENCE.findall(node.value.value)


def exists(name: str) -> bool:
    """Whether a dotted name below the package is a module, or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(f"federated_health.{name}")
    except ImportError:
        try:
            return hasattr(importlib.import_module(f"federated_health.{module}"), attribute)
        except ImportError:
            return False
    return True


def test_a_reference_to_a_missing_name_is_found() -> None:
    assert REFERENCE.findall("see `ml.networks.build_nothing`") == ["ml.networks.build_nothing"]
    assert not exists("ml.networks.build_nothing")
    assert exists("ml.networks.weight_shapes")


@pytest.mark.parametrize(
    "folder", sorted({path.parent.relative_to(PROJECT).as_posix() for path in PACKAGE.rglob("*.py")})
)
def test_names_in_docstrings_exist(folder: str) -> None:
    paths = sorted((PROJECT / folder).glob("*.py"))
    assert [(path.name, name) for path in paths for name in references_in(path) if not exists(name)] == []
