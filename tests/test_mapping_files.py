"""Mapping files: what each key means, and that each mistake is refused in one line with the file and the line."""

from pathlib import Path

import pytest

from federated_health.data.columns import Label, Measurement
from federated_health.data.exports.mapping_rules import DatePair, FileFormat, HeaderCell, date_pattern, is_date_format
from federated_health.data.exports.mappings import read_mapping
from federated_health.data.tasks import Task
from federated_health.errors import DataError
from tests.support.exports import GERMAN, LINES, STROKE, mapping_of, write_mapping
from tests.support.labels import DAYS, STAGES, VISITS, task_with


def refusal(folder: Path, text: str) -> tuple[int | None, str]:
    """Line and problem of the error about a mapping."""
    path = write_mapping(folder, text)
    with pytest.raises(DataError) as caught:
        read_mapping(path, STROKE)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) not in caught.value.reason  # which the server receives
    where, _, problem = message.removeprefix(str(path)).partition(": ")
    return int(where.removeprefix(", line ")) if where else None, problem


def test_every_part_of_a_mapping_is_read(tmp_path: Path) -> None:
    content = mapping_of(tmp_path).content

    assert content.format == FileFormat(
        separator=";",
        encoding="cp1252",
        decimal=",",
        thousands=".",
        missing=frozenset({"k.a.", "-99"}),
        date_format="%d.%m.%Y",
    )
    columns = content.columns
    day = "%d.%m.%Y"
    assert columns["age"].dates == DatePair(HeaderCell("Geb.-Datum"), HeaderCell("Aufnahme"), day, day, "years")
    assert columns["sex"].source == HeaderCell("Geschlecht")
    assert columns["sex"].codes == {"m": "1", "w": "0", "d": ""}
    assert (columns["glucose"].unit, columns["glucose"].factor, columns["glucose"].offset) == ("mmol/l", 18.016, 0)
    assert columns["temperature"].missing == {"0"}
    assert columns["smoking"].is_absent
    assert columns["died"].codes == {"ja": "0", "nein": "1"}


def test_a_mapping_may_leave_out_what_the_file_does_not_need(tmp_path: Path) -> None:
    columns = "\n".join(f'[columns.{column.name}]\ncolumn = "{column.name}"' for column in STROKE.labelled_columns)
    text = f'task = "stroke"\n{columns}\ncodes = {{ 0 = 0, 1 = 1 }}'

    content = mapping_of(tmp_path, text).content

    assert content.format == FileFormat()
    assert content.columns["sex"].codes is None
    assert (content.columns["age"].factor, content.columns["age"].offset) == (1, 0)


