"""Partitions: each row is at one hospital, sizes and skew are as requested, and copies of a patient stay together."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from federated_health.data.columns import Label
from federated_health.data.partitions import KINDS, Partition, divide
from federated_health.data.sources.source import Source, read_diabetes
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import DataError, SettingsError
from federated_health.names import is_hospital_name
from tests.support.labels import DAYS, STAGES, VISITS, task_with

COLUMNS = list(HEART_DISEASE.column_names)
NAN, MISSING = math.nan, -999.0
SEEDS = st.integers(0, 2**31 - 1)

Row = tuple[object, ...]


def source_of(
    contents: Sequence[int], labels: Sequence[int] | None = None, hospitals: Sequence[str] | None = None
) -> Source:
    """A table whose rows are equal, but for the label, where their contents are; every third content lacks a cell.

    A content of 0 has a zero that is written 0.0 and -0.0 in turn.
    """
    rows = [
        [float(content), 1.0, 4.0, 120.0, NAN if content % 3 == 2 else 200.0, 0.0, 0.0, 150.0, 0.0, 0.0, 1.0, NAN, 3.0]
        for content in contents
    ]
    table = pd.DataFrame(rows, columns=COLUMNS, dtype=np.float64)
    table.loc[table.index % 2 == 1, "oldpeak"] = -0.0
    table["disease"] = np.array([i % 2 for i in range(len(rows))] if labels is None else labels, dtype=np.int64)
    if hospitals is not None:
        table.insert(0, "hospital", list(hospitals))
    return Source(name="file", task=HEART_DISEASE, title="rows of a test", table=table)


def different(rows: int, positive: int | None = None) -> Source:
    """Rows that all differ; the first ones have the label, or every other one."""
    labels = None if positive is None else [int(i < positive) for i in range(rows)]
    return source_of(range(rows), labels)


def iid(hospitals: int, seed: int = 42) -> Partition:
    return Partition(by="iid", seed=seed, hospitals=hospitals)


def size(*ratios: float, seed: int = 42) -> Partition:
    return Partition(by="size", seed=seed, ratios=ratios)


def dirichlet(hospitals: int, alpha: float, seed: int = 42) -> Partition:
    return Partition(by="dirichlet", seed=seed, hospitals=hospitals, alpha=alpha)


def rows_of(table: pd.DataFrame) -> list[Row]:
    """Rows as they can be compared."""
    return [tuple(row) for row in (table.astype(np.float64) + 0.0).fillna(MISSING).to_numpy().tolist()]


def contents_of(table: pd.DataFrame) -> list[int]:
    return [int(age) for age in table["age"]]


def sizes_of(hospitals: dict[str, pd.DataFrame]) -> list[int]:
    return [len(rows) for rows in hospitals.values()]


def count_split_contents(hospitals: dict[str, pd.DataFrame]) -> int:
    """Contents that are at more than one hospital."""
    where = Counter(content for rows in hospitals.values() for content in set(contents_of(rows)))
    return sum(times > 1 for times in where.values())


def is_subsequence(part: Iterable[Row], whole: Iterable[Row]) -> bool:
    left = iter(whole)
    return all(row in left for row in part)


# Any table and any partition.

TABLES = st.integers(1, 40).flatmap(
    lambda rows: st.builds(
        source_of,
        st.lists(st.integers(0, 25), min_size=rows, max_size=rows),
        st.lists(st.integers(0, 1), min_size=rows, max_size=rows),
        st.none() | st.lists(st.sampled_from(["north", "south", "west"]), min_size=rows, max_size=rows),
    )
)


@st.composite
def divisions(draw: st.DrawFn) -> tuple[Source, Partition]:
    source = draw(TABLES)
    count = draw(st.integers(1, min(len(source.table), 12)))
    kinds = [
        st.builds(iid, st.just(count), SEEDS),
        st.builds(dirichlet, st.integers(1, min(count, 3)), st.sampled_from([0.5, 1.0, 100.0, 1e6]), SEEDS),
        st.lists(st.integers(1, 9), min_size=count, max_size=count).map(lambda ratios: size(*ratios)),
    ]
    if source.has_hospitals:
        kinds.append(st.builds(Partition, by=st.just("hospital"), seed=SEEDS))
    return source, draw(st.one_of(kinds))


def divided(source: Source, partition: Partition) -> dict[str, pd.DataFrame]:
    try:
        return divide(source, partition)
    except DataError as refused:  # ratios and Dirichlet shares of a few rows can leave a hospital none
        assume(not str(refused).startswith(("--ratios", "--alpha")))
        raise


@settings(max_examples=25)
@given(divisions())
def test_every_row_is_at_exactly_one_hospital_in_the_order_of_the_table(division: tuple[Source, Partition]) -> None:
    source, partition = division
    before = source.table.copy()

    hospitals = divided(source, partition)

    whole = rows_of(source.table.drop(columns="hospital", errors="ignore"))
    parts = [rows_of(rows) for rows in hospitals.values()]
    assert Counter(itertools.chain(*parts)) == Counter(whole)
    assert all(parts)
    assert all(is_subsequence(part, whole) for part in parts)
    pd.testing.assert_frame_equal(source.table, before)


@settings(max_examples=25)
@given(divisions())
def test_a_hospital_s_table_is_the_task_s_columns_and_the_label_numbered_anew(
    division: tuple[Source, Partition],
) -> None:
    source, partition = division

    for rows in divided(source, partition).values():
        assert list(rows.columns) == [*COLUMNS, "disease"]
        assert list(rows.index) == list(range(len(rows)))
        assert rows["disease"].dtype == np.int64
        assert all(rows[name].dtype == np.float64 for name in COLUMNS)


@settings(max_examples=25)
@given(divisions())
def test_the_same_seed_gives_the_same_tables(division: tuple[Source, Partition]) -> None:
    source, partition = division
    first, second = divided(source, partition), divided(source, partition)

    assert list(first) == list(second)
    for name, rows in first.items():
        pd.testing.assert_frame_equal(rows, second[name])


@pytest.mark.parametrize("partition", [iid(4), size(8, 4, 2, 1), dirichlet(4, 1.0)], ids=lambda partition: partition.by)
def test_another_seed_gives_other_tables(partition: Partition) -> None:
    source = different(100)
    found = set()
    for seed in range(20):
        other = Partition(**{**partition.describe(), "seed": seed})
        found.add(str([contents_of(rows) for rows in divide(source, other).values()]))

    assert len(found) == 20


# Hospitals' names.


@pytest.mark.parametrize(
    ("count", "first", "last"),
    [
        (1, "hospital-1", "hospital-1"),
        (9, "hospital-1", "hospital-9"),
        (10, "hospital-01", "hospital-10"),
        (99, "hospital-01", "hospital-99"),
        (100, "hospital-001", "hospital-100"),
        (1000, "hospital-0001", "hospital-1000"),
    ],
)
def test_the_order_of_hospitals_names_is_that_of_their_numbers(count: int, first: str, last: str) -> None:
    for partition in (iid(count), size(*[1.0] * count), dirichlet(count, 1000.0)):
        names = list(divide(different(5 * count), partition))

        assert len(names) == count
        assert (names[0], names[-1]) == (first, last)
        assert names == sorted(names)
        assert [int(name.removeprefix("hospital-")) for name in names] == list(range(1, count + 1))
        assert all(is_hospital_name(name) for name in names)


# By hospital.


def test_hospitals_of_the_data_come_in_order_of_first_appearance() -> None:
    source = source_of(range(6), hospitals=["west", "north", "west", "east", "north", "west"])

    for partition in (Partition(by="hospital", seed=1), Partition(by="hospital", seed=2, hospitals=3)):
        hospitals = divide(source, partition)
        assert [(name, contents_of(rows)) for name, rows in hospitals.items()] == [
            ("west", [0, 2, 5]),
            ("north", [1, 4]),
            ("east", [3]),
        ]


@pytest.mark.parametrize("count", [1, 2, 4, 1000])
def test_another_number_of_hospitals_than_the_data_s_is_refused(count: int) -> None:
    source = source_of(range(3), hospitals=["a", "b", "c"])

    with pytest.raises(DataError, match=rf"--hospitals: expected 3, .*got {count}"):
        divide(source, Partition(by="hospital", seed=42, hospitals=count))


def test_data_without_a_hospital_column_cannot_be_divided_by_hospital() -> None:
    with pytest.raises(DataError, match="has no column"):
        divide(different(5), Partition(by="hospital", seed=42))


@pytest.mark.parametrize(("count", "is_refused"), [(1000, False), (1001, True)])
def test_data_of_more_than_a_thousand_hospitals_is_refused(count: int, is_refused: bool) -> None:
    source = source_of(range(count), hospitals=[f"h{i}" for i in range(count)])
    partition = Partition(by="hospital", seed=42)

    if is_refused:
        with pytest.raises(DataError, match="expected at most 1000 hospitals, got 1001"):
            divide(source, partition)
    else:
        assert sizes_of(divide(source, partition)) == [1] * 1000


def test_other_kinds_ignore_the_hospital_column() -> None:
    named, unnamed = source_of(range(30), hospitals=["a", "b", "c"] * 10), different(30)

    for partition in (iid(4), size(2, 1), dirichlet(2, 1.0)):
        contents = [[contents_of(rows) for rows in divide(source, partition).values()] for source in (named, unnamed)]
        assert contents[0] == contents[1]


# Sizes.


@settings(max_examples=25)
@given(TABLES, st.data(), SEEDS)
def test_iid_hospitals_differ_by_one_row_at_most(source: Source, data: st.DataObject, seed: int) -> None:
    rows = len(source.table)
    count = data.draw(st.integers(1, rows))

    sizes = sizes_of(divide(source, iid(count, seed)))

    assert sizes == [rows // count + 1] * (rows % count) + [rows // count] * (count - rows % count)


@pytest.mark.parametrize(
    ("rows", "ratios", "expected"),
    [
        (920, (8, 4, 2, 1), [491, 245, 123, 61]),  # 490 2/3, 245 1/3, 122 2/3, 61 1/3
        (10, (1, 1, 1), [4, 3, 3]),
        (11, (1, 1, 1), [4, 4, 3]),
        (7, (3,), [7]),
        (100, (0.5, 0.25, 0.25), [50, 25, 25]),
        (10, (0.61, 0.25, 0.14), [6, 3, 1]),  # 6.1, 2.5, 1.4
        (12, (1e308, 1e308), [6, 6]),
        (12, (1e308, 1e308, 1e308, 1e308), [3, 3, 3, 3]),
        (12, (5e-324, 5e-324, 5e-324), [4, 4, 4]),
        (12, (3e-300, 1e-300), [9, 3]),
        (1, (1e308,), [1]),
        (3, (1, 1, 1), [1, 1, 1]),
    ],
)
def test_sizes_are_in_the_requested_ratios(rows: int, ratios: tuple[float, ...], expected: list[int]) -> None:
    assert sizes_of(divide(different(rows), size(*ratios))) == expected


@settings(max_examples=25)
@given(st.integers(1, 300), st.lists(st.floats(0.01, 100), min_size=1, max_size=8), SEEDS)
def test_sizes_are_rounded_by_largest_remainder(rows: int, ratios: list[float], seed: int) -> None:
    exact = [Fraction(ratio) * rows / sum(map(Fraction, ratios)) for ratio in ratios]
    floors = [math.floor(share) for share in exact]
    assume(all(floors))

    sizes = sizes_of(divide(different(rows), size(*ratios, seed=seed)))

    assert sum(sizes) == rows
    assert all(floor <= got <= floor + 1 for floor, got in zip(floors, sizes, strict=True))
    remainders = [share - floor for share, floor in zip(exact, floors, strict=True)]
    up = [remainder for remainder, floor, got in zip(remainders, floors, sizes, strict=True) if got > floor]
    down = [remainder for remainder, floor, got in zip(remainders, floors, sizes, strict=True) if got == floor]
    assert not up or not down or min(up) >= max(down) - Fraction(1, 10**9)


@given(st.integers(2, 30), st.integers(0, 20))
def test_a_size_that_only_the_largest_remainder_lifts_above_zero_is_one_patient(rows: int, seed: int) -> None:
    # The small share is 2/3 of a patient, the large one the other rows and 1/3.
    assert sizes_of(divide(different(rows), size(3 * rows - 2, 2, seed=seed))) == [rows - 1, 1]


@pytest.mark.parametrize("ratios", [(1e-300, 1), (1, 1e-300, 1), (1e-320, 1e308), (1000, 1), (1, 1e9)])
def test_ratios_that_leave_a_hospital_without_a_patient_are_refused(ratios: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="none of the 12 patients"):
        divide(different(12), size(*ratios))


@pytest.mark.parametrize(
    "partition", [iid(13), size(*[1.0] * 13), dirichlet(13, 1e6), iid(1000)], ids=lambda partition: partition.by
)
def test_more_hospitals_than_patients_are_refused(partition: Partition) -> None:
    with pytest.raises(DataError, match=r"--hospitals: .*at most one per patient \(12\), got (13|1000)"):
        divide(different(12), partition)


@pytest.mark.parametrize("contents", [range(12), [1] * 12, [1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6]])
@pytest.mark.parametrize("partition", [iid(12), size(*[2.5] * 12)], ids=lambda partition: partition.by)
def test_as_many_hospitals_as_patients_have_one_each(contents: Sequence[int], partition: Partition) -> None:
    hospitals = divide(source_of(contents), partition)

    assert sizes_of(hospitals) == [1] * 12
    assert sorted(contents_of(pd.concat(hospitals.values()))) == sorted(contents)


@pytest.mark.parametrize("partition", [iid(1), size(7.5), dirichlet(1, 0.001)], ids=lambda partition: partition.by)
def test_one_hospital_has_the_whole_table(partition: Partition) -> None:
    source = source_of([3, 3, 1, 2, 2, 2, 0, 0, 0, 0])

    (rows,) = divide(source, partition).values()

    pd.testing.assert_frame_equal(rows, source.table)


@pytest.mark.parametrize(
    "partition", [iid(1000), size(*[1.0] * 1000), dirichlet(1000, 100.0)], ids=lambda partition: partition.by
)
def test_a_thousand_hospitals_can_be_made(partition: Partition) -> None:
    hospitals = divide(different(20_000), partition)

    assert len(hospitals) == 1000
    assert sorted(itertools.chain(*map(contents_of, hospitals.values()))) == list(range(20_000))


def test_iid_puts_every_patient_at_every_hospital_about_as_often() -> None:
    source, times = different(24), np.zeros((24, 4))
    for seed in range(200):
        for hospital, rows in enumerate(divide(source, iid(4, seed)).values()):
            times[contents_of(rows), hospital] += 1

    assert times.min() > 25  # of 50 expected, with a deviation of about 6
    assert times.max() < 75


def test_iid_puts_two_patients_together_about_as_often_as_chance() -> None:
    together = sum(
        any({0, 1} <= set(contents_of(rows)) for rows in divide(different(20), iid(2, seed)).values())
        for seed in range(150)
    )

    assert together / 150 == pytest.approx(9 / 19, abs=0.13)  # the deviation is 0.04


# Dirichlet: shares of each label's rows.


def shares(source: Source, hospitals: int, alpha: float, seeds: int) -> np.ndarray[Any, Any]:
    """[seeds, hospitals, 2], each hospital's share of the rows of either label."""
    totals = source.table["disease"].value_counts()
    return np.array(
        [
            [
                [(rows["disease"] == label).sum() / totals[label] for label in (0, 1)]
                for rows in divide(source, dirichlet(hospitals, alpha, seed)).values()
            ]
            for seed in range(seeds)
        ]
    )


