"""What is installed: the wheel, its command and data, and pins that agree with the ranges of the package."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import federated_health
from tests.support.scripts import PROJECT

DECLARED = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))
EXTRAS = ("privacy", "xlsx", "parquet", "simulation", "dev")


def requirements(name: str) -> dict[str, Requirement]:
    """The requirements of a file by the package's name, those of other files that it includes left out."""
    lines = (line.strip() for line in (PROJECT / name).read_text().splitlines())
    parsed = [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]
    return {requirement.name.lower(): requirement for requirement in parsed}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that is built without a network, from a copy of the checkout in which other files lie about."""
    pytest.importorskip("pip")  # which environments of uv do not have
    if Version(version("setuptools")) < Version("77"):
        pytest.skip("setuptools of requirements-dev.txt is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (
        "pyproject.toml",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
        *(path.name for path in PROJECT.glob("*.py")),
    ):
        shutil.copy(PROJECT / name, source)
    for name in ("federated_health", "requirements", "tests"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for stray in ("federated_health_old/__init__.py", "federated_health/data/tmp/mine.py"):
        (source / stray).parent.mkdir()
        (source / stray).touch()
    (source / "federated_health" / "data" / "examples" / "real_patients.csv").touch()
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(source)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    """Names of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.mark.slow
def test_a_wheel_contains_the_package_and_nothing_beside_it(names: list[str]) -> None:
    information = f"federated_health-{federated_health.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"federated_health", information}


@pytest.mark.slow
def test_a_wheel_contains_the_data_and_says_that_it_is_typed(names: list[str]) -> None:
    tables = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "federated_health").rglob("*.csv*")}
    assert len(tables) == 5
    assert {name for name in names if ".csv" in name} == tables
    assert "federated_health/py.typed" in names


@pytest.mark.slow
def test_a_wheel_contains_every_module(names: list[str]) -> None:
    modules = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "federated_health").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


@pytest.mark.slow
def test_a_wheel_declares_the_ranges_and_the_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    declared = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    runtime = {requirement.name.lower(): requirement.specifier for requirement in declared if not requirement.marker}
    assert runtime == {name: wanted.specifier for name, wanted in requirements("requirements/runtime.txt").items()}
    assert set(metadata.get_all("Provides-Extra", [])) == {*EXTRAS}


@pytest.mark.slow
def test_an_installed_command_works_in_any_folder(wheel: Path, tmp_path: Path) -> None:
    installed, folder = tmp_path / "site", tmp_path / "elsewhere"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    folder.mkdir()
    command = [sys.executable, str(installed / "bin" / "federated-health")]
    environment = {"PYTHONPATH": str(installed), "COLUMNS": "80"}

    def run(*arguments: str) -> str:
        return subprocess.run(
            [*command, *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert run("--version").strip() == federated_health.__version__
    assert "federated-health server --hospitals 4" in run("server", "--help")
    assert "920 patients" in run("create-dataset")
    assert "303" in run("client", "--hospital", "1", "--check")
    assert sorted(path.name for path in folder.iterdir()) == ["data"]


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("pyproject.toml", r'^version = "(.*)"$'),
        ("CITATION.cff", r"^version: (.*)$"),
        ("CHANGELOG.md", r"^## \[(\d.*?)\]"),  # the latest release
    ],
)
def test_the_version_is_the_same_in_every_file(file: str, pattern: str) -> None:
    stated = re.findall(pattern, (PROJECT / file).read_text(), re.MULTILINE)
    assert stated
    assert stated[0] == federated_health.__version__


@pytest.mark.slow
def test_a_source_distribution_contains_what_the_tests_need(wheel: Path) -> None:
    source, folder = wheel.parent / "source", wheel.parent / "sdist"
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    helpers = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "tests").rglob("*.py")}
    assert helpers | {"server.py", "utils.py", "requirements/runtime.txt"} <= names


def test_every_pin_is_within_the_package_s_range() -> None:
    pins = {**requirements("requirements.txt"), **requirements("requirements-dev.txt")}
    for file in ("runtime", *EXTRAS):
        for name, wanted in requirements(f"requirements/{file}.txt").items():
            pinned = str(pins[name].specifier).removeprefix("==")
            assert wanted.specifier.contains(pinned), f"{file}: {wanted}, pinned {pinned}"


def test_every_pin_is_exact_and_for_a_declared_requirement() -> None:
    declared = {name for file in ("runtime", *EXTRAS) for name in requirements(f"requirements/{file}.txt")}
    pins = {**requirements("requirements.txt"), **requirements("requirements-dev.txt")}
    assert all(str(pin.specifier).startswith("==") for pin in pins.values())
    assert {*pins} == declared


def test_flower_finds_no_dependency_to_install() -> None:
    """Flower installs what an app's pyproject.toml lists for every run; a bundle has no file with a requirement."""
    assert "dependencies" not in DECLARED["project"]
    assert set(DECLARED["project"]["dynamic"]) == {"dependencies", "optional-dependencies"}
    bundled = {pattern.rsplit("/", 1)[1] for pattern in DECLARED["tool"]["flwr"]["app"]["fab-include"]}
    assert bundled == {"client.py", "server.py", "utils.py", "*.py", "*.toml"}
    assert not list((PROJECT / "federated_health").rglob("pyproject.toml"))


def test_every_supported_python_is_tested() -> None:
    wanted = Requirement(f"python {DECLARED['project']['requires-python']}").specifier
    supported = [f"3.{minor}" for minor in range(8, 20) if wanted.contains(f"3.{minor}")]
    classifiers = DECLARED["project"]["classifiers"]
    assert [text.rsplit(" ", 1)[1] for text in classifiers if re.search(r"Python :: 3\.\d", text)] == supported
    matrices = re.findall(r'python: \["(.*)"\]', (PROJECT / ".github" / "workflows" / "ci.yml").read_text())
    assert matrices
    assert all(matrix.split('", "') == supported for matrix in matrices)
