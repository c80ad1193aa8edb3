"""Applying mappings: an export becomes the task's columns, and nothing is applied that the mapping does not state."""

import datetime
import gzip
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated_health.data.columns import Label
from federated_health.data.csv_reading import read_cells
from federated_health.data.data_check import check_data
from federated_health.data.data_check_page import DataCheckPage
from federated_health.data.exports.mappings import completed_years, read_export, read_mapping, whole_days
from federated_health.data.patient_table import read_patients
from federated_health.data.sources.source import Source
from federated_health.data.task_files import HEART_DISEASE, parse_task
from federated_health.errors import DataError
from tests.support.exports import GERMAN, HEADER, ROW, STROKE, mapping_of, write_export, write_mapping
from tests.support.labels import DAYS, STAGES, VISITS, task_with

NAMES = [column.name for column in STROKE.labelled_columns]


def numbers_of(folder: Path, *rows: str, mapping: str = GERMAN, header: str = HEADER) -> pd.DataFrame:
    """The numbers that a valid export of a mapping holds."""
    export = write_export(folder, *rows, header=header)
    return read_patients(export, STROKE, labelled=True, mapping=write_mapping(folder, mapping))[1]


def with_cell(column: str, cell: str) -> str:
    """The row with another cell in one of the export's columns."""
    cells = ROW.split(";")
    cells[HEADER.split(";").index(column)] = cell
    return ";".join(cells)


def refusal(folder: Path, *rows: str, mapping: str = GERMAN, header: str = HEADER) -> DataError:
    with pytest.raises(DataError) as caught:
        numbers_of(folder, *rows, mapping=mapping, header=header)
    assert "\n" not in str(caught.value)
    return caught.value


# What is read


def test_a_row_is_read_as_the_mapping_states(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path, ROW)

    assert list(numbers.columns) == NAMES
    expected = [69.0, 1.0, 5.5 * 18.016, 37.2, 5.0, float("nan"), 0.0]  # the birthday is on the day after admission
    np.testing.assert_array_equal(numbers.to_numpy()[0], expected)


@pytest.mark.parametrize(
    ("column", "cell", "name", "expected"),
    [
        ("Geschlecht", "W", "sex", 0),
        ("Geschlecht", " m ", "sex", 1),
        ("Geschlecht", "d", "sex", None),
        ("Geschlecht", "k.A.", "sex", None),
        ("BZ (mmol/l)", "k.a.", "glucose", None),
        ("BZ (mmol/l)", "-99", "glucose", None),
        ("BZ (mmol/l)", "-99,0", "glucose", None),
        ("BZ (mmol/l)", "NA", "glucose", None),
        ("BZ (mmol/l)", "", "glucose", None),
        ("BZ (mmol/l)", "0", "glucose", None),  # the task reads 0 as missing
        ("BZ (mmol/l)", "+5,", "glucose", 5 * 18.016),
        ("Temp.", "0,0", "temperature", None),  # the column's own mark
        ("Aufnahme", "1.3.2020", "age", 70),
        ("Geb.-Datum", "", "age", None),
        ("Entlassung", "k.A.", "stay", None),
        ("Entlassung", "29.02.2020", "stay", 0),
        ("überlebt?", "NEIN", "died", 1),
    ],
)
def test_a_cell_is_read_as_the_mapping_states(
    tmp_path: Path, column: str, cell: str, name: str, expected: float | None
) -> None:
    number = numbers_of(tmp_path, with_cell(column, cell))[name].iloc[0]

    assert np.isnan(number) if expected is None else number == expected


def test_thousands_are_read_as_the_mapping_states(tmp_path: Path) -> None:
    mapping = GERMAN.replace('unit = "mmol/l"', "")

    assert numbers_of(tmp_path, with_cell("BZ (mmol/l)", "1.234,5"), mapping=mapping)["glucose"].iloc[0] == 1234.5


@pytest.mark.parametrize("space", [" ", "\u00a0", "\u202f"])
def test_a_space_between_thousands_is_any_space(tmp_path: Path, space: str) -> None:
    text = 'task = "stroke"\n[file]\nthousands = " "\ndecimal = ","\nseparator = ";"\n'
    text += "\n".join(f"[columns.{name}]\nabsent = true" for name in NAMES if name not in ("glucose", "died"))
    text += '\n[columns.glucose]\ncolumn = "BZ"\n[columns.died]\ncolumn = "tot"\ncodes = { "1" = 1, "0" = 0 }\n'
    export = write_export(tmp_path, f"1{space}234,5;1,0", header="BZ;tot", encoding="utf-8")
    numbers = read_patients(export, STROKE, labelled=True, mapping=write_mapping(tmp_path, text))[1]

    assert numbers[["glucose", "died"]].to_numpy().tolist() == [[1234.5, 1]]


