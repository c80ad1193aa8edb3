"""Sections on recalibration, sample size and the checklist."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task
from federated_health.ml.sample_size import expected_r_squared, patients_to_develop, patients_to_validate
from federated_health.ml.verdicts import Interval
from federated_health.report.checklist import ITEMS, OPEN, checklist_section, known_of_task, with_checklist
from federated_health.report.page import Folded, Page, Picture, Section, Table, render
from federated_health.report.recalibration import recalibration_sections
from federated_health.report.sample_size import Sample, count_parameters, sample_size_sections
from tests.support.example_run import Replies, benefit, page_of
from tests.support.example_run import section as section_of
from tests.support.targets import task_of
from tests.test_site_recalibration import INTERCEPT_ALONE, MEASURED


def entry(measured: Any = MEASURED, **after: float) -> dict[str, Any]:
    found = measured.to_json()
    return {"recalibration": {**found, "after": {**found["after"], **after}}}


def only(entries: dict[str, Any], patients: dict[str, Any]) -> Section:
    (section,) = recalibration_sections(entries, patients, fitted="fitted to some patients")
    return section


def of_kind(section: Section, kind: type) -> list[Any]:
    inner = [block for outer in section.blocks if isinstance(outer, Folded) for block in outer.blocks]
    return [block for block in (*section.blocks, *inner) if isinstance(block, kind)]


# Recalibration


def test_tables_hold_figures_before_and_after() -> None:
    section = only({"north": entry(), "south": entry(INTERCEPT_ALONE), "none": {"verdict": "gains"}}, {})
    first, second = of_kind(section, Table)
    line = Interval(value=0.75, low=0.5, high=0.9375), 0.125, 0.0625
    assert first.rows == (
        ("north", MEASURED.recalibration.intercept, *line),
        ("south", MEASURED.recalibration.intercept, "1", *line[1:]),
    )
    assert second.rows[0] == ("north", 0.34567, 0.25, 0.5, None, 1.5, None)


def test_the_summary_names_hospitals_whose_risks_get_worse() -> None:
    entries = {"a": entry(brier=0.05), "b": entry(brier=0.13), "c": entry(brier=0.1251), "d": entry(brier=0.1)}
    text = str(only(entries, {}).blocks[1])
    assert "2 of 4" in text
    assert "most at a, from 0.125 to 0.050" in text
    assert "rises at b." in text  # c differs in a digit that is not shown


def test_curves_of_the_patients_whose_scores_are_known() -> None:
    generator = np.random.default_rng(0)
    log_odds = generator.normal(0, 1, 200)
    labels = (generator.random(200) < 1 / (1 + np.exp(-log_odds - 1.5))).astype(float)
    (picture,) = of_kind(only({"north": entry(), "south": entry()}, {"north": (log_odds, labels)}), Picture)
    assert "north" in picture.alt
    assert "south" not in picture.alt
    assert not of_kind(only({"north": entry()}, {}), Picture)


def test_no_section_without_recalibrations() -> None:
    assert not list(recalibration_sections({"north": {"verdict": "gains"}}, {}, fitted=""))


def test_the_page_of_a_run_has_the_sections() -> None:
    recalibrated = Replies(benefit=replace(benefit(), recalibration=MEASURED))
    page = page_of({"north": recalibrated, "south": Replies()})
    table, *_ = of_kind(section_of(page, "Risks recalibrated at each hospital"), Table)
    assert [row[0] for row in table.rows] == ["north"]
    assert of_kind(section_of(page, "Sample size"), Table)
    assert "TRIPOD+AI" in render(page)
    without = page_of({"north": Replies(), "south": Replies()})
    assert "Risks recalibrated at each hospital" not in {section.title for section in without.sections}


# Sample size


def test_parameters_are_those_of_a_regression() -> None:
    """A measurement: its value and whether it is missing; a category of two codes and missing: two."""
    task = Task(
        name="tiny",
        columns=(
            Measurement(name="age", meaning="age", unit="years", low=0, high=120),
            Category(name="sex", meaning="sex", codes={0: "female", 1: "male"}),
        ),
        label=Label(name="ill", meaning="is ill"),
    )
    assert count_parameters(task) == 4


def test_needed_and_available_numbers_stand_side_by_side() -> None:
    samples = {
        "small": Sample(train=50, test=20, prevalence=0.5),
        "large": Sample(train=5000, test=2000, prevalence=0.2),
        "all": Sample(train=5050, test=2020, prevalence=0.25),
    }
    (section,) = sample_size_sections(HEART_DISEASE, samples, 0.8, everyone="all")
    (table,) = of_kind(section, Table)
    parameters = count_parameters(HEART_DISEASE)
    small, _, everyone = table.rows
    assert small[:3] == ("small", 50, patients_to_develop(parameters, 0.5, expected_r_squared(0.8, 0.5)).needed)
    assert small[4:] == (20, patients_to_validate(0.5, 0.8).needed)
    assert (everyone[0], table.last) == ("all", 1)
    text = str(section.blocks[0])
    assert "enough for this model at large alone, and enough all together (5,050;" in text
    few = {"small": samples["small"], "all": replace(samples["all"], train=60)}
    (section,) = sample_size_sections(HEART_DISEASE, few, 0.8, everyone="all")
    assert "too few all together (60;" in str(section.blocks[0])


@pytest.mark.parametrize("roc_auc", [None, 0.4, 0.5, 1.0])
def test_no_sample_size_without_a_model_that_ranks(roc_auc: float | None) -> None:
    samples = {"a": Sample(train=50, test=20, prevalence=0.5)}
    assert not list(sample_size_sections(HEART_DISEASE, samples, roc_auc, everyone="all"))
    assert not list(sample_size_sections(task_of("number"), samples, 0.8, everyone="all"))


# Checklist


def test_the_checklist_has_27_items_and_says_which_are_open() -> None:
    section = checklist_section({"10": "enough"})
    cells = {row[0]: row[2] for table in of_kind(section, Table) for row in table.rows}
    assert {int(item.rstrip("abcdefg")) for item in cells} == set(range(1, 28))
    assert cells.pop("10") == "enough"
    assert set(cells.values()) == {OPEN}
    assert section.folded


def test_known_items_are_items_and_point_to_sections_that_are_there() -> None:
    known = known_of_task(HEART_DISEASE) | {"12c": "by federated averaging"}
    assert known.keys() <= {item for part in ITEMS.values() for item in part}
    page = with_checklist(Page(title="", lead="", sections=[Section("Sample size", []), Section("Network", [])]), known)
    cells = {row[0]: row[2] for table in of_kind(page.sections[-1], Table) for row in table.rows}
    assert cells["10"] == "see Sample size"
    assert cells["12c"] == f"{known['12c']}; see Network"
    assert cells["14"] == OPEN
