"""UCI's diabetes stays: every copy gives the same rows, which are UCI's, and other files are refused.

Facts of the data: Clore, Cios, DeShazo and Strack 2014, UCI Machine Learning Repository, dataset 296, doi
10.24432/C5230J, licence CC BY 4.0, and Strack et al. 2014, BioMed Research International 781670.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federated_health.data.columns import Category
from federated_health.data.csv_reading import read_cells
from federated_health.data.examples import DIABETES_STAYS, find_example_patients
from federated_health.data.examples.make_diabetes_stays import carried_table
from federated_health.data.sources.source import Source, read_diabetes, read_source
from federated_health.data.task_files import READMISSION_30D
from federated_health.errors import DataError
from tests.support.diabetes_stays import HEADER, RAW_ZIP, made_up_stays
from tests.support.script_calls import RunScript, assert_one_line

TABLE_SHA256 = "a06c6fc253c5b6ef254ebad5116d9dd5a0acfd4dcba7f285f69c1935d197b908"

needs_raw_zip = pytest.mark.skipif(
    not RAW_ZIP.is_file(), reason=f"UCI's zip is not in {RAW_ZIP.parent}; the project carries some of its columns only"
)

NAN = float("nan")


def to_csv(stays: pd.DataFrame) -> bytes:
    return stays.to_csv(index=False).encode()


@pytest.fixture(scope="module")
def carried() -> Source:
    return read_diabetes()


@pytest.fixture
def expected(tmp_path: Path) -> pd.DataFrame:
    """The rows of the made-up stays in UCI's own form."""
    path = tmp_path / "expected.csv"
    path.write_bytes(to_csv(made_up_stays()))
    return read_source(path).table


def test_made_up_stays_become_the_task_s_rows_in_order_of_their_number(expected: pd.DataFrame) -> None:
    assert list(expected.columns) == [*READMISSION_30D.column_names, "readmitted_30d", "patient"]
    # The stays 200, 1000, 1100, 1200, 1300, 1500 and 3000; 1400 is of unknown gender, and 1450 ended in death.
    assert expected["patient"].tolist() == [1, 2, 3, 4, 5, 1, 6]
    assert expected["readmitted_30d"].tolist() == [0, 0, 0, 0, 0, 0, 1]
    by_hand: Mapping[str, Sequence[float]] = {
        "age": [75] * 7,
        "sex": [1, 0, 0, 0, 0, 0, 0],
        "admission_type": [1] * 7,
        "admission_source": [2] * 7,
        "discharge": [1, 1, 1, 1, NAN, 1, 1],
        "specialty": [NAN, NAN, NAN, 1, NAN, 7, NAN],
        "days_in_hospital": [3, 3, 14, 3, 3, 3, 3],
        "lab_procedures": [44] * 7,
        "diagnosis_1": [1] * 7,
        "diagnosis_2": [4] * 7,
        "diagnosis_3": [NAN] * 6 + [9],
        "hba1c": [0] * 6 + [3],
        "glucose": [1] + [0] * 6,
        "insulin": [0, 0, 0, 0, 2, 0, 0],
        "metformin": [0, 0, 3, 0, 0, 0, 0],
        "medication_change": [0, 0, 0, 0, 1, 0, 0],
        "diabetes_medication": [0, 0, 1, 0, 0, 0, 0],
    }
    for name, numbers in by_hand.items():
        np.testing.assert_array_equal(expected[name], numbers, err_msg=name)


def rewritten_with_pandas(stays: pd.DataFrame) -> bytes:
    """A copy that was read with pandas' defaults, to which "None" is missing, and written with its index."""
    text = pd.read_csv(io.StringIO(stays.to_csv(index=False)), na_values="?").to_csv()
    assert "None" not in text
    assert "?" not in text
    return text.encode()


def with_floats(stays: pd.DataFrame) -> bytes:
    table = stays.copy()
    for name in table.columns:
        if table[name].str.isdecimal().all():
            table[name] = table[name].astype(float)
    assert b"1000.0" in to_csv(table)
    return to_csv(table)


