"""The page of a run shows the figures that it is given, and leaves out sections without data."""

import ast
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import client
from federated_health import __version__
from federated_health.data.manifest import find_hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.messages.content import Evaluation
from federated_health.ml.privacy_plan import GUARANTEE
from federated_health.ml.targets.binary import Counts
from federated_health.report import page as page_module
from federated_health.report import panels, private_runs, run_page, sections
from federated_health.report.formatting import MAX_ROWS
from federated_health.report.page import Cards, Caution, Numbers, Page, Picture, Strip, Table, render
from federated_health.report.panels import binary
from federated_health.report.run_page import page_of_run
from federated_health.server.plain_run import PlainRun
from federated_health.server.run_summary import summarise
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from tests.support.example_run import (
    FACTS,
    Replies,
    benefit,
    blocks,
    evaluation,
    facts,
    figures_of,
    page_of,
    pictures,
    rounds_of,
    rows,
    run_of,
    section,
    titles,
)

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"

ALL_SECTIONS = [
    "Benefit of joining",
    "How good the model is",
    "Curves and decisions",
    "Decision curves",
    "Subgroups",
    "Learning curves",
    "Data of each hospital",
    "Which columns matter most",
    "Sample size",
    "Participants",
    "Network",
    "What each hospital sent",
    "Settings, versions and hashes",
    "Intended use and limits",
    "TRIPOD+AI checklist",
]
CURVES = ["ROC curves", "Precision-recall curves", "Calibration", "Decisions at the threshold"]


def three() -> dict[str, Replies]:
    """Hospital a gains; b loses and misses the first round; c has too few negative patients for a verdict."""
    return {
        "a": Replies(benefit=benefit((0.05, 0.01, 0.09))),
        "b": Replies(train=60, losses=(None, 0.3), benefit=benefit((-0.1, -0.2, -0.0004))),
        "c": Replies(final=evaluation(tp=16, fp=1, tn=1, fn=2, roc_auc=0.75, cells=False), benefit=benefit(None)),
    }


@cache
def usual_page() -> Page:
    return page_of(three())


def stopped_page(hospitals: dict[str, Replies]) -> Page:
    run = run_of(hospitals)
    run.evaluations, run.threshold = {}, 0.5
    return page_of_run(summarise(run, run.figures_of_last_round(), stopped=True, facts=FACTS))


def alts(page: Page, title: str) -> list[str]:
    return [picture.alt for picture in pictures(page, title)]


# Sections with data


def test_a_complete_run_has_all_sections_and_a_summary() -> None:
    page = usual_page()
    assert titles(page) == ALL_SECTIONS
    assert page.title == "heart-disease: a model of 3 hospitals"
    assert HEART_DISEASE.label.meaning in page.lead
    assert page.byline == ["3 hospitals", "2 rounds", "strategy fedavg"]
    assert [picture.title for picture in pictures(page, "Curves and decisions")] == CURVES


def test_the_overview_has_verdicts_three_numbers_and_the_differences() -> None:
    strip, numbers, picture = usual_page().summary
    assert isinstance(strip, Strip)
    assert [(part.number, part.tone) for part in strip.parts] == [(1, "good"), (1, "bad"), (1, "unknown")]
    assert isinstance(numbers, Numbers)
    assert [(number.name, number.value) for number in numbers.items] == [
        ("Mean ROC-AUC", "0.817 *"),  # 2.45/3
        ("Brier score", "0.125"),
        ("Patients", "200"),  # 140 to train, 60 held out
    ]
    assert numbers.items[0].text.startswith("0.750 to 0.850 within hospitals")
    assert isinstance(picture, Picture)
    assert picture.svg.count("<svg ") == 2
    assert f"a +0.050 (+0.010 to +0.090); b {MINUS}0.100 ({MINUS}0.200 to {MINUS}0.000); c {DASH}" in picture.alt


def test_the_date_of_the_run_comes_first() -> None:
    run = run_of(three())
    summary = summarise(run, figures_of(run, three()), stopped=False, facts=FACTS, date="1 December 2026")
    assert page_of_run(summary).byline[0] == "1 December 2026"


def test_the_network_is_described() -> None:
    hospitals = three()
    assert facts(section(page_of(hospitals, hidden="8,4", dropout=0.2), "Network")) == {
        "model": "multi-layer perceptron",
        "hidden layers": "8 units, 4 units",
        "activation": "relu",
        "dropout": "0.2",
        "inputs": "41 features of 13 columns",
        "weights": "377",  # 41 x 8 + 8 + 8 x 4 + 4 + 4 + 1
        "outputs": "1",
        "loss": "binary cross-entropy",
        "training": "sgd, learning rate 0.05, 5 epochs per round, 32 rows per step",
    }
    logistic = facts(section(page_of(hospitals, model="logistic"), "Network"))
    assert logistic["weights"] == "42"
    assert not {"hidden layers", "activation", "dropout"} & set(logistic)


