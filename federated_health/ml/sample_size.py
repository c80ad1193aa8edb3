"""Number of patients that a prediction model of a binary outcome needs, to be developed and to be evaluated.

Sources: Riley et al. 2019 (Statistics in Medicine 38:1276-1296) and 2020 (BMJ 368:m441) for development, 2021
(Statistics in Medicine 40:859-864) for the R-squared of an expected ROC-AUC, and 2021 (Statistics in Medicine
40:4230-4251) for external validation. All count independent patients, and the parameters of a regression without
penalty.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

SHRINKAGE = 0.9
"""Smallest expected shrinkage factor: predictions are at most 10 % too extreme."""

MAX_OPTIMISM = 0.05
"""Largest expected difference of the apparent and the true R-squared (Nagelkerke's)."""

RISK_MARGIN = 0.05
"""Half of the width of the 95 % interval of the share of positives."""

CAUTIOUS_SHARE = 0.15
"""Share of the largest possible R-squared that is expected where nothing is known of a model."""

ROC_AUC_WIDTH = 0.1
"""Width of the 95 % interval of the ROC-AUC."""

RATIO_WIDTH = 0.2
"""Width of the 95 % interval of observed/expected, around 1."""

QUANTILE = 1.96
"""Quantile of the standard normal distribution at the upper end of a 95 % interval, as the sources round it."""

NODES = 100
"""Number of nodes of a Gauss-Hermite quadrature; 60 change the R-squared by 1e-8 at a ROC-AUC of 0.99."""


@dataclass(frozen=True, kw_only=True)
class DevelopmentSize:
    """Numbers of patients to develop a model, by criterion.

    Attributes:
        shrinkage: for an expected shrinkage factor of at least SHRINKAGE.
        optimism: for an R-squared that is at most MAX_OPTIMISM too high in the training patients.
        risk: to estimate the share of positives to within RISK_MARGIN.
    """

    shrinkage: int
    optimism: int
    risk: int

    @property
    def needed(self) -> int:
        """The number for all criteria."""
        return max(self.shrinkage, self.optimism, self.risk)


@dataclass(frozen=True, kw_only=True)
class ValidationSize:
    """Numbers of patients to evaluate a model, by the figure that is then precise enough."""

    observed_expected: int
    roc_auc: int

    @property
    def needed(self) -> int:
        """The number for both figures."""
        return max(self.observed_expected, self.roc_auc)


def patients_to_develop(parameters: int, prevalence: float, r_squared: float) -> DevelopmentSize:
    """Patients that are needed to develop a model.

    Args:
        parameters: number of candidate parameters, without the intercept.
        prevalence: share of positives, above 0 and below 1.
        r_squared: expected R-squared of Cox and Snell, above 0 and below `max_r_squared(prevalence)`.
    """
    enough = r_squared / (r_squared + MAX_OPTIMISM * max_r_squared(prevalence))
    return DevelopmentSize(
        shrinkage=_patients_for_shrinkage(parameters, r_squared, SHRINKAGE),
        optimism=_patients_for_shrinkage(parameters, r_squared, enough),
        risk=math.ceil((QUANTILE / RISK_MARGIN) ** 2 * prevalence * (1 - prevalence)),
    )


def _patients_for_shrinkage(parameters: int, r_squared: float, shrinkage: float) -> int:
    return math.ceil(parameters / ((shrinkage - 1) * math.log(1 - r_squared / shrinkage)))


def max_r_squared(prevalence: float) -> float:
    """Largest possible R-squared of Cox and Snell: that of a model that knows every outcome."""
    return 1 - math.exp(2 * (prevalence * math.log(prevalence) + (1 - prevalence) * math.log(1 - prevalence)))


def expected_r_squared(roc_auc: float, prevalence: float) -> float:
    """R-squared of Cox and Snell that a model of this ROC-AUC, above 0.5 and below 1, has in large samples.

    Its scores are taken to be normally distributed in both classes, with the same variance. The outcome is then a
    logistic regression on the score, whose log-likelihood is integrated here; Riley et al. simulate it.
    """
    distance = math.sqrt(2) * NormalDist().inv_cdf(roc_auc)
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    offset = math.log(prevalence / (1 - prevalence)) - distance**2 / 2
    loss = prevalence * (weights @ np.logaddexp(0, -(offset + distance * (nodes + distance))))
    loss += (1 - prevalence) * (weights @ np.logaddexp(0, offset + distance * nodes))
    without_model = -(prevalence * math.log(prevalence) + (1 - prevalence) * math.log(1 - prevalence))
    return 1 - math.exp(2 * (float(loss) - without_model))


def patients_to_validate(prevalence: float, roc_auc: float) -> ValidationSize:
    """Patients that are needed to evaluate a well-calibrated model of this ROC-AUC, above 0.5 and below 1.

    The standard error of the ROC-AUC is that of Newcombe 2006 (Statistics in Medicine 25:559-573).
    """
    ratio_error = math.asinh(RATIO_WIDTH / 2) / QUANTILE  # exp(1.96 SE) - exp(-1.96 SE) is the width
    auc_error = ROC_AUC_WIDTH / (2 * QUANTILE)
    low, high = 2, 4
    while _roc_auc_error(high, prevalence, roc_auc) > auc_error:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        is_enough = _roc_auc_error(middle, prevalence, roc_auc) <= auc_error
        low, high = (low, middle) if is_enough else (middle + 1, high)
    return ValidationSize(
        observed_expected=math.ceil((1 - prevalence) / (prevalence * ratio_error**2)),
        roc_auc=high,
    )


def _roc_auc_error(patients: int, prevalence: float, roc_auc: float) -> float:
    c, others = roc_auc, patients / 2 - 1
    spread = 1 + others * (1 - c) / (2 - c) + others * c / (1 + c)
    return math.sqrt(c * (1 - c) * spread / (prevalence * (1 - prevalence))) / patients