@pytest.mark.parametrize(
    ("line", "other", "words"),
    [
        pytest.param('task = "stroke"', 'task = "heart-disease"', '"stroke"', id="another task"),
        pytest.param('separator = ";"', 'separator = ";;"', "one character", id="two separators"),
        pytest.param('separator = ";"', "separator = 1", "one character", id="a separator that is a number"),
        pytest.param('separator = ";"', 'seperator = ";"', "unknown key", id="unknown key of the file"),
        pytest.param('decimal = ","', 'decimal = ";"', '"." or ","', id="decimal mark"),
        pytest.param('thousands = "."', 'thousands = ","', "decimal mark", id="thousands as the decimal mark"),
        pytest.param('encoding = "cp1252"', 'encoding = "windows"', "encoding", id="unknown encoding"),
        pytest.param('encoding = "cp1252"', 'encoding = "base64"', "encoding", id="no encoding of text"),
        pytest.param('missing = ["k.A.", "-99"]', "missing = [-99]", "texts in quotes", id="marks that are numbers"),
        pytest.param('date_format = "%d.%m.%Y"', 'date_format = "%d.%m.%y"', "%Y", id="years of two digits"),
        pytest.param('date_format = "%d.%m.%Y"', 'date_format = "dd.mm.yyyy"', "%Y", id="no directives"),
        pytest.param("[columns.sex]", "[columns.gender]", "is not a column", id="a column that the task does not have"),
        pytest.param('column = "Geschlecht"', "column = 4", "header", id="a column by its number"),
        pytest.param('column = "Geschlecht"', 'column = ""', "header", id="no column"),
        pytest.param('column = "Geschlecht"', 'columm = "Geschlecht"', "unknown key", id="unknown key of a column"),
        pytest.param('column = "Geschlecht"', 'column = { name = "x" }', "occurrence", id="no occurrence"),
        pytest.param('column = "Geschlecht"', 'column = { name = "x", occurrence = 0 }', "occurrence", id="the 0th"),
        pytest.param('column = "BZ (mmol/l)"', 'column = "?"', "replace", id="a column that is open"),
        pytest.param('unit = "mmol/l"', 'unit = "g/l"', "mg/dl, mmol/l", id="a unit that the task does not know"),
        pytest.param('unit = "mmol/l"', 'unit = "?"', "replace", id="a unit that is open"),
        pytest.param('unit = "mmol/l"', 'unit = "mmol/l"\nfactor = 18', "either unit", id="unit and factor"),
        pytest.param('unit = "mmol/l"', "factor = 0", "other than 0", id="factor 0"),
        pytest.param('unit = "mmol/l"', 'factor = "18"', "a number", id="a factor that is text"),
        pytest.param('unit = "mmol/l"', "offset = inf", "a number", id="an infinite offset"),
        pytest.param('unit = "mmol/l"', 'codes = { "low" = 1 }', "unknown key", id="codes of a measurement"),
        pytest.param('missing = ["0"]', 'missing = "?"', "replace", id="marks that are open"),
        pytest.param('unit = "days"', 'unit = "weeks"', "years, days", id="unit of a duration"),
        pytest.param('unit = "years"', 'unit = "days"', "factor", id="a duration in another unit than the task's"),
        pytest.param('to = "Entlassung"', 'to_format = "%Y-%m-%d"', "lacks to", id="one date"),
        pytest.param('unit = "days"', 'unit = "days"\ncolumn = "Tage"', "either column", id="column and dates"),
        pytest.param("absent = true", "absent = false", "true", id="absent as false"),
        pytest.param("absent = true", 'absent = true\ncolumn = "x"', "no other key", id="absent, but with a column"),
        pytest.param(
            'codes = { "m" = 1, "w" = 0, "d" = "missing" }',
            'codes = { "m" = 1, "w" = 2 }',
            "0 (female)",
            id="no such code",
        ),
        pytest.param('codes = { "m" = 1, "w" = 0, "d" = "missing" }', 'codes = { "m" = "1" }', "0 (female)", id="text"),
        pytest.param(
            'codes = { "m" = 1, "w" = 0, "d" = "missing" }', 'codes = { "m" = true }', "0 (female)", id="true"
        ),
        pytest.param(
            'codes = { "m" = 1, "w" = 0, "d" = "missing" }', 'codes = { "m" = "?" }', "replace", id="open code"
        ),
        pytest.param('codes = { "m" = 1, "w" = 0, "d" = "missing" }', 'codes = "m"', "a table", id="no table"),
        pytest.param('codes = { "m" = 1, "w" = 0, "d" = "missing" }', "codes = {}", "at least one", id="no codes"),
        pytest.param(
            'codes = { "m" = 1, "w" = 0, "d" = "missing" }', 'codes = { "m" = 1, "M" = 0 }', "ambiguous", id="m and M"
        ),
        pytest.param(
            'codes = { "m" = 1, "w" = 0, "d" = "missing" }',
            'codes = { "1" = 1, "1,0" = 0 }',
            "ambiguous",
            id="1 and 1,0",
        ),
        pytest.param(
            'codes = { "m" = 1, "w" = 0, "d" = "missing" }',
            'codes = { "m" = 1, "w" = 0 }\nmissing = ["W"]',
            "ambiguous",
            id="a code that is missing, too",
        ),
        pytest.param('codes = { "ja" = 0, "nein" = 1 }', 'codes = { "ja" = 0, "nein" = 2 }', "0, 1", id="label 2"),
        pytest.param('codes = { "ja" = 0, "nein" = 1 }', 'codes = { "ja" = 0 }', "one that means 0", id="one class"),
        pytest.param(
            'codes = { "ja" = 0, "nein" = 1 }', 'codes = { "ja" = 0, "nein" = "missing" }', "0, 1", id="missing label"
        ),
        pytest.param('codes = { "ja" = 0, "nein" = 1 }', "absent = true", "unknown key", id="absent label"),
        pytest.param('codes = { "ja" = 0, "nein" = 1 }', 'missing = ["ja"]', "unknown key", id="marks of the label"),
        pytest.param('task = "stroke"', 'task = "stroke', "not valid TOML", id="not TOML"),
        pytest.param('column = "Geschlecht"', 'column = "a"\ncolumn = "b"', "not valid TOML", id="a key twice"),
    ],
)
def test_a_mistake_is_refused_with_its_line(tmp_path: Path, line: str, other: str, words: str) -> None:
    assert GERMAN.count(f"{line}\n") == 1

    number, problem = refusal(tmp_path, GERMAN.replace(f"{line}\n", f"{other}\n"))

    assert words in problem
    assert number in range(LINES[line] - 2, LINES[line] + 2)  # the key's own line, or that of its table


