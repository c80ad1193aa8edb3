"""The benefit of joining, as a hospital measures it at the end of a run.

A hospital trains a model on its own rows alone, with the run's settings, and compares both models on its held-out rows.
One split of one hospital is noisy; `python -m federated_health evidence` cross-validates where all rows may be in one
place.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from federated_health.hospital.recalibration import recalibrate
from federated_health.messages.benefit import Benefit, is_sendable
from federated_health.messages.content import TrainConfig
from federated_health.ml.bootstrap import PERMUTATIONS, labels_of_patients
from federated_health.ml.calibration import calibration
from federated_health.ml.intervals import compare_models
from federated_health.ml.metrics import DEFAULT_THRESHOLD, describe_difference, figure_title
from federated_health.ml.networks import Weights, initial_weights
from federated_health.ml.normalisation import MIN_OBSERVED, column_sums, normalisation_from
from federated_health.ml.targets import Target
from federated_health.ml.verdicts import Comparison, verdict_text

if TYPE_CHECKING:
    from federated_health.hospital.local_model import LocalModel

Vector = npt.NDArray[np.float64]


def measure_benefit(local: "LocalModel", weights: Weights, train_config: TrainConfig) -> Benefit:
    """Compare the final weights with a model trained on this hospital's own rows."""
    hospital, held_out = local.hospital, local.hospital.test
    seed = [train_config.seed, *hospital.name.encode()]
    comparisons, calibrations = {}, {}
    if local.target.can_compare(labels_of_patients(held_out.labels, held_out.ids)):
        outputs, alone = local.score(weights), score_alone(local, train_config)
        comparisons = compare_models(local.target, outputs, alone, held_out.labels, held_out.ids)
        if not all(map(is_sendable, comparisons.values())):
            comparisons = {}  # losses of a model that diverged are too large for their variance, or to be shown
        elif hospital.task.label.kind == "binary":
            scores = {"own": alone, "federated": outputs}
            calibrations = {model: calibration(of, held_out.labels) for model, of in scores.items()}
    observed = (~np.isnan(hospital.train.values)).sum(axis=0)
    minimum = MIN_OBSERVED * hospital.train.most_rows
    return Benefit(
        comparisons=comparisons,
        calibration=calibrations,
        importance=weigh_columns(local, weights, seed),
        observed=np.where(observed >= minimum, observed, 0).astype(np.float64),
        recalibration=recalibrate(local, weights),
    )


def describe_benefit(benefit: Benefit, target: Target[Any]) -> str:
    """The verdict and its figures, in one line."""
    if not benefit.comparisons:
        return f"benefit of joining: {verdict_text(benefit.verdict)} ({target.no_verdict})"
    figures = "; ".join(_describe(name, comparison) for name, comparison in benefit.comparisons.items())
    return (
        f"benefit of joining: {benefit.verdict}, by this hospital's figures alone, not adjusted for the number of "
        f"hospitals. Federated model, and a model of its own rows alone: {figures}"
    )


def _describe(name: str, comparison: Comparison) -> str:
    difference = comparison.difference
    return (
        f"{figure_title(name)} {comparison.federated.value:.3f} and {comparison.own.value:.3f}, "
        f"{describe_difference(name)} {difference.value:+.3f} "
        f"(95 % interval {difference.low:+.3f} to {difference.high:+.3f})"
    )


def score_alone(local: "LocalModel", train_config: TrainConfig) -> npt.NDArray[np.float32]:
    """Outputs for the held-out rows of a model of this hospital's training rows alone: a federation of one hospital.

    The model has the rows' own normalisation, and is trained for as many rounds as the run.
    """
    hospital = local.hospital
    task = hospital.task
    sums = column_sums(hospital.train.values[:, list(task.measurement_positions)])
    alone = type(local)(hospital, train_config.network, normalisation_from(sums))
    weights = initial_weights(task, train_config.network, train_config.seed)
    for number in range(1, train_config.rounds + 1):
        weights, _ = alone.train(weights, train_config, number)
    return alone.score(weights)


def weigh_columns(local: "LocalModel", weights: Weights, seed: list[int]) -> Vector:
    """Permutation importance of each column on the held-out rows; see `Benefit`."""
    labels, task = local.hospital.test.labels, local.hospital.task
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(labels)) for _ in range(PERMUTATIONS)]

    def loss(outputs: npt.NDArray[np.float32]) -> float:
        return float(local.target.measure(outputs, labels, DEFAULT_THRESHOLD).loss_sum)

    if not local.may_measure:  # a loss would describe single patients
        return np.zeros(len(task.columns))

    unshuffled = loss(local.score(weights))
    return np.array(
        [
            np.mean([loss(local.score_shuffled(weights, column, order)) - unshuffled for order in orders])
            for column in range(len(task.columns))
        ]
    )
