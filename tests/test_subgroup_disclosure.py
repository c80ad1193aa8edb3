"""Figures of subgroups that leave a hospital whose data are not public: no subtraction shows few patients."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import MetricRecord
from scipy.optimize import linprog

from federated_health.data.hospital import Hospital, Patients
from federated_health.data.subgroups import Subgroup, subgroups_of
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task
from federated_health.hospital import release_memory
from federated_health.hospital.disclosure import disclose
from federated_health.hospital.policy import Policy
from federated_health.hospital.subgroup_disclosure import round_figures, suppress_groups
from federated_health.messages.content import DIFFERENCING, SMALL_CELL, SWITCHED_OFF, Evaluation
from federated_health.messages.records import MalformedMessageError
from federated_health.messages.releases import size_of
from federated_health.messages.subgroups import read_subgroups
from federated_health.messages.validation import read_evaluation
from federated_health.ml.subgroup_figures import summarise_subgroups
from federated_health.ml.subgroups import NAMES, GroupFigures, measure_groups
from federated_health.ml.targets import target_of
from tests.support.targets import task_of

MIN_CELL = 5
TARGET = target_of(HEART_DISEASE)
AGE, SEX = (HEART_DISEASE.column_names.index(name) for name in ("age", "sex"))
NOTHING = GroupFigures()

Cells = Sequence[int]
Floats = npt.NDArray[np.float64]


def groups(*sizes: int) -> list[Subgroup]:
    """Columns a, b, ... with these numbers of groups."""
    return [
        Subgroup("abc"[column], str(code), column, code, code + 1)
        for column, size in enumerate(sizes)
        for code in range(size)
    ]


def counts(*cells: Cells) -> list[GroupFigures]:
    """Groups with these true positives, false positives, true negatives and false negatives."""
    return [GroupFigures(*map(float, of)) for of in cells]


def released(declared: Sequence[Subgroup], cells: Sequence[Cells], total: Cells, **options: Any) -> list[bool]:
    tp, fp, tn, fn = total
    kept = suppress_groups(declared, counts(*cells), (tp, fp, tn, fn), MIN_CELL, **options)
    assert all(of in (NOTHING, before) for of, before in zip(kept, counts(*cells), strict=True))
    return [of != NOTHING for of in kept]


@pytest.mark.parametrize(
    ("cells", "are_released"),
    [
        ([(9, 9, 9, 9), (9, 9, 9, 9)], [True, True]),
        ([(9, 9, 9, 9), (9, 9, 9, 4)], [False, False]),  # the second is the total minus the first
        ([(9, 9, 9, 9), (0, 9, 9, 0)], [False, False]),  # all of the second are negative
        ([(9, 9, 9, 9), (9, 0, 9, 0)], [True, True]),
        ([(9, 9, 9, 9), (0, 0, 0, 0)], [True, False]),  # nobody is in the second
        ([(9, 9, 9, 9), (9, 9, 9, 9), (9, 9, 9, 4)], [False, True, False]),  # one more hides the third
        ([(9, 9, 9, 9), (6, 6, 6, 6), (9, 9, 9, 4)], [True, False, False]),  # the smaller one
        ([(9, 9, 9, 0), (9, 9, 9, 0), (9, 9, 9, 4)], [False, False, False]),  # together they still have 4
    ],
)
def test_a_group_leaves_if_neither_it_nor_what_remains_is_small(cells: list[Cells], are_released: list[bool]) -> None:
    total = np.sum(cells, axis=0).tolist()
    assert released(groups(len(cells)), cells, total) == are_released


def test_rows_without_a_value_are_what_remains() -> None:
    cells = [(9, 9, 9, 9), (8, 8, 8, 8)]
    assert released(groups(2), cells, (18, 18, 17, 17)) == [True, False]
    assert released(groups(2), cells, (17, 17, 17, 17)) == [True, True]
    assert released(groups(2), cells, (26, 26, 26, 26)) == [True, True]


def test_columns_are_suppressed_apart() -> None:
    cells = [(9, 9, 9, 9), (9, 9, 9, 1), (9, 9, 9, 5), (9, 9, 9, 5)]
    assert released(groups(2, 2), cells, (18, 18, 18, 10)) == [False, False, True, True]
    assert released(groups(2, 2), cells, (18, 18, 18, 10), exposed={"b"}) == [False] * 4


@pytest.mark.parametrize("seed", range(12))
def test_no_attacker_bounds_a_count_below_the_minimum_cell(seed: int) -> None:
    """An attacker knows the totals and the released groups of two columns, and solves for every count.

    Of each group, each patient without a value, and each pair of groups of both columns, the largest possible count is
    0 or at least the minimum cell.
    """
    generator = np.random.default_rng(seed)
    levels = (3, 4)  # two and three groups, and missing
    shares = np.outer([0.25, 0.7, 0.05 * (seed % 2)], generator.dirichlet([4, 4, 2, 1]))
    mean = (200, 300, 500)[seed % 3] * shares[:, :, None] * np.array([0.35, 0.2, 0.35, 0.1])
    joint = generator.poisson(mean)  # [sex, age, cell]
    total = joint.sum(axis=(0, 1))
    declared = groups(2, 3)
    cells = [*joint.sum(axis=1)[:2], *joint.sum(axis=0)[:3]]
    kept = released(declared, [of.tolist() for of in cells], total.tolist())
    assert any(kept), "there is something to attack"
    for cell in range(4):
        masks = [np.ones(levels, dtype=bool)]
        for group, is_kept in zip(declared, kept, strict=True):
            if is_kept:
                masks.append(np.zeros(levels, dtype=bool))
                masks[-1][(slice(None),) * group.position + (int(group.low),)] = True
        equations = np.array([mask.ravel() for mask in masks], dtype=np.float64)
        known = [joint[:, :, cell][mask].sum() for mask in masks]
        rows, columns = range(levels[0]), range(levels[1])
        wanted: list[tuple[Sequence[int], Sequence[int]]] = [([row], columns) for row in rows]
        wanted += [(rows, [column]) for column in columns]
        wanted += [([row], [column]) for row, column in product(rows, columns)]
        for chosen in wanted:
            objective = np.zeros(levels)
            objective[np.ix_(*chosen)] = -1
            solved = linprog(objective.ravel(), A_eq=equations, b_eq=known)
            most = -solved.fun
            assert most < 1e-6 or most > MIN_CELL - 1e-6, (chosen, cell, known)


# The gate


def patients_of(rows: int, seed: int = 0, age: float | None = None) -> Patients:
    generator = np.random.default_rng(seed)
    values = np.zeros((rows, len(HEART_DISEASE.columns)))
    values[:, AGE] = generator.integers(30, 80, rows) if age is None else age
    values[:, SEX] = np.arange(rows) % 2
    values[:, 3] = 100 + np.arange(rows) + 1000 * seed  # no two patients are equal
    return Patients(values, (generator.random(rows) < 0.5).astype(np.float32))


def hospital_of(test: Patients, task: Task = HEART_DISEASE) -> Hospital:
    return Hospital(name="basel", task=task, train=patients_of(100, 99), test=test)


def evaluation_of(hospital: Hospital, threshold: float = 0.5) -> Evaluation:
    """Scores with errors at random, so that each cell of 300 patients' groups has some."""
    test, task = hospital.test, hospital.task
    outputs = (2.0 * test.labels - 1 + np.random.default_rng(1).normal(0, 1.2, len(test))).astype(np.float32)
    figures = measure_groups(subgroups_of(task), test.values, outputs, test.labels, threshold, test.ids)
    return Evaluation(counts=TARGET.measure(outputs, test.labels, threshold), subgroups=figures)


