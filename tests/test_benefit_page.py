"""The page of a study shows its figures, and the verdicts of evidence.json."""

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from federated_health import __version__
from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.verdicts import Difference, Verdict, verdict_text
from federated_health.report import formatting
from federated_health.report.cells import Marked, parts
from federated_health.report.page import Cards, Caution, Numbers, Page, Picture, Strip, Table, render
from federated_health.report.verdict_sentences import describe_verdict
from federated_health.studies.benefit.comparison import compare_models
from tests.support.example_run import blocks, facts, rows, section, titles
from tests.support.studies import Labels, Study, study_of

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"

LABELS = {"gaining": [1, 0] * 15, "losing": [1, 0] * 15, "same": [1, 0] * 12, "few": [1] * 3 + [0] * 17}


def score(hospital: str, model: str, labels: Labels) -> npt.NDArray[np.float64]:
    """Perfect or reversed scores, with ROC-AUCs of 1 and 0; log-odds of +-2 are risks of 0.88 and 0.12."""
    perfect = 4.0 * labels.astype(np.float64) - 2.0
    reversed_ = {("gaining", "own"), ("few", "own"), ("losing", "fedavg"), ("losing", "fedprox"), ("same", "fedprox")}
    return -perfect if (hospital, model) in reversed_ else perfect


@cache
def usual_page() -> Page:
    return study_of(LABELS, score, strategies=("fedavg", "fedprox")).page


def facts_of(page: Page) -> dict[str, str]:
    return facts(section(page, "Settings, versions and hashes"))


@pytest.fixture(scope="module")
def study() -> Study:
    """One strategy."""
    return study_of(LABELS, score)


def test_the_first_screen_has_question_facts_verdicts_numbers_and_differences(study: Study) -> None:
    page = study.page
    assert page.title == "Benefit of joining: heart-disease"
    assert page.lead.endswith(f"{HEART_DISEASE.label.meaning}.")
    assert page.byline == [formatting.today(), "4 hospitals", "104 patients", "1 repeat of 2-fold cross-validation"]
    strip, numbers, forest = page.summary
    assert isinstance(strip, Strip)
    assert {share.text: share.number for share in strip.parts} == {
        "gains": 1,
        "no clear difference": 1,
        "loses": 1,
        "too few patients": 1,
    }
    assert isinstance(numbers, Numbers)
    assert [number.value for number in numbers.items] == ["0.750 *", "0.205", "1.000 *"]
    assert "own models 0.500; federated minus own +0.250" in numbers.items[0].text
    assert isinstance(forest, Picture)
    assert f"losing {MINUS}0.762" in forest.alt


