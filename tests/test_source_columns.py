"""A source's own columns as text, row by row beside its table."""

from pathlib import Path

import pandas as pd
import pytest

from federated_health.data.exports.mappings import read_mapping
from federated_health.data.sources.mapped import read_mapped
from federated_health.data.sources.source import generate_readmission, read_source
from federated_health.data.task_files import read_task_file
from tests.support.diabetes_stays import made_up_stays
from tests.support.public_files import kaggle_heart

pytestmark = pytest.mark.usefixtures("in_folder")

TASK = """
name = "visits"

[label]
column = "died"
meaning = "died"

[columns.age]
meaning = "age"
unit = "years"
range = [0, 120]
"""

ROWS = [("50", "a", "0"), ("300", "b", "1"), ("51", "c", "1"), ("50", "d", "0"), ("52", "e", "0"), ("x", "f", "1")]
"""Age, ward and label; two ages are invalid."""


def write(path: Path, header: str) -> Path:
    path.write_text("\n".join([header, *map(",".join, ROWS)]) + "\n")
    return path


def test_a_row_that_is_dropped_is_dropped_from_the_source_s_columns() -> None:
    Path("own.toml").write_text(TASK)
    path = write(Path("own.csv"), "age,ward,died")

    source = read_source(path, task=read_task_file(Path("own.toml")), drop_invalid=True)

    assert list(source.columns["ward"]) == ["a", "c", "d", "e"]
    assert source.columns["age"].astype(str).astype(float).tolist() == source.table["age"].tolist()
    assert source.columns.index.equals(source.table.index)


def test_an_export_s_columns_are_under_its_own_headers() -> None:
    Path("own.toml").write_text(TASK)
    columns = ['[columns.age]\ncolumn = "Alter"', '[columns.died]\ncolumn = "tot"\ncodes = { "1" = 1, "0" = 0 }']
    Path("own-mapping.toml").write_text("\n".join(['task = "visits"', *columns]) + "\n")
    path = write(Path("own.csv"), "Alter,Station,tot")

    applied = read_mapping(Path("own-mapping.toml"), read_task_file(Path("own.toml")))
    source = read_mapped(path, applied, drop_invalid=True)

    assert list(source.columns.columns) == ["Alter", "Station", "tot"]
    assert list(source.columns["Station"]) == ["a", "c", "d", "e"]
    assert source.columns["Alter"].astype(str).astype(float).tolist() == source.table["age"].tolist()


def test_repeats_that_a_layout_drops_are_dropped_from_the_source_s_columns() -> None:
    rows = kaggle_heart()
    twice = pd.concat([rows, rows]).assign(note=range(2 * len(rows)))
    twice.to_csv("heart.csv", index=False)

    source = read_source(Path("heart.csv"))

    is_first = ~twice.duplicated(list(rows.columns))
    assert len(twice) - is_first.sum() >= len(rows)
    assert source.columns["note"].astype(str).astype(int).tolist() == twice["note"][is_first].tolist()
    assert source.columns.index.equals(source.table.index)


def test_generated_patients_have_no_columns_of_their_own() -> None:
    assert generate_readmission(10, seed=1).columns.empty


def test_a_copy_of_uci_s_stays_keeps_the_columns_that_the_task_does_not_need() -> None:
    stays = made_up_stays().reset_index(drop=True)
    stays["glyburide"] = [f"dose-{number}" for number in stays["encounter_id"]]
    stays.to_csv("diabetic_data.csv", index=False)

    source = read_source(Path("diabetic_data.csv"))

    is_kept = ~stays["discharge_disposition_id"].isin(["11"]) & (stays["gender"] != "Unknown/Invalid")
    kept = stays[is_kept].sort_values("encounter_id", key=lambda numbers: numbers.astype(int))
    assert list(source.columns["glyburide"].astype(str)) == list(kept["glyburide"])
