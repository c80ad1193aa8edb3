"""Drafts of task files: what they propose, what they leave to a person, and that they hold no patient's value."""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from federated_health.data.data_check import check_data
from federated_health.data.exports.column_draft import find_unit
from federated_health.data.exports.plausible_ranges import find_missing_marks, propose_ranges
from federated_health.data.exports.task_draft import draft_task, make_column_name
from federated_health.data.labels import ClassLabel, CountLabel, NumberLabel
from federated_health.data.sources.source import generate_readmission
from federated_health.data.task_files import HEART_DISEASE, READMISSION, parse_task
from federated_health.data.tasks import Task
from federated_health.errors import DataError
from tests.conftest import PROJECT

pytestmark = pytest.mark.usefixtures("in_folder")

EXPORTS = PROJECT / "examples" / "own_question"


def write(table: pd.DataFrame, path: Path = Path("export.csv"), **keywords: Any) -> Path:
    table.to_csv(path, index=False, **keywords)
    return path


def random_table(rows: int = 200, seed: int = 1) -> pd.DataFrame:
    """A measurement that rises with the outcome, a code, and the outcome."""
    generator = np.random.default_rng(seed)
    died = generator.integers(0, 2, rows)
    lab = (generator.normal(100, 15, rows) + 5 * died).round(1)
    return pd.DataFrame({"lab": lab, "ward": generator.integers(1, 4, rows), "died": died})


def draft(path: Path, target: str = "died", **keywords: Any) -> tuple[str, dict[str, Any]]:
    """The text of a draft, and its columns."""
    text = draft_task(path, target, **keywords).text
    return text, tomllib.loads(text)["columns"]


def fill(text: str) -> Task:
    """The task of a draft in which a person has replaced every placeholder."""
    text = re.sub(r'^codes = "\?"', 'codes = { 0 = "a", 1 = "b" }', text, flags=re.MULTILINE)
    text = re.sub(r'^range = "\?"', "range = [-1e9, 1e9]", text, flags=re.MULTILINE)
    return parse_task(text.replace('"?"', '"text"').encode(), "draft.toml")


def reason(text: str, header: str) -> str:
    """Why a draft leaves a column out."""
    (found,) = re.findall(rf"^# - {re.escape(header)}: (.*)", text, re.MULTILINE)
    assert isinstance(found, str)
    return found


def kinds(columns: dict[str, Any]) -> dict[str, str]:
    return {name: "category" if "codes" in table else "measurement" for name, table in columns.items()}


def declared_kinds(task: Task) -> dict[str, str]:
    measurements = {column.name for column in task.measurements}
    return {name: "measurement" if name in measurements else "category" for name in task.column_names}


LEFT_OUT = {1: set(), 2: {"ca"}, 3: {"chol", "ca"}, 4: {"ca"}}
"""Columns of which the real hospitals have hardly any values."""


@pytest.mark.parametrize("number", LEFT_OUT)
def test_columns_of_the_real_hospitals_are_of_the_kinds_that_the_task_declares(
    number: int, hospitals_folder: Path
) -> None:
    text, columns = draft(hospitals_folder / f"client_{number}.csv", "disease")
    expected = {name: kind for name, kind in declared_kinds(HEART_DISEASE).items() if name not in LEFT_OUT[number]}
    assert kinds(columns) == expected
    assert all("missing" in reason(text, name) for name in LEFT_OUT[number])


def test_columns_of_generated_patients_are_of_the_kinds_that_the_task_declares() -> None:
    _, columns = draft(write(generate_readmission(4000, 1).table), "readmitted")
    assert kinds(columns) == declared_kinds(READMISSION)


@pytest.mark.parametrize("number", LEFT_OUT)
def test_a_completed_draft_accepts_its_export_except_for_codes_that_it_does_not_show(
    number: int, hospitals_folder: Path
) -> None:
    path = hospitals_folder / f"client_{number}.csv"
    text, _ = draft(path, "disease")
    check = check_data(path, fill(text))
    invalid = {name for name in check.numbers if check.cells.invalid[name].any()}
    incomplete = set(re.findall(r"\[columns\.(\w+)\]\n.*\n# check: values in fewer than 5 rows", text))
    assert invalid <= incomplete
    assert number != 1 or check.obstacle is None