def test_a_page_of_stays_counts_rows_and_patients(study: Study) -> None:
    ids = {name: np.arange(len(labels)) // 2 for name, labels in study.scores.labels.items()}
    cohort = replace(study.cohort, task=replace(study.cohort.task, patient="patient"), ids=ids)
    scores = replace(study.scores, ids=ids)

    page = replace(study, cohort=cohort, scores=scores, figures=compare_models(scores)).page

    assert "104 rows of 52 patients" in page.byline
    methods = " ".join(str(block) for block in section(page, "Methods").blocks)
    assert "rows of one patient are never on both sides" in methods
    assert "count rows" in methods


def test_a_page_with_strategies_has_all_sections() -> None:
    page = usual_page()
    assert titles(page) == [
        "Benefit per hospital",
        "How good the models are",
        "Sensitivity and specificity",
        "External validation",
        "Recalibration",
        "Strategies",
        "ROC curves",
        "Calibration",
        "Decisions at the threshold",
        "Decision curves",
        "Subgroups",
        "Subgroups by hospital",
        "Data of each hospital",
        "Which columns matter most",
        "Sample size",
        "Methods",
        "Uncertainty",
        "Every repeat",
        "All other figures",
        "Settings, versions and hashes",
        "Intended use and limits",
        "TRIPOD+AI checklist",
    ]


def test_a_model_is_trained_on_all_folds_but_one_and_every_row_is_tested() -> None:
    (table,) = blocks(section(usual_page(), "Sample size"), Table)
    row = dict(zip(table.columns[1:], rows(table)["gaining"], strict=True))
    assert (row["training"], row["held out"]) == ("15", "30")  # of 30, in 2 folds


def test_cards_have_the_verdicts_of_evidence_json(study: Study) -> None:
    (cards,) = blocks(section(study.page, "Benefit per hospital"), Cards)
    verdicts = {name: str(entry["verdict"]) for name, entry in study.figures["hospitals"].items()}
    assert {card.name: card.verdict for card in cards.items} == {
        name: verdict_text(verdict) for name, verdict in verdicts.items()
    }
    assert verdicts["few"] == Verdict.UNDEFINED  # its difference is clear, but it has too few patients
    assert [card.tone for card in cards.items] == ["good", "bad", "neutral", "unknown"]
    gaining, losing, _, few = (card.text for card in cards.items)
    assert describe_verdict(study.scores.target, study.figures["hospitals"]["gaining"]) in gaining
    assert "30 patients, 15 positive" in gaining
    assert "ranks patients worse" in losing
    assert "20 patients, 3 positive." in few


def test_the_alternative_text_lists_all_differences_of_both_figures() -> None:
    ranking, risks = blocks(section(usual_page(), "Benefit per hospital"), Picture)
    assert "gaining: own patients only +1.000 (+0.9" in ranking.alt
    assert "external validation +0.000" in ranking.alt
    assert "losing: own patients only \N{MINUS SIGN}0.762" in risks.alt
    assert "few *: " in ranking.alt
    assert "few: " in risks.alt  # a mean over all patients


def test_tables_of_models_match_hand_calculation() -> None:
    aucs, briers, others = blocks(section(usual_page(), "How good the models are"), Table)
    models = ("own patients only", "federated", "pooled", "external validation", "recalibrated")
    assert aucs.columns == briers.columns == ("hospital", *models)
    assert list(rows(aucs)) == [*LABELS, "mean over hospitals", "all patients"]
    # (0.881 - 1)^2 = 0.0142 for perfect scores, (0.119 - 1)^2 = 0.776 for reversed ones
    means = {
        table: [parts(cell)[""] for cell in row[1:5]]
        for table, row in (("aucs", aucs.rows[-2]), ("briers", briers.rows[-2]))
    }
    assert means["aucs"] == [0.5, 0.75, 1.0, 1.0]
    assert means["briers"] == pytest.approx([0.3950, 0.2046, 0.0142, 0.0142], abs=1e-4)
    assert isinstance(aucs.rows[3][1], Marked)  # few
    assert not isinstance(aucs.rows[0][1], Marked)
    accuracy = others.columns.index("accuracy")
    assert [row[accuracy] for row in others.rows][:4] == [0.5, 0.75, 1.0, 1.0]
    ratio = others.columns.index("observed/expected")
    # 3 of 20 patients are positive, and expected are 3 * 0.881 + 17 * 0.119
    assert others.rows[2][ratio] == "0.643 to 1.000"


def test_a_sentence_names_the_class_for_which_the_federated_model_is_mostly_wrong() -> None:
    low, _, sensitivity, specificity = section(usual_page(), "Sensitivity and specificity").blocks
    assert isinstance(low, str)
    assert low.count("At losing the federated model predicts 0 % of the 15 ") == 2
    assert "gaining" not in low
    for table in (sensitivity, specificity):
        assert isinstance(table, Table)
        assert rows(table)["losing"][:2] == ("1.000", "0.000")
    perfect = study_of({"a": [1, 0] * 10, "b": [1, 0] * 10}, score).page
    assert len(blocks(section(perfect, "Sensitivity and specificity"), str)) == 1


def test_external_validation_shows_the_models_of_the_other_hospitals() -> None:
    figures, change = blocks(section(usual_page(), "External validation"), Table)
    assert rows(figures)["losing"][0].startswith("1.000")
    assert [parts(cell)[""] for cell in change.rows[1][1:]] == pytest.approx([-1.0, -0.762], abs=1e-3)


def test_recalibration_shows_figures_before_and_after(study: Study) -> None:
    changes, lines, own = blocks(section(study.page, "Recalibration"), Table)
    entries = study.figures["hospitals"]
    assert [row[0] for row in changes.rows] == ["gaining", "losing", "same"]  # few has 3 positive patients
    assert rows(changes)["losing"][0] == "0.776"
    assert changes.rows[1][2] == entries["losing"]["models"]["recalibrated"]["brier"]["value"]
    assert lines.rows[1][1] == Difference(**entries["losing"]["recalibration"]["intercept"])
    assert [row[0] for row in own.rows][-1] == "mean over hospitals"
    assert "few" in str(section(study.page, "Recalibration").blocks[0])


def test_hospitals_that_were_left_out_are_named(study: Study) -> None:
    cohort = replace(study.cohort, left_out={"tiny": "expected at least 10 patients, got 3"})
    cautions = blocks(replace(study, cohort=cohort).page.sections[0], Caution)
    assert "tiny (expected at least 10 patients, got 3)" in cautions[0].text
    assert not blocks(study.page.sections[0], Caution)


def test_uncertainty_shows_both_intervals_and_every_repeat(study: Study) -> None:
    ranking, _ = blocks(section(study.page, "Uncertainty"), Table)
    aucs, _ = blocks(section(study.page, "Every repeat"), Table)
    assert ranking.columns == ("hospital", "over patients", "p", "p, Holm", "corrected")
    assert ranking.rows[0][1:] == (
        Difference(**study.figures["hospitals"]["gaining"]["differences"]["own"]["roc_auc"]),
        study.figures["hospitals"]["gaining"]["differences"]["own"]["roc_auc"]["p_value"],
        study.figures["hospitals"]["gaining"]["comparisons"]["roc_auc"]["adjusted_p_value"],
        Difference(**study.figures["hospitals"]["gaining"]["corrected_differences"]["own"]["roc_auc"]),
    )
    assert rows(aucs)["gaining: federated"] == ("1.000", DASH, "1.000")


def test_strategies_are_compared_with_the_first_one_by_every_figure(study: Study) -> None:
    aucs, _, briers, _, others = blocks(section(usual_page(), "Strategies"), Table)
    assert aucs.columns == ("hospital", "fedavg", "fedprox minus fedavg")
    assert briers.columns == ("hospital", "fedavg", "fedavg minus fedprox")
    assert [parts(cell)[""] for cell in aucs.rows[2][1:]] == [1.0, -1.0]
    assert [parts(cell)[""] for cell in aucs.rows[0][1:]] == [1.0, 0.0]
    accuracy = others.columns.index("accuracy")
    assert {row[0]: row[accuracy] for row in others.rows} == {"fedavg": 0.75, "fedprox": 0.5}
    assert "Strategies" not in titles(study.page)


def test_importance_is_that_of_the_first_strategy() -> None:
    (picture,) = blocks(section(usual_page(), "Which columns matter most"), Picture)
    assert ": age 1.000, " in picture.alt  # fedprox would add 100


def test_curves_calibration_and_decisions_are_of_the_federated_model() -> None:
    page = usual_page()
    (roc,) = blocks(section(page, "ROC curves"), Picture)
    assert roc.alt.endswith("10 %: gaining 100 %, losing 0 %, same 100 %, few * 100 %.")
    (decisions,) = blocks(section(page, "Decisions at the threshold"), Picture)
    assert "losing: 0 true negatives, 15 false positives, 15 false negatives, 0 true positives" in decisions.alt
    assert "few: 17 true negatives, 0 false positives, 0 false negatives, 3 true positives" in decisions.alt
    (calibration,) = blocks(section(page, "Calibration"), Picture)
    assert "gaining: slope " in calibration.alt
    assert "; all patients: slope " in calibration.alt


def test_labels_and_missing_values_are_counted_over_all_rows() -> None:
    labels, missing = blocks(section(usual_page(), "Data of each hospital"), Picture)
    assert labels.alt.endswith("same: 12 with and 12 without; few: 3 with and 17 without")
    assert "gaining: sex, cp, trestbps, fbs, restecg, thalach, exang, oldpeak, slope, thal;" in missing.alt


def test_a_hospital_of_one_class_has_dashes_no_curve_and_no_verdict() -> None:
    study = study_of({"a": [1, 0] * 10, "b": [1] * 20}, score)
    assert rows(blocks(section(study.page, "How good the models are"), Table)[0])["b"] == (DASH,) * 4
    roc = section(study.page, "ROC curves")
    assert blocks(roc, str)[0].endswith("patients of both classes: b.")
    cards = blocks(section(study.page, "Benefit per hospital"), Cards)[0].items
    assert cards[1].verdict == "too few patients"
    assert "20 patients, 20 positive." in cards[1].text
    assert render(study.page)


def test_a_study_without_curves_has_a_page() -> None:
    page = study_of({"a": [1] * 10, "b": [1] * 10}, score).page
    assert not blocks(section(page, "ROC curves"), Picture)
    assert "both classes" in blocks(section(page, "ROC curves"), str)[0]
    assert not any("Mean over hospitals" in text for text in blocks(page.sections[0], str))
    assert render(page)


@pytest.mark.parametrize(("tune", "words"), [(True, "cross-validation inside"), (False, "settings below")])
def test_methods_and_settings_describe_the_protocol(tune: bool, words: str) -> None:
    page = study_of({"a": [1, 0] * 5, "b": [1, 0] * 5}, score, tune=tune).page
    (bullets,) = blocks(section(page, "Methods"), list)
    assert "1 repeat of 2-fold cross-validation" in bullets[0]
    assert words in bullets[1]
    values = facts_of(page)
    assert values["folds"] == "2"
    assert values["strategies"] == "fedavg"
    assert values["SHA-256 of a's CSV"] == "hash of a"
    assert values["federated-health"] == __version__
    assert not {"appraisal", "strategy"} & set(values)


def test_a_page_of_60_hospitals_shows_the_first_40_and_stays_small() -> None:
    page = study_of({f"h{number:03}": [1, 0] * 2 for number in range(60)}, score).page
    assert not blocks(page.sections[0], Cards)
    assert len(blocks(page.sections[0], Table)[0].shown_rows) == 40
    for title in ("How good the models are", "All other figures"):
        table = blocks(section(page, title), Table)[0]
        assert " more, " in table.shown_note
        assert len(table.shown_rows) <= 44
    assert facts_of(page)["further hospitals"].startswith("20; ")
    assert len(render(page)) < 800_000


def test_no_value_of_a_patient_is_on_the_page() -> None:
    small = study_of({"a": [1, 0] * 10, "b": [1, 0] * 10}, score)
    small.cohort.tables["a"].loc[3, "chol"] = 271.8183
    assert "271.8" not in render(small.page)