@pytest.mark.parametrize(("hospitals", "alpha"), [(4, 5.0), (2, 1.0)])
def test_shares_have_the_mean_and_variance_of_a_dirichlet_distribution(hospitals: int, alpha: float) -> None:
    found = shares(different(1500, positive=600), hospitals, alpha, seeds=200)

    mean, total = 1 / hospitals, alpha * hospitals
    variance = mean * (1 - mean) / (total + 1)
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=4 * math.sqrt(variance / 200))
    np.testing.assert_allclose(found.var(axis=(0, 1)), variance, rtol=0.25)


def test_the_shares_of_the_two_labels_are_independent() -> None:
    found = shares(different(600, positive=300), 3, 1.0, seeds=150)

    correlation = np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]
    assert abs(correlation) < 0.2


def test_the_smaller_alpha_the_more_label_balance_and_size_are_skewed() -> None:
    source = different(1200, positive=400)
    spread_of_balance, spread_of_size = [], []
    for alpha in (0.1, 1.0, 10.0, 1000.0):
        balances, sizes = [], []
        for seed in range(20):
            hospitals = divide(source, dirichlet(4, alpha, seed))
            balances.append([rows["disease"].mean() for rows in hospitals.values()])
            sizes.append(sizes_of(hospitals))
        spread_of_balance.append(np.std(balances, axis=1).mean())
        spread_of_size.append(np.std(sizes, axis=1).mean())

    assert spread_of_balance == sorted(spread_of_balance, reverse=True)
    assert spread_of_size == sorted(spread_of_size, reverse=True)
    assert spread_of_balance[0] > 0.25
    assert spread_of_balance[-1] < 0.02
    assert spread_of_size[0] > 150
    assert spread_of_size[-1] < 15


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_alpha_gives_equal_shares_of_each_label(seed: int) -> None:
    for rows in divide(different(2000, positive=800), dirichlet(4, 1e6, seed)).values():
        assert rows["disease"].sum() == pytest.approx(200, abs=3)
        assert len(rows) == pytest.approx(500, abs=5)


