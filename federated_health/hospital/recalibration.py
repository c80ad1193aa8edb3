"""The recalibration of the final model for one hospital: fitted to its training rows, measured on its held-out rows.

It is kept for the hospital's own saved model, also where none of it is sent.
"""

from typing import TYPE_CHECKING

from flwr.app import Context, MetricRecord

from federated_health.messages.recalibration import read_recalibration, write_recalibration
from federated_health.ml.networks import Weights
from federated_health.ml.recalibration import MeasuredRecalibration, fit_recalibration, measure_recalibration

if TYPE_CHECKING:
    from federated_health.hospital.local_model import LocalModel

STATE = "recalibration"
"""Name of the record in a hospital's context."""


def recalibrate(local: "LocalModel", weights: Weights) -> MeasuredRecalibration | None:
    """The recalibration of these weights; None with too few rows of a class, or of a label that is not binary."""
    if local.hospital.task.label.kind != "binary":
        return None
    train, test = local.hospital.train, local.hospital.test
    fitted = fit_recalibration(local.score_training(weights), train.labels, train.ids)
    if fitted is None or not len(test):
        return None
    return measure_recalibration(fitted, local.score(weights), test.labels)


def keep_recalibration(context: Context, measured: MeasuredRecalibration | None) -> None:
    """Keep it in the hospital's context, which stays at the hospital."""
    if measured is not None:
        numbers = write_recalibration(measured)
        context.state[STATE] = MetricRecord({name: value for name, value in numbers.items() if value is not None})


def kept_recalibration(context: Context) -> MeasuredRecalibration | None:
    """The inverse of `keep_recalibration`."""
    return read_recalibration(context.state.metric_records[STATE]) if STATE in context.state else None
