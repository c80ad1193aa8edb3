"""Task files: what they declare, and the line that an error names."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.labels import ClassLabel, CountLabel, NumberLabel
from federated_health.data.task_files import TASKS, parse_task, read_task_file
from federated_health.data.task_writing import write_task
from federated_health.data.tasks import Task
from federated_health.data.toml_reading import MAX_BYTES
from federated_health.errors import DataError
from federated_health.names import OPTIMIZERS
from tests.conftest import PROJECT

STROKE = """\
# Mortality after stroke
name = "stroke"

[label]
column = "died_30d"
meaning = "died within 30 days of admission"

[patient]
column = "patient_id"

[columns.age]
meaning = "age"
unit = "years"
range = [0, 120]
typical_median = [50, 90]
other_units = { months = { factor = 0.08333333333333333 }, "decades" = { factor = 10, offset = 0.5 } }
scale = [70, 15]
association = "positive"

[columns.nihss]
meaning = "NIH Stroke Scale on admission"
unit = "points"
range = [0, 42]

[columns.smoker]
meaning = "smoking"
codes = { 0 = "never", 1 = "formerly", -1 = "unknown" }
risk_codes = [1]
"""


def parse(text: str) -> Task:
    return parse_task(text.encode(), "stroke.toml")


def replaced(old: str, new: str) -> str:
    assert STROKE.count(old) == 1
    return STROKE.replace(old, new)


def test_a_task_file_declares_every_part_of_a_task() -> None:
    task = parse(STROKE)
    assert (task.name, task.patient) == ("stroke", "patient_id")
    assert task.label == Label("died_30d", "died within 30 days of admission")
    age, nihss, smoker = task.columns
    assert age == Measurement(
        "age",
        "age",
        "years",
        low=0,
        high=120,
        typical_median=(50, 90),
        other_units={"months": (0.08333333333333333, 0), "decades": (10, 0.5)},
        scale=(70, 15),
        association="positive",
    )
    assert nihss == Measurement("nihss", "NIH Stroke Scale on admission", "points", low=0, high=42)
    assert smoker == Category("smoker", "smoking", {0: "never", 1: "formerly", -1: "unknown"}, risk_codes=(1,))


@pytest.mark.parametrize(
    ("text", "line", "key_word"),
    [
        (replaced('name = "stroke"', 'name = "Stroke"'), 2, "lower-case"),
        (replaced('name = "stroke"', "name = 7"), 2, "lower-case"),
        (replaced('name = "stroke"\n', ""), 0, "lacks name"),
        (replaced('column = "died_30d"\n', ""), 4, "lacks column"),
        (replaced('column = "died_30d"', 'column = "died 30d"'), 5, "letters"),
        (replaced('column = "died_30d"', 'column = "smoker"'), 5, "no other column has"),
        (replaced('column = "patient_id"', 'column = "died_30d"'), 9, "no other column has"),
        (replaced('column = "patient_id"', 'column = "patient_id"\nhashed = true'), 10, "unknown key"),
        (replaced('unit = "years"', 'unit = "?"'), 13, "a draft leaves"),
        (replaced('unit = "years"', 'unit = ""'), 13, "text in one line"),
        (replaced("range = [0, 120]", "range = [120, 0]"), 14, "lower one first"),
        (replaced("range = [0, 120]", "range = [0, inf]"), 14, "two numbers"),
        (replaced("range = [0, 120]", 'range = "?"'), 14, "two numbers"),
        (replaced("typical_median = [50, 90]", "typical_median = [50, 130]"), 15, "within 0 and 120"),
        (replaced("factor = 10", "factor = 0"), 16, "other than 0"),
        (replaced("offset = 0.5", "offsets = 0.5"), 16, "unknown key"),
        (replaced("scale = [70, 15]", "scale = [70, 0]"), 17, "standard deviation"),
        (replaced('association = "positive"', 'association = "up"'), 18, "negative"),
        (replaced("range = [0, 42]", "range = [0, 42]\nrnage = [0, 1]"), 24, "unknown key"),
        (replaced('meaning = "smoking"\n', ""), 25, "lacks meaning"),
        (replaced("-1 = ", "1.5 = "), 27, "not valid TOML|whole numbers"),
        (replaced('{ 0 = "never", 1 = "formerly", -1 = "unknown" }', '{ 0 = "never" }'), 27, "2 to 100"),
        (replaced("risk_codes = [1]", "risk_codes = [2]"), 28, "some, not all, of the codes"),
        (replaced("risk_codes = [1]", "risk_codes = [0, 1, -1]"), 28, "some, not all, of the codes"),
        (replaced("[columns.nihss]", "[columns.risk]"), 20, "letters"),
        (replaced("[columns.nihss]", '[columns."nih score"]'), 20, "letters"),
        (replaced("[columns.nihss]", "[columns.age]"), 20, "not valid TOML"),
        (replaced("[0, 42]", "[0, 42"), 25, "not valid TOML"),
        (replaced("[0, 42]", f"[0, 1{'0' * 400}]"), 23, "two numbers"),
        (replaced("[0, 42]", f"[0, 0x{'F' * 5000}]"), 23, "too many digits"),
        (replaced("[0, 42]", f"[0, {'9' * 5000}]"), 0, "too many digits"),
        (replaced("[0, 42]", "[0, 1e-300]"), 23, "standard deviation"),
        (replaced("factor = 10", "factor = 1e300"), 16, "other than 0"),
        (replaced('"decades" =', '"?" ='), 16, "name of a unit"),
        (replaced("scale = [70, 15]", "scale = [70, 1e-200]"), 17, "standard deviation"),
        (replaced("risk_codes = [1]", "risk_codes = [[1]]"), 28, "some, not all"),
        (replaced("risk_codes = [1]", "risk_codes = [true]"), 28, "some, not all"),
        (replaced("-1 = ", "01 = "), 27, "not 01"),
        (replaced("-1 = ", '"\u0661" = '), 27, "not 01"),
        (STROKE + "\n[results]\nrounds = 3\n", 30, "unknown key"),
        (STROKE.split("[columns.age]")[0], 0, "lacks columns"),
        (replaced("[columns.age]", "training = 3\n[columns.age]"), 11, "unknown key"),
        (replaced('name = "stroke"', 'name = "stroke"\ntraining = 3'), 3, "a table"),
        *(
            (STROKE + f"\n[training]\nl2 = 0\n{line}\n", 32, key_word)
            for line, key_word in {
                "round = 3": "unknown key",
                "seed = 1": "unknown key",
                "rounds = true": "whole number",
                'rounds = "30"': "whole number",
                "rounds = 2.0": "whole number",
                "rounds = 0": "at least 1",
                "rounds = 100_001": "at most 100,000",
                f"rounds = 0x{'F' * 5000}": "too many digits",
                'rounds = "?"': "whole number",
                "batch_size = [32]": "whole number",
                "learning_rate = nan": "more than 0",
                "learning_rate = inf": "at most",
                "dropout = 1": "less than 1",
                'optimizer = "Adam"': "one of sgd, adam",
                'model = "file"': "one of mlp, logistic",
                'activation = ""': "one of relu",
                "hidden = 32": "text",
                'hidden = "32,0"': "from 1 to 65536",
                'hidden = "a\\u001bb"': "from 1 to 65536",
                "dp_rounds = 0": "at least 1",
                "dp_clip = 0": "at least 1e-06",
                "dp_sampling_rate = 1.1": "at most 1",
                "dp_epsilon = 1.0": "unknown key",
            }.items()
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_file_line_and_key(text: str, line: int, key_word: str) -> None:
    with pytest.raises(DataError, match=key_word) as caught:
        parse(text)
    assert str(caught.value).startswith(f"stroke.toml, line {line}: " if line else "stroke.toml: ")
    assert str(caught.value).isprintable()


def test_training_settings_are_read_but_not_compared() -> None:
    stated = 'rounds = 20\nlearning_rate = 1\nhidden = "32, 16"\ndp_rounds = 60'
    task = parse(f"{STROKE}\n[training]\n{stated}\n")
    assert task.training == {"rounds": 20, "learning_rate": 1, "hidden": "32, 16", "dp_rounds": 60}
    without = parse(STROKE)
    assert without.training == {}
    assert (task.agreement, task.schema_hash) == (without.agreement, without.schema_hash)


@pytest.mark.parametrize("name", TASKS)
def test_training_settings_of_the_package_are_valid(name: str) -> None:
    content = (PROJECT / "federated_health" / "data" / "shipped_tasks" / f"{name}.toml").read_bytes()
    assert parse_task(content, name).training == TASKS[name].training


SEVERITY = """\
name = "severity"

