"""Drafts of mappings: what they find, what they leave to a person, and that they show no patient."""

import csv
import datetime
import random
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.exports.export_profile import find_decimal_mark, find_encoding, find_separator
from federated_health.data.exports.header_words import meaning_of_cell, names_unit, similarity
from federated_health.data.exports.mapping_draft import draft_mapping
from federated_health.data.exports.mappings import read_mapping
from federated_health.data.labels import NumberLabel
from federated_health.data.patient_table import read_patients
from federated_health.data.task_files import HEART_DISEASE, READMISSION
from federated_health.data.tasks import Task
from federated_health.errors import DataError
from tests.support.exports import STROKE
from tests.support.labels import STAGES, VISITS, task_with

FACTOR, OFFSET = 0.5555555555555556, -17.77777777777778
"""From degrees Fahrenheit to degrees Celsius."""

ROWS = 60
DAY_ZERO = datetime.date(2021, 3, 1)


def stays() -> pd.DataFrame:
    """Made-up stays: the columns of STROKE as numbers, and their dates; each value of a category is frequent."""
    generator = np.random.default_rng(3)
    admission = [DAY_ZERO + datetime.timedelta(days=int(day)) for day in generator.integers(0, 400, ROWS)]
    birth = [
        day - datetime.timedelta(days=int(age))
        for day, age in zip(admission, generator.integers(15_000, 33_000, ROWS), strict=True)
    ]
    stay = generator.integers(1, 25, ROWS)
    table = pd.DataFrame(
        {
            "birth": birth,
            "admission": admission,
            "discharge": [day + datetime.timedelta(days=int(days)) for day, days in zip(admission, stay, strict=True)],
            "sex": np.arange(ROWS) % 2,
            "glucose": generator.integers(70, 300, ROWS).astype(float),
            "temperature": generator.integers(360, 400, ROWS) / 10,
            "stay": stay,
            "smoking": np.arange(ROWS) % 3,
            "died": (np.arange(ROWS) % 5 == 0).astype(int),
        }
    )
    table["age"] = [
        a.year - b.year - ((a.month, a.day) < (b.month, b.day)) for a, b in zip(admission, birth, strict=True)
    ]
    table.loc[[3, 17, 30, 31, 44, 52], "glucose"] = np.nan
    return table


Row = Mapping[str, Any]


def german(row: Row) -> dict[str, str]:
    glucose = row["glucose"] / 18.016
    return {
        "Fall-Nr.": f"{row['index']:06d}",
        "Geburtsdatum": f"{row['birth']:%d.%m.%Y}",
        "Aufnahmedatum": f"{row['admission']:%d.%m.%Y}",
        "Entlassdatum": f"{row['discharge']:%d.%m.%Y}",
        "Geschlecht": "wm"[row["sex"]],
        "BZ (mmol/l)": "k.A." if np.isnan(glucose) else f"{glucose:.6f}".replace(".", ","),
        "Körpertemperatur (°C)": f"{row['temperature']:.1f}".replace(".", ","),
        "Raucher": ("nie", "früher", "aktuell")[row["smoking"]],
        "verstorben": ("nein", "ja")[row["died"]],
    }


def american(row: Row) -> dict[str, str]:
    return {
        "MRN": f"{row['index']:06d}",
        "DOB": f"{row['birth']:%m/%d/%Y}",
        "Admit Date": f"{row['admission']:%m/%d/%Y}",
        "Discharge Date": f"{row['discharge']:%m/%d/%Y}",
        "Gender": ("Female", "Male")[row["sex"]],
        "Glucose": "-99" if np.isnan(row["glucose"]) else f"{row['glucose']:.0f}",
        "Temp (F)": f"{row['temperature'] * 1.8 + 32:.6f}",
        "Smoking status": f"{row['smoking'] + 1}",
        "Alive": "NY"[1 - row["died"]],
    }