COPIES: dict[str, Callable[[pd.DataFrame], bytes]] = {
    "rewritten with pandas": rewritten_with_pandas,
    "NaN for missing": lambda stays: to_csv(stays.replace({"?": "NaN", "None": "NaN"})),
    "empty for missing": lambda stays: to_csv(stays.replace({"?": "", "None": ""})),
    "rows in another order": lambda stays: to_csv(stays.sort_values("patient_nbr")),
    "columns in another order": lambda stays: to_csv(stays[stays.columns[::-1]]),
    "numbers with a point": with_floats,
    "header in upper case": lambda stays: to_csv(stays.rename(columns=str.upper)),
    "words in lower case": lambda stays: to_csv(stays.apply(lambda column: column.str.lower())),
    "semicolons": lambda stays: stays.to_csv(index=False, sep=";").encode(),
    "tabs": lambda stays: stays.to_csv(index=False, sep="\t").encode(),
    "a byte-order mark": lambda stays: b"\xef\xbb\xbf" + to_csv(stays),
    "line ends of Windows": lambda stays: to_csv(stays).replace(b"\n", b"\r\n"),
    "quotes": lambda stays: stays.to_csv(index=False, quoting=csv.QUOTE_ALL).encode(),
    "gzip": lambda stays: gzip.compress(to_csv(stays)),
    "no columns that the task does not use": lambda stays: to_csv(
        stays.drop(columns=["race", "weight", "payer_code", "examide", "glyburide-metformin"])
    ),
}


@pytest.mark.parametrize("copy", COPIES)
def test_every_copy_gives_the_same_rows(tmp_path: Path, copy: str, expected: pd.DataFrame) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(COPIES[copy](made_up_stays()))
    pd.testing.assert_frame_equal(read_source(path).table, expected)


CONTAINERS = {
    "UCI's zip": ("dataset_diabetes/diabetic_data.csv", "dataset_diabetes/IDs_mapping.csv"),
    "UCI's newer zip": ("diabetic_data.csv", "IDS_mapping.csv"),
    "a zip made on a Mac": ("diabetic_data.csv", "IDs_mapping.csv", "__MACOSX/._diabetic_data.csv"),
    "a zip of other CSVs, too": ("input/diabetic_data.csv", "input/notes.csv", "sample.csv"),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_zip_or_folder_gives_the_same_rows(tmp_path: Path, kind: str, expected: pd.DataFrame) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in CONTAINERS[kind]:
            is_table = name.endswith("/diabetic_data.csv") or name == "diabetic_data.csv"
            archive.writestr(name, to_csv(made_up_stays()) if is_table else "id,description\n1,Emergency\n")
    source = read_source(tmp_path / "archive.zip")
    pd.testing.assert_frame_equal(source.table, expected)
    assert source.files == {
        "archive.zip": hashlib.sha256((tmp_path / "archive.zip").read_bytes()).hexdigest(),
        "diabetic_data.csv": hashlib.sha256(to_csv(made_up_stays())).hexdigest(),
    }
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    pd.testing.assert_frame_equal(read_source(tmp_path / "unpacked").table, expected)


@pytest.mark.parametrize("other", ["copy/diabetic_data.csv", "Diabetic_Data.csv"])
def test_a_zip_with_two_of_the_table_is_refused(tmp_path: Path, other: str) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for name in ("diabetic_data.csv", other):
            archive.writestr(name, to_csv(made_up_stays()))
    with pytest.raises(DataError, match=r"once each.*got 2 CSVs and 2 "):
        read_source(tmp_path / "archive.zip")


def test_a_folder_with_two_of_the_table_is_refused(tmp_path: Path) -> None:
    for folder in ("dataset_diabetes", "dataset_diabetes (1)"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "diabetic_data.csv").write_bytes(to_csv(made_up_stays()))
    with pytest.raises(DataError, match=r"once.*dataset_diabetes \(1\)/diabetic_data.csv"):
        read_source(tmp_path)


def test_a_folder_with_the_zip_names_it(tmp_path: Path) -> None:
    (tmp_path / "dataset_diabetes.zip").touch()
    with pytest.raises(DataError, match=r"--source .*dataset_diabetes\.zip"):
        read_source(tmp_path)


def with_cell(column: str, row: int, cell: str) -> pd.DataFrame:
    stays = made_up_stays()
    stays.loc[row - 1, column] = cell
    return stays


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("discharge_disposition_id", "99", "one of 1, 2, 3, 4"),
        ("age", "[100-110)", "[90-100)"),
        ("readmitted", "maybe", "<30, >30, NO, never empty"),
        ("readmitted", "", "never empty"),
        ("readmitted", "1", "<30, >30, NO"),
        ("patient_nbr", "?", "a whole number, never empty"),
        ("patient_nbr", "1.5", "a whole number"),
        ("encounter_id", "", "a whole number, never empty"),
        ("gender", "Diverse", "Female, Male, Unknown/Invalid"),
        ("admission_type_id", "9", "8"),
        ("admission_source_id", "16", "25"),
        ("time_in_hospital", "0", "from 1 to 365"),
        ("num_medications", "2.5", "a whole number"),
        ("number_inpatient", "-1", "from 0 to 100"),
        ("medical_specialty", "Astrology", "UCI's specialties"),
        ("diag_1", "I50.9", "an ICD-9 code"),
        ("diag_2", "2500", "an ICD-9 code"),
        ("A1Cresult", ">9", "None, Norm, >7, >8"),
        ("max_glu_serum", "?!", "None, Norm, >200, >300"),
        ("insulin", "Sometimes", "No, Steady, Up, Down"),
        ("race", "Unheard", "AfricanAmerican"),
    ],
)
def test_a_cell_that_uci_s_table_cannot_have_is_named_without_its_value(
    tmp_path: Path, column: str, cell: str, expected: str
) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(to_csv(with_cell(column, 7, cell)))
    with pytest.raises(DataError) as error:
        read_source(path)
    message = str(error.value)
    assert f"mine.csv: column {column}, row 7: expected" in message
    assert expected in message
    assert len(cell) < 4 or cell not in message
    assert "\n" not in message


