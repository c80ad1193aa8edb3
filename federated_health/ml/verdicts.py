"""Verdicts on two models of the same patients: intervals of their differences, and what these say.

Models are compared in two respects, since one can improve while the other gets worse: how well the model ranks
patients (discrimination: ROC-AUC), and how accurate its risks are (Brier score, log-loss).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

MIN_CLASS_SIZE = 5
"""Smallest class of patients for which there is a verdict: of fewer, there would hardly ever be a clear one.

In simulations with 1 to 10 patients of the rarer class and 20 or 100 others, two equally good models differed clearly
in at most 4 of 100 cases by the ROC-AUC, and in 6 by the Brier score. ROC-AUCs of 0.90 and 0.75 differed clearly in 10
of 100 cases with four patients of the rarer class, in 14 to 16 with five, and in 41 to 61 with ten; intervals covered
the difference in 91 to 93 of 100 (`benchmarks/coverage.py`).
"""

SIGNIFICANCE = 0.05
"""Largest p-value, adjusted for the number of hospitals, with which a difference is clear."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and its interval; all None where the figure is not defined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """By how much a model is better than another on the same patients: above 0 where it is better, for every figure.

    Attributes:
        p_value: two-sided, of the hypothesis that both are equally good; below SIGNIFICANCE exactly if the interval
            does not contain 0. None where the difference is not defined.
    """

    p_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same patients, by one figure.

    Attributes:
        own: figure of the model of the hospital's own rows alone.
        federated: figure of the federated model.
        difference: by how much the federated model is better, paired.
    """

    own: Interval
    federated: Interval
    difference: Difference


class Verdict(StrEnum):
    """What a hospital gains by joining.

    It may gain or lose where the difference is clear for this hospital alone, but not after the adjustment for the
    number of hospitals.
    """

    GAINS = "gains"
    MAY_GAIN = "may gain"
    MIXED = "gains and loses"
    UNCLEAR = "no clear difference"
    MAY_LOSE = "may lose"
    LOSES = "loses"
    UNDEFINED = "cannot be said"


BETTER, WORSE = (Verdict.GAINS, Verdict.MAY_GAIN), (Verdict.LOSES, Verdict.MAY_LOSE)
"""Verdicts in favour of the federated model, and against it; the clear one first."""


def verdict_text(verdict: str) -> str:
    """A verdict as people read it; files hold the value."""
    return "too few patients" if verdict == Verdict.UNDEFINED else str(verdict)


def judge(difference: Difference, p_value: float | None = None) -> Verdict:
    """The verdict on one figure.

    Args:
        p_value: adjusted for the number of hospitals; by default the difference's own.
    """
    p_value = difference.p_value if p_value is None else p_value
    if difference.value is None or p_value is None:
        return Verdict.UNDEFINED
    clear, perhaps = BETTER if difference.value > 0 else WORSE
    if p_value < SIGNIFICANCE:
        return clear
    return perhaps if (difference.p_value or 0.0) < SIGNIFICANCE else Verdict.UNCLEAR


def judge_hospitals(differences: Mapping[str, Difference]) -> dict[str, Verdict]:
    """The verdict of each hospital on one figure, with p-values that are adjusted for the number of hospitals."""
    adjusted = adjust_p_values(differences)
    return {name: judge(of, adjusted.get(name)) for name, of in differences.items()}


def adjust_p_values(differences: Mapping[str, Difference]) -> dict[str, float]:
    """P-values of the hospitals that have one, adjusted for the number of these (see `holm`)."""
    known = {name: of.p_value for name, of in differences.items() if of.p_value is not None}
    return dict(zip(known, holm(known.values()), strict=True))


def holm(p_values: Iterable[float]) -> list[float]:
    """P-values adjusted for their number, in the given order (Holm 1979)."""
    p_values = list(p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict in all respects together."""
    found = set(verdicts)
    if found & {*BETTER} and found & {*WORSE}:
        return Verdict.MIXED
    return next((one for one in (*BETTER, *WORSE, Verdict.UNCLEAR) if one in found), Verdict.UNDEFINED)
