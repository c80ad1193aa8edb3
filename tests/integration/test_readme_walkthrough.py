"""The walkthroughs of the README and of docs/, command by command as they are written, in a fresh copy."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest

from federated_health.processes import free_port, process
from tests.support.scripts import PROJECT
from tests.support.strokes import write_strokes

pytestmark = pytest.mark.slow


def blocks_of(page: str, mark: str) -> list[str]:
    """The code blocks that stand below a comment with that mark."""
    return re.findall(rf"<!-- {mark} -->\n```\w+\n(.*?)```", page, re.DOTALL)


def commands_of(page: str, mark: str) -> list[list[str]]:
    """The commands of all blocks with that mark, with this Python for `python`."""
    lines = [shlex.split(line) for block in blocks_of(page, mark) for line in block.splitlines()]
    assert lines
    assert all(line[0] == "python" for line in lines)
    return [[sys.executable, *line[1:]] for line in lines]


def figures_in(table: str, rows: int) -> dict[str, list[float]]:
    """Name -> figures, of every line that ends in a figure; without the mark *."""
    found = re.findall(r"^ (\S.*?) {2,}([\d.* ]*\d\*?) *$", table, re.MULTILINE)
    assert len(found) == rows, table
    return {name: [float(cell.strip("*")) for cell in cells.split()] for name, cells in found}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh copy of the project."""
    folder = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(
        ".venv", ".git", "runs", "client_*.csv", "partition.png", "__pycache__", ".*_cache"
    )
    shutil.copytree(PROJECT, folder, ignore=ignored)
    (folder / "data" / "manifest.json").unlink(missing_ok=True)  # that of an example stays
    return folder


def run_federation(checkout: Path, serve: list[str], joins: list[list[str]]) -> str:
    """Run the server and its hospitals to their end; returns what the server printed."""
    address = f"127.0.0.1:{free_port()}"  # the default port may be in use where this test runs
    with ExitStack() as stack:
        log = checkout / "server.txt"
        server = stack.enter_context(process([*serve, "--address", address], log, checkout))
        hospitals = [
            stack.enter_context(process([*join, "--server", address], checkout / f"{number}.txt", checkout))
            for number, join in enumerate(joins, start=1)
        ]
        assert server.wait(600) == 0, log.read_text()
        assert [hospital.wait(120) for hospital in hospitals] == [0] * len(joins)
    return log.read_text()


def run_forked_federation(checkout: Path, serve: list[str], joins: list[list[str]]) -> str:
    """The same as `run_federation`, but the checkout's processes share the import of TensorFlow."""
    address = f"127.0.0.1:{free_port()}"
    commands = [[*serve, "--address", address], *([*join, "--server", address] for join in joins)]
    command = [sys.executable, "-m", "tests.support.forked_federation", json.dumps(commands)]
    ended = subprocess.run(command, cwd=checkout, check=False, capture_output=True, text=True, timeout=900)
    output = (checkout / "server.txt").read_text()
    assert ended.returncode == 0, ended.stderr + output
    return output


def assert_as_shown(readme: str, output: str, mark: str, rows: int) -> None:
    """Compare the last printed table with the README's first one after a mark; processors round differently."""
    shown = readme.split(mark, 1)[1].split("Figures on held-out patients\n", 1)[1].split("```", 1)[0]
    printed = figures_in(output.split("Figures on held-out patients\n", 1)[1], rows)
    for name, figures in figures_in(shown, rows).items():
        assert printed[name] == pytest.approx(figures, abs=0.02), name


def walk_through(checkout: Path, mark: str, run_processes: Callable[..., str]) -> tuple[str, str]:
    """Run the README's commands with that mark; returns the README and what the server printed."""
    readme = (checkout / "README.md").read_text()
    create, serve, *joins, predict = commands_of(readme, mark)
    run(checkout, create)
    output = run_processes(checkout, serve, joins)
    run(checkout, predict)
    return readme, output


def run(checkout: Path, command: list[str]) -> None:
    subprocess.run(command, cwd=checkout, check=True, capture_output=True, timeout=300)