def test_a_draft_is_not_valid_before_every_placeholder_is_replaced() -> None:
    text, _ = draft(write(random_table()))
    pieces = re.sub(" *#.*", "", text).split('"?"')
    assert len(pieces) == 8  # 3 meanings, 1 unit, 3 codes
    for number in range(1, len(pieces)):
        one_open = '"text"'.join(pieces[:number]) + '"?"' + '"text"'.join(pieces[number:])
        with pytest.raises(DataError, match=r"draft\.toml, line \d+"):
            parse_task(one_open.encode(), "draft.toml")
    assert fill(text).label.name == "died"


def test_the_number_of_open_lines_is_that_of_lines_with_a_placeholder() -> None:
    assert draft_task(write(random_table()), "died").open_lines == 5  # 3 meanings, 1 unit, 1 line of codes


def test_a_german_export_is_read_with_its_separator_decimal_comma_and_encoding() -> None:
    path = EXPORTS / "nordklinik" / "export.csv"
    text, columns = draft(path, "verstorben (30 Tage)", name="stroke")
    head = tomllib.loads(text)
    assert (head["name"], head["patient"]["column"], head["label"]["column"]) == ("stroke", "Pat_Nr", "verstorben")
    assert columns["Geschlecht"]["codes"] == {"0": "m", "1": "w"}
    assert columns["Vorhofflimmern"]["codes"] == {"0": "nein", "1": "ja"}
    assert columns["BZ"]["unit"] == "mmol/l"
    assert columns["Kreatinin"]["unit"] == "µmol/l"
    assert columns["BZ"]["range"][1] < 100  # 6,4 is not 64
    assert "# in the export: frühere Schlaganfälle" in text
    assert '"k.a." mean missing?' in text
    assert "dates" in reason(text, "Geburtsdatum")
    assert reason(text, "Geburtsdatum") == reason(text, "Aufnahmedatum")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_an_export_is_read_however_it_is_written(separator: str, encoding: str) -> None:
    table = random_table().rename(columns={"lab": "Größe"})
    decimal = "." if separator == "," else ","
    text, columns = draft(write(table, sep=separator, encoding=encoding, decimal=decimal))
    assert kinds(columns) == {"Groesse": "measurement", "ward": "category"}
    assert columns["Groesse"]["range"] == [0, 200]
    assert "# in the export: Größe" in text


def test_an_export_may_be_compressed_or_a_workbook_or_parquet(in_folder: Path) -> None:
    expected = kinds(draft(write(random_table()))[1])
    assert kinds(draft(write(random_table(), in_folder / "export.csv.gz"))[1]) == expected
    if find_spec("openpyxl"):
        random_table().to_excel("export.xlsx", index=False)
        assert kinds(draft(Path("export.xlsx"))[1]) == expected
    if find_spec("pyarrow"):
        random_table().to_parquet("export.parquet")
        assert kinds(draft(Path("export.parquet"))[1]) == expected


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (["alive", "dead"], '"alive" and "dead"'),
        ([1, 2], '"1" and "2"'),
        ([True, False], '"false" and "true"'),
        (["no", "yes"], '"no" and "yes"'),
    ],
)
def test_the_direction_of_a_label_is_left_open(values: list[Any], shown: str) -> None:
    table = random_table().replace({"died": dict(enumerate(values))})
    text, _ = draft(write(table))
    label = tomllib.loads(text)["label"]
    assert label == {"column": "died", "meaning": "?"}
    assert shown in text.split("[label]")[1].split("\n\n")[0]


