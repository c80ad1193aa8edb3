"""The page of an audit: the choice, every attack, and what is not there to be attacked."""

import re
from functools import cache

from federated_health.report.formatting import NOT_DEFINED
from federated_health.report.page import Caution, Page, Picture, Section, Table, render
from federated_health.studies.audit.attacks import audit_figures
from federated_health.studies.audit.audit_page import (
    TARGETS,
    audit_page,
    inversion_rows,
    one_model_rows,
    strength_rows,
    strongest_attack,
)
from tests.support.audits import Audit, plan_of

AUDIT = Audit(plan_of())


@cache
def page() -> Page:
    return audit_page(AUDIT.plan, AUDIT.figures)


def section(title: str) -> Section:
    (found,) = [one for one in page().sections if one.title == title]
    return found


def test_the_choice_has_a_picture_and_a_row_a_setting() -> None:
    blocks = section("The choice").blocks
    (picture,) = [block for block in blocks if isinstance(block, Picture)]
    aucs, single, rates = (block for block in blocks if isinstance(block, Table))
    assert (
        [row[0] for row in aucs.rows]
        == [row[0] for row in rates.rows]
        == [row[0] for row in single.rows]
        == list(AUDIT.figures)
    )
    assert aucs.columns[1:3] == ("ROC-AUC, all rows", "ROC-AUC, attacked")
    assert aucs.rows[0][1:3] == ("0.900", "0.900")
    assert re.fullmatch(r"0\.9\d\d \(0\.\d{3}.0\.\d{3}\)", aucs.rows[0][4])
    assert "encrypted: ROC-AUC, all rows 0.900" in picture.alt
    assert f"one hospital's updates {NOT_DEFINED}" in picture.alt
    assert all(any(isinstance(block, kind) for block in blocks) for kind in (Caution, Picture, Table))


def test_what_the_server_does_not_hold_has_a_dash_and_no_figure() -> None:
    assert strength_rows(AUDIT.figures, "roc_auc")["encrypted"]["one hospital's updates"] == NOT_DEFINED
    assert strength_rows(AUDIT.figures, "true_positive_rate")["encrypted"]["one hospital's updates"] == NOT_DEFINED
    assert (
        strength_rows(AUDIT.figures, "roc_auc")["encrypted"]["the final model"]
        == strength_rows(AUDIT.figures, "roc_auc")["plain"]["the final model"]
    )
    (caution,) = [block for block in section("The choice").blocks if isinstance(block, Caution)]
    assert "the server holds ciphertexts and no key" in caution.text


def test_the_strongest_attack_stands_for_all() -> None:
    """Shares say more than drops here, and where neither says anything the greater figure is shown."""
    shown = strength_rows(AUDIT.figures, "roc_auc")
    for privacy, one in AUDIT.figures.items():
        for target, words in TARGETS.items():
            if one["attacks"][target]:
                values = [found["roc_auc"]["value"] for found in one["attacks"][target].values()]
                assert shown[privacy][words].startswith(f"{max(values):.3f} ")
    assert strongest_attack(AUDIT.figures["encrypted"], "updates") is None


def test_a_single_model_is_judged_by_itself() -> None:
    rows = one_model_rows(AUDIT.figures)
    assert rows["encrypted"] == rows["plain"]
    found = AUDIT.figures["epsilon 1"]["attacks"]["final"]["LiRA"]
    assert found["one_model"]["low"] < found["roc_auc"]["low"] < 0.5
    assert rows["epsilon 1"]["models like guessing"] == f"{100 * found['undecided']:.0f} %"
    assert found["undecided"] > 0.7


def test_rebuilt_columns_stand_beside_guesses() -> None:
    assert inversion_rows(AUDIT.figures) == {
        "plain": {"1 row": "100 %", "4 rows": "100 %", "20 rows": "100 %"},
        "encrypted": {"1 row": NOT_DEFINED, "4 rows": NOT_DEFINED, "20 rows": NOT_DEFINED},
        "epsilon 8": {"1 row": "100 %", "4 rows": "100 %", "20 rows": "100 %"},
        "epsilon 1": {"1 row": "100 %", "4 rows": "100 %", "20 rows": "100 %"},
        "encrypted: the average": {"1 row": "50 %", "4 rows": "50 %", "20 rows": "50 %"},
        "guess: typical patient": {"1 row": "25 %", "4 rows": "25 %", "20 rows": "25 %"},
        "guess: random patients": {"1 row": "38 %", "4 rows": "38 %", "20 rows": "38 %"},
    }


def test_every_attack_and_hospital_has_a_row() -> None:
    (attacks,) = [block for block in section("Every attack").blocks if isinstance(block, Table)]
    assert len(attacks.rows) == 3 * 6  # encrypted is plain's
    tables = [block for block in section("Hospital by hospital").blocks if isinstance(block, Table)]
    assert [table.columns for table in tables] == [("hospital", "plain", "epsilon 8", "epsilon 1")] * 3
    assert [row[0] for row in tables[0].rows] == ["large (40 rows)", "small (20 rows)", "middle (31 rows)"]


def test_the_page_says_what_is_promised_and_how_few_one_per_cent_are() -> None:
    html = render(page())
    assert "neighbours differ by adding or removing one training row" in html
    assert "1 % is 0 patients" in html
    assert html == render(page())


def test_an_audit_without_inversions_has_a_page() -> None:
    plan = plan_of(sizes=(), draws=0)
    audit = Audit(plan)
    assert "Patients rebuilt" not in render(audit_page(plan, audit_figures(plan, audit.results)))
