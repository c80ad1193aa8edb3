"""Attacks on a hospital by subtraction of what it released in several runs, and its memory of releases."""

import itertools
import json
import stat
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from federated_health.data.hospital import Hospital, Patients
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task
from federated_health.errors import DisclosureError
from federated_health.hospital.release_memory import ReleasableHospital, choose_rows, choose_rows_once, path_beside
from federated_health.transport.app_calls import hospital_context
from tests.support.own_hospitals import OwnHospital, metrics_of, registration_request, sums_of

NUMBERS = [column.name for column in HEART_DISEASE.measurements]
MIN_CELL = 5

pytestmark = pytest.mark.usefixtures("server_identity")


@pytest.fixture
def table(hospitals_folder: Path) -> pd.DataFrame:
    """100 different patients, who stand for those of a hospital whose data are not public."""
    return pd.read_csv(hospitals_folder / "client_1.csv").drop_duplicates().head(100).reset_index(drop=True)


@pytest.fixture
def own(tmp_path: Path) -> OwnHospital:
    return OwnHospital(tmp_path)


def differences(registrations: list[RecordDict]) -> npt.NDArray[np.float64]:
    """What a server computes from all registrations: every difference of two, and of two from one another.

    Each is [counts, sums and sums of squares; measurements].
    """
    sums = [found for content in registrations if (found := sums_of(content)) is not None]
    different = np.unique(np.array(sums), axis=0)
    pairs = [one - other for one, other in itertools.permutations(different, 2)]
    return np.array([*pairs, *(one - other for one, other in itertools.combinations(pairs[:200], 2))])


def finds_a_patient(found: npt.NDArray[np.float64], patients: pd.DataFrame) -> bool:
    """Whether any difference is one patient's measurements, in at least two columns."""
    values = patients[NUMBERS].to_numpy(dtype=np.float64)
    for counts, totals, _ in found:
        shown = counts == 1
        if shown.sum() >= 2 and np.isclose(values[:, shown], totals[shown], atol=1e-6).all(axis=1).any():
            return True
    return False


def is_safe(registrations: list[RecordDict], table: pd.DataFrame) -> bool:
    """Whether a server finds no patient by subtraction."""
    return not finds_a_patient(differences(registrations), table)


def test_two_registrations_do_not_subtract_to_the_patient_who_was_added(own: OwnHospital, table: pd.DataFrame) -> None:
    for number in range(30, 40):  # whichever side of the split the new patient is on
        own.name = f"hospital-{number}"
        before, after = (own.register(table[:rows]) for rows in (number, number + 1))

        assert sums_of(before) is not None
        assert is_safe([before, after], table)
        assert before == after  # the new patient is left out