[label]
column = "num"
meaning = "narrowing of the major vessels"
kind = "classes"
codes = { 0 = "none", 2 = "severe", 1 = "mild" }

[columns.age]
meaning = "age"
unit = "years"
range = [0, 120]

[columns.smoker]
meaning = "smoking"
codes = { 0 = "no", 1 = "yes" }
"""


def with_label(lines: str) -> str:
    head, _, rest = SEVERITY.partition('kind = "classes"\n')
    return head + lines + "\n\n" + rest.partition("\n\n")[2]


@pytest.mark.parametrize(
    ("lines", "label", "agreed"),
    [
        (
            'kind = "classes"\ncodes = { 0 = "none", 2 = "severe", 1 = "mild" }',
            ClassLabel("num", "narrowing of the major vessels", {0: "none", 2: "severe", 1: "mild"}),
            "one of 0 (none), 2 (severe), 1 (mild)",
        ),
        (
            'kind = "number"\nunit = "\u03bcmol/l"\nrange = [0, 60.5]\nscale = [20, 4]',
            NumberLabel("num", "narrowing of the major vessels", "\u00b5mol/l", low=0, high=60.5, scale=(20, 4)),
            "a number from 0 to 60.5 (\u00b5mol/l), scaled by mean 20 and standard deviation 4",
        ),
        (
            'kind = "number"\nunit = "days"\nrange = [-6, 6]',
            NumberLabel("num", "narrowing of the major vessels", "days", low=-6, high=6),
            "a number from -6 to 6 (days), scaled by mean 0 and standard deviation 2",  # the middle, and a sixth
        ),
        (
            'kind = "count"\nrange = [0, 10000]',
            CountLabel("num", "narrowing of the major vessels", high=10_000),
            "a whole number from 0 to 10000",
        ),
        ('kind = "binary"', Label("num", "narrowing of the major vessels"), "0 or 1"),
    ],
)
def test_a_label_of_each_kind_is_declared_and_agreed_upon(lines: str, label: Label, agreed: str) -> None:
    task = parse(with_label(lines))
    assert task.label == label
    assert list(getattr(task.label, "codes", {})) == list(getattr(label, "codes", {}))  # in this order
    assert task.agreement["label num"] == f"narrowing of the major vessels: {agreed}"


def test_the_kind_of_a_binary_label_changes_neither_agreement_nor_schema() -> None:
    stated = replaced('column = "died_30d"', 'column = "died_30d"\nkind = "binary"')
    assert parse(stated).agreement == parse(STROKE).agreement
    assert TASKS["heart-disease"].schema_hash.startswith("4ba00a19ea750287")  # of models that are in use


@pytest.mark.parametrize(
    ("text", "line", "key_word"),
    [
        (with_label('kind = "ordinal"'), 6, "binary, classes, number, count"),
        (with_label('kind = "?"'), 6, "a draft leaves"),
        (with_label('codes = { 0 = "none", 1 = "some" }'), 6, "unknown key"),
        (with_label('kind = "classes"'), 3, "lacks codes"),
        (with_label('kind = "classes"\ncodes = { 0 = "none", 1 = "some" }'), 7, "3 to 100"),
        (with_label('kind = "classes"\ncodes = { 0 = "none", 1 = "some", 02 = "all" }'), 7, "not 01"),
        (with_label('kind = "classes"\ncodes = { 0 = "a", 1 = "b", 2 = "c" }\nunit = "days"'), 8, "unknown key"),
        (with_label('kind = "number"\nrange = [0, 5]'), 3, "lacks unit"),
        (with_label('kind = "number"\nunit = "days"'), 3, "lacks range"),
        (with_label('kind = "number"\nunit = "days"\nrange = [5, 0]'), 8, "lower one first"),
        (with_label('kind = "number"\nunit = "days"\nrange = [0, 1e-300]'), 8, "standard deviation"),
        (with_label('kind = "number"\nunit = "days"\nrange = [0, 5]\nscale = [1, 0]'), 9, "standard deviation"),
        (with_label('kind = "number"\nunit = "days"\nrange = [0, 5]\nzero_is_missing = true'), 9, "unknown key"),
        (with_label('kind = "count"'), 3, "lacks range"),
        (with_label('kind = "count"\nrange = [1, 5]'), 7, "0 and the largest"),
        (with_label('kind = "count"\nrange = [0, 0]'), 7, "0 and the largest"),
        (with_label('kind = "count"\nrange = [0, 5.5]'), 7, "0 and the largest"),
        (with_label('kind = "count"\nrange = [0, true]'), 7, "0 and the largest"),
        (with_label('kind = "count"\nrange = [0, 10001]'), 7, "10,000"),
        (SEVERITY.replace("[0, 120]", '[0, 120]\nassociation = "negative"'), 13, "remove this line"),
        (SEVERITY + "risk_codes = [1]\n", 17, "remove this line"),
        (SEVERITY.replace("[columns.age]", "[columns.probability_1]"), 9, "reserved"),
        (SEVERITY.replace('column = "num"', 'column = "expected"'), 4, "reserved"),
    ],
)
def test_a_mistake_in_a_label_of_another_kind_names_file_line_and_key(text: str, line: int, key_word: str) -> None:
    with pytest.raises(DataError, match=key_word) as caught:
        parse(text)
    assert str(caught.value).startswith(f"stroke.toml, line {line}: ")
    assert "\n" not in str(caught.value)


def test_a_name_that_only_other_kinds_of_labels_reserve_stays_allowed_for_a_binary_one() -> None:
    assert parse(replaced("[columns.nihss]", "[columns.expected]")).column_names == ("age", "expected", "smoker")


def test_control_characters_and_long_values_are_not_repeated_in_a_message() -> None:
    for text in ('"\\u001b[31m" = 1', 'name = "' + "T" * 100_000 + '"', '"' + "k" * 100_000 + '" = 1'):
        with pytest.raises(DataError) as caught:
            parse(STROKE.replace('name = "stroke"', text))
        assert len(str(caught.value)) < 600
        assert str(caught.value).isprintable()


def test_a_declaration_that_is_too_large_to_be_compared_is_refused() -> None:
    columns = "".join(f'[columns.c{i}]\nmeaning = "m"\nunit = "u"\nrange = [0, 10]\n' for i in range(1000))
    with pytest.raises(DataError, match="too long"):
        parse(STROKE.split("[columns.age]")[0] + columns)


def test_a_key_named_like_one_of_another_table_is_found_in_its_own() -> None:
    text = replaced("range = [0, 42]", "range = [42, 0]")
    with pytest.raises(DataError, match=r"line 23: columns\.nihss\.range"):
        parse(text)


@pytest.mark.parametrize(
    "content",
    [
        *(b"\xff\xfe", b"a" * (MAX_BYTES + 1), b"[" * 5000, b"x = " + b"[" * 5000, b"", b"name"),
        *(b"name." + b"a." * 100_000 + b"a = 1", b"[name" + b".a" * 2000 + b"]"),
    ],
)
def test_content_that_is_no_task_file_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^x\.toml"):
        parse_task(content, "x.toml")


def test_a_file_that_is_missing_or_a_folder_is_refused_with_its_path(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            read_task_file(path)


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "stroke.toml"
    path.write_bytes(b"\xef\xbb\xbf" + STROKE.replace("\n", "\r\n").encode())
    assert read_task_file(path).agreement == parse(STROKE).agreement
    path.write_bytes(STROKE.replace("[0, 42]", "[42, 0]").replace("\n", "\r\n").encode())
    with pytest.raises(DataError, match="line 23"):
        read_task_file(path)


def test_the_same_content_is_the_same_task_and_a_changed_file_another_one(tmp_path: Path) -> None:
    path = tmp_path / "stroke.toml"
    path.write_text(STROKE)
    first = read_task_file(path)
    assert read_task_file(path) is first
    path.write_text(replaced("[0, 42]", "[0, 43]"))
    assert read_task_file(path).agreement != first.agreement


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12).filter(
    lambda text: text != "?"
)
NUMBER = st.floats(-1e9, 1e9).map(lambda number: round(number, 6))
MEASUREMENT = st.builds(
    lambda meaning, unit, bounds, zero, scale, sign, factor: Measurement(
        "x",
        meaning,
        unit,
        low=min(bounds),
        high=max(bounds),
        zero_is_missing=zero,
        typical_median=(min(bounds), max(bounds)) if zero else None,
        other_units={unit: (factor, 1.5)} if zero else {},
        scale=scale,
        association=sign,
    ),
    TEXT,
    TEXT,
    st.lists(NUMBER, min_size=2, max_size=2, unique=True),
    st.booleans(),
    st.none() | st.tuples(NUMBER, st.floats(1e-6, 1e6)),
    st.sampled_from([None, "positive", "negative"]),
    st.floats(1e-12, 1e12),
)
CATEGORY = st.builds(
    lambda meaning, codes, some: Category("x", meaning, codes, risk_codes=tuple(codes)[:1] if some else ()),
    TEXT,
    st.dictionaries(st.integers(-99999, 99999), TEXT, min_size=2, max_size=5),
    st.booleans(),
)


CODES = st.dictionaries(st.integers(-99999, 99999), TEXT, min_size=3, max_size=5)


def without_risk(column: Measurement | Category) -> Measurement | Category:
    if isinstance(column, Measurement):
        return replace(column, association=None)
    return replace(column, risk_codes=())


LABEL = st.one_of(
    st.builds(Label, st.just("y"), TEXT),
    st.builds(ClassLabel, st.just("y"), TEXT, CODES),
    st.builds(
        lambda meaning, unit, bounds, scale: NumberLabel(
            "y", meaning, unit, low=min(bounds), high=max(bounds), scale=scale
        ),
        TEXT,
        TEXT,
        st.lists(NUMBER, min_size=2, max_size=2, unique=True),
        st.none() | st.tuples(NUMBER, st.floats(1e-6, 1e6)),
    ),
    st.builds(CountLabel, st.just("y"), TEXT, high=st.integers(1, 10_000)),
)


TRAINING_SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "rounds": st.integers(1, 100_000),
        "learning_rate": st.floats(0, 1e6, exclude_min=True),
        "l2": st.floats(0, 1e6) | st.integers(0, 10),
        "hidden": st.lists(st.integers(1, 65_536), min_size=1, max_size=3).map(lambda units: ",".join(map(str, units))),
        "optimizer": st.sampled_from(OPTIMIZERS),
        "dp_clip": st.floats(1e-6, 1e6),
    },
)


@given(
    st.lists(MEASUREMENT | CATEGORY, min_size=1, max_size=4),
    LABEL,
    st.none() | st.just("id"),
    TRAINING_SETTINGS,
)
@settings(deadline=None, max_examples=60)
def test_a_written_task_is_read_back_with_every_attribute(
    columns: list[Measurement | Category], label: Label, patient: str | None, training: dict[str, str | int | float]
) -> None:
    named = tuple(type(column)(**{**vars(column), "name": f"c{i}"}) for i, column in enumerate(columns))
    if label.kind != "binary":
        named = tuple(without_risk(column) for column in named)
    task = Task(name="any", columns=named, label=label, patient=patient, training=training)
    read = parse_task(write_task(task).encode(), "any.toml")
    assert read.agreement == task.agreement  # codes in the same order, too
    assert (read.name, read.columns, read.label, read.patient) == (task.name, task.columns, task.label, task.patient)
    assert read.training == task.training


@pytest.mark.parametrize("name", TASKS)
def test_the_tasks_of_the_package_are_read_back_as_they_are_written(name: str) -> None:
    task = TASKS[name]
    read = parse_task(write_task(task).encode(), "any.toml")
    assert (read.columns, read.label, read.agreement) == (task.columns, task.label, task.agreement)
    assert read.training == task.training