def test_factor_and_offset_convert(tmp_path: Path) -> None:
    mapping = GERMAN.replace(
        'column = "Temp."', 'column = "Temp."\nfactor = 0.5555555555555556\noffset = -17.77777777777778'
    )

    number = numbers_of(tmp_path, with_cell("Temp.", "98,6"), mapping=mapping)["temperature"].iloc[0]

    assert number == pytest.approx(37.0)


def test_a_recorded_zero_stays_zero_where_the_task_reads_it_as_missing(tmp_path: Path) -> None:
    mapping = GERMAN.replace('unit = "mmol/l"', "factor = 18\noffset = 30")

    cells = read_cells(
        write_export(tmp_path, ROW, with_cell("BZ (mmol/l)", "0")), STROKE, mapping=write_mapping(tmp_path, mapping)
    )

    assert cells.zeros["glucose"] == 1
    assert cells.numbers["glucose"].tolist()[0] == 129
    assert not cells.invalid.any(axis=None)


def test_a_code_table_has_priority_over_missing_value_markers(tmp_path: Path) -> None:
    mapping = GERMAN.replace(
        "[columns.smoking]\nabsent = true",
        '[columns.smoking]\ncolumn = "Bemerkung"\ncodes = { "none" = 0, "" = 1, "k.A." = 2, "-99" = "missing" }',
    )

    rows = [with_cell("Bemerkung", cell) for cell in ("None", "", "k.A.", "-99,0")]
    numbers = numbers_of(tmp_path, *rows, mapping=mapping)["smoking"]

    np.testing.assert_array_equal(numbers, [0, 1, 2, np.nan])


@pytest.mark.parametrize("cell", ["none", "NA", "?", "null"])
def test_beside_a_code_table_only_stated_words_and_empty_cells_are_missing(tmp_path: Path, cell: str) -> None:
    assert "Geschlecht (sex), row 1" in str(refusal(tmp_path, with_cell("Geschlecht", cell)))
    assert np.isnan(numbers_of(tmp_path, with_cell("Geschlecht", ""))["sex"].iloc[0])
    stated = GERMAN.replace('missing = ["k.A.", "-99"]', f'missing = ["{cell}", "k.A.", "-99"]')
    assert np.isnan(numbers_of(tmp_path, with_cell("Geschlecht", cell), mapping=stated)["sex"].iloc[0])


def test_codes_are_compared_as_numbers_if_they_are_numbers(tmp_path: Path) -> None:
    mapping = GERMAN.replace('"m" = 1, "w" = 0, "d" = "missing"', '"1" = 1, "2" = 0')

    rows = [with_cell("Geschlecht", cell) for cell in ("1", "1,0", "02")]

    assert numbers_of(tmp_path, *rows, mapping=mapping)["sex"].tolist() == [1, 1, 0]


def test_without_a_code_table_the_cells_are_the_tasks_codes(tmp_path: Path) -> None:
    mapping = GERMAN.replace('codes = { "m" = 1, "w" = 0, "d" = "missing" }', "")

    assert numbers_of(tmp_path, with_cell("Geschlecht", "1,0"), mapping=mapping)["sex"].tolist() == [1]
    assert "Geschlecht (sex), row 1" in str(refusal(tmp_path, with_cell("Geschlecht", "2"), mapping=mapping))


def test_accents_may_be_composed_or_not(tmp_path: Path) -> None:
    mapping = GERMAN.replace("überlebt?", "u\u0308berlebt?").replace('"nein" = 1', '"ge\u0301storben" = 1')

    assert numbers_of(tmp_path, with_cell("überlebt?", "géstorben"), mapping=mapping)["died"].tolist() == [1]


def test_a_compressed_export_is_read(tmp_path: Path) -> None:
    path = tmp_path / "export.csv.gz"
    path.write_bytes(gzip.compress(write_export(tmp_path, ROW).read_bytes()))

    numbers = read_patients(path, STROKE, labelled=True, mapping=write_mapping(tmp_path))[1]

    pd.testing.assert_frame_equal(numbers, numbers_of(tmp_path, ROW))


