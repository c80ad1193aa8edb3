"""Targets: what a network predicts, with its loss, its figures, and what hospitals send of them.

Each kind of label (see `data.columns`) has a target. Everything that depends on the kind is asked of its target, so
that a new kind needs a subclass of `Target` and an entry in `_TARGETS`; `docs/extending.md` shows one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Label
from federated_health.data.tasks import Task
from federated_health.ml.metrics import MAX_CELLS, MAX_LOSS, EvaluationSums, Scores

if TYPE_CHECKING:
    from federated_health.ml.intervals import Estimate

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
PatientIds = npt.NDArray[np.integer[Any]]
Folds = npt.NDArray[np.integer[Any]]
ScoreGroups = Mapping[str, Scores]
"""Groups of patients by name, each [groups, 3]: number of rows, then two means or a mean and a deviation."""


Sums = TypeVar("Sums", bound=EvaluationSums)


class Target(ABC, Generic[Sums]):
    """What a network predicts of a row, from its `outputs` numbers.

    In NumPy, the network's outputs for some rows are [rows] where `outputs` is 1, else [rows, outputs].

    Args:
        label: the label of the task.

    Attributes:
        outputs: number of the network's outputs.
        sums: type of the sums that hospitals send of an evaluation.
        no_sums: the sums over no rows.
        headline: name of the figure that is shown per round, besides the loss.
        also_per_round: names of further figures per round in rounds.csv, which are properties of the sums.
        comparisons: names of the figures by which two models are compared: how well they rank rows, if labels have
            classes, and how accurate their predictions are. Less of a figure in `metrics.LESS_IS_BETTER` is better.
        loss_name, loss_unit: name and unit of the loss.
        has_threshold: whether the end of a run chooses a decision threshold.
        has_classes: whether labels are classes, which have ROC curves and can be balanced.
        max_cells: largest number of groups of each name in `group_scores`.
        min_rows: smallest number of patients over whose labels a hospital sends sums.
        max_loss: largest possible loss of a row.
    """

    outputs: int = 1
    sums: type[Sums]
    headline: ClassVar[str]
    also_per_round: ClassVar[tuple[str, ...]] = ()
    comparisons: ClassVar[tuple[str, ...]]
    loss_name: ClassVar[str]
    loss_unit: ClassVar[str] = "nats"
    has_threshold: ClassVar[bool] = False
    has_classes: ClassVar[bool] = False
    max_cells: ClassVar[int] = MAX_CELLS
    min_rows: ClassVar[int] = 0
    max_loss: ClassVar[float] = MAX_LOSS

    def __init__(self, label: Label) -> None:
        self.label = label
        self.no_sums = self.sums()

    @abstractmethod
    def losses(self, tf: Any, labels: Any, outputs: Any) -> Any:
        """Loss of each row, float32 [rows], of labels [rows] and the network's outputs [rows, outputs].

        Args:
            tf: the module `tensorflow`, which only hospitals load.
        """

    @abstractmethod
    def predictions(self, keras: Any, outputs: Any) -> Any:
        """What a saved model returns, [rows, outputs]: a Keras tensor, from that of the network's outputs."""

    @abstractmethod
    def predict(self, outputs: Floats) -> npt.NDArray[np.float64]:
        """What a saved model returns, in NumPy; of the same shape as the outputs."""

    def prediction_columns(self, predictions: Floats, threshold: float) -> dict[str, npt.NDArray[Any]]:  # noqa: ARG002  # as below
        """Columns, by name, that `predict.py` adds to a table of patients.

        Args:
            predictions: what a saved model returns, [rows, outputs].
            threshold: decision threshold of a target that has one.
        """
        return {"prediction": predictions[:, 0]}

    @abstractmethod
    def measure(self, outputs: Floats, labels: Floats, threshold: float) -> Sums:
        """Sums over the rows of an evaluation.

        Args:
            labels: [rows].
            threshold: decision threshold of a target that has one.
        """

    @abstractmethod
    def is_possible(self, sums: Sums) -> bool:
        """Whether rows of the label can add up to these finite sums, apart from the loss."""

    @abstractmethod
    def figures(self, sums: Sums, train_examples: int, roc_auc: float | None) -> dict[str, Any]:
        """Figures of one hospital or of all, as metrics.json and tables hold them; None where one is not defined.

        Args:
            train_examples: number of training rows.
            roc_auc: of the evaluated rows, since it cannot be computed from sums.
        """

    def summarise(self, labels: Floats) -> dict[str, Any]:
        """What a study says of its patients' labels, as in evidence.json."""
        return {"mean_label": float(labels.mean(dtype=np.float64))}

    def class_of(self, labels: Floats) -> npt.NDArray[np.intp]:
        """Number of each row's class, from 0, [rows], of a target that has classes."""
        return labels.astype(np.intp)

    @property
    def classes(self) -> int:
        """Number of classes, of a target that has them."""
        return max(2, self.outputs)

    def roc_auc(self, outputs: Floats, labels: Floats) -> float | None:  # noqa: ARG002  # a target without ROC curves
        """Exact ROC-AUC; None where it is not defined."""
        return None

    def score_figures(self, outputs: Floats, labels: Floats) -> dict[str, float | None]:  # noqa: ARG002  # of few targets
        """Further figures that cannot be computed from sums, exact; None where one is not defined."""
        return {}

    @abstractmethod
    def group_scores(self, outputs: Floats, labels: Floats, patients: PatientIds | None = None) -> ScoreGroups:
        """What a hospital sends of its rows' scores: groups of at least `metrics.MIN_CELL_SIZE` patients.

        Args:
            patients: [rows], equal for the rows of one patient; None if each row is a patient's.
        """

    @abstractmethod
    def rows_of_groups(self, sums: Sums) -> Mapping[str, int]:
        """Number of rows in all groups of each name, if there are any, by the sums of the same rows."""

    def pooled_roc_auc(self, groups: ScoreGroups) -> float | None:  # noqa: ARG002  # as above
        """ROC-AUC over all hospitals' groups together; None where it is not defined."""
        return None

    def group_figures(self, groups: ScoreGroups, sums: Sums | None = None) -> dict[str, float | None]:  # noqa: ARG002  # as above
        """The `score_figures`, from the groups of one hospital or of all together; nothing where a group is missing.

        Args:
            sums: of all rows, if some are in no group.
        """
        return {}

    def shown_figures(self, figures: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the figures that a table shows, the most telling first.

        Args:
            figures: those of all rows in the table.
        """
        return tuple(figures)

    def round_figure(self, sums: Sums) -> tuple[str, float | None]:
        """Name and value of the figure that a line per round shows, besides the loss."""
        return self.headline, sums.headline

    def describe_few(self, limit: int) -> str:
        """Which held-out rows are too few, where a class of fewer than `limit` patients is."""
        return f"fewer than {limit} held-out patients of one class"

    @property
    def no_verdict(self) -> str:
        """Which held-out rows are too few for `can_compare`."""
        from federated_health.ml.verdicts import MIN_CLASS_SIZE  # noqa: PLC0415  # at the end of a run only

        return self.describe_few(MIN_CLASS_SIZE)

    @abstractmethod
    def can_compare(self, labels: Floats) -> bool:
        """Whether patients of these labels, one of each patient, are enough for a verdict on two models."""

    def is_defined(self, labels: Floats) -> bool:
        """Whether all `comparisons` can be computed on the rows."""
        return self.can_compare(labels)

    @abstractmethod
    def estimate_figure(
        self,
        figure: str,
        outputs: Floats,
        labels: Floats,
        patients: PatientIds | None = None,
        folds: Folds | None = None,
    ) -> "Estimate":
        """One of the `comparisons`, of rows of which it is defined.

        Args:
            outputs: the network's outputs, or [repeats, ...] for the mean over repeats.
            patients: number of each row's patient, [rows]; None if each row is a patient of its own.
            folds: fold of each row, of the shape of `outputs` but for the last axis of [rows, outputs]; a figure that
                compares pairs of rows compares those of one fold only, since models of different folds do not share an
                exact scale. None if one model gave all outputs.
        """


_TARGETS = {
    "binary": "binary.BinaryTarget",
    "classes": "classes.ClassTarget",
    "number": "number.NumberTarget",
    "count": "count.CountTarget",
}
"""Module in this folder, and class, by the kind of label; loaded when a task needs it."""


def target_class(kind: str) -> type[Target[Any]]:
    """The target class of a kind of label."""
    module, name = _TARGETS[kind].split(".")
    found: type[Target[Any]] = getattr(import_module(f"{__name__}.{module}"), name)
    return found


@cache
def target_of(task: Task) -> Target[Any]:
    """The target of a task's label."""
    return target_class(task.label.kind)(task.label)