def test_the_walkthrough_works_as_it_is_written(checkout: Path) -> None:
    readme, output = walk_through(checkout, "walkthrough", run_federation)

    assert_as_shown(readme, output, "<!-- demo -->", rows=6)
    scored = pd.read_csv(checkout / "runs" / "first" / "risk.csv")
    rows = re.findall(r"^[ABC],.*,(0\.\d{6}),([01])$", readme, re.MULTILINE)
    assert scored["risk"].tolist() == pytest.approx([float(risk) for risk, _ in rows], abs=1e-3)
    assert scored["prediction"].tolist() == [int(prediction) for _, prediction in rows]
    consoles = "".join(path.read_text() for path in checkout.glob("*.txt") if path.name != "requirements.txt")
    assert consoles.count("the run is over") == 4
    for chatter in ("DEPRECATED", "Deprecat", "oneDNN", "cuInit", "INFO", "WARNING", "Traceback"):
        assert chatter not in consoles


def test_the_second_scenario_works_as_it_is_written(checkout: Path) -> None:
    readme, output = walk_through(checkout, "readmission", run_forked_federation)

    assert_as_shown(readme, output, "<!-- readmission -->", rows=4)
    scored = pd.read_csv(checkout / "runs" / "readmission" / "risk.csv")
    threshold = json.loads((checkout / "runs" / "readmission" / "metrics.json").read_text())["threshold"]
    assert 0.1 < threshold < 0.5
    assert scored["prediction"].tolist() == (scored["risk"] >= threshold).astype(int).tolist()
    assert scored["prediction"].nunique() == 2


def test_an_own_task_needs_a_task_file_and_nothing_else(checkout: Path) -> None:
    page = (checkout / "docs" / "task-files.md").read_text()
    (task,) = blocks_of(page, "completed task")
    (checkout / "stroke.toml").write_text(task)
    ill = write_strokes(checkout / "strokes.csv")["stroke"]

    create, serve, *joins = commands_of(page, "task run")
    run(checkout, create)
    run_forked_federation(checkout, [*serve, "--no-appraisal", "--out", "runs/stroke"], joins)

    metrics = json.loads((checkout / "runs" / "stroke" / "metrics.json").read_text())
    assert metrics["task"] == "stroke"
    assert metrics["federation"]["roc_auc"] > 0.9
    predict = [sys.executable, "predict.py", "runs/stroke/model.keras", "strokes.csv", "--out", "risk.csv"]
    run(checkout, predict)
    assert (pd.read_csv(checkout / "risk.csv")["prediction"] == ill).mean() > 0.8


def test_a_new_strategy_needs_a_class_and_a_declaration_and_nothing_else(checkout: Path) -> None:
    page = (checkout / "docs" / "extending.md").read_text()
    (module,) = blocks_of(page, "new strategy module")
    (declaration,) = blocks_of(page, "new strategy declaration")
    (flower_class,) = blocks_of(page, "new strategy class")
    package = checkout / "federated_health"
    (package / "geometric_median.py").write_text(module)
    errors_import = "from federated_health.errors import"
    declared, made = '    "krum": StrategyDeclaration(', '    "krum": partial('
    insert(package / "ml" / "strategies.py", {declared: declaration})
    import_line = "from federated_health.geometric_median import GeometricMedian\n"
    insert(package / "server" / "flower_strategies.py", {errors_import: import_line, made: flower_class})
    (checkout / "tests" / "test_geometric_median.py").write_text(TEST_OF_MEDIAN)

    create, serve, *joins = commands_of(page, "new strategy commands")
    run(checkout, create)
    run_forked_federation(checkout, [*serve, "--no-appraisal", "--out", "runs/median"], joins)
    metrics = json.loads((checkout / "runs" / "median" / "metrics.json").read_text())
    assert (metrics["strategy"], metrics["strategy_args"]) == ("geomedian", "steps=50")
    assert 0.8 < metrics["federation"]["roc_auc"] < 1
    run(checkout, [sys.executable, "-m", "pytest", "tests/test_geometric_median.py"])


def test_an_own_network_needs_a_file_and_nothing_else(checkout: Path) -> None:
    page = (checkout / "docs" / "extending.md").read_text()
    (network,) = blocks_of(page, "new network")
    (checkout / "my_network.py").write_text(network)

    create, serve, *joins = commands_of(page, "new network commands")
    run(checkout, create)
    run_forked_federation(checkout, [*serve, "--no-appraisal", "--out", "runs/own"], joins)

    metrics = json.loads((checkout / "runs" / "own" / "metrics.json").read_text())
    assert (metrics["model"], metrics["rounds"]) == ("file", 3)
    assert 0.8 < metrics["federation"]["roc_auc"] < 1


