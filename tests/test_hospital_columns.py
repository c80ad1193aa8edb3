"""A column of the data divides its patients: by the first row, with small values merged, under names that differ."""

import csv
import io
import zipfile
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.partitions import Partition, divide, group_patients
from federated_health.data.sources.source import Source, generate_readmission, read_diabetes
from federated_health.data.tasks import Task
from federated_health.errors import DataError, SettingsError
from federated_health.names import is_hospital_name
from tests.support.diabetes_stays import RAW_ZIP

DIED_OR_HOSPICE = {"11", "13", "14", "19", "20", "21"}

STAYS = Task(
    name="stays",
    columns=(
        Measurement("age", "age", "years", low=0, high=120),
        Category("kind", "kind", {1: "planned", 2: "urgent"}),
    ),
    label=Label("died", "died"),
    patient="id",
)
PERSONS = Task(name="persons", columns=STAYS.columns, label=STAYS.label)


def source_of(wards: Sequence[str], ids: Sequence[int] | None = None, ages: Sequence[int] | None = None) -> Source:
    """A row for each ward; every row is another patient, unless `ids`, or else `ages`, are equal."""
    rows = len(wards)
    table = pd.DataFrame({"age": ages or range(rows), "kind": [1, 2] * (rows // 2) + [1] * (rows % 2)}, dtype=float)
    if ages is not None:
        table["kind"] = 1.0
    table["died"] = [row % 2 for row in range(rows)]
    task = PERSONS if ids is None else STAYS
    if ids is not None:
        table["id"] = ids
    columns = pd.DataFrame({"ward": list(wards), "age": table["age"].map(str)}, dtype=str)
    return Source(name="file", task=task, title="rows of a test", table=table, columns=columns)


def by(column: str, min_patients: int | None = 1) -> Partition:
    return Partition(by="hospital", seed=42, column=column, min_patients=min_patients)


def ages_of(hospitals: dict[str, pd.DataFrame]) -> dict[str, list[int]]:
    return {name: rows["age"].astype(int).tolist() for name, rows in hospitals.items()}


def names_of(wards: Sequence[str]) -> list[str]:
    """Names of hospitals of one patient each, in the order of the wards."""
    return list(divide(source_of(wards), by("ward")))


# UCI's table


@pytest.fixture(scope="module")
def raw_stays() -> list[dict[str, str]]:
    """The stays of UCI's zip that the task keeps, in order of `encounter_id`, read without the package."""
    if not RAW_ZIP.is_file():
        pytest.skip(f"UCI's zip is not in {RAW_ZIP.parent}")
    with zipfile.ZipFile(RAW_ZIP) as archive:
        [member] = [name for name in archive.namelist() if name.endswith("diabetic_data.csv")]
        stays = list(csv.DictReader(io.TextIOWrapper(archive.open(member))))
    stays.sort(key=lambda stay: int(stay["encounter_id"]))
    return [
        stay
        for stay in stays
        if stay["discharge_disposition_id"] not in DIED_OR_HOSPICE and stay["gender"] != "Unknown/Invalid"
    ]


@pytest.fixture(scope="module")
def diabetes() -> Source:
    return read_diabetes()


@pytest.mark.parametrize(
    ("column", "minimum", "several"),
    [("medical_specialty", 500, 6233), ("payer_code", 50, 3411), ("race", 8, 243), ("age", 8, 1535)],
)
def test_a_column_of_the_diabetes_stays_divides_patients_by_their_first_stay(
    raw_stays: list[dict[str, str]], diabetes: Source, column: str, minimum: int, several: int
) -> None:
    values = defaultdict(list)
    for stay in raw_stays:
        values[stay["patient_nbr"]].append(stay[column])
    sizes: dict[str, list[int]] = defaultdict(lambda: [0, 0])  # patients and rows
    for cells in values.values():
        sizes[cells[0]][0] += 1
        sizes[cells[0]][1] += len(cells)
    large = sorted(size for size in sizes.values() if size[0] >= minimum)
    small = sorted(size for size in sizes.values() if size[0] < minimum)
    while small and sum(patients for patients, _ in small) < minimum:
        small.append(large.pop(0))

    hospitals = divide(diabetes, by(column, minimum))

    merged = [[sum(patients for patients, _ in small), sum(rows for _, rows in small)]] if small else []
    found = sorted([rows["patient"].nunique(), len(rows)] for rows in hospitals.values())
    assert found == sorted([*large, *merged])
    if "?" in sizes:
        assert hospitals["missing"]["patient"].nunique() == sizes["?"][0]
    assert sum(len(set(cells)) > 1 for cells in values.values()) == several
    assert group_patients(diabetes, by(column, minimum)).with_several_values == several


# Which hospital a patient belongs to


def test_the_first_row_of_a_patient_decides() -> None:
    source = source_of(["north", "south", "south", "north", "south"], ids=[1, 2, 1, 2, 3])

    hospitals = divide(source, by("ward"))

    assert ages_of(hospitals) == {"south": [1, 3, 4], "north": [0, 2]}
    assert list(hospitals["south"].columns) == ["age", "kind", "died", "id"]
    assert list(hospitals["north"].index) == [0, 1]
    assert group_patients(source, by("ward")).with_several_values == 2


def test_equal_rows_stay_together_where_no_column_identifies_patients() -> None:
    source = source_of(["north", "south", "south", "south"], ages=[50, 50, 60, 61])

    assert ages_of(divide(source, by("ward"))) == {"south": [60, 61], "north": [50, 50]}
    assert group_patients(source, by("ward")).with_several_values == 1


def test_the_hospital_column_of_the_data_is_replaced() -> None:
    source = source_of(["north", "south", "south"])
    source.table.insert(0, "hospital", ["x", "y", "x"])

    assert ages_of(divide(source, by("ward"))) == {"south": [1, 2], "north": [0]}
    assert ages_of(divide(source, by("hospital"))) == {"x": [0, 2], "y": [1]}


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from(["north", "south", "", "West", "east 1"])), min_size=1, max_size=60
    ),
    st.integers(1, 3),
)
def test_a_patient_is_at_the_hospital_of_the_first_row_and_every_hospital_has_enough(
    stays: list[tuple[int, str]], minimum: int
) -> None:
    ids, wards = [patient for patient, _ in stays], [ward for _, ward in stays]
    source = source_of(wards, ids=ids)
    try:
        hospitals = divide(source, by("ward", minimum))
    except DataError as refused:  # too few patients for two hospitals
        assume("at least 2 groups" not in str(refused))
        raise

    first = dict(reversed(stays))
    values: dict[str, set[str]] = {
        name: {first[int(patient)] for patient in rows["id"]} for name, rows in hospitals.items()
    }
    assert sorted(row for ages in ages_of(hospitals).values() for row in ages) == list(range(len(stays)))
    assert sum(map(len, values.values())) == len(set.union(*values.values()))  # a value is at one hospital
    assert all(len(found) == 1 for name, found in values.items() if name != "other")
    assert all(rows["id"].nunique() >= minimum for rows in hospitals.values())


