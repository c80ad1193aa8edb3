"""Patient-level differential privacy at a hospital: accounting, budget, noise, and what a server may ask.

A run without differential privacy loads nothing but this module. A run's guarantee is declared in `ml.privacy_plan`.
May import `security` and everything below.
"""

import sys
from types import ModuleType

from federated_health.ml import load_privacy_plan


def load() -> ModuleType:
    """This package with `budget`, `evaluation` and `message_checks`, for a run with differential privacy.

    Raises:
        MissingLibraryError: dp-accounting is not installed.
    """
    load_privacy_plan()
    from federated_health.privacy import budget, evaluation, message_checks  # noqa: F401, PLC0415  # the loader of this folder

    return sys.modules[__name__]


def load_page() -> ModuleType:
    """The module `budget_page`, which shows a budget; MissingLibraryError if dp-accounting is not installed."""
    load_privacy_plan()
    from federated_health.privacy import budget_page  # noqa: PLC0415  # the loader of this folder

    return budget_page


def load_training() -> ModuleType:
    """The module `training`, which loads TensorFlow."""
    from federated_health.privacy import training  # noqa: PLC0415  # the loader of this folder

    return training
