"""Networks, compiled training, metrics, bootstrap and normalisation: arrays in, arrays out, no Flower.

May import `data` for what a task declares.
"""

from types import ModuleType


def load_privacy_plan() -> ModuleType:
    """The module `privacy_plan`, for a run with differential privacy."""
    from federated_health.ml import privacy_plan  # noqa: PLC0415  # optional feature

    return privacy_plan
