"""Verdicts at their edges, and their adjustment for the number of hospitals against statsmodels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from federated_health.ml.verdicts import Difference, Verdict, combine, holm, judge, judge_hospitals

GAINS, MAY_GAIN, MIXED, UNCLEAR, MAY_LOSE, LOSES, UNDEFINED = Verdict


def difference_of(value: float, p_value: float) -> Difference:
    return Difference(value=value, low=value - 1, high=value + 1, p_value=p_value)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_adjusted_p_values_are_those_of_statsmodels(p_values: list[float]) -> None:
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], atol=1e-15)


def test_adjusted_p_values_worked_by_hand() -> None:
    """The smallest counts fourfold, the next threefold and so on; none is smaller than one before it."""
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("value", "p_value", "verdict"),
    [
        (0.1, 0.049, GAINS),
        (0.1, 0.05, UNCLEAR),
        (0.0, 1.0, UNCLEAR),
        (-0.1, 0.05, UNCLEAR),
        (-0.1, 0.049, LOSES),
    ],
)
def test_a_difference_is_clear_below_a_p_value_of_5_percent(value: float, p_value: float, verdict: Verdict) -> None:
    assert judge(difference_of(value, p_value)) is verdict


def test_an_undefined_difference_has_no_verdict_and_counts_in_no_adjustment() -> None:
    differences = {"a": difference_of(0.1, 0.02), "b": Difference(), "c": difference_of(-0.1, 0.6)}

    assert judge_hospitals(differences) == {"a": GAINS, "b": UNDEFINED, "c": UNCLEAR}  # 0.02 times 2, not 3
    assert judge_hospitals({"b": Difference()}) == {"b": UNDEFINED}
    assert judge(Difference()) is UNDEFINED


def test_a_difference_that_is_clear_before_the_adjustment_only_may_be_one() -> None:
    """Both p-values become 0.06: 0.02 times 3, and no less for the next one."""
    differences = {"a": difference_of(0.1, 0.02), "b": difference_of(-0.1, 0.03), "c": difference_of(-0.1, 0.6)}

    assert judge_hospitals(differences) == {"a": MAY_GAIN, "b": MAY_LOSE, "c": UNCLEAR}


def test_of_many_hospitals_only_a_very_small_p_value_is_clear() -> None:
    differences = {str(number): difference_of(0.1, p) for number, p in enumerate([0.001, 0.002, *[0.5] * 38])}

    verdicts = judge_hospitals(differences)

    assert [name for name, verdict in verdicts.items() if verdict is GAINS] == ["0"]


@pytest.mark.parametrize(
    ("verdicts", "combined"),
    [
        ([GAINS, GAINS], GAINS),
        ([GAINS, UNCLEAR], GAINS),
        ([UNCLEAR, LOSES], LOSES),
        ([GAINS, LOSES], MIXED),
        ([MAY_GAIN, UNCLEAR], MAY_GAIN),
        ([LOSES, MAY_LOSE], LOSES),
        ([GAINS, MAY_LOSE], MIXED),
        ([UNDEFINED, MAY_LOSE], MAY_LOSE),
        ([UNCLEAR, UNCLEAR], UNCLEAR),
        ([UNDEFINED, LOSES], LOSES),
        ([UNDEFINED, UNDEFINED], UNDEFINED),
        ([], UNDEFINED),
    ],
)
def test_verdicts_in_all_respects_together(verdicts: list[Verdict], combined: Verdict) -> None:
    assert combine(verdicts) is combined
