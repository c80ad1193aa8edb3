"""Train configs for tests of one hospital's side."""

from typing import Any

from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task
from federated_health.messages.content import TrainConfig
from federated_health.ml.networks import Network
from federated_health.ml.normalisation import Normalisation


def train_config(task: Task = HEART_DISEASE, **values: Any) -> TrainConfig:
    """A config of a logistic regression on a task; `values` replace some of its fields."""
    width = len(task.measurements)
    fields: dict[str, Any] = {
        "task": task.name,
        "schema": task.schema_hash,
        "network": Network("logistic"),
        "strategy": "fedavg",
        "strategy_args": "",
        "rounds": 3,
        "local_epochs": 1,
        "batch_size": 0,
        "learning_rate": 0.1,
        "l2": 0.0,
        "seed": 42,
        "threshold": 0.5,
        "normalisation": Normalisation(mean=(0.0,) * width, variance=(1.0,) * width),
    }
    return TrainConfig(**{**fields, **values})