def test_words_of_few_rows_are_not_shown() -> None:
    table = random_table()
    table["ward"] = ["north"] * 120 + ["south"] * 76 + ["Mrs Smith"] * 4
    table.loc[:3, "died"] = 7
    table["died"] = table["died"].map({0: "alive", 1: "alive", 7: "moved to Ghent"})
    text, columns = draft(write(table))
    assert columns["ward"]["codes"] == {"0": "north", "1": "south"}
    assert "fewer than 5 rows" in text
    assert "smith" not in text.lower()
    assert "ghent" not in text.lower()


def test_a_code_between_frequent_ones_is_filled_in_and_an_outer_one_is_not_shown() -> None:
    table = random_table()
    table["ward"] = [0] * 100 + [2] * 90 + [1] * 4 + [4] * 3 + [3] * 3
    text, columns = draft(write(table))
    assert list(columns["ward"]["codes"]) == ["0", "1", "2"]
    assert "add their codes" in text


def random_values(seed: int) -> npt.NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    scale, rows, shift = 10 ** generator.uniform(-3, 6), int(generator.integers(20, 400)), generator.uniform(-9, 9)
    draws = (
        generator.normal(shift, 1.5, rows),
        generator.lognormal(0, 1.2, rows),
        generator.uniform(0, 4, rows) + shift,
    )
    return draws[seed % 3] * scale


def test_neither_the_smallest_nor_the_largest_value_can_be_read_off_a_range() -> None:
    changed = 0
    for seed in range(600):
        values = random_values(seed)
        ranges = propose_ranges(values)
        assert ranges is not None
        low, high = ranges.plausible
        assert not ranges.covers_all or low < values.min() <= values.max() < high
        width = np.subtract(*np.quantile(values, [0.95, 0.05]))
        steps = [digit * 10.0**power for power in range(-9, 12) for digit in (1, 2, 5)]
        for bound in (low, high):  # a multiple of a round number that is coarse against the spread of the values
            assert any(np.isclose(bound / step, round(bound / step)) for step in steps if step > width / 2.6)
            assert bound not in values
        moved = values.copy()  # the same patients, but one of them has a value in the middle, not at the end
        moved[[moved.argmin(), moved.argmax()][seed % 2]] = np.median(values)
        other = propose_ranges(moved)
        assert other is not None
        changed += other.plausible != ranges.plausible
    assert changed < 0.2 * 600  # the range is hardly ever different without the extreme value


def test_a_range_is_what_its_rule_says() -> None:
    values = np.arange(0.0, 101)  # 5 % and 95 % quantiles: 5 and 95; width 90
    ranges = propose_ranges(values)
    assert ranges is not None
    assert ranges == ((0, 200), (0, 100), True)  # 95 + 90 = 185, up to a multiple of 50; medians: of 20
    assert propose_ranges(values - 50) == ((-150, 150), (-60, 60), True)
    skewed = np.append(values, 700.0)  # 95 + 90 * 8 = 815 is the first above 700; a multiple of 500
    assert propose_ranges(skewed) == ((0, 1000), (0, 100), True)
    mistaken = propose_ranges(np.append(values, 1e6))
    assert mistaken == ((0, 200), (0, 100), False)
    assert propose_ranges(values[:19]) is None


def test_numbers_that_may_mean_missing_are_far_from_the_others_and_repeated() -> None:
    usual = np.random.default_rng(1).normal(200, 30, 300).round()
    assert find_missing_marks(np.append(usual, [0] * 9 + [999] * 9 + [-9] * 9), 5) == [0, -9, 999]
    assert find_missing_marks(np.append(usual, [0] * 4 + [999] * 4), 5) == []
    counts = np.repeat([0.0, 1, 2, 3], [400, 60, 20, 8])
    assert find_missing_marks(counts, 5) == []
    assert find_missing_marks(np.append(counts, [-1.0] * 5), 5) == [-1]


def test_missing_value_markers_do_not_widen_the_range() -> None:
    table = random_table()
    clean = draft(write(table))[1]["lab"]
    table.loc[table.index[:8], "lab"] = 999
    table.loc[table.index[8:20], "lab"] = 0
    text, columns = draft(write(table))
    assert columns["lab"]["range"] == clean["range"]
    assert columns["lab"]["zero_is_missing"] is True
    assert "does 999 mean missing?" in text


