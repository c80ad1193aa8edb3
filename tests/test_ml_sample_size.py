"""Sample sizes against worked examples and simulations."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import norm

from federated_health.ml.sample_size import (
    expected_r_squared,
    max_r_squared,
    patients_to_develop,
    patients_to_validate,
)


def test_worked_example_of_a_binary_outcome() -> None:
    # By hand: 24 / (0.1 * -ln(1 - 0.288 / 0.9)) = 24 / 0.038566 = 622.3. The largest R-squared is 0.6032, so the
    # shrinkage for the second criterion is 0.288 / 0.31816 = 0.9052, and 24 / (0.0948 * 0.38295) = 661.1.
    # (1.96 / 0.05)^2 * 0.174 * 0.826 = 220.9. The published example gives 662 patients, 4.8 events per parameter.
    size = patients_to_develop(24, 0.174, 0.288)
    assert (size.shrinkage, size.optimism, size.risk, size.needed) == (623, 662, 221, 662)
    assert size.needed * 0.174 / 24 == pytest.approx(4.8, abs=0.01)


def test_more_parameters_and_worse_models_need_more_patients() -> None:
    needed = [patients_to_develop(p, 0.3, r).needed for p, r in ((10, 0.3), (20, 0.3), (20, 0.1))]
    assert needed == sorted(needed)
    assert len(set(needed)) == 3


@pytest.mark.parametrize("prevalence", [0.01, 0.2, 0.5])
def test_largest_r_squared_is_that_of_certain_predictions(prevalence: float) -> None:
    labels = np.arange(1000) < 1000 * prevalence
    null = sm.Logit(labels.astype(float), np.ones(1000)).fit(disp=False).llf
    assert max_r_squared(prevalence) == pytest.approx(1 - math.exp(2 * null / 1000), abs=1e-9)
    assert max_r_squared(prevalence) == pytest.approx(max_r_squared(1 - prevalence), abs=1e-12)


@pytest.mark.parametrize(("roc_auc", "prevalence"), [(0.81, 0.77), (0.7, 0.1)])
def test_r_squared_of_a_roc_auc_is_that_of_simulated_scores(roc_auc: float, prevalence: float) -> None:
    generator, rows = np.random.default_rng(1), 200_000
    labels = (np.arange(rows) < rows * prevalence).astype(float)
    scores = generator.normal(size=rows) + labels * math.sqrt(2) * norm.ppf(roc_auc)
    fitted = sm.Logit(labels, sm.add_constant(scores)).fit(disp=False)
    simulated = 1 - math.exp(2 * (fitted.llnull - fitted.llf) / rows)
    assert expected_r_squared(roc_auc, prevalence) == pytest.approx(simulated, abs=0.003)


def test_worked_example_of_external_validation() -> None:
    # The published example: share 0.018, ROC-AUC 0.8, width 0.1 gives 4,252 patients.
    size = patients_to_validate(0.018, 0.8)
    assert size.roc_auc == 4252
    # By hand: 0.982 / (0.018 * 0.05094^2), where 0.05094 = asinh(0.1) / 1.96.
    assert size.observed_expected == math.ceil(0.982 / (0.018 * (math.asinh(0.1) / 1.96) ** 2))
    assert size.observed_expected == pytest.approx(21_024, abs=20)
    assert size.needed == size.observed_expected


def test_evaluation_with_the_needed_patients_has_the_wanted_width() -> None:
    """The share of pairs in order, of simulated scores, varies as the formula says."""
    size = patients_to_validate(0.4, 0.8).roc_auc
    generator, aucs = np.random.default_rng(2), []
    positives = round(0.4 * size)
    for _ in range(2000):
        high = generator.normal(math.sqrt(2) * norm.ppf(0.8), 1, positives)
        low = np.sort(generator.normal(size=size - positives))
        aucs.append(np.searchsorted(low, high).mean() / len(low))
    assert 2 * 1.96 * np.std(aucs) == pytest.approx(0.1, rel=0.1)