def test_the_gate_rounds_what_leaves() -> None:
    hospital = hospital_of(patients_of(400))
    before, after = evaluation_of(hospital), disclose(evaluation_of(hospital), hospital, Policy(), is_final=True)
    assert after.suppressed == {}
    for of, left in zip(before.subgroups, after.subgroups, strict=True):
        assert left == round_figures(of)
        assert left.cells == of.cells
        assert left.expected == pytest.approx(of.expected, rel=0.005)
        assert f"{left.roc_auc:.3f}" == repr(round(of.roc_auc, 3)).ljust(5, "0")


def test_nothing_of_public_data_is_rounded() -> None:
    hospital = hospital_of(patients_of(60))
    evaluation = evaluation_of(hospital)
    assert disclose(evaluation, hospital, Policy(public=True), is_final=True).subgroups == list(evaluation.subgroups)


def test_small_groups_are_suppressed_and_the_reply_says_so() -> None:
    hospital = hospital_of(patients_of(400, age=55.0))
    hospital.test.values[:6, AGE] = 45.0

    left = disclose(evaluation_of(hospital), hospital, Policy(), is_final=True)

    assert left.suppressed == {"subgroups": SMALL_CELL}
    names = [
        group.column for group, of in zip(subgroups_of(HEART_DISEASE), left.subgroups, strict=True) if any(of.cells)
    ]
    assert names == ["sex", "sex"]


