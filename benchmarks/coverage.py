"""How often intervals cover the true figure, and how often verdicts on equally good models are wrong; prints JSON.

Patients are simulated, so that the true figure is known. `chosen` is the method of `ml/intervals.py`; the others are
the candidates that it was chosen from, on the same samples:

- `percentile`, `bca`, `bootstrap_t`: bootstraps stratified by class, the last one on the logit scale.
- `delong`, `logit`, `logit_t`: the variance of DeLong et al. 1988 with a normal quantile; the same on the logit scale,
  and there also with Student's t (Brunner and Munzel 2000).
- `newcombe`: the score interval of scores with exponential distributions (method 5 of Newcombe 2006); of a difference,
  the two models' intervals put together (Zou and Donner 2008).
- `normal`, `by_class`: of a difference of mean losses, a normal quantile, and a variance within classes.

A share of 0.95 has the `standard_error` that is printed, and twice that of a bootstrap, which has a quarter of the
trials.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import common  # noqa: F401  # makes the package importable from a checkout
import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import norm, t

from federated_health.ml.intervals import (
    Estimate,
    difference_of,
    estimate_mean,
    estimate_roc_auc,
    interval_of,
    mean_of_hospitals,
)
from federated_health.ml.verdicts import Difference, Interval

TRIALS = 1600
DRAWS = 500
WANTED = 0.93, 0.97
"""Coverage that is wanted from ten patients of a class on."""

SIZES = ((5, 5), (8, 8), (10, 10), (20, 20), (50, 50), (5, 50), (8, 80), (10, 30), (10, 100), (20, 200), (100, 10))
"""Numbers of positives and negatives."""

ROC_AUCS = (0.6, 0.75, 0.9, 0.97)
SMALLEST = (1, 2, 3, 4, 5, 6, 8, 10)

Array = npt.NDArray[np.float64]
Bounds = tuple[Any, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """Distribution of scores: normal, of standard deviation 1 in negatives.

    Attributes:
        spread: standard deviation in positives.
        step: width to which scores are rounded, so that some are tied; 0 for none.
        missed: share of positives who score like negatives.
    """

    spread: float = 1.0
    step: float = 0.0
    missed: float = 0.0

    def distance(self, roc_auc: float) -> float:
        """How far the positives who are not missed are above the negatives, for a ROC-AUC without rounding."""
        return float(norm.ppf((roc_auc - self.missed / 2) / (1 - self.missed)) * np.hypot(1, self.spread))

    def draw(self, generator: np.random.Generator, roc_auc: float, labels: Array, noise: Array) -> Array:
        """Scores of patients with this standard normal noise."""
        is_found = (labels == 1) & (generator.random(len(labels)) >= self.missed)
        scores = np.where(is_found, self.distance(roc_auc) + self.spread * noise, noise)
        return np.round(scores / self.step) * self.step if self.step else scores

    def truth(self, roc_auc: float) -> float:
        """True ROC-AUC after rounding."""
        if not self.step:
            return roc_auc
        edges = (np.arange(-60, 61) - 0.5) * self.step
        high, low = (
            np.diff(norm.cdf(edges, place, width)) for place, width in ((self.distance(roc_auc), self.spread), (0, 1))
        )
        return float(high @ (np.cumsum(low) - low / 2))


SCORES = {
    "normal": Scores(),
    "tied": Scores(step=1.0),
    "wide positives": Scores(spread=2.0),
    "narrow positives": Scores(spread=0.5),
    "missed positives": Scores(missed=0.3),
}


class Sample:
    """Scores of positives and negatives by one model or two, with what the candidates need of them."""

    def __init__(self, labels: Array, *scores: Array) -> None:
        self.labels, self.scores = labels, scores
        pairs = [of[labels == 1][:, None] - of[labels == 0] for of in scores]
        self.wins = [(gap > 0) + 0.5 * (gap == 0) for gap in pairs]  # [positives, negatives]

    def placements(self, model: int) -> tuple[Array, Array]:
        return self.wins[model].mean(axis=1), self.wins[model].mean(axis=0)

    def variance(self, parts: tuple[Array, Array]) -> tuple[float, float]:
        """Variance and degrees of freedom of a mean of placements, or of their differences."""
        variances = [part.var(ddof=1) / len(part) for part in parts]
        total = float(sum(variances))
        freedoms = [len(part) - 1 for part in parts]
        squares = sum(variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
        return total, float(total**2 / squares) if squares else float(min(freedoms))

    def draws(self, generator: np.random.Generator) -> tuple[Array, Array]:
        """How often each positive and each negative is in each draw, [patients, draws]."""
        positives, negatives = self.wins[0].shape
        high, low = (generator.multinomial(n, np.full(n, 1 / n), DRAWS).T for n in (positives, negatives))
        return high.astype(float), low.astype(float)


def drawn_roc_auc(wins: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """ROC-AUC and its DeLong variance in each draw."""
    positives, negatives = wins.shape
    of_positives, of_negatives = wins @ low / negatives, wins.T @ high / positives
    roc_auc = (high * of_positives).sum(axis=0) / positives
    variance = (high * (of_positives - roc_auc) ** 2).sum(axis=0) / positives / (positives - 1)
    variance += (low * (of_negatives - roc_auc) ** 2).sum(axis=0) / negatives / (negatives - 1)
    return roc_auc, variance


def bootstraps(sample: Sample, generator: np.random.Generator) -> dict[str, Bounds]:
    wins, draws = sample.wins[0], sample.draws(generator)
    value, (roc_auc, variance) = wins.mean(), drawn_roc_auc(wins, *draws)
    parts = [part - value for part in sample.placements(0)]
    cubes, squares = (sum((part**power).sum() / len(part) ** power for part in parts) for power in (3, 2))
    acceleration = cubes / squares**1.5 / 6 if squares else 0.0
    share = np.clip(((roc_auc < value).mean() + (roc_auc <= value).mean()) / 2, 1 / DRAWS, 1 - 1 / DRAWS)
    bias = norm.ppf(share)
    ends = bias + norm.ppf([0.025, 0.975])
    corrected = norm.cdf(bias + ends / (1 - acceleration * ends))
    found = {"percentile": tuple(np.quantile(roc_auc, [0.025, 0.975])), "bca": tuple(np.quantile(roc_auc, corrected))}
    is_inside = (roc_auc < 1) & (roc_auc > 0) & (variance > 0)
    error = np.sqrt(sample.variance(sample.placements(0))[0])
    if 0 < value < 1 and error and is_inside.sum() > 100:
        slope, inside = value * (1 - value), roc_auc[is_inside]
        pivots = (logit(inside) - logit(value)) * inside * (1 - inside) / np.sqrt(variance[is_inside])
        low, high = np.quantile(pivots, [0.025, 0.975])
        found["bootstrap_t"] = expit(logit(value) - high * error / slope), expit(logit(value) - low * error / slope)
    else:
        found["bootstrap_t"] = value, value
    return found


def newcombe(sample: Sample, model: int = 0) -> Bounds:
    """Where the value is as far from the ends as 1.96 standard errors there."""
    positives, negatives = sample.wins[model].shape
    value, larger = sample.wins[model].mean(), (positives + negatives) / 2 - 1
    grid = np.linspace(0, 1, 2001)
    errors = np.sqrt(
        grid * (1 - grid) * (1 + larger * ((1 - grid) / (2 - grid) + grid / (1 + grid))) / (positives * negatives)
    )
    inside = grid[np.abs(grid - value) <= 1.96 * errors + 1e-12]
    return min(inside.min(), value), max(inside.max(), value)


def roc_auc_intervals(sample: Sample) -> dict[str, Bounds]:
    value = sample.wins[0].mean()
    variance, freedom = sample.variance(sample.placements(0))
    error = np.sqrt(variance)
    found: dict[str, Bounds] = {
        "delong": (value - 1.96 * error, value + 1.96 * error),
        "newcombe": newcombe(sample),
        "chosen": bounds(interval_of(estimate_roc_auc(sample.scores[0], sample.labels))),
    }
    for name, quantile in (("logit", 1.96), ("logit_t", t.ppf(0.975, freedom))):
        slope = value * (1 - value)
        half = quantile * error / slope if slope else 0.0
        found[name] = (expit(logit(value) - half), expit(logit(value) + half)) if slope else (value, value)
    return found


def roc_auc_differences(sample: Sample) -> dict[str, Bounds]:
    value = sample.wins[0].mean() - sample.wins[1].mean()
    both = [sample.placements(model) for model in (0, 1)]
    variance = sample.variance((both[0][0] - both[1][0], both[0][1] - both[1][1]))[0]
    single = [sample.variance(parts)[0] for parts in both]
    product = np.sqrt(single[0] * single[1])
    correlation = (sum(single) - variance) / 2 / product if product else 0.0
    gaps = [np.abs(np.array(newcombe(sample, model)) - sample.wins[model].mean()) for model in (0, 1)]

    def together(first: float, second: float) -> float:
        return float(np.sqrt(max(first**2 + second**2 - 2 * correlation * first * second, 0.0)))

    estimates = [estimate_roc_auc(of, sample.labels) for of in sample.scores]
    return {
        "delong": (value - 1.96 * np.sqrt(variance), value + 1.96 * np.sqrt(variance)),
        "newcombe": (value - together(gaps[0][0], gaps[1][1]), value + together(gaps[0][1], gaps[1][0])),
        "chosen": bounds(difference_of(*estimates)),
    }


def bootstrap_difference(sample: Sample, generator: np.random.Generator) -> dict[str, Bounds]:
    draws = sample.draws(generator)
    first, second = (drawn_roc_auc(wins, *draws)[0] for wins in sample.wins)
    return {"percentile": tuple(np.quantile(first - second, [0.025, 0.975]))}


def loss_differences(labels: Array, first: Array, second: Array) -> dict[str, Bounds]:
    losses, number = first - second, len(first)
    classes = [losses[labels == value] for value in (0, 1)]
    errors = {
        "normal": losses.std(ddof=1) / np.sqrt(number),
        "by_class": np.sqrt(sum(len(of) * of.var(ddof=1) for of in classes if len(of) > 1)) / number,
    }
    estimates = [estimate_mean(of, is_share=True) for of in (first, second)]
    found: dict[str, Bounds] = {
        name: (losses.mean() - 1.96 * error, losses.mean() + 1.96 * error) for name, error in errors.items()
    }
    return found | {"chosen": bounds(difference_of(*estimates))}


def bounds(interval: Interval) -> Bounds:
    return interval.low, interval.high


class Count:
    """How often intervals cover the truth, by method."""

    def __init__(self) -> None:
        self.covered: dict[str, list[bool]] = {}
        self.widths: dict[str, list[float]] = {}

    def add(self, found: dict[str, Bounds], truth: float) -> None:
        for method, (low, high) in found.items():
            self.covered.setdefault(method, []).append(bool(low - 1e-12 <= truth <= high + 1e-12))
            self.widths.setdefault(method, []).append(float(high - low))

    def row(self, **case: Any) -> Row:
        return case | {
            "coverage": {method: round(float(np.mean(of)), 4) for method, of in sorted(self.covered.items())},
            "width": {method: round(float(np.mean(of)), 3) for method, of in sorted(self.widths.items())},
        }


def labels_of(positives: int, negatives: int) -> Array:
    return np.repeat([1.0, 0.0], [positives, negatives])


def correlated(generator: np.random.Generator, shape: tuple[int, ...], correlation: float) -> tuple[Array, Array]:
    """Standard normal noise of two models."""
    shared = np.sqrt(correlation) * generator.normal(size=shape)
    first, second = (shared + np.sqrt(1 - correlation) * generator.normal(size=shape) for _ in range(2))
    return first, second


def study_roc_auc(trials: int, generator: np.random.Generator) -> Iterator[Row]:
    for name, scores in SCORES.items():
        for positives, negatives in SIZES:
            for roc_auc in ROC_AUCS if not scores.missed else ROC_AUCS[:2]:
                count, labels = Count(), labels_of(positives, negatives)
                for trial in range(trials):
                    sample = Sample(labels, scores.draw(generator, roc_auc, labels, generator.normal(size=len(labels))))
                    found = roc_auc_intervals(sample) | (bootstraps(sample, generator) if trial % 4 == 0 else {})
                    count.add(found, scores.truth(roc_auc))
                yield count.row(scores=name, positives=positives, negatives=negatives, roc_auc=roc_auc)


def study_roc_auc_difference(trials: int, generator: np.random.Generator) -> Iterator[Row]:
    for name in ("normal", "tied", "wide positives"):
        for positives, negatives in SIZES:
            for first, second, correlation in ((0.75, 0.75, 0.5), (0.75, 0.75, 0.9), (0.9, 0.9, 0.5), (0.9, 0.75, 0.5)):
                count, labels, scores = Count(), labels_of(positives, negatives), SCORES[name]
                for trial in range(trials):
                    noise = correlated(generator, labels.shape, correlation)
                    models = zip((first, second), noise, strict=True)
                    sample = Sample(labels, *(scores.draw(generator, of, labels, part) for of, part in models))
                    more = bootstrap_difference(sample, generator) if trial % 4 == 0 else {}
                    count.add(roc_auc_differences(sample) | more, scores.truth(first) - scores.truth(second))
                aucs = {"roc_auc": first, "other": second, "correlation": correlation}
                yield count.row(scores=name, positives=positives, negatives=negatives, **aucs)


RISKS: dict[str, tuple[float, float, float]] = {
    "equally good": (1.0, 0.0, 1.0),
    "shifted": (0.0, 1.5, 1.0),
    "too extreme": (0.0, 0.0, 2.5),
}
"""Noise of both models, shift and factor of the log-odds of the second one."""


def losses_of(generator: np.random.Generator, patients: int, prevalence: float, kind: str) -> tuple[Array, ...]:
    """Labels, and squared errors of two models."""
    log_odds = logit(prevalence) + generator.normal(0, 1.5, patients)
    labels = (generator.random(patients) < expit(log_odds)).astype(float)
    noise, shift, factor = RISKS[kind]
    first, second = (log_odds + noise * generator.normal(size=patients) for _ in range(2))
    return labels, (expit(first) - labels) ** 2, (expit(factor * second + shift) - labels) ** 2


def study_brier(trials: int, generator: np.random.Generator) -> Iterator[Row]:
    """Single Brier scores and differences, of samples with at least 5 patients of each class."""
    for kind in RISKS:
        for patients, prevalence in ((20, 0.5), (40, 0.5), (100, 0.5), (40, 0.2), (100, 0.1), (400, 0.1)):
            _, first, second = losses_of(generator, 2_000_000, prevalence, kind)
            difference, single = Count(), Count()
            for _ in range(trials):
                labels, *losses = losses_of(generator, patients, prevalence, kind)
                if min(labels.sum(), (1 - labels).sum()) >= 5:
                    difference.add(loss_differences(labels, *losses), float(first.mean() - second.mean()))
                    single.add({"chosen": bounds(interval_of(estimate_mean(losses[0], is_share=True)))}, first.mean())
            case = {"risks": kind, "patients": patients, "prevalence": prevalence}
            yield difference.row(figure="difference", **case)
            yield single.row(figure="brier", **case)


def study_patients(trials: int, generator: np.random.Generator) -> Iterator[Row]:
    """Patients with one to four rows, whose scores are alike; of some, rows have both labels."""
    truth = float(norm.cdf(1.2 / np.sqrt(2)))
    for patients, prevalence, alike in ((40, 0.5, True), (60, 0.2, True), (60, 0.3, False), (200, 0.1, False)):
        counts = {name: Count() for name in ("roc_auc", "roc_auc_difference", "brier_difference")}
        for _ in range(trials):
            ids = np.repeat(np.arange(patients), generator.integers(1, 5, patients))
            labels = (generator.random(patients) < prevalence)[ids].astype(float)
            labels *= alike or generator.random(len(ids)) < 0.6
            if len(np.unique(ids[labels == 1])) < 5:
                continue
            of_patient, of_row = correlated(generator, (patients,), 0.5), correlated(generator, ids.shape, 0.5)
            noise = [
                np.sqrt(0.6) * one[ids] + np.sqrt(0.4) * other for one, other in zip(of_patient, of_row, strict=True)
            ]
            scores = [1.2 * labels + part for part in noise]
            ranks = {name: [estimate_roc_auc(of, labels, which) for of in scores] for name, which in _both(ids)}
            means = {
                name: [estimate_mean((expit(of - 1) - labels) ** 2, which, is_share=True) for of in scores]
                for name, which in _both(ids)
            }
            counts["roc_auc"].add({name: bounds(interval_of(of[0])) for name, of in ranks.items()}, truth)
            counts["roc_auc_difference"].add({name: bounds(difference_of(*of)) for name, of in ranks.items()}, 0.0)
            counts["brier_difference"].add({name: bounds(difference_of(*of)) for name, of in means.items()}, 0.0)
        for figure, count in counts.items():
            yield count.row(figure=figure, patients=patients, prevalence=prevalence, rows_alike=alike)


def _both(ids: npt.NDArray[np.int64]) -> tuple[tuple[str, npt.NDArray[np.int64] | None], ...]:
    return ("chosen", ids), ("rows_as_patients", None)


def study_folds(trials: int, generator: np.random.Generator) -> Iterator[Row]:
    """Out-of-fold scores of five folds, whose models have scales of their own; the truth is that within folds."""
    truth = float(norm.cdf(1.2 / np.sqrt(2 * 1.25)))
    for positives, negatives in ((8, 110), (10, 10), (10, 100), (20, 20), (50, 50)):
        for repeats in (1, 10):
            single, difference, labels = Count(), Count(), labels_of(positives, negatives)
            for _ in range(trials // 2):
                folds = np.stack([_assign(generator, positives, negatives) for _ in range(repeats)])
                estimates = []
                for noise in correlated(generator, labels.shape, 0.6):
                    shifts = np.take_along_axis(generator.normal(size=(repeats, 5)), folds, axis=1)
                    scores = 1.2 * labels + noise + 0.5 * generator.normal(size=folds.shape) + shifts
                    estimates.append(estimate_roc_auc(scores, labels, folds=folds))
                single.add({"chosen": bounds(interval_of(estimates[0]))}, truth)
                difference.add({"chosen": bounds(difference_of(*estimates))}, 0.0)
            case = {"positives": positives, "negatives": negatives, "repeats": repeats}
            yield single.row(figure="roc_auc", **case)
            yield difference.row(figure="roc_auc_difference", **case)


def _assign(generator: np.random.Generator, positives: int, negatives: int) -> npt.NDArray[np.int64]:
    return np.concatenate([generator.permutation(np.arange(number) % 5) for number in (positives, negatives)])


def study_hospitals(trials: int, generator: np.random.Generator) -> Iterator[Row]:
    """Means over hospitals."""
    truth, scores = 0.8, Scores()
    for name, sizes in (
        ("of very different sizes", ((8, 110), (13, 120), (10, 10), (50, 50))),
        ("4 of 5 and 20", ((5, 20),) * 4),
        ("20 of 20 and 30", ((20, 30),) * 20),
    ):
        single, difference = Count(), Count()
        for _ in range(trials // 2):
            models: tuple[list[Estimate], list[Estimate]] = ([], [])
            for positives, negatives in sizes:
                labels = labels_of(positives, negatives)
                for model, noise in zip(models, correlated(generator, labels.shape, 0.5), strict=True):
                    model.append(estimate_roc_auc(scores.draw(generator, truth, labels, noise), labels))
            means = [mean_of_hospitals(model) for model in models]
            single.add({"chosen": bounds(interval_of(means[0]))}, truth)
            difference.add({"chosen": bounds(difference_of(*means))}, 0.0)
        yield single.row(figure="roc_auc", hospitals=name)
        yield difference.row(figure="roc_auc_difference", hospitals=name)


def study_smallest_class(trials: int, generator: np.random.Generator) -> Iterator[Row]:
    """By the size of the rarer class: how often equally good models differ clearly, and coverage of a true difference.

    The latter is of ROC-AUCs of 0.9 and 0.75, and as `detected` how often it is clear.
    """
    for smallest in SMALLEST:
        for others in (20, 100):
            labels, scores = labels_of(smallest, others), Scores()
            wrong, covered, detected = {"roc_auc": 0, "brier": 0}, 0, 0
            for _ in range(trials):
                noise = correlated(generator, labels.shape, 0.7)
                equal = [scores.draw(generator, 0.8, labels, part) for part in noise]
                pairs = {
                    "roc_auc": [estimate_roc_auc(of, labels) for of in equal],
                    "brier": [estimate_mean((expit(of - 1.5) - labels) ** 2, is_share=True) for of in equal],
                }
                for figure, pair in pairs.items():
                    wrong[figure] += is_clear(difference_of(*pair))
                models = zip((0.9, 0.75), noise, strict=True)
                unequal = [scores.draw(generator, roc_auc, labels, part) for roc_auc, part in models]
                real = difference_of(*(estimate_roc_auc(of, labels) for of in unequal))
                low, high = bounds(real)
                covered += low <= 0.15 <= high
                detected += is_clear(real)
            shares = {figure: round(of / trials, 4) for figure, of in wrong.items()}
            real_shares = {"covered": round(covered / trials, 4), "detected": round(detected / trials, 4)}
            yield {"smallest_class": smallest, "others": others, "wrong": shares, **real_shares}


def is_clear(difference: Difference) -> bool:
    return difference.p_value is not None and difference.p_value < 0.05


def summarise(rows: list[Row]) -> Row:
    """By method, over cases of at least ten patients of each class: how many have the wanted coverage."""
    large = [row["coverage"] for row in rows if min(row["positives"], row["negatives"]) >= 10]
    return {
        method: {
            "cases": len(large),
            "below": sum(of[method] < WANTED[0] for of in large),
            "above": sum(of[method] > WANTED[1] for of in large),
            "lowest": min(of[method] for of in large),
            "highest": max(of[method] for of in large),
            "deviation": round(float(np.sqrt(np.mean([(of[method] - 0.95) ** 2 for of in large]))), 4),
        }
        for method in large[0]
    }


STUDIES: dict[str, Callable[[int, np.random.Generator], Iterator[Row]]] = {
    "roc_auc": study_roc_auc,
    "roc_auc_difference": study_roc_auc_difference,
    "brier": study_brier,
    "patients": study_patients,
    "folds": study_folds,
    "hospitals": study_hospitals,
    "smallest_class": study_smallest_class,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS, help="samples per case (default: %(default)s)")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES), help="which (default: all)")
    arguments = parser.parse_args()
    found: Row = {
        "trials": arguments.trials,
        "standard_error": round(float(np.sqrt(0.95 * 0.05 / arguments.trials)), 4),
        "wanted": WANTED,
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        for name in arguments.studies:
            found[name] = list(STUDIES[name](arguments.trials, np.random.default_rng(1)))
    for name in ("roc_auc", "roc_auc_difference"):
        if name in found:
            found[f"{name}_summary"] = summarise(found[name])
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