@pytest.mark.parametrize("seed", range(4))
def test_patients_who_are_added_one_at_a_time_in_any_order_are_not_found(
    own: OwnHospital, table: pd.DataFrame, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(60)
    registrations = [own.register(table.iloc[order[:rows]]) for rows in range(30, 61)]

    assert is_safe(registrations, table)
    rows = [metrics_of(content)["train-examples"] for content in registrations]
    assert rows[-1] > rows[0] + MIN_CELL  # they are used in the end


@given(st.data())
@settings(max_examples=60)
def test_no_combination_of_releases_is_over_few_patients(data: st.DataObject) -> None:
    """Patients who were in the same releases cannot be told apart; they are none or at least the minimum cell.

    Any sum and difference of releases is then over whole groups of such patients.
    """
    present = set(range(data.draw(st.integers(12, 40))))
    releases: dict[str, list[set[int]]] = {"train": [], "test": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(data.draw(st.integers(2, 8))):
            held_out = data.draw(st.sets(st.sampled_from(sorted(present)), max_size=len(present) // 2))
            found = chosen(Path(folder), sorted(present - held_out), sorted(held_out))
            for side, is_exposed in (("train", found.train_is_exposed), ("test", found.test_is_exposed)):
                numbers = set((getattr(found, side).values[:, 0] / 100).astype(int).tolist())
                if not is_exposed and len(numbers) >= MIN_CELL:
                    releases[side].append(numbers)
            present |= data.draw(st.sets(st.integers(0, 79), max_size=12))
            gone = data.draw(st.sets(st.sampled_from(sorted(present)), max_size=8))
            present -= gone if len(present) > len(gone) + 8 else set()
    for sets in releases.values():
        groups = Counter(tuple(number in own for own in sets) for number in range(80))
        assert all(size >= MIN_CELL for pattern, size in groups.items() if any(pattern))


@pytest.mark.parametrize("seed", range(4))
def test_patients_who_are_added_and_removed_are_not_found(own: OwnHospital, table: pd.DataFrame, seed: int) -> None:
    generator = np.random.default_rng(seed)
    present = set(range(40))
    registrations = []
    for _ in range(25):
        registrations.append(own.register(table.iloc[sorted(present)]))
        outside = sorted(set(range(100)) - present)
        present |= set(generator.choice(outside, generator.integers(0, 4), replace=False).tolist())
        present -= set(generator.choice(sorted(present), generator.integers(0, 2), replace=False).tolist())

    assert is_safe(registrations, table)


def test_sums_are_suppressed_after_a_removal_and_counts_too(own: OwnHospital, table: pd.DataFrame) -> None:
    first = own.register(table[:60], asks_classes=True)
    second = own.register(table[1:60].drop(index=[20, 40]), asks_classes=True)

    assert {"total", "associations"} <= set(first.metric_records["metrics"])
    assert not {"total", "associations"} & set(second.metric_records["metrics"])
    assert metrics_of(first)["class-counts"] != metrics_of(second)["class-counts"] == [0, 0]
    assert set(second.config_records["disclosure"]) == {"column-sums", "associations", "class-counts"}


def test_sums_are_released_again_once_enough_patients_are_gone(own: OwnHospital, table: pd.DataFrame) -> None:
    registrations = [own.register(table[:80]), own.register(table[1:80]), own.register(table[40:80])]

    assert [sums_of(content) is not None for content in registrations] == [True, False, True]
    assert is_safe(registrations, table)


def test_a_changed_row_is_one_removed_and_one_added(own: OwnHospital, table: pd.DataFrame) -> None:
    first = own.register(table[:60])
    changed = table[:60].copy()
    changed["chol"] = changed["chol"].mask(changed.index == 3, 555)
    changed["trestbps"] = changed["trestbps"].mask(changed.index == 3, 222)

    assert is_safe([first, own.register(changed)], table)


def test_many_corrections_do_not_hide_one_new_patient(tmp_path: Path) -> None:
    """Ten corrected cells of one column leave the sums of the others, from which a new patient's values follow."""
    chosen(tmp_path, range(40), range(40, 50))
    found = chosen(tmp_path, [*range(40), 60], range(40, 50), corrected=range(10))

    assert len(found.train) == 41  # ten patients are gone, and eleven are new
    assert not found.train_is_exposed
    *others, last = HEART_DISEASE.column_names
    assert found.exposed_columns == {*others, HEART_DISEASE.label.name}
    assert last not in found.exposed_columns


def test_a_run_of_another_task_does_not_show_the_patient_who_was_added(tmp_path: Path) -> None:
    """The columns that two tasks share are released in the runs of both."""
    label = HEART_DISEASE.label
    other = replace(HEART_DISEASE, name="other", columns=HEART_DISEASE.columns[:6], label=replace(label, name="died"))
    for new in (30, 31, 32):
        name = f"hospital-{new}"
        chosen(tmp_path, range(20), range(20, 30), name=name)
        found = chosen(tmp_path, [*range(20), new], range(20, 30), name=name, task=other)

        assert set(HEART_DISEASE.column_names[:6]) <= found.exposed_columns


def test_processes_that_join_at_the_same_time_remember_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        settings_of = [(tmp_path, range(40), range(40, 40 + held_out)) for held_out in (10, 11, 12, 13)]
        found = [future.result() for future in [pool.submit(chosen, *arguments) for arguments in settings_of]]

    assert len({len(hospital.train) for hospital in found}) == 1
    # As many as at the first; a process with fewer of them suppresses what is over them.
    assert len({len(hospital.test) for hospital in found if not hospital.test_is_exposed}) == 1


def test_another_split_seed_does_not_move_patients_across_the_split(own: OwnHospital, table: pd.DataFrame) -> None:
    first, second = (own.register(table[:40], seed=seed) for seed in (1, 2))

    assert first == second


def test_many_split_seeds_do_not_give_a_system_of_equations(own: OwnHospital, table: pd.DataFrame) -> None:
    registrations = [own.register(table[:31], seed=seed) for seed in range(12)]
    sums = np.array([found[1] for content in registrations if (found := sums_of(content)) is not None])

    assert np.linalg.matrix_rank(sums) == 1


def test_another_file_with_the_same_rows_changes_nothing_but_the_order_of_additions(
    own: OwnHospital, table: pd.DataFrame
) -> None:
    first = own.register(table[:40])
    second = own.register(table[:41].sample(frac=1, random_state=1)[table.columns[::-1]])
    one, other = sums_of(first), sums_of(second)

    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_the_row_that_was_added_is_used_once_enough_others_are_added(own: OwnHospital, table: pd.DataFrame) -> None:
    rows = [metrics_of(own.register(table[:number]))["train-examples"] for number in (40, 41, 44, 90)]

    assert rows[0] == rows[1] == rows[2]
    assert rows[3] > rows[0] + MIN_CELL


def hospital_of(
    train: Sequence[int],
    test: Sequence[int],
    *,
    name: str = "basel",
    task: Task = HEART_DISEASE,
    corrected: Sequence[int] = (),
) -> Hospital:
    """A hospital with these patients by number, each of them unlike all others.

    Args:
        corrected: those whose last column has another value.
    """

    def patients(numbers: Sequence[int]) -> Patients:
        values = np.add.outer(100.0 * np.array(numbers, dtype=np.float64), np.arange(len(task.columns)))
        values[np.isin(numbers, corrected), -1] += 0.5
        return Patients(values, np.array(numbers, dtype=np.float32) % 2)

    return Hospital(name=name, task=task, train=patients(train), test=patients(test))


def chosen(
    folder: Path, train: Sequence[int], test: Sequence[int], *, is_recorded: bool = True, **hospital: Any
) -> ReleasableHospital:
    """A hospital (see `hospital_of`) as its memory in this folder has its patients used."""
    own = hospital_of(train, test, **hospital)
    return choose_rows(own, path_beside(folder / "x.csv", own.name), MIN_CELL, is_recorded=is_recorded)


def test_a_check_remembers_nothing(tmp_path: Path) -> None:
    chosen(tmp_path, range(20), range(20, 30), is_recorded=False)

    assert not list(tmp_path.iterdir())


def test_the_file_is_its_owner_s_and_holds_no_value(tmp_path: Path) -> None:
    chosen(tmp_path, range(20), range(20, 30))

    path = tmp_path / "releases-basel.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = json.loads(path.read_text())
    assert set(content) == {"version", "salt", "patients", "columns"}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no temporary file is left


def test_two_memories_of_the_same_rows_have_nothing_in_common(tmp_path: Path) -> None:
    for name in ("a", "b"):
        chosen(tmp_path, range(20), range(20, 30), name=name)
    one, other = (json.loads((tmp_path / f"releases-{name}.json").read_text()) for name in ("a", "b"))

    assert one["salt"] != other["salt"]
    assert one["patients"]["hashes"] != other["patients"]["hashes"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "salt": 3}'])
def test_a_damaged_file_stops_the_hospital(tmp_path: Path, content: str) -> None:
    (tmp_path / "releases-basel.json").write_text(content)

    with pytest.raises(DisclosureError, match="not a record of releases"):
        chosen(tmp_path, range(20), range(20, 30))


def test_a_folder_that_cannot_be_written_to_stops_the_hospital(tmp_path: Path) -> None:
    with pytest.raises(DisclosureError, match="--ledger"):
        chosen(tmp_path / "missing", range(20), range(20, 30))


def test_another_folder_of_the_ledger_does_not_make_the_hospital_forget(tmp_path: Path) -> None:
    csv, records, other = tmp_path / "patients.csv", tmp_path / "records", tmp_path / "other"
    for folder in (records, other):
        folder.mkdir()
    hospital = hospital_of(range(60), range(60, 90))
    choose_rows_once(hospital, csv, str(records), MIN_CELL)

    assert path_beside(csv, hospital.name, records) == records / "releases-basel.json"
    for wrong in (None, other, tmp_path):
        with pytest.raises(DisclosureError, match=f"{records}/releases-basel.json"):
            path_beside(csv, hospital.name, wrong)
    (records / "releases-basel.json").rename(other / "releases-basel.json")
    assert path_beside(csv, hospital.name, other) == other / "releases-basel.json"
    (other / "releases-basel.json").unlink()
    with pytest.raises(DisclosureError, match="missing"):
        path_beside(csv, hospital.name, records)


def test_a_record_beside_the_csv_is_not_forgotten_for_one_in_another_folder(tmp_path: Path) -> None:
    csv, hospital = tmp_path / "patients.csv", hospital_of(range(60), range(60, 90))
    choose_rows_once(hospital, csv, None, MIN_CELL)
    with pytest.raises(DisclosureError, match="move it to"):
        choose_rows_once(hospital, csv, str(tmp_path / "records"), MIN_CELL)
    assert path_beside(csv, hospital.name, tmp_path) == path_beside(csv, hospital.name)


def test_what_is_remembered_grows_with_the_patients_and_not_with_the_runs(tmp_path: Path) -> None:
    chosen(tmp_path, range(2000), range(2000, 2600))
    path = tmp_path / "releases-basel.json"
    size = path.stat().st_size
    for _ in range(20):
        chosen(tmp_path, range(2000), range(2000, 2600))

    assert path.stat().st_size == size
    assert size < 16 * 1.34 * 2600 * (len(HEART_DISEASE.columns) + 2)


def test_public_data_are_not_remembered(hospitals_folder: Path) -> None:
    own = OwnHospital(hospitals_folder, "cleveland")
    context = hospital_context("cleveland", {"data": str(hospitals_folder / "client_1.csv")})

    reply = own.reply(registration_request("cleveland"), context)

    assert "disclosure" not in reply
    assert not list(hospitals_folder.glob("releases-*"))
