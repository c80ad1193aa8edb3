"""Figures of subgroups with their intervals, and clear differences between groups.

All intervals have a level of 95 %. Groups are compared over all hospitals together, since a hospital's own are small.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import exp, isfinite, lgamma, log, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from federated_health.data.subgroups import Subgroup, subgroups_of
from federated_health.data.tasks import Task
from federated_health.ml.intervals import NORMAL, interval_around, wilson_interval
from federated_health.ml.subgroups import GroupFigures, merge_groups, ratio_of
from federated_health.ml.verdicts import MIN_CLASS_SIZE, SIGNIFICANCE, Interval, holm
from federated_health.names import FEDERATION

MAX_LOG_DEVIATION = 100.0
"""Standard deviation of the logarithm of observed/expected above which it is not known; its interval would overflow."""

COMPARED = ("roc_auc", "sensitivity", "specificity", "observed_expected")
"""Figures by which groups are compared."""

ROUNDING = 1e-7
"""Tables whose chances differ by less, relatively, are equally likely."""

Figures = Mapping[str, Any]
"""Figures of one group, as in metrics.json."""


def figures_of(group: GroupFigures) -> dict[str, Any]:
    """Figures of one group as in metrics.json: numbers, then intervals; those that are not defined are all None."""
    found = {
        "sensitivity": _share(*_sensitivity(group)),
        "specificity": _share(*_specificity(group)),
        "roc_auc": _roc_auc(group),
        "observed_expected": _observed_expected(group),
        "calibration_intercept": _normal(group.intercept, group.intercept_variance),
        "calibration_slope": _normal(group.slope, group.slope_variance),
    }
    return {
        "rows": round(group.positives + group.negatives),
        "positives": round(group.positives),
        **{name: asdict(interval) for name, interval in found.items()},
    }


def _sensitivity(group: GroupFigures) -> tuple[float, float]:
    """Share of the positives that are found, and its effective number."""
    return ratio_of(group.true_positives, group.positives), group.sensitivity_number


def _specificity(group: GroupFigures) -> tuple[float, float]:
    return ratio_of(group.true_negatives, group.negatives), group.specificity_number


def _share(share: float, number: float) -> Interval:
    """A share of an effective number of patients, with its interval."""
    if not number > 0:
        return Interval()
    low, high = wilson_interval(np.array(share), np.array(number))
    return Interval(value=share, low=float(low), high=float(high))


def _roc_auc(group: GroupFigures) -> Interval:
    """The ROC-AUC with the interval of `ml.intervals`, from its variance."""
    if not group.auc_variance > 0:
        return Interval()
    return interval_around(group.roc_auc, group.auc_middle, NORMAL * sqrt(group.auc_variance), is_share=True)


def _normal(value: float, variance: float) -> Interval:
    half = NORMAL * sqrt(variance)
    return Interval(value=value, low=value - half, high=value + half) if variance > 0 else Interval()


def _observed_expected(group: GroupFigures) -> Interval:
    """Observed per expected events, whose logarithm has about a normal distribution (Debray et al. 2017).

    Not defined with few rows of a class: outcomes that are all the same would seem to have no variance.
    """
    few = min(group.positives, group.negatives) < MIN_CLASS_SIZE
    if few or not group.expected or _log_deviation(group) > MAX_LOG_DEVIATION:
        return Interval()
    value, factor = group.positives / group.expected, exp(NORMAL * _log_deviation(group))
    interval = Interval(value=value, low=value / factor, high=value * factor)
    return interval if isfinite(value * factor) else Interval()


def _log_deviation(group: GroupFigures) -> float:
    return sqrt(group.excess_variance) / group.positives


@dataclass(frozen=True, kw_only=True)
class GroupDifference:
    """A clear difference of one figure between two groups of a column.

    Attributes:
        lower, higher: names of the groups; `lower` has the smaller value.
        p_value: adjusted for the number of comparisons (Holm 1979).
    """

    column: str
    figure: str
    lower: str
    higher: str
    p_value: float


def clear_differences(groups: Sequence[Subgroup], merged: Sequence[GroupFigures]) -> tuple[list[GroupDifference], int]:
    """The clear differences between groups, and the number of comparisons for which their p-values are adjusted.

    Compared are all pairs of groups of a column by each of COMPARED that both have: sensitivity and
    specificity by Fisher's exact test of two shares of effective numbers, since groups are often small and shares near
    1; observed per expected events on the logarithmic scale.
    """
    found, figures = [], map(figures_of, merged)
    for (first, one, of_first), (second, two, of_second) in combinations(zip(groups, merged, figures, strict=True), 2):
        if first.column != second.column:
            continue
        for figure in COMPARED:
            values = [of[figure]["value"] for of in (of_first, of_second)]
            if None in values:
                continue
            p_value = _p_value(figure, one, two)
            lower, higher = (first, second) if values[0] <= values[1] else (second, first)
            found.append(
                GroupDifference(
                    column=first.column, figure=figure, lower=lower.name, higher=higher.name, p_value=p_value
                )
            )
    adjusted = holm(difference.p_value for difference in found)
    clear = [
        replace(difference, p_value=p_value)
        for difference, p_value in zip(found, adjusted, strict=True)
        if p_value < SIGNIFICANCE
    ]
    return clear, len(found)


def _p_value(figure: str, one: GroupFigures, two: GroupFigures) -> float:
    """Two-sided p-value of the hypothesis that a figure is the same in two groups."""
    if figure == "observed_expected":
        values = [log(of.positives / of.expected) for of in (one, two)]
        variance = sum(_log_deviation(of) ** 2 for of in (one, two))
    elif figure == "roc_auc":
        values, variance = [of.roc_auc for of in (one, two)], one.auc_variance + two.auc_variance
    else:
        return fisher(*((_sensitivity if figure == "sensitivity" else _specificity)(of) for of in (one, two)))
    if variance <= 0:
        return 1.0
    return 2 * NormalDist().cdf(-abs(values[0] - values[1]) / sqrt(variance))


def fisher(one: tuple[float, float], two: tuple[float, float]) -> float:
    """Two-sided p-value of Fisher's exact test of two shares (Fisher 1935), each with its number.

    Effective numbers, and the numbers of patients that shares are of, are rounded.
    """
    numbers = [round(number) for _, number in (one, two)]
    first, second = (round(share * number) for (share, _), number in zip((one, two), numbers, strict=True))
    right = first + second
    possible = range(max(0, right - numbers[1]), min(numbers[0], right) + 1)
    logs = np.array([_log_choices(numbers[0], k) + _log_choices(numbers[1], right - k) for k in possible])
    chances = np.exp(logs - _log_choices(sum(numbers), right))
    of_found = chances[first - possible.start]
    return float(min(1.0, chances[chances <= of_found * (1 + ROUNDING)].sum()))


def _log_choices(number: int, chosen: int) -> float:
    """Logarithm of the binomial coefficient."""
    return lgamma(number + 1) - lgamma(chosen + 1) - lgamma(number - chosen + 1)


def summarise_subgroups(
    task: Task, hospitals: Mapping[str, Sequence[GroupFigures]], everyone: str = FEDERATION
) -> dict[str, Any]:
    """The figures of subgroups, as under the key `subgroups` of metrics.json and evidence.json.

    Args:
        hospitals: name -> figures of the task's subgroups, in their order; none where all are suppressed.
        everyone: name of all hospitals together; empty to leave them out.

    Returns:
        Nothing if no hospital has figures of any group. Else:
        `hospitals`: name -> column -> group -> figures (see `figures_of`).
        `everyone`'s name: the same of all hospitals together, each group with `hospitals`, the number of those in it.
        `comparisons`: number of comparisons of groups, over all hospitals; `differences`: those that are clear.
    """
    groups = subgroups_of(task)
    known = {name: parts for name, parts in hospitals.items() if any(any(of.cells) for of in parts)}
    if not known:
        return {}
    by_group = list(zip(*known.values(), strict=True))
    merged = [merge_groups(parts) for parts in by_group]
    clear, comparisons = clear_differences(groups, merged)
    of_all = [
        figures_of(of) | {"hospitals": sum(any(part.cells) for part in parts)}
        for of, parts in zip(merged, by_group, strict=True)
    ]
    return {
        "hospitals": {name: _by_column(groups, map(figures_of, parts)) for name, parts in sorted(known.items())},
        **({everyone: _by_column(groups, of_all)} if everyone else {}),
        "comparisons": comparisons,
        "differences": [asdict(difference) for difference in clear],
    }


def _by_column(groups: Sequence[Subgroup], figures: Iterable[Figures]) -> dict[str, dict[str, Figures]]:
    table: dict[str, dict[str, Figures]] = {}
    for group, of in zip(groups, figures, strict=True):
        table.setdefault(group.column, {})[group.name] = of
    return table
