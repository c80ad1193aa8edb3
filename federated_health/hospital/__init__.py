"""A hospital's side of a run: message handlers, its local model, the egress ledger, its own results.

May import `transport` and everything below it, and nothing of `server`.
"""

from types import ModuleType


def load_benefit() -> ModuleType:
    """The module `benefit`, for the end of a run."""
    from federated_health.hospital import benefit  # noqa: PLC0415  # a loader of this folder

    return benefit


def load_results() -> ModuleType:
    """The module `results`, which saves the final model and its report."""
    from federated_health.hospital import results  # noqa: PLC0415  # a loader of this folder

    return results


def load_ledger_page() -> ModuleType:
    """The module `ledger_page`, which shows an egress ledger."""
    from federated_health.hospital import ledger_page  # noqa: PLC0415  # a loader of this folder

    return ledger_page
