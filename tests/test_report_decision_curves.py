"""The section with decision curves, of runs and of studies."""

from dataclasses import replace

import numpy as np
import pytest

from federated_health.ml.decision_curves import THRESHOLDS, count_decisions
from federated_health.report.decision_curves import curves_of_run, decision_sections
from federated_health.report.page import Picture, Table
from federated_health.studies.benefit.decision_curves import describe_decision_curves
from tests.support.example_run import Replies, blocks, evaluation, page_of, rows, section
from tests.test_ml_decision_curves import patients

HOSPITALS = {"basel": Replies(), "bern": Replies(final=evaluation(tp=9, fn=2))}


def test_a_run_shows_each_hospital_and_all_together() -> None:
    (part,) = [of for of in page_of(HOSPITALS).sections if of.title == "Decision curves"]
    (table,) = blocks(part, Table)
    assert list(rows(table)) == ["basel", "bern", "federation"]
    (picture,) = blocks(part, Picture)
    assert picture.svg.count("<svg") == 3
    assert "95 % intervals" in picture.caption


def test_the_net_benefit_at_the_threshold_is_exact() -> None:
    """17 of 22 positives and 4 of 18 negatives are treated, from 0.42 on."""
    text = " ".join(str(block) for block in section(page_of(HOSPITALS), "Decision curves").blocks)
    assert f"{17 / 40 - 4 / 40 * 0.42 / 0.58:.3f}" in text
    assert f"{22 / 40 - 18 / 40 * 0.42 / 0.58:.3f}" in text


def test_a_hospital_without_groups_of_scores_is_named() -> None:
    hospitals = {**HOSPITALS, "genf": Replies(final=evaluation(cells=False))}
    (picture,) = blocks(section(page_of(hospitals), "Decision curves"), Picture)
    assert "Without a curve: genf" in picture.caption


def test_without_groups_of_scores_there_is_no_section() -> None:
    page = page_of({"basel": Replies(final=evaluation(cells=False))})
    assert not any(of.title == "Decision curves" for of in page.sections)


def test_rows_of_patients_with_several_have_no_band() -> None:
    curves, _ = curves_of_run({"basel": evaluation()}, "federation", are_patients=False)
    assert curves["federation"]["federated"].band is None
    (part,) = decision_sections(curves, "Held-out patients.", "federation")
    (picture,) = blocks(part, Picture)
    assert "interval" not in picture.caption


def test_curves_of_a_run_count_all_rows() -> None:
    curves, _ = curves_of_run({"basel": evaluation()}, "federation", are_patients=True)
    counts = curves["basel"]["federated"]
    assert (counts.positives, counts.rows) == (11, 20)  # ten of the positives are in a cell
    suppressed = replace(evaluation(), suppressed={"final-evaluation": "too few patients in a cell"})
    curves, _ = curves_of_run({"basel": suppressed}, "federation", are_patients=True)
    assert curves["basel"]["federated"].rows == 19


def test_a_study_shows_the_own_model_too() -> None:
    scores, labels = patients(120)
    worse = scores + np.random.default_rng(2).normal(0, 2, 120)
    models = {"federated": count_decisions(scores, labels), "own": count_decisions(worse, labels)}
    (part,) = decision_sections({"basel": models, "all patients": models}, "Out-of-fold risks.", "all patients")

    (table,) = blocks(part, Table)
    assert [column.split(",")[0] for column in table.columns[1:4]] == ["federated", "own", "everybody"]
    (picture,) = blocks(part, Picture)
    assert "thin: own" in picture.caption

    described = describe_decision_curves({"basel": models})
    assert described["thresholds"] == THRESHOLDS.tolist()
    of_own = described["basel"]["own"]
    assert of_own["net_benefit"] == pytest.approx(models["own"].net_benefit)
    low, value, high = (np.array(of_own[name]) for name in ("low", "net_benefit", "high"))
    assert ((low <= value) & (value <= high)).all()
    assert described["basel"]["treat_all"][0] == pytest.approx(labels.mean() - (1 - labels.mean()) / 99)


def test_nothing_is_shown_without_curves() -> None:
    assert list(decision_sections({}, "")) == []
