"""What is suspicious in the figures that hospitals declare, as warnings of the problem log."""

from collections.abc import Iterator, Mapping

import numpy as np

from federated_health.data.label_direction import find_inverted_labels
from federated_health.messages.content import Registration
from federated_health.ml.normalisation import SUM_NAMES
from federated_health.ml.strategies import STRATEGIES
from federated_health.server.problem_log import ProblemLog
from federated_health.settings import Settings

MIN_ROWS = 100
"""Smallest number of declared rows that are compared with what the same hospital's statistics cover."""

MIN_COVERED, MAX_TRAIN_RATIO, MAX_TEST_RATIO = 0.5, 10, 3
"""Smallest share of the declared rows that some column or the class counts cover; largest ratios of training to
held-out rows (3 is usual) and of held-out to training rows."""

MAX_OTHER_ROWS = 0.001
"""Share of rows in which two tables may differ and count as nearly the same; at least one row."""


def check_registrations(registrations: Mapping[str, Registration], settings: Settings, problems: ProblemLog) -> None:
    """Record which hospitals weigh much, declare rows that their statistics do not cover, share rows or invert labels.

    Of hospitals that withheld sums and associations, as under differential privacy, only the numbers of rows are known.
    """
    hospitals = dict(sorted(registrations.items()))
    rows = {name: registration.train_examples for name, registration in hospitals.items()}
    warn_of_shares(rows, settings, problems)
    for name, registration in hospitals.items():
        for text in describe_uncovered_rows(registration):
            problems.warn(name, text)
    for one, other, text in find_same_rows(hospitals):
        problems.warn(other, text.format(one))
        problems.warn(one, text.format(other))
    associations = {name: registration.associations for name, registration in hospitals.items()}
    for name, text in find_inverted_labels(associations, rows, settings.task_declaration).items():
        problems.warn(name, text)


def warn_of_shares(rows: Mapping[str, int], settings: Settings, problems: ProblemLog) -> None:
    """Record a hospital whose declared rows give it more than max(1/2, 1.6/N) of the average of N hospitals."""
    if STRATEGIES[settings.strategy].equal_weights:
        return
    limit = max(0.5, 1.6 / max(len(rows), 1))
    for name, number in rows.items():
        share = min(number / sum(rows.values()), settings.max_share)
        if share > limit:
            problems.warn(
                name,
                f"its {number:,} declared training rows give it {share:.1%} of the average; which it cannot verify; "
                f"--max-share limits a hospital's share, and --strategy average weighs all the same",
            )


def describe_uncovered_rows(registration: Registration) -> list[str]:
    """Where a hospital's statistics cover far fewer rows than it declares."""
    train, test = registration.train_examples, registration.test_examples
    texts = []
    if train >= MIN_ROWS and registration.sums.are_released:
        covered = int(registration.sums.count.max())
        if covered < MIN_COVERED * train:
            texts.append(f"declares {train:,} training rows; its sums cover {covered:,} in the fullest column")
    if train >= MIN_ROWS and registration.class_counts and sum(registration.class_counts) < MIN_COVERED * train:
        texts.append(f"declares {train:,} training rows; its class counts cover {sum(registration.class_counts):,}")
    if train + test >= MIN_ROWS and (train > MAX_TRAIN_RATIO * test or test > MAX_TEST_RATIO * train):
        texts.append(f"declares {train:,} training rows and {test:,} held-out rows; about three to one are usual")
    return texts


def find_same_rows(registrations: Mapping[str, Registration]) -> Iterator[tuple[str, str, str]]:
    """Pairs of hospitals that have the same rows, or nearly, each with a text that has a place for the other's name.

    Nearly the same are statistics that differ no more than a row in a thousand explains, or one row. Means of unrelated
    tables of n rows differ by about sqrt(2 / n) standard deviations, those of tables that differ in k rows by at most
    a few times sqrt(k) / n. In three columns or more, the first is rarely as small as the second.
    """
    names = [name for name, registration in registrations.items() if registration.sums.are_released]
    known = [registrations[name] for name in names]
    if len(known) < 2:
        return
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
