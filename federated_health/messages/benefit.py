"""A hospital's report at the end of a run: what it gains by joining, and which columns the model depends on."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from flwr.app import MetricRecord, RecordDict

from federated_health.data.tasks import Task
from federated_health.messages.records import METRICS, MalformedMessageError, read_floats, read_metrics, read_number
from federated_health.ml.metrics import MAX_LOSS, Interval, Verdict, judge
from federated_health.ml.normalisation import MIN_OBSERVED

ROUNDING = 1e-9
"""Tolerance for the difference of two ROC-AUCs."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Benefit:
    """A hospital's comparison of the final model with a model of its own rows alone.

    Attributes:
        roc_auc: ROC-AUC of the federated model on the held-out rows, with its interval (see `ml.bootstrap`).
        own_roc_auc: ROC-AUC of a model trained on the hospital's own training rows alone.
        difference: federated minus own ROC-AUC on the same rows, paired. These three are undefined if the held-out rows
            hold fewer than MIN_CLASS_SIZE of one class.
        importance: [columns], increase of the summed loss over the held-out rows, in nats, when a column's values are
            shuffled among them (permutation importance, Breiman 2001, Fisher et al. 2019). Hospitals' values are added.
        observed: [columns], number of training rows in which the column is not missing; 0 if there are fewer than 5.
    """

    roc_auc: Interval
    own_roc_auc: float | None
    difference: Interval
    importance: Vector
    observed: Vector

    @property
    def verdict(self) -> Verdict:
        """What the hospital gains by joining."""
        return judge(self.difference)

    def to_content(self) -> RecordDict:
        figures = {
            "own-roc-auc": self.own_roc_auc,
            **{f"roc-auc-{bound}": value for bound, value in vars(self.roc_auc).items()},
            **{f"difference-{bound}": value for bound, value in vars(self.difference).items()},
        }
        metrics = MetricRecord({key: value for key, value in figures.items() if value is not None})
        metrics["importance"] = self.importance.tolist()
        metrics["observed"] = self.observed.tolist()
        return RecordDict({METRICS: metrics})

    @classmethod
    def from_content(cls, content: RecordDict, task: Task, train_examples: int, test_examples: int) -> "Benefit":
        """Read the report of a hospital that registered with these numbers of rows."""
        bounds = (f"{figure}-{field.name}" for figure in ("roc-auc", "difference") for field in fields(Interval))
        aucs = {"own-roc-auc", *bounds}
        metrics = read_metrics(content, {"importance", "observed"}, aucs)
        if present := aucs & set(metrics):
            if present != aucs:
                raise MalformedMessageError("its report of the benefit holds only some of its ROC-AUCs")
            own = _between(metrics, "own-roc-auc", 0.0)
            roc_auc, difference = _read_interval(metrics, "roc-auc", 0.0), _read_interval(metrics, "difference", -1.0)
            if abs(read_number(metrics, "difference-value") - (read_number(metrics, "roc-auc-value") - own)) > ROUNDING:
                raise MalformedMessageError("its difference is not the difference of its ROC-AUCs")
        else:
            own, roc_auc, difference = None, Interval(), Interval()
        columns = len(task.columns)
        observed = read_floats(metrics, "observed", columns)
        small = (observed != 0) & (observed < MIN_OBSERVED)
        if (observed % 1).any() or (observed > train_examples).any() or small.any():
            raise MalformedMessageError("its numbers of observed rows are impossible")
        importance = read_floats(metrics, "importance", columns)
        if (np.abs(importance) > test_examples * MAX_LOSS).any():
            raise MalformedMessageError("its column importance is out of range")
        return cls(roc_auc=roc_auc, own_roc_auc=own, difference=difference, importance=importance, observed=observed)


def _read_interval(metrics: MetricRecord, figure: str, minimum: float) -> Interval:
    value, low, high = (_between(metrics, f"{figure}-{bound}", minimum) for bound in ("value", "low", "high"))
    if low > high:
        raise MalformedMessageError(f"the interval of its {figure} has its bounds reversed")
    return Interval(value=value, low=low, high=high)


def _between(metrics: MetricRecord, key: str, minimum: float) -> float:
    value = read_number(metrics, key)
    if not minimum <= value <= 1:
        raise MalformedMessageError(f"its {key} is not between {minimum:g} and 1")
    return value
