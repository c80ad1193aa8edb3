"""What is suspicious in the figures that hospitals declare, as warnings of the problem log."""

from collections.abc import Mapping
from itertools import pairwise

from federated_health.data.label_direction import find_inverted_labels
from federated_health.messages.content import CLASS_COUNTS, ROW_COUNTS, Registration
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
    for name in hospitals:
        check_rows(name, hospitals, settings, problems)
    rows = {name: registration.train_examples for name, registration in hospitals.items()}
    released = {name: registration for name, registration in hospitals.items() if registration.sums.are_released}
    if any(high <= low + max(1, low // 1000) for low, high in pairwise(sorted(rows[name] for name in released))):
        from federated_health.server.same_rows import find_same_rows  # noqa: PLC0415  # with nearly as many rows only

        for one, other, text in find_same_rows(released):
            problems.warn(other, text.format(one))
            problems.warn(one, text.format(other))
    associations = {name: registration.associations for name, registration in hospitals.items()}
    for name, text in find_inverted_labels(associations, rows, settings.task_declaration).items():
        problems.warn(name, text)


def check_rows(name: str, registrations: Mapping[str, Registration], settings: Settings, problems: ProblemLog) -> None:
    """Record if a hospital declares rows that give it a large share of the average, or that nothing else covers."""
    rows, total = registrations[name].train_examples, sum(part.train_examples for part in registrations.values())
    share = min(rows / total, settings.max_share)
    is_weighed = not STRATEGIES[settings.strategy].equal_weights
    if is_weighed and share > max(MIN_SHARE, SHARE_OF_EQUAL / len(registrations)):
        problems.warn(
            name,
            f"its {rows:,} declared training rows give it {share:.1%} of the average, and cannot be verified; "
            "--max-share limits a hospital's share, and --strategy average weighs all the same",
        )
    for text in describe_uncovered_rows(registrations[name]):
        problems.warn(name, text)


def describe_uncovered_rows(registration: Registration) -> list[str]:
    """Where a hospital's statistics cover far fewer rows than it declares."""
    train, test = registration.train_examples, registration.test_examples
    texts = []
    if train >= MIN_ROWS and registration.sums.are_released:
        covered = int(registration.sums.count.max())
        if covered < MIN_COVERED * train:
            texts.append(f"declares {train:,} training rows; its sums cover {covered:,} in the fullest column")
    has_classes = registration.class_counts and CLASS_COUNTS not in registration.suppressed
    if train >= MIN_ROWS and has_classes and sum(registration.class_counts) < MIN_COVERED * train:
        texts.append(f"declares {train:,} training rows; its class counts cover {sum(registration.class_counts):,}")
    has_test = ROW_COUNTS not in registration.suppressed
    if has_test and train + test >= MIN_ROWS and (train > MAX_TRAIN_RATIO * test or test > MAX_TEST_RATIO * train):
        texts.append(f"declares {train:,} training rows and {test:,} held-out rows; about three to one are usual")
    return texts
