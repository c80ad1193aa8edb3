"""Numbers of patients that a model of the task needs, beside those that there are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from federated_health.data.columns import Measurement
from federated_health.data.tasks import Task
from federated_health.ml.sample_size import (
    CAUTIOUS_SHARE,
    expected_r_squared,
    max_r_squared,
    patients_to_develop,
    patients_to_validate,
)
from federated_health.names import FEDERATION
from federated_health.report.formatting import describe_rows, figure, list_some, number_of
from federated_health.report.page import Block, Folded, Section
from federated_health.report.sections import figures_table

if TYPE_CHECKING:
    from federated_health.report.run_page import RunSummary

TITLE = "Sample size"

TRAINING, HELD_OUT = ("training", "needed"), ("held out", "needed to evaluate")
"""Columns with the available and the needed number."""

_Row = dict[str, int | None]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Numbers of training and of held-out rows, None if unknown, and the share of positives, above 0 and below 1."""

    train: int | None
    test: int | None
    prevalence: float


def sections_of_run(run: "RunSummary") -> Iterator[Section]:
    """The sample sizes of a run with a binary label; nothing where too little is known."""
    rows = {**run.figures["hospitals"], FEDERATION: run.figures["federation"] or {}}
    samples = {
        name: Sample(train=row.get("train_examples"), test=row.get("test_examples"), prevalence=row["prevalence"])
        for name, row in rows.items()
        if 0 < (row.get("prevalence") or 0) < 1
    }
    everyone = rows[FEDERATION] if FEDERATION in samples else rows.get(run.hospital, {})
    roc_auc = everyone.get("mean_roc_auc") or everyone.get("roc_auc")
    yield from sample_size_sections(run.task, samples, roc_auc, everyone=FEDERATION)


def count_parameters(task: Task) -> int:
    """Parameters of a regression on the task's columns, without the intercept.

    A measurement has one for its value and one for being missing; a category has one fewer than codes, of which missing
    is one.
    """
    return sum(column.feature_width - (not isinstance(column, Measurement)) for column in task.columns)


def sample_size_sections(
    task: Task, samples: Mapping[str, Sample], roc_auc: float | None, *, everyone: str
) -> Iterator[Section]:
    """Needed and available numbers, per hospital and in all; nothing for other labels than binary ones.

    Args:
        samples: by hospital, and of all together.
        roc_auc: what a model of this task is expected to reach; such as the mean over hospitals.
        everyone: name of all together in `samples`.
    """
    if task.label.kind != "binary" or not samples or roc_auc is None or not 0.5 < roc_auc < 1:
        return
    parameters = count_parameters(task)
    rows: dict[str, _Row] = {}
    for name, sample in samples.items():
        share = sample.prevalence
        measured = patients_to_develop(parameters, share, expected_r_squared(roc_auc, share)).needed
        cautious = patients_to_develop(parameters, share, CAUTIOUS_SHARE * max_r_squared(share)).needed
        to_test = patients_to_validate(share, roc_auc).needed
        rows[name] = {
            TRAINING[0]: sample.train,
            TRAINING[1]: measured,
            "needed, cautious": cautious,
            HELD_OUT[0]: sample.test,
            HELD_OUT[1]: to_test,
        }
    last = {everyone: rows.pop(everyone)} if everyone in rows else {}
    sources = (
        "To train (Riley et al. 2019 and 2020): predictions shrink by at most 10 %, the apparent R-squared is at most "
        "0.05 too high, and the share of positives is known to within 0.05. To evaluate (Riley et al. 2021): 95 % "
        "intervals of the ROC-AUC and of observed/expected are at most 0.1 and 0.2 wide."
    )
    counted = (
        f"{number_of(parameters, 'parameter')}: those of a regression on the task's columns. A network has more "
        "parameters, whose effect few rounds and L2 regularisation limit: for it, the numbers are a lower bound. They "
        f"count independent patients. {describe_rows(task)}".strip()
    )
    expected = (
        f"The first number expects the ROC-AUC that was measured here, {figure(roc_auc)}; the cautious one expects "
        f"{100 * CAUTIOUS_SHARE:.0f} % of the largest possible R-squared, as where nothing is known of a model."
    )
    blocks: list[Block] = [
        f"{_sentence(f'training {task.noun}', 'this model', TRAINING, rows, last)} "
        f"{_sentence(f'held-out {task.noun}', 'a precise evaluation', HELD_OUT, rows, last)}",
        figures_table(f"Needed and available numbers of {task.noun}", rows, last=last, note=expected),
        Folded("How many are needed, and why", [sources, counted]),
    ]
    yield Section(TITLE, blocks)


def _sentence(
    which: str, purpose: str, columns: tuple[str, str], rows: Mapping[str, _Row], last: Mapping[str, _Row]
) -> str:
    """Where there are enough patients for a purpose, at hospitals and in all."""
    enough = [name for name, row in rows.items() if _is_enough(row, columns)]
    if not enough:
        where = f"too few for {purpose} at {'every hospital' if len(rows) > 1 else next(iter(rows), 'any hospital')}"
    else:
        where = f"enough for {purpose} at {list_some(enough, ', ')}"
        where += " alone" if len(enough) < len(rows) else ""
    for row in last.values():
        available, needed = (row[column] for column in columns)
        state = "enough" if _is_enough(row, columns) else "too few"
        where += f", and {state} all together ({available or 0:,}; {needed or 0:,} needed)"
    return f"The {which} are {where}."


def _is_enough(row: _Row, columns: tuple[str, str]) -> bool:
    available, needed = (row[column] or 0 for column in columns)
    return available >= needed
