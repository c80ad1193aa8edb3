"""Panels of a label that is a number or a count."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from federated_health.data.columns import write_number
from federated_health.data.labels import NumberLabel
from federated_health.data.tasks import Task
from federated_health.ml.metrics import MIN_CELL_SIZE, Scores, ratio
from federated_health.ml.targets import ScoreGroups
from federated_health.ml.targets.count import CountSums
from federated_health.ml.targets.number import NumberSums
from federated_health.report.cells import Cell
from federated_health.report.formatting import list_some, short_number
from federated_health.report.page import Block, Picture, Section
from federated_health.report.panels import Panels
from federated_health.report.quantity_charts import draw_quantity_calibration
from federated_health.report.sections import figures_table, largest_panels

MAX_POINTS = 10
"""Largest number of points in a calibration panel, into which neighbouring groups are joined."""


class QuantityPanels(Panels):
    """What pages say and draw of a quantity.

    Attributes:
        unit: of the quantity.
        units: figure -> its unit.
        lowest: smallest possible prediction; None if there is none.
    """

    unit: str
    units: Mapping[str, str]
    lowest: ClassVar[float | None] = None
    gap: ClassVar[str] = f"the hospital did not reply, or has fewer than {MIN_CELL_SIZE} held-out patients"
    sent_groups: ClassVar[str] = (
        f"the same sums, and of groups of at least {MIN_CELL_SIZE} held-out patients with similar predictions their "
        "number, mean prediction and mean label"
    )

    def title(self, figure: str) -> str:
        unit = self.units.get(figure)
        return f"{super().title(figure)} ({unit})" if unit else super().title(figure)

    def describe_labels(self, summary: Mapping[str, Any]) -> str:
        return f", mean {short_number(summary['mean_label'])} {self.unit}"

    def curves(self, groups: Mapping[str, ScoreGroups]) -> Iterator[Section]:
        """Predicted against observed means."""
        known = {name: part for name, of in groups.items() if len(part := of.get("predictions", np.zeros((0, 3))))}
        if not known:
            return
        panels, more = largest_panels(known, {name: int(part[:, 0].sum()) for name, part in known.items()})
        if self.everyone not in known:
            panels[self.everyone] = np.concatenate(list(known.values()))
        panels = {name: join_groups(part) for name, part in panels.items()}
        points = list_some(
            f"{name}: "
            + ", ".join(f"{short_number(predicted)} and {short_number(observed)}" for _, predicted, observed in part)
            for name, part in panels.items()
        )
        lacking = [name for name in groups if name not in known]
        without = f" Without a panel, since it released no groups: {list_some(lacking, ', ')}." if lacking else ""
        picture = Picture(
            svg=draw_quantity_calibration(panels, quantity=self.unit, lowest=self.lowest),
            alt=f"Mean predicted and mean observed {self.unit} of groups of patients. {points}.",
            caption=f"Held-out patients: mean prediction and mean observation, in {self.unit}, of groups of at least "
            f"{MIN_CELL_SIZE} patients with similar predictions. On the diagonal, predictions are right on average; "
            f"above it they are too low, below it too high.{without}{' ' if more else ''}{more}",
        )
        yield Section("Calibration", [picture])

    def holdings(self, sums: Mapping[str, Any], patients: str) -> list[Block]:
        rows = {name: self._labels(part) for name, part in sums.items()}
        meaning = f"{self.task.label.name}: {self.task.label.meaning}."
        are_few = not all(part.examples for part in sums.values())
        dash = " A dash: too few patients to send sums of their labels." if are_few else ""
        return [figures_table("Labels and predictions", rows, note=f"{meaning} {patients}{dash}")]

    @abstractmethod
    def _labels(self, sums: Any) -> dict[str, Cell]:
        """Figures of the labels and predictions of one hospital."""


class NumberPanels(QuantityPanels):
    """What pages say and draw of a label that is a number with a unit."""

    figures: ClassVar[tuple[str, ...]] = ("mae", "rmse", "r2", "calibration_slope")
    large_figures = MappingProxyType(
        {"mae": "mean distance of prediction and outcome", "r2": "1 is perfect, 0 what the mean gives"}
    )
    prediction: ClassVar[str] = "value"
    pooled_explained: ClassVar[str] = (
        "Over all patients together R\N{SUPERSCRIPT TWO} is too optimistic if hospitals differ in their mean: knowing "
        "the hospital alone then predicts part of the outcome. Look at the figures within hospitals first."
    )
    sent_sums: ClassVar[str] = (
        "the number of its held-out patients and sums of their losses and errors, and of labels, predictions, their "
        f"squares and products (nothing if they are fewer than {MIN_CELL_SIZE})"
    )

    def __init__(self, task: Task, **options: Any) -> None:
        super().__init__(task, **options)
        assert isinstance(task.label, NumberLabel)
        self.label = task.label
        self.unit = self.label.unit
        self.units = dict.fromkeys(("mae", "rmse"), self.unit)
        deviation = f"{write_number(self.label.public_scale[1])} {self.unit}"
        self.estimate = f"the value, in {self.unit}, of"
        self.compared_explained = (
            f"Mean absolute error: mean distance of prediction and outcome, in {self.unit}. Less is better."
        )
        self.explained = (
            f"RMSE: root of the mean squared error, in {self.unit}, in which large errors count more than in the mean "
            "absolute error. R\N{SUPERSCRIPT TWO}: share of the variance that the predictions explain; 1 is perfect, "
            "and 0 is what the mean of these patients gives. Calibration slope: rise of the outcome per unit of the "
            "prediction; 1 is perfect, and below 1 predictions are too extreme."
        )
        self.loss_reference = f"one standard deviation is {deviation}, as the task declares it"
        self.unit_explained = f"The loss is in squared standard deviations, of {deviation} as the task declares them."

    def _labels(self, sums: NumberSums) -> dict[str, Cell]:
        mean, deviation = self.label.public_scale
        labels, predictions = (ratio(total, sums.examples) for total in (sums.label_sum, sums.prediction_sum))
        squares = ratio(sums.label_squares, sums.examples)
        spread = None if squares is None or labels is None else max(squares - labels**2, 0.0) ** 0.5
        return {
            "patients": sums.examples or None,
            f"mean ({self.unit})": None if labels is None else mean + deviation * labels,
            f"standard deviation ({self.unit})": None if spread is None else deviation * spread,
            f"mean prediction ({self.unit})": None if predictions is None else mean + deviation * predictions,
        }


class CountPanels(QuantityPanels):
    """What pages say and draw of a label that counts events."""

    figures: ClassVar[tuple[str, ...]] = ("deviance", "deviance_explained", "observed_expected", "mae")
    large_figures = MappingProxyType(
        {"deviance": "0 is perfect", "observed_expected": "1 is perfect; above 1 predictions are too low"}
    )
    estimate = "the expected number of"
    prediction: ClassVar[str] = "number"
    unit = "events"
    units = MappingProxyType({"mae": "events"})
    lowest: ClassVar[float | None] = 0.0
    compared_explained = (
        "Mean deviance measures how far predicted and observed numbers of events are apart, by the Poisson "
        "distribution. 0 is perfect, and less is better."
    )
    explained = (
        "Deviance explained: share of the deviance of a constant number that the predictions explain; 1 is perfect, "
        "and 0 is what the mean of these patients gives. Observed/expected: observed events per predicted event; above "
        "1 predictions are too low. Mean absolute error: mean distance of predicted and observed number."
    )
    pooled_explained: ClassVar[str] = (
        "Over all patients together the deviance explained is too optimistic if hospitals differ in their mean: "
        "knowing the hospital alone then predicts part of the outcome. Look at the figures within hospitals first."
    )
    loss_reference = "0 is perfect"
    sent_sums: ClassVar[str] = (
        "the number of its held-out patients and sums of their losses, errors, observed and expected events, and of "
        f"the products of observed events and their logarithms (nothing if they are fewer than {MIN_CELL_SIZE})"
    )

    def _labels(self, sums: CountSums) -> dict[str, Cell]:
        return {
            "patients": sums.examples or None,
            "events": round(sums.observed_sum) if sums.examples else None,
            "expected events": sums.expected_sum if sums.examples else None,
            "events per patient": ratio(sums.observed_sum, sums.examples),
        }


def join_groups(groups: Scores, most: int = MAX_POINTS) -> Scores:
    """Neighbouring groups of predictions joined to at most `most` of about equal numbers of patients.

    Args:
        groups: [groups, 3]: patients, mean prediction, mean observation; also returned so, by rising prediction.
    """
    ordered = groups[np.argsort(groups[:, 1], kind="stable")]
    patients = ordered[:, 0]
    middle = (np.cumsum(patients) - patients / 2) / patients.sum()
    place = np.minimum(middle * most, most - 1).astype(np.intp)
    joined = np.array([np.bincount(place, patients * column, most) for column in (1.0, *ordered[:, 1:].T)]).T
    filled = joined[joined[:, 0] > 0]
    filled[:, 1:] /= filled[:, :1]
    result: Scores = filled
    return result
