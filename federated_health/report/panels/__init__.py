"""Panels: what the pages of runs and studies say and draw of one kind of label.

As `ml.targets` has a target for each kind, this package has panels; `_PANELS` names them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar

from federated_health.data.tasks import Task
from federated_health.ml.metrics import DEFAULT_THRESHOLD, SMALL_CLASS, describe_difference, figure_title
from federated_health.ml.targets import ScoreGroups, target_of
from federated_health.ml.verdicts import SIGNIFICANCE
from federated_health.names import FEDERATION
from federated_health.report.formatting import INTERVAL, capitalise
from federated_health.report.page import Block, Section


class Panels(ABC):
    """What pages say and draw of a task's label.

    Args:
        everyone: name of all hospitals' patients together.
        seed: of bootstrap bands.
        threshold: decision threshold of a target that has one.
        are_bins: whether groups of scores are bins that were added up over all hospitals.
        balanced: whether classes were weighted in training.
        results: name of a hospital, or `everyone` -> figures as in metrics.json, as far as they are known.

    Attributes:
        figures: names of the figures in tables (see also `shown_figures`).
        large_figures: names of the two figures on the first screen, and how to read each.
        estimate: what the model estimates; the label's meaning follows.
        prediction: what a prediction is, after the word predicted.
        compared_explained, explained: sentences about the figures by which models are compared, and about the others.
        pooled_explained: how far figures over all hospitals' patients can be trusted.
        loss_reference: what a loss is compared with.
        gap: what a missing loss means.
        sent_sums, sent_groups: what a hospital sends after each round, and of its scores at the end.
    """

    figures: ClassVar[tuple[str, ...]]
    large_figures: ClassVar[Mapping[str, str]]
    estimate: str
    prediction: ClassVar[str]
    compared_explained: str
    explained: str
    pooled_explained: ClassVar[str]
    loss_reference: str
    gap: ClassVar[str] = "the hospital did not reply"
    sent_sums: ClassVar[str]
    sent_groups: ClassVar[str]
    unit_explained: str = "A nat is the unit of the loss."

    def __init__(
        self,
        task: Task,
        *,
        everyone: str = FEDERATION,
        seed: int = 0,
        threshold: float = DEFAULT_THRESHOLD,
        are_bins: bool = False,
        balanced: bool = False,
        results: Mapping[str, Mapping[str, Any]] = {},
    ) -> None:
        self.task, self.target = task, target_of(task)
        self.everyone, self.seed, self.threshold = everyone, seed, threshold
        self.are_bins, self.balanced, self.results = are_bins, balanced, results

    def title(self, figure: str) -> str:
        """A figure's name with its unit, if it has one."""
        return figure_title(figure)

    @property
    def shown_figures(self) -> tuple[str, ...]:
        """Names of the figures in tables of these results, the most telling first."""
        return self.figures

    def difference(self, model: str = "federated", other: str = "own", figure: str = "") -> str:
        """The difference of two models that is above 0 where the first is better, in words.

        Args:
            figure: by which they are compared; by default the first of the target's `comparisons`.
        """
        return describe_difference(figure or self.target.comparisons[0], model, other)

    @property
    def verdict_rule(self) -> str:
        """How differences become verdicts."""
        figures = self.target.comparisons
        differences = " and ".join(f"{self.difference(figure=name)} {figure_title(name)}" for name in figures)
        each = "on a figure " if len(figures) > 1 else ""
        methods = f"{'ROC-AUC: DeLong 1988; mean loss: ' if self.target.has_classes else ''}Student's t over patients"
        return (
            f"Models are compared by {differences}. A hospital gains {each}if the difference is above 0, and loses if "
            f"it is below 0, with a p-value below {SIGNIFICANCE:g}; otherwise there is no clear difference. P-values "
            "are adjusted for the number of hospitals (Holm 1979) on the pages of a server or a study, and not on that "
            "of one hospital. A hospital may gain, or may lose, where only the p-value before the adjustment is below "
            f"{SIGNIFICANCE:g}; then the interval, which is not adjusted, does not contain 0. There is no verdict with "
            f"{self.target.no_verdict}. The {INTERVAL} and the p-value of a difference are paired: "
            f"both models are compared on the same held-out patients ({methods}). They treat the two models as fixed: "
            "other training patients would have given other models."
        )

    @property
    def noisy(self) -> str:
        """Which held-out patients are so few that figures of them are mostly noise, and which figures."""
        figures = "ROC-AUC is" if self.target.has_classes else "figures are"
        return f"{capitalise(self.target.describe_few(SMALL_CLASS))}, so {figures} too noisy to interpret"

    @property
    def decisions_explained(self) -> str:
        """How predictions become decisions; empty if there are none."""
        return ""

    @abstractmethod
    def describe_labels(self, summary: Mapping[str, Any]) -> str:
        """What `Target.summarise` says, to follow a number of patients."""

    @abstractmethod
    def curves(self, groups: Mapping[str, ScoreGroups]) -> Iterator[Section]:
        """ROC and calibration curves, as far as the kind has them, of released groups of scores.

        Args:
            groups: groups of scores by hospital, or of the federation alone.
        """

    def decisions(self, sums: Mapping[str, Any], caption: str) -> Iterator[Section]:  # noqa: ARG002  # others have none
        """Confusion matrices of sums by name, the last of all hospitals; nothing for a label without classes."""
        return iter(())

    @abstractmethod
    def holdings(self, sums: Mapping[str, Any], patients: str) -> list[Block]:
        """The labels of each hospital, from sums over the patients that the sentence `patients` names."""


_PANELS = {
    "binary": "binary.BinaryPanels",
    "classes": "classes.ClassPanels",
    "number": "quantities.NumberPanels",
    "count": "quantities.CountPanels",
}
"""Module in this folder, and class, by the kind of label; loaded when a task needs it."""


def panels_of(task: Task, **options: Any) -> Panels:
    """The panels of a task's label; the options are arguments of `Panels`."""
    module, name = _PANELS[task.label.kind].split(".")
    found: type[Panels] = getattr(import_module(f"{__name__}.{module}"), name)
    return found(task, **options)
