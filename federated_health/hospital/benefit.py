"""What a hospital says once, at the end of a run: what joining gave it, what the model looks at, what it could see.

A hospital fits a model of its own rows alone, with the run's settings, and compares the two on its held-out rows. One
split of a hospital's rows says little; `python -m federated_health evidence` says more, where rows may be in one place.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from flwr.app import MetricRecord, RecordDict

from federated_health.data.tasks import Task
from federated_health.messages.content import TrainConfig
from federated_health.messages.records import METRICS, read_floats, read_metrics, read_number
from federated_health.messages.weights import MalformedMessageError
from federated_health.ml.bootstrap import MIN_CLASS_SIZE, PERMUTATIONS, Interval, Resampled, Verdict, can_judge, judge
from federated_health.ml.metrics import MAX_LOSS, count_outcomes, probability
from federated_health.ml.networks import Weights, initial_weights
from federated_health.ml.normalisation import MIN_OBSERVED, column_sums, normalisation_from

if TYPE_CHECKING:
    from federated_health.hospital.local_model import LocalModel

ROUNDING = 1e-9
"""Of a difference of two ROC-AUCs."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Benefit:
    """A hospital's own look at the final model.

    Attributes:
        roc_auc: of the federation's model on its held-out rows, with its interval (see `intervals`).
        own_roc_auc: of a model of its own training rows alone.
        difference: federated minus own on the same rows, paired. These three are None where the held-out rows hold
            fewer than MIN_CLASS_SIZE of either class.
        importance: [columns], by how much the sum of the losses over its held-out rows rises, in nats, when a column's
            values are shuffled among them (permutation importance, Breiman 2001, Fisher et al. 2019); it merges by
            addition.
        observed: [columns], training rows in which the column is not missing; 0 where fewer than five.
    """

    roc_auc: Interval
    own_roc_auc: float | None
    difference: Interval
    importance: Vector
    observed: Vector

    @property
    def verdict(self) -> Verdict:
        """What joining gave this hospital."""
        return judge(self.difference)

    def describe(self) -> str:
        """The verdict with its figures, in words."""
        one = self.difference
        if one.value is None or one.low is None or one.high is None:
            return f"what joining gave {self.verdict}: fewer than {MIN_CLASS_SIZE} held-out patients of one class"
        return (
            f"joining: {self.verdict}; ROC-AUC {self.roc_auc.value:.3f} against {self.own_roc_auc:.3f} of a model of "
            f"its own rows alone: {one.value:+.3f} (95 % interval {one.low:+.3f} to {one.high:+.3f})"
        )

    def to_content(self) -> RecordDict:
        known = {
            "own-roc-auc": self.own_roc_auc,
            **{f"roc-auc-{one.name}": getattr(self.roc_auc, one.name) for one in fields(Interval)},
            **{f"difference-{one.name}": getattr(self.difference, one.name) for one in fields(Interval)},
        }
        metrics = MetricRecord({key: value for key, value in known.items() if value is not None})
        metrics["importance"] = self.importance.tolist()
        metrics["observed"] = self.observed.tolist()
        return RecordDict({METRICS: metrics})

    @classmethod
    def from_content(cls, content: RecordDict, task: Task, train_examples: int, test_examples: int) -> "Benefit":
        """Read the appraisal of a hospital that declared so many rows when it introduced itself.

        Raises:
            MalformedMessageError: it is not one, or holds what cannot be.
        """
        parts = (f"{what}-{one.name}" for what in ("roc-auc", "difference") for one in fields(Interval))
        aucs = {"own-roc-auc", *parts}
        metrics = read_metrics(content, {"importance", "observed"}, aucs)
        if given := aucs & set(metrics):
            if given != aucs:
                raise MalformedMessageError("its appraisal holds some of its ROC-AUCs and not all")
            own = _between(metrics, "own-roc-auc", 0.0)
            roc_auc, difference = _read_interval(metrics, "roc-auc", 0.0), _read_interval(metrics, "difference", -1.0)
            if abs(read_number(metrics, "difference-value") - (read_number(metrics, "roc-auc-value") - own)) > ROUNDING:
                raise MalformedMessageError("its difference is not that of its ROC-AUCs")
        else:
            own, roc_auc, difference = None, Interval(), Interval()
        columns = len(task.columns)
        observed = read_floats(metrics, "observed", columns)
        small = (observed != 0) & (observed < MIN_OBSERVED)
        if (observed % 1).any() or (observed > train_examples).any() or small.any() or (observed < 0).any():
            raise MalformedMessageError("its numbers of observed rows are impossible")
        importance = read_floats(metrics, "importance", columns)
        if (np.abs(importance) > test_examples * MAX_LOSS).any():
            raise MalformedMessageError("its importance of columns is out of range")
        return cls(
            roc_auc=roc_auc,
            own_roc_auc=own,
            difference=difference,
            importance=importance,
            observed=observed,
        )