def test_the_page_states_the_version_that_wrote_it() -> None:
    page = usual_page()
    assert facts(section(page, "Settings, versions and hashes"))["federated-health"] == __version__
    html = render(page)
    assert __version__ in html[html.index("<footer>") :]


def test_participants_are_listed_with_their_patients_and_rounds() -> None:
    (table,) = blocks(section(usual_page(), "Participants"), Table)
    assert table.columns == ("hospital", "training patients", "held-out patients", "rounds trained")
    assert rows(table) == {"a": ("40", "20", "2"), "b": ("60", "20", "1"), "c": ("40", "20", "2")}


def test_problems_are_listed_and_beyond_a_limit_counted() -> None:
    run = run_of(three())
    figures = run.figures_of_last_round()

    def problems() -> list[list[str]]:
        page = page_of_run(summarise(run, figures, stopped=True, facts=FACTS))
        return blocks(section(page, "Participants"), list)

    assert problems() == []
    run.problems.absent.update(["b"])
    ((line,),) = problems()
    assert line.startswith("b: 1 round")
    run.problems.absent.update(f"h{number:03}" for number in range(200))
    (bullets,) = problems()
    assert len(bullets) == MAX_ROWS + 1
    assert f"{201 - MAX_ROWS} more" in bullets[-1]


def test_cards_show_verdict_tone_and_figures() -> None:
    (cards,) = blocks(section(usual_page(), "Benefit of joining"), Cards)
    assert [(card.name, card.verdict, card.tone) for card in cards.items] == [
        ("a", "gains", "good"),
        ("b", "loses", "bad"),
        ("c", "too few patients", "unknown"),
    ]
    small, losing, undefined = (card.text for card in cards.items)
    assert "0.850 against 0.800" in small
    assert "Federated minus own ROC-AUC +0.050 (+0.010 to +0.090); own minus federated Brier score +0.000" in small
    assert "Fewer than 10 held-out patients" in small
    assert f"ROC-AUC {MINUS}0.100 ({MINUS}0.200 to {MINUS}0.000)" in losing
    assert "Fewer than 5 held-out patients" in undefined
    assert "ROC-AUC" not in undefined


def test_a_hospital_without_an_interval_keeps_its_row_in_pictures() -> None:
    drawn = pictures(usual_page(), "How good the model is")
    # The final evaluation has its figures. The mark is of the ROC-AUC, to which the few patients of a class matter.
    assert [picture.alt.split("; ")[-1] for picture in drawn] == ["c * 0.750.", "c 0.125."]
    for picture in drawn:
        assert "Hollow" in picture.caption
        assert "too few patients" not in "".join(re.findall(r">([^<]*)<", picture.svg))


def test_a_hospital_with_enough_patients_of_either_class_is_not_marked_small() -> None:
    page = page_of({"a": Replies(final=evaluation(tp=10, fn=0, tn=5, fp=5))})
    (cards,) = blocks(section(page, "Benefit of joining"), Cards)
    assert "Fewer than" not in cards.items[0].text
    (table,) = blocks(section(page, "How good the model is"), Table)
    assert "Fewer than" not in table.note


def test_the_table_of_figures_matches_hand_calculation() -> None:
    quality = section(usual_page(), "How good the model is")
    (table,) = blocks(quality, Table)
    a = ("0.850 *", "0.125", "0.750", "0.800", "0.727", "0.778", "0.762", "1.000")  # 15/20, 8/10, 8/11, 7/9, 16/21
    names = ("ROC-AUC", "Brier score", "accuracy", "precision", "recall", "specificity", "F1", "average precision")
    assert table.columns == ("hospital", *names)
    assert rows(table) == {
        "a": a,
        "b": a,
        "c": ("0.750 *", "0.125", "0.850", "0.941", "0.889", "0.500", "0.914", DASH),  # 17/20, 16/17, 16/18, 1/2
        # 47/60, 32/37, 32/40, 15/20, 64/77
        "federation": ("1.000", "0.125", "0.783", "0.865", "0.800", "0.750", "0.831", "1.000"),
        "hospital mean": ("0.817 *", "", "", "", "", "", "", ""),  # 2.45/3, with a class of fewer than 10 patients
    }
    assert "Fewer than 10 held-out patients of one class" in table.note
    assert ": a, b, c." in table.note
    assert "at least 0.42, which gives the greatest F1" in table.note
    assert "too optimistic" in blocks(quality, Caution)[0].text


