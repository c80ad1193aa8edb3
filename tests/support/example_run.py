"""Made-up runs for the tests of pages: hospitals' replies without rows, training or TensorFlow."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from flwr.clientapp import ClientApp

from federated_health.data.task_files import HEART_DISEASE
from federated_health.messages.benefit import Benefit, summarise_benefits
from federated_health.messages.content import Evaluation, Registration, Update
from federated_health.ml.calibration import Calibration
from federated_health.ml.normalisation import ColumnSums, public_normalisation
from federated_health.ml.rounds import Round
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts
from federated_health.ml.verdicts import Comparison, Difference, Interval
from federated_health.report.page import Folded, Page, Picture, Section, Table
from federated_health.report.run_page import page_of_run
from federated_health.server.plain_run import PlainRun, summarise_round
from federated_health.server.run_summary import summarise, summarise_run
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport

COLUMNS = HEART_DISEASE.column_names
FACTS = {"SHA-256 of model.keras": "abc123"}

Kind = TypeVar("Kind")


@dataclass(kw_only=True)
class Replies:
    """The replies of one hospital.

    Attributes:
        train, test: numbers of patients.
        losses: training losses by round; None where the hospital did not reply.
        final: None if it was absent at the end.
    """

    train: int = 40
    test: int = 20
    losses: tuple[float | None, ...] = (0.6, 0.5)
    final: Evaluation | None = field(default_factory=lambda: evaluation())
    benefit: Benefit | None = field(default_factory=lambda: benefit())


def evaluation(
    *, tp: int = 8, fp: int = 2, tn: int = 7, fn: int = 3, roc_auc: float | None = 0.85, cells: bool = True
) -> Evaluation:
    """20 patients by default; the cells hold 10 positive and 9 negative ones, with log-odds of 2 and -2."""
    groups = {"positives": np.array([[10.0, 2.0, 0.0]]), "negatives": np.array([[9.0, -2.0, 0.0]])} if cells else {}
    counts = Counts(
        true_positives=tp,
        false_positives=fp,
        true_negatives=tn,
        false_negatives=fn,
        loss_sum=0.4 * (tp + fp + tn + fn),
        squared_error_sum=0.125 * (tp + fp + tn + fn),
    )
    return Evaluation(counts=counts, roc_auc=roc_auc, scores=groups)


def benefit(
    difference: tuple[float, float, float] | None = (0.05, -0.01, 0.11),
    brier: tuple[float, float, float] = (0.0, -0.02, 0.02),
) -> Benefit:
    """A federated ROC-AUC of 0.85 and an own one that is lower by the difference; None: too few patients.

    Args:
        brier: the difference of the Brier scores, own minus federated, of a federated one of 0.15.
    """
    importance = np.zeros(len(COLUMNS))
    importance[[COLUMNS.index("cp"), COLUMNS.index("age")]] = 2.0, -0.5
    observed = np.full(len(COLUMNS), 40.0)
    observed[[COLUMNS.index("chol"), COLUMNS.index("ca")]] = 10.0, 0.0
    if difference is None:
        return Benefit(comparisons={}, calibration={}, importance=importance, observed=observed)
    return Benefit(
        comparisons={
            "roc_auc": comparison(0.85 - difference[0], 0.85, difference),
            "brier": comparison(0.15 + brier[0], 0.15, brier),
        },
        calibration={"own": Calibration(1.1, 0.05), "federated": Calibration(0.7, 0.4)},
        importance=importance,
        observed=observed,
    )


def comparison(own: float, federated: float, difference: tuple[float, float, float]) -> Comparison:
    """Two models; the difference is clear, with a p-value of 0.001, if its interval does not contain 0."""
    value, low, high = difference
    p_value = 0.4 if low <= 0 <= high else 0.001
    return Comparison(
        own=Interval(value=own, low=max(0.0, own - 0.1), high=own + 0.1),
        federated=Interval(value=federated, low=max(0.0, federated - 0.15), high=federated + 0.1),
        difference=Difference(value=value, low=low, high=high, p_value=p_value),
    )


def run_of(hospitals: Mapping[str, Replies], **settings: Any) -> PlainRun:
    """A completed run."""
    run = PlainRun(InProcessTransport(ClientApp(), {}), replace(Settings(), rounds=2, **settings))
    nothing = np.zeros(len(HEART_DISEASE.measurements))
    sums = ColumnSums(count=nothing, total=nothing, squares=nothing)
    run.registrations = {
        name: Registration(name=name, train_examples=replies.train, test_examples=replies.test, sums=sums)
        for name, replies in hospitals.items()
    }
    run.evaluations = {name: replies.final for name, replies in hospitals.items() if replies.final}
    run.threshold = 0.42
    run.history = list(rounds_of(hospitals))
    run.normalisation = public_normalisation(HEART_DISEASE.measurements)
    return run


def figures_of(run: PlainRun, hospitals: Mapping[str, Replies]) -> dict[str, Any]:
    """As `PlainRun.evaluate_finally` returns them."""
    rows = {name: replies.train for name, replies in hospitals.items()}
    benefits = {name: replies.benefit for name, replies in hospitals.items() if replies.benefit}
    return {
        **summarise_run(target_of(HEART_DISEASE), run.evaluations, rows),
        **summarise_benefits(benefits, run.evaluations, HEART_DISEASE),
    }


def rounds_of(hospitals: Mapping[str, Replies]) -> list[Round]:
    """Their rounds; held-out losses are 0.1 above training losses."""
    length = max(len(replies.losses) for replies in hospitals.values())
    rounds = []
    for place in range(length):
        losses = {name: loss for name, replies in hospitals.items() if (loss := replies.losses[place]) is not None}
        updates = {name: Update(weights={}, examples=hospitals[name].train, loss=loss) for name, loss in losses.items()}
        counts = {
            name: Counts(true_negatives=hospitals[name].test, loss_sum=(loss + 0.1) * hospitals[name].test)
            for name, loss in losses.items()
        }
        rounds.append(summarise_round(place + 1, updates, counts))
    return rounds


def page_of(hospitals: Mapping[str, Replies], **settings: Any) -> Page:
    """The page of a completed run."""
    run = run_of(hospitals, **settings)
    return page_of_run(summarise(run, figures_of(run, hospitals), stopped=False, facts=FACTS))


# Parts of a page


def titles(page: Page) -> list[str]:
    return [section.title for section in page.sections]


def section(page: Page, title: str) -> Section:
    (part,) = [section for section in page.sections if section.title == title]
    return part


def blocks(section: Section, kind: type[Kind]) -> list[Kind]:
    """Its blocks of a kind, with those that are folded."""
    every = [inner for block in section.blocks for inner in (block.blocks if isinstance(block, Folded) else [block])]
    return [block for block in every if isinstance(block, kind)]


def pictures(page: Page, title: str) -> list[Picture]:
    """Those of the section with the title, or with the title as their own."""
    every = [(part, picture) for part in page.sections for picture in blocks(part, Picture)]
    return [picture for part, picture in every if title in (part.title, picture.title)]


def facts(section: Section) -> dict[str, str]:
    """Names and values of all its blocks of facts."""
    return {name: value for block in blocks(section, dict) for name, value in block.items()}


def rows(table: Table) -> dict[str, tuple[str, ...]]:
    """Name -> its other cells, as the page shows them."""
    return {name: tuple(cells) for name, *cells in table.shown_rows}
