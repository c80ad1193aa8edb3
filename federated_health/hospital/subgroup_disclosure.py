"""Which figures of subgroups may leave a hospital whose data are not public.

A group's figures leave only if each class in it has at least the minimum cell of patients, and each of its four counts
(true and false positives and negatives) is 0 or at least as large. Both classes are needed, since a group of one class
alone would tell the outcome of all its patients.

The same holds of what a subtraction leaves: the rows of a column that are in no released group, which are those of its
suppressed groups and those in which the column is missing. Where they are few, the smallest released group of the
column is suppressed, too, until they are enough (complementary suppression, Cox 1980). Everything that can be computed
from the groups of a column and the totals is then a sum of such parts.

Groups of different columns cross. Of the patients in two of them, or in one and not in the other, their counts only say
that there are at most as many as in either and at least as many as both have more than all patients; these bounds meet
only where the number is 0 or that of a whole group.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from federated_health.data.subgroups import Subgroup
from federated_health.ml.subgroups import GroupFigures

Cells = tuple[float, float, float, float]
"""True positives, false positives, true negatives, false negatives."""

DIGITS = 3
"""Significant digits of sums and variances, and decimals of estimates, that leave."""


def suppress_groups(
    groups: Sequence[Subgroup],
    figures: Sequence[GroupFigures],
    total: Cells,
    minimum: int,
    exposed: Collection[str] = (),
) -> list[GroupFigures]:
    """The figures that may leave, with all 0 in place of the others.

    Args:
        total: of all held-out rows.
        minimum: minimum cell, in rows.
        exposed: columns whose groups differ from those of an earlier release by too few patients.
    """
    kept: set[int] = set()
    cells = {place: of.cells for place, of in enumerate(figures)}
    classes = {place: _classes_of(of) for place, of in cells.items()}
    for column in {group.column for group in groups} - set(exposed):
        places = {place for place, group in enumerate(groups) if group.column == column}
        # Of the groups that `release_memory` chooses by their classes alone, and remembers: no others.
        remembered = _choose(places, classes, _classes_of(total), minimum)
        kept |= _choose(remembered, cells, total, minimum)
    return [of if place in kept else GroupFigures() for place, of in enumerate(figures)]


def _choose(places: Collection[int], cells: Mapping[int, Cells], total: Cells, minimum: int) -> set[int]:
    """The groups of these places that may leave, as may what remains of the total."""
    released = {place for place in places if is_safe(cells[place], minimum)}
    while released and not is_safe(_subtract(total, [cells[place] for place in released]), minimum):
        released.remove(min(released, key=lambda place: (sum(cells[place]), place)))
    return released


def _classes_of(cells: Cells) -> Cells:
    """The counts if all predictions were right."""
    tp, fp, tn, fn = cells
    return tp + fn, 0, fp + tn, 0


def is_safe(cells: Cells, minimum: int) -> bool:
    """Whether counts of these rows may leave: there are none, or enough of each class and in each cell with any."""
    if not any(cells):
        return True
    tp, fp, tn, fn = cells
    return min(tp + fn, fp + tn) >= minimum and all(cell == 0 or cell >= minimum for cell in cells)


def _subtract(total: Cells, parts: Sequence[Cells]) -> Cells:
    tp, fp, tn, fn = (whole - sum(part[place] for part in parts) for place, whole in enumerate(total))
    return tp, fp, tn, fn


def round_figures(figures: GroupFigures) -> GroupFigures:
    """The same figures with three significant digits, or as many decimals; counts are exact."""
    rows = max(sum(figures.cells), 1)
    digits = {name: float(f"{getattr(figures, name):.{DIGITS}g}") for name in _ROUNDED_TO_DIGITS}
    decimals = {name: round(getattr(figures, name), DIGITS) for name in ("roc_auc", "intercept", "slope")}
    return replace(figures, expected=rows * float(f"{figures.expected / rows:.{DIGITS}g}"), **digits, **decimals)


_ROUNDED_TO_DIGITS = (
    *("excess_variance", "sensitivity_number", "specificity_number", "auc_variance"),
    *("intercept_variance", "slope_variance"),
)