def test_without_a_quote_each_character_counts(tmp_path: Path) -> None:
    mapping = GERMAN.replace('separator = ";"', 'separator = ";"\nquote = ""')

    assert numbers_of(tmp_path, with_cell("Bemerkung", '"12 Zoll'), mapping=mapping)["sex"].tolist() == [1]


def test_patients_are_those_of_the_identifiers(tmp_path: Path) -> None:
    task = replace(STROKE, patient="patient")
    mapping = write_mapping(tmp_path, GERMAN + '\n[columns.patient]\ncolumn = "Bemerkung"\n')
    rows = [with_cell("Bemerkung", cell) for cell in ("P7", "P8", " P7 ")]

    patients = read_cells(write_export(tmp_path, *rows), task, mapping=mapping).patients
    assert patients is not None
    assert patients[0] == patients[2] != patients[1]
    export = write_export(tmp_path, *rows, with_cell("Bemerkung", "-99"))
    with pytest.raises(DataError, match=r"column Bemerkung \(patient\), row 4"):
        read_patients(export, task, labelled=True, mapping=mapping)
    with pytest.raises(DataError, match=r"\[columns.patient\]"):
        read_cells(export, task, mapping=write_mapping(tmp_path))


def test_headers_may_have_spaces_and_line_breaks(tmp_path: Path) -> None:
    header = HEADER.replace("BZ (mmol/l)", '" BZ\r\n (mmol/l)"')

    assert numbers_of(tmp_path, ROW, header=header)["glucose"].tolist() == [5.5 * 18.016]


def test_of_two_columns_with_one_header_the_mapping_names_one(tmp_path: Path) -> None:
    header = HEADER.replace("Bemerkung", "Temp.")
    row = with_cell("Bemerkung", "38,1")

    error = refusal(tmp_path, row, header=header)
    assert "Temp. 2 times" in str(error)
    assert "occurrence = 1" in str(error)
    second = GERMAN.replace('column = "Temp."', 'column = { name = "Temp.", occurrence = 2 }')
    assert numbers_of(tmp_path, row, header=header, mapping=second)["temperature"].tolist() == [38.1]
    third = second.replace("occurrence = 2", "occurrence = 3")
    assert "lacks the column Temp. 3 times" in str(refusal(tmp_path, row, header=header, mapping=third))


def test_an_unused_header_may_be_there_twice(tmp_path: Path) -> None:
    assert len(numbers_of(tmp_path, f"{ROW};x", header=f"{HEADER};Bemerkung")) == 1


def test_the_columns_of_dates_may_have_different_formats(tmp_path: Path) -> None:
    mapping = GERMAN.replace('to = "Aufnahme"\n', 'to = "Aufnahme"\nto_format = "%Y-%m-%dT%H:%M"\n')
    mapping = mapping.replace('from = "Aufnahme"\n', 'from = "Aufnahme"\nfrom_format = "%Y-%m-%dT%H:%M"\n')

    numbers = numbers_of(tmp_path, with_cell("Aufnahme", "2020-03-01T23:59"), mapping=mapping)

    assert numbers[["age", "stay"]].to_numpy().tolist() == [[70, 4]]  # the time of day is dropped


def test_days_may_be_converted(tmp_path: Path) -> None:
    mapping = GERMAN.replace('unit = "years"', 'unit = "days"\nfactor = 0.002737850787132101')

    assert numbers_of(tmp_path, ROW, mapping=mapping)["age"].iloc[0] == pytest.approx(25567 / 365.25)


def test_completed_years_and_days_equal_those_of_the_calendar() -> None:
    generator = random.Random(4)
    first = datetime.date(1900, 1, 1).toordinal()
    pairs = [(generator.randrange(60_000), generator.randrange(60_000)) for _ in range(3000)]
    pairs += [(21_973, 21_973 + 365 * years + shift) for years in range(40) for shift in range(-3, 14)]  # 29 February
    dates = [(datetime.date.fromordinal(first + a), datetime.date.fromordinal(first + b)) for a, b in pairs]
    start, end = (np.array([pair[i] for pair in dates], dtype="datetime64[D]") for i in (0, 1))

    years = [b.year - a.year - ((b.month, b.day) < (a.month, a.day)) for a, b in dates]

    assert completed_years(start, end).tolist() == years
    assert whole_days(start, end).tolist() == [(b - a).days for a, b in dates]


def test_two_hospitals_may_be_told_apart_and_patients_named(tmp_path: Path) -> None:
    mapping = mapping_of(tmp_path, GERMAN + '\n[columns.hospital]\ncolumn = "Bemerkung"\n')

    table = mapping.read(write_export(tmp_path, with_cell("Bemerkung", " Haus Nord "), with_cell("Bemerkung", "k.A.")))

    assert table["hospital"].tolist() == ["Haus Nord", ""]


