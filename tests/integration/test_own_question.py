"""The page of examples/own_question, command by command: three exports in three dialects to one model."""

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from federated_health.data.hospital import load_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import read_task_file
from tests.integration.test_readme_walkthrough import (
    assert_as_shown,
    blocks_of,
    checkout,
    commands_of,
    run_forked_federation,
)
from tests.support.scripts import PROJECT

pytestmark = pytest.mark.slow

__all__ = ["checkout"]  # a fixture

EXAMPLE = PROJECT / "examples" / "own_question"
HOSPITALS = ("nordklinik", "riverside", "hopital-sud")


@pytest.fixture(scope="module")
def page() -> str:
    return (EXAMPLE / "README.md").read_text()


def output_of(command: list[str], checkout: Path) -> str:
    ended = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True, timeout=300)
    return ended.stdout


def test_three_exports_become_one_model_that_scores_an_export(checkout: Path, page: str) -> None:
    for command in commands_of(page, "check"):
        output_of(command, checkout)
    serve, *joins = commands_of(page, "run")

    output = run_forked_federation(checkout, serve, joins)

    assert_as_shown(page, output, "<!-- run -->", rows=5)
    metrics = json.loads((checkout / "runs" / "stroke" / "metrics.json").read_text())
    assert {name: entry["train_examples"] + entry["test_examples"] for name, entry in metrics["hospitals"].items()} == {
        "nordklinik": 240,
        "riverside": 320,
        "hopital-sud": 200,
    }
    (predict,) = commands_of(page, "predict")
    output_of(predict, checkout)
    dialect: dict[str, Any] = {"sep": ";", "encoding": "cp1252", "decimal": ","}
    risk = pd.read_csv(checkout / "runs" / "stroke" / "risk.csv", **dialect)
    died = risk["verstorben (30 Tage)"]
    assert len(risk) == 240
    assert risk["risk"][died == "ja"].mean() > 1.5 * risk["risk"][died == "nein"].mean()


def test_the_draft_asks_what_the_page_says_and_nothing_else(checkout: Path, page: str) -> None:
    (command,) = blocks_of(page, "draft")
    (checkout / "runs").mkdir()
    draft = output_of(["bash", "-ec", command.split(" > ")[0].replace("python", f"'{sys.executable}'")], checkout)
    completed = tomllib.loads((EXAMPLE / "riverside" / "mapping.toml").read_text())
    assert "eight lines" in page
    assert len([line for line in draft.splitlines() if '"?"' in line.split("#")[0]]) == 8
    (shown,) = blocks_of(page, "completed")
    for name, column in tomllib.loads(shown)["columns"].items():
        assert column == completed["columns"][name]
    drafted = tomllib.loads(draft)["columns"]
    for name, column in completed["columns"].items():
        for key, value in column.items():
            assert '"?"' in json.dumps(drafted[name][key]) or drafted[name][key] == value, (name, key)


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_all_stays_of_a_patient_are_on_one_side(hospital: str) -> None:
    task, folder = read_task_file(EXAMPLE / "stroke.toml"), EXAMPLE / hospital
    read = load_hospital(folder / "export.csv", task, hospital, DEFAULT_SPLIT_SEED, folder / "mapping.toml")
    assert read.train.ids is not None
    assert read.test.ids is not None
    train, test = set(read.train.ids), set(read.test.ids)
    assert train.isdisjoint(test)
    assert len(train) + len(test) < len(read.train) + len(read.test)


def test_the_exports_are_those_that_the_script_writes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_exports", EXAMPLE / "make_exports.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.write_exports(tmp_path)
    for hospital in HOSPITALS:
        for name in ("export.csv", "manifest.json"):
            path = Path(hospital) / name
            assert (tmp_path / path).read_bytes() == (EXAMPLE / path).read_bytes()


def test_each_column_of_an_export_is_mapped_to_the_value_that_the_script_made(tmp_path: Path) -> None:
    """One hospital's glucose in g/l and another's in mg/dl become the same mmol/l."""
    task = read_task_file(EXAMPLE / "stroke.toml")
    position = task.column_names.index("glucose")
    for hospital, header, separator, factor in (
        ("riverside", "glucose_mg_dl", ",", 0.055506),
        ("hopital-sud", "Glycémie (g/l)", "\t", 5.5506),
    ):
        folder = EXAMPLE / hospital
        shutil.copy(folder / "export.csv", tmp_path / "export.csv")
        read = load_hospital(tmp_path / "export.csv", task, hospital, DEFAULT_SPLIT_SEED, folder / "mapping.toml")
        values = np.concatenate([read.train.values[:, position], read.test.values[:, position]])
        with (folder / "export.csv").open(encoding="utf-8") as file:
            cells = [row[header].replace(",", ".") for row in csv.DictReader(file, delimiter=separator)]
        expected = sorted(float(cell) * factor for cell in cells if cell not in ("", "-99"))
        assert sorted(values[~np.isnan(values)]) == pytest.approx(expected)
