"""A study's page shows the figures that it is given, and the verdicts as evidence.json has them."""

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from federated_health.ml.metrics import Verdict, verdict_text
from federated_health.report.page import Cards, Page, Picture, Table, render
from tests.support.example_run import blocks, rows, section, titles
from tests.support.studies import Labels, study_of

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"

LABELS = {"gaining": [1, 0] * 15, "losing": [1, 0] * 15, "same": [1, 0] * 12, "few": [1] * 3 + [0] * 17}


def score(hospital: str, way: str, labels: Labels) -> npt.NDArray[np.float64]:
    """Perfect, or the wrong way round, which are ROC-AUCs of 1 and 0; log-odds of +-2 are risks of 0.88 and 0.12."""
    perfect = 4.0 * labels.astype(np.float64) - 2.0
    wrong = {("gaining", "own"), ("few", "own"), ("losing", "fedavg"), ("losing", "fedprox"), ("same", "fedprox")}
    return -perfect if (hospital, way) in wrong else perfect


@cache
def usual_page() -> Page:
    return study_of(LABELS, score, strategies=("fedavg", "fedprox")).page


def facts_of(page: Page) -> dict[str, str]:
    return dict(
        item for block in blocks(section(page, "Settings, versions and hashes"), dict) for item in block.items()
    )