def test_ages_are_from_0_to_120() -> None:
    table = random_table().rename(columns={"lab": "Alter bei Aufnahme"})
    table["Alter bei Aufnahme"] = (table["Alter bei Aufnahme"] / 2).round()
    assert draft(write(table))[1]["Alter_bei_Aufnahme"]["range"] == [0, 120]


@pytest.mark.parametrize(
    ("name", "key_word"),
    [
        ("note", "different text"),
        ("visit_id", "identifier"),
        ("running", "every row"),
        ("long", "every row"),
        ("constant", "same in every row"),
        ("flag", "not empty"),
        ("empty", "missing in every row"),
        ("rare", "nearly all"),
        ("day", "two dates"),
        ("time", "dates or times"),
        ("hospital", "hospital"),
        ("outcome", "label"),
        ("survived_days", "label"),
        ("cause", "label"),
        ("icd", "12 different texts"),
    ],
)
def test_a_column_that_cannot_be_an_input_is_left_out_with_its_reason(name: str, key_word: str) -> None:
    table = random_table()
    rows, generator = np.arange(len(table)), np.random.default_rng(2)
    table["note"] = [f"patient came by car no {row}" for row in rows]
    table["visit_id"] = [f"V{row * 37 % 997}" for row in rows]
    table["running"] = generator.permutation(rows) + 1000
    table["long"] = generator.permutation(rows * 99_991 + 10**9)
    table["constant"], table["flag"], table["empty"] = "x", np.where(rows % 3, "x", ""), ""
    table["rare"] = np.where(rows < 8, "7", "")
    table["day"] = [f"{row % 28 + 1:02}.{row % 12 + 1:02}.2023" for row in rows]
    table["time"] = [f"{row % 24}:{row % 60:02}" for row in rows]
    table["hospital"] = generator.choice(["a", "b"], len(rows))
    table["outcome"] = table["died"].map({0: "home", 1: "morgue"})
    table["survived_days"] = np.where(table["died"], generator.integers(0, 30, 200), generator.integers(31, 900, 200))
    table["cause"] = np.where(table["died"], generator.choice(["stroke", "other"], 200), "")
    table["icd"] = [f"i{row % 40}.x" for row in rows]
    text, columns = draft(write(table))
    assert key_word in reason(text, name)
    assert set(columns) == {"lab", "ward"}


def test_a_strong_but_imperfect_predictor_stays() -> None:
    table = random_table()
    table["ward"] = np.where(np.arange(200) % 10 == 0, 1 - table["died"], table["died"])  # right in 9 of 10 rows
    assert "ward" in draft(write(table))[1]


def test_repeated_identifiers_become_the_patient_column_and_unique_ones_do_not() -> None:
    table = random_table()
    table["Pat.-Nr."] = np.arange(200) // 2 + 5000
    text, _ = draft(write(table))
    assert tomllib.loads(text)["patient"] == {"column": "Pat_Nr"}
    table["Pat.-Nr."] = np.arange(200) + 5000
    text, _ = draft(write(table))
    assert "patient" not in tomllib.loads(text)
    assert "identifier" in reason(text, "Pat.-Nr.")


@pytest.mark.parametrize(
    ("header", "unit"),
    [
        ("glucose_mmol_l", "mmol/l"),
        ("BZ (mg/dl)", "mg/dl"),
        ("Kreatinin [µmol/l]", "µmol/l"),
        ("RR syst. (mmHg)", "mmHg"),
        ("Délai (h)", "h"),
        ("age_years", "years"),
        ("HbA1c (%)", "%"),
        ("onset_to_door_min", ""),  # or the minimum
        ("died (30 days)", ""),
        ("days", ""),
        ("glucose", ""),
    ],
)
def test_a_unit_is_taken_from_the_header_only(header: str, unit: str) -> None:
    assert find_unit(header) == unit


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("glucose", "glucose"),
        ("BZ (mg/dl)", "BZ"),
        ("frühere Schlaganfälle", "fruehere_Schlaganfaelle"),
        ("Né(e) le", "Ne_e_le"),
        ("1. Wert", "c_1_Wert"),
        ("年齢", ""),
        ("x" * 80, "x" * 60),
    ],
)
def test_a_header_becomes_a_valid_name(header: str, name: str) -> None:
    assert make_column_name(header) == name


