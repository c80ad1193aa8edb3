"""The bundle of `flwr build` holds the app, and no other file of a hospital's checkout."""

import shutil
import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from tests.support.scripts import PROJECT

# Flower 1.39 names its patterns by a word that pathspec 1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

SCRIPTS = {"client.py", "server.py", "utils.py"}

PLANTED = (
    "key.pem",
    "tls/key.pem",
    "tls/certificate.pem",
    "tls/supernode.key",
    "authority/key.pem",
    "patients.csv",
    "data/client_1.csv",
    "data/manifest.json",
    "data/privacy-cleveland.jsonl",
    "data/egress-cleveland.jsonl",
    "privacy-cleveland.jsonl",
    "egress-cleveland.jsonl",
    "manifest.json",
    "notes.md",
    "runs/first/metrics.json",
    "runs/first/model.keras",
    "runs/first/readme.md",
    "runs/first/analysis.py",
    "my_analysis.py",
    "federated_health/patients.csv",
    "federated_health/findings.json",
    "federated_health/notes.md",
    "federated_health/key.pem",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of the project that a clone would have."""
    folder = tmp_path / "checkout"
    everywhere = shutil.ignore_patterns("__pycache__", ".*_cache")
    at_the_top = {".venv", ".git", "runs", "data", ".hypothesis"}

    def ignored(path: str, names: list[str]) -> set[str]:
        return everywhere(path, names) | (at_the_top & {*names} if Path(path) == PROJECT else set())

    shutil.copytree(PROJECT, folder, ignore=ignored)
    return folder


def build(checkout: Path) -> zipfile.ZipFile:
    """The bundle that `flwr build` and `flwr run` make of a checkout."""
    return zipfile.ZipFile(BytesIO(build_fab_from_disk(checkout)))


@pytest.mark.parametrize("ignored", [True, False])
def test_the_bundle_holds_the_app_and_no_other_file_of_the_checkout(checkout: Path, ignored: bool) -> None:
    patterns = ("federated_health/**/*.py", "federated_health/data/shipped_tasks/*.toml")
    package = {str(path.relative_to(checkout)) for pattern in patterns for path in checkout.glob(pattern)}
    if not ignored:
        (checkout / ".gitignore").unlink()  # as in an archive that somebody sent
    for name in PLANTED:
        path = checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")

    content = set(build(checkout).namelist())

    assert content == {*SCRIPTS, *package, "pyproject.toml", ".info/CONTENT"}
    assert "federated_health/data/tasks.py" in content


def test_the_bundle_names_the_apps_that_flower_starts(checkout: Path) -> None:
    declared = tomllib.loads(build(checkout).read("pyproject.toml").decode())

    assert declared["tool"]["flwr"]["app"]["components"] == {"serverapp": "server:app", "clientapp": "client:app"}
    assert "hospitals" in declared["tool"]["flwr"]["app"]["config"]