# What is refused


@pytest.mark.parametrize(
    ("column", "cell", "title", "rule"),
    [
        ("Geschlecht", "x", "Geschlecht (sex)", "one of m, w, d, or a missing-value marker"),
        ("Geschlecht", "1", "Geschlecht (sex)", "one of m, w, d, or a missing-value marker"),
        ("BZ (mmol/l)", "5.5", "BZ (mmol/l) (glucose)", "converted from mmol/l"),
        ("BZ (mmol/l)", "1.2345", "BZ (mmol/l) (glucose)", "converted from mmol/l"),
        ("BZ (mmol/l)", "5,5 mmol", "BZ (mmol/l) (glucose)", "converted from mmol/l"),
        ("BZ (mmol/l)", "99", "BZ (mmol/l) (glucose)", "from 20 to 1500"),
        ("Temp.", "98", "Temp. (temperature)", "from 25 to 45"),
        ("Temp.", "inf", "Temp. (temperature)", "from 25 to 45"),
        ("Geb.-Datum", "31.02.1950", "Geb.-Datum to Aufnahme (age)", "%d.%m.%Y"),
        ("Geb.-Datum", "01.03.50", "Geb.-Datum to Aufnahme (age)", "%d.%m.%Y"),
        ("Geb.-Datum", "1950-03-01", "Geb.-Datum to Aufnahme (age)", "%d.%m.%Y"),
        ("Geb.-Datum", "01.03.1850", "Geb.-Datum to Aufnahme (age)", "from 0 to 120"),
        ("Entlassung", "01.01.2020", "Aufnahme to Entlassung (stay)", "from 0 to 365"),
        ("überlebt?", "vielleicht", "überlebt? (died)", "one of ja, nein"),
        ("überlebt?", "", "überlebt? (died)", "one of ja, nein"),
        ("überlebt?", "k.A.", "überlebt? (died)", "one of ja, nein"),
    ],
)
def test_an_invalid_cell_is_named_as_in_the_export(
    tmp_path: Path, column: str, cell: str, title: str, rule: str
) -> None:
    error = refusal(tmp_path, ROW, with_cell(column, cell), ROW)

    assert f"column {title}, row 2: expected " in str(error)
    assert rule in str(error)
    name = title.rpartition("(")[2].rstrip(")")
    assert f"its column {name} " in error.reason
    assert column.split(".")[0] not in error.reason  # the server learns no header


def test_a_missing_column_is_named_with_the_mapping(tmp_path: Path) -> None:
    error = refusal(tmp_path, ROW, header=HEADER.replace("Temp.", "Temperatur"))

    assert "lacks the column Temp." in str(error)
    assert "temperature" in str(error)
    assert "mapping.toml" in str(error)
    assert error.reason == "its file lacks the column temperature"


def test_an_absent_column_is_missing_in_every_row(tmp_path: Path) -> None:
    check = check_data(write_export(tmp_path, *[ROW] * 3), STROKE, write_mapping(tmp_path))

    assert check.numbers["smoking"].isna().all()
    assert any("smoking is missing in every row" in warning for warning in check.warnings)


def test_a_check_names_columns_as_the_export_does(tmp_path: Path) -> None:
    check = check_data(write_export(tmp_path, ROW, with_cell("Geschlecht", "q")), STROKE, write_mapping(tmp_path))

    findings = DataCheckPage(check).findings()

    assert "mapping.toml" in findings[0]
    assert any(line.startswith("Geschlecht (sex) must be one of m, w, d") and "row 2" in line for line in findings)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    assert "no patients" in str(refusal(tmp_path))


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    export, mapping = write_export(tmp_path, ROW), write_mapping(tmp_path, GERMAN.replace("cp1252", "utf-8"))

    with pytest.raises(DataError):
        read_patients(export, STROKE, labelled=True, mapping=mapping)


@pytest.mark.parametrize(("key", "stated"), [("encoding", 'encoding = "cp1252"'), ("separator", 'separator = ";"')])
def test_a_mapping_that_states_no_dialect_is_itself_what_to_correct(tmp_path: Path, key: str, stated: str) -> None:
    export = write_export(tmp_path, ROW, encoding="cp1252" if key == "encoding" else "utf-8")
    text = GERMAN.replace('encoding = "cp1252"\n', "").replace(f"{stated}\n", "")
    with pytest.raises(DataError, match=f"correct the mapping's {key}") as caught:
        mapping_of(tmp_path, text).read(export)
    assert "mapping draft" not in str(caught.value)  # which would replace the mapping


