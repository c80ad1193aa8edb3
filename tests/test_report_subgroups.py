"""The section with figures of subgroups."""

from dataclasses import replace

import numpy as np

from federated_health.data.subgroups import subgroups_of
from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.subgroup_figures import summarise_subgroups
from federated_health.ml.subgroups import GroupFigures
from federated_health.report.page import Picture, Section, Table
from federated_health.report.subgroups import subgroup_sections
from tests.support.example_run import blocks, rows
from tests.support.targets import task_of


def group(tp: int, fp: int, tn: int, fn: int, roc_auc: float = 0.8) -> GroupFigures:
    return GroupFigures(tp, fp, tn, fn, tp + fn, tp + fn, tp + fn, fp + tn, roc_auc, 0.0004, 0.0, 0.02, 1.0, 0.03)


WOMEN, MEN, AGE = group(34, 10, 130, 16), group(410, 60, 150, 40), group(148, 23, 93, 19)


def sections_of(women: GroupFigures = WOMEN, men: GroupFigures = MEN) -> list[Section]:
    figures = summarise_subgroups(HEART_DISEASE, {"basel": [women, men, AGE, AGE, AGE]})
    return list(subgroup_sections(HEART_DISEASE, {"subgroups": figures}))


def sentences(section: Section) -> list[str]:
    return [text for block in blocks(section, list) for text in block]


def test_a_clear_difference_is_said_in_words() -> None:
    first, _ = sections_of()
    found = sentences(first)
    (sensitivity,) = [text for text in found if text.startswith("Sensitivity")]
    assert "by sex" in sensitivity
    places = [sensitivity.index(text) for text in ("0.680", "female", "0.911", " male")]
    assert places == sorted(places)
    (rule,) = [block for block in first.blocks if isinstance(block, str)]
    assert "Holm" in rule
    assert "16 comparisons" in rule  # a pair of sexes and three pairs of bands, by four figures


def test_no_difference_is_said_too() -> None:
    first, _ = sections_of(men=group(68, 20, 260, 32))
    assert sentences(first) == []
    assert "No figure differs clearly" in str(first.blocks[0])


def test_the_table_and_the_picture_have_every_group() -> None:
    first, by_hospital = sections_of()
    names = [f"{of.column}: {of.name}" for of in subgroups_of(HEART_DISEASE)]
    (table,) = blocks(first, Table)
    assert list(rows(table)) == names
    (picture,) = blocks(first, Picture)
    assert all(name in picture.alt for name in names)
    assert by_hospital.folded
    (table,) = blocks(by_hospital, Table)
    assert list(rows(table)) == [f"basel, {name}" for name in names]


def test_groups_that_cannot_be_compared_are_no_result() -> None:
    few = GroupFigures(true_positives=1, sensitivity_number=1.0)
    figures = summarise_subgroups(HEART_DISEASE, {"basel": [few, *[GroupFigures()] * 4]})
    first, _ = subgroup_sections(HEART_DISEASE, {"subgroups": figures})
    assert "cannot be compared" in str(first.blocks[0])


def test_without_figures_the_reason_is_said() -> None:
    (unknown,) = subgroup_sections(HEART_DISEASE, {}, "they stay at each hospital")
    assert "they stay at each hospital" in str(unknown.blocks[0])
    (suppressed,) = subgroup_sections(HEART_DISEASE, {})
    assert "suppressed" in str(suppressed.blocks[0])


def test_a_task_without_subgroups_has_no_section() -> None:
    assert list(subgroup_sections(task_of("binary"), {})) == []


def test_many_groups_are_drawn() -> None:
    task = replace(HEART_DISEASE, subgroups={"age": tuple(np.linspace(25, 85, 11).tolist())})
    figures = summarise_subgroups(task, {"basel": [AGE] * 12})
    (first, _) = subgroup_sections(task, {"subgroups": figures})
    (picture,) = blocks(first, Picture)
    assert picture.svg.count("age:") == 36
