"""Made-up runs of every kind of label for the tests of pages: outputs near the labels, without training."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.clientapp import ClientApp

from federated_health.data.columns import Label
from federated_health.data.tasks import Task
from federated_health.messages.benefit import Benefit, summarise_benefits
from federated_health.messages.content import Evaluation, Registration, Update
from federated_health.ml.intervals import compare_models
from federated_health.ml.metrics import EvaluationSums
from federated_health.ml.normalisation import ColumnSums, public_normalisation
from federated_health.ml.targets import target_of
from federated_health.report.page import Page
from federated_health.report.run_page import page_of_run
from federated_health.server.plain_run import PlainRun, summarise_round
from federated_health.server.run_summary import summarise, summarise_run
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from tests.support.targets import COLUMNS, LABELS

SIZES = {"north": 80, "south": 60, "east": 40}

Array = npt.NDArray[np.float64]


def labels_of(label: Label, rows: int, seed: int) -> npt.NDArray[np.float32]:
    """Made-up labels; of a label of classes the first class is the most frequent."""
    generator = np.random.default_rng([seed, rows])
    if label.classes:
        shares = np.linspace(2, 1, len(label.classes))
        return generator.choice(label.classes, size=rows, p=shares / shares.sum()).astype(np.float32)
    if label.kind == "count":
        return generator.poisson(4.0, rows).astype(np.float32)
    return np.asarray(generator.normal(30, 10, rows), dtype=np.float32)


def outputs_of(task: Task, labels: npt.NDArray[np.float32], noise: float, seed: int = 0) -> npt.NDArray[np.float32]:
    """Outputs of a network that sees the labels through noise, of this standard deviation."""
    target, generator = target_of(task), np.random.default_rng([seed, len(labels)])
    if target.outputs > 1:
        outputs: npt.NDArray[Any] = 2.0 * np.eye(target.outputs)[target.class_of(labels)]
    elif target.has_classes:
        outputs = 2.0 * labels - 1
    else:
        outputs = np.log(labels + 0.5) if task.label.kind == "count" else (labels - 30) / 10
    noise *= 0.3 if task.label.kind == "count" else 1.0
    return (outputs + noise * generator.normal(size=np.shape(outputs))).astype(np.float32)


def run_of_label(label: Label, sizes: Mapping[str, int] = SIZES, **settings: Any) -> tuple[PlainRun, dict[str, Any]]:
    """A completed run and its figures.

    Args:
        sizes: numbers of held-out patients by hospital.
    """
    task = Task(name="made-up", columns=COLUMNS, label=label)
    target, chosen = target_of(task), replace(Settings(), rounds=2, hospitals=len(sizes), **settings)
    object.__setattr__(chosen, "task_declaration", task)
    run = PlainRun(InProcessTransport(ClientApp(), {}), chosen)
    nothing = np.zeros(len(COLUMNS))
    sums, benefits = ColumnSums(count=nothing, total=nothing, squares=nothing), {}
    for seed, (name, rows) in enumerate(sizes.items()):
        run.registrations[name] = Registration(name=name, train_examples=3 * rows, test_examples=rows, sums=sums)
        labels = labels_of(label, rows, seed)
        outputs, own = outputs_of(task, labels, 1.0, seed), outputs_of(task, labels, 1.5, seed + 50)
        is_sent = rows >= target.min_rows
        run.evaluations[name] = Evaluation(
            counts=target.measure(outputs, labels, 0.5) if is_sent else target.no_sums,
            roc_auc=target.roc_auc(outputs, labels),
            scores=target.group_scores(outputs, labels),
        )
        benefits[name] = Benefit(
            comparisons=compare_models(target, outputs, own, labels) if target.can_compare(labels) else {},
            calibration={},
            importance=np.array([0.3, -0.02]) * rows,
            observed=np.array([3.0 * rows, 2.0 * rows]),
        )
    for number in (1, 2):
        updates = {name: Update(weights={}, examples=3 * rows, loss=1.0 / number) for name, rows in sizes.items()}
        counts: dict[str, EvaluationSums] = {name: part.counts for name, part in run.evaluations.items()}
        run.history.append(summarise_round(number, updates, counts))
    run.normalisation = public_normalisation(task.measurements)
    if chosen.class_weight == "balanced":
        run.class_weights = (0.5, *[1.5] * (target.classes - 1))
    asked = benefits if run.asks_benefit else {}
    figures = summarise_run(target, run.evaluations, run.train_examples) | summarise_benefits(
        asked, run.evaluations, task
    )
    return run, figures


def page_of_label(label: Label | str, sizes: Mapping[str, int] = SIZES, **settings: Any) -> Page:
    """The page of a completed run; a kind stands for its label in `tests.support.targets`."""
    run, figures = run_of_label(LABELS[label] if isinstance(label, str) else label, sizes, **settings)
    return page_of_run(summarise(run, figures, stopped=False, facts={}))