def test_no_cell_of_the_export_is_in_an_error(tmp_path: Path) -> None:
    marker = "Zzyzx"
    for cell in (marker, f"{marker} 5,5", f"5,{marker}", f"01.02.{marker}", f'"{marker};{marker}"', f'"{marker}\n5"'):
        for column in HEADER.split(";")[:-1]:
            error = refusal(tmp_path, *[ROW] * 3, with_cell(column, cell))
            assert marker not in str(error)
            assert marker not in error.reason
        all_cells = ";".join([cell] * 8)
        for rows in ([all_cells] * 9, [ROW, f"{all_cells};1"], [all_cells[:-1]], [f'"{all_cells}']):
            error = refusal(tmp_path, *rows)
            assert marker not in str(error)
        error = refusal(tmp_path, all_cells, header=all_cells)  # a file without a header
        assert marker not in str(error)
        assert marker not in error.reason


# New patients


def test_new_patients_need_no_label(tmp_path: Path) -> None:
    export = write_export(tmp_path, *(row.rpartition(";ja")[0] for row in [ROW] * 2), header=HEADER.split(";über")[0])

    table, numbers, file_format = read_export(export, STROKE, write_mapping(tmp_path))

    assert list(table.columns) == HEADER.split(";")[:6]
    assert (file_format.separator, file_format.decimal) == (";", ",")
    assert list(numbers.columns) == NAMES[:-1]
    assert table["BZ (mmol/l)"].astype(str).tolist() == ["5,5", "5,5"]


def test_an_invalid_cell_of_a_new_patient_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Geschlecht"):
        read_export(write_export(tmp_path, with_cell("Geschlecht", "q")), STROKE, write_mapping(tmp_path))


# Any dialect


def write_dialect(table: pd.DataFrame, folder: Path, choose: random.Random) -> tuple[Path, Path]:
    """Write rows of the heart disease table in a random dialect, with its mapping."""
    separator = choose.choice([";", "\t", "|", ","])
    decimal = choose.choice([",", "."])
    encoding = choose.choice(["utf-8", "cp1252", "utf-16"])
    missing = choose.choice(["", "k.A.", "-99", "fehlt"])
    lines = [
        'task = "heart-disease"',
        "[file]",
        f'separator = "{separator}"'.replace("\t", "\\t"),
        f'decimal = "{decimal}"',
        f'encoding = "{encoding}"',
        f'missing = ["{missing}"]',
    ]
    columns: dict[str, list[str]] = {}
    for column in HEART_DISEASE.labelled_columns:
        header = f"{choose.choice(['Größe', 'é', 'Wert', 'x y'])} {column.name.upper()} {choose.randrange(99)}"
        lines += [f"[columns.{column.name}]", f'column = "{header}"']
        codes = getattr(column, "codes", {0: "no", 1: "yes"} if column is HEART_DISEASE.label else {})
        words = {code: f"{choose.choice('abcdef')}ü{code}" for code in codes}
        if codes:
            entries = ", ".join(f'"{word.upper()}" = {code}' for code, word in words.items())
            lines.append(f"codes = {{ {entries} }}")
        columns[header] = [
            missing if np.isnan(number) else words.get(int(number), f"{number:.15g}".replace(".", decimal))
            for number in table[column.name]
        ]
    order = choose.sample(list(columns), len(columns))
    export, mapping = folder / "export.csv", folder / "mapping.toml"
    pd.DataFrame(columns)[order].to_csv(export, sep=separator, index=False, encoding=encoding)
    mapping.write_text("\n".join(lines), encoding="utf-8")
    return export, mapping


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dialects")


@pytest.fixture(scope="module")
def patients_table(uci: Source) -> pd.DataFrame:
    return uci.table


@given(seed=st.integers(0, 2**32))
def test_a_table_in_any_dialect_is_read_back_equal(folder: Path, patients_table: pd.DataFrame, seed: int) -> None:
    choose = random.Random(seed)
    rows = patients_table.sample(20, random_state=seed % 2**32).reset_index(drop=True)
    export, mapping = write_dialect(rows, folder, choose)

    numbers = read_patients(export, HEART_DISEASE, labelled=True, mapping=mapping)[1]

    pd.testing.assert_frame_equal(numbers, rows[list(numbers.columns)].astype(float), check_exact=True)