# Missing and small values


@pytest.mark.parametrize("cell", ["?", "", "None", "NaN", " n/a "])
def test_rows_without_a_value_are_a_hospital_of_their_own(cell: str) -> None:
    source = source_of(["north", cell, "?", "north", "north"])

    assert ages_of(divide(source, by("ward"))) == {"north": [0, 3, 4], "missing": [1, 2]}


def test_small_values_are_merged_and_named() -> None:
    wards = ["a ward"] * 5 + ["b ward"] * 4 + ["c ward"] * 2 + ["d ward"] * 2 + [""]
    groups = group_patients(source_of(wards), by("ward", 4))

    assert groups.names == ["a-ward", "b-ward", "other"]
    assert np.bincount(groups.numbers).tolist() == [5, 4, 5]
    assert groups.merged == {"c-ward": 2, "d-ward": 2, "missing": 1}


def test_the_smallest_of_the_others_joins_merged_values_that_are_too_few() -> None:
    wards = ["a ward"] * 6 + ["b ward"] * 5 + ["c ward"] * 4 + ["d ward"]
    groups = group_patients(source_of(wards), by("ward", 4))

    assert groups.names == ["a-ward", "b-ward", "other"]
    assert groups.merged == {"c-ward": 4, "d-ward": 1}


def test_a_value_that_no_patient_has_first_is_no_hospital() -> None:
    source = source_of(["north", "south", "west"], ids=[1, 2, 1])

    assert group_patients(source, by("ward")).names == ["north", "south"]
    assert group_patients(source, by("ward")).merged == {}


def test_a_hospital_has_by_default_as_many_patients_as_joining_needs() -> None:
    wards = ["north"] * 9 + ["south"] * 8 + ["west"] * 7 + ["east"]
    groups = group_patients(source_of(wards), by("ward", None))

    assert groups.min_patients == 8
    assert groups.names == ["north", "south", "other"]
    assert groups.merged == {"west": 7, "east": 1}


@pytest.mark.parametrize(
    ("wards", "minimum", "got"),
    [
        (["north"] * 20, 8, "got 1 from 1 value;"),
        (["north"] * 20 + ["south"], 8, "got 1 from 2 values"),  # 1 patient, and then everybody
        ([f"ward {row % 10}" for row in range(20)], 8, "got 1 from 10 values"),
        (["north", "south"], 8, "got 1 from 2 values"),
    ],
)
def test_a_column_that_leaves_one_hospital_is_refused(wards: list[str], minimum: int, got: str) -> None:
    with pytest.raises(DataError, match=f"^--hospital-column ward: expected at least 2 groups of 8 .*{got}"):
        divide(source_of(wards), by("ward", minimum))