def test_names_of_columns_are_different_and_not_reserved() -> None:
    generator = np.random.default_rng(1)
    headers = ["lab", "lab (mg/dl)", "risk", "年齢", "性別", "prediction", 'say "x" # [no]\\']
    table = pd.DataFrame({header: generator.normal(50, 9, 100).round(2) for header in headers})
    table["died"] = generator.integers(0, 2, 100)
    text, columns = draft(write(table))
    assert len(columns) == len(headers)
    assert fill(text).column_names == tuple(columns)
    assert not {"risk", "prediction"} & set(columns)


def awkward_tables() -> dict[str, pd.DataFrame]:
    """Tables that are hard to draft a task from; all but the last four can be."""
    generator = np.random.default_rng(3)
    died = generator.integers(0, 2, 120)
    choices = generator.choice(["a", "b", "c"], 120)
    thousands = [f"{number:,.2f}" for number in generator.normal(250_000, 9000, 120)]
    wide = {f"x{i}": generator.normal(i, 1, 120).round(2) for i in range(300)}
    repeated = pd.DataFrame(generator.normal(0, 1, (120, 3)).round(2), columns=["x", "y", "x"])
    return {
        "no number": pd.DataFrame({"word": choices, "died": died}),
        "300 columns": pd.DataFrame({**wide, "died": died}),
        "unicode headers": pd.DataFrame(
            {"Größe": choices, "体温": generator.normal(37, 1, 120).round(1), "died": died}
        ),
        "duplicate headers": repeated.assign(died=died),
        "one column missing": pd.DataFrame({"x": choices, "nothing": [""] * 120, "died": died}),
        "huge integers": pd.DataFrame({"x": generator.integers(1, 9, 120) * 10**17, "died": died}),
        "thousands": pd.DataFrame({"cost": thousands, "died": died}),
        "few rows": pd.DataFrame({"x": [1.5, 2.5, 4.0], "died": [0, 1, 1]}),
        "missing labels": pd.DataFrame({"x": choices, "died": np.where(np.arange(120) % 5, died.astype(str), "")}),
        "quoted commas": pd.DataFrame({"note, long": choices, "died": died}),
        "all missing": pd.DataFrame({"x": [""] * 120, "died": died}),
        "one row": pd.DataFrame({"x": [1.5], "died": [1]}),
        "no rows": pd.DataFrame({"x": [], "died": []}),
        "only the target": pd.DataFrame({"died": died}),
    }


@pytest.mark.parametrize("name", list(awkward_tables())[:-4])
def test_an_awkward_table_gives_a_draft_that_can_be_completed(name: str) -> None:
    table = awkward_tables()[name]
    text, columns = draft(write(table))
    task = fill(text)
    assert task.label.name == "died"
    assert list(columns) == list(task.column_names)
    if name == "300 columns":
        assert len(columns) == 300
    if name == "thousands":
        assert columns["cost"]["range"][0] > 1000
    if name == "duplicate headers":
        assert list(columns) == ["y"]
    for cell in {str(cell) for header in table for cell in np.ravel(table[header]) if len(str(cell)) > 3}:
        assert cell not in text


@pytest.mark.parametrize("name", list(awkward_tables())[-4:])
def test_a_table_without_anything_to_learn_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"export\.csv: "):
        draft_task(write(awkward_tables()[name]), "died")


def table_of_targets() -> pd.DataFrame:
    days = pd.date_range("2023-01-01", periods=200).strftime("%d.%m.%Y")
    return random_table().assign(same=1, word=[f"word {row % 13}" for row in range(200)], day=days)