def test_a_wrong_decimal_mark_is_named_and_not_the_number(tmp_path: Path) -> None:
    mapping = GERMAN.replace('decimal = ","', 'decimal = "."').replace('thousands = "."', 'thousands = ""')
    mapping = mapping.replace('thousands = ""\n', "")
    error = str(refusal(tmp_path, ROW, mapping=mapping))
    assert "BZ (mmol/l) (glucose), row 1" in error
    assert "correct the mapping's decimal" in error
    assert "5,5" not in error


def test_a_mapping_of_another_export_is_suggested_as_the_cause(tmp_path: Path) -> None:
    export = write_export(tmp_path, ROW)
    export.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="the mapping of this export"):
        mapping_of(tmp_path).read(export)


def test_the_greek_mu_and_the_micro_sign_are_one_unit(tmp_path: Path) -> None:
    signs = ("\u03bc", "\u00b5")
    head, label = 'name = "x"\n', 'label = { column = "y", meaning = "y" }\n'
    column = '[columns.a]\nmeaning = "a"\nunit = "{0}mol/l"\nrange = [0, 9]\n'
    unit = 'other_units = {{ "{0}g/l" = {{ factor = 2 }} }}\n'
    texts = (head + label + (column + unit).format(sign) for sign in signs)
    greek, micro = (parse_task(text.encode(), "x.toml") for text in texts)
    assert greek.agreement == micro.agreement
    codes = '[columns.y]\ncolumn = "y"\ncodes = { 0 = 0, 1 = 1 }\n'
    for sign in signs:
        mapping = f'task = "x"\n[columns.a]\ncolumn = "a"\nunit = "{sign}g/l"\n{codes}'
        assert read_mapping(write_mapping(tmp_path, mapping), greek).content.columns["a"].factor == 2


# Labels of other kinds

LABEL_MAPPING = """\
task = "small"

[file]
separator = ";"
decimal = ","
date_format = "%d.%m.%Y"

[columns.age]
column = "Age"

[columns.sex]
column = "Sex"

"""


def labels_of(folder: Path, label: Label, lines: str, *cells: str, header: str = "Label") -> list[float]:
    export = write_export(folder, *(f"63;1;{cell}" for cell in cells), header=f"Age;Sex;{header}")
    mapping = write_mapping(folder, f"{LABEL_MAPPING}[columns.{label.name}]\n{lines}\n")
    return [float(x) for x in read_patients(export, task_with(label), labelled=True, mapping=mapping)[1][label.name]]


def test_labels_of_each_kind_are_read_as_the_mapping_states(tmp_path: Path) -> None:
    codes = 'column = "Label"\ncodes = { "keine" = 0, "leicht" = 1, "schwer" = 2, "9" = 2 }'
    assert labels_of(tmp_path, STAGES, codes, "Keine", "schwer", "leicht", "9") == [0, 2, 1, 2]
    hours = 'column = "Label"\nfactor = 0.25'
    assert labels_of(tmp_path, DAYS, hours, "2", "0,5") == [0.5, 0.125]
    assert labels_of(tmp_path, VISITS, 'column = "Label"', "0", "12,0") == [0, 12]
    dates = 'from = "In"\nto = "Out"\nunit = "days"'
    assert labels_of(tmp_path, DAYS, dates, "01.02.2024;01.03.2024", "01.02.2024;01.02.2024", header="In;Out") == [
        29,
        0,
    ]


@pytest.mark.parametrize(
    ("label", "lines", "cell", "rule"),
    [
        (STAGES, 'column = "Label"\ncodes = { "keine" = 0, "schwer" = 2 }', "mittel", "one of keine, schwer"),
        (STAGES, 'column = "Label"\ncodes = { "keine" = 0, "schwer" = 2 }', "", "one of keine, schwer"),
        (DAYS, 'column = "Label"\nfactor = 10', "41,5", "0 to 400 (days), when converted"),
        (DAYS, 'column = "Label"', "lang", "0 to 400 (days)"),
        (VISITS, 'column = "Label"', "1,5", "a whole number from 0 to 200"),
    ],
)
def test_a_label_that_a_mapping_does_not_cover_is_named_without_its_cell(
    tmp_path: Path, label: Label, lines: str, cell: str, rule: str
) -> None:
    with pytest.raises(DataError) as caught:
        labels_of(tmp_path, label, lines, cell)
    message = str(caught.value).removeprefix(str(tmp_path))
    assert f"column Label ({label.name}), row 1: expected " in message
    assert rule in message
    assert not cell or cell not in message
