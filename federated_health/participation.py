"""A hospital's side of a message: whose it is, what it asks, and the compiled model to answer with.

A hospital's rows and compiled training stay in its process from message to message.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message, MetricRecord

from federated_health.errors import JoinError
from federated_health.hospital import DEFAULT_SPLIT_SEED, Hospital, load_hospital
from federated_health.messages import ARRAYS, CONFIG, ROUND, Instructions, weights_from_record, weights_to_record
from federated_health.model import Weights, weight_shapes
from federated_health.partitions import find_hospital
from federated_health.statistics import Normalisation
from federated_health.tasks import get_task
from federated_health.terms import find_difference, read_terms

if TYPE_CHECKING:
    from federated_health.training import LocalModel


@dataclass(frozen=True)
class Assignment:
    """A message of a round, opened.

    Attributes:
        round_number: from 1.
        local: this hospital's rows and compiled training.
        weights: the federation's, as the message carries them.
    """

    instructions: Instructions
    round_number: int
    local: "LocalModel"
    weights: Weights


def hospital_of(message: Message, context: Context) -> Hospital:
    """The hospital that this node is: from its node config, or in a simulation from its number and the run config.

    Raises:
        DataError: its CSV cannot be used.
        JoinError: the server's task is not the one that this hospital knows.
    """
    config, node = message.content.config_records[CONFIG], context.node_config
    task = get_task(str(config["task"]))
    if task.schema_hash != config["schema"]:
        theirs = read_terms(str(config["terms"])) if "terms" in config else {}
        raise JoinError(find_difference(task.terms, theirs) or "the server's terms are not this hospital's")
    if "data" in node:
        path, name = Path(str(node["data"])), str(node["name"])
    else:
        path, name = find_hospital(Path(str(context.run_config["data"])), int(node["partition-id"]) + 1)
    return load_hospital(path, task, name, int(node.get("split-seed", DEFAULT_SPLIT_SEED)))


def open_message(message: Message, context: Context) -> Assignment:
    """What a train or evaluate message asks of this hospital.

    Raises:
        MalformedMessageError: its weights are not those of the model that it names.
        DataError, JoinError: see `hospital_of`.
    """
    content = message.content
    instructions = Instructions.from_record(content.config_records[CONFIG])
    hospital = hospital_of(message, context)
    return Assignment(
        instructions=instructions,
        round_number=int(str(content.config_records[CONFIG].get(ROUND, instructions.rounds))),
        local=_local_model(hospital, instructions.model, instructions.normalisation),
        weights=weights_from_record(content.array_records[ARRAYS], weight_shapes(hospital.task, instructions.model)),
    )


def remember_final(context: Context, asked: Assignment, figures: Mapping[str, float | None]) -> None:
    """Keep the final weights and this hospital's own figures in its context, which does not leave it."""
    context.state["figures"] = MetricRecord({key: value for key, value in figures.items() if value is not None})
    context.state[ARRAYS] = weights_to_record(asked.weights)
    context.state[CONFIG] = asked.instructions.to_record()


def remembered_model(context: Context) -> tuple[Instructions, Weights] | None:
    """What `remember_final` kept, once a run has come to its end."""
    if CONFIG not in context.state:
        return None
    told = Instructions.from_record(context.state.config_records[CONFIG])
    shapes = weight_shapes(get_task(told.task), told.model)
    return told, weights_from_record(context.state.array_records[ARRAYS], shapes)


@lru_cache(maxsize=1024)
def _local_model(hospital: Hospital, model: str, normalisation: Normalisation) -> "LocalModel":
    from federated_health.training import LocalModel  # brings TensorFlow, which a wrong CSV need not wait for

    return LocalModel(hospital, model, normalisation)
