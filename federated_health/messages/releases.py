"""What may leave a hospital, by name, in plain words and with its size; `release_records` names the values of each."""

import math
from dataclasses import dataclass

from federated_health.data.columns import Measurement
from federated_health.data.tasks import Task
from federated_health.messages.benefit import names_of_figures
from federated_health.messages.records import write_counts
from federated_health.messages.run_terms import RunTerms
from federated_health.ml.targets import target_of


@dataclass(frozen=True)
class Release:
    """One kind of values that a hospital sends.

    Attributes:
        words: what it is, for a reader who knows neither the code nor machine learning.
        may_be_off: whether a hospital's policy may switch it off and still take part.
    """

    words: str
    may_be_off: bool = False


RELEASES: dict[str, Release] = {
    "name": Release(
        "Once: the hospital's name, the names, units and codes of the task's columns, the program's version and public "
        "keys. With every message: numbers and times that its delivery needs."
    ),
    "row-counts": Release("Once, and again with answers: the exact numbers of training and held-out rows."),
    "column-sums": Release(
        "Once, over the training patients: how many have a value of each measurement, the sum of these values and the "
        "sum of their squares. All are exact, and 0 if they are of too few patients."
    ),
    "associations": Release(
        "Once, over the training patients: how closely each column goes with the outcome (a correlation with two "
        "decimals); 0 if it would describe fewer than 5 patients.",
        may_be_off=True,
    ),
    "class-counts": Release(
        "Once: the exact number of training patients with each outcome; 0 if one of them is too small.",
    ),
    "weights": Release(
        "Per round: the weights of the model after training on the training patients, about whom they can reveal "
        "something. With differential privacy, noise is added first."
    ),
    "training-loss": Release(
        "Per round: the model's mean error on the training patients; three decimals, unless the data are public."
    ),
    "round-evaluation": Release(
        "Per round, over the held-out patients: how predictions agree with outcomes, as counts of patients or sums of "
        "errors. Unless the data are public, nothing is sent if a count is below the policy's minimum.",
        may_be_off=True,
    ),
    "final-evaluation": Release(
        "Once, at the end, over the held-out patients: how predictions of the final model agree with outcomes, as "
        "counts of patients or sums of errors. With differential privacy it is counts alone, with noise.",
    ),
    "roc-auc": Release(
        "Once, at the end: how well the final model ranks the held-out patients (the ROC-AUC), exact.", True
    ),
    "scores": Release(
        "Once, at the end: predictions for the held-out patients, averaged over groups of at least 5 patients.", True
    ),
    "threshold-scores": Release(
        "Once, at the end: predictions for the training patients, averaged over groups of at least 5 patients.", True
    ),
    "subgroups": Release(
        "Once, at the end, over the held-out patients of each subgroup of the task, such as women: how predictions "
        "agree with outcomes, as counts of patients and as a few figures with their precision. Unless the data are "
        "public, nothing of a group with a count below the policy's minimum, nor of a group by which it could be "
        "computed.",
        may_be_off=True,
    ),
    "appraisal": Release(
        "Once, at the end: the benefit of joining, that is how the federated model compares with the hospital's own on "
        "the held-out patients (how well each ranks them, how accurate its predictions are, and the difference, with "
        "intervals and a p-value; of risks, calibration slope and intercept of each); of risks, how they are corrected "
        "for the hospital's patients (two numbers with intervals, from the training patients), and how accurate they "
        "are with and without that; how much the model depends on each column; and how many training patients have a "
        "value of each column, 0 if fewer than 5.",
        may_be_off=True,
    ),
    "masked": Release(
        "With secure aggregation, in place of all other releases but name and row counts: their numbers, hidden by "
        "random masks. The server can compute their sums over at least 3 hospitals, and no hospital's own."
    ),
    "error": Release("In place of any release: the reason why there is no answer, without values of patients."),
}


def size_of(release: str, task: Task, terms: RunTerms) -> int:
    """Largest size of a release's values in one message, in bytes; 0 if the task has none of it, and for texts."""
    if release == "weights":
        return 4 * terms.parameters
    target = target_of(task)
    if release == "final-evaluation" and terms.epsilon:  # a table with noise, in place of the sums
        from federated_health.ml.noisy_evaluation import table_shape  # noqa: PLC0415  # differential privacy only

        if shape := table_shape(target):
            return 8 * math.prod(shape)
    if release == "subgroups" and task.subgroups:
        from federated_health.data.subgroups import subgroups_of  # noqa: PLC0415  # what a run needs at its end only
        from federated_health.ml.subgroups import NAMES  # noqa: PLC0415  # as above

        return 8 * len(NAMES) * len(subgroups_of(task))
    evaluation = {**write_counts(target.no_sums), "examples": []}  # which is a row count
    sums = sum(len(value) if isinstance(value, list) else 1 for value in evaluation.values())
    scores = 3 * target.max_cells * len(target.rows_of_groups(target.no_sums))
    recalibration = 14 if target.label.kind == "binary" else 0  # two intervals, twice four figures
    numbers = {
        "row-counts": 2,
        "column-sums": 3 * len(task.measurements),
        "associations": sum(1 if isinstance(column, Measurement) else len(column.codes) for column in task.columns),
        "class-counts": target.classes if target.has_classes else 0,
        "training-loss": 1,
        "round-evaluation": sums,
        "final-evaluation": sums,
        "roc-auc": int(target.has_classes),
        "scores": scores,
        "threshold-scores": scores if target.has_threshold else 0,
        "appraisal": sum(map(len, names_of_figures(target))) + recalibration + 2 * len(task.columns),
    }
    return 8 * numbers.get(release, 0)
