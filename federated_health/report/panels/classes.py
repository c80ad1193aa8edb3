"""Panels of a label of several classes."""

from collections.abc import Iterator, Mapping
from math import log
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from federated_health.data.labels import ClassLabel
from federated_health.data.tasks import Task
from federated_health.ml.metrics import MIN_CELL_SIZE
from federated_health.ml.targets import ScoreGroups
from federated_health.ml.targets.classes import ClassSums
from federated_health.ml.verdicts import MIN_CLASS_SIZE
from federated_health.report.class_charts import MAX_COUNTED_CLASSES, draw_class_balance, draw_class_confusion
from federated_health.report.formatting import first_of, list_some
from federated_health.report.page import Block, Picture, Section
from federated_health.report.panels import Panels
from federated_health.report.panels.binary import curve_sections, scores_of_classes
from federated_health.report.svg import MAX_LINES

_FROM_CELLS = (
    f"Scores are averages over groups of at least {MIN_CELL_SIZE} patients of one hospital and class, or of all other "
    "classes. The curves spread these patients evenly within their group."
)


class ClassPanels(Panels):
    """What pages say and draw of a label of several classes."""

    figures: ClassVar[tuple[str, ...]] = ("roc_auc", "brier", "accuracy", "macro_f1")
    large_figures = MappingProxyType(
        {"roc_auc": "mean over classes; 1 is perfect, 0.5 is guessing", "brier": "0 is perfect"}
    )
    estimate = "the probability of each class of"
    prediction: ClassVar[str] = "probability"
    compared_explained = (
        "ROC-AUC is a mean over classes: the probability that the model gives a patient of the class a higher "
        "probability of it than a patient of another class. 1 is perfect, 0.5 is guessing. Comparisons leave out "
        f"classes of fewer than {MIN_CLASS_SIZE} patients. The log-loss says how accurate probabilities are: it is the "
        "mean of minus the logarithm of the probability of a patient's own class, and less is better."
    )
    pooled_explained: ClassVar[str] = (
        "Over all patients together the ROC-AUC is too optimistic if hospitals differ in their shares of the classes: "
        "knowing the hospital alone then predicts part of the outcome. Look at the figures within hospitals first."
    )
    sent_sums: ClassVar[str] = (
        "the numbers of held-out patients by actual and predicted class, and the sums of their losses and squared "
        "errors"
    )
    sent_groups: ClassVar[str] = (
        "the same numbers and sums, its ROC-AUC, and for each class its scores of held-out patients as groups of at "
        f"least {MIN_CELL_SIZE} patients of the class, or of all others, each with their number, and mean and "
        "deviation of the scores"
    )

    def __init__(self, task: Task, **options: Any) -> None:
        super().__init__(task, **options)
        assert isinstance(task.label, ClassLabel)
        self.names = {code: f"{code}: {meaning}" for code, meaning in task.label.codes.items()}
        number = len(self.names)
        self.loss_reference = f"equal probabilities of all {number} classes give {log(number):.3f}"
        self.explained = (
            "Accuracy: share of patients whose most probable class is their own. Macro F1: mean over the classes of "
            "F1, the harmonic mean of precision and recall. Brier score: squared differences of probability and "
            f"outcome, summed over the classes, as a mean over patients; 0 is perfect, and {1 - 1 / number:.3g} is "
            "what equal probabilities of all classes give."
        )

    def describe_labels(self, summary: Mapping[str, Any]) -> str:
        rows = (f"{rows:,} of class {code}" for code, rows in summary["patients_by_class"].items())
        return f": {', '.join(rows)}"

    def curves(self, groups: Mapping[str, ScoreGroups]) -> Iterator[Section]:
        """One-vs-rest curves of each class, over all hospitals' patients together."""
        panels, lacking = {}, []
        for code, name in self.names.items():
            parts = [scores_of_classes(of, f"positives-{code}", f"negatives-{code}") for of in groups.values()]
            positives, negatives = (np.concatenate([np.zeros(0), *(part[side] for part in parts)]) for side in (0, 1))
            if len(positives) and len(negatives):
                panels[name] = positives, negatives
            else:
                lacking.append(name)
        panels, more = first_of(panels, MAX_LINES)
        without = f"Without a curve, since its scores were not released: {list_some(lacking, ', ')}." if lacking else ""
        not_drawn = f"Not drawn: {more} more." if more else ""
        patients = "Each class (positive) against all others (negative), held-out patients of all hospitals together"
        yield from curve_sections(self, panels, patients, " ".join(filter(None, [_FROM_CELLS, without, not_drawn])))

    def decisions(self, sums: Mapping[str, ClassSums], caption: str) -> Iterator[Section]:
        matrices = {name: part.matrix for name, part in sums.items()}
        *_, (everyone, last) = matrices.items()
        if len(self.names) > MAX_COUNTED_CLASSES:
            matrices, caption = {everyone: last}, "Held-out patients of all hospitals."
        names = list(self.names.values())
        right = (f"{name} {matrix.trace():,} of {matrix.sum():,}" for name, matrix in matrices.items())
        rows = (
            f"actually {names[place]}: {', '.join(f'{count} {names[k]}' for k, count in enumerate(row) if count)}"
            for place, row in enumerate(last)
            if row.any()
        )
        picture = Picture(
            svg=draw_class_confusion(matrices, self.names),
            alt=f"Patients whose predicted class is their own: {list_some(right)}. Predicted classes, {everyone}: "
            f"{list_some(rows)}.",
            caption=f"{caption} The predicted class is the most probable one.",
        )
        yield Section("Confusion matrix", [picture])

    def holdings(self, sums: Mapping[str, ClassSums], patients: str) -> list[Block]:
        counts = {name: part.matrix.sum(axis=1).tolist() for name, part in sums.items()}
        names = list(self.names.values())
        listed = (
            f"{name}: " + ", ".join(f"{number} of class {code}" for code, number in zip(self.names, of, strict=True))
            for name, of in counts.items()
        )
        label = self.task.label
        picture = Picture(
            svg=draw_class_balance(counts, names),
            alt=f"Patients of each class of {label.name}. {list_some(listed)}.",
            caption=f"{label.name}: {label.meaning}. {patients}",
        )
        return [picture]
