"""Hospitals without data or Keras: each adds a constant to the weights, and its counts are known."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from federated_health.messages.content import (
    EVALUATE,
    FINAL_EVALUATION,
    ROC_AUC,
    ROUND_EVALUATION,
    SCORES,
    SMALL_CELL,
    THRESHOLD_SCORES,
    Evaluation,
    Registration,
    TrainingScores,
    Update,
)
from federated_health.messages.server_messages import read_value
from federated_health.ml.networks import initial_weights
from federated_health.ml.normalisation import ColumnSums
from federated_health.ml.targets.binary import Counts
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport

FINAL_RELEASES = (FINAL_EVALUATION, ROC_AUC, SCORES)
ROWS = {"a": 30, "b": 10, "c": 5}
MEASUREMENTS = 5
CENTRES = np.array([60.0, 100.0, 200.0, 150.0, 0.0])  # plausible age, pressure, cholesterol, heart rate, oldpeak

Cells = tuple[tuple[float, float, float], ...]


@dataclass
class LightHospital:
    """Adds its own constant to the weights it gets; it has twice as many held-out rows as training rows, all positive.

    Attributes:
        spoil: changes an update before it is sent.
        fails: whether each message raises an OSError.
        alias: name under which it registers, if not its own.
        cells: of its training rows that are positive, and negative: patients, mean and deviation.
        hides_negatives: whether it sends no scores of negative patients.
        suppresses: whether it suppresses all that is over its patients' outcomes.
        interrupted: whether Ctrl-C comes during its final evaluation.
        thresholds: kinds of messages, and the threshold in each.
        proximal_mus: weight of the proximal term in each train message.
    """

    name: str
    shift: float
    spoil: Callable[[Update], Update] = lambda update: update
    fails: bool = False
    alias: str = ""
    hides_negatives: bool = False
    cells: tuple[Cells, Cells] = ((), ())
    suppresses: bool = False
    interrupted: bool = False
    thresholds: list[tuple[str, float]] = field(default_factory=list)
    proximal_mus: list[float] = field(default_factory=list)


def settings_of(strategy: str, text: str = "", **changes: Any) -> Settings:
    """Three hospitals and three rounds, without a benefit of joining, which light hospitals do not know."""
    defaults = Settings()
    light = replace(defaults, hospitals=3, rounds=3, wait=0.3, appraisal=False, strategy=strategy, strategy_args=text)
    return replace(light, **changes)


def app_of(hospitals: dict[str, LightHospital]) -> ClientApp:
    app = ClientApp()

    def count(message: Message, rows: int) -> Counts:
        """Counts of held-out rows that are all predicted rightly; the loss depends on the weights."""
        arrays = message.content.array_records["arrays"].values()
        loss = sum(float(np.abs(array.numpy().astype(np.float64)).sum()) for array in arrays)
        return Counts(true_positives=2 * rows, loss_sum=4.0 * rows + loss * 1e-9)

    def receiver(message: Message, context: Context) -> tuple[LightHospital, int]:
        """The hospital that gets the message, and its number of training rows."""
        name = str(context.node_config["name"])
        record = message.content.config_records["config"]
        if "threshold" in record:
            hospitals[name].thresholds.append((message.metadata.message_type, float(str(record["threshold"]))))
        if hospitals[name].fails:
            raise OSError("the disk of patient 'Smith 63' is gone")
        return hospitals[name], ROWS[name]

    @app.query("statistics")
    def register(message: Message, context: Context) -> Message:
        hospital, rows = receiver(message, context)
        values = CENTRES + hospital.shift  # of every row, so that no variance is between rows of one hospital
        sums = ColumnSums(count=np.full(MEASUREMENTS, float(rows)), total=rows * values, squares=rows * values**2)
        registration = Registration(
            name=hospital.alias or hospital.name, train_examples=rows, test_examples=2 * rows, sums=sums
        )
        return Message(registration.to_content(), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        hospital, rows = receiver(message, context)
        hospital.proximal_mus.append(read_value(message.content.config_records["config"], "proximal-mu", 0.0))
        arrays = message.content.array_records["arrays"]
        weights = {key: (array.numpy() + hospital.shift).astype(np.float32) for key, array in arrays.items()}
        counts = count(message, rows) if EVALUATE in message.content.config_records["config"] else None
        update = hospital.spoil(Update(weights=weights, examples=rows, loss=1.0, counts=counts))
        if hospital.suppresses and counts is not None:
            update = replace(update, counts=None, suppressed={ROUND_EVALUATION: SMALL_CELL})
        return Message(update.to_content(), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        hospital, rows = receiver(message, context)
        evaluation = Evaluation(counts=count(message, rows))
        if hospital.suppresses:
            evaluation = Evaluation(counts=Counts(), suppressed={ROUND_EVALUATION: SMALL_CELL})
        return Message(evaluation.to_content(), reply_to=message)

    @app.evaluate("threshold")
    def score_training(message: Message, context: Context) -> Message:
        hospital, _ = receiver(message, context)
        positives, negatives = (np.array(cells).reshape(-1, 3) for cells in hospital.cells)
        suppressed = {THRESHOLD_SCORES: SMALL_CELL} if hospital.suppresses else {}
        scores = TrainingScores(positives=positives, negatives=negatives, suppressed=suppressed)
        return Message(scores.to_content(), reply_to=message)

    @app.evaluate("final")
    def evaluate_final(message: Message, context: Context) -> Message:
        hospital, rows = receiver(message, context)
        if hospital.interrupted:
            raise KeyboardInterrupt
        cells = np.array([[rows, hospital.shift, 0.5]])
        counts = Counts(true_positives=rows, false_positives=1, true_negatives=rows - 1, squared_error_sum=1.0)
        names = ("positives",) if hospital.hides_negatives else ("positives", "negatives")
        evaluation = Evaluation(counts=counts, roc_auc=0.5, scores=dict.fromkeys(names, cells))
        if hospital.suppresses:
            evaluation = Evaluation(counts=Counts(), suppressed=dict.fromkeys(FINAL_RELEASES, SMALL_CELL))
        return Message(evaluation.to_content(), reply_to=message)

    return app


def run_of(
    hospitals: list[LightHospital], order: str = "abc", strategy: str = "fedavg", text: str = "", **changes: Any
) -> PlainRun:
    """A run whose hospitals are connected in this order."""
    app = app_of({hospital.name: hospital for hospital in hospitals})
    names = [name for name in order if name in {hospital.name for hospital in hospitals}]
    grid = InProcessTransport(app, {name: hospital_context(name, {}) for name in names})
    return PlainRun(grid, settings_of(strategy, text, **changes))


def three() -> list[LightHospital]:
    return [LightHospital("a", 0.1), LightHospital("b", 0.2), LightHospital("c", 0.7)]


def three_with_scores() -> list[LightHospital]:
    """Hospitals that each alone would choose another threshold than all together, whose best one parts 0.5 from 0.

    From 0.25 on there are no alarms, and five of fifteen positives are missed: F1 is 20/25. From -2.5 on none is missed
    and there are ten alarms: 30/40.
    """
    hospitals = three()
    hospitals[0].cells = ((5, 2.0, 0.0), (5, -2.0, 0.0)), ((5, -1.0, 0.0),)
    hospitals[1].cells = ((5, 0.5, 0.0),), ()
    hospitals[2].cells = (), ((5, 0.0, 0.0),)
    return hospitals


CHOSEN = 0.5622
"""Threshold of `three_with_scores`: 1 / (1 + exp(-0.25))."""


def shift_of(run: PlainRun) -> float:
    """How far the weights moved from where they began; the same in every weight."""
    start = initial_weights(run.settings.task_declaration, run.settings.network_declaration, run.settings.seed)
    moves = np.concatenate([(run.weights[name] - start[name]).ravel() for name in start])
    assert np.ptp(moves) < 1e-5
    return float(moves.mean())