def test_a_page_of_a_rare_outcome_leads_with_what_positive_patients_say() -> None:
    """12 % of the patients are positive; their scores are above those of three quarters of the others."""
    groups = {
        "positives": np.array([[12.0, -1.5, 0.4]]),
        "negatives": np.array([[44.0, -2.5, 0.5], [44.0, -1.6, 0.4]]),
    }
    final = replace(evaluation(tp=8, fp=22, tn=66, fn=4), scores=groups)

    page = page_of({"a": Replies(test=100, final=final), "b": Replies(test=100, final=final)})

    (table,) = blocks(section(page, "How good the model is"), Table)
    shown = (
        "recall",
        "specificity",
        "precision",
        "F1",
        "average precision",
        "calibration slope",
        "Brier score",
        "ROC-AUC",
        "accuracy",
    )
    assert table.columns == ("hospital", *shown)
    assert rows(table)["federation"][:4] == ("0.667", "0.750", "0.267", "0.381")  # 8/12, 66/88, 8/30, 16/42
    assert "nobody positive gives 0.880" in table.note
    assert "gives 0.106" in table.note  # 0.12 x 0.88
    assert "gives 0.367" in blocks(section(page, "Learning curves"), Picture)[0].caption  # entropy of 12 %
    order = [picture.title for picture in pictures(page, "Curves and decisions")]
    assert order.index("Precision-recall curves") < order.index("ROC curves") < order.index("Calibration")
    assert DASH not in rows(table)["a"]
    *_, slopes = blocks(section(page, "Curves and decisions"), str)
    assert f"federation {rows(table)['federation'][5]} and " in slopes


def test_learning_curves_end_with_the_last_round_and_have_a_dash_for_missing_losses() -> None:
    hospitals = three()
    hospitals["a"].losses = (0.6, None)
    held_out, brier, training = alts(page_of(hospitals), "Learning curves")
    # Means over rows: (60 x 0.3 + 40 x 0.5) / 100 in training, (0.4 + 0.6) / 2 held out
    assert training.endswith(f"after the last round: a {DASH}, b 0.300, c 0.500, federation 0.380.")
    assert held_out.endswith(f"after the last round: a {DASH}, b 0.400, c 0.600, federation 0.500.")
    assert brier.endswith(f"after the last round: a {DASH}, b 0.000, c 0.000, federation 0.000.")  # nobody is positive


def test_curves_use_released_cells_and_hospitals_without_a_curve_are_named() -> None:
    (roc,) = alts(usual_page(), "ROC curves")
    assert roc.endswith("10 %: a 100 %, b 100 %, federation 100 %.")
    assert "Without a curve of its own: c." in blocks(section(usual_page(), "Curves and decisions"), str)[0]
    (calibration,) = alts(usual_page(), "Calibration")
    # 19 patients are one bin: (10 x 0.8808 + 9 x 0.1192) / 19 predicted, 10/19 observed; the federation's 38 are, too
    assert (
        "a: predicted 52 %, observed 53 %; b: predicted 52 %, observed 53 %; federation: predicted 52 %" in calibration
    )


def test_decisions_are_counted_at_the_threshold_and_add_up() -> None:
    (picture,) = pictures(usual_page(), "Decisions at the threshold")
    assert "a: 7 true negatives, 2 false positives, 3 false negatives, 8 true positives" in picture.alt
    assert "federation: 15 true negatives, 5 false positives, 8 false negatives, 32 true positives" in picture.alt
    assert "0.42" in picture.caption


def test_labels_and_missing_values_are_shown_by_hospital() -> None:
    labels, missing = alts(usual_page(), "Data of each hospital")
    assert labels.endswith("a: 11 with and 9 without; b: 11 with and 9 without; c: 18 with and 2 without")
    # chol of 10 in 40 training patients; of 60 the other columns lack a third
    assert "a: chol, ca (not released); b: chol, ca (not released)" in missing


def test_importance_is_per_patient_and_in_descending_order() -> None:
    (alt,) = alts(usual_page(), "Which columns matter most")
    assert ": cp 0.100, " in alt  # 3 x 2.0 / 60
    assert alt.endswith(f", age {MINUS}0.025")