def test_a_new_target_needs_two_classes_and_their_entries(checkout: Path) -> None:
    page = (checkout / "docs" / "extending.md").read_text()
    names = ("new target module", "new target entry", "new label", "new label entry", "new panels entry")
    module, target, label, label_entry, panels = (block for name in names for block in blocks_of(page, name))
    package = checkout / "federated_health"
    (package / "ml" / "targets" / "median.py").write_text(module)
    with (package / "data" / "labels.py").open("a") as file:
        file.write(label)
    insert(package / "ml" / "targets" / "__init__.py", {'    "count": "count.CountTarget"': target})
    insert(package / "data" / "task_files.py", {'"count")': '"median", '})
    names_of_labels = "from federated_health.data.labels import MedianLabel\n"
    insert(
        package / "data" / "label_kinds.py",
        {'    "number": NumberLabel': label_entry, "from federated_health.data.task_files": names_of_labels},
    )
    insert(package / "report" / "panels" / "__init__.py", {'    "count": "quantities.CountPanels"': panels})
    (checkout / "tests" / "test_median.py").write_text(TEST_OF_MEDIAN_TARGET)

    run(checkout, [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_median.py"])


def insert(path: Path, additions: Mapping[str, str]) -> None:
    """Insert text above the one place in a file where each of these begins."""
    text = path.read_text()
    for place, addition in additions.items():
        assert text.count(place) == 1
        text = text.replace(place, f"{addition}{place}")
    path.write_text(text)


TEST_OF_MEDIAN = """
import numpy as np
import pytest
from scipy.optimize import minimize

from tests.test_strategies import average, flat
from tests.support.updates import NAMES, updates, weights_of

pytestmark = pytest.mark.usefixtures("server_identity")


def test_it_is_nearest_to_all():
    vectors = np.array([flat(weights_of(name)) for name in NAMES.values()])

    def distances(point):
        return np.linalg.norm(vectors - point, axis=1).sum()

    found = minimize(distances, vectors[0] + 0.1, method="BFGS")  # from elsewhere, by another method
    median = flat(average("geomedian", updates()))
    assert np.abs(median - found.x).max() < 1e-3
    assert distances(median) < distances(vectors.mean(axis=0)) - 1e-3


def with_one_far_away():
    replies = updates()
    far = replies[0].content.array_records["arrays"]
    far.update({name: type(array)(array.numpy() + 1000) for name, array in far.items()})
    return replies


def moved(strategy):
    return np.linalg.norm(flat(average(strategy, with_one_far_away())) - flat(average(strategy, updates())))


def test_one_that_is_far_away_moves_it_little():
    assert moved("geomedian") < 0.02 * moved("average")
"""


TEST_OF_MEDIAN_TARGET = """
from dataclasses import replace

import numpy as np
import pytest

from federated_health.data.labels import MedianLabel
from federated_health.data.task_files import parse_task
from federated_health.data.task_writing import write_task
from federated_health.ml.targets import target_of
from tests.support.targets import hospitals_of, task_of
from tests.test_targets import run_of


def test_the_network_predicts_the_median_of_skewed_labels():
    label = task_of("number").label
    task = replace(task_of("number"), label=MedianLabel(**vars(label)))
    assert parse_task(write_task(task).encode(), "task").agreement == task.agreement != task_of("number").agreement
    labels = np.array([22.0, 24.0, 26.0, 28.0, 150.0], np.float32)
    hospitals = []
    for hospital in hospitals_of("number", (100, 100, 100)):
        for part in (hospital.train, hospital.test):
            part.values[:] = [50.0, 80.0]  # nothing but the intercept can be learned
            part.labels[:] = np.resize(labels, len(part))
        hospitals.append(replace(hospital, task=task))

    run = run_of("number", hospitals, rounds=60, local_epochs=2, learning_rate=0.05, l2=0.0)
    figures = run.run()

    target = target_of(task)
    (predicted,) = {float(round(target.predict(run.weights["logit/bias"])[0]))}
    assert abs(predicted - 26) <= 2  # the mean is 50
    assert figures["federation"]["mae"] == pytest.approx(np.abs(labels - 26).mean(), rel=0.1)
"""
