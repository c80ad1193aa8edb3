"""Small hospitals that are drawn from made-up ones, and what a curious server finds out of one in real runs."""

from dataclasses import replace

import numpy as np
import pytest

from client import app
from federated_health.data.hospital import Patients
from federated_health.settings import Settings
from federated_health.studies.audit import drawn_hospital
from federated_health.studies.audit.audit_page import SMALL_HOSPITAL
from federated_health.studies.audit.drawn_hospital import PATIENTS, Draw, can_draw, draw_small_hospital
from federated_health.studies.audit.small_hospital import OWN, SUM, Findings, attack_small_hospital
from tests.support.audits import hospitals_of

HOSPITALS = hospitals_of({"a": 40, "b": 12, "c": 30})


def draw_of(number: int) -> Draw:
    return draw_small_hospital(HOSPITALS, number, seed=7)


def rows_of(*parts: Patients) -> list[tuple[float, ...]]:
    """The rows in ascending order, with 0 for a missing value and the label at the end."""
    rows = [np.column_stack([np.nan_to_num(part.values), part.labels]) for part in parts]
    return sorted(map(tuple, np.concatenate(rows).tolist()))


def test_a_draw_divides_a_hospital_into_30_patients_one_more_and_the_others() -> None:
    for number, name in enumerate(["a", "c", "a"]):  # b has too few patients
        draw = draw_of(number)
        assert draw.name == draw.small.name == draw.grown.name == name
        assert len(draw.small.train) + len(draw.small.test) == PATIENTS
        assert len(draw.added) == 1
        whole = HOSPITALS[name]
        parts = (draw.small.train, draw.small.test, draw.added, draw.others)
        assert rows_of(*parts) == rows_of(whole.train, whole.test)
        grown = draw.grown.train, draw.grown.test
        assert rows_of(*grown) == rows_of(draw.small.train, draw.small.test, draw.added)
        assert all(draw.hospitals[other] is HOSPITALS[other] for other in HOSPITALS if other != name)


def test_draws_differ_and_are_repeatable() -> None:
    assert rows_of(draw_of(0).added) == rows_of(draw_of(0).added)
    assert rows_of(draw_of(0).small.train) != rows_of(draw_of(2).small.train)


def test_all_rows_of_a_patient_are_drawn_together() -> None:
    whole = HOSPITALS["a"]
    ids = np.arange(len(whole.train) + len(whole.test)) // 2 * 2
    split = len(whole.train)
    repeated = replace(whole, train=replace(whole.train, ids=ids[:split]), test=replace(whole.test, ids=ids[split:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_hospital, "PATIENTS", 10)
        draw = draw_small_hospital({"a": repeated}, 0, seed=7)
    parts = draw.small.train, draw.small.test, draw.added, draw.others
    numbers = [set((part.ids if part.ids is not None else np.zeros(0)).tolist()) for part in parts]
    assert [len(part) for part in numbers][2:] == [1, 19]
    assert len(numbers[0] | numbers[1]) == 10
    assert sum(map(len, numbers)) == len(set.union(*numbers))


def test_without_a_large_hospital_there_is_no_draw() -> None:
    assert can_draw(HOSPITALS)
    assert not can_draw({"b": HOSPITALS["b"]})


def attacked(**settings: object) -> dict[str, Findings]:
    quick = {"rounds": 30, "local-epochs": 1, "hospitals": 3}
    return attack_small_hospital(draw_of(0), Settings.from_config({**quick, **settings}), app)  # type: ignore[dict-item]  # values of settings


@pytest.mark.slow
def test_a_plain_run_tells_a_server_almost_everything_and_sums_over_hospitals_less() -> None:
    found = attacked()
    assert list(found) == [OWN, SUM]
    own, together = found[OWN], found[SUM]
    assert own.keys() == together.keys() == SMALL_HOSPITAL.keys()
    assert own["held_out"] == own["exact"] == own["outcomes"] == 1.0
    assert own["means"] == pytest.approx(0.4)  # two of five measurements have values
    assert (own["members"] or 0) > 0.75
    assert (own["isolated"] or 0) >= 1
    assert together["means"] == together["exact"] == 0.0
    assert (own["singled_out"] or 0) > 0.75
    assert (together["singled_out"] or 1) < 0.7
    assert (together["members"] or 1) < (own["members"] or 0)


@pytest.mark.slow
def test_differential_privacy_hides_the_training_rows_of_a_small_hospital() -> None:
    found = attacked(**{"dp-epsilon": 1.0})
    assert list(found) == [OWN]
    assert found[OWN]["means"] == found[OWN]["added"] == found[OWN]["isolated"] == 0.0
    assert (found[OWN]["members"] or 1) < 0.8
