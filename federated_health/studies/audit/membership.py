"""Membership inference: was this patient among the training rows? Arrays in, scores and figures out.

A score is the higher, the surer the attack is that the patient was a member. Loss threshold: Yeom et al. 2018 ("Privacy
risk in machine learning"). LiRA, the likelihood-ratio attack with shadow models: Carlini et al. 2022 ("Membership
inference attacks from first principles"). The ROC-AUC of an attack is the chance that it scores a member higher than a
patient who was not one; 0.5 is guessing.

Arrays of [runs, patients] hold a row a run, each of which was trained on a random half of the patients.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.bootstrap import LEVEL, interval_of, roc_auc_draws
from federated_health.ml.metrics import Interval

FALSE_POSITIVE_RATE = 0.01

GUESSING = 0.5
"""ROC-AUC of an attack that knows nothing."""

MIN_RUNS_FOR_OWN_VARIANCE = 64
"""Of fewer shadow models a patient's own variance is a worse guess than that of all patients (Carlini et al. 2022)."""

MIN_VARIANCE = 1e-12

DRAWS = 1000

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How well an attack does.

    Attributes:
        roc_auc: mean over the runs that were attacked, with its interval: the more runs, the narrower.
        one_model: the same, with the interval that the attack on a single run has: the mean of the runs' own ends.
        undecided: share of the runs whose own interval holds 0.5: in these it cannot be told whether the attack does
            better than guessing. Of an attack without signal, 0.95; None where undefined.
        true_positive_rate: the same, of the share of members found at most at FALSE_POSITIVE_RATE false positives.
        patients: members and others together.
        false_positives: as many of those who were not members may be called members at that rate.
    """

    roc_auc: Interval
    one_model: Interval
    undecided: float | None
    true_positive_rate: Interval
    patients: int
    false_positives: int


def losses(log_odds: Floats, labels: Floats) -> Array:
    """Cross-entropy in nats of each patient's own label; shapes as numpy broadcasts them."""
    return np.logaddexp(0.0, -confidences(log_odds, labels))


def confidences(log_odds: Floats, labels: Floats) -> Array:
    """log(p / (1 - p)) of the probability p of each patient's own label: the statistic of LiRA, about normal."""
    return np.asarray(log_odds, dtype=np.float64) * (2.0 * np.asarray(labels, dtype=np.float64) - 1.0)


def lira_scores(statistics: Array, members: Flags) -> Array:
    """Online LiRA: the log-likelihood ratio of what each run shows of each patient, member against not.

    Every run is attacked with the others as shadow models, without that of its own complement, so that a patient who is
    in half of the runs is in half of the shadows, whether a member or not.

    Args:
        statistics: [runs, patients], such as `confidences`.
        members: [runs, patients].

    Returns:
        [runs, patients].

    Raises:
        ValueError: of a patient there are fewer than two shadows with or without them.
    """
    scores = np.empty_like(statistics, dtype=np.float64)
    for run, mine in enumerate(members):
        shadow = (members != ~mine).any(axis=1)
        shadow[run] = False
        inside, outside = members[shadow], ~members[shadow]
        mean_in, variance_in = _fit(statistics[shadow], inside)
        mean_out, variance_out = _fit(statistics[shadow], outside)
        scores[run] = _log_density(statistics[run], mean_in, variance_in) - _log_density(
            statistics[run], mean_out, variance_out
        )
    return scores


def _fit(statistics: Array, chosen: Flags) -> tuple[Array, Array]:
    """Mean and variance of each patient over the chosen shadows; few shadows share the mean variance of all patients.

    Args:
        statistics, chosen: [shadows, patients].

    Returns:
        Each [patients].
    """
    number = chosen.sum(axis=0)
    if number.min() < 2:
        raise ValueError("too few shadow models with or without a patient")
    mean = np.where(chosen, statistics, 0.0).sum(axis=0) / number
    variance = np.where(chosen, (statistics - mean) ** 2, 0.0).sum(axis=0) / (number - 1)
    if 2 * number.min() < MIN_RUNS_FOR_OWN_VARIANCE:
        variance = np.full_like(variance, variance.mean())
    return mean, np.maximum(variance, MIN_VARIANCE)


def _log_density(values: Array, mean: Array, variance: Array) -> Array:
    """Of the normal distribution, up to a constant."""
    density: Array = -0.5 * ((values - mean) ** 2 / variance + np.log(variance))
    return density


def measure(scores: Array, members: Flags, seed: int | list[int], draws: int = DRAWS) -> Strength:
    """How well an attack does, with percentile intervals of a bootstrap over patients.

    A patient is drawn with all that every run says of them: runs share their patients, and are no further evidence. The
    intervals hold the fitted models fixed.

    Args:
        scores, members: [runs, patients].
        seed: of the bootstrap.
    """
    patients = scores.shape[1]
    fewest = int((~members).sum(axis=1).min())
    allowed = int(FALSE_POSITIVE_RATE * fewest)
    if not patients or not members.any(axis=1).all() or not fewest:
        return Strength(
            roc_auc=Interval(),
            one_model=Interval(),
            undecided=None,
            true_positive_rate=Interval(),
            patients=patients,
            false_positives=allowed,
        )
    generator = np.random.default_rng(seed)
    times = np.column_stack(
        [
            np.ones(patients),  # the first column is the patients as they are
            generator.multinomial(patients, np.full(patients, 1.0 / patients), size=draws).T,
        ]
    )
    defined = np.all([(times[mine].sum(axis=0) > 0) & (times[~mine].sum(axis=0) > 0) for mine in members], axis=0)
    times = times[:, defined]  # of very few patients a draw may hold members only
    pairs = [(one, mine.astype(np.float64)) for one, mine in zip(scores, members, strict=True)]
    each = np.array([roc_auc_draws(one, mine, times) for one, mine in pairs])  # [runs, draws]
    lows, highs = np.quantile(each[:, 1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    aucs = each.mean(axis=0)
    rates = np.mean([true_positive_rates(one, mine, times) for one, mine in pairs], axis=0)
    return Strength(
        roc_auc=interval_of(float(aucs[0]), aucs[1:]),
        one_model=Interval(value=float(aucs[0]), low=float(lows.mean()), high=float(highs.mean())),
        undecided=float(((lows <= GUESSING) & (highs >= GUESSING)).mean()),
        true_positive_rate=interval_of(float(rates[0]), rates[1:]),
        patients=patients,
        false_positives=allowed,
    )


def true_positive_rates(
    scores: Floats, members: Floats, times: Array, false_positive_rate: float = FALSE_POSITIVE_RATE
) -> Array:
    """The greatest share of members above a threshold above which is at most this share of the others, of each draw.

    Patients of equal score are above a threshold together or not at all.

    Args:
        scores: [patients].
        members: [patients], 0 or 1, both of them present.
        times: [patients, draws], how often each patient counts; a column of ones gives the plain rate.

    Returns:
        [draws].
    """
    order = np.argsort(-scores, kind="stable")
    ordered, inside = scores[order], members[order] == 1
    ends = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))
    found = np.cumsum(times[order] * inside[:, None], axis=0)[ends]
    alarms = np.cumsum(times[order] * ~inside[:, None], axis=0)[ends]
    # Half a patient more, since a product such as 0.01 * 300 may be just below the whole number that it stands for.
    few = alarms <= np.floor(false_positive_rate * alarms[-1] + 1e-9) + 0.5
    rates: Array = np.where(few, found, 0.0).max(axis=0) / found[-1]
    return rates
