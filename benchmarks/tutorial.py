"""Federated learning as in Flower's older tutorials, for comparison in `round_rate.py`. Nothing else uses it.

`start_server` and `start_client`, a NumPyClient with Keras's `fit` and `evaluate`, and FedAvg. Rows, network, batches
and local epochs are the project's; each hospital normalises by its own mean, as tutorials do.

`python tutorial.py server HOST:PORT ROUNDS` prints the seconds of each round after the first as JSON;
`python tutorial.py client HOST:PORT CSV EPOCHS` is one hospital.
"""

import json
import logging
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks run from a checkout, not installed

from flwr.client import NumPyClient, start_client
from flwr.server import ServerConfig, start_server
from flwr.server.strategy import FedAvg

from federated_health.data.hospital import load_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.backend import load_keras
from federated_health.ml.keras_models import build_encoder, encode
from federated_health.ml.networks import HIDDEN_UNITS
from federated_health.ml.normalisation import column_sums, normalisation_from

HOSPITALS = 4


class TimedFedAvg(FedAvg):
    """FedAvg that records the time at the end of each round."""

    def __init__(self) -> None:
        super().__init__(
            min_fit_clients=HOSPITALS,
            min_evaluate_clients=HOSPITALS,
            min_available_clients=HOSPITALS,
            evaluate_metrics_aggregation_fn=mean_accuracy,
        )
        self.ends: list[float] = []

    def aggregate_evaluate(self, *arguments: Any) -> Any:
        aggregated = super().aggregate_evaluate(*arguments)
        self.ends.append(time.perf_counter())
        return aggregated


def mean_accuracy(metrics: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Mean accuracy weighted by rows, as in tutorials."""
    return {"accuracy": sum(rows * figures["accuracy"] for rows, figures in metrics) / sum(rows for rows, _ in metrics)}


class Hospital(NumPyClient):
    """One hospital, trained and evaluated by Keras's own methods."""

    def __init__(self, path: Path, epochs: int) -> None:
        hospital = load_hospital(path, HEART_DISEASE, path.stem.replace("_", "-"), DEFAULT_SPLIT_SEED)
        sums = column_sums(hospital.train.values[:, list(HEART_DISEASE.measurement_positions)])
        encoder = build_encoder(HEART_DISEASE, normalisation_from(sums))
        self.train = encode(encoder, HEART_DISEASE, hospital.train.values), hospital.train.labels
        self.test = encode(encoder, HEART_DISEASE, hospital.test.values), hospital.test.labels
        self.epochs = epochs
        keras = load_keras()
        layers = keras.layers
        self.model = keras.Sequential(
            [
                keras.Input((HEART_DISEASE.feature_width,)),
                layers.Dense(HIDDEN_UNITS, activation="relu"),
                layers.Dense(1, activation="sigmoid"),
            ]
        )
        self.model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])

    def fit(self, parameters: Any, config: Any) -> Any:  # noqa: ARG002  # Flower's signature
        self.model.set_weights(parameters)
        self.model.fit(*self.train, epochs=self.epochs, batch_size=32, verbose=0)
        return self.model.get_weights(), len(self.train[0]), {}

    def evaluate(self, parameters: Any, config: Any) -> Any:  # noqa: ARG002
        self.model.set_weights(parameters)
        loss, accuracy = self.model.evaluate(*self.test, verbose=0)
        return float(loss), len(self.test[0]), {"accuracy": float(accuracy)}

    def get_parameters(self, config: Any) -> Any:  # noqa: ARG002
        return self.model.get_weights()


def main() -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)  # deprecation banners, in colour
    role, address, *rest = sys.argv[1:]
    if role == "server":
        strategy = TimedFedAvg()
        start_server(server_address=address, config=ServerConfig(num_rounds=int(rest[0])), strategy=strategy)
        ends = strategy.ends
        print(json.dumps([end - begin for begin, end in pairwise(ends)]))
    else:
        start_client(server_address=address, client=Hospital(Path(rest[0]), int(rest[1])).to_client(), insecure=True)


if __name__ == "__main__":
    main()
