"""A hospital's report at the end of a run: what it gains by joining, and which columns the model depends on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import MetricRecord, RecordDict

from federated_health.data.tasks import Task
from federated_health.messages.content import APPRAISAL, Disclosed, Evaluation
from federated_health.messages.records import METRICS, MalformedMessageError
from federated_health.messages.validation import read_disclosure, read_floats, read_metrics, read_number
from federated_health.ml.normalisation import MIN_OBSERVED
from federated_health.ml.targets import target_of
from federated_health.ml.verdicts import Interval, Verdict, judge

ROUNDING = 1e-9
"""Tolerance for the difference of two figures."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Benefit(Disclosed):
    """A hospital's comparison of the final model with a model of its own rows alone.

    Attributes:
        federated: the figure by which the target compares models (see `Target.compared`), of the federated model on the
            held-out rows, with its interval (see `ml.bootstrap`).
        own: the same figure of a model trained on the hospital's own training rows alone.
        difference: by how much the federated model is better on the same rows, paired. These three are undefined with
            too few held-out rows (see `Target.can_compare`).
        importance: [columns], increase of the summed loss over the held-out rows when a column's values are
            shuffled among them (permutation importance, Breiman 2001, Fisher et al. 2019). Hospitals' values are added.
        observed: [columns], number of training rows in which the column is not missing; 0 if there are fewer than 5.

    What is suppressed is undefined or 0.
    """

    federated: Interval
    own: float | None
    difference: Interval
    importance: Vector
    observed: Vector

    @property
    def verdict(self) -> Verdict:
        """What the hospital gains by joining."""
        return judge(self.difference)

    def to_content(self) -> RecordDict:
        if APPRAISAL in self.suppressed:
            return self.with_disclosure(RecordDict({METRICS: MetricRecord()}))
        figures = {
            "own": self.own,
            **{f"federated-{bound}": value for bound, value in vars(self.federated).items()},
            **{f"difference-{bound}": value for bound, value in vars(self.difference).items()},
        }
        metrics = MetricRecord({key: value for key, value in figures.items() if value is not None})
        metrics["importance"] = self.importance.tolist()
        metrics["observed"] = self.observed.tolist()
        return RecordDict({METRICS: metrics})

    @classmethod
    def suppress(cls, columns: int, suppressed: Mapping[str, str]) -> "Benefit":
        """A report without figures, of a task with this number of columns."""
        nothing, none = Interval(), np.zeros(columns)
        return cls(
            federated=nothing, own=None, difference=nothing, importance=none, observed=none, suppressed=suppressed
        )

    @classmethod
    def from_content(cls, content: RecordDict, task: Task, train_examples: int, test_examples: int) -> "Benefit":
        """Read the report of a hospital that registered with these numbers of rows."""
        if suppressed := read_disclosure(content, APPRAISAL):
            read_metrics(content, set())
            return cls.suppress(len(task.columns), suppressed)
        bounds = (f"{figure}-{field.name}" for figure in ("federated", "difference") for field in fields(Interval))
        figures, target = {"own", *bounds}, target_of(task)
        metrics = read_metrics(content, {"importance", "observed"}, figures)
        if present := figures & set(metrics):
            if present != figures:
                raise MalformedMessageError("its report of the benefit holds only some of its figures")
            limit = math.inf if target.less_is_better else 1.0
            own, federated = _between(metrics, "own", 0.0, limit), _read_interval(metrics, "federated", 0.0, limit)
            difference = _read_interval(metrics, "difference", -limit, limit)
            value = read_number(metrics, "federated-value")
            expected = own - value if target.less_is_better else value - own
            if abs(read_number(metrics, "difference-value") - expected) > ROUNDING * max(1.0, own, value):
                raise MalformedMessageError("its difference is not the difference of its figures")
        else:
            own, federated, difference = None, Interval(), Interval()
        columns = len(task.columns)
        observed = read_floats(metrics, "observed", columns)
        small = (observed != 0) & (observed < MIN_OBSERVED)
        if (observed % 1).any() or (observed > train_examples).any() or small.any():
            raise MalformedMessageError("its numbers of observed rows are impossible")
        importance = read_floats(metrics, "importance", columns)
        if (np.abs(importance) > test_examples * target.max_loss).any():
            raise MalformedMessageError("its column importance is out of range")
        return cls(federated=federated, own=own, difference=difference, importance=importance, observed=observed)


def summarise_benefits(
    benefits: Mapping[str, Benefit],
    evaluations: Mapping[str, Evaluation],
    task: Task,
    data_warnings: Mapping[str, Sequence[str]] = {},
) -> dict[str, Any]:
    """`joining`, `importance` and `observed` as in metrics.json, of hospitals that sent both, by name.

    `data_warnings` is what the problem log says about a hospital's data, which may explain its verdict.
    `importance` is the rise of the mean loss per patient when a column is shuffled within hospitals.
    """
    reported = {
        name: benefit for name, benefit in sorted(benefits.items()) if name in evaluations and not benefit.suppressed
    }
    if not reported:
        return {}
    compared = target_of(task).compared
    rows = sum(evaluations[name].counts.examples for name in reported)
    counted = [benefit.importance for name, benefit in reported.items() if evaluations[name].has_counts]
    rise = np.sum([np.zeros(len(task.columns)), *counted], axis=0) / max(rows, 1)
    return {
        "joining": {
            name: {
                "verdict": benefit.verdict,
                f"own_{compared}": benefit.own,
                compared: asdict(benefit.federated),
                "difference": asdict(benefit.difference),
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


def _read_interval(metrics: MetricRecord, figure: str, minimum: float, maximum: float) -> Interval:
    value, low, high = (_between(metrics, f"{figure}-{bound}", minimum, maximum) for bound in ("value", "low", "high"))
    if low > high:
        raise MalformedMessageError(f"the interval of its {figure} has its bounds reversed")
    return Interval(value=value, low=low, high=high)


def _between(metrics: MetricRecord, key: str, minimum: float, maximum: float) -> float:
    value = read_number(metrics, key)
    if not minimum <= value <= maximum:
        raise MalformedMessageError(f"its {key} is not between {minimum:g} and {maximum:g}")
    return value
