"""The folder is written whole or not at all; nobody else's file is overwritten."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.manifest import find_hospital, read_manifest
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import DataError


def tables(*names: str) -> dict[str, pd.DataFrame]:
    """A hospital of three rows under each name; their ages tell them apart."""
    columns = [*HEART_DISEASE.column_names, "disease"]
    return {
        name: pd.DataFrame([[40 + 3 * i + j, *([1] * 12), j % 2] for j in range(3)], columns=columns)
        for i, name in enumerate(names)
    }


def write(folder: Path, source: Source, *names: str, force: bool = False, plot: bool = False) -> dict[str, Any]:
    partition = {"by": "hospital", "seed": 42}
    return write_hospitals(folder, source, tables(*names), partition=partition, plot=plot, force=force)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_row_of_the_table_is_in_exactly_one_written_file(uci: Source, hospitals_folder: Path) -> None:
    files = sorted(hospitals_folder.glob("client_*.csv"))
    written = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)

    expected = uci.table.drop(columns="hospital")
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, check_exact=True)  # UCI is in hospital order
    assert [len(pd.read_csv(file)) for file in files] == [303, 294, 123, 200]


def test_a_written_file_has_thirteen_columns_and_the_label(hospitals_folder: Path) -> None:
    for number in range(1, 5):
        with (hospitals_folder / f"client_{number}.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == [*HEART_DISEASE.column_names, "disease"]
        assert {len(row) for row in rows} == {14}
        assert {row[13] for row in rows[1:]} == {"0", "1"}


def test_the_manifest_says_what_was_written(uci: Source, hospitals_folder: Path) -> None:
    manifest = json.loads((hospitals_folder / "manifest.json").read_text())

    assert manifest["task"] == "heart-disease"
    assert manifest["source"] == uci.describe()
    assert manifest["partition"] == {"by": "hospital", "seed": 42}
    assert [(one["file"], one["name"], one["rows"], one["labels"]) for one in manifest["hospitals"]] == [
        ("client_1.csv", "cleveland", 303, {"0": 164, "1": 139}),
        ("client_2.csv", "hungary", 294, {"0": 188, "1": 106}),
        ("client_3.csv", "switzerland", 123, {"0": 8, "1": 115}),
        ("client_4.csv", "va-long-beach", 200, {"0": 51, "1": 149}),
    ]
    for one in manifest["hospitals"]:
        assert one["sha256"] == hashlib.sha256((hospitals_folder / one["file"]).read_bytes()).hexdigest()


def test_the_returned_manifest_is_the_written_one(tmp_path: Path, uci: Source) -> None:
    assert write(tmp_path, uci, "a") == json.loads((tmp_path / "manifest.json").read_text())


def test_cells_are_written_in_full_and_missing_ones_empty(tmp_path: Path, uci: Source) -> None:
    row = {**dict.fromkeys(HEART_DISEASE.column_names, 1.0), "chol": 233.0625, "oldpeak": 0.123456789, "ca": None}
    write_hospitals(tmp_path, uci, {"a": pd.DataFrame([{**row, "disease": 1}])}, partition={})

    assert (tmp_path / "client_1.csv").read_bytes() == (
        b"age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,disease\n"
        b"1,1,1,1,233.0625,1,1,1,1,0.123456789,1,,1,1\n"
    )


def test_a_class_without_patients_is_counted_as_zero(tmp_path: Path, uci: Source) -> None:
    healthy = tables("a")["a"].assign(disease=0)

    manifest = write_hospitals(tmp_path, uci, {"a": healthy}, partition={})

    assert manifest["hospitals"][0]["labels"] == {"0": 3, "1": 0}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, uci: Source) -> None:
    write(tmp_path / "one", uci, "a", "b")
    write(tmp_path / "two", uci, "a", "b")

    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(contents(tmp_path / "one")) == ["client_1.csv", "client_2.csv", "manifest.json"]


def test_writing_again_replaces_our_own_files_without_force(tmp_path: Path, uci: Source) -> None:
    write(tmp_path, uci, "a", "b")
    write(tmp_path, uci, "c", "d")

    assert find_hospital(tmp_path, 2) == (tmp_path / "client_2.csv", "d")


def test_a_file_of_an_earlier_and_larger_split_does_not_survive(tmp_path: Path, uci: Source) -> None:
    write(tmp_path, uci, "a", "b", "c")
    write(tmp_path, uci, "a", "b")

    assert sorted(contents(tmp_path)) == ["client_1.csv", "client_2.csv", "manifest.json"]


def test_a_file_that_is_not_ours_is_refused_and_untouched(tmp_path: Path, uci: Source) -> None:
    (tmp_path / "client_2.csv").write_text("a hospital's own patients")

    with pytest.raises(DataError, match=r"client_2\.csv: was not written by create_dataset\.py, or was changed since"):
        write(tmp_path, uci, "a", "b")

    assert contents(tmp_path) == {"client_2.csv": b"a hospital's own patients"}


def test_a_file_beyond_the_new_split_that_is_not_ours_is_refused(tmp_path: Path, uci: Source) -> None:
    write(tmp_path, uci, "a")
    (tmp_path / "client_7.csv").write_text("a hospital's own patients")
    before = contents(tmp_path)

    with pytest.raises(DataError, match=r"client_7\.csv: was not written"):
        write(tmp_path, uci, "b")

    assert contents(tmp_path) == before


def test_a_file_of_ours_that_was_changed_is_refused_and_untouched(tmp_path: Path, uci: Source) -> None:
    write(tmp_path, uci, "a", "b")
    with (tmp_path / "client_1.csv").open("a") as file:
        file.write("50,1,1,120,200,0,0,150,0,1,1,0,3,0\n")
    before = contents(tmp_path)

    with pytest.raises(DataError, match=r"client_1\.csv: .*changed since.*--force"):
        write(tmp_path, uci, "c", "d")

    assert contents(tmp_path) == before


def test_a_manifest_that_is_not_ours_is_refused_and_untouched(tmp_path: Path, uci: Source) -> None:
    (tmp_path / "manifest.json").write_text('{"of": "another program"}')

    with pytest.raises(DataError, match=r"manifest\.json: was not written"):
        write(tmp_path, uci, "a")

    assert contents(tmp_path) == {"manifest.json": b'{"of": "another program"}'}


def test_force_overwrites_what_is_not_ours(tmp_path: Path, uci: Source) -> None:
    (tmp_path / "client_1.csv").write_text("something else")
    (tmp_path / "manifest.json").write_text("something else")

    write(tmp_path, uci, "a", force=True)

    assert len(pd.read_csv(find_hospital(tmp_path, 1)[0])) == 3


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path, uci: Source) -> None:
    (tmp_path / "full_dataset.csv").write_text("x")

    write(tmp_path, uci, "a", force=True)

    assert (tmp_path / "full_dataset.csv").read_text() == "x"


def test_a_full_disk_leaves_the_earlier_split_as_it_was(
    tmp_path: Path, uci: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, uci, "a", "b")
    before = contents(tmp_path)
    to_csv = pd.DataFrame.to_csv

    def full_at_the_second_file(table: pd.DataFrame, path: Path, **options: Any) -> None:
        if path.name == "client_2.csv":
            raise OSError(28, "No space left on device")
        to_csv(table, path, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", full_at_the_second_file)
    with pytest.raises(DataError, match=r"cannot be written to \(No space left on device\)"):
        write(tmp_path, uci, "c", "d", "e")

    assert contents(tmp_path) == before


def fail_at(monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """From now on the so-manieth rename fails, and only that one."""
    put, calls = Path.replace, 0

    def replace(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(5, "Input/output error")
        return put(path, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("failing", range(1, 8))  # two hospitals and a manifest go, three and a manifest come
def test_a_disk_that_fails_while_files_are_put_in_place_leaves_the_earlier_split_as_it_was(
    tmp_path: Path, uci: Source, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    write(tmp_path, uci, "a", "b")
    before = contents(tmp_path)

    fail_at(monkeypatch, failing)
    with pytest.raises(DataError, match=r"cannot be written to \(Input/output error\)"):
        write(tmp_path, uci, "c", "d", "e")

    assert contents(tmp_path) == before


def test_there_are_seven_renames_that_can_fail(tmp_path: Path, uci: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, uci, "a", "b")

    fail_at(monkeypatch, 8)
    write(tmp_path, uci, "c", "d", "e")

    assert find_hospital(tmp_path, 3)[1] == "e"
    assert sorted(contents(tmp_path)) == ["client_1.csv", "client_2.csv", "client_3.csv", "manifest.json"]


def test_a_disk_that_fails_leaves_what_force_would_have_overwritten(
    tmp_path: Path, uci: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "client_1.csv").write_text("a hospital's own patients")

    fail_at(monkeypatch, 3)
    with pytest.raises(DataError, match=r"cannot be written to"):
        write(tmp_path, uci, "a", force=True)

    assert contents(tmp_path) == {"client_1.csv": b"a hospital's own patients"}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "name", ["client_1_notes.csv", "client_1.csv.bak", "client_x.csv", "client_.csv", "client_1.tsv", "egress-a.jsonl"]
)
def test_files_of_other_names_are_neither_in_the_way_nor_deleted(
    tmp_path: Path, uci: Source, name: str, force: bool
) -> None:
    (tmp_path / name).write_text("somebody's")

    write(tmp_path, uci, "a", force=force)
    write(tmp_path, uci, "b", force=force)

    assert (tmp_path / name).read_text() == "somebody's"
    assert sorted(contents(tmp_path)) == sorted(["client_1.csv", "manifest.json", name])


def test_rows_without_a_label_leave_nothing_behind(tmp_path: Path, uci: Source) -> None:
    unlabelled = {"a": tables("a")["a"].drop(columns="disease")}

    with pytest.raises(KeyError):
        write_hospitals(tmp_path, uci, unlabelled, partition={})

    assert contents(tmp_path) == {}


def test_a_folder_that_cannot_be_made_is_a_data_error(tmp_path: Path, uci: Source) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DataError, match=r"file/data: cannot be written to \(Not a directory\)"):
        write(tmp_path / "file" / "data", uci, "a")


def test_a_hospital_is_found_by_its_number(hospitals_folder: Path) -> None:
    found = [find_hospital(hospitals_folder, number) for number in range(1, 5)]

    assert [path for path, _ in found] == [hospitals_folder / f"client_{number}.csv" for number in range(1, 5)]
    assert [name for _, name in found] == ["cleveland", "hungary", "switzerland", "va-long-beach"]


@pytest.mark.parametrize("number", [-1, 0, 5])
def test_a_number_that_no_hospital_has_is_refused(hospitals_folder: Path, number: int) -> None:
    with pytest.raises(DataError, match=rf"expected a hospital from 1 to 4, got {number}$"):
        find_hospital(hospitals_folder, number)


def test_a_folder_without_a_split_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json: does not exist.* create-dataset"):
        find_hospital(tmp_path / "data", 1)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"hospitals": [1]}', '{"hospitals": [{"file": "x"}]}', "\xff"])
def test_a_broken_manifest_is_a_data_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")

    with pytest.raises(DataError, match=r"is not a manifest that create_dataset\.py wrote"):
        find_hospital(tmp_path, 1)


def test_ctrl_c_while_files_are_exchanged_leaves_the_old_ones(
    tmp_path: Path, uci: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospitals = divide(uci, Partition(by="hospital", seed=42))
    write_hospitals(tmp_path, uci, hospitals, partition={"by": "hospital"})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    replace, calls = Path.replace, iter(range(100))

    def interrupted(self: Path, target: Path) -> Path:
        if next(calls) == 7:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_hospitals(tmp_path, uci, dict(list(hospitals.items())[:2]), partition={"by": "hospital"})
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


# The picture.

OURS = ["client_1.csv", "manifest.json", "partition.png"]


def test_a_picture_is_written_and_listed_with_its_hash(tmp_path: Path, uci: Source) -> None:
    manifest = write(tmp_path, uci, "a", plot=True)

    content = (tmp_path / "partition.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert manifest["picture"] == {"file": "partition.png", "sha256": hashlib.sha256(content).hexdigest()}
    assert read_manifest(tmp_path) == manifest
    assert sorted(contents(tmp_path)) == OURS


def test_no_picture_is_written_or_listed_unless_asked_for(tmp_path: Path, uci: Source) -> None:
    assert "picture" not in write(tmp_path, uci, "a")
    assert sorted(contents(tmp_path)) == ["client_1.csv", "manifest.json"]


def test_a_later_split_replaces_our_picture(tmp_path: Path, uci: Source) -> None:
    before = write(tmp_path, uci, "a", plot=True)["picture"]
    after = write(tmp_path, uci, "b", "c", plot=True)["picture"]

    assert after["sha256"] == hashlib.sha256((tmp_path / "partition.png").read_bytes()).hexdigest() != before["sha256"]


def test_a_later_split_without_a_picture_removes_ours_which_would_show_something_else(
    tmp_path: Path, uci: Source
) -> None:
    write(tmp_path, uci, "a", plot=True)
    write(tmp_path, uci, "a")

    assert sorted(contents(tmp_path)) == ["client_1.csv", "manifest.json"]


def test_a_picture_that_is_not_ours_is_refused_and_untouched(tmp_path: Path, uci: Source) -> None:
    (tmp_path / "partition.png").write_bytes(b"somebody's")

    with pytest.raises(DataError, match=r"partition\.png: was not written by create_dataset\.py, or was changed since"):
        write(tmp_path, uci, "a", plot=True)

    assert contents(tmp_path) == {"partition.png": b"somebody's"}


@pytest.mark.parametrize("force", [False, True])
def test_a_picture_that_is_not_ours_is_left_alone_where_none_is_drawn(tmp_path: Path, uci: Source, force: bool) -> None:
    (tmp_path / "partition.png").write_bytes(b"somebody's")

    for _ in range(2):
        write(tmp_path, uci, "a", force=force)

    assert (tmp_path / "partition.png").read_bytes() == b"somebody's"


@pytest.mark.parametrize("plot", [False, True])
def test_our_picture_that_was_changed_is_refused_and_untouched(tmp_path: Path, uci: Source, plot: bool) -> None:
    write(tmp_path, uci, "a", plot=True)
    (tmp_path / "partition.png").write_bytes(b"retouched")
    before = contents(tmp_path)

    with pytest.raises(DataError, match=r"partition\.png: was not written"):
        write(tmp_path, uci, "b", plot=plot)

    assert contents(tmp_path) == before


@pytest.mark.parametrize("plot", [False, True])
def test_our_picture_that_was_deleted_is_not_missed(tmp_path: Path, uci: Source, plot: bool) -> None:
    write(tmp_path, uci, "a", plot=True)
    (tmp_path / "partition.png").unlink()

    write(tmp_path, uci, "b", plot=plot)

    assert (tmp_path / "partition.png").exists() is plot


def test_force_overwrites_a_picture_that_is_not_ours(tmp_path: Path, uci: Source) -> None:
    (tmp_path / "partition.png").write_bytes(b"somebody's")

    write(tmp_path, uci, "a", force=True, plot=True)

    assert (tmp_path / "partition.png").read_bytes().startswith(b"\x89PNG")


def test_a_disk_that_is_full_at_the_picture_leaves_all_as_it_was(
    tmp_path: Path, uci: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    write(tmp_path, uci, "a", plot=True)
    before = contents(tmp_path)

    def full(_figure: Figure, path: Path, **_options: Any) -> None:
        path.write_bytes(b"\x89PNG and no mo")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(DataError, match=r"cannot be written to \(No space left on device\)"):
        write(tmp_path, uci, "b", plot=True)

    assert contents(tmp_path) == before


@pytest.mark.parametrize("failing", range(1, 8))  # three files go, four come
def test_a_disk_that_fails_while_a_picture_is_put_in_place_leaves_all_as_it_was(
    tmp_path: Path, uci: Source, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    write(tmp_path, uci, "a", plot=True)
    before = contents(tmp_path)

    fail_at(monkeypatch, failing)
    with pytest.raises(DataError, match=r"cannot be written to"):
        write(tmp_path, uci, "b", "c", plot=True)

    assert contents(tmp_path) == before


# The manifest.


def test_the_manifest_that_is_read_is_the_one_that_was_written(hospitals_folder: Path) -> None:
    assert read_manifest(hospitals_folder) == json.loads((hospitals_folder / "manifest.json").read_text())


@pytest.mark.parametrize(
    "text",
    [
        "null",
        '"hospitals"',
        '{"hospitals": 1}',
        '{"hospitals": {"a": 1}}',
        '{"hospitals": [{"file": "client_1.csv", "sha256": "0"}]}',
        '{"hospitals": [{"name": "a", "sha256": "0"}]}',
        '{"hospitals": [{"name": "a", "file": "client_1.csv"}]}',
        '{"hospitals": [], "picture": "partition.png"}',
        '{"hospitals": [], "picture": {"file": "partition.png"}}',
    ],
)
def test_a_manifest_that_lacks_something_is_not_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(DataError, match=r"manifest\.json: is not a manifest that create_dataset\.py wrote$"):
        read_manifest(tmp_path)


def test_a_manifest_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()

    with pytest.raises(DataError, match=r"manifest\.json: cannot be read \(Is a directory\)$"):
        read_manifest(tmp_path)


def test_a_manifest_names_its_folder_in_full(in_folder: Path) -> None:
    with pytest.raises(DataError, match=rf"^{in_folder}/data/manifest\.json: does not exist"):
        read_manifest(Path("data"))


def test_the_partition_is_in_the_manifest_as_it_was_asked_for(tmp_path: Path, uci: Source) -> None:
    partition = Partition(by="size", seed=7, ratios=(2.0, 1.0))
    write_hospitals(tmp_path, uci, divide(uci, partition), partition=partition.describe())

    assert read_manifest(tmp_path)["partition"] == {"by": "size", "seed": 7, "ratios": [2.0, 1.0]}
    assert [entry["rows"] for entry in read_manifest(tmp_path)["hospitals"]] == [613, 307]


def test_a_manifest_in_the_way_that_is_a_folder_is_refused_and_untouched(tmp_path: Path, uci: Source) -> None:
    (tmp_path / "manifest.json").mkdir()

    for force in (False, True):
        with pytest.raises(DataError, match=r"manifest\.json: is a folder; name another --out"):
            write(tmp_path, uci, "a", force=force)

    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_source_is_not_overwritten_by_its_own_split(tmp_path: Path, uci: Source) -> None:
    write(tmp_path, uci, "a", "b")
    own = replace(uci, path=tmp_path / "client_1.csv")
    before = contents(tmp_path)

    for force in (False, True):
        with pytest.raises(DataError, match=r"client_1\.csv: is the source and would be overwritten"):
            write(tmp_path, own, "c", force=force)

    assert contents(tmp_path) == before


def test_what_another_run_wrote_meanwhile_is_replaced_whole(
    tmp_path: Path, uci: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_csv, busy = pd.DataFrame.to_csv, iter(range(100))

    def slowly(table: pd.DataFrame, path: Path, **options: Any) -> None:
        if next(busy) == 0:  # the first file of the first run
            write(tmp_path, uci, "d", "e", "f")
        to_csv(table, path, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", slowly)
    write(tmp_path, uci, "a", "b")

    assert sorted(contents(tmp_path)) == ["client_1.csv", "client_2.csv", "manifest.json"]
    assert find_hospital(tmp_path, 2)[1] == "b"


def test_rows_that_two_hospitals_share_are_counted_in_the_manifest(tmp_path: Path, uci: Source) -> None:
    rows = tables("a", "b", "c")  # three rows each
    rows["b"] = pd.concat([rows["b"], rows["a"].head(2).assign(disease=1), rows["a"].head(1)])
    rows["c"] = pd.concat([rows["c"], rows["a"].head(1)])

    manifest = write_hospitals(tmp_path, uci, rows, partition={})

    pairs = {tuple(pair["hospitals"]): pair["rows"] for pair in manifest["repeated_rows"]}
    assert pairs == {("a", "b"): 2, ("a", "c"): 1, ("b", "c"): 1}
    assert manifest["repeated_rows"][0]["rows"] == 2  # the most come first


def test_missing_cells_and_zeros_of_both_signs_are_equal_across_hospitals(tmp_path: Path, uci: Source) -> None:
    rows = tables("a", "b")
    rows["a"] = rows["a"].astype(float)
    rows["a"].loc[0, ["oldpeak", "chol"]] = [0.0, np.nan]
    rows["b"] = rows["a"].assign(oldpeak=-rows["a"]["oldpeak"].where(rows["a"]["oldpeak"] == 0, -7.0))

    manifest = write_hospitals(tmp_path, uci, rows, partition={})

    assert manifest["repeated_rows"] == [{"hospitals": ["a", "b"], "rows": 1}]


def test_the_manifest_of_hospitals_without_common_rows_has_no_such_entry(hospitals_folder: Path) -> None:
    assert "repeated_rows" not in read_manifest(hospitals_folder)
