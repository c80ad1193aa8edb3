"""Finds hospitals that registered the same rows, or nearly: by their sums and associations."""

from collections.abc import Iterator, Mapping

import numpy as np

from federated_health.messages.content import Registration
from federated_health.ml.normalisation import SUM_NAMES

MAX_OTHER_ROWS = 0.001
"""Share of rows in which two tables may differ and count as nearly the same; at least one row."""


def find_same_rows(registrations: Mapping[str, Registration]) -> Iterator[tuple[str, str, str]]:
    """Pairs of hospitals that have the same rows, or nearly, each with a text that has a place for the other's name.

    Nearly the same are statistics that differ no more than a row in a thousand explains, or one row. Means of unrelated
    tables of n rows differ by about sqrt(2 / n) standard deviations, those of tables that differ in k rows by at most
    a few times sqrt(k) / n. In three columns or more, the first is rarely as small as the second.

    Args:
        registrations: with sums, by hospital.
    """
    names, known = list(registrations), list(registrations.values())
    first_of: dict[tuple[object, ...], str] = {}
    for name, registration in zip(names, known, strict=True):
        if (other := first_of.setdefault(registration.statistics, name)) != name:
            yield other, name, "same row counts and sums as {}: did one CSV join twice?"
    rows = np.array([registration.train_examples for registration in known])
    counts, totals, squares = (np.array([getattr(part.sums, name) for part in known]) for name in SUM_NAMES)
    means, mean_squares = (sums / np.maximum(counts, 1.0) for sums in (totals, squares))
    width = max(registration.associations.size for registration in known)
    associations = np.array(
        [np.resize(part.associations, width) if part.associations.size else np.zeros(width) for part in known]
    )
    for i in range(len(known) - 1):
        j = slice(i + 1, None)
        different = np.maximum(1.0, MAX_OTHER_ROWS * rows[j])[:, None]
        are_known = (counts[i] > 0) & (counts[j] > 0)
        deviation = np.sqrt(np.maximum(mean_squares[i] - means[i] ** 2, 0.0))
        observed = np.maximum(np.minimum(counts[i], counts[j]), 1.0)
        slack = 3 * deviation * np.sqrt(different) / observed + 1e-9 * np.abs(means[i])
        is_near = (np.abs(counts[i] - counts[j]) <= different) & (np.abs(means[i] - means[j]) <= slack)
        is_near_label = np.abs(associations[i] - associations[j]) <= 0.02 + 3 * np.sqrt(different) / rows[i]
        is_pair = (is_near | ~are_known).all(axis=1) & is_near_label.all(axis=1) & (are_known.sum(axis=1) >= 3)
        is_pair &= np.abs(rows[i] - rows[j]) <= different[:, 0]
        for place in np.flatnonzero(is_pair) + i + 1:
            if known[place].statistics != known[i].statistics:
                text = "nearly the same row counts, sums and correlations as {}: do both have the same patients?"
                yield names[i], names[place], text
