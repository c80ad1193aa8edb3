"""One hospital's rows as features, and the compiled work on them. Knows no Flower."""

from functools import cache, lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from federated_health.data.hospital import Hospital
from federated_health.data.tasks import Task
from federated_health.ml.networks import Weights, build_encoder, build_head, encode
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.ml.training import Array, LocalTrainer, batch_order
from federated_health.privacy.entropy import gaussian_noise, poisson_sample
from federated_health.privacy.training import PrivateTrainer


class Recipe(Protocol):
    """How local training goes; a run's instructions are one."""

    @property
    def seed(self) -> int: ...
    @property
    def local_epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def l2(self) -> float: ...


class LocalModel:
    """One hospital's rows as features, and the compiled work on them. Weights come and go with every call.

    Args:
        model: one of `model.MODELS`.
        normalisation: the federation's.
    """

    def __init__(self, hospital: Hospital, model: str, normalisation: Normalisation) -> None:
        self.hospital = hospital
        self._model = model
        self._trainer = _trainer_of(hospital.task, model)
        everyone = np.concatenate([hospital.train.values, hospital.test.values])
        features = encode(_encoder_of(hospital.task, normalisation), hospital.task, everyone)
        self._train_features, self._test_features = np.split(features, [len(hospital.train)])

    def train(
        self, weights: Weights, recipe: Recipe, round_number: int, proximal_mu: float = 0.0
    ) -> tuple[Weights, float]:
        """The round's local epochs over the training rows; see `LocalTrainer.train`."""
        labels = self.hospital.train.labels
        order = batch_order(
            seed=recipe.seed,
            hospital=self.hospital.name,
            round_number=round_number,
            rows=len(labels),
            epochs=recipe.local_epochs,
            batch_size=recipe.batch_size,
        )
        trained, loss = self._trainer.train(
            list(weights.values()),
            self._train_features,
            labels,
            order,
            learning_rate=recipe.learning_rate,
            l2=recipe.l2,
            proximal_mu=proximal_mu,
        )
        return dict(zip(weights, trained, strict=True)), loss

    def train_privately(self, weights: Weights, plan: PrivacyPlan, l2: float, proximal_mu: float = 0.0) -> Weights:
        """A round's noisy steps; see `PrivateTrainer.train`. They are to be charged before.

        Samples and noise come from the operating system's entropy: two calls give two results.
        """
        rows = len(self.hospital.train)
        deviation = plan.noise_multiplier * plan.clip
        moved = _private_trainer_of(self.hospital.task, self._model).train(
            list(weights.values()),
            self._train_features,
            self.hospital.train.labels,
            poisson_sample(rows, plan.sampling_rate, plan.steps),
            [gaussian_noise(deviation, (plan.steps, *array.shape), np.float64) for array in weights.values()],
            clip=plan.clip,
            expected_rows=plan.sampling_rate * rows,
            learning_rate=plan.learning_rate,
            l2=l2,
            proximal_mu=proximal_mu,
        )
        return dict(zip(weights, moved, strict=True))

    def score(self, weights: Weights) -> Array:
        """Log-odds of the held-out rows, [rows]."""
        return self._trainer.score(list(weights.values()), self._test_features)

    def score_shuffled(self, weights: Weights, column: int, order: npt.NDArray[np.intp]) -> Array:
        """Log-odds of the held-out rows, [rows], with one column's values in another order of the rows.

        Args:
            column: its position among the task's columns.
            order: [rows], positions.
        """
        features, place = self._test_features.copy(), self.hospital.task.feature_slices[column]
        features[:, place] = features[order, place]
        return self._trainer.score(list(weights.values()), features)

    def score_training(self, weights: Weights) -> Array:
        """Log-odds of the training rows, [rows]."""
        return self._trainer.score(list(weights.values()), self._train_features)


@lru_cache(maxsize=1)
def _encoder_of(task: Task, normalisation: Normalisation) -> Any:
    """Hospitals in one process, one after the other, share it."""
    return build_encoder(task, normalisation)


@cache
def _trainer_of(task: Task, model: str) -> LocalTrainer:
    """One compilation a process and architecture, however many rounds and hospitals it serves."""
    return LocalTrainer(build_head(task, model))


@cache
def _private_trainer_of(task: Task, model: str) -> PrivateTrainer:
    """As `_trainer_of`."""
    return PrivateTrainer(build_head(task, model))