@pytest.mark.parametrize("label", [0, 1])
def test_rows_of_a_single_class_are_divided(label: int) -> None:
    hospitals = divide(source_of(range(200), [label] * 200), dirichlet(4, 1.0))

    assert sum(sizes_of(hospitals)) == 200
    assert all((rows["disease"] == label).all() for rows in hospitals.values())


class _Counted:
    """A generator of numpy that counts its draws of shares."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self.shares = 0

    def dirichlet(self, *arguments: Any) -> Any:
        self.shares += 1
        return self._generator.dirichlet(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


def test_an_alpha_that_always_leaves_a_hospital_empty_is_refused_after_a_hundred_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = _Counted(np.random.default_rng(42))
    monkeypatch.setattr(np.random, "default_rng", lambda _seed: counted)

    with pytest.raises(
        DataError,
        match=r"--alpha 0\.001: each of 100 draws .*fewer than 50 hospitals",
    ):
        divide(different(500), dirichlet(50, 0.001))
    assert counted.shares == 200  # one per label and draw


def test_shares_that_leave_a_hospital_empty_are_drawn_again() -> None:
    # In half of all draws both labels go to the same one of two hospitals: without another draw, some seed fails.
    for seed in range(40):
        assert all(sizes_of(divide(different(100), dirichlet(2, 0.001, seed))))


@pytest.mark.parametrize("alpha", [0.001, 1e6])
def test_the_bounds_of_alpha_are_allowed(alpha: float) -> None:
    assert sum(sizes_of(divide(different(100), dirichlet(2, alpha)))) == 100


# Copies of a patient.


@settings(max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(1, 4), SEEDS, st.booleans())
def test_copies_stay_together_where_there_are_single_rows_to_fill_up_with(
    copies: list[int], hospitals: int, seed: int, is_iid: bool
) -> None:
    # With three single rows per hospital, some hospital has room for four as long as a copy is to be placed.
    singles = 3 * hospitals
    contents = [content for content, times in enumerate([*copies, *[1] * singles]) for _ in range(times)]
    source = source_of(np.random.default_rng(seed).permutation(contents).tolist())
    partition = iid(hospitals, seed) if is_iid else size(*range(3, 3 + hospitals), seed=seed)

    assert count_split_contents(divide(source, partition)) == 0


@pytest.mark.parametrize(
    ("copies", "hospitals", "fewest"),
    [
        ([4] * 10, 3, 1),  # 14, 13 and 13 rows: three whole units each
        ([3] * 10, 3, 1),  # 10 rows each
        ([2] * 10, 4, 2),  # 5 rows each
        ([3, 1, 1], 2, 0),  # 3 and 2 rows
        ([2] * 6, 4, 2),  # 3 rows each
        ([2] * 5, 2, 1),  # 5 and 5 rows
        ([4] * 23, 10, 3),  # two whole units each
    ],
)
def test_no_more_copies_are_separated_than_necessary(copies: list[int], hospitals: int, fewest: int) -> None:
    contents = [content for content, times in enumerate(copies) for _ in range(times)]
    for seed in range(50):
        found = divide(source_of(contents), iid(hospitals, seed))
        assert count_split_contents(found) == fewest
        assert max(sizes_of(found)) - min(sizes_of(found)) <= 1


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 30), min_size=20, max_size=60),
    st.lists(st.integers(0, 1), min_size=60, max_size=60),
    st.sampled_from([0.5, 1.0, 1e6]),
    SEEDS,
)
def test_dirichlet_never_separates_up_to_four_copies(
    contents: list[int], labels: list[int], alpha: float, seed: int
) -> None:
    assume(max(Counter(contents).values()) <= 4)
    source = source_of(contents, labels[: len(contents)])

    assert count_split_contents(divided(source, dirichlet(2, alpha, seed))) == 0


def test_copies_count_as_the_label_of_the_first() -> None:
    # All contents stand twice, with either label; by their first rows all of them are healthy, and shared out as such.
    source = source_of([*range(50), *range(50)], [0] * 50 + [1] * 50)

    for rows in divide(source, dirichlet(2, 1e6)).values():
        assert len(rows) == pytest.approx(50, abs=2)
        assert rows["disease"].mean() == 0.5


def test_copies_count_as_their_own_label_and_no_other_row_s() -> None:
    pairs = source_of([row // 2 for row in range(200)], [1] * 100 + [0] * 100)

    for seed in range(10):
        for rows in divide(pairs, dirichlet(2, 1e6, seed)).values():
            assert rows["disease"].sum() == pytest.approx(50, abs=4)
            assert len(rows) == pytest.approx(100, abs=8)


def test_copies_go_to_a_hospital_as_often_as_its_size_says() -> None:
    source = source_of([50, 50, 50, *range(37)])
    first = sum(50 in contents_of(divide(source, size(1, 3, seed=seed))["hospital-1"]) for seed in range(200))

    assert first / 200 == pytest.approx(0.25, abs=0.1)  # the deviation is 0.03


@pytest.mark.parametrize("partition", [iid(4), size(1, 2, 3), dirichlet(3, 10.0)], ids=lambda partition: partition.by)
@pytest.mark.parametrize(("copies", "stay"), [(2, True), (3, True), (4, True), (5, False), (8, False)])
def test_up_to_four_equal_rows_are_one_patient_and_more_are_separate_patients(
    partition: Partition, copies: int, stay: bool
) -> None:
    source = source_of([*[200] * copies, *range(40)])

    found = [
        count_split_contents(divide(source, Partition(**{**partition.describe(), "seed": seed}))) for seed in range(25)
    ]

    assert any(found) is not stay


@pytest.mark.parametrize("partition", [iid(4), size(1, 1, 1, 1), dirichlet(4, 1e6)], ids=lambda partition: partition.by)
def test_a_table_of_identical_rows_is_divided(partition: Partition) -> None:
    hospitals = divide(source_of([7] * 400, [0, 1] * 200), partition)

    assert all(got == pytest.approx(100, abs=0 if partition.alpha is None else 3) for got in sizes_of(hospitals))
    assert all(0.3 < rows["disease"].mean() < 0.7 for rows in hospitals.values())


def test_rows_that_differ_in_unknown_columns_only_are_copies() -> None:
    source = source_of([5, 5, *range(10, 30)])
    source.table["note"] = [f"note {i}" for i in range(22)]

    for seed in range(20):
        hospitals = divide(source, iid(2, seed))
        assert count_split_contents(hospitals) == 0
        assert sorted(pd.concat(hospitals.values())["note"]) == sorted(source.table["note"])


def test_the_real_pairs_of_uci_stay_together(uci: Source) -> None:
    whole = Counter(rows_of(uci.table[COLUMNS]))
    pairs = {row for row, times in whole.items() if times == 2}
    assert len(pairs) == 2
    assert max(whole.values()) == 2

    for seed in range(3):
        for partition in (iid(10, seed), iid(300, seed), dirichlet(10, 0.5, seed)):
            for rows in divide(uci, partition).values():
                counts = Counter(rows_of(rows[COLUMNS]))
                assert all(counts[pair] in (0, 2) for pair in pairs)


# Invalid options.


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"by": "random"}, "--by: expected .*got 'random'"),
        ({"by": ""}, "--by: expected .*got ''"),
        ({"by": "iid"}, "--hospitals: required"),
        ({"by": "dirichlet", "alpha": 1.0}, "--hospitals: required"),
        ({"by": "dirichlet", "hospitals": 2}, "--alpha: required"),
        ({"by": "size"}, "--ratios: required"),
        ({"by": "size", "hospitals": 2}, "--ratios: required"),
        ({"by": "size", "ratios": (1.0, 2.0), "hospitals": 3}, "--hospitals: expected 2, .*got 3"),
        ({"by": "size", "ratios": ()}, "--hospitals: expected 1 to 1000, got 0"),
        ({"by": "size", "ratios": (1.0,) * 1001}, "--hospitals: expected 1 to 1000, got 1001"),
        *(({"by": by, "hospitals": 2, "alpha": 1.0}, "--alpha: .*dirichlet only") for by in ("hospital", "iid")),
        ({"by": "size", "ratios": (1.0,), "alpha": 1.0}, "--alpha: .*dirichlet only"),
        *(({"by": by, "hospitals": 2, "ratios": (1.0, 1.0)}, "--ratios: .*size only") for by in ("hospital", "iid")),
        ({"by": "dirichlet", "hospitals": 2, "alpha": 1.0, "ratios": (1.0, 1.0)}, "--ratios: .*size only"),
        *(
            ({"by": "iid", "hospitals": count}, f"--hospitals: expected 1 to 1000, got {count}")
            for count in (-1, 0, 1001, 2**31)
        ),
        ({"by": "hospital", "hospitals": 1001}, "--hospitals: expected 1 to 1000, got 1001"),
        *(
            ({"by": "dirichlet", "hospitals": 2, "alpha": alpha}, rf"--alpha: expected .*got {re.escape(f'{alpha:g}')}")
            for alpha in (0.0, -1.0, 0.00099, 1.1e6, math.nan, math.inf, -math.inf)
        ),
        *(
            ({"by": "size", "ratios": ratios}, "--ratios: expected numbers above 0")
            for ratios in ((0.0,), (1.0, 0.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.inf), (-math.inf,))
        ),
    ],
)
def test_an_invalid_option_is_refused_by_the_name_of_its_flag(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=f"^{words}"):
        Partition(seed=42, **flags)


def test_the_manifest_entry_of_a_partition_has_its_own_options_only() -> None:
    entries = [
        Partition(by="hospital", seed=1).describe(),
        iid(3, seed=2).describe(),
        dirichlet(3, 0.5, seed=3).describe(),
        size(2.0, 1.0, seed=4).describe(),
    ]

    assert entries == [
        {"by": "hospital", "seed": 1},
        {"by": "iid", "seed": 2, "hospitals": 3},
        {"by": "dirichlet", "seed": 3, "hospitals": 3, "alpha": 0.5},
        {"by": "size", "seed": 4, "ratios": (2.0, 1.0)},
    ]
    assert sorted(entry["by"] for entry in entries) == sorted(KINDS)


@settings(max_examples=50)
@given(st.integers(1, 3), st.floats(allow_nan=True), SEEDS)
def test_any_alpha_is_refused_or_gives_a_partition(hospitals: int, alpha: float, seed: int) -> None:
    try:
        partition = dirichlet(hospitals, alpha, seed)
    except SettingsError:
        assert not 0.001 <= alpha <= 1e6
        return
    assert sum(sizes_of(divided(different(60), partition))) == 60


@settings(max_examples=100)
@given(st.lists(st.floats(allow_nan=True), min_size=1, max_size=5))
def test_any_ratios_are_refused_or_give_a_partition(ratios: list[float]) -> None:
    try:
        hospitals = divide(different(60), size(*ratios))
    except SettingsError:
        assert not all(0 < ratio < math.inf for ratio in ratios)
    except DataError:
        assert min(ratios) / max(ratios) < 1 / 60
    else:
        assert sum(sizes_of(hospitals)) == 60
        assert all(sizes_of(hospitals))


# Labels of other kinds


YES_OR_NO = Label("y", "y")


def small_source(label: Label, labels: Sequence[float], patients: Sequence[int] | None = None) -> Source:
    task = replace(task_with(label), patient=None if patients is None else "id")
    rows = np.arange(len(labels))
    table = pd.DataFrame({"age": rows % 100.0, "sex": rows // 100.0, label.name: labels})
    if patients is not None:
        table["id"] = patients
    return Source(name="file", task=task, title="rows of a test", table=table)


@pytest.mark.parametrize("label", [STAGES, DAYS, VISITS])
def test_a_small_alpha_skews_classes_and_quantities_and_a_large_one_does_not(label: Label) -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 200) if label is STAGES else generator.poisson(20, 200)
    source = small_source(label, labels.tolist())
    spreads = []
    for alpha in (0.1, 1e6):
        hospitals = divide(source, Partition(by="dirichlet", seed=5, hospitals=4, alpha=alpha)).values()
        assert sum(map(len, hospitals)) == 200
        spreads.append(np.std([rows[label.name].mean() for rows in hospitals]) / labels.std())
    assert spreads[0] > 0.3
    assert spreads[1] < 0.1


def test_the_groups_of_a_quantity_are_its_fifths() -> None:
    """A tiny alpha gives each of them to one hospital, but for one row at most."""
    labels = np.random.default_rng(2).permutation(100).astype(float).tolist()
    for seed in range(40):
        partition = Partition(by="dirichlet", seed=seed, hospitals=2, alpha=0.001)
        first, second = divide(small_source(DAYS, labels), partition).values()
        fifths = np.bincount((first["days"] // 20).astype(int), minlength=5)
        assert set(fifths.tolist()) <= {0, 1, 19, 20}
        assert (fifths + np.bincount((second["days"] // 20).astype(int), minlength=5)).tolist() == [20] * 5


@pytest.mark.parametrize(("label", "labels"), [(STAGES, [2, 0] * 30), (DAYS, [0.5, 300] * 30)])
def test_the_rows_of_a_patient_stay_together_whatever_their_labels(label: Label, labels: list[float]) -> None:
    source = small_source(label, labels, [row // 2 for row in range(60)])
    hospitals = divide(source, Partition(by="dirichlet", seed=3, hospitals=3, alpha=1.0)).values()
    ids = [set(rows["id"]) for rows in hospitals]
    assert sum(map(len, ids)) == len(set.union(*ids)) == 30


# Patients of several rows


@st.composite
def stays(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Numbers of patients, some with 40 stays, in any order; and the stays' labels."""
    times = draw(st.lists(st.sampled_from([1, 1, 2, 3, 40]), min_size=12, max_size=30))
    order = draw(st.randoms(use_true_random=False))
    patients = [patient for patient, rows in enumerate(times) for _ in range(rows)]
    order.shuffle(patients)
    return patients, [order.randint(0, 1) for _ in patients]


