"""The page of an audit: attacks beside model quality, all attacks, and dashes where there is nothing to attack."""

import re
from functools import cache

from federated_health import __version__
from federated_health.ml.privacy_plan import GUARANTEE
from federated_health.report.cells import show
from federated_health.report.formatting import NOT_DEFINED
from federated_health.report.page import Caution, Page, Picture, Table, render
from federated_health.studies.audit.attacks import ATTACKS
from federated_health.studies.audit.audit_page import (
    TARGETS,
    Rows,
    audit_page,
    control_rows,
    inversion_rows,
    one_model_rows,
    small_hospital_rows,
    strength_rows,
    strongest_attack,
)
from federated_health.studies.audit.shadow_runs import FINAL
from tests.support.audits import example_audit, plan_of
from tests.support.example_run import blocks, rows, section, titles

AUDIT = example_audit()
FEW = {"1": 1.0, "2": None, "3": 0.5}


def shown(rows: Rows) -> dict[str, dict[str, str]]:
    return {name: {column: show(cell) for column, cell in row.items()} for name, row in rows.items()}


@cache
def page() -> Page:
    return audit_page(AUDIT.plan, AUDIT.figures, FEW)


def test_attacks_and_quality_have_a_picture_and_one_row_per_privacy_setting() -> None:
    part = section(page(), "Attacks and model quality")
    (picture,) = blocks(part, Picture)
    aucs, single, control, rates = blocks(part, Table)
    assert list(rows(aucs)) == list(rows(rates)) == list(rows(single)) == list(rows(control)) == list(AUDIT.figures)
    assert aucs.columns[1:3] == ("ROC-AUC, all rows", "ROC-AUC, attacked")
    assert aucs.shown_rows[0][1:3] == ["0.900", "0.900"]
    assert re.fullmatch(r"0\.8\d\d \(0\.\d{3}.0\.\d{3}\)", aucs.shown_rows[0][4])
    assert "secure aggregation: ROC-AUC, all rows 0.900" in picture.alt
    assert f"one hospital's updates {NOT_DEFINED}" in picture.alt


def test_what_secure_aggregation_hides_has_a_dash_and_a_caution_says_what_remains() -> None:
    secure, plain = (strength_rows(AUDIT.figures, "roc_auc")[name] for name in ("secure aggregation", "plain"))
    hidden = {"one hospital's updates", "held-out: one hospital's sums"}
    assert {name for name, cell in secure.items() if cell is None} == hidden
    assert all(cell == plain[name] for name, cell in secure.items() if name not in hidden)
    (caution,) = blocks(section(page(), "Attacks and model quality"), Caution)
    assert "averages" in caution.text


def test_the_largest_possible_attack_is_beside_the_strongest_one_and_its_control() -> None:
    cells = control_rows(AUDIT.plan, AUDIT.figures)
    assert [show(cells[name]["largest possible"]) for name in AUDIT.figures] == [
        "1.000",
        "1.000",
        "1.000",
        "1.000",
        "0.731",
    ]
    assert cells["plain"]["attack"] in ATTACKS[FINAL]
    assert cells["plain"]["ROC-AUC"] == strength_rows(AUDIT.figures, "roc_auc")["plain"]["the final model"]


def test_sums_of_few_patients_have_a_table() -> None:
    (table,) = blocks(section(page(), "What sums over few patients tell"), Table)
    assert table.shown_rows == [["1 patient", "100 %"], ["2 patients", NOT_DEFINED], ["3 patients", "50 %"]]


def test_a_small_hospital_has_a_table_of_findings_by_privacy_setting() -> None:
    found = shown(small_hospital_rows(AUDIT.figures))
    assert found["outcomes of held-out patients, from their columns"] == {
        "plain": "75 %",
        "disclosure control": "0 %",
        "secure aggregation": "38 %",
        "epsilon 8": "0 %",
        "epsilon 1": "0 %",
    }
    assert found["who was trained on, ROC-AUC"]["plain"] == NOT_DEFINED
    assert found["patients rebuilt from one update, by crafted weights"]["plain"] == "0.750"
    (table,) = blocks(section(page(), "What a curious server learns of a small hospital"), Table)
    assert len(table.rows) == len(found)


def test_the_strongest_attack_on_each_target_is_shown() -> None:
    cells = shown(strength_rows(AUDIT.figures, "roc_auc"))
    for privacy, entry in AUDIT.figures.items():
        for target, name in TARGETS.items():
            if entry["attacks"][target]:
                values = [attack["roc_auc"]["value"] for attack in entry["attacks"][target].values()]
                assert cells[privacy][name].startswith(f"{max(values):.3f} ")
    assert strongest_attack(AUDIT.figures["secure aggregation"], "updates") is None


def test_a_single_model_has_an_interval_of_its_own() -> None:
    cells = shown(one_model_rows(AUDIT.figures))
    assert cells["secure aggregation"] == cells["plain"]
    attack = AUDIT.figures["epsilon 1"]["attacks"]["final"]["LiRA"]
    assert attack["one_model"]["low"] < attack["roc_auc"]["low"] < 0.5
    assert cells["epsilon 1"]["models at chance level"] == f"{100 * attack['undecided']:.0f} %"
    assert attack["undecided"] > 0.7


def test_recovered_columns_are_shown_beside_guesses() -> None:
    assert shown(inversion_rows(AUDIT.figures)) == {
        "plain": {"1 row": "100 %", "4 rows": "100 %", "20 rows": "100 %"},
        "disclosure control": {"1 row": "100 %", "4 rows": "100 %", "20 rows": "100 %"},
        "secure aggregation": {"1 row": "50 %", "4 rows": "50 %", "20 rows": "50 %"},
        "epsilon 8": {"1 row": "100 %", "4 rows": "100 %", "20 rows": "100 %"},
        "epsilon 1": {"1 row": "100 %", "4 rows": "100 %", "20 rows": "100 %"},
        "guess: typical patient": {"1 row": "25 %", "4 rows": "25 %", "20 rows": "25 %"},
        "guess: random patients": {"1 row": "38 %", "4 rows": "38 %", "20 rows": "38 %"},
    }


def test_every_attack_and_hospital_has_a_row() -> None:
    (attacks,) = blocks(section(page(), "All attacks"), Table)
    assert len(attacks.rows) == 4 * 9  # those with secure aggregation are among those of plain runs
    tables = blocks(section(page(), "Hospital by hospital"), Table)
    assert [table.columns for table in tables] == [("hospital", *AUDIT.plan.privacies)] * 5
    assert list(rows(tables[0])) == ["large (40 rows)", "small (20 rows)", "middle (31 rows)"]
    assert list(rows(tables[-1])) == ["large (20 rows)", "small (10 rows)", "middle (15 rows)"]


def test_the_page_states_the_guarantee_its_limits_and_the_version() -> None:
    html = render(page())
    assert GUARANTEE in html
    assert "1 % is 0 patients" in html
    assert __version__ in html[html.index("<footer>") :]


def test_an_audit_without_inversions_and_drawn_hospitals_has_no_sections_for_them() -> None:
    figures = {privacy: {**entry, "inversion": {}, "small_hospital": {}} for privacy, entry in AUDIT.figures.items()}
    short = audit_page(plan_of(sizes=(), draws=0, drawn=0), figures, FEW)
    assert set(titles(page())) - set(titles(short)) == {
        "Patients reconstructed from an update",
        "What a curious server learns of a small hospital",
    }
    assert render(short)
