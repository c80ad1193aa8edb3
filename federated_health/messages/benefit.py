"""A hospital's report at the end of a run: what it gains by joining, and which columns the model depends on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from flwr.app import MetricRecord, RecordDict

from federated_health.data.tasks import Task
from federated_health.messages.content import APPRAISAL, Disclosed, Evaluation
from federated_health.messages.records import METRICS, MalformedMessageError
from federated_health.messages.validation import MAX_LOG_ODDS, read_between, read_disclosure, read_floats, read_metrics
from federated_health.ml.metrics import LESS_IS_BETTER
from federated_health.ml.normalisation import MIN_OBSERVED
from federated_health.ml.targets import Target, target_of
from federated_health.ml.verdicts import (
    MIN_CLASS_SIZE,
    SIGNIFICANCE,
    Comparison,
    Difference,
    Interval,
    Verdict,
    combine,
    judge,
    judge_hospitals,
)

if TYPE_CHECKING:
    from federated_health.ml.calibration import Calibration
    from federated_health.ml.recalibration import MeasuredRecalibration

ROUNDING = 1e-9
"""Tolerance for figures that were computed from each other."""

ROUNDED = 0.0015
"""That for mean losses, each of which may be rounded to three decimals (see `hospital.disclosure`)."""

MAX_FIGURES = {"roc_auc": 1.0, "brier": 1.0}
"""Largest possible value of figures that have one, which their intervals keep."""

MAX_MEAN_LOSS = 1e100
"""Largest accepted value of the others: beyond, differences and scales of charts overflow."""

MODELS = ("own", "federated")
SLOPE, INTERCEPT = "{}-calibration-slope", "{}-calibration-intercept"
"""Names of the calibration of a model, on the wire."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Benefit(Disclosed):
    """A hospital's comparison of the final model with a model of its own rows alone, on its held-out rows.

    Attributes:
        comparisons: both models by each of the target's `comparisons`, paired (see `ml.intervals`); nothing with too
            few held-out rows (see `Target.can_compare`).
        calibration: of both models, `own` and `federated`; nothing without comparisons, or of a label that is not
            binary.
        recalibration: fitted to the training rows, and its figures of the held-out rows; None with too few training
            rows of a class, or of a label that is not binary.
        importance: [columns], increase of the summed loss over the held-out rows when a column's values are
            shuffled among them (permutation importance, Breiman 2001, Fisher et al. 2019). Hospitals' values are added.
        observed: [columns], number of training rows in which the column is not missing; 0 if there are fewer than 5.

    What is suppressed is missing or 0.
    """

    comparisons: Mapping[str, Comparison]
    calibration: Mapping[str, "Calibration"]
    importance: Vector
    observed: Vector
    recalibration: "MeasuredRecalibration | None" = None

    @property
    def verdict(self) -> Verdict:
        """What the hospital gains by joining, from its own figures alone: not adjusted for the number of hospitals."""
        return combine(judge(comparison.difference) for comparison in self.comparisons.values())

    def to_content(self) -> RecordDict:
        if APPRAISAL in self.suppressed:
            return self.with_disclosure(RecordDict({METRICS: MetricRecord()}))
        numbers: dict[str, float | None] = {}
        for figure, comparison in self.comparisons.items():
            for part, interval in vars(comparison).items():
                numbers |= {_key(figure, part, bound): value for bound, value in vars(interval).items()}
        for model, of in self.calibration.items():
            numbers |= {SLOPE.format(model): of.slope, INTERCEPT.format(model): of.intercept}
        if self.recalibration is not None:
            numbers |= _recalibration().write_recalibration(self.recalibration)
        metrics = MetricRecord({key: value for key, value in numbers.items() if value is not None})
        metrics["importance"] = self.importance.tolist()
        metrics["observed"] = self.observed.tolist()
        return RecordDict({METRICS: metrics})

    @classmethod
    def suppress(cls, columns: int, suppressed: Mapping[str, str]) -> "Benefit":
        """A report without figures, of a task with this number of columns."""
        none = np.zeros(columns)
        return cls(comparisons={}, calibration={}, importance=none, observed=none, suppressed=suppressed)

    @classmethod
    def from_content(cls, content: RecordDict, task: Task, train_examples: int, test_examples: int) -> "Benefit":
        """Read the report of a hospital that registered with these numbers of rows."""
        if suppressed := read_disclosure(content, APPRAISAL):
            read_metrics(content, set())
            return cls.suppress(len(task.columns), suppressed)
        target, columns = target_of(task), len(task.columns)
        names, optional = names_of_figures(target)
        is_binary = target.label.kind == "binary"
        of_recalibration = _recalibration().NAMES if is_binary else frozenset[str]()
        metrics = read_metrics(content, {"importance", "observed"}, names | optional | of_recalibration)
        comparisons, calibration = {}, {}
        if present := set(metrics) - {"importance", "observed"} - of_recalibration:
            if not names <= present:
                raise MalformedMessageError("its report of the benefit holds only some of its figures")
            if test_examples < 2 * MIN_CLASS_SIZE:
                raise MalformedMessageError("its report of the benefit compares models on too few held-out rows")
            comparisons = {figure: _read_comparison(metrics, figure) for figure in target.comparisons}
            calibration = {model: _read_calibration(metrics, model) for model in MODELS if optional}
        observed = read_floats(metrics, "observed", columns)
        small = (observed != 0) & (observed < MIN_OBSERVED)
        if (observed % 1).any() or (observed > train_examples).any() or small.any():
            raise MalformedMessageError("its numbers of observed rows are impossible")
        importance = read_floats(metrics, "importance", columns)
        if (np.abs(importance) > test_examples * target.max_loss).any():
            raise MalformedMessageError("its column importance is out of range")
        return cls(
            comparisons=comparisons,
            calibration=calibration,
            importance=importance,
            observed=observed,
            recalibration=_recalibration().read_recalibration(metrics) if is_binary else None,
        )