@settings(max_examples=40)
@given(
    stays(),
    st.one_of(
        st.builds(iid, st.integers(1, 6), SEEDS),
        st.builds(dirichlet, st.integers(1, 3), st.sampled_from([0.5, 1.0, 1e6]), SEEDS),
        st.lists(st.integers(1, 4), min_size=1, max_size=4).map(lambda ratios: size(*ratios)),
        st.builds(Partition, by=st.just("hospital"), seed=SEEDS, column=st.just("ward"), min_patients=st.just(1)),
    ),
)
def test_every_stay_is_somewhere_and_no_patient_is_at_two_hospitals(
    rows: tuple[list[int], list[int]], partition: Partition
) -> None:
    patients, labels = rows
    source = small_source(YES_OR_NO, labels, patients)
    wards = pd.DataFrame({"ward": [f"ward {number % 5}" for number in range(len(patients))]}, dtype=str)

    hospitals = divided(replace(source, columns=wards), partition)

    ids = [set(table["id"]) for table in hospitals.values()]
    assert sum(map(len, ids)) == len(set.union(*ids)) == len(set(patients))
    assert Counter(itertools.chain(*(table["id"] for table in hospitals.values()))) == Counter(patients)
    if partition.by in ("iid", "size"):  # patients are counted, however many stays they have
        ratios = np.array(partition.ratios or [1.0] * (partition.hospitals or 1))
        np.testing.assert_allclose(list(map(len, ids)), ratios / ratios.sum() * len(set(patients)), atol=1)


