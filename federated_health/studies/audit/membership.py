"""Membership inference: was this patient among the training rows? Arrays in, scores and their strength out.

A higher score means that the attack is surer that the patient was a member. Loss threshold: Yeom et al. 2018 ("Privacy
risk in machine learning"). LiRA, the likelihood-ratio attack with shadow models: Carlini et al. 2022 ("Membership
inference attacks from first principles"). The ROC-AUC of an attack is the probability that it scores a member higher
than a patient who was not one; 0.5 is guessing.

Statistics, scores and members are arrays of [runs, patients]: each run was trained on a random half of the patients. A
patient with several rows is a member with all of them, and each row has a statistic and a score of its own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.split import PatientIds
from federated_health.ml.bootstrap import LEVEL, affordable_draws, percentile_interval, roc_auc_draws
from federated_health.ml.verdicts import Interval

FALSE_POSITIVE_RATE = 0.01

GUESSING = 0.5
"""ROC-AUC of an attack without information."""

MIN_RUNS_FOR_OWN_VARIANCE = 64
"""With fewer shadow models, the mean variance of all patients estimates better than each patient's own (Carlini et al.
2022)."""

UNDEFINED = Interval()
MIN_VARIANCE = 1e-12
DRAWS = 1000

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class AttackStrength:
    """Strength of an attack. ROC-AUC and true-positive rate are means over the attacked runs.

    Attributes:
        roc_auc: with the interval of the mean, which is narrower the more runs there are.
        one_model: the same with the interval of an attack on a single run (the mean of the runs' own limits).
        undecided: share of the runs whose own interval contains 0.5, so that the attack cannot be distinguished
            from guessing; 0.95 for an attack without signal, None where undefined.
        true_positive_rate: share of members found at a false-positive rate of at most FALSE_POSITIVE_RATE.
        patients: number of members and others together.
        false_positives: number of non-members' rows that may be called members at that rate.
    """

    roc_auc: Interval = UNDEFINED
    one_model: Interval = UNDEFINED
    undecided: float | None = None
    true_positive_rate: Interval = UNDEFINED
    patients: int
    false_positives: int


def losses(log_odds: Floats, labels: Floats) -> Array:
    """Cross-entropy of each patient's own label, in nats."""
    return np.logaddexp(0.0, -confidences(log_odds, labels))


def confidences(log_odds: Floats, labels: Floats) -> Array:
    """log(p / (1 - p)) of the probability p of each patient's own label: LiRA's statistic, roughly normal."""
    return np.asarray(log_odds, dtype=np.float64) * (2.0 * np.asarray(labels, dtype=np.float64) - 1.0)


def lira_scores(statistics: Array, members: Flags) -> Array:
    """Online LiRA: the log-likelihood ratio of each run's statistic of each patient, member against non-member.

    Every run is attacked with the others as shadow models, except its own complement, so that each patient is a member
    in half of the shadow models.

    Raises:
        ValueError: fewer than two shadow models were trained with, or without, some patient.
    """
    scores = np.empty_like(statistics, dtype=np.float64)
    for run, half in enumerate(members):
        is_shadow = (members != ~half).any(axis=1)
        is_shadow[run] = False
        shadows, inside = statistics[is_shadow], members[is_shadow]
        scores[run] = _log_density(statistics[run], shadows, inside) - _log_density(statistics[run], shadows, ~inside)
    return scores


def _log_density(values: Array, statistics: Array, chosen: Flags) -> Array:
    """Log-density, up to a constant, of values under the normal distribution of each patient's chosen statistics.

    Args:
        values: [patients].
        statistics, chosen: [shadow models, patients].
    """
    number = chosen.sum(axis=0)
    if number.min() < 2:
        raise ValueError(f"shadow models with or without a patient: expected at least 2, got {number.min()}")
    mean = np.where(chosen, statistics, 0.0).sum(axis=0) / number
    variance = np.where(chosen, (statistics - mean) ** 2, 0.0).sum(axis=0) / (number - 1)
    if 2 * number.min() < MIN_RUNS_FOR_OWN_VARIANCE:
        variance = np.full_like(variance, variance.mean())
    variance = np.maximum(variance, MIN_VARIANCE)
    density: Array = -0.5 * ((values - mean) ** 2 / variance + np.log(variance))
    return density


def measure_attack(
    scores: Array, members: Flags, seed: int | list[int], draws: int = DRAWS, patients: PatientIds | None = None
) -> AttackStrength:
    """Strength of an attack on rows, with percentile intervals of a bootstrap over patients.

    A patient is drawn with all rows, and together with the scores of all runs: runs share their patients, so more runs
    are not more patients. The intervals treat the trained models as fixed.

    Args:
        scores, members: [runs, rows].
        patients: number of each row's patient, from 0, [rows]; None if each row is a patient of its own.
    """
    rows = scores.shape[1]
    min_others = int((~members).sum(axis=1).min())
    false_positives = int(FALSE_POSITIVE_RATE * min_others)
    number = rows if patients is None else int(patients.max(initial=-1)) + 1
    if not rows or not members.any(axis=1).all() or not min_others:
        return AttackStrength(patients=number, false_positives=false_positives)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(number, np.full(number, 1.0 / number), size=affordable_draws(rows, draws)).T
    if patients is not None:
        drawn = drawn[patients]
    times = np.column_stack([np.ones(rows), drawn])  # the first column gives the plain figure
    has_both = (members @ times > 0) & (~members @ times > 0)  # with very few patients, a draw may hold members only
    times = times[:, has_both.all(axis=0)]
    runs = list(zip(scores, members.astype(np.float64), strict=True))
    aucs = np.array([roc_auc_draws(of_run, half, times) for of_run, half in runs])  # [runs, draws]
    lows, highs = np.quantile(aucs[:, 1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    mean_auc = aucs.mean(axis=0)
    rates = np.mean([true_positive_rates(of_run, half, times) for of_run, half in runs], axis=0)
    return AttackStrength(
        roc_auc=percentile_interval(float(mean_auc[0]), mean_auc[1:]),
        one_model=Interval(value=float(mean_auc[0]), low=float(lows.mean()), high=float(highs.mean())),
        undecided=float(((lows <= GUESSING) & (highs >= GUESSING)).mean()),
        true_positive_rate=percentile_interval(float(rates[0]), rates[1:]),
        patients=number,
        false_positives=false_positives,
    )


def largest_roc_auc(epsilon: float, delta: float) -> float:
    """Largest ROC-AUC of any attack that (epsilon, delta) permits.

    The area above the trade-off function of the guarantee: an attack with false-positive rate a misses at least
    max(1 - delta - e^epsilon a, e^-epsilon (1 - delta - a)) of the members (Wasserman and Zhou 2010). The two lines
    meet at a = (1 - delta) / (1 + e^epsilon), and the area below them is (1 - delta)^2 / (1 + e^epsilon).
    """
    return float(1.0 - (1.0 - delta) ** 2 / (1.0 + np.exp(min(epsilon, 500.0))))


def true_positive_rates(
    scores: Floats, members: Floats, times: Array, false_positive_rate: float = FALSE_POSITIVE_RATE
) -> Array:
    """Highest true-positive rate at a false-positive rate of at most this, by draw, [draws].

    Patients of equal score are above a threshold together or not at all.

    Args:
        scores, members: of one run, [patients], with both members and others.
        times: [patients, draws], how often each patient counts; a column of ones gives the plain rate.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, inside = scores[order], members[order] == 1
    ends = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))
    found = np.cumsum(times[order] * inside[:, None], axis=0)[ends]
    alarms = np.cumsum(times[order] * ~inside[:, None], axis=0)[ends]
    # Half a patient more, since a product such as 0.01 * 300 may be slightly below the whole number that it stands for.
    is_allowed = alarms <= np.floor(false_positive_rate * alarms[-1] + 1e-9) + 0.5
    rates: Array = np.where(is_allowed, found, 0.0).max(axis=0) / found[-1]
    return rates