@pytest.mark.parametrize(
    ("target", "key_word"),
    [
        ("dead", "did you mean died"),
        ("zzz", "lab, ward, died"),
        ("word", "got 13"),
        ("day", "got 200"),
        ("same", "got 1"),
    ],
)
def test_a_target_that_cannot_be_a_label_is_refused(target: str, key_word: str) -> None:
    with pytest.raises(DataError, match=key_word):
        draft_task(write(table_of_targets()), target)


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"PK\x03\x04abc", b"just text\nand more\n"])
def test_a_file_that_is_no_table_is_refused(content: bytes) -> None:
    Path("export.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"export\.csv"):
        draft_task(Path("export.csv"), "died")


def test_a_draft_is_the_same_for_rows_in_another_order() -> None:
    table = random_table()
    assert draft(write(table)) == draft(write(table.sample(frac=1, random_state=1)))


def test_numbers_and_words_share_a_list_of_codes(in_folder: Path) -> None:
    table = random_table()
    table["ward"] = ["0"] * 80 + ["1"] * 60 + ["2 or more"] * 50 + ["1.5"] * 10
    write(table.sample(frac=1, random_state=1), in_folder / "export.csv")
    _, columns = draft(in_folder / "export.csv")
    assert columns["ward"]["codes"] == {"0": "?", "1": "?", "2": "1.5", "3": "2 or more"}


CELLS = (
    *(
        'a"b',
        "c\\d",
        "é",
        "漢字",
        "\x07",
        "1,5",
        "1.5",
        "-3",
        "1e400",
        "nan",
        "inf",
        "k.A.",
        "?",
        "2024-01-05",
        "12:30",
    ),
    *("0", "1", "9", "999", "-1", "1.000,5", "True", "", "#no", "[x]", '"?"', "1e-320", "9" * 20, "0x10", "²", "½"),
)


def test_tables_of_odd_cells_give_a_valid_draft(in_folder: Path) -> None:
    for seed in range(60):
        generator = np.random.default_rng(seed)
        rows = int(generator.choice([30, 120]))
        table = pd.DataFrame({f"x{i}": generator.choice(CELLS[i : i + 1 + seed % 9], rows) for i in range(len(CELLS))})
        table["lab"], table["died"] = generator.normal(0, 1, rows), np.resize(["ja", "nein"], rows)
        text, _ = draft(write(table, in_folder / "export.csv", sep=";"))
        assert "lab" in fill(text).column_names


def test_no_range_is_proposed_from_a_few_repeated_numbers() -> None:
    """It would show their leading digits."""
    repeated = np.repeat([7_771_231.0, 7_771_232.0, 7_771_233.0], 20)
    assert propose_ranges(repeated) is None
    assert propose_ranges(np.repeat(np.arange(12.0), 5)) is not None


# Labels of other kinds


def label_of(table: pd.DataFrame, target: str) -> tuple[str, dict[str, Any]]:
    """The label's part of a draft, and its table."""
    text = draft_task(write(table), target).text
    return text.split("[label]")[1].split("\n\n")[0], tomllib.loads(text)["label"]


def test_few_codes_become_classes_in_their_order() -> None:
    table = random_table().assign(num=np.arange(200) % 5)
    _, label = label_of(table, "num")
    assert label == {"column": "num", "meaning": "?", "kind": "classes", "codes": dict.fromkeys("01234", "?")}
    text = draft_task(write(table), "num").text
    assert "association" not in text  # which a label of this kind does not allow
    task = parse_task(text.replace('"?"', '"text"').encode(), "draft.toml")
    assert isinstance(task.label, ClassLabel)
    assert task.column_names == ("lab", "ward", "died")


def test_few_words_become_classes_and_rare_ones_are_not_shown() -> None:
    words = ["mild"] * 90 + ["grave"] * 60 + ["absent"] * 47 + ["Mrs Smith"] * 3
    text, label = label_of(random_table().assign(stage=words), "stage")
    assert label["kind"] == "classes"
    assert label["codes"] == {"0": "absent", "1": "grave", "2": "mild"}
    assert "fewer than 5 rows" in text
    assert "mith" not in text


def test_a_word_that_would_be_read_as_missing_is_asked_about() -> None:
    text, label = label_of(random_table().assign(stage=["mild", "none", "grave", "unknown"] * 50), "stage")
    assert "kind" not in label
    assert '"none" and "unknown" would be read as missing' in text


def test_three_values_may_be_two_and_a_marker() -> None:
    text, label = label_of(random_table().assign(stage=[0, 1, 9, 1] * 50), "stage")
    assert label["codes"] == {"0": "?", "1": "?", "9": "?"}
    assert "the label is then binary" in text
    assert "does 9 mean missing?" in text


@pytest.mark.parametrize("header", ["visits", "falls"])
def test_whole_numbers_are_a_count_or_a_number_which_a_person_decides(header: str) -> None:
    visits = np.random.default_rng(1).poisson(3, 200)
    _, label = label_of(random_table().assign(**{header: visits}), header)
    assert label == {"column": header, "meaning": "?", "kind": "?", "unit": "?", "range": [0, 15]}
    text = draft_task(write(random_table().assign(**{header: visits})), header).text
    with pytest.raises(DataError, match=r"label\.meaning"):
        parse_task(text.encode(), "draft.toml")
    count = text.replace('kind = "?"', 'kind = "count"').replace('unit = "?"  # delete this line for a count\n', "", 1)
    assert parse_task(count.replace('"?"', '"text"').encode(), "draft.toml").label == CountLabel(
        header, "text", high=15
    )
    number = text.replace('kind = "?"', 'kind = "number"').replace('"?"', '"text"')
    assert parse_task(number.encode(), "draft.toml").label == NumberLabel(header, "text", "text", low=0, high=15)


def test_other_numbers_are_a_number_whose_range_holds_no_value() -> None:
    table = random_table()
    table["los (days)"] = np.random.default_rng(1).gamma(2, 4, 200).round(2)
    text, label = label_of(table, "los (days)")
    ranges = propose_ranges(table["los (days)"].to_numpy())
    assert ranges is not None
    expected = {"column": "los", "meaning": "?", "kind": "number", "unit": "days", "range": [*ranges.plausible]}
    assert label == expected
    assert not [cell for cell in table["los (days)"] if str(cell) in text.replace("days", "")]
    for change in (table["lab"] - 100, (table["lab"] - 100).round().astype(int), table["lab"].astype(int) + 20_000):
        _, label = label_of(table.assign(change=change), "change")
        assert (label["kind"], label["unit"]) == ("number", "?")
        assert label["range"][0] < change.min()


def test_columns_that_were_recorded_with_the_outcome_are_left_out_for_every_kind() -> None:
    generator = np.random.default_rng(1)
    table = random_table().assign(num=np.arange(200) % 5, los=generator.gamma(2, 4, 200).round(2))
    table["grade"] = table["num"].map(dict(enumerate("abcde")))
    table["cause"] = np.where(table["num"] == 4, "shock", "other")
    table["hours"] = (24 * table["los"] + generator.normal(0, 0.1, 200)).round(2)
    table["half"] = (table["los"] + generator.normal(0, 4, 200)).round(2)  # related, and not the same
    text, columns = draft(write(table), "num")
    assert set(columns) == {"lab", "ward", "died", "los", "hours", "half"}
    assert "label" in reason(text, "grade")
    assert "label" in reason(text, "cause")
    text, columns = draft(write(table), "los")
    assert "label" in reason(text, "hours")
    assert set(columns) == {"lab", "ward", "died", "num", "grade", "cause", "half"}


def test_names_that_the_label_s_kind_reserves_are_not_proposed() -> None:
    table = random_table().assign(num=np.arange(200) % 5).rename(columns={"lab": "expected"})
    assert "expected_2" in draft(write(table), "num")[1]
    assert "expected" in draft(write(table), "died")[1]