def french(row: Row) -> dict[str, str]:
    return {
        "IPP": f"{row['index']:06d}",
        "Âge (ans)": f"{row['age']}",
        "Sexe": ("Femme", "Homme")[row["sex"]],
        "Glycémie (mg/dl)": "" if np.isnan(row["glucose"]) else f"{row['glucose']:.0f}",
        "Température": f"{row['temperature']:.1f}".replace(".", ","),
        "Durée de séjour (jours)": f"{row['stay']}",
        "Tabac": ("jamais", "ancien", "actif")[row["smoking"]],
        "Décédé": ("non", "oui")[row["died"]],
    }


def write(folder: Path, dialect: Callable[[Row], dict[str, str]], separator: str, encoding: str) -> Path:
    table = stays().assign(index=4711 + 13 * np.arange(ROWS))
    rows = [dialect({str(name): cell for name, cell in row.items()}) for row in table.to_dict("records")]
    path = folder / f"{dialect.__name__}.csv"
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


DIALECTS: dict[str, tuple[Callable[[Row], dict[str, str]], str, str, list[tuple[str, str]]]] = {
    "german": (
        german,
        ";",
        "cp1252",
        [
            ('"aktuell" = "?", "früher" = "?", "nie" = "?"', '"aktuell" = 2, "früher" = 1, "nie" = 0'),
            ('"ja" = "?", "nein" = "?"', '"ja" = 1, "nein" = 0'),
        ],
    ),
    "american": (
        american,
        ",",
        "utf-8",
        [
            ('missing = "?"', 'missing = ["-99"]'),
            ('unit = "?"', f"factor = {FACTOR}\noffset = {OFFSET}"),
            ('"1" = "?", "2" = "?", "3" = "?"', '"1" = 0, "2" = 1, "3" = 2'),
            ('"n" = "?", "y" = "?"', '"n" = 1, "y" = 0'),
        ],
    ),
    "french": (
        french,
        "\t",
        "utf-8",
        [
            ('"actif" = "?", "ancien" = "?", "jamais" = "?"', '"actif" = 2, "ancien" = 1, "jamais" = 0'),
            ('"non" = "?", "oui" = "?"', '"non" = 0, "oui" = 1'),
            ('unit = "?"', 'unit = "°C"'),
        ],
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_completed_draft_gives_the_numbers(tmp_path: Path, dialect: str) -> None:
    make, separator, encoding, answers = DIALECTS[dialect]
    export, mapping = write(tmp_path, make, separator, encoding), tmp_path / "mapping.toml"
    text = draft_mapping(export, STROKE).text
    mapping.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="line"):
        read_mapping(mapping, STROKE)
    for question, answer in answers:
        if question in text:
            text = text.replace(question, answer)
    mapping.write_text(text, encoding="utf-8")

    numbers = read_patients(export, STROKE, labelled=True, mapping=mapping)[1]

    canonical = stays()
    if dialect == "german":  # as its export rounds them
        canonical["glucose"] = (canonical["glucose"] / 18.016).round(6) * 18.016
    if dialect == "american":
        canonical["temperature"] = (canonical["temperature"] * 1.8 + 32).round(6) * FACTOR + OFFSET
    pd.testing.assert_frame_equal(numbers, canonical[list(numbers.columns)].astype(float), check_exact=True)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_date_identifier_or_measured_value_is_in_a_draft(tmp_path: Path, dialect: str) -> None:
    make, separator, encoding, _ = DIALECTS[dialect]
    export = write(tmp_path, make, separator, encoding)

    text = draft_mapping(export, STROKE).text

    assert set(re.findall(r"\d{2}[./]\d{2}[./]\d{4}|\d{4}-\d{2}-\d{2}|\d{5,}", text)) <= {"00000"}
    with export.open(encoding=encoding) as file:
        cells = {cell for row in csv.reader(file, delimiter=separator) for cell in row[1:2] + row[5:7] if "," in cell}
    assert not [cell for cell in cells if cell in text and not re.search("[a-z]", cell)]


@pytest.mark.parametrize(("task", "number"), [(HEART_DISEASE, 14), (READMISSION, 15)])
def test_a_draft_of_a_shipped_task_names_every_column(
    tmp_path: Path, hospitals_folder: Path, task: Task, number: int
) -> None:
    export = hospitals_folder / "client_1.csv"
    if task is READMISSION:
        export = tmp_path / "export.csv"
        names = [column.name for column in task.labelled_columns]
        export.write_text(f"{','.join(names)}\n" + f"{','.join(['1'] * len(names))}\n" * 9)

    draft = draft_mapping(export, task)
    content = tomllib.loads(draft.text)

    assert content["task"] == task.name
    assert len(content["columns"]) == number
    assert draft.open_lines > 0
    assert set(content["columns"][task.label.name]["codes"].values()) == {"?"}


# What is shown


def draft_of(folder: Path, table: pd.DataFrame, task: Task) -> str:
    table.to_csv(folder / "export.csv", index=False)
    return draft_mapping(folder / "export.csv", task).text


def task_of(*columns: Measurement | Category) -> Task:
    return Task(name="small", columns=columns, label=Label("died", "died"))


SMOKING = Category("smoking", "smoking", {0: "never", 1: "now"})


def test_rare_values_are_counted_and_not_shown(tmp_path: Path) -> None:
    cells = ["never"] * 5 + ["now"] * 6 + ["Zzyzx"] * 4 + ["Xyzzy"]

    text = draft_of(tmp_path, pd.DataFrame({"smoking": cells, "died": ["y", "n"] * 8}), task_of(SMOKING))

    assert '"never" = 0, "now" = 1' in text
    assert "2 rarer values" in text
    assert "zzyzx" not in text.lower()
    assert "xyzzy" not in text.lower()


def test_a_column_of_many_values_is_not_shown(tmp_path: Path) -> None:
    cells = [f"word{chr(97 + number)}" for number in range(13) for _ in range(6)]

    text = draft_of(tmp_path, pd.DataFrame({"smoking": cells, "died": ["y", "n"] * 39}), task_of(SMOKING))

    assert "word" not in text


def test_the_frequent_words_of_a_column_of_many_values_are_not_shown(tmp_path: Path) -> None:
    cells = ["Zzyzx"] * 9 + ["Xyzzy"] * 9 + [f"Rare {chr(97 + number)}" for number in range(12)]

    text = draft_of(tmp_path, pd.DataFrame({"smoking": cells, "died": ["y", "n"] * 15}), task_of(SMOKING))

    assert "more than 12 different values" in text
    assert not any(word in text.lower() for word in ("zzyzx", "xyzzy", "rare "))


def test_identifiers_dates_and_long_texts_are_not_shown_however_frequent(tmp_path: Path) -> None:
    cells = ["12345"] * 6 + ["01.02.1950"] * 6 + ["x" * 41] * 6 + ["never"] * 6

    text = draft_of(tmp_path, pd.DataFrame({"smoking": cells, "died": ["y", "n"] * 12}), task_of(SMOKING))

    assert "3 rarer values" in text
    assert not any(word in text for word in ("12345", "1950", "xxx"))


def test_no_cell_of_an_unmatched_column_is_in_a_draft(tmp_path: Path) -> None:
    table = stays().drop(columns=["birth", "admission", "discharge"])
    table["remark"] = "Zzyzx"
    table["doctor"] = ["Dr. Zzyzx", "Dr. Xyzzy"] * (ROWS // 2)

    text = draft_of(tmp_path, table, STROKE)

    assert "zzyzx" not in text.lower()
    assert "Not used: remark, doctor" in text


@pytest.mark.parametrize("header", ["Zzyzx,never,y", "1950-02-01,never,y", "17,never,y", "x,never,y"])
def test_a_file_without_a_header_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "export.csv"
    path.write_text("\n".join([header, *["Xyzzy,never,y", "Plugh,now,n"] * 6]))

    with pytest.raises(DataError) as caught:
        draft_mapping(path, task_of(SMOKING))

    assert "header" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("Zzyzx", "Xyzzy", "1950", "never"))


# What is left to a person


def test_numbers_that_usually_mean_missing_are_asked_about(tmp_path: Path) -> None:
    chol = Measurement("chol", "cholesterol", "mg/dl", low=50, high=1000, typical_median=(120, 350))
    table = pd.DataFrame({"chol": [200, 210, 180, 190] * 4 + [999] * 5, "died": ["y", "n"] * 10 + ["y"]})

    content = tomllib.loads(draft_of(tmp_path, table, task_of(chol)))

    assert content["columns"]["chol"]["missing"] == "?"


@pytest.mark.parametrize(
    ("header", "values", "unit"),
    [
        ("glucose", (100, 120), "mg/dl"),
        ("glucose (mmol/l)", (5, 6), "mmol/l"),
        ("glucose_mmol_l", (5, 6), "mmol/l"),
        ("glucose", (5, 6), "?"),  # by its values it is another unit: a person confirms that
        ("glucose (mg/dl)", (5, 6), "?"),  # the header and the values disagree
        ("glucose (g/l)", (1, 1), "?"),
        ("glucose", (1100, 1200), "?"),
    ],
)
def test_a_unit_is_proposed_only_if_the_header_or_the_values_say_so(
    tmp_path: Path, header: str, values: tuple[int, int], unit: str
) -> None:
    table = pd.DataFrame({header: [*values] * 10, "died": ["y", "n"] * 10})

    content = tomllib.loads(draft_of(tmp_path, table, task_of(STROKE.measurements[1])))

    column = content["columns"]["glucose"]
    assert column.get("unit") == unit
    assert column["column"] in (header, "?")


def test_the_order_of_day_and_month_is_asked_if_both_fit(tmp_path: Path) -> None:
    age = STROKE.measurements[0]
    rows = [("01/02/1950", "03/04/2020"), ("05/06/1960", "07/08/2021")] * 6
    table = pd.DataFrame(rows, columns=["birth date", "admission date"]).assign(died=["y", "n"] * 6)

    ambiguous = tomllib.loads(draft_of(tmp_path, table, task_of(age)))
    certain = tomllib.loads(draft_of(tmp_path, table.replace("03/04/2020", "03/31/2020"), task_of(age)))

    assert ambiguous["columns"]["age"]["from_format"] == ambiguous["columns"]["age"]["to_format"] == "?"
    assert certain["file"]["date_format"] == "%m/%d/%Y"


def test_two_columns_that_fit_alike_are_both_named(tmp_path: Path) -> None:
    table = pd.DataFrame({"Glucose (mg/dl)": [100] * 9, "Blutzucker": [110] * 9, "died": list("ynynynyny")})

    text = draft_of(tmp_path, table, task_of(STROKE.measurements[1]))

    assert tomllib.loads(text)["columns"]["glucose"]["column"] == "?"
    assert '"Glucose (mg/dl)"' in text
    assert '"Blutzucker"' in text


def test_two_columns_with_one_header_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("smoking,note,note,died\n" + "never,a,b,y\nnow,b,a,n\n" * 5)

    assert tomllib.loads(draft_mapping(path, task_of(SMOKING)).text)["columns"]["smoking"]["column"] == "smoking"


# How a file is written


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "2"], (".", "", True)),
        (["1.5", "2"], (".", "", True)),
        (["1,5", "2"], (",", "", True)),
        (["1,5", "2.5"], (".", "", False)),
        (["1.234,5"], (",", ".", True)),
        (["1,234.5"], (".", ",", True)),
        (["1.234"], (".", "", True)),
        (["1,234"], (",", "", False)),
        (["1,5", "1.234"], (",", "", False)),
        (["1.234,5", "1.234"], (",", ".", True)),
        (["01.02.2020", "a,b"], (".", "", True)),
    ],
)
def test_the_decimal_mark_is_found(cells: list[str], expected: tuple[str, str, bool]) -> None:
    mark, thousands, is_sure = find_decimal_mark(cells)

    assert is_sure is expected[2]
    if is_sure:
        assert (mark, thousands) == expected[:2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a,b\n1,2\n", ","), ("a;b\n1,5;2,5\n", ";"), ("a\tb,c\n1\t2,3\n", "\t"), ('a|b\n"1|2"|3\n', "|")],
)
def test_the_separator_is_found(text: str, expected: str) -> None:
    assert find_separator(text, "export.csv") == expected


