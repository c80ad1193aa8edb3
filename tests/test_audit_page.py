"""The page of an audit: attacks beside model quality, all attacks, and dashes where there is nothing to attack."""

import re
from functools import cache

from federated_health import __version__
from federated_health.ml.privacy_plan import GUARANTEE
from federated_health.report.formatting import NOT_DEFINED
from federated_health.report.page import Caution, Page, Picture, Table, render
from federated_health.studies.audit.audit_page import (
    TARGETS,
    audit_page,
    inversion_rows,
    one_model_rows,
    strength_rows,
    strongest_attack,
)
from tests.support.audits import example_audit, plan_of
from tests.support.example_run import blocks, rows, section, titles

AUDIT = example_audit()


@cache
def page() -> Page:
    return audit_page(AUDIT.plan, AUDIT.figures)


def test_attacks_and_quality_have_a_picture_and_one_row_per_privacy_setting() -> None:
    part = section(page(), "Attacks and model quality")
    (picture,) = blocks(part, Picture)
    aucs, single, rates = blocks(part, Table)
    assert list(rows(aucs)) == list(rows(rates)) == list(rows(single)) == list(AUDIT.figures)
    assert aucs.columns[1:3] == ("ROC-AUC, all rows", "ROC-AUC, attacked")
    assert aucs.rows[0][1:3] == ("0.900", "0.900")
    assert re.fullmatch(r"0\.9\d\d \(0\.\d{3}.0\.\d{3}\)", aucs.rows[0][4])
    assert "encrypted: ROC-AUC, all rows 0.900" in picture.alt
    assert f"one hospital's updates {NOT_DEFINED}" in picture.alt


def test_encrypted_updates_have_a_dash_and_a_caution_that_says_why() -> None:
    assert strength_rows(AUDIT.figures, "roc_auc")["encrypted"]["one hospital's updates"] == NOT_DEFINED
    assert strength_rows(AUDIT.figures, "true_positive_rate")["encrypted"]["one hospital's updates"] == NOT_DEFINED
    assert (
        strength_rows(AUDIT.figures, "roc_auc")["encrypted"]["the final model"]
        == strength_rows(AUDIT.figures, "roc_auc")["plain"]["the final model"]
    )
    (caution,) = blocks(section(page(), "Attacks and model quality"), Caution)
    assert "ciphertexts and no key" in caution.text


def test_the_strongest_attack_on_each_target_is_shown() -> None:
    cells = strength_rows(AUDIT.figures, "roc_auc")
    for privacy, entry in AUDIT.figures.items():
        for target, name in TARGETS.items():
            if entry["attacks"][target]:
                values = [attack["roc_auc"]["value"] for attack in entry["attacks"][target].values()]
                assert cells[privacy][name].startswith(f"{max(values):.3f} ")
    assert strongest_attack(AUDIT.figures["encrypted"], "updates") is None


def test_a_single_model_has_an_interval_of_its_own() -> None:
    cells = one_model_rows(AUDIT.figures)
    assert cells["encrypted"] == cells["plain"]
    attack = AUDIT.figures["epsilon 1"]["attacks"]["final"]["LiRA"]
    assert attack["one_model"]["low"] < attack["roc_auc"]["low"] < 0.5
    assert cells["epsilon 1"]["models at chance level"] == f"{100 * attack['undecided']:.0f} %"
    assert attack["undecided"] > 0.7


def test_recovered_columns_are_shown_beside_guesses() -> None:
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
    (attacks,) = blocks(section(page(), "All attacks"), Table)
    assert len(attacks.rows) == 3 * 6  # those of encrypted runs are those of plain ones
    tables = blocks(section(page(), "Hospital by hospital"), Table)
    assert [table.columns for table in tables] == [("hospital", "plain", "epsilon 8", "epsilon 1")] * 3
    assert list(rows(tables[0])) == ["large (40 rows)", "small (20 rows)", "middle (31 rows)"]


def test_the_page_states_the_guarantee_its_limits_and_the_version() -> None:
    html = render(page())
    assert GUARANTEE in html
    assert "1 % is 0 patients" in html
    assert __version__ in html[html.index("<footer>") :]


def test_an_audit_without_inversions_has_no_section_for_them() -> None:
    figures = {privacy: {**entry, "inversion": {}} for privacy, entry in AUDIT.figures.items()}
    short = audit_page(plan_of(sizes=(), draws=0), figures)
    assert set(titles(page())) - set(titles(short)) == {"Patients reconstructed from an update"}
    assert render(short)
