"""Class weights: factors of the classes' losses with which training counts all classes the same."""

from collections.abc import Sequence

import numpy as np

from federated_health.errors import RunError


def balance_classes(counts: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Factor of each class's loss with which all classes count the same: rows / (classes * rows of the class).

    The formula is scikit-learn's for `class_weight="balanced"` (King and Zeng 2001).

    Args:
        counts: number of training rows of each class, by hospital.

    Raises:
        RunError: there are no rows of a class.
    """
    rows = np.sum(counts, axis=0)
    if not rows.all():
        raise RunError(
            f"class-weight: no hospital has 5 training patients of class {int(rows.argmin()) + 1} of {len(rows)}; use "
            "--class-weight none"
        )
    return tuple((rows.sum() / (len(rows) * rows)).tolist())