def test_without_a_separator_a_file_is_refused() -> None:
    with pytest.raises(DataError, match="separator"):
        find_separator("a b\n1 2\n", "export.csv")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", "utf-8-sig"), ("utf-8-sig", "utf-8-sig"), ("cp1252", "cp1252"), ("utf-16", "utf-16")],
)
def test_the_encoding_is_found(encoding: str, expected: str) -> None:
    assert find_encoding("Größe;é".encode(encoding)) == expected


@pytest.mark.parametrize(
    ("header", "column", "is_same"),
    [
        ("AGE", "age", True),
        ("Alter", "age", True),
        ("age_at_admission", "age", True),
        ("Geschlecht", "sex", True),
        ("length of the stay", "stay", True),
        ("temp_old_device", "age", False),
        ("Glykämie", "glucose", False),
    ],
)
def test_a_header_is_taken_for_a_column_of_its_name_or_meaning(header: str, column: str, is_same: bool) -> None:
    [declared] = [found for found in STROKE.columns if found.name == column]

    assert (similarity(declared, header)[0] >= 0.9) is is_same


@pytest.mark.parametrize(
    ("cell", "code"), [("female", 0), ("w", 0), ("Homme", 1), ("d", None), ("1", None), ("", None), ("ja", None)]
)
def test_words_for_codes_are_known(cell: str, code: int | None) -> None:
    assert meaning_of_cell(cell, {0: "female", 1: "male"}) == code