def test_the_head_counts_verdicts_and_says_what_is_estimated() -> None:
    page = usual_page()
    assert page.title == "Is joining worth it? heart-disease"
    assert page.lead == (
        "4 hospitals: 1 gains, 1 no clear difference, 1 loses, 1 too few patients to tell. 104 patients; the models "
        "estimate the risk of this: at least 50 % narrowing of a major coronary vessel (UCI's num > 0)."
    )
    assert titles(page) == [
        "The answer, hospital by hospital",
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


def test_cards_have_the_verdicts_of_evidence_json() -> None:
    study = study_of(LABELS, score)
    (cards,) = blocks(section(study.page, "The answer, hospital by hospital"), Cards)
    given = {name: str(one["verdict"]) for name, one in study.figures["hospitals"].items()}
    assert {card.name: card.verdict for card in cards.items} == {name: verdict_text(one) for name, one in given.items()}
    assert given["few"] == Verdict.UNDEFINED  # though its difference is clear: too few patients
    assert [card.tone for card in cards.items] == ["good", "bad", "neutral", "neutral"]
    assert cards.items[0].text == (
        "ROC-AUC 1.000 with the federation, 0.000 with its own patients alone; difference +1.000 (+1.000 to +1.000). "
        "Federated minus the federation without it: +0.000 (+0.000 to +0.000). 30 patients, 15 positive."
    )
    assert f"difference {MINUS}1.000 ({MINUS}1.000 to {MINUS}1.000)." in cards.items[1].text
    assert cards.items[3].text.endswith(
        "20 patients, 3 positive. Fewer than 5 of the tested patients are of one class, too few for a verdict."
    )


def test_a_picture_of_differences_is_said_in_words() -> None:
    (picture,) = blocks(section(usual_page(), "The answer, hospital by hospital"), Picture)
    same = "+0.000 (+0.000 to +0.000)"
    assert (
        f"gaining: minus own only +1.000 (+1.000 to +1.000), minus without it {same}, minus pooled {same};"
        in picture.alt
    )


def test_the_tables_hold_the_figures() -> None:
    aucs, others = blocks(section(usual_page(), "How good the models are"), Table)
    assert aucs.columns == ("hospital", "own patients only", "federated", "pooled", "without it")
    one, none = f"1.000 (1.000{DASH}1.000)", f"0.000 (0.000{DASH}0.000)"
    table = rows(aucs)
    assert table["gaining"] == (none, one, one, one)
    assert table["losing"] == (one, none, one, one)
    assert table["mean over hospitals"][:2] == (f"0.500 (0.500{DASH}0.500)", f"0.750 (0.750{DASH}0.750)")
    assert list(table) == [*LABELS, "mean over hospitals", "all patients"]
    # (0.881 - 1)^2 = 0.0142 where it is right, (0.119 - 1)^2 = 0.776 where it is wrong
    brier = others.columns.index("Brier score")
    assert {row[0]: (row[2], row[brier]) for row in others.rows} == {
        "own patients only": ("0.500", "0.395"),
        "federated": ("0.750", "0.205"),
        "pooled": ("1.000", "0.014"),
        "without it": ("1.000", "0.014"),
    }


def test_strategies_are_compared_with_the_first_one() -> None:
    aucs, others = blocks(section(usual_page(), "Strategies"), Table)
    assert aucs.columns == ("hospital", "fedavg", "fedprox minus fedavg")
    assert rows(aucs)["same"] == ("1.000", f"{MINUS}1.000 ({MINUS}1.000 to {MINUS}1.000)")
    assert rows(aucs)["gaining"] == ("1.000", "+0.000 (+0.000 to +0.000)")
    accuracy = others.columns.index("accuracy")
    assert {row[0]: row[accuracy] for row in others.rows} == {"fedavg": "0.750", "fedprox": "0.500"}
    assert "Strategies" not in titles(study_of(LABELS, score).page)


def test_importance_is_that_of_the_strategy_that_stands_for_joining() -> None:
    (picture,) = blocks(section(usual_page(), "Which columns matter most"), Picture)
    assert picture.alt.startswith("Rise of the loss, most first: age 1.000, ")  # and not fedprox's 100 too


def test_curves_calibration_and_decisions_are_of_the_federated_model() -> None:
    page = usual_page()
    (roc,) = blocks(section(page, "ROC curves"), Picture)
    assert roc.alt.endswith("positive found: gaining 100 %, losing 0 %, same 100 %, few 100 %.")
    (decisions,) = blocks(section(page, "Decisions at the threshold"), Picture)
    assert "losing: 0 true negatives, 15 false positives, 15 false negatives, 0 true positives" in decisions.alt
    assert "few: 17 true negatives, 0 false positives, 0 false negatives, 3 true positives" in decisions.alt
    (calibration,) = blocks(section(page, "Calibration"), Picture)
    assert calibration.alt.startswith("Calibration of the federated model. gaining: slope ")
    assert "; all patients: slope " in calibration.alt


def test_who_holds_what_is_counted_over_all_rows() -> None:
    labels, missing = blocks(section(usual_page(), "Data of each hospital"), Picture)
    assert labels.alt.endswith("same: 12 with and 12 without; few: 3 with and 17 without")
    assert "gaining: sex, cp, trestbps, fbs, restecg, thalach, exang, oldpeak, slope, thal;" in missing.alt


def test_a_hospital_of_one_class_has_dashes_no_curve_and_no_verdict() -> None:
    study = study_of({"a": [1, 0] * 10, "b": [1] * 20}, score)
    assert rows(blocks(section(study.page, "How good the models are"), Table)[0])["b"] == (DASH,) * 4
    roc = section(study.page, "ROC curves")
    assert "since all patients are of one class: b." in blocks(roc, str)[0]
    cards = blocks(section(study.page, "The answer, hospital by hospital"), Cards)[0].items
    assert cards[1].verdict == "too few patients to tell"
    assert cards[1].text.startswith("20 patients, 20 positive. ")
    assert render(study.page)


def test_hospitals_of_one_class_each_have_a_page_without_curves() -> None:
    page = study_of({"a": [1] * 10, "b": [1] * 10}, score).page
    assert blocks(section(page, "ROC curves"), str)[0] == "No hospital has patients of both classes."
    assert not any("Mean over hospitals" in text for text in blocks(page.sections[0], str))
    assert render(page)


@pytest.mark.parametrize(("tune", "words"), [(True, "cross-validation inside"), (False, "settings below")])
def test_how_it_was_found_out_is_said(tune: bool, words: str) -> None:
    page = study_of({"a": [1, 0] * 5, "b": [1, 0] * 5}, score, tune=tune).page
    (bullets,) = blocks(section(page, "Methods"), list)
    assert bullets[0].startswith("1 repeat of 2-fold cross-validation")
    assert words in bullets[1]
    facts = dict(
        item for block in blocks(section(page, "Settings, versions and hashes"), dict) for item in block.items()
    )
    assert facts["folds"] == "2"
    assert facts["strategies"] == "fedavg"
    assert facts["SHA-256 of a's CSV"] == "hash of a"
    assert not {"appraisal", "strategy"} & set(facts)


def test_of_many_hospitals_the_first_are_shown_and_the_page_stays_small() -> None:
    study = study_of({f"h{number:03}": [1, 0] * 2 for number in range(60)}, score)
    page = study.page
    assert len(blocks(page.sections[0], Cards)[0].items) == 40
    for title in ("How good the models are", "All other figures"):
        table = blocks(section(page, title), Table)[0]
        assert "more, not shown." in table.note
        assert len(table.rows) <= 44
    facts = dict(
        item for block in blocks(section(page, "Settings, versions and hashes"), dict) for item in block.items()
    )
    assert facts["further hospitals"] == "20; their hashes are in evidence.json"
    assert len(render(page)) < 500_000


def test_the_page_names_no_patient_s_value() -> None:
    study = study_of({"a": [1, 0] * 10, "b": [1, 0] * 10}, score)
    study.cohort.tables["a"].loc[3, "chol"] = 271.8183
    assert "271.8" not in render(study.page)
