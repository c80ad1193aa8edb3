"""Finds hospitals whose label is inverted: by the associations of other hospitals, or by the task's declaration.

Without a relation between label and column, the variance of an association (see `associations`) over all orders of the
labels is 1 / (rows - 1), whatever the distributions (Pitman 1937), so association times sqrt(rows - 1) is a z-score.
Columns are combined by Stouffer's method for correlated tests (Strube 1985, Psychological Bulletin 97(2)), with the
correlation between columns taken as COLUMN_CORRELATION.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Measurement
from federated_health.data.tasks import Task

STRONG = 0.1
"""Smallest association at the other hospitals from which a column is evidence about a hospital's label."""

MIN_EVIDENCE, MIN_EVIDENCE_OF_ONE = 2.0, 3.0
"""Standard errors from which associations agree or are opposite: of several columns together, and of one alone."""

COLUMN_CORRELATION = 0.3
"""Correlation between the z-scores of two columns, signed so that high means risk; in the heart data 0.08 to 0.24."""

Vector = npt.NDArray[np.float64]


def column_positions(task: Task) -> npt.NDArray[np.intp]:
    """Position of each association's column: one association per measurement, and one per code of a category."""
    widths = [1 if isinstance(column, Measurement) else len(column.codes) for column in task.columns]
    return np.repeat(np.arange(len(widths)), widths)


def expected_associations(task: Task) -> Vector:
    """Signs of the associations that the task declares, [associations]; 0 where it declares none."""
    signs: list[int] = []
    for column in task.columns:
        if isinstance(column, Measurement):
            signs.append({"positive": 1, "negative": -1, None: 0}[column.association])
        else:
            signs += [(1 if code in column.risk_codes else -1) if column.risk_codes else 0 for code in column.codes]
    return np.array(signs, dtype=np.float64)


@dataclass(frozen=True)
class Comparison:
    """How well the associations of a hospital agree with a reference.

    Attributes:
        evidence: in standard errors; negative where they are opposite.
        opposite: number of the strong columns in which they are opposite.
        strong: number of columns with a strong association in the reference and a known one at this hospital.
    """

    evidence: float = 0.0
    opposite: int = 0
    strong: int = 0

    @property
    def direction(self) -> int:
        """1 if the associations agree, -1 if they are opposite, in most columns and beyond chance; else 0."""
        sign = int(np.sign(self.strong - 2 * self.opposite))
        needed = MIN_EVIDENCE if self.strong > 1 else MIN_EVIDENCE_OF_ONE
        return sign if self.evidence * sign >= needed else 0


def compare(own: Vector, rows: int, others: Vector, task: Task) -> Comparison:
    """Compare associations, [associations], over a number of rows with those of others, or with expected signs.

    Within a column z-scores are averaged, which no correlation between codes makes larger than one z-score.
    """
    weights = np.where(own == 0, 0.0, np.where(np.abs(others) < STRONG, 0.0, others))
    positions, size = column_positions(task), len(task.columns)
    total = np.bincount(positions, np.abs(weights), size)
    is_strong = total > 0
    scores = np.bincount(positions, weights * own, size)[is_strong] / total[is_strong] * np.sqrt(max(rows - 1, 0))
    importance = np.array([np.abs(weights[positions == i]).max() for i in np.flatnonzero(is_strong)])
    if not len(scores):
        return Comparison()
    spread = (1 - COLUMN_CORRELATION) * (importance**2).sum() + COLUMN_CORRELATION * importance.sum() ** 2
    evidence = float(importance @ scores / np.sqrt(spread))
    return Comparison(evidence, int((scores < 0).sum()), len(scores))


def find_inverted_labels(associations: Mapping[str, Vector], rows: Mapping[str, int], task: Task) -> dict[str, str]:
    """Warnings about hospitals whose label seems inverted, by the hospital's name.

    The first principal component of the z-scores gives all hospitals a common direction, in which each is compared with
    the merged associations of the others. The direction of the majority is taken as right. The signs that the task
    declares decide about hospitals without a warning so far, also if there is no majority. A hospital with too little
    evidence counts for no direction.
    """
    names = [name for name in sorted(associations) if associations[name].any()]
    if not names:
        return {}
    own, sizes = np.array([associations[name] for name in names]), np.array([rows[name] for name in names])
    scores = own * np.sqrt(sizes - 1.0)[:, None]
    signs = np.where(scores @ np.linalg.svd(scores, full_matrices=False)[2][0] < 0, -1.0, 1.0)[:, None]
    weights = (own != 0) * (sizes - 1.0)[:, None]
    merged = signs * weights * own
    others = (merged.sum(axis=0) - merged) / np.maximum(weights.sum(axis=0) - weights, 1.0)
    directions = [compare(*each, task).direction for each in zip(own, sizes, others, strict=True)]
    majority = 1 if directions.count(1) >= directions.count(-1) else -1
    is_tied = directions.count(1) == directions.count(-1)
    warnings, ambiguous = {}, {}
    expected = expected_associations(task)
    for name, cells, size, reference, direction in zip(names, own, sizes, others, directions, strict=True):
        found, declared = compare(cells, size, majority * reference, task), compare(cells, size, expected, task)
        counted = f"{found.opposite} of {found.strong} columns"
        if direction == -majority and not is_tied:
            warnings[name] = f"label may be inverted: in {counted} its association is opposite to the other hospitals'"
        elif declared.direction < 0:
            counted = f"{declared.opposite} of {declared.strong} columns"
            warnings[name] = (
                f"label may be inverted: in {counted} its association is opposite to the task's declaration"
            )
        elif direction and is_tied:
            opposite = ", ".join(other for other, its in zip(names, directions, strict=True) if its == -direction)
            columns = found.opposite if direction == -majority else found.strong - found.opposite
            ambiguous[name] = (
                f"label may be inverted, or that of {opposite}: in {columns} of {found.strong} columns their "
                "associations are opposite"
            )
    return warnings or ambiguous