def _recalibration() -> ModuleType:
    from federated_health.messages import recalibration  # noqa: PLC0415  # at the end of a run only

    return recalibration


def names_of_figures(target: Target[Any]) -> tuple[set[str], set[str]]:
    """Names of the numbers of the comparison on the wire, and of those that are left out where they are not defined."""
    names = {
        _key(figure, part, bound.name)
        for figure in target.comparisons
        for part, kind in (("own", Interval), ("federated", Interval), ("difference", Difference))
        for bound in fields(kind)
    }
    if target.label.kind != "binary":
        return names, set()
    return names | {INTERCEPT.format(model) for model in MODELS}, {SLOPE.format(model) for model in MODELS}


def summarise_benefits(
    benefits: Mapping[str, Benefit],
    evaluations: Mapping[str, Evaluation],
    task: Task,
    data_warnings: Mapping[str, Sequence[str]] = {},
) -> dict[str, Any]:
    """`joining`, `importance` and `observed` as in metrics.json, of hospitals that sent both, by name.

    Verdicts on a figure are adjusted for the number of hospitals. `data_warnings` is what the problem log says about a
    hospital's data, which may explain its verdict. `importance` is the rise of the mean loss per patient when a column
    is shuffled within hospitals.
    """
    reported = {
        name: benefit for name, benefit in sorted(benefits.items()) if name in evaluations and not benefit.suppressed
    }
    if not reported:
        return {}
    figures = target_of(task).comparisons
    nothing = Comparison(own=Interval(), federated=Interval(), difference=Difference())
    compared = {
        figure: {name: benefit.comparisons.get(figure, nothing) for name, benefit in reported.items()}
        for figure in figures
    }
    verdicts = {
        figure: judge_hospitals({name: comparison.difference for name, comparison in of.items()})
        for figure, of in compared.items()
    }
    rows = sum(evaluations[name].counts.examples for name in reported)
    counted = [benefit.importance for name, benefit in reported.items() if evaluations[name].has_counts]
    rise = np.sum([np.zeros(len(task.columns)), *counted], axis=0) / max(rows, 1)
    return {
        "joining": {
            name: {
                "verdict": combine(verdicts[figure][name] for figure in figures),
                "comparisons": {
                    figure: {"verdict": verdicts[figure][name], **asdict(compared[figure][name])} for figure in figures
                },
                **({"calibration": _as_dicts(benefit.calibration)} if benefit.calibration else {}),
                **({"recalibration": benefit.recalibration.to_json()} if benefit.recalibration else {}),
                "small": evaluations[name].has_counts and evaluations[name].counts.is_small,
                **({"data_warnings": list(data_warnings[name])} if name in data_warnings else {}),
            }
            for name, benefit in reported.items()
        },
        "importance": dict(zip(task.column_names, rise.tolist(), strict=True)),
        "observed": {
            name: dict(zip(task.column_names, map(int, benefit.observed), strict=True))
            for name, benefit in reported.items()
        },
    }


