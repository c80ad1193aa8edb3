"""The page of a study shows its figures, and the verdicts of evidence.json."""

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from federated_health import __version__
from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.verdicts import Verdict, verdict_text
from federated_health.report.formatting import list_verdicts
from federated_health.report.page import Cards, Page, Picture, Table, render
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


def test_the_summary_counts_verdicts_and_names_the_label() -> None:
    page = usual_page()
    assert page.title == "Benefit of joining: heart-disease"
    assert page.lead.startswith(list_verdicts(Verdict))
    assert "104 patients" in page.lead
    assert HEART_DISEASE.label.meaning in page.lead


def test_a_page_of_stays_counts_rows_and_patients(study: Study) -> None:
    ids = {name: np.arange(len(labels)) // 2 for name, labels in study.scores.labels.items()}
    cohort = replace(study.cohort, task=replace(study.cohort.task, patient="patient"), ids=ids)
    scores = replace(study.scores, ids=ids)

    page = replace(study, cohort=cohort, scores=scores, figures=compare_models(scores, 1, draws=20)).page

    assert "104 rows of 52 patients" in page.lead
    methods = " ".join(str(block) for block in section(page, "Methods").blocks)
    assert "rows of one patient are never on both sides" in methods
    assert "count rows" in methods


def test_a_page_with_strategies_has_all_sections() -> None:
    page = usual_page()
    assert titles(page) == [
        "Benefit per hospital",
        "How good the models are",
        "Strategies",
        "ROC curves",
        "Calibration",
        "Decisions at the threshold",
        "Data of each hospital",
        "Which columns matter most",
        "Methods",
        "All other figures",
        "Settings, versions and hashes",
        "Intended use and limits",
    ]


def test_cards_have_the_verdicts_of_evidence_json(study: Study) -> None:
    (cards,) = blocks(section(study.page, "Benefit per hospital"), Cards)
    verdicts = {name: str(entry["verdict"]) for name, entry in study.figures["hospitals"].items()}
    assert {card.name: card.verdict for card in cards.items} == {
        name: verdict_text(verdict) for name, verdict in verdicts.items()
    }
    assert verdicts["few"] == Verdict.UNDEFINED  # its difference is clear, but it has too few patients
    assert [card.tone for card in cards.items] == ["good", "bad", "neutral", "neutral"]
    gaining, losing, _, few = (card.text for card in cards.items)
    assert "1.000 with the federation, 0.000 with its own patients alone" in gaining
    assert "difference +1.000 (+1.000 to +1.000)" in gaining
    assert "without it: +0.000 (+0.000 to +0.000). 30 patients, 15 positive" in gaining
    assert f"difference {MINUS}1.000 ({MINUS}1.000 to {MINUS}1.000)" in losing
    assert "20 patients, 3 positive. Fewer than 5 held-out patients" in few


def test_the_alternative_text_lists_all_differences() -> None:
    (picture,) = blocks(section(usual_page(), "Benefit per hospital"), Picture)
    same = "+0.000 (+0.000 to +0.000)"
    assert (
        f"gaining: minus own only +1.000 (+1.000 to +1.000), minus without it {same}, minus pooled {same};"
        in picture.alt
    )


def test_tables_of_models_match_hand_calculation() -> None:
    aucs, others = blocks(section(usual_page(), "How good the models are"), Table)
    assert aucs.columns == ("hospital", "own patients only", "federated", "pooled", "without it")
    perfect, wrong = f"1.000 (1.000{DASH}1.000)", f"0.000 (0.000{DASH}0.000)"
    table = rows(aucs)
    assert table["gaining"] == (wrong, perfect, perfect, perfect)
    assert table["losing"] == (perfect, wrong, perfect, perfect)
    assert table["mean over hospitals *"][:2] == (f"0.500 (0.500{DASH}0.500)", f"0.750 (0.750{DASH}0.750)")
    assert list(table) == [*LABELS, "mean over hospitals *", "all patients"]
    # (0.881 - 1)^2 = 0.0142 for perfect scores, (0.119 - 1)^2 = 0.776 for reversed ones
    brier = others.columns.index("Brier score")
    assert {row[0]: (row[2], row[brier]) for row in others.rows} == {
        "own patients only": ("0.500", "0.395"),
        "federated": ("0.750", "0.205"),
        "pooled": ("1.000", "0.014"),
        "without it": ("1.000", "0.014"),
    }


def test_strategies_are_compared_with_the_first_one(study: Study) -> None:
    aucs, others = blocks(section(usual_page(), "Strategies"), Table)
    assert aucs.columns == ("hospital", "fedavg", "fedprox minus fedavg")
    assert rows(aucs)["same"] == ("1.000", f"{MINUS}1.000 ({MINUS}1.000 to {MINUS}1.000)")
    assert rows(aucs)["gaining"] == ("1.000", "+0.000 (+0.000 to +0.000)")
    accuracy = others.columns.index("accuracy")
    assert {row[0]: row[accuracy] for row in others.rows} == {"fedavg": "0.750", "fedprox": "0.500"}
    assert "Strategies" not in titles(study.page)


def test_importance_is_that_of_the_first_strategy() -> None:
    (picture,) = blocks(section(usual_page(), "Which columns matter most"), Picture)
    assert ": age 1.000, " in picture.alt  # fedprox would add 100


def test_curves_calibration_and_decisions_are_of_the_federated_model() -> None:
    page = usual_page()
    (roc,) = blocks(section(page, "ROC curves"), Picture)
    assert roc.alt.endswith("10 %: gaining 100 %, losing 0 %, same 100 %, few 100 %.")
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
    assert blocks(roc, str)[0].endswith("of one class: b.")
    cards = blocks(section(study.page, "Benefit per hospital"), Cards)[0].items
    assert cards[1].verdict == "too few patients"
    assert cards[1].text.startswith("20 patients, 20 positive. ")
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
    assert len(blocks(page.sections[0], Cards)[0].items) == 40
    for title in ("How good the models are", "All other figures"):
        table = blocks(section(page, title), Table)[0]
        assert " more, " in table.shown_note
        assert len(table.shown_rows) <= 44
    assert facts_of(page)["further hospitals"].startswith("20; ")
    assert len(render(page)) < 500_000


def test_no_value_of_a_patient_is_on_the_page() -> None:
    small = study_of({"a": [1, 0] * 10, "b": [1, 0] * 10}, score)
    small.cohort.tables["a"].loc[3, "chol"] = 271.8183
    assert "271.8" not in render(small.page)
