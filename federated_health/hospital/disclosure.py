"""Disclosure control: the one function through which everything passes that a hospital sends.

Between a handler's content and the message, `disclose` suppresses what the hospital's policy switches off, and what
would describe few patients. A count may leave if it is 0 or at least the policy's minimum cell, and so may the patients
who are not counted: of thirty patients, 29 say as much as 1. A hospital whose count is suppressed sends none of the
counts beside it, from which it could be computed. The reply says what is suppressed and why, without values.

Weights, and sums for the normalisation, are never altered: sums leave or are suppressed. Nothing is suppressed of
public data, which the manifest beside the CSV declares, nor of hospitals whose rows are all in one process.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Measurement
from federated_health.data.hospital import Hospital, Patients
from federated_health.data.subgroups import subgroups_of
from federated_health.errors import DisclosureError
from federated_health.hospital.policy import Policy
from federated_health.hospital.release_memory import ReleasableHospital
from federated_health.messages.benefit import Benefit
from federated_health.messages.content import (
    APPRAISAL,
    ASSOCIATIONS,
    CLASS_COUNTS,
    COLUMN_SUMS,
    DIFFERENCING,
    FINAL_EVALUATION,
    ROC_AUC,
    ROUND_EVALUATION,
    ROW_COUNTS,
    SCORES,
    SMALL_CELL,
    SUBGROUPS,
    SWITCHED_OFF,
    THRESHOLD_SCORES,
    Evaluation,
    Registration,
    TrainingScores,
    Update,
)
from federated_health.ml.metrics import LESS_IS_BETTER, MIN_CELL_SIZE, EvaluationSums, Scores
from federated_health.ml.normalisation import SUM_NAMES, ColumnSums
from federated_health.ml.targets import target_of
from federated_health.ml.verdicts import Comparison

if TYPE_CHECKING:
    from federated_health.ml.recalibration import MeasuredRecalibration
    from federated_health.ml.subgroups import GroupFigures

DECIMALS = 3
"""Decimals of mean losses and errors, which are those of the tables."""

ROUNDED = ("loss_sum", "squared_error_sum", "absolute_error_sum")
"""Sums of an evaluation whose means are rounded."""

Mask = npt.NDArray[np.bool_]
Rounded = TypeVar("Rounded")


def disclose(content: Any, hospital: Hospital, policy: Policy, *, is_final: bool = False) -> Any:
    """What may leave of a handler's content, of the same type.

    Args:
        is_final: whether an evaluation is that of the final weights.

    Raises:
        DisclosureError: there are so few training rows that not even their number may leave.
    """
    return _Gate(hospital, policy).disclose(content, is_final=is_final)


class _Gate:
    """The rules of a policy for one hospital.

    The minimum cell is of patients: it is multiplied by the largest number of rows of one patient.
    """

    def __init__(self, hospital: Hospital, policy: Policy) -> None:
        self.hospital, self.policy, self.target = hospital, policy, target_of(hospital.task)
        cell = 0 if policy.public else policy.min_cell
        self.of_train, self.of_test = cell * hospital.train.most_rows, cell * hospital.test.most_rows
        chosen = hospital if isinstance(hospital, ReleasableHospital) else None
        self.train_is_exposed = chosen is not None and chosen.train_is_exposed
        self.test_is_exposed = chosen is not None and chosen.test_is_exposed
        self.exposed_columns = chosen.exposed_columns if chosen else frozenset[str]()
        self.exposed_subgroups = chosen.exposed_subgroups if chosen else frozenset[str]()
        self.label_is_exposed = hospital.task.label.name in self.exposed_columns

    def disclose(self, content: Any, *, is_final: bool) -> Any:
        rules: Mapping[type, Callable[[Any], Any]] = {
            Registration: self._registration,
            Update: self._update,
            Evaluation: self._final_evaluation if is_final else self._evaluation,
            TrainingScores: self._training_scores,
            Benefit: self._benefit,
        }
        return rules[type(content)](content)

    def _reason(self, release: str, *, is_exposed: bool = False, is_small: bool = False) -> str:
        """Why a release is suppressed; empty if it is not."""
        if not self.policy.allows(release):
            return SWITCHED_OFF
        return DIFFERENCING if is_exposed else SMALL_CELL if is_small else ""

    def _registration(self, content: Registration) -> Registration:
        train, test = self.hospital.train, self.hospital.test
        if len(train) < self.of_train:
            text = "it has fewer training patients than its policy's minimum cell"
            raise DisclosureError(text, reason=text)
        reasons = {ROW_COUNTS: self._reason(ROW_COUNTS, is_small=not _are_safe([len(test)], self.of_test))}
        if content.class_counts:
            reasons[CLASS_COUNTS] = self._reason(
                CLASS_COUNTS,
                is_exposed=self.train_is_exposed or self.label_is_exposed,
                is_small=not _are_safe(self._classes(train), self.of_train),
            )
        sums, reasons[COLUMN_SUMS] = self._sums(content.sums)
        associations, reasons[ASSOCIATIONS] = self._associations(content.associations)
        return replace(
            content,
            test_examples=0 if reasons[ROW_COUNTS] else content.test_examples,
            sums=sums,
            associations=associations,
            class_counts=(0,) * len(content.class_counts) if reasons.get(CLASS_COUNTS) else content.class_counts,
            suppressed=_drop_empty(reasons),
        )

    def _sums(self, sums: ColumnSums) -> tuple[ColumnSums, str]:
        """The sums, and why some are suppressed."""
        if not sums.are_released:
            return sums, ""
        is_exposed = np.array(
            [self.train_is_exposed or m.name in self.exposed_columns for m in self.hospital.task.measurements]
        )
        is_small = (sums.count > 0) & (sums.count < self.of_train)
        suppressed = is_exposed | is_small
        kept = ColumnSums(*(np.where(suppressed, 0.0, getattr(sums, name)) for name in SUM_NAMES))
        reason = self._reason(
            COLUMN_SUMS, is_exposed=bool((is_exposed & (sums.count > 0)).any()), is_small=bool(is_small.any())
        )
        return kept, reason

    def _associations(self, associations: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], str]:
        """The associations, and why some or all are suppressed."""
        if not associations.size:
            return associations, ""
        if reason := self._reason(ASSOCIATIONS, is_exposed=self.train_is_exposed or self.label_is_exposed):
            return np.zeros(0), reason
        is_exposed, is_small = (np.array(mask, dtype=bool) for mask in zip(*self._unsafe_associations(), strict=True))
        is_given = associations != 0
        reason = self._reason(
            ASSOCIATIONS, is_exposed=bool((is_exposed & is_given).any()), is_small=bool((is_small & is_given).any())
        )
        return np.where(is_exposed | is_small, 0.0, associations), reason

    def _unsafe_associations(self) -> list[tuple[bool, bool]]:
        """Whether a subtraction would expose the column, and whether a cell is small, of each association.

        Cells are the patients with and without the code, of either class, and those whose column is missing.
        """
        train, found = self.hospital.train, []
        classes = train.labels == 1
        for column, cells in zip(self.hospital.task.columns, train.values.T, strict=True):
            is_exposed = column.name in self.exposed_columns
            missing = np.isnan(cells)
            for code in [None] if isinstance(column, Measurement) else list(column.codes):
                has_code = np.zeros(len(cells), dtype=bool) if code is None else cells == code
                groups = (has_code, ~has_code & ~missing)
                counts = [int((group & of).sum()) for group in groups for of in (classes, ~classes)]
                found.append((is_exposed, not _are_safe(counts, self.of_train)))
        return found

    def _classes(self, patients: Patients) -> npt.NDArray[np.intp]:
        """Number of rows of each class; of a label without classes, none."""
        if not self.target.has_classes:
            return np.zeros(0, dtype=np.intp)
        return np.bincount(self.target.class_of(patients.labels), minlength=self.target.classes)

    def _update(self, content: Update) -> Update:
        content = replace(content, loss=None if content.loss is None else self._round_mean(content.loss))
        if content.counts is None:
            return content
        reason = self._why_no_counts(ROUND_EVALUATION, content.counts)
        counts = None if reason else self._round_sums(content.counts)
        return replace(content, counts=counts, suppressed=_drop_empty({ROUND_EVALUATION: reason}))

    def _evaluation(self, content: Evaluation, release: str = ROUND_EVALUATION) -> Evaluation:
        reason = self._why_no_counts(release, content.counts)
        counts = self.target.no_sums if reason else self._round_sums(content.counts)
        return replace(content, counts=counts, suppressed=_drop_empty({release: reason}))

    def _final_evaluation(self, content: Evaluation) -> Evaluation:
        if content.noisy_counts:  # differential privacy accounts for them
            return content
        test = self.hospital.test
        is_small = not _are_safe([*self._classes(test), len(test)], self.of_test)
        reasons = {}
        if content.roc_auc is not None:
            reasons[ROC_AUC] = self._reason(ROC_AUC, is_exposed=self.test_is_exposed, is_small=is_small)
        if content.scores:
            reasons[SCORES] = self._reason(SCORES, is_exposed=self.test_is_exposed, is_small=is_small)
        has_deviation = self.target.has_classes
        groups = content.subgroups
        if groups:
            groups, reasons[SUBGROUPS] = self._subgroups(groups, content.counts)
        scores = {
            name: join_cells(cells, self._least_rows(self.of_test), has_deviation=has_deviation)
            for name, cells in content.scores.items()
        }
        evaluation = self._evaluation(content, FINAL_EVALUATION)
        return replace(
            evaluation,
            roc_auc=None if reasons.get(ROC_AUC) else content.roc_auc,
            scores={} if reasons.get(SCORES) else scores,
            subgroups=groups,
            suppressed={**evaluation.suppressed, **_drop_empty(reasons)},
        )

    def _subgroups(
        self, figures: "Sequence[GroupFigures]", counts: EvaluationSums
    ) -> "tuple[Sequence[GroupFigures], str]":
        """The figures of subgroups, and why some or all are suppressed (see `subgroup_disclosure`)."""
        if reason := self._reason(SUBGROUPS, is_exposed=self.test_is_exposed):
            return (), reason
        from federated_health.hospital.subgroup_disclosure import round_figures, suppress_groups  # noqa: PLC0415  # at the end only

        groups = subgroups_of(self.hospital.task)
        tn, fp, fn, tp = getattr(counts, "matrix")  # noqa: B009  # of a binary label
        kept = suppress_groups(groups, figures, (tp, fp, tn, fn), self.of_test, self.exposed_subgroups)
        lost = {group.column for group, of, left in zip(groups, figures, kept, strict=True) if of.cells != left.cells}
        is_exposed = not lost.isdisjoint(self.exposed_subgroups)
        reason = self._reason(SUBGROUPS, is_exposed=is_exposed, is_small=bool(lost))
        return (kept if self.policy.public else [round_figures(of) for of in kept]), reason

    def _least_rows(self, minimum: int) -> int:
        """Smallest number of rows of a group of scores: groups are of MIN_CELL_SIZE patients before they are joined."""
        return minimum if self.policy.min_cell > MIN_CELL_SIZE else 0

    def _why_no_counts(self, release: str, counts: EvaluationSums) -> str:
        """Why the sums of an evaluation are suppressed; empty if they are not."""
        cells = [len(self.hospital.test)]
        if self.target.has_classes:
            cells = np.ravel(getattr(counts, "matrix")).tolist()  # noqa: B009  # of all sums with classes
        elif self.hospital.task.label.kind == "count":
            with_events = int((self.hospital.test.labels > 0).sum())
            cells += [with_events, cells[0] - with_events]
        return self._reason(release, is_exposed=self.test_is_exposed, is_small=not _are_safe(cells, self.of_test))

    def _round_sums(self, counts: EvaluationSums) -> EvaluationSums:
        """The sums, with means of losses and errors as tables show them."""
        rows = counts.examples
        names = [name for name in ROUNDED if hasattr(counts, name)] if rows else []
        changed = {name: rows * self._round_mean(getattr(counts, name) / rows) for name in names}
        return replace(counts, **changed)  # type: ignore[type-var]  # a dataclass

    def _round_mean(self, mean: float) -> float:
        return mean if self.policy.public else round(mean, DECIMALS)

    def _training_scores(self, content: TrainingScores) -> TrainingScores:
        is_small = not _are_safe(self._classes(self.hospital.train), self.of_train)
        is_exposed = self.train_is_exposed or self.label_is_exposed
        if reason := self._reason(THRESHOLD_SCORES, is_exposed=is_exposed, is_small=is_small):
            none = np.zeros((0, 3))
            return replace(content, positives=none, negatives=none, suppressed={THRESHOLD_SCORES: reason})
        return replace(
            content,
            positives=join_cells(content.positives, self._least_rows(self.of_train)),
            negatives=join_cells(content.negatives, self._least_rows(self.of_train)),
        )

    def _benefit(self, content: Benefit) -> Benefit:
        """The comparison of two models needs the minimum cell of each class; numbers of rows are 0 where they are few.

        Nothing is sent if the held-out rows are too few.
        """
        test, columns = self.hospital.test, self.hospital.task.columns
        is_small = not _are_safe([*self._classes(test), len(test)], self.of_test)
        if reason := self._reason(APPRAISAL, is_exposed=self.test_is_exposed, is_small=is_small):
            return Benefit.suppress(len(columns), {APPRAISAL: reason})
        observed, rows = content.observed, len(self.hospital.train)
        is_safe = _safe(observed, self.of_train) & _safe(rows - observed, self.of_train)
        is_safe &= np.array(
            [not self.train_is_exposed and column.name not in self.exposed_columns for column in columns]
        )
        comparisons = {
            figure: self._round_comparison(comparison) if figure in LESS_IS_BETTER else comparison
            for figure, comparison in content.comparisons.items()
        }
        importance = [len(test) * self._round_mean(value / max(len(test), 1)) for value in content.importance]
        return replace(
            content,
            comparisons=comparisons,
            calibration={model: self._round(of) for model, of in content.calibration.items()},
            recalibration=self._recalibration(content.recalibration),
            importance=np.array(importance),
            observed=np.where(is_safe, observed, 0.0),
        )

    def _recalibration(self, content: "MeasuredRecalibration | None") -> "MeasuredRecalibration | None":
        """The recalibration, rounded; None if a class of the training rows is small, or they are exposed."""
        is_exposed = self.train_is_exposed or self.label_is_exposed
        if content is None or is_exposed or not _are_safe(self._classes(self.hospital.train), self.of_train):
            return None
        fitted = content.recalibration
        slope = None if fitted.slope is None else self._round(fitted.slope)
        figures = {
            side: {name: None if value is None else self._round_mean(value) for name, value in of.items()}
            for side, of in (("before", content.before), ("after", content.after))
        }
        rounded = replace(fitted, intercept=self._round(fitted.intercept), slope=slope)
        return replace(content, recalibration=rounded, **figures)

    def _round_comparison(self, comparison: Comparison) -> Comparison:
        """Mean losses of two models, rounded; not the p-value, which decides the verdict."""
        difference = self._round(comparison.difference)
        return Comparison(
            own=self._round(comparison.own),
            federated=self._round(comparison.federated),
            difference=replace(difference, p_value=comparison.difference.p_value),
        )

    def _round(self, figures: Rounded) -> Rounded:
        """A dataclass of figures, rounded; those that are None stay so."""
        known = {name: value for name, value in vars(figures).items() if value is not None}
        rounded = {name: self._round_mean(value) for name, value in known.items()}
        return replace(figures, **rounded)  # type: ignore[type-var]  # a dataclass


def join_cells(cells: Scores, minimum: int, *, has_deviation: bool = True) -> Scores:
    """Neighbouring groups of scores joined to groups of at least `minimum` rows (see `Target.group_scores`)."""
    if not len(cells) or cells[:, 0].min() >= minimum:
        return cells
    joined: list[list[npt.NDArray[np.float64]]] = [[]]
    for cell in cells:
        if sum(part[0] for part in joined[-1]) >= minimum:
            joined.append([])
        joined[-1].append(cell)
    if len(joined) > 1 and sum(part[0] for part in joined[-1]) < minimum:
        last = joined.pop()
        joined[-1] += last
    rows = []
    for group in joined:
        number, first, second = np.array(group).T
        total, mean = number.sum(), np.average(first, weights=number)
        spread = np.average(second**2 + first**2, weights=number) - mean**2
        rows.append((total, mean, np.sqrt(max(spread, 0.0)) if has_deviation else np.average(second, weights=number)))
    found = np.array(rows)
    return found if found[:, 0].min() >= minimum else np.zeros((0, 3))


def _safe(counts: npt.NDArray[Any], minimum: int) -> Mask:
    mask: Mask = (counts == 0) | (counts >= minimum)
    return mask


def _are_safe(counts: Any, minimum: int) -> bool:
    """Whether each count of patients is 0 or at least the minimum; then each sum of some of them is, too."""
    return bool(_safe(np.asarray(counts), minimum).all())


def _drop_empty(reasons: Mapping[str, str]) -> dict[str, str]:
    return {release: reason for release, reason in reasons.items() if reason}