def _as_dicts(calibration: Mapping[str, "Calibration"]) -> dict[str, dict[str, float | None]]:
    return {model: asdict(of) for model, of in calibration.items()}


def is_sendable(comparison: Comparison) -> bool:
    """Whether all figures of a comparison are defined, and small enough to be accepted."""
    values = [value for interval in vars(comparison).values() for value in vars(interval).values()]
    return all(value is not None and abs(value) <= MAX_MEAN_LOSS for value in values)


def _key(figure: str, part: str, bound: str) -> str:
    return f"{part}-{figure}-{bound}".replace("_", "-")


def _read_comparison(metrics: MetricRecord, figure: str) -> Comparison:
    maximum = MAX_FIGURES.get(figure, MAX_MEAN_LOSS)
    own, federated = (_read_bounds(metrics, figure, model, 0.0, maximum) for model in MODELS)
    difference = _read_bounds(metrics, figure, "difference", -maximum, maximum)
    p_value = read_between(metrics, _key(figure, "difference", "p_value"), 0.0, 1.0)
    expected, slack = federated["value"] - own["value"], ROUNDING * max(1.0, own["value"], federated["value"])
    if figure in LESS_IS_BETTER:
        expected, slack = -expected, slack + ROUNDED
    if abs(difference["value"] - expected) > slack:
        raise MalformedMessageError(f"its difference of {figure} is not the difference of its figures")
    low, high = difference["low"], difference["high"]  # rounding may have moved one of them to 0
    if low < 0 < high if p_value < SIGNIFICANCE else not low <= 0 <= high:
        raise MalformedMessageError(f"its p-value of {figure} contradicts the interval of the difference")
    return Comparison(
        own=Interval(**own), federated=Interval(**federated), difference=Difference(**difference, p_value=p_value)
    )


def _read_bounds(metrics: MetricRecord, figure: str, part: str, minimum: float, maximum: float) -> dict[str, float]:
    """The fields of an interval."""
    keys = {field.name: _key(figure, part, field.name) for field in fields(Interval)}
    bounds = {bound: read_between(metrics, key, minimum, maximum) for bound, key in keys.items()}
    slack = ROUNDING * max(1.0, abs(bounds["value"]))
    if not bounds["low"] - slack <= bounds["value"] <= bounds["high"] + slack:
        raise MalformedMessageError(f"its {keys['value']} is outside of its interval")
    return bounds


def _read_calibration(metrics: MetricRecord, model: str) -> "Calibration":
    from federated_health.ml.calibration import MAX_SLOPE, Calibration  # noqa: PLC0415  # at the end of a run only

    slope = SLOPE.format(model)
    return Calibration(
        slope=read_between(metrics, slope, -MAX_SLOPE, MAX_SLOPE) if slope in metrics else None,
        intercept=read_between(metrics, INTERCEPT.format(model), -MAX_LOG_ODDS, MAX_LOG_ODDS),
    )
