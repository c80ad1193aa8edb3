"""The final evaluation of a run with differential privacy: one table of noisy counts, released once.

The same question, such as one that is asked again since its answer was lost, gets the same answer. Any other one is
refused, and so is every one after the hospital's process has been restarted: the account knows that there was an
answer, but not which.
"""

import hashlib
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context

from federated_health.data.hospital import Hospital
from federated_health.errors import BudgetError
from federated_health.messages.content import Evaluation, TrainConfig
from federated_health.messages.noisy_evaluation import make_evaluation, noisy_figures
from federated_health.ml.networks import Weights, weights_hash
from federated_health.ml.noisy_evaluation import count_rows, largest_change, table_shape
from federated_health.ml.targets import Floats, target_of
from federated_health.privacy.budget import PrivacyBudget
from federated_health.privacy.entropy import gaussian_noise
from federated_health.privacy.message_checks import allowed_epsilon
from federated_health.privacy.spending import digest_of_split

RELEASED = "noisy-evaluation"
"""Record of a hospital's own state: what it answered, and to which question."""


def evaluate_once(
    context: Context, hospital: Hospital, config: TrainConfig, weights: Weights, outputs: Floats, budget: PrivacyBudget
) -> tuple[Evaluation, dict[str, Any]]:
    """A hospital's noisy evaluation of a run's final weights, and its figures, as the server computes them.

    Of a label without classes nothing is evaluated, which spends nothing.

    Args:
        outputs: of the network for the held-out rows.

    Raises:
        BudgetError: the run's evaluation was released before, or exceeds the budget.
        PrivacyError: it cannot be recorded.
    """
    target, plan = target_of(hospital.task), config.privacy
    assert plan is not None, "the run has differential privacy"
    largest = largest_change(hospital.task)
    deviation = largest * plan.evaluation_noise
    evaluation = Evaluation(counts=target.no_sums)
    if (shape := table_shape(target)) is not None:
        question = hashlib.sha256(f"{config!r} {weights_hash(weights)}".encode()).hexdigest()
        released = context.state.config_records.get(RELEASED)
        if released is None or released["run"] != plan.run:
            budget.spend_evaluation(plan, allowed_epsilon(context), split=digest_of_split(hospital))
            rows = hospital.test
            counts = count_rows(target, outputs, rows.labels, rows.number_patients(), largest)
            noisy = counts + gaussian_noise(deviation, shape)
            released = ConfigRecord({"run": plan.run, "question": question, "counts": noisy.ravel().tolist()})
            context.state[RELEASED] = released
        elif released["question"] != question:
            raise BudgetError("it evaluated other weights of this run before: expected one final evaluation")
        evaluation = make_evaluation(target, np.array(released["counts"]).reshape(shape))
    return evaluation, noisy_figures([evaluation], target, deviation, len(hospital.train))
