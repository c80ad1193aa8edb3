"""A hospital's recalibration in its report of the benefit of joining."""

from collections.abc import Mapping
from dataclasses import fields

from flwr.app import MetricRecord

from federated_health.messages.records import MalformedMessageError
from federated_health.messages.validation import MAX_LOG_ODDS, read_between
from federated_health.ml.calibration import MAX_SLOPE
from federated_health.ml.metrics import MAX_LOSS
from federated_health.ml.recalibration import FIGURES, MAX_BOUND, MIN_SLOPE, MeasuredRecalibration, Recalibration
from federated_health.ml.verdicts import Interval

LIMITS = {
    "log_loss": (0.0, MAX_LOSS),
    "brier": (0.0, 1.0),
    "calibration_slope": (-MAX_SLOPE, MAX_SLOPE),
    "calibration_intercept": (-MAX_LOG_ODDS, MAX_LOG_ODDS),
}
"""Smallest and largest value of each of the FIGURES."""

COEFFICIENTS, SIDES = ("intercept", "slope"), ("before", "after")
BOUNDS = tuple(bound.name for bound in fields(Interval))


def _key(part: str, name: str) -> str:
    return f"recalibration-{part}-{name}".replace("_", "-")


NAMES = frozenset(
    [_key(part, bound) for part in COEFFICIENTS for bound in BOUNDS]
    + [_key(side, figure) for side in SIDES for figure in FIGURES]
)
"""Names of the numbers, some of which are missing where they are not defined."""

OF_SLOPE = frozenset(_key("slope", bound) for bound in BOUNDS)
REQUIRED = (
    NAMES - OF_SLOPE - {_key(side, figure) for side in SIDES for figure in FIGURES if figure.startswith("calibration")}
)


def write_recalibration(measured: MeasuredRecalibration) -> dict[str, float | None]:
    """The numbers by name; None where one is not defined."""
    intervals = {"intercept": measured.recalibration.intercept, "slope": measured.recalibration.slope or Interval()}
    numbers = {_key(part, bound): value for part, of in intervals.items() for bound, value in vars(of).items()}
    sides = {"before": measured.before, "after": measured.after}
    return numbers | {_key(side, figure): value for side, of in sides.items() for figure, value in of.items()}


def read_recalibration(metrics: MetricRecord) -> MeasuredRecalibration | None:
    """The recalibration in a message; None if it has none.

    Raises:
        MalformedMessageError: a number is missing or impossible.
    """
    if not (present := NAMES & set(metrics)):
        return None
    if not present >= REQUIRED or (present & OF_SLOPE and not present >= OF_SLOPE):
        raise MalformedMessageError("its recalibration holds only some of its numbers")
    slope = _read_interval(metrics, "slope") if present >= OF_SLOPE else None
    if slope is not None and (slope.value or 0.0) < MIN_SLOPE:
        raise MalformedMessageError(f"the slope of its recalibration is below {MIN_SLOPE:g}")
    before, after = (_read_figures(metrics, side) for side in SIDES)
    fitted = Recalibration(intercept=_read_interval(metrics, "intercept"), slope=slope)
    return MeasuredRecalibration(recalibration=fitted, before=before, after=after)


def _read_interval(metrics: MetricRecord, part: str) -> Interval:
    value, low, high = (read_between(metrics, _key(part, bound), -MAX_BOUND, MAX_BOUND) for bound in BOUNDS)
    if not low <= value <= high:
        raise MalformedMessageError(f"the {part} of its recalibration is outside of its interval")
    return Interval(value=value, low=low, high=high)


def _read_figures(metrics: MetricRecord, side: str) -> Mapping[str, float | None]:
    keys = {figure: _key(side, figure) for figure in FIGURES}
    return {
        figure: read_between(metrics, key, *LIMITS[figure]) if key in metrics else None for figure, key in keys.items()
    }
