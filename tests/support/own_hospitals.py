"""A hospital with a CSV of its own, which is not public, and the replies that it would send."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from flwr.app import ConfigRecord, Context, Message, RecordDict

from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import HEART_DISEASE
from federated_health.hospital import handlers
from federated_health.messages.records import weights_to_record
from federated_health.ml.networks import Network, initial_weights
from federated_health.names import node_id_of
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from tests.support.train_configs import train_config

WEIGHTS = initial_weights(HEART_DISEASE, Network("logistic"), 1)


class OwnHospital:
    """A hospital that joins runs, each in a new process, with the rows that it has at the time.

    Args:
        folder: of its CSVs, which have another name for each run, and of its ledger.
    """

    def __init__(self, folder: Path, name: str = "basel") -> None:
        self.folder, self.name = folder, name
        self._numbers = itertools.count()

    def context(self, patients: pd.DataFrame, seed: int = DEFAULT_SPLIT_SEED) -> Context:
        """The context of a new process, whose CSV holds these patients, with a seed of their split."""
        folder = self.folder / str(next(self._numbers))
        folder.mkdir()
        patients.to_csv(folder / "patients.csv", index=False)
        node: dict[str, bool | float | int | str] = {
            "data": str(folder / "patients.csv"),
            "ledger": str(self.folder),
            "split-seed": seed,
        }
        return hospital_context(self.name, node)

    def register(
        self, patients: pd.DataFrame, *, asks_classes: bool = False, seed: int = DEFAULT_SPLIT_SEED
    ) -> RecordDict:
        """What it sends when it joins a run."""
        return self.reply(registration_request(self.name, asks_classes=asks_classes), self.context(patients, seed))

    def reply(self, message: Message, context: Context) -> RecordDict:
        return handlers.reply(handlers.PLAIN_HANDLERS[message.metadata.message_type], message, context).content


def registration_request(name: str, *, asks_classes: bool = False) -> Message:
    InProcessTransport(None, {})  # type: ignore[arg-type]  # gives this process the identity that messages need
    config = {"task": "heart-disease", "schema": HEART_DISEASE.schema_hash}
    record = ConfigRecord({**config, **({"class-counts": True} if asks_classes else {})})
    return Message(RecordDict({"config": record}), node_id_of(name), "query.statistics")


def message_of(name: str, kind: str, values: Mapping[str, int | bool] = {}) -> Message:
    """A message with weights, and further values in its config."""
    InProcessTransport(None, {})  # type: ignore[arg-type]  # as above
    record = train_config().to_record()
    record.update(values)
    return Message(RecordDict({"arrays": weights_to_record(WEIGHTS), "config": record}), node_id_of(name), kind)


def sums_of(registration: RecordDict) -> npt.NDArray[np.float64] | None:
    """Counts, sums and sums of squares, [3, measurements]; None if they are withheld."""
    metrics = metrics_of(registration)
    return np.array([metrics[key] for key in ("count", "total", "squares")]) if "total" in metrics else None


def metrics_of(content: RecordDict) -> dict[str, Any]:
    """The values in a reply."""
    return dict(content.metric_records["metrics"])