def test_shares_of_stays_are_about_those_of_patients() -> None:
    """2,000 patients, every hundredth with 40 stays: the stays of 20 patients are a quarter of all."""
    patients = [patient for patient in range(2000) for _ in range(40 if patient % 100 == 0 else 1 + patient % 2)]
    source = small_source(YES_OR_NO, [int(patient % 5 == 0) for patient in patients], patients)

    for partition in (size(3, 1), iid(2), dirichlet(2, 1e6)):
        first, second = divide(source, partition).values()
        expected = 0.75 if partition.by == "size" else 0.5
        assert first["id"].nunique() / 2000 == pytest.approx(expected, abs=0.001)
        assert len(first) / len(source.table) == pytest.approx(expected, abs=0.1)
        assert len(first) + len(second) == len(patients)


def test_dirichlet_skews_the_labels_of_patients_with_any_positive_stay() -> None:
    patients = [patient for patient in range(900) for _ in range(3)]
    labels = [int(row % 3 == 0 and row // 3 < 300) for row in range(2700)]  # one of three stays of every third patient
    hospitals = divide(small_source(YES_OR_NO, labels, patients), dirichlet(6, 0.5)).values()

    balances = [table.groupby("id")["y"].max().mean() for table in hospitals]
    assert max(balances) - min(balances) > 0.4
    assert all(len(table) == 3 * table["id"].nunique() for table in hospitals)


def test_twenty_hospitals_share_the_diabetes_stays_with_skewed_labels() -> None:
    source = read_diabetes()

    hospitals = divide(source, replace(dirichlet(20, 0.5), min_patients=8))

    ids = [set(rows["patient"]) for rows in hospitals.values()]
    assert min(map(len, ids)) >= 8
    assert sum(map(len, ids)) == len(set.union(*ids)) == 69987
    assert sum(map(len, hospitals.values())) == 99340
    balances = [rows["readmitted_30d"].mean() for rows in hospitals.values()]
    assert max(balances) - min(balances) > 0.2
