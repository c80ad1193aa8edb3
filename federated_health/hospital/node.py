"""The hospital of a node: its rows, and the privacy that all runs have spent of them."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message

from federated_health import privacy
from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.manifest import find_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.tasks import find_difference, get_task, read_agreement
from federated_health.errors import DataError, JoinError
from federated_health.messages.content import CONFIG
from federated_health.names import ALLOWED_EPSILON
from federated_health.transport.interface import hospital_context

if TYPE_CHECKING:
    from federated_health.privacy.budget import PrivacyBudget


class InMemoryHospital(Context):
    """Context of a hospital in process whose rows are in memory rather than in a CSV, such as one side of a fold."""

    def __init__(self, hospital: Hospital) -> None:
        super().__init__(**vars(hospital_context(hospital.name, {})))
        self.hospital = hospital
        self.budget: PrivacyBudget | None = None


def hospital_of(message: Message, context: Context) -> Hospital:
    """The hospital of this node: from its node config, or in a simulation from its number and the run config.

    Raises:
        DataError: its CSV cannot be used.
        JoinError: the server's task is not this hospital's.
    """
    config = message.content.config_records[CONFIG]
    task = get_task(str(config["task"]))
    if task.schema_hash != config["schema"]:
        server = read_agreement(str(config["terms"])) if "terms" in config else {}
        raise JoinError(find_difference(task.agreement, server) or "the server's columns are not this hospital's")
    if isinstance(context, InMemoryHospital):
        return context.hospital
    path, name = _own_csv(context)
    try:
        return load_hospital(path, task, name, int(context.node_config.get("split-seed", DEFAULT_SPLIT_SEED)))
    except DataError as error:
        if ALLOWED_EPSILON not in context.node_config:
            raise
        raise DataError(str(error)) from None  # the reason names a column, and no budget accounts for that


def budget_of(context: Context) -> "PrivacyBudget":
    """What all runs have spent of the privacy of this hospital's training rows.

    Raises:
        PrivacyError: it cannot be read.
    """
    if isinstance(context, InMemoryHospital):
        context.budget = context.budget or privacy.load().budget.PrivacyBudget()
        return context.budget
    return _budget_beside(*_own_csv(context))


def _own_csv(context: Context) -> tuple[Path, str]:
    """Path of this hospital's CSV, and the hospital's name."""
    node = context.node_config
    if "data" in node:
        return Path(str(node["data"])), str(node["name"])
    return find_hospital(Path(str(context.run_config["data"])), int(node["partition-id"]) + 1)


@lru_cache(maxsize=1024)
def _budget_beside(path: Path, name: str) -> "PrivacyBudget":
    budget: PrivacyBudget = privacy.load().budget.PrivacyBudget.beside(path, name)
    return budget
