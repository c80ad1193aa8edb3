"""A server's run whose hospitals suppress figures: some, one, all or none of them."""

import csv
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from federated_health.cli import run_results
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import RunError
from federated_health.messages import content as messages
from federated_health.messages.benefit import Benefit
from federated_health.messages.content import (
    FINAL_EVALUATION,
    REASONS,
    ROUND_EVALUATION,
    SMALL_CELL,
    SWITCHED_OFF,
    Evaluation,
    Registration,
    TrainingScores,
    Update,
)
from federated_health.messages.records import MalformedMessageError
from federated_health.messages.releases import RELEASES
from federated_health.messages.validation import read_evaluation, read_registration, read_training_scores, read_update
from federated_health.ml.networks import Network, initial_weights, weight_shapes
from federated_health.ml.normalisation import withheld_sums
from federated_health.ml.rounds import rounds_csv
from federated_health.ml.strategies import STRATEGIES
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts
from federated_health.report.page import Picture, Table, render
from federated_health.server.plain_run import PlainRun
from federated_health.server.problem_log import ProblemLog
from federated_health.server.suspicious_hospitals import describe_uncovered_rows
from tests.support.example_run import Replies, benefit, blocks, page_of, rows, section
from tests.support.light_hospitals import FINAL_RELEASES, ROWS, run_of, three, three_with_scores

TARGET = target_of(HEART_DISEASE)
GROUPS = ["", "b", "ac", "abc"]


def completed(names: str, strategy: str = "fedavg") -> tuple[PlainRun, dict[str, Any]]:
    """A run in which the hospitals of these names suppress."""
    hospitals = three()
    for hospital in hospitals:
        hospital.suppresses = hospital.name in names
    run = run_of(hospitals, strategy=strategy)
    return run, run.run()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("names", ["b", "abc"])
def test_weights_are_the_same_whoever_suppresses(strategy: str, names: str) -> None:
    plain, _ = completed("", strategy)
    run, _ = completed(names, strategy)

    assert all(np.array_equal(run.weights[name], plain.weights[name]) for name in plain.weights)
    assert not run.problems.rejected


@pytest.mark.parametrize("names", GROUPS)
def test_no_total_is_over_a_hospital_that_suppresses(names: str) -> None:
    """Totals over all, minus those over the others, would be its figures."""
    run, figures = completed(names)
    others = [name for name in ROWS if name not in names]

    rows = 2 * sum(ROWS[name] for name in others)
    for part in run.history:
        assert (part.federation.counts.examples if part.federation.counts else 0) == rows
        assert [name for name, hospital in part.hospitals.items() if hospital.counts] == others
    assert figures["federation"]["test_examples"] == rows
    assert figures["federation"]["train_examples"] == sum(ROWS.values())
    for name in names:
        own = {key: value for key, value in figures["hospitals"][name].items() if key != "train_examples"}
        assert own == dict.fromkeys(own)
    is_defined = figures["federation"]["roc_auc"] is not None and figures["federation"]["mean_roc_auc"] is not None
    assert is_defined == bool(others)


def test_scores_of_a_hospital_without_counts_are_in_no_total() -> None:
    """A policy may allow the scores alone; the federation's ROC-AUC is over the same patients as its other figures."""
    cells = {"positives": np.array([[10.0, 2.0, 0.0]]), "negatives": np.array([[10.0, -2.0, 0.0]])}
    mixed = {"positives": np.array([[10.0, 0.0, 0.0]]), "negatives": np.array([[10.0, 0.0, 0.0]])}
    suppressed = {FINAL_EVALUATION: SMALL_CELL}
    hospitals = {
        "a": Replies(final=Evaluation(counts=Counts(10, 0, 10, 0), roc_auc=1.0, scores=cells)),
        "b": Replies(final=Evaluation(counts=Counts(), roc_auc=0.5, scores=mixed, suppressed=suppressed)),
    }

    table = blocks(section(page_of(hospitals), "How good the model is"), Table)[0]

    column = table.columns.index("ROC-AUC") - 1
    assert rows(table)["federation"][column] == rows(table)["hospital mean"][column].rstrip(" *") == "1.000"
    assert rows(table)["b"][column] == "0.500"


