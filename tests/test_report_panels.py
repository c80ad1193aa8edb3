"""What pages say and draw of each kind of label."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from federated_health.data.labels import ClassLabel
from federated_health.ml.metrics import merge_counts
from federated_health.ml.targets import target_of
from federated_health.report.cells import figure_cell, show
from federated_health.report.formatting import figure
from federated_health.report.page import Cards, Caution, Page, Picture, Table, render
from federated_health.report.panels import panels_of
from federated_health.report.panels.quantities import join_groups
from federated_health.report.run_page import page_of_run
from federated_health.server.run_summary import summarise, write_metrics
from tests.support.example_run import blocks, pictures, rows, section, titles
from tests.support.example_targets import page_of_label, run_of_label
from tests.support.targets import LABELS, task_of

KINDS = ("binary", "classes", "number", "count")
DASH = "\N{EN DASH}"
FIGURES = {
    "classes": ("ROC-AUC", "Brier score", "accuracy", "macro F1"),
    "number": ("mean absolute error (days)", "RMSE (days)", "R\N{SUPERSCRIPT TWO}", "calibration slope"),
    "count": ("mean deviance", "deviance explained", "observed/expected", "mean absolute error (events)"),
}
TWELVE = ClassLabel("site", "site of the tumour", {code: f"{'<b>site</b> ' * 12}{code}" for code in range(12)})


def alts(page: Page, title: str) -> list[str]:
    return [picture.alt for picture in pictures(page, title)]


def table_of(page: Page, title: str) -> Table:
    (table,) = blocks(section(page, title), Table)
    return table


def without_checklist(page: Page) -> Page:
    """The page without what TRIPOD+AI asks, whatever the kind of label."""
    return replace(page, sections=page.sections[:-1])


def sent(page: Page) -> str:
    (items,) = blocks(section(page, "What each hospital sent"), list)
    return " ".join(items)


# Every kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_has_the_sections_of_its_kind(kind: str) -> None:
    page = page_of_label(kind)

    charts = {
        "binary": ["ROC curves", "Precision-recall curves", "Calibration", "Decisions at the threshold"],
        "classes": ["ROC curves", "Calibration", "Confusion matrix"],
    }
    (together,) = ["Curves and decisions"] if kind in charts else ["Calibration"]
    assert titles(page) == [
        "Benefit of joining",
        "How good the model is",
        together,
        *(["Decision curves"] if kind == "binary" else []),
        "Learning curves",
        "Data of each hospital",
        "Which columns matter most",
        *(["Sample size"] if kind == "binary" else []),
        "Participants",
        "Network",
        "What each hospital sent",
        "Settings, versions and hashes",
        "Intended use and limits",
        "TRIPOD+AI checklist",
    ]
    assert [picture.title for picture in pictures(page, together)] == charts.get(kind, [""])
    assert page.lead.endswith("?")
    assert LABELS[kind].meaning in page.lead


@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_a_page_speaks_of_a_threshold_and_of_risks_only_if_the_label_is_binary(kind: str) -> None:
    html = render(without_checklist(page_of_label(kind)))

    assert "threshold" not in html
    assert "training scores" not in html
    assert "the risk of" not in html
    assert ("ROC-AUC" in html) is (kind == "classes")


@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_the_table_has_the_figures_of_the_target(kind: str) -> None:
    run, figures = run_of_label(LABELS[kind])
    page = page_of_run(summarise(run, figures, stopped=False, facts={}))

    table = table_of(page, "How good the model is")

    panels = panels_of(task_of(kind))
    assert table.columns == ("hospital", *FIGURES[kind])
    for name in ("north", "south", "east"):
        assert rows(table)[name] == tuple(show(figure_cell(figures["hospitals"][name], key)) for key in panels.figures)
    assert rows(table)["federation"] == tuple(figure(figures["federation"][key]) for key in panels.figures)
    assert ("hospital mean" in rows(table)) is (kind == "classes")


@pytest.mark.parametrize(
    ("kind", "quantity", "reference"),
    [
        ("binary", "nats", "gives 0.693"),
        ("classes", "nats", "all 3 classes give 1.099"),
        ("number", "squared standard deviations", "one standard deviation is 10 days"),
        ("count", "nats", "0 is perfect"),
    ],
)
def test_learning_curves_and_importance_have_the_unit_of_the_loss(kind: str, quantity: str, reference: str) -> None:
    page = page_of_label(kind)

    held_out, shown, _ = blocks(section(page, "Learning curves"), Picture)
    (importance,) = blocks(section(page, "Which columns matter most"), Picture)

    assert f"loss on held-out patients, {quantity}" in held_out.svg
    assert reference in held_out.caption
    titles = {"binary": "accuracy", "classes": "macro F1", "number": "RMSE (days)", "count": "observed/expected"}
    assert f"{titles[kind]} on held-out patients" in shown.svg
    assert f"{quantity} per patient" in importance.svg


@pytest.mark.parametrize("kind", KINDS)
def test_a_hospital_gains_where_the_difference_is_above_zero(kind: str) -> None:
    run, figures = run_of_label(LABELS[kind])
    page = page_of_run(summarise(run, figures, stopped=False, facts={}))
    names = target_of(task_of(kind)).comparisons

    benefit = section(page, "Benefit of joining")
    (cards,) = blocks(benefit, Cards)
    (forest,) = [block for block in page.summary if isinstance(block, Picture)]

    assert forest.svg.count("<svg ") == (2 if kind in ("binary", "classes") else 1)
    for name in names:
        comparison = figures["joining"]["east"]["comparisons"][name]
        own, federated = (comparison[model]["value"] for model in ("own", "federated"))
        assert f"{figure(federated)} against {figure(own)}" in cards.items[0].text
        order = "own minus federated" if name in ("brier", "log_loss", "mae", "deviance") else "federated minus own"
        assert order in forest.svg
        assert order in cards.items[0].text.lower()
        is_better = own > federated if order == "own minus federated" else federated > own
        assert (comparison["difference"]["value"] > 0) is is_better


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_states_what_hospitals_sent(kind: str) -> None:
    text = sent(page_of_label(kind))

    expected = {
        "binary": "predicted correctly and wrongly",
        "classes": "by actual and predicted class",
        "number": "squares and products",
        "count": "observed and expected events",
    }
    assert {other for other, words in expected.items() if words in text} == {kind}
    assert ("its correlation with the label" in text) is (kind == "binary")
    assert ("training and of held-out patients" in text) is (kind == "binary")
    assert "patients of each class" not in text


@pytest.mark.parametrize("kind", ["number", "count"])
def test_a_private_run_has_no_threshold_either(kind: str) -> None:
    assert "threshold" not in render(without_checklist(page_of_label(kind, dp_epsilon=8.0)))


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_balanced_classes_are_sent_and_make_risks_too_high(kind: str) -> None:
    page, plain = page_of_label(kind, class_weight="balanced"), page_of_label(kind)

    (caution,) = blocks(section(page, "Curves and decisions"), Caution)
    assert "not calibrated" in caution.text
    assert not blocks(section(plain, "Curves and decisions"), Caution)
    assert "the number of training patients of each class (0 if fewer than 5)" in sent(page)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_has_the_figures_of_its_last_round(kind: str) -> None:
    run, _ = run_of_label(LABELS[kind])
    run.evaluations = {}

    page = page_of_run(summarise(run, run.figures_of_last_round(), stopped=True, facts={}))

    assert {"Calibration", "Benefit of joining"}.isdisjoint(titles(page))
    assert "after the last completed round" in table_of(page, "How good the model is").caption
    assert ("before hospitals computed ROC-AUCs" in render(page)) is (kind in ("binary", "classes"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_of_one_small_hospital_says_that_its_patients_are_few(kind: str) -> None:
    page = page_of_label(kind, {"only": 6})

    (cards,) = blocks(section(page, "Benefit of joining"), Cards)
    assert cards.items[0].text.startswith("Fewer than ")
    assert "too few for a verdict" in cards.items[0].text
    assert "Fewer than" in table_of(page, "How good the model is").note
    assert render(page)


# Classes


def test_the_confusion_matrix_lists_predictions_of_each_class() -> None:
    run, _ = run_of_label(LABELS["classes"])
    page = page_of_label("classes")

    (alt,) = alts(page, "Confusion matrix")

    matrix = merge_counts(part.counts for part in run.evaluations.values()).matrix  # type: ignore[attr-defined]
    assert f"federation {matrix.trace()} of 180" in alt
    names = ("0: none", "1: mild", "3: severe")
    first = ", ".join(f"{count} {name}" for count, name in zip(matrix[0], names, strict=True))
    assert f"actually 0: none: {first}" in alt


def test_curves_of_classes_are_of_all_hospitals_together() -> None:
    page = page_of_label("classes")

    assert all(f"{name}" in alts(page, "ROC curves")[0] for name in ("0: none", "1: mild", "3: severe"))
    assert "north" not in alts(page, "ROC curves")[0]


def test_a_class_whose_scores_were_not_released_has_no_curve() -> None:
    run, figures = run_of_label(LABELS["classes"])
    for name, part in run.evaluations.items():
        scores = {key: groups for key, groups in part.scores.items() if key != "positives-3"}
        run.evaluations[name] = replace(part, scores=scores)

    page = page_of_run(summarise(run, figures, stopped=False, facts={}))

    assert "3: severe" not in alts(page, "ROC curves")[0]
    assert blocks(section(page, "Curves and decisions"), str)[0].endswith("were not released: 3: severe.")


def test_twelve_classes_with_long_names_are_drawn_and_escaped() -> None:
    page = page_of_label(TWELVE, {"north": 200, "south": 150})

    html = render(page)

    assert "<b>" not in html
    (matrix,) = pictures(page, "Confusion matrix")
    assert matrix.svg.count("&lt;b&gt;") == 12  # rows only: columns have the codes
    assert "percentages of a row" in matrix.svg
    assert "counts" not in matrix.svg
    assert len(html) < 500_000


def test_class_balance_counts_the_patients_of_each_class() -> None:
    run, _ = run_of_label(LABELS["classes"])

    balance, _ = alts(page_of_label("classes"), "Data of each hospital")

    none, mild, severe = run.evaluations["north"].counts.matrix.sum(axis=1)  # type: ignore[attr-defined]
    assert f"north: {none} of class 0, {mild} of class 1, {severe} of class 3" in balance


# Numbers and counts


def test_groups_are_joined_to_points_of_about_equal_numbers_of_patients() -> None:
    groups = np.array([[5.0, 3.0, 30.0], [5.0, 1.0, 10.0], [10.0, 4.0, 50.0], [20.0, 2.0, 20.0]])

    points = join_groups(groups, most=2)

    # By prediction: 5, 20, 5 and 10 patients of 40; the middle of the third group is above 20.
    assert points.tolist() == [[25, (5 + 40) / 25, (50 + 400) / 25], [15, (15 + 40) / 15, (150 + 500) / 15]]
    assert join_groups(groups).tolist() == groups[[1, 3, 0, 2]].tolist()


def test_labels_of_each_hospital_are_means_and_deviations_of_its_sums() -> None:
    panels, target = panels_of(task_of("number")), target_of(task_of("number"))
    labels, predictions = np.array([10.0, 20.0, 30.0, 60.0]), np.array([20.0, 30.0, 30.0, 40.0])
    sums = target.measure((predictions - 30) / 10, labels, 0.5)

    (table,) = panels.holdings({"a": sums, "few": target.no_sums}, "All.")

    assert isinstance(table, Table)
    assert rows(table) == {"a": ("4", "30.000", f"{np.std(labels):.3f}", "30.000"), "few": (DASH,) * 4}
    assert "too few patients" in table.note


def test_counts_of_each_hospital_are_observed_and_expected_events() -> None:
    panels, target = panels_of(task_of("count")), target_of(task_of("count"))
    sums = target.measure(np.log([1.0, 2.0, 4.0]), np.array([0.0, 3.0, 5.0]), 0.5)

    (table,) = panels.holdings({"a": sums}, "All.")

    assert isinstance(table, Table)
    assert rows(table) == {"a": ("3", "8", "7.000", "2.667")}


@pytest.mark.parametrize("kind", ["number", "count"])
def test_hospitals_that_withheld_their_sums_have_dashes_and_no_panel(kind: str) -> None:
    page = page_of_label(kind, {"north": 40, "tiny": 3})

    assert rows(table_of(page, "How good the model is"))["tiny"] == (DASH,) * 4
    (calibration,) = blocks(section(page, "Calibration"), Picture)
    assert "Without a panel, since it released no groups: tiny." in calibration.caption
    assert "tiny" not in calibration.alt
    held_out, *_ = blocks(section(page, "Learning curves"), Picture)
    assert "tiny" not in held_out.alt
    assert "fewer than 5 held-out patients" in held_out.caption


def test_a_calibration_panel_shows_the_means_of_released_groups() -> None:
    task = task_of("number")
    groups = {"a": {"predictions": np.array([[5.0, 28.0, 29.5], [5.0, 33.0, 31.0]])}}

    (part,) = panels_of(task).curves(groups)

    (picture,) = blocks(part, Picture)
    assert "a: 28 and 29.5, 33 and 31; federation: 28 and 29.5, 33 and 31" in picture.alt
    assert "predicted days" in picture.svg


# metrics.json


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_hold_a_threshold_only_if_the_label_is_binary(kind: str, tmp_path: Path) -> None:
    run, figures = run_of_label(LABELS[kind])

    write_metrics(tmp_path, run, figures, stopped=False)

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert ("threshold" in metrics) is (kind == "binary")
    assert "class_weights" not in metrics


def test_metrics_hold_the_class_weights_of_a_balanced_run(tmp_path: Path) -> None:
    run, figures = run_of_label(LABELS["classes"], class_weight="balanced")

    write_metrics(tmp_path, run, figures, stopped=False)

    assert json.loads((tmp_path / "metrics.json").read_text())["class_weights"] == [0.5, 1.5, 1.5]