def test_every_copy_s_own_name_of_a_column_is_in_the_message(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(to_csv(with_cell("age", 2, "old").rename(columns=str.upper)))
    with pytest.raises(DataError, match="column AGE, row 2"):
        read_source(path)


@pytest.mark.parametrize("columns", [["insulin"], ["patient_nbr"], ["encounter_id", "diag_3"], ["readmitted"]])
def test_a_missing_column_is_named(tmp_path: Path, columns: list[str]) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(to_csv(made_up_stays().drop(columns=columns)))
    with pytest.raises(DataError, match=f"mine.csv: .*lacks the columns? {', '.join(columns)}[;,]"):
        read_source(path)


def test_a_column_that_the_header_has_twice_is_refused(tmp_path: Path) -> None:
    stays = made_up_stays()
    path = tmp_path / "mine.csv"
    path.write_bytes(to_csv(stays.assign(AGE=stays["age"])))
    with pytest.raises(DataError, match="age"):
        read_source(path)


def test_a_stay_that_is_there_twice_is_named_by_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(to_csv(with_cell("encounter_id", 6, "200")))  # as row 3 is
    with pytest.raises(DataError, match="column encounter_id, rows 3 and 6: expected one row per stay"):
        read_source(path, drop_invalid=True)


@pytest.mark.parametrize("lost", [1, 3, 40])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(to_csv(made_up_stays()).removesuffix(b"\n")[:-lost])
    with pytest.raises(DataError, match="row 9"):
        read_source(path)


def test_rows_of_other_origin_are_said_to_be_so_and_not_public(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(to_csv(made_up_stays()))
    source = read_source(path)
    assert not source.is_public
    assert "UCI's table gives 99340" in source.mapped[-1]


FAIRLEARN = (
    "race,gender,age,discharge_disposition_id,admission_source_id,time_in_hospital,medical_specialty,"
    "num_lab_procedures,num_procedures,num_medications,primary_diagnosis,number_diagnoses,max_glu_serum,A1Cresult,"
    "insulin,change,diabetesMed,medicare,medicaid,had_emergency,had_inpatient_days,had_outpatient_days,readmitted,"
    "readmit_binary,readmit_30_days"
)
HOSPITAL_READMISSIONS = (
    "age,time_in_hospital,n_lab_procedures,n_procedures,n_medications,n_outpatient,n_inpatient,n_emergency,"
    "medical_specialty,diag_1,diag_2,diag_3,glucose_test,A1Ctest,change,diabetes_med,readmitted"
)


@pytest.mark.parametrize("header", [FAIRLEARN, HOSPITAL_READMISSIONS])
def test_a_file_that_was_made_from_the_table_without_patients_is_described(tmp_path: Path, header: str) -> None:
    path = tmp_path / "made_from_it.csv"
    path.write_text(f"{header}\n" + ",".join("[70-80)" for _ in header.split(",")) + "\n")
    with pytest.raises(DataError, match=r"made_from_it\.csv: looks like .*lacks the columns .*patient_nbr"):
        read_source(path)


def test_few_invalid_rows_can_be_dropped_and_are_counted(tmp_path: Path) -> None:
    stays = pd.concat([made_up_stays()] * 20, ignore_index=True)
    stays["encounter_id"] = [str(1000 + number) for number in range(len(stays))]
    stays.loc[6, "age"] = "old"  # 1 of 180 rows
    path = tmp_path / "mine.csv"
    path.write_bytes(to_csv(stays))
    with pytest.raises(DataError, match="--drop-invalid"):
        read_source(path)
    whole = read_source(path, drop_invalid=True)
    assert whole.dropped["rows that break a rule"] == 1
    assert len(whole.table) == 180 - 40 - 1  # without those of unknown gender and of the dead, and without row 7
    stays.loc[[7, 8], "age"] = "old"  # no slips any more, but another coding
    path.write_bytes(to_csv(stays))
    with pytest.raises(DataError, match="3 of 180 rows"):
        read_source(path, drop_invalid=True)
    stays["age"] = "[70-80)"
    stays.loc[4, "readmitted"] = "maybe"
    path.write_bytes(to_csv(stays))
    with pytest.raises(DataError, match="readmitted, row 5"):
        read_source(path, drop_invalid=True)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--task heart-disease", ("expected the task readmission-30d", "got heart-disease")),
        ("--task readmission-generated", ("expected the task readmission-30d", "got readmission")),
        ("--label-means readmitted_30d=<30", ("--label-means: expected none",)),
        ("", ("column age, row 3",)),
    ],
)
def test_what_cannot_be_read_is_one_line_and_nothing_is_written(
    run_script: RunScript, flags: str, parts: tuple[str, ...]
) -> None:
    Path("diabetic_data.csv").write_bytes(to_csv(made_up_stays() if flags else with_cell("age", 3, "old")))
    result = run_script("create_dataset.py", "--source", "diabetic_data.csv", *flags.split())
    assert (result.code, result.output) == (1, "")
    assert_one_line(result, *parts)
    assert not Path("data").exists()


