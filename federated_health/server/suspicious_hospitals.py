"""What is suspicious in the figures that hospitals declare, as warnings of the problem log."""

from collections.abc import Mapping
from itertools import pairwise

from federated_health.data.label_direction import find_inverted_labels
from federated_health.messages.content import Registration
from federated_health.ml.strategies import STRATEGIES
from federated_health.server.problem_log import ProblemLog
from federated_health.settings import Settings

MIN_SHARE, SHARE_OF_EQUAL = 0.5, 1.6
"""Share of the average above which a hospital is reported, and the same in shares of equally large hospitals."""

MIN_ROWS = 100
"""Smallest number of declared rows that are compared with what the same hospital's statistics cover."""

MIN_COVERED, MAX_TRAIN_RATIO, MAX_TEST_RATIO = 0.5, 10, 3
"""Smallest share of the declared rows that some column or the class counts cover; largest ratios of training to
held-out rows (3 is usual) and of held-out to training rows."""


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
    released = {name: registration for name, registration in hospitals.items() if registration.sums.are_released}
    if any(high <= low + max(1, low // 1000) for low, high in pairwise(sorted(rows[name] for name in released))):
        from federated_health.server.same_rows import find_same_rows  # noqa: PLC0415  # with nearly as many rows only

        for one, other, text in find_same_rows(released):
            problems.warn(other, text.format(one))
            problems.warn(one, text.format(other))
    associations = {name: registration.associations for name, registration in hospitals.items()}
    for name, text in find_inverted_labels(associations, rows, settings.task_declaration).items():
        problems.warn(name, text)


def warn_of_shares(rows: Mapping[str, int], settings: Settings, problems: ProblemLog) -> None:
    """Record a hospital whose declared rows give it a large share of the average."""
    if STRATEGIES[settings.strategy].equal_weights:
        return
    limit = max(MIN_SHARE, SHARE_OF_EQUAL / max(len(rows), 1))
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