@pytest.mark.parametrize(
    ("header", "unit", "says"),
    [
        ("Kreatinin (\u00b5mol/l)", "umol/l", True),
        ("creatinine_mg_dl", "mg/dl", True),
        ("creatinine_g_dl", "mg/dl", False),
        ("time_min", "minutes", True),
        ("HbA1c [%]", "%", True),
        ("glucose", "mg/dl", False),
    ],
)
def test_the_unit_in_a_header_is_found(header: str, unit: str, says: bool) -> None:
    assert names_unit(header, unit) is says


def test_a_draft_survives_any_text_in_headers_and_cells(tmp_path: Path) -> None:
    generator = random.Random(5)
    characters = "aZ09 .,;\"'\\\t{}=#[]?é\u202f\u00a0\u2028"
    for _ in range(30):
        headers = ["".join(generator.choices(characters, k=12)) + str(number) + "x" for number in range(4)]
        cells = [
            ["".join(generator.choices(characters, k=generator.randrange(5))) for _ in range(4)] for _ in range(12)
        ]
        path = tmp_path / "export.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([headers, *[row for row in cells for _ in range(6)]])
        with suppress(DataError):  # a header that looks like a patient
            assert tomllib.loads(draft_mapping(path, STROKE).text)["task"] == "stroke"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_cell_of_any_column_is_in_a_draft_or_its_error(tmp_path: Path, dialect: str) -> None:
    make, separator, encoding, _ = DIALECTS[dialect]
    with write(tmp_path, make, separator, encoding).open(encoding=encoding, newline="") as file:
        header, *rows = list(csv.reader(file, delimiter=separator))
    for position in range(len(header)):
        spoiled = [[*row[:position], f"Zzyzx{number}", *row[position + 1 :]] for number, row in enumerate(rows)]
        path = tmp_path / "spoiled.csv"
        with path.open("w", encoding=encoding, newline="") as file:
            csv.writer(file, delimiter=separator).writerows([header, *spoiled])

        assert "zzyzx" not in draft_mapping(path, STROKE).text.lower()