def measure_benefit(local: "LocalModel", weights: Weights, train_config: TrainConfig) -> Benefit:
    """This hospital's appraisal of the federation's final weights."""
    hospital, held_out = local.hospital, local.hospital.test
    seed = [train_config.seed, *hospital.name.encode()]
    own_roc_auc, roc_auc, difference = None, Interval(), Interval()
    if can_judge(held_out.labels):
        log_odds, own = local.score(weights), score_alone(local, train_config)
        resampled = Resampled.of(held_out.labels, seed)
        own_roc_auc, _ = resampled.roc_auc(own)
        roc_auc, difference = resampled.interval(log_odds), resampled.difference(log_odds, own)
    observed = (~np.isnan(hospital.train.values)).sum(axis=0)
    return Benefit(
        roc_auc=roc_auc,
        own_roc_auc=own_roc_auc,
        difference=difference,
        importance=weigh_columns(local, weights, seed),
        observed=np.where(observed >= MIN_OBSERVED, observed, 0).astype(np.float64),
    )


def score_alone(local: "LocalModel", train_config: TrainConfig) -> npt.NDArray[np.float32]:
    """Log-odds of the held-out rows by a model of the training rows alone: a federation of one hospital.

    Normalised by its own statistics, and trained for as many rounds as the federation was.
    """
    hospital = local.hospital
    task = hospital.task
    sums = column_sums(hospital.train.values[:, list(task.measurement_positions)])
    alone = type(local)(hospital, train_config.model, normalisation_from(sums))
    weights = initial_weights(task, train_config.model, train_config.seed)
    for number in range(1, train_config.rounds + 1):
        weights, _ = alone.train(weights, train_config, number)
    return alone.score(weights)


def weigh_columns(local: "LocalModel", weights: Weights, seed: list[int]) -> Vector:
    """Permutation importance of each column on the held-out rows; see `Benefit`."""
    labels, task = local.hospital.test.labels, local.hospital.task
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(labels)) for _ in range(PERMUTATIONS)]

    def loss(log_odds: npt.NDArray[np.float32]) -> float:
        return count_outcomes(probability(log_odds), labels).loss_sum

    as_they_are = loss(local.score(weights))
    return np.array(
        [
            np.mean([loss(local.score_shuffled(weights, column, order)) - as_they_are for order in orders])
            for column in range(len(task.columns))
        ]
    )


def _read_interval(metrics: MetricRecord, what: str, least: float) -> Interval:
    value, low, high = (_between(metrics, f"{what}-{part}", least) for part in ("value", "low", "high"))
    if low > high:
        raise MalformedMessageError(f"the interval of its {what} ends before it begins")
    return Interval(value=value, low=low, high=high)


def _between(metrics: MetricRecord, key: str, low: float) -> float:
    value = read_number(metrics, key)
    if not low <= value <= 1:
        raise MalformedMessageError(f"its {key} is not between {low:g} and 1")
    return value
