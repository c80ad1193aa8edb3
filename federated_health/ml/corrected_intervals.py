"""The corrected resampled t-test of two learning algorithms over the folds and repeats of a study.

It asks another question than `intervals`: would models that are trained on other patients differ, too? Trainings share
patients, so their differences are not independent; Nadeau and Bengio 2003 widen the variance by what they share.
"""

import numpy as np

from federated_health.ml.intervals import t_difference
from federated_health.ml.targets import Array
from federated_health.ml.verdicts import Difference


def corrected_difference(differences: Array, test_to_train: float) -> Difference:
    """Mean difference over folds and repeats, and its corrected interval.

    Args:
        differences: [folds of all repeats], by how much a model is better than another on the held-out rows of a fold;
            NaN where it is not defined. With fewer than two, the result is not defined.
        test_to_train: number of held-out rows per training row of a fold: 1 / (folds - 1) in a cross-validation.
    """
    defined = differences[~np.isnan(differences)]
    if len(defined) < 2:
        return Difference()
    value, freedom = float(defined.mean()), len(defined) - 1
    deviation = float(np.sqrt((1 / len(defined) + test_to_train) * defined.var(ddof=1)))
    return t_difference(value, deviation, freedom)