@pytest.mark.parametrize(("count", "is_refused"), [(1000, False), (1001, True)])
def test_a_column_of_more_than_a_thousand_values_is_refused(count: int, is_refused: bool) -> None:
    source = source_of([f"ward {row}" for row in range(count)])

    if is_refused:
        with pytest.raises(DataError, match="at most 1000 different values, got 1001"):
            divide(source, by("ward"))
    else:
        assert len(divide(source, by("ward"))) == 1000


# Names


def test_names_are_valid_and_different() -> None:
    wards = [
        "Ward One",
        "ward-one",
        "Ward/One",
        "Hôpital Sud",
        "x" * 80,
        "x" * 90,
        "",
        "Missing",
        "Other",
    ]
    names = names_of(wards)

    assert names == [
        *("ward-one", "ward-one-2", "ward-one-3", "hopital-sud", "x" * 63, f"{'x' * 58}-2"),
        *("missing", "missing-2", "other"),
    ]
    assert all(map(is_hospital_name, names))


@pytest.mark.parametrize(
    ("wards", "names"),
    [
        (["north", "south"], ["north", "south"]),
        (["north", "no"], ["ward-north", "ward-no"]),  # all or none have the column's name
        (["[70-80)", "[80-90)", "?"], ["ward-70-80", "ward-80-90", "missing"]),
        (["1.0", "1", "2"], ["ward-1", "ward-2"]),  # 1.0 and 1 are one value
        (["<30", ">30"], ["ward-below-30", "ward-above-30"]),
        (["1", "-1"], ["ward-1", "ward-1-2"]),
        (["Federation", "north"], ["ward-federation", "ward-north"]),  # the name of all hospitals together
        (["東", "西"], ["ward", "ward-2"]),
    ],
)
def test_short_values_follow_the_name_of_the_column(wards: list[str], names: list[str]) -> None:
    assert names_of(wards) == names


def test_a_value_called_other_and_merged_values_have_different_names() -> None:
    wards = ["other"] * 3 + ["north"] * 2 + ["south", "west"]

    assert group_patients(source_of(wards), by("ward", 2)).names == ["other-2", "north", "other"]


# Columns


def test_codes_of_the_task_are_named_by_their_meaning() -> None:
    source = source_of(["any"] * 5)
    source.table.loc[0, "kind"] = np.nan

    assert ages_of(divide(source, by("kind"))) == {"planned": [2, 4], "urgent": [1, 3], "missing": [0]}


def test_hospitals_of_uci_by_chest_pain(uci: Source) -> None:
    hospitals = divide(uci, by("cp"))

    counts = Counter(uci.table["cp"])
    assert {name: len(rows) for name, rows in hospitals.items()} == {
        "asymptomatic": pytest.approx(counts[4], abs=1),  # a pair of equal rows stays together
        "non-anginal-pain": counts[3],
        "atypical-angina": counts[2],
        "typical-angina": counts[1],
    }
    assert all(rows["cp"].nunique() == 1 for rows in hospitals.values())


def test_generated_patients_are_divided_by_columns_of_their_task() -> None:
    source = generate_readmission(400, seed=1)

    hospitals = divide(source, by("discharged_home"))

    assert list(hospitals) == ["discharged-home-yes", "discharged-home-no"]
    assert sum(map(len, hospitals.values())) == 400


def test_an_unknown_column_is_an_error_that_lists_the_columns_and_no_cell() -> None:
    with pytest.raises(DataError) as refused:
        divide(source_of(["Smith", "Jones"], ids=[1, 2]), by("Ward"))

    message = str(refused.value)
    assert all(name in message for name in ("ward", "age", "kind", "died", "id", "got 'Ward'"))
    assert "Smith" not in message
    assert "\n" not in message


def test_a_column_that_the_data_has_twice_is_refused() -> None:
    source = source_of(["north", "south"])
    source.columns.columns = pd.Index(["ward", "ward"])

    with pytest.raises(DataError, match=r"ward: .*got 2$"):
        divide(source, by("ward"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "iid", "hospitals": 2}, "--hospital-column: .*--by iid"),
        ({"by": "dirichlet", "hospitals": 2, "alpha": 1.0}, "--hospital-column: .*--by dirichlet"),
        ({"by": "size", "ratios": (2.0, 1.0)}, "--hospital-column: .*--by size"),
        ({"by": "hospital", "hospitals": 2}, "--hospitals: not allowed with --hospital-column"),
    ],
)
def test_options_of_other_partitions_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=f"^{words}"):
        Partition(seed=1, column="ward", **options)  # type: ignore[arg-type]


def test_the_manifest_entry_of_the_partition_names_the_column() -> None:
    assert by("ward", 3).describe() == {"by": "hospital", "seed": 42, "column": "ward", "min_patients": 3}
