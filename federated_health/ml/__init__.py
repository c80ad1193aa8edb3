"""Networks, compiled training, metrics, intervals and normalisation: arrays in, arrays out, no Flower.

May import `data` for what a task declares.
"""

from types import ModuleType

from federated_health.errors import check_installed


def load_privacy_plan() -> ModuleType:
    """The module `privacy_plan`, for a run with differential privacy.

    Raises:
        MissingLibraryError: dp-accounting is not installed; the noise of a plan cannot be computed without it.
    """
    check_installed("dp_accounting")
    from federated_health.ml import privacy_plan  # noqa: PLC0415  # optional feature

    return privacy_plan
