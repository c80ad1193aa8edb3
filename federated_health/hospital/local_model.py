"""One hospital's rows as features, with compiled training and scoring. Imports no Flower."""

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from federated_health.data.hospital import Hospital
from federated_health.data.tasks import Task
from federated_health.ml.keras_models import build_encoder, build_head, encode
from federated_health.ml.networks import FILE, Network, Weights, weight_shapes
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.targets import target_of
from federated_health.ml.training import LAYERS, Array, LocalTrainer, batch_order, random_generator
from federated_health.names import SGD

if TYPE_CHECKING:
    from federated_health.messages.content import TrainConfig
    from federated_health.settings import Settings


class LocalModel:
    """One hospital's rows as features, with compiled training and scoring. Weights are passed with every call.

    Args:
        network: from the features to the outputs.

    Attributes:
        target: of the task's label.
        shapes: shapes of the weights by name, in their order.
        may_measure: whether sums over the held-out rows' labels are of enough patients to be sent.
        train_features: float32 [training rows, features].
        train_rows: number of training rows.
    """

    def __init__(self, hospital: Hospital, network: Network, normalisation: Normalisation) -> None:
        self.hospital = hospital
        self.target = target_of(hospital.task)
        self.shapes = weight_shapes(hospital.task, network)
        self.train_rows = len(hospital.train)
        self.may_measure = len(hospital.test) >= self.target.min_rows * hospital.test.most_rows
        self._network = network
        self._scorer = _trainer_of(hospital.task, network, SGD)
        rows = np.concatenate([hospital.train.values, hospital.test.values])
        features = encode(_encoder_of(hospital.task, normalisation), hospital.task, rows)
        self.train_features, self._test_features = np.split(features, [self.train_rows])

    def train(
        self, weights: Weights, config: "TrainConfig | Settings", round_number: int, proximal_mu: float = 0.0
    ) -> tuple[Weights, float]:
        """Train the round's local epochs on the training rows (see `LocalTrainer.train`).

        Returns:
            The new weights, and the mean training loss per row, in nats.
        """
        name = self.hospital.name
        order = batch_order(
            seed=config.seed,
            hospital=name,
            round_number=round_number,
            rows=self.train_rows,
            epochs=config.local_epochs,
            batch_size=config.batch_size,
        )
        trainer = _trainer_of(self.hospital.task, self._network, config.optimizer)
        arrays, loss = trainer.train(
            list(weights.values()),
            self.train_features,
            self.hospital.train.labels,
            order,
            learning_rate=config.learning_rate,
            l2=config.l2,
            proximal_mu=proximal_mu,
            row_weights=self._row_weights(config),
            generator=random_generator(config.seed, name, round_number, LAYERS),
        )
        return dict(zip(weights, arrays, strict=True)), loss

    def _row_weights(self, config: "TrainConfig | Settings") -> Array | None:
        """Factor of each training row's loss, [rows]; None where all rows count the same."""
        class_weights = getattr(config, "class_weights", ())
        if not class_weights:
            return None
        return np.array(class_weights, dtype=np.float32)[self.target.class_of(self.hospital.train.labels)]

    def score(self, weights: Weights) -> Array:
        """Log-odds of the held-out rows, [rows]."""
        return self._scorer.score(list(weights.values()), self._test_features)

    def score_shuffled(self, weights: Weights, column: int, order: npt.NDArray[np.intp]) -> Array:
        """Log-odds of the held-out rows, [rows], with one column's values in another order of the rows.

        Args:
            column: position among the task's columns.
            order: [rows], positions.
        """
        features, columns = self._test_features.copy(), self.hospital.task.feature_slices[column]
        features[:, columns] = features[order, columns]
        return self._scorer.score(list(weights.values()), features)

    def score_training(self, weights: Weights) -> Array:
        """Log-odds of the training rows, [rows]."""
        return self._scorer.score(list(weights.values()), self.train_features)


@lru_cache(maxsize=1)
def _encoder_of(task: Task, normalisation: Normalisation) -> Any:
    """Encoder, which hospitals in one process share."""
    return build_encoder(task, normalisation)


@cache
def _trainer_of(task: Task, network: Network, optimizer: str) -> LocalTrainer:
    """Trainer, compiled once per process and architecture, for every round and hospital."""
    head, is_own = build_head(task, network), network.model == FILE
    if optimizer == SGD and not is_own and not head.non_trainable_variables:
        return LocalTrainer(head, target_of(task))
    from federated_health.ml.keras_training import KerasTrainer  # noqa: PLC0415  # only where there is need

    return KerasTrainer(head, target_of(task), optimizer, exact_batches=is_own)