def test_a_policy_switches_subgroups_off() -> None:
    hospital = hospital_of(patients_of(400))
    left = disclose(evaluation_of(hospital), hospital, Policy(releases_off=("subgroups",)), is_final=True)
    assert left.suppressed == {"subgroups": SWITCHED_OFF}
    assert "subgroups" not in left.to_content().metric_records["metrics"]


def test_a_larger_minimum_cell_suppresses_more() -> None:
    hospital = hospital_of(patients_of(400))
    left = disclose(evaluation_of(hospital), hospital, Policy(min_cell=60), is_final=True)
    assert not any(any(of.cells) for of in left.subgroups)


def test_the_minimum_cell_is_of_patients() -> None:
    """Each patient has ten rows: 400 rows are 40 patients, of whom no group has five in each cell."""
    rows = patients_of(400)
    hospital = hospital_of(Patients(rows.values, rows.labels, np.arange(400) // 10))
    left = disclose(evaluation_of(hospital), hospital, Policy(), is_final=True)
    assert not any(any(of.cells) for of in left.subgroups)


# Differencing over several runs


def columns_that_leave(hospital: Hospital, memory: Path) -> set[str]:
    """Columns whose subgroups leave in a new run of this hospital."""
    chosen = release_memory.choose_rows(hospital, memory, MIN_CELL)
    left = disclose(evaluation_of(chosen), chosen, Policy(), is_final=True)
    task = hospital.task
    found = {group.column for group, of in zip(subgroups_of(task), left.subgroups, strict=True) if any(of.cells)}
    if found != set(task.subgroups):
        assert left.suppressed == {"subgroups": DIFFERENCING}
    return found


def more_patients(women: int, men: int) -> Patients:
    """So many patients of each class, all of age 55."""
    rows = patients_of(2 * (women + men), 7, age=55.0)
    rows.values[:, SEX] = np.repeat([0, 1], [2 * women, 2 * men])
    return Patients(rows.values, (np.arange(len(rows)) % 2).astype(np.float32))


def test_the_same_patients_leave_again(tmp_path: Path) -> None:
    hospital = hospital_of(patients_of(400))
    for _ in range(2):
        assert columns_that_leave(hospital, tmp_path / "memory.json") == {"sex", "age"}


@pytest.mark.parametrize(("women", "men", "column_leaves"), [(1, 9, False), (9, 1, False), (9, 9, True), (0, 9, True)])
def test_few_new_patients_of_a_group_suppress_its_column(
    tmp_path: Path, women: int, men: int, column_leaves: bool
) -> None:
    before = patients_of(400)
    columns_that_leave(hospital_of(before), tmp_path / "memory.json")
    after = hospital_of(Patients.concatenate([before, more_patients(women, men)]))
    assert columns_that_leave(after, tmp_path / "memory.json") == ({"sex", "age"} if column_leaves else {"age"})


def test_another_edge_of_a_band_is_no_second_question(tmp_path: Path) -> None:
    """The groups under 50 and under 51 would differ by the patients of 50 years."""
    rows = patients_of(400)
    rows.values[rows.values[:, AGE] == 50, AGE] = 49
    rows.values[7, AGE] = 50
    columns_that_leave(hospital_of(rows), tmp_path / "memory.json")
    moved = replace(HEART_DISEASE, subgroups={"sex": (), "age": (51.0, 60.0)})
    assert columns_that_leave(hospital_of(rows, moved), tmp_path / "memory.json") == {"sex"}


def test_an_edge_that_moves_many_patients_is_another_question(tmp_path: Path) -> None:
    rows = patients_of(600)
    columns_that_leave(hospital_of(rows), tmp_path / "memory.json")
    moved = replace(HEART_DISEASE, subgroups={"sex": (), "age": (40.0, 60.0)})
    assert columns_that_leave(hospital_of(rows, moved), tmp_path / "memory.json") == {"sex", "age"}


def test_only_groups_that_are_remembered_leave() -> None:
    """By their classes, the second group would be found from the total and the first one, so it is not remembered.

    It does not leave either where a small cell of the first one hides both.
    """
    cells = [(40, 40, 40, 4), (10, 10, 10, 10), (1, 1, 1, 1)]
    assert released(groups(3), cells, np.sum(cells, axis=0).tolist()) == [False, False, False]


# What the server reads


def content_of(subgroups: Sequence[GroupFigures], hospital: Hospital) -> Any:
    return replace(evaluation_of(hospital), subgroups=subgroups).to_content()


def test_the_server_reads_what_the_hospital_sends() -> None:
    hospital = hospital_of(patients_of(300))
    evaluation = disclose(evaluation_of(hospital), hospital, Policy(), is_final=True)
    read = read_evaluation(evaluation.to_content(), TARGET, 300, final=True, task=HEART_DISEASE)
    assert list(read.subgroups) == list(evaluation.subgroups)
    assert read.suppressed == evaluation.suppressed


WRONG = {
    "true_positives": [-1.0, 0.5, 1e6, np.nan],
    "expected": [-1.0, 1e9, np.inf],
    "excess_variance": [-1.0, 1e12],
    "sensitivity_number": [-1.0, 0.9, 1e6],
    "roc_auc": [-0.1, 1.1],
    "auc_variance": [-0.1, 1e-30, 0.6],
    "intercept": [1e40],
    "intercept_variance": [-1.0, 5e-324, 1e9],
    "slope": [1e3],
    "slope_variance": [-1e-9, 0.0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_impossible_figures_are_rejected(name: str, value: float) -> None:
    hospital = hospital_of(patients_of(300))
    first, *others = evaluation_of(hospital).subgroups
    with pytest.raises(MalformedMessageError, match="subgroups"):
        read_evaluation(
            content_of([replace(first, **{name: value}), *others], hospital),
            TARGET,
            300,
            final=True,
            task=HEART_DISEASE,
        )


@pytest.mark.parametrize("seed", range(20))
def test_no_honest_figures_are_rejected(seed: int) -> None:
    """Patients with many rows of both classes, and scores that say little or far too much."""
    generator = np.random.default_rng(seed)
    number_of_rows = generator.choice([2, 4, 100], int(generator.integers(5, 9)))
    patients = np.repeat(np.arange(len(number_of_rows)), number_of_rows)
    labels = np.arange(len(patients)) % 2
    scores = (generator.normal(size=len(number_of_rows)) * generator.choice([0.0, 0.1, 50, 800]))[patients]
    values = np.zeros((len(patients), 1))
    measured = measure_groups(groups(1), values, scores, labels.astype(np.float32), 0.5, patients)

    for figures in (measured[0], round_figures(measured[0])):
        metrics = MetricRecord({"subgroups": figures.sent + [0.0] * len(NAMES) * 4})
        read_subgroups(metrics, HEART_DISEASE, None, len(patients))


def test_figures_that_are_accepted_can_be_shown_whatever_they_are() -> None:
    """The server summarises the most extreme figures that it accepts, of one hospital and together with another."""
    generator = np.random.default_rng(0)
    honest = evaluation_of(hospital_of(patients_of(300))).subgroups
    for _ in range(200):
        negatives = generator.choice([5.0, 1e6])
        most = {
            "roc_auc": generator.choice([0.0, 1.0]),
            "auc_variance": generator.choice([1e-20, 0.5]),
            "intercept": generator.choice([-1e38, 1e38]),
            "intercept_variance": generator.choice([1e-20, 1e6]),
            "expected": generator.choice([0.0, 5e-324, 1.0]),
            "excess_variance": generator.choice([0.0, 8 * (5 + negatives) ** 2]),
            "sensitivity_number": 1.0,
        }
        first = GroupFigures(true_positives=5.0, true_negatives=negatives, **most)
        metrics = MetricRecord({"subgroups": first.sent + honest[1].sent + [0.0] * len(NAMES) * 3})
        read = read_subgroups(metrics, HEART_DISEASE, None, 10**8)
        json.dumps(summarise_subgroups(HEART_DISEASE, {"a": read, "b": honest}), allow_nan=False)


def test_groups_of_more_rows_than_the_hospital_has_are_rejected() -> None:
    hospital = hospital_of(patients_of(300))
    women, men, *others = evaluation_of(hospital).subgroups
    swapped = replace(women, true_positives=women.true_positives + 1)
    for sent in ([swapped, men, *others], [women, men, *others][:-1]):
        with pytest.raises(MalformedMessageError, match="subgroups"):
            read_evaluation(content_of(sent, hospital), TARGET, 300, final=True, task=HEART_DISEASE)


@pytest.mark.parametrize("task", [None, task_of("binary")])
def test_subgroups_that_the_task_does_not_declare_are_rejected(task: Task | None) -> None:
    hospital = hospital_of(patients_of(300))
    content = evaluation_of(hospital).to_content()
    with pytest.raises(MalformedMessageError):
        read_evaluation(content, TARGET, 300, final=True, task=task)


def test_a_message_has_the_size_that_the_release_states() -> None:
    hospital = hospital_of(patients_of(300))
    sent = evaluation_of(hospital).to_content().metric_records["metrics"]["subgroups"]
    assert size_of("subgroups", HEART_DISEASE, None) == 8 * len(sent) == 8 * 5 * len(NAMES)  # type: ignore[arg-type]
    assert len(NOTHING.sent) == len(NAMES)