def test_the_line_is_that_of_the_key(tmp_path: Path) -> None:
    number, problem = refusal(tmp_path, GERMAN.replace('"w" = 0', '"w" = 7'))

    assert number == LINES['codes = { "m" = 1, "w" = 0, "d" = "missing" }']
    assert problem.startswith("columns.sex.codes.w: ")


@pytest.mark.parametrize(
    "line", ['codes = { "ja" = 0, "nein" = 1 }', 'column = "überlebt?"', 'unit = "days"', 'task = "stroke"']
)
def test_what_is_required_may_not_be_left_out(tmp_path: Path, line: str) -> None:
    _, problem = refusal(tmp_path, GERMAN.replace(line, ""))

    assert "lacks" in problem


def test_a_date_pair_needs_a_format(tmp_path: Path) -> None:
    number, problem = refusal(tmp_path, GERMAN.replace('date_format = "%d.%m.%Y"', ""))

    assert "from_format" in problem
    assert number == LINES["[columns.age]"]


def test_a_column_of_the_task_may_not_be_left_out(tmp_path: Path) -> None:
    text = GERMAN.replace("[columns.smoking]\nabsent = true\n", "")

    number, problem = refusal(tmp_path, text)

    assert "[columns.smoking]" in problem
    assert "absent = true" in problem
    assert number == len(text.splitlines())


def test_unknown_tables_are_refused(tmp_path: Path) -> None:
    number, problem = refusal(tmp_path, GERMAN + "\n[options]\nfast = true\n")

    assert "unknown key" in problem
    assert number == len(GERMAN.splitlines()) + 2


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_mapping(tmp_path / "none.toml", STROKE)


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ("%d.%m.%Y", True),
        ("%Y-%m-%dT%H:%M:%S", True),
        ("%d %b %Y", True),
        ("%Y%m%d", True),
        ("%m/%Y", False),
        ("%d/%m/%m/%Y", False),
        ("%d.%m.%Y%", False),
        ("%x", False),
        ("", False),
    ],
)
def test_a_date_format_has_a_day_a_month_and_a_year_of_four_digits(text: str, is_valid: bool) -> None:
    assert is_date_format(text) is is_valid


@pytest.mark.parametrize(
    ("date_format", "cell", "matches"),
    [
        ("%d.%m.%Y", "1.2.2020", True),
        ("%d.%m.%Y", "01.02.20", False),
        ("%d.%m.%Y", "01.02.2020 10:00", False),
        ("%Y%m%d", "20200102", True),
        ("%Y%m%d", "2020102", False),  # 1 October or 2 January
        ("%d %b %Y", "1 mär 2020", True),
    ],
)
def test_a_date_has_the_form_of_its_format(date_format: str, cell: str, matches: bool) -> None:
    assert (date_pattern(date_format).fullmatch(cell) is not None) is matches


def test_the_label_s_column_is_no_input(tmp_path: Path) -> None:
    for header in ('"überlebt?"', '{ name = "überlebt?", occurrence = 1 }'):
        line, problem = refusal(tmp_path, GERMAN.replace('column = "Temp."', f"column = {header}"))
        assert line == LINES["[columns.temperature]"]
        assert "label" in problem