def test_settings_versions_and_hashes_are_shown_without_operational_settings() -> None:
    page = page_of(three(), seed=7)
    values = facts(section(page, "Settings, versions and hashes"))
    assert values["seed"] == "7"
    assert values["threshold"] == "0.42"
    assert values["completed rounds"] == "2"
    assert values["SHA-256 of model.keras"] == "abc123"
    assert {"flwr", "keras", "Python"} <= set(values)
    assert not {"address", "out", "data", "force"} & set(values)


# Sections without data


def test_a_run_without_benefits_has_no_verdicts() -> None:
    hospitals = {name: replace(replies, benefit=None) for name, replies in three().items()}
    page = page_of(hospitals, appraisal=False)
    absent = {"Benefit of joining", "Which columns matter most"}
    assert titles(page) == [title for title in ALL_SECTIONS if title not in absent]
    assert "not known" in blocks(section(page, "Participants"), str)[0]
    assert len(alts(page, "Data of each hospital")) == 1  # no table of missing values
    (bullets,) = blocks(section(page, "What each hospital sent"), list)
    assert not any("benefit of joining" in item for item in bullets)
    assert "better" not in page.lead
    assert [type(block) for block in page.summary] == [Numbers]


def test_a_private_run_states_its_guarantee_and_why_the_benefit_is_not_known() -> None:
    hospitals = {name: replace(replies, benefit=None) for name, replies in three().items()}
    page = page_of(hospitals, dp_epsilon=8.0)
    (text, *_) = blocks(section(page, "Participants"), str)
    assert "not known: differential privacy" in text
    (promise,) = blocks(section(page, "Differential privacy"), str)
    assert "(8, 1e-05)-differential privacy" in promise
    assert GUARANTEE in promise
    (bullets,) = blocks(section(page, "Differential privacy"), list)
    exchange, steps, *_ = bullets
    assert "exchanged" in exchange
    assert steps.startswith("1 step per round")
    assert "probability 0.5" in steps
    assert "of this hospital" not in "".join(bullets)  # the server has no budget


def test_a_stopped_run_shows_the_figures_of_its_last_round() -> None:
    page = stopped_page(three())
    assert titles(page) == [
        "How good the model is",
        "Decisions at the threshold",
        "Subgroups",
        "Learning curves",
        "Participants",
        "Network",
        "What each hospital sent",
        "Settings, versions and hashes",
        "Intended use and limits",
        "TRIPOD+AI checklist",
    ]
    assert "stopped before its last round" in page.byline
    (table,) = blocks(section(page, "How good the model is"), Table)
    assert table.columns[-1] == "accuracy"  # no patient is positive
    assert rows(table)["a"] == (DASH, "1.000", DASH, DASH, DASH, DASH, "0.000", DASH, "1.000")
    assert table.note.startswith("The run was stopped")
    assert "at least 0.5. " in table.note
    assert not blocks(section(page, "How good the model is"), Caution)  # there is no pooled ROC-AUC
    (picture,) = blocks(section(page, "Decisions at the threshold"), Picture)
    assert "a: 20 true negatives, 0 false positives" in picture.alt
    assert render(page)


def test_a_stopped_run_without_evaluations_still_has_a_page() -> None:
    hospitals = three()
    run, record = run_of(hospitals), rounds_of(hospitals)[0]
    trained = {name: replace(figures, counts=None) for name, figures in record.hospitals.items()}
    record = replace(record, hospitals=trained, federation=replace(record.federation, counts=None))
    run.evaluations, run.threshold, run.history = {}, 0.5, [record]
    page = page_of_run(summarise(run, run.figures_of_last_round(), stopped=True, facts={}))
    assert page.title == "heart-disease: a model of 2 hospitals"  # b sent no update in the first round
    assert "no figures" in blocks(section(page, "How good the model is"), str)[0]
    assert "Decisions at the threshold" not in titles(page)
    assert "No figures of the final model: a, b, c." in blocks(section(page, "Participants"), str)[0]
    assert render(page)


def test_counts_of_rounds_are_not_shown_as_decisions_at_the_final_threshold() -> None:
    hospitals = {name: replace(replies, final=None) for name, replies in three().items()}
    page = page_of(hospitals)
    assert "Decisions at the threshold" not in titles(page)


def test_a_hospital_that_was_absent_at_the_end_is_named() -> None:
    hospitals = three() | {"b": Replies(final=None, benefit=None)}
    page = page_of(hospitals)
    part = section(page, "Participants")
    assert list(rows(blocks(part, Table)[0])) == ["a", "b", "c"]
    assert blocks(part, str)[0] == "No figures of the final model: b."