def test_a_word_that_usually_means_missing_may_be_a_code(tmp_path: Path) -> None:
    stage = Category("stage", "stage", {0: "none", 1: "first", 9: "unknown"})
    table = pd.DataFrame({"stage": ["none", "first", "unknown", "NA"] * 6, "died": ["y", "n"] * 12})
    other = Category("stage", "stage", {0: "absent", 1: "first"})

    codes = tomllib.loads(draft_of(tmp_path, table, task_of(stage)))["columns"]["stage"]["codes"]
    assert codes == {"none": 0, "first": 1, "unknown": 9, "na": "missing"}
    codes = tomllib.loads(draft_of(tmp_path, table, task_of(other)))["columns"]["stage"]["codes"]
    assert codes == {"none": "?", "first": 1, "unknown": "missing", "na": "missing"}


def test_empty_and_unknown_labels_are_left_open(tmp_path: Path) -> None:
    table = pd.DataFrame({"smoking": ["never", "now"] * 9, "died": ["yes", "", "unknown"] * 6})

    codes = tomllib.loads(draft_of(tmp_path, table, task_of(SMOKING)))["columns"]["died"]["codes"]

    assert codes == {"yes": "?", "": "?", "unknown": "?"}


def test_which_date_an_age_is_on_is_asked_if_the_task_does_not_say(tmp_path: Path) -> None:
    age = Measurement("age", "age", "years", low=0, high=120)
    table = stays()[["birth", "admission", "discharge", "died"]]

    column = tomllib.loads(draft_of(tmp_path, table, task_of(age)))["columns"]["age"]

    assert (column["from"], column["to"]) == ("birth", "?")