def test_numbers_that_calculations_cannot_hold_are_refused(tmp_path: Path) -> None:
    for number in ("1" + "0" * 400, "0x" + "F" * 5000, "1e300"):
        line, problem = refusal(tmp_path, GERMAN.replace('unit = "mmol/l"', f"factor = {number}"))
        assert line == LINES['unit = "mmol/l"']
        assert len(problem) < 300


def test_quote_and_separator_are_different_characters(tmp_path: Path) -> None:
    line, problem = refusal(tmp_path, GERMAN.replace('separator = ";"', 'separator = ";"\nquote = ";"'))
    assert line == LINES['separator = ";"'] + 1
    assert "separator" in problem


def test_the_task_s_own_unit_is_never_converted(tmp_path: Path) -> None:
    glucose = Measurement("glucose", "glucose", "mg/dl", low=20, high=1500, other_units={"mg/dl": (18, 0)})
    task = Task(name="stroke", columns=(glucose,), label=Label("died", "died"))
    text = """task = "stroke"
[columns.glucose]
column = "BZ"
unit = "mg/dl"
[columns.died]
column = "died"
codes = { ja = 1, nein = 0 }"""
    assert mapping_of(tmp_path, text, task).content.columns["glucose"].factor == 1


def test_a_single_missing_value_marker_needs_no_brackets(tmp_path: Path) -> None:
    text = GERMAN.replace('missing = ["k.A.", "-99"]', 'missing = "k.A."')
    assert mapping_of(tmp_path, text).content.format.missing == {"k.a."}


def test_the_error_of_another_task_names_the_flags_that_name_a_task(tmp_path: Path) -> None:
    _, problem = refusal(tmp_path, GERMAN.replace('task = "stroke"', 'task = "falls"'))
    assert "--task-file" in problem
    assert "'falls'" in problem


# Labels of other kinds


def label_mapping(label: Label, lines: str) -> str:
    columns = '[columns.age]\ncolumn = "Age"\n\n[columns.sex]\ncolumn = "Sex"\n\n'
    return f'task = "small"\n\n{columns}[columns.{label.name}]\n{lines}\n'


@pytest.mark.parametrize(
    ("label", "lines", "expected"),
    [
        (STAGES, 'column = "S"\ncodes = { "I" = 1, "II" = 2, "III" = 2 }', {"i": "1", "ii": "2", "iii": "2"}),
        (DAYS, 'column = "H"\nfactor = 0.25\noffset = 1', (0.25, 1)),
        (DAYS, 'column = "D"\nunit = "days"', (1, 0)),
        (VISITS, 'column = "V"', (1, 0)),
    ],
)
def test_a_label_of_each_kind_is_mapped(tmp_path: Path, label: Label, lines: str, expected: object) -> None:
    mapped = mapping_of(tmp_path, label_mapping(label, lines), task_with(label)).content.columns[label.name]
    assert (mapped.codes or (mapped.factor, mapped.offset)) == expected


@pytest.mark.parametrize(
    ("label", "lines", "line", "words"),
    [
        (STAGES, 'column = "S"', 9, "lacks codes"),
        (STAGES, 'column = "S"\ncodes = { "I" = 3 }', 11, "0 (none), 1 (mild), 2 (severe)"),
        (STAGES, 'column = "S"\ncodes = { "I" = "missing" }', 11, "0 (none), 1 (mild), 2 (severe)"),
        (STAGES, 'column = "S"\ncodes = { }', 11, "at least one"),
        (STAGES, 'column = "S"\nfactor = 2', 11, "unknown key"),
        (DAYS, 'column = "D"\nunit = "hours"', 11, "factor and offset"),
        (DAYS, 'column = "D"\nmissing = ["-9"]', 11, "unknown key"),
        (DAYS, "absent = true", 10, "unknown key"),
        (VISITS, 'column = "V"\nfactor = 2', 11, "unknown key"),
        (VISITS, 'column = "V"\ncodes = { "none" = 0 }', 11, "unknown key"),
    ],
)
def test_a_mistake_in_the_mapping_of_a_label_is_named_with_its_line(
    tmp_path: Path, label: Label, lines: str, line: int, words: str
) -> None:
    with pytest.raises(DataError) as caught:
        mapping_of(tmp_path, label_mapping(label, lines), task_with(label))
    assert f", line {line}: columns.{label.name}" in str(caught.value)
    assert words in str(caught.value)