def test_a_run_of_one_hospital_has_all_sections() -> None:
    page = page_of({"a": Replies()})
    assert page.title == "heart-disease: a model of 1 hospital"
    assert page.byline[:2] == ["1 hospital", "2 rounds"]
    assert titles(page) == ALL_SECTIONS
    assert render(page)


def test_a_hospital_of_one_class_has_dashes_and_no_curve() -> None:
    one_class = Evaluation(
        counts=Counts(true_positives=15, false_negatives=5, loss_sum=8.0, squared_error_sum=2.0),
        scores={"positives": np.array([[20.0, 1.0, 0.5]])},
    )
    page = page_of({"a": Replies(final=one_class, benefit=benefit(None))})
    (table,) = blocks(section(page, "How good the model is"), Table)
    auc = table.columns.index("ROC-AUC") - 1
    assert rows(table)["a"][auc] == rows(table)["federation"][auc] == rows(table)["hospital mean"][auc] == DASH
    assert "Curves and decisions" not in titles(page)
    assert not [block for block in page.summary if isinstance(block, Picture)]  # there is no interval to draw
    assert render(page)


# Many hospitals, and strange names


def test_a_page_of_1000_hospitals_shows_the_first_of_them_and_stays_small() -> None:
    hospitals = {f"hospital-{number:04}": Replies() for number in range(1000)}
    page = page_of(hospitals)
    assert "1,000 hospitals" in page.byline
    for title in ("Benefit of joining", "Participants", "How good the model is"):
        (table,) = blocks(section(page, title), Table)
        assert "960 more" in table.shown_note
        assert len([name for name in rows(table) if name.startswith("hospital-")]) == 40
        assert len(table.rows) >= 1000
    assert rows(table)["federation"][2] == "0.750"
    joining = section(page, "Benefit of joining")
    assert not blocks(joining, Cards)
    assert any("960 more hospitals" in text for text in blocks(joining, str))
    assert "the 11 hospitals with the most patients, of 1,000" in blocks(section(page, "Curves and decisions"), str)[0]
    assert "the 22 hospitals with the most patients, of 1,000" in page.summary[-1].caption  # type: ignore[union-attr]
    assert "federation" in alts(page, "ROC curves")[0]
    assert "federation" in alts(page, "Decisions at the threshold")[0]
    assert max(len(alt) for title in titles(page) for alt in alts(page, title)) < 5000
    assert len(render(page)) < 900_000


def test_names_of_hospitals_are_escaped() -> None:
    # No hospital may join under such a name; the page does not rely on that.
    page = page_of({"<b>&a": Replies(), "b": Replies()})
    html = render(page)
    assert "<b>&" not in html
    assert "&lt;b&gt;&amp;a" in html


# Patients' values


@pytest.mark.parametrize("module", [run_page, sections, page_module, private_runs, panels, binary])
def test_modules_of_the_page_import_nothing_that_reads_rows(module: object) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())  # type: ignore[attr-defined]
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    of_data = r"data\.(hospital|patients|tables|dataset_folder)"
    reads_rows = rf"federated_health\.(hospital|secure_aggregation|{of_data}|ml\.training)\b"
    assert not [name for name in imported if re.match(reads_rows, str(name))]
    assert not {"pandas", "client"} & imported


@pytest.mark.slow
def test_no_value_of_a_patient_is_on_the_page_of_a_real_run(hospitals_folder: Path, tmp_path: Path) -> None:
    marks = ("137.4219", "271.8183")
    contexts = {}
    for number in (1, 2):
        path, name = find_hospital(hospitals_folder, number)
        head, *lines = path.read_text().splitlines()
        places = [head.split(",").index(column) for column in ("trestbps", "chol")]
        for line in range(60):  # so that training and held-out rows of every hospital have both values
            cells = lines[line].split(",")
            for place, mark in zip(places, marks, strict=True):
                cells[place] = mark
            lines[line] = ",".join(cells)
        copy = tmp_path / f"secret-{name}.csv"
        copy.write_text("\n".join([head, *lines]))
        contexts[name] = hospital_context(name, {"data": str(copy)})
    settings = replace(Settings(), hospitals=2, rounds=2)
    run = PlainRun(InProcessTransport(client.app, contexts), settings)
    run.gather()
    assert len(list(run.rounds())) == 2
    figures = run.evaluate()

    html = render(page_of_run(summarise(run, figures, stopped=False, facts={})))

    assert "cleveland" in html
    for word in (*marks, *(mark[:6] for mark in marks), "secret", str(tmp_path)):
        assert word not in html