def test_a_hospital_s_check_of_uci_s_file_says_which_script_reads_it(run_script: RunScript) -> None:
    Path("diabetic_data.csv").write_bytes(to_csv(made_up_stays()))
    result = run_script("client.py", "--data", "diabetic_data.csv", "--task", "readmission-30d", "--check")
    assert result.code == 1
    assert "create_dataset.py --source" in result.error


@pytest.mark.parametrize("flags", ["", "--task readmission-30d"])
def test_uci_s_file_becomes_hospitals_by_a_script(run_script: RunScript, flags: str) -> None:
    Path("diabetic_data.csv").write_bytes(to_csv(made_up_stays()))
    result = run_script(
        "create_dataset.py", "--source", "diabetic_data.csv", "--by", "iid", "--hospitals", "1", *flags.split()
    )
    assert result.succeeded
    assert "stays that ended in death or hospice: 1 dropped" in result.output
    manifest = json.loads(Path("data/manifest.json").read_text())
    assert manifest["task"] == "readmission-30d"
    assert not manifest["public"]
    assert manifest["source"]["rows"] == {"read": 9, "kept": 7}


def test_the_carried_table_is_derived_from_a_zip_by_the_script(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dataset_diabetes/diabetic_data.csv", to_csv(made_up_stays()))
    header, *rows = csv.reader(io.StringIO(carried_table(path).decode()))
    stays = made_up_stays().assign(order=lambda table: table["encounter_id"].astype(int)).sort_values("order")
    assert set(header) < set(HEADER.split(","))
    for name in set(header) - {"patient_nbr"}:
        assert [row[header.index(name)] for row in rows] == stays[name].tolist()
    assert [row[header.index("patient_nbr")] for row in rows] == ["1", "2", "3", "4", "5", "2", "6", "1", "7"]


@pytest.mark.parametrize(
    "tables", [{}, {"a.csv": "x\n1\n"}, {"diabetic_data.csv": "x\n1\n", "b/diabetic_data.csv": "x\n1\n"}]
)
def test_the_script_refuses_a_zip_without_one_table_of_stays(tmp_path: Path, tables: dict[str, str]) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in tables.items():
            archive.writestr(name, text)
    with pytest.raises(DataError):
        carried_table(path)


def test_the_carried_table_is_unchanged_and_small() -> None:
    assert hashlib.sha256(gzip.decompress(DIABETES_STAYS.read_bytes())).hexdigest() == TABLE_SHA256
    assert DIABETES_STAYS.stat().st_size < 3_000_000


def test_the_carried_rows_are_as_many_as_uci_and_strack_say(carried: Source) -> None:
    assert sum(carried.dropped.values()) + len(carried.table) == 101_766
    assert carried.dropped == {"stays that ended in death or hospice": 2_423, "stays of unknown gender": 3}
    assert len(carried.table) == 99_340
    assert carried.table["patient"].nunique() == 69_987
    assert carried.table["readmitted_30d"].mean() == pytest.approx(0.1139, abs=5e-5)
    assert carried.is_public
    assert list(carried.files) == ["diabetes_stays.csv.gz"]


def test_no_code_of_the_task_is_of_a_handful_of_stays_and_no_cell_is_out_of_range(carried: Source) -> None:
    for column in READMISSION_30D.columns:
        cells = carried.table[column.name]
        assert column.allows(cells.to_numpy(dtype=float)).all()
        if isinstance(column, Category):
            assert (cells.value_counts().reindex(list(column.codes), fill_value=0) >= 100).all(), column.name
        else:
            assert column.typical_median is not None
            assert column.typical_median[0] <= cells.median() <= column.typical_median[1], column.name


def test_example_patients_have_cells_that_the_task_allows() -> None:
    path = find_example_patients("readmission-30d")
    assert path is not None
    cells = read_cells(path, READMISSION_30D, labelled=False)
    assert len(cells.numbers) == 3
    assert not cells.invalid.to_numpy().any()


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    """UCI's table as text, read without code of the project, in order of `encounter_id`."""
    with zipfile.ZipFile(RAW_ZIP) as archive:
        content = archive.read("dataset_diabetes/diabetic_data.csv")
    assert hashlib.sha256(content).hexdigest().startswith("0689e7ec031237dc")
    table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    return table.iloc[table["encounter_id"].astype(int).argsort()].reset_index(drop=True)


def kept_by_hand(raw: pd.DataFrame) -> pd.DataFrame:
    """The stays that can be followed by a readmission, of known gender."""
    ended = raw["discharge_disposition_id"].isin(["11", "13", "14", "19", "20", "21"])
    return raw[~ended & (raw["gender"] != "Unknown/Invalid")]


@needs_raw_zip
def test_the_carried_table_is_uci_s_figure_for_figure(raw: pd.DataFrame) -> None:
    content = gzip.decompress(DIABETES_STAYS.read_bytes())
    assert carried_table(RAW_ZIP) == content
    table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    names = [name for name in table.columns if name != "patient_nbr"]
    pd.testing.assert_frame_equal(table[names], raw[names])
    pairs = set(zip(table["patient_nbr"], raw["patient_nbr"], strict=True))
    assert len(pairs) == 71_518 == table["patient_nbr"].nunique() == raw["patient_nbr"].nunique()


@needs_raw_zip
def test_the_task_s_columns_have_uci_s_counts(raw: pd.DataFrame, carried: Source) -> None:
    kept = kept_by_hand(raw)
    table = carried.table
    for name, column in {"days_in_hospital": "time_in_hospital", "inpatient_visits": "number_inpatient"}.items():
        assert table[name].tolist() == [int(cell) for cell in kept[column]]
    assert table["age"].tolist() == [int(band[1:].split("-")[0]) + 5 for band in kept["age"]]
    assert table["readmitted_30d"].tolist() == [int(cell == "<30") for cell in kept["readmitted"]]
    assert Counter(table["hba1c"]) == {0: 82_506, 1: 4_922, 2: 3_775, 3: 8_137}
    assert Counter(table["insulin"]) == {0: 46_376, 1: 30_069, 2: 10_987, 3: 11_908}
    assert int(table["specialty"].isna().sum()) == 48_614 + 10  # PhysicianNotFound
    assert int((table["specialty"] == 4).sum()) == 5_278
    assert int(table["discharge"].isna().sum()) == 3_691 + 989 + 6
    assert int((table["discharge"] == 5).sum()) == 1_992


# Each group of Strack et al., table 2, as a pattern of the whole code instead of a range.
ICD9_PATTERNS = {
    1: r"39\d|4[0-5]\d|785",
    2: r"4[6-9]\d|50\d|51\d|786",
    3: r"5[2-7]\d|787",
    4: r"250",
    5: r"[89]\d\d",
    6: r"7[12]\d|73\d",
    7: r"5[89]\d|6[0-2]\d|788",
    8: r"1[4-9]\d|2[0-3]\d",
    9: r"E.*|V.*|.*",
}


@needs_raw_zip
@pytest.mark.parametrize("number", [1, 2, 3])
def test_diagnoses_are_in_the_groups_of_strack_et_al(raw: pd.DataFrame, carried: Source, number: int) -> None:
    kept = kept_by_hand(raw)

    def group(code: str) -> float:
        if code == "?":
            return NAN
        category = code.split(".")[0]
        return next(group for group, pattern in ICD9_PATTERNS.items() if re.fullmatch(pattern, category))

    groups = {code: group(code) for code in kept[f"diag_{number}"].unique()}
    np.testing.assert_array_equal(carried.table[f"diagnosis_{number}"], kept[f"diag_{number}"].map(groups))


@needs_raw_zip
def test_uci_s_own_zip_gives_the_carried_rows_and_they_are_public(carried: Source) -> None:
    source = read_source(RAW_ZIP)
    pd.testing.assert_frame_equal(source.table, carried.table)
    assert source.is_public