@pytest.mark.parametrize("names", GROUPS)
def test_rounds_csv_is_blank_where_figures_are_suppressed(names: str) -> None:
    run, _ = completed(names)
    table = list(csv.DictReader(rounds_csv(run.history, TARGET).splitlines()))

    for row in table:
        is_blank = row["hospital"] in names or (row["hospital"] == "federation" and names == "abc")
        assert (row["test_loss"] == "") == (row["test_accuracy"] == "") == is_blank
        assert row["train_loss"] == "1.000000"


@pytest.mark.parametrize("names", GROUPS)
def test_the_table_the_problems_and_metrics_name_who_suppresses_and_why(
    names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, figures = completed(names)
    suppressed = [name for name, part in run.evaluations.items() if not part.has_counts]
    run_results.print_final_figures(figures, run.threshold, TARGET, suppressed)
    printed = capsys.readouterr().out

    assert ("Suppressed" in printed) == bool(names)
    assert sorted(json.loads(json.dumps(run.problems.to_json())).get("suppressed", {})) == list(names)
    for name in names:
        assert any(line.startswith(f"{name}:") and SMALL_CELL in line for line in run.problems.describe())
    restored = ProblemLog()
    restored.restore(json.loads(json.dumps(run.problems.to_json())))
    assert restored.describe() == run.problems.describe()


def test_the_threshold_is_chosen_from_those_who_send_scores() -> None:
    hospitals = three_with_scores()
    without = run_of([replace(hospital, suppresses=hospital.name == "b") for hospital in hospitals])
    removed = run_of(
        [replace(hospital, cells=((), ())) if hospital.name == "b" else hospital for hospital in hospitals]
    )
    without.run()
    removed.run()

    assert without.threshold == removed.threshold


def test_the_threshold_stays_at_a_half_if_all_suppress() -> None:
    run = run_of([replace(hospital, suppresses=True) for hospital in three_with_scores()])
    run.run()

    assert run.threshold == 0.5


def test_a_run_that_ends_early_keeps_the_round_whose_figures_all_suppress() -> None:
    hospitals = [replace(hospital, suppresses=True) for hospital in three()]
    run = run_of(hospitals, strategy="fedmedian", wait=0.02)  # which needs three updates
    run.gather()
    rounds = run.rounds()
    next(rounds)
    hospitals[2].fails = True  # after its update of round 2

    assert next(rounds).federation.counts is None
    with pytest.raises(RunError):
        next(rounds)
    assert run.last_round is not None
    assert run.last_round.number == 2
    assert run.figures_of_last_round() == {"hospitals": {}, "federation": None}


@pytest.mark.parametrize("names", GROUPS)
def test_pages_are_written_whoever_suppresses(names: str) -> None:
    none = Evaluation(counts=Counts(), suppressed=dict.fromkeys(FINAL_RELEASES, SMALL_CELL))
    no_benefit = Benefit.suppress(len(HEART_DISEASE.columns), {"appraisal": SWITCHED_OFF})
    hospitals = {
        name: Replies(final=none, benefit=no_benefit) if name in names else Replies(benefit=benefit()) for name in "abc"
    }

    page = page_of(hospitals)

    text = render(page)
    assert ("Suppressed by the hospital" in text) == bool(names)
    drawn = [block.alt for part in page.sections for block in blocks(part, Picture) if "true negatives" in block.alt]
    assert len(drawn) == (names != "abc")
    for name in names:
        assert f"{name}: " not in "".join(drawn)


# Validation


def content_of(*, suppressed: dict[str, str]) -> RecordDict:
    return Evaluation(counts=Counts(), suppressed=suppressed).to_content()


def test_figures_may_be_absent_only_if_the_reply_says_so() -> None:
    content, silent = (content_of(suppressed={FINAL_EVALUATION: SMALL_CELL}) for _ in range(2))
    del silent["disclosure"]

    assert not read_evaluation(content, TARGET, 20, final=True).has_counts

    with pytest.raises(MalformedMessageError):
        read_evaluation(silent, TARGET, 20, final=True)


@pytest.mark.parametrize(
    "suppressed",
    [
        {"another": SMALL_CELL},
        {ROUND_EVALUATION: SMALL_CELL},  # not of this message
        {FINAL_EVALUATION: "63 year old Smith"},
        {FINAL_EVALUATION: SMALL_CELL, "weights": SMALL_CELL},
    ],
)
def test_unknown_releases_and_reasons_are_rejected_without_quoting_them(suppressed: dict[str, str]) -> None:
    with pytest.raises(MalformedMessageError) as raised:
        read_evaluation(content_of(suppressed=suppressed), TARGET, 20, final=True)

    assert "Smith" not in str(raised.value)


def test_figures_that_are_said_to_be_suppressed_may_not_be_sent() -> None:
    content = Evaluation(counts=Counts(5, 5, 5, 5)).to_content()
    content["disclosure"] = content_of(suppressed={FINAL_EVALUATION: SMALL_CELL})["disclosure"]

    with pytest.raises(MalformedMessageError):
        read_evaluation(content, TARGET, 20, final=True)


def test_an_update_without_counts_says_so() -> None:
    weights = initial_weights(HEART_DISEASE, Network("logistic"), 1)
    shapes = weight_shapes(HEART_DISEASE, Network("logistic"))
    update = Update(weights=weights, examples=30, loss=0.5, suppressed={ROUND_EVALUATION: SMALL_CELL})

    read = read_update(update.to_content(), shapes, 30, evaluated=10, target=TARGET)
    assert read.counts is None
    assert read.suppressed == update.suppressed
    with pytest.raises(MalformedMessageError):
        read_update(replace(update, suppressed={}).to_content(), shapes, 30, evaluated=10, target=TARGET)


def test_registrations_and_training_scores_say_what_they_lack() -> None:
    measurements, nothing = HEART_DISEASE.measurements, np.zeros((0, 3))
    suppressed = {"row-counts": SMALL_CELL, "class-counts": SMALL_CELL, "column-sums": SMALL_CELL}
    registration = Registration(
        name="basel",
        train_examples=30,
        test_examples=0,
        sums=withheld_sums(len(measurements)),
        class_counts=(0, 0),
        suppressed=suppressed,
    )
    read = read_registration(registration.to_content(), measurements, 28, 2)
    assert (read.test_examples, read.class_counts, read.sums.are_released) == (0, (0, 0), False)

    scores = TrainingScores(positives=nothing, negatives=nothing, suppressed={"threshold-scores": SMALL_CELL})
    assert len(read_training_scores(scores.to_content(), 30).positives) == 0
    content = scores.to_content()
    del content["disclosure"]
    with pytest.raises(MalformedMessageError):
        read_training_scores(content, 30)


def test_what_may_be_suppressed_is_explained() -> None:
    names = ("ROW_COUNTS", "COLUMN_SUMS", "ROUND_EVALUATION", "ROC_AUC", "SCORES", "THRESHOLD_SCORES", "APPRAISAL")
    released = {getattr(messages, name) for name in (*names, "FINAL_EVALUATION", "CLASS_COUNTS", "ASSOCIATIONS")}
    assert released <= RELEASES.keys()
    assert not any(character.isdigit() for reason in REASONS for character in reason)


def test_suppressed_counts_are_not_suspicious() -> None:
    suppressed = {"row-counts": SMALL_CELL, "class-counts": SMALL_CELL}
    registration = Registration(
        name="basel", train_examples=300, test_examples=0, sums=withheld_sums(5), class_counts=(0, 0)
    )

    assert len(describe_uncovered_rows(registration)) == 2
    assert not describe_uncovered_rows(replace(registration, suppressed=suppressed))