def test_dates_are_named_for_another_duration(tmp_path: Path) -> None:
    wait = Measurement("wait", "time from symptoms to admission", "days", low=0, high=120)

    text = draft_of(tmp_path, stays()[["birth", "admission", "discharge", "died"]], task_of(wait))

    assert tomllib.loads(text)["columns"]["wait"]["column"] == "?"
    assert 'two of the dates "birth", "admission", "discharge"' in text


def test_the_sheets_of_a_workbook_are_named(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "Export"
    for row in [["smoking", "died"], *[["never", "y"], ["now", "n"]] * 6]:
        book.active.append(row)
    book.create_sheet("Notes")
    book.save(tmp_path / "export.xlsx")

    text = draft_mapping(tmp_path / "export.xlsx", task_of(SMOKING)).text

    assert tomllib.loads(text)["file"] == {"sheet": "Export", "decimal": "."}
    assert '"Notes"' in text


# Labels of other kinds


def label_draft(folder: Path, label: Label, table: pd.DataFrame) -> tuple[str, dict[str, Any]]:
    text = draft_of(folder, table.assign(age=50, sex=[0, 1] * (len(table) // 2)), task_with(label))
    drafted: dict[str, Any] = tomllib.loads(text)["columns"][label.name]
    return text, drafted


def test_what_the_cells_of_classes_mean_is_left_open_even_if_the_words_match(tmp_path: Path) -> None:
    text, drafted = label_draft(tmp_path, STAGES, pd.DataFrame({"stage": ["none", "mild", "severe", "grim"] * 6}))
    assert drafted == {"column": "stage", "codes": {"none": "?", "mild": "?", "severe": "?", "grim": "?"}}
    (line,) = [line for line in text.splitlines() if '"grim" = "?"' in line]
    assert "0 (none), 1 (mild), 2 (severe)" in line


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("days", {"column": "days", "unit": "?"}),
        ("length of stay (days)", {"column": "length of stay (days)", "unit": "days"}),
        ("unrelated", {"column": "?", "unit": "?"}),
    ],
)
def test_the_unit_of_a_number_is_proposed_only_if_the_header_names_it(
    tmp_path: Path, header: str, expected: dict[str, str]
) -> None:
    table = pd.DataFrame({header: np.arange(24) / 2 + 130})
    text, drafted = label_draft(tmp_path, NumberLabel("days", "length of stay", "days", low=0, high=400), table)
    assert drafted == expected
    assert not [cell for cell in table[header] if str(cell) in text]


@pytest.mark.parametrize(("header", "expected"), [("visits", "visits"), ("unrelated", "?")])
def test_a_count_is_mapped_as_it_stands(tmp_path: Path, header: str, expected: str) -> None:
    assert label_draft(tmp_path, VISITS, pd.DataFrame({header: np.arange(24)}))[1] == {"column": expected}


def test_the_column_of_patients_is_no_candidate_for_another_column(tmp_path: Path) -> None:
    origin = Category("origin", "where the patient came from", codes={0: "home", 1: "ward"})
    task = replace(task_of(origin), patient="patient")
    table = pd.DataFrame({"patient": np.arange(40) // 2, "died": [0, 1] * 20, "came_from": [0, 0, 1, 1] * 10})

    draft = draft_of(tmp_path, table, task)

    assert 'column = "patient"  # proposed: same name' in draft
    assert draft.count('"patient"') == 1
