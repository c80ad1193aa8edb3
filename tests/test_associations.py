"""The association of the label with each column, and what it shows of inverted labels."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.data.associations import measure_associations
from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.hospital import Hospital, Patients
from federated_health.data.label_direction import column_positions, compare, expected_associations, find_inverted_labels
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source, generate_readmission
from federated_health.data.split import split_rows
from federated_health.data.task_files import HEART_DISEASE, READMISSION
from federated_health.data.tasks import Task
from federated_health.hospital import handlers
from federated_health.hospital.handlers import InMemoryHospital, answer
from federated_health.messages.content import CONFIG, REGISTRATION, SUMS_WITHHELD
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from tests.support.labels import DAYS, STAGES, VISITS

Registered = tuple[dict[str, npt.NDArray[np.float64]], dict[str, int]]
"""Associations and numbers of training rows by hospital."""

PAIR = Task(
    name="pair",
    columns=(
        Measurement("dose", "dose", "mg", low=0, high=100, association="positive"),
        Category("grade", "grade", {1: "low", 2: "middle", 3: "high"}, risk_codes=(3,)),
    ),
    label=Label("event", "an event"),
)


def without_expectation(task: Task) -> Task:
    columns = [
        replace(column, association=None) if isinstance(column, Measurement) else replace(column, risk_codes=())
        for column in task.columns
    ]
    return replace(task, columns=tuple(columns))


def training_rows(rows: pd.DataFrame, task: Task, seed: int = 42) -> Patients:
    return Patients.from_table(rows, task).take(split_rows(rows, task.label.name, seed)[0])


def register(hospitals: Mapping[str, pd.DataFrame], task: Task, seed: int = 42) -> Registered:
    """Those of hospitals that may join."""
    large = {name: rows for name, rows in hospitals.items() if len(rows) >= 8}
    train = {name: training_rows(rows, task, seed) for name, rows in large.items()}
    found = {name: measure_associations(rows.values, rows.labels, task) for name, rows in train.items()}
    return found, {name: len(rows) for name, rows in train.items()}


def invert(registered: Registered, names: Iterable[str]) -> Registered:
    """An inverted label turns each correlation."""
    return registered[0] | {name: -registered[0][name] for name in names}, registered[1]


@pytest.fixture(scope="module")
def hospitals(uci: Source) -> dict[str, pd.DataFrame]:
    return divide(uci, Partition(by="hospital", seed=42))


# Measuring


def test_associations_are_correlations_as_numpy_computes_them() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 60).astype(np.float64)
    dose, grade = labels * 3 + generator.normal(size=60) + 10, generator.integers(1, 4, 60).astype(np.float64)

    found = measure_associations(np.column_stack([dose, grade]), labels, PAIR)

    expected = [np.corrcoef(labels, feature)[0, 1] for feature in (dose, grade == 1, grade == 2, grade == 3)]
    assert list(column_positions(PAIR)) == [0, 1, 1, 1]
    np.testing.assert_allclose(found, np.round(expected, 2))


@pytest.mark.parametrize("label", [STAGES, DAYS, VISITS])
def test_only_a_binary_label_has_associations(label: Label) -> None:
    labels = np.repeat([0.0, 1.0], 30)
    values = np.column_stack([labels * 3, labels + 1])
    assert measure_associations(values, labels, PAIR).any()
    task = replace(without_expectation(PAIR), label=label)
    assert measure_associations(values, labels, task).tolist() == [0] * 4
    assert find_inverted_labels({"a": np.zeros(4), "b": np.zeros(4)}, {"a": 60, "b": 60}, task) == {}


def test_a_missing_cell_counts_as_the_mean_of_the_others() -> None:
    labels = np.repeat([0.0, 1.0], 10)
    dose = np.arange(20.0)
    dose[[3, 12]] = np.nan

    found = measure_associations(np.column_stack([dose, np.ones(20)]), labels, PAIR)

    assert found[0] == round(np.corrcoef(labels, np.where(np.isnan(dose), np.nanmean(dose), dose))[0, 1], 2)


def test_the_phi_coefficient_of_a_code_worked_by_hand() -> None:
    """12 of 20 positive and 4 of 20 negative rows have the code: phi = (12 * 16 - 8 * 4) / sqrt(20 * 20 * 16 * 24)."""
    labels = np.repeat([1.0, 0.0], 20)
    grade = np.array([3.0] * 12 + [1.0] * 8 + [3.0] * 4 + [1.0] * 16)

    found = measure_associations(np.column_stack([np.full(40, 7.0), grade]), labels, PAIR)

    assert list(found) == [0, -0.41, 0, 0.41]  # 160 / 391.9; the dose never varies, and no row has code 2


@pytest.mark.parametrize(("positives", "released"), [(4, False), (5, True)])
def test_an_association_over_fewer_than_five_rows_of_a_class_is_withheld(positives: int, released: bool) -> None:
    labels = np.array([1.0] * positives + [0.0] * 30)
    values = np.column_stack([labels + np.arange(len(labels)), 1 + labels])

    assert bool(measure_associations(values, labels, PAIR).any()) is released


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize(("rows", "released"), [(4, False), (5, True)])
def test_an_association_of_a_code_of_fewer_than_five_rows_or_of_nearly_all_is_withheld(
    rows: int, released: bool, others: bool
) -> None:
    labels = np.repeat([1.0, 0.0], 20)
    grade = np.array([2.0] * rows + [1.0] * (40 - rows))
    if others:
        grade = 3 - grade

    found = measure_associations(np.column_stack([np.full(40, np.nan), grade]), labels, PAIR)

    assert found[0] == 0
    assert (found[1] != 0, found[2] != 0) == (released, released)


def test_expected_signs_are_those_that_the_task_declares() -> None:
    assert list(expected_associations(PAIR)) == [1, -1, -1, 1]
    assert not expected_associations(without_expectation(HEART_DISEASE)).any()


# Comparing


def test_evidence_of_one_column_is_its_z_score() -> None:
    own, others = np.array([-0.4, 0, 0, 0]), np.array([0.5, 0, 0, 0.3])

    found = compare(own, 101, others, PAIR)

    assert found.evidence == pytest.approx(-4.0)  # 0.4 * sqrt(100)
    assert (found.opposite, found.strong) == (1, 1)
    assert found.direction == -1
    assert compare(own, 37, others, PAIR).direction == 0  # -2.4: one column needs more evidence


def test_columns_are_combined_as_correlated_z_scores() -> None:
    """Weights 0.6 and 0.2, z-scores 3 and -1: (1.8 - 0.2) / sqrt(0.7 * 0.4 + 0.3 * 0.64)."""
    own, others = np.array([0.3, 0, 0, -0.1]), np.array([0.6, 0, 0, 0.2])

    found = compare(own, 101, others, PAIR)

    assert found.evidence == pytest.approx(1.6 / np.sqrt(0.472))
    assert (found.opposite, found.strong, found.direction) == (1, 2, 0)  # as many columns for as against


def test_columns_in_which_the_others_are_weak_do_not_count() -> None:
    assert compare(np.full(4, -0.9), 1000, np.full(4, 0.09), PAIR).strong == 0


# Finding inverted labels


def test_no_real_hospital_is_reported(hospitals: dict[str, pd.DataFrame]) -> None:
    for seed in range(5):
        assert find_inverted_labels(*register(hospitals, HEART_DISEASE, seed), HEART_DISEASE) == {}


@pytest.mark.parametrize("name", ["cleveland", "hungary", "va-long-beach"])
@pytest.mark.parametrize("task", [HEART_DISEASE, without_expectation(HEART_DISEASE)], ids=["declared", "undeclared"])
def test_a_real_hospital_whose_label_is_inverted_is_reported_alone(
    hospitals: dict[str, pd.DataFrame], name: str, task: Task
) -> None:
    inverted = {**hospitals, name: hospitals[name].assign(disease=1 - hospitals[name]["disease"])}

    found = find_inverted_labels(*register(inverted, task), task)

    assert list(found) == [name]
    ((opposite, strong),) = re.findall(r"in (\d+) of (\d+) columns .* the other hospitals", found[name])
    assert int(strong) / 2 < int(opposite) <= int(strong)


def test_a_hospital_with_few_patients_of_a_class_may_be_missed_but_blames_no_other(
    hospitals: dict[str, pd.DataFrame],
) -> None:
    """Switzerland has 6 training patients without disease; of 50 splits the inversion is found in 29."""
    registered = [register(hospitals, HEART_DISEASE, seed) for seed in range(5)]
    found = [find_inverted_labels(*invert(each, ["switzerland"]), HEART_DISEASE) for each in registered]
    assert all(set(each) <= {"switzerland"} for each in found)


@pytest.mark.parametrize("by", ["dirichlet", "iid"])
def test_partitions_give_no_false_alarm_and_an_inverted_large_hospital_is_reported(uci: Source, by: str) -> None:
    alpha = 0.5 if by == "dirichlet" else None
    for seed in range(12):
        parts = divide(uci, Partition(by=by, seed=seed, hospitals=3 + seed % 8, alpha=alpha))
        registered = register(parts, HEART_DISEASE)
        assert find_inverted_labels(*registered, HEART_DISEASE) == {}
        largest = max(parts, key=lambda name: parts[name]["disease"].value_counts().reindex([0, 1]).fillna(0).min())
        assert set(find_inverted_labels(*invert(registered, [largest]), HEART_DISEASE)) == {largest}


def test_of_two_hospitals_the_task_s_declaration_says_which_is_inverted(hospitals: dict[str, pd.DataFrame]) -> None:
    registered = register({name: hospitals[name] for name in ("cleveland", "hungary")}, HEART_DISEASE)
    assert find_inverted_labels(*registered, HEART_DISEASE) == {}
    for name in registered[0]:
        found = find_inverted_labels(*invert(registered, [name]), HEART_DISEASE)
        assert list(found) == [name]
        assert "the task's declaration" in found[name]


def test_two_hospitals_that_contradict_each_other_are_both_named_without_a_declaration(
    hospitals: dict[str, pd.DataFrame],
) -> None:
    task = without_expectation(HEART_DISEASE)
    for pair in combinations(("cleveland", "hungary", "va-long-beach"), 2):
        registered = register({name: hospitals[name] for name in pair}, task)
        assert find_inverted_labels(*registered, task) == {}
        found = find_inverted_labels(*invert(registered, pair[:1]), task)
        assert set(found) == set(pair)
        assert pair[1] in found[pair[0]]
        assert "or that of" in found[pair[0]]
        counts = [map(int, re.findall(r"in (\d+) of (\d+) columns", text)[0]) for text in found.values()]
        assert all(opposite > strong / 2 for opposite, strong in counts)


def test_if_most_hospitals_are_inverted_the_task_s_declaration_shows_it(hospitals: dict[str, pd.DataFrame]) -> None:
    registered = register(hospitals, HEART_DISEASE)
    found = find_inverted_labels(*invert(registered, ["cleveland", "hungary", "va-long-beach"]), HEART_DISEASE)
    assert {"cleveland", "hungary"} <= set(found)
    assert "the task's declaration" in found["cleveland"]


@pytest.mark.parametrize("inverted", ["university", "community", None])
def test_readmission_with_two_hospitals(inverted: str | None) -> None:
    registered = register(divide(generate_readmission(4000, seed=1), Partition(by="hospital", seed=1)), READMISSION)
    found = find_inverted_labels(*invert(registered, [inverted] if inverted else []), READMISSION)
    assert list(found) == ([inverted] if inverted else [])


def test_hospitals_that_withhold_associations_are_not_reported(hospitals: dict[str, pd.DataFrame]) -> None:
    associations, rows = invert(register(hospitals, HEART_DISEASE), ["cleveland"])
    withheld = {**associations, "cleveland": np.zeros(0), "hungary": np.zeros(28)}
    assert find_inverted_labels(withheld, rows, HEART_DISEASE) == {}
    assert find_inverted_labels({}, {}, HEART_DISEASE) == {}


def test_hospitals_whose_label_depends_on_nothing_are_not_reported() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        tables = {
            name: Patients(
                np.column_stack([generator.normal(50, 9, 200), generator.integers(1, 4, 200)]).astype(np.float64),
                generator.integers(0, 2, 200).astype(np.float32),
            )
            for name in "abcdef"
        }
        found = {name: measure_associations(rows.values, rows.labels, PAIR) for name, rows in tables.items()}
        assert find_inverted_labels(found, dict.fromkeys(tables, 200), without_expectation(PAIR)) == {}


# In a run


def in_memory(name: str, rows: pd.DataFrame) -> InMemoryHospital:
    train, test = split_rows(rows, "disease", 42)
    patients = Patients.from_table(rows, HEART_DISEASE)
    return InMemoryHospital(Hospital(name, HEART_DISEASE, patients.take(train), patients.take(test)))


def gather(tables: Mapping[str, pd.DataFrame], **changes: Any) -> tuple[PlainRun, list[str]]:
    """A run that has gathered these hospitals, and what it announced."""
    contexts = {name: in_memory(name, rows) for name, rows in tables.items()}
    settings = replace(Settings(), hospitals=len(tables), rounds=1, **changes)
    run, lines = PlainRun(InProcessTransport(answer, contexts), settings), list[str]()
    run.gather(lines.append)
    assert set(run.registrations) == set(tables)
    return run, lines


def test_a_run_announces_and_counts_a_hospital_whose_label_is_inverted(hospitals: dict[str, pd.DataFrame]) -> None:
    tables = {**hospitals, "hungary": hospitals["hungary"].assign(disease=1 - hospitals["hungary"]["disease"])}

    run, lines = gather(tables)

    (line,) = [line for line in lines if "opposite" in line]
    assert line.startswith("hungary: ")
    assert list(run.problems.to_json()["data_warnings"]) == ["hungary"]
    assert line in run.problems.describe()
    run.participants.check_registrations()  # as at the end of a run
    assert run.problems.describe().count(line) == 1


def test_a_run_of_the_real_hospitals_announces_nothing_suspicious(hospitals: dict[str, pd.DataFrame]) -> None:
    run, lines = gather(hospitals)
    assert run.problems.describe() == []
    assert len(lines) == 1


def test_a_run_reports_one_csv_that_joined_twice_whatever_the_order_of_its_rows(
    hospitals: dict[str, pd.DataFrame],
) -> None:
    tables = {**hospitals, "copy": hospitals["hungary"].iloc[::-1].reset_index(drop=True)}

    run, lines = gather(tables)

    warnings = run.problems.to_json()["data_warnings"]
    assert set(warnings) == {"copy", "hungary"}
    assert "hungary" in warnings["copy"][0]
    assert sum("twice" in line for line in lines) == 2


@pytest.mark.slow
def test_under_differential_privacy_nothing_is_released_and_nothing_claimed(
    hospitals: dict[str, pd.DataFrame],
) -> None:
    run, _ = gather({"a": hospitals["hungary"], "b": hospitals["hungary"]}, dp_epsilon=2.0)
    assert all(not registration.associations.size for registration in run.registrations.values())
    assert run.problems.to_json()["data_warnings"] == {}


@pytest.mark.parametrize("is_withheld", [False, True])
def test_secure_aggregation_gets_no_associations(hospitals: dict[str, pd.DataFrame], is_withheld: bool) -> None:
    config: dict[str, Any] = {"task": HEART_DISEASE.name, "schema": HEART_DISEASE.schema_hash}
    config |= {SUMS_WITHHELD: True} if is_withheld else {}
    request = Message(RecordDict({CONFIG: ConfigRecord(config)}), 1, REGISTRATION)

    registration = handlers.register(request, in_memory("hungary", hospitals["hungary"]))

    assert bool(registration.associations.size) is not is_withheld
    assert ("associations" in registration.to_content().metric_records["metrics"]) is not is_withheld


def test_the_problem_log_keeps_data_warnings_over_a_restart() -> None:
    run, restored = (PlainRun(InProcessTransport(answer, {}), Settings()) for _ in range(2))
    run.problems.warn("b", "something")
    content = run.problems.to_json()
    restored.problems.restore(content)
    assert restored.problems.describe() == ["b: something"]
    del content["data_warnings"]  # a checkpoint of an earlier release
    restored.problems.restore(content)
    assert restored.problems.describe() == []
