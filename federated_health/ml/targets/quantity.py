"""What targets have in common whose label is a number on a scale: a quantity or a count of events."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from federated_health.ml.metrics import MIN_CELL_SIZE, SMALL_CLASS, EvaluationSums
from federated_health.ml.scores import group_predictions
from federated_health.ml.targets import Floats, Folds, PatientIds, ScoreGroups, Target
from federated_health.ml.verdicts import MIN_CLASS_SIZE

if TYPE_CHECKING:
    from federated_health.ml.intervals import Estimate


class QuantitySums(EvaluationSums):
    """Sums over rows whose labels have no classes."""

    __slots__ = ()

    @property
    def is_small(self) -> bool:
        return self.examples < 2 * SMALL_CLASS


Sums = TypeVar("Sums", bound=QuantitySums)


class QuantityTarget(Target[Sums]):
    """A target without classes: smaller errors are better, and few rows are those of both classes together."""

    min_rows: ClassVar[int] = MIN_CELL_SIZE
    max_loss: ClassVar[float] = 1e12

    def group_scores(self, outputs: Floats, labels: Floats, patients: PatientIds | None = None) -> ScoreGroups:
        """Mean prediction and mean label of groups of rows with similar predictions, in the label's unit."""
        return {"predictions": group_predictions(self.predict(outputs), labels, patients)}

    def rows_of_groups(self, sums: Sums) -> Mapping[str, int]:
        return {"predictions": sums.examples}

    def describe_few(self, limit: int) -> str:
        return f"fewer than {2 * limit} held-out patients"

    def can_compare(self, labels: Floats) -> bool:
        return len(labels) >= 2 * MIN_CLASS_SIZE

    @abstractmethod
    def compared_losses(self, outputs: Floats, labels: Floats) -> npt.NDArray[np.float64]:
        """Losses of which the compared figure is the mean, [rows], or [repeats, rows] of such outputs."""

    def estimate_figure(
        self,
        figure: str,  # noqa: ARG002  # the only one
        outputs: Floats,
        labels: Floats,
        patients: PatientIds | None = None,
        folds: Folds | None = None,  # noqa: ARG002  # a mean compares no pairs
    ) -> "Estimate":
        from federated_health.ml.intervals import estimate_mean  # noqa: PLC0415  # at the end of a run only

        return estimate_mean(self.compared_losses(outputs, labels), patients, is_share=False)
