"""The loop over rounds, with light hospitals whose weights and counts are known; the real ones are in integration/."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from federated_health.errors import RunError
from federated_health.messages.content import (
    EVALUATE,
    Evaluation,
    Registration,
    TrainingScores,
    Update,
)
from federated_health.messages.records import read_proximal_mu
from federated_health.ml.metrics import Counts
from federated_health.ml.networks import initial_weights
from federated_health.ml.normalisation import ColumnSums
from federated_health.ml.strategies import STRATEGIES
from federated_health.names import node_id_of
from federated_health.server import participants
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.interface import hospital_context

ROWS = {"a": 30, "b": 10, "c": 5}
MEASUREMENTS = 5
CENTRES = np.array([60.0, 100.0, 200.0, 150.0, 0.0])  # plausible age, pressure, cholesterol, heart rate, oldpeak


Cells = tuple[tuple[float, float, float], ...]


@dataclass
class LightHospital:
    """Adds its own constant to the weights it is sent; its counts are its number of rows, all rightly positive.

    Attributes:
        cells: of its training rows that are positive, and negative: patients, mean and deviation.
        interrupted: Ctrl-C comes while it evaluates finally.
        told: kinds of messages, and the threshold that each of them held.
    """

    name: str
    shift: float
    spoil: Callable[[Update], Update] = lambda update: update
    fails: bool = False
    alias: str = ""
    silent: bool = False
    cells: tuple[Cells, Cells] = ((), ())
    interrupted: bool = False
    told: list[tuple[str, float]] = field(default_factory=list)
    mus: list[float] = field(default_factory=list)


def settings_of(strategy: str, text: str = "") -> Settings:
    defaults = Settings()
    return replace(defaults, hospitals=3, rounds=3, wait=0.3, strategy=strategy, strategy_args=text)


def app_of(hospitals: dict[str, LightHospital]) -> ClientApp:
    app = ClientApp()

    def count(message: Message, rows: int) -> Counts:
        """Counts of held-out rows that are all predicted rightly; the loss depends on the weights."""
        arrays = message.content.array_records["arrays"].values()
        loss = sum(float(np.abs(array.numpy().astype(np.float64)).sum()) for array in arrays)
        return Counts(true_positives=2 * rows, loss_sum=4.0 * rows + loss * 1e-9)

    def of(message: Message, context: Context) -> tuple[LightHospital, int]:
        name = str(context.node_config["name"])
        record = message.content.config_records["config"]
        if "threshold" in record:
            hospitals[name].told.append((message.metadata.message_type, float(str(record["threshold"]))))
        if hospitals[name].fails:
            raise OSError("the disk of this hospital is gone")
        return hospitals[name], ROWS[name]

    @app.query("statistics")
    def register(message: Message, context: Context) -> Message:
        hospital, rows = of(message, context)
        values = CENTRES + hospital.shift  # of every row, so that no variance is between rows of one hospital
        sums = ColumnSums(count=np.full(MEASUREMENTS, float(rows)), total=rows * values, squares=rows * values**2)
        registration = Registration(
            name=hospital.alias or hospital.name, train_examples=rows, test_examples=2 * rows, sums=sums
        )
        return Message(registration.to_content(), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        hospital, rows = of(message, context)
        hospital.mus.append(read_proximal_mu(message.content.config_records["config"]))
        arrays = message.content.array_records["arrays"]
        weights = {key: (array.numpy() + hospital.shift).astype(np.float32) for key, array in arrays.items()}
        counts = count(message, rows) if EVALUATE in message.content.config_records["config"] else None
        update = hospital.spoil(Update(weights=weights, examples=rows, loss=1.0, counts=counts))
        return Message(update.to_content(), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        _, rows = of(message, context)
        return Message(Evaluation(counts=count(message, rows)).to_content(), reply_to=message)

    @app.evaluate("threshold")
    def score_training(message: Message, context: Context) -> Message:
        hospital, _ = of(message, context)
        positives, negatives = (np.array(cells).reshape(-1, 3) for cells in hospital.cells)
        return Message(TrainingScores(positives=positives, negatives=negatives).to_content(), reply_to=message)

    @app.evaluate("final")
    def finish(message: Message, context: Context) -> Message:
        hospital, rows = of(message, context)
        if hospital.interrupted:
            raise KeyboardInterrupt
        cells = np.array([[rows, hospital.shift, 0.0]])
        counts = Counts(true_positives=rows, false_positives=1, true_negatives=rows - 1, squared_error_sum=1.0)
        negatives = None if hospital.silent else cells
        evaluation = Evaluation(counts=counts, roc_auc=0.5, positives=cells, negatives=negatives)
        return Message(evaluation.to_content(), reply_to=message)

    return app


def run_of(hospitals: list[LightHospital], order: str = "abc", strategy: str = "fedavg", text: str = "") -> PlainRun:
    app = app_of({hospital.name: hospital for hospital in hospitals})
    names = [name for name in order if name in {hospital.name for hospital in hospitals}]
    grid = InProcessTransport(app, {name: hospital_context(name, {}) for name in names})
    return PlainRun(grid, settings_of(strategy, text))


def three() -> list[LightHospital]:
    return [LightHospital("a", 0.1), LightHospital("b", 0.2), LightHospital("c", 0.7)]


def shift_of(run: PlainRun) -> float:
    """How far the weights moved from where they began; the same in every weight."""
    start = initial_weights(run.settings.task_declaration, run.settings.model, run.settings.seed)
    moves = np.concatenate([(run.weights[name] - start[name]).ravel() for name in start])
    assert np.ptp(moves) < 1e-5
    return float(moves.mean())


def test_three_rounds_of_fedavg_move_by_the_row_weighted_mean() -> None:
    run = run_of(three())
    run.run()
    assert shift_of(run) == pytest.approx(3 * (30 * 0.1 + 10 * 0.2 + 5 * 0.7) / 45, abs=1e-5)


def test_three_rounds_of_plain_average_move_by_the_plain_mean() -> None:
    run = run_of(three(), strategy="average")
    run.run()
    assert shift_of(run) == pytest.approx(3 * (0.1 + 0.2 + 0.7) / 3, abs=1e-5)


def test_final_weights_do_not_depend_to_the_bit_on_the_order_of_joining() -> None:
    finals = []
    for order in ("abc", "cab"):
        run = run_of(three(), order)
        run.run()
        finals.append(run.weights)
    assert all(np.array_equal(finals[0][name], finals[1][name]) for name in finals[0])


MOVES = {
    "fedprox": 3 * (30 * 0.1 + 10 * 0.2 + 5 * 0.7) / 45,
    "fedmedian": 3 * 0.2,
    "trimmed": 3 * 0.2,
    "krum": 3 * 0.1,  # as near to its neighbour as b, and first by name
    "multikrum": 3 * (0.1 + 0.2 + 0.7) / 3,
    "bulyan": 3 * (0.1 + 0.2 + 0.7) / 3,
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_and_moves_the_weights(strategy: str) -> None:
    run = run_of(three(), strategy=strategy)
    figures = run.run()
    assert figures["federation"]["train_examples"] == 45
    assert shift_of(run) == pytest.approx(MOVES[strategy], abs=1e-5) if strategy in MOVES else True
    assert 1e-3 < shift_of(run) < 3 * 0.7
    assert {array.dtype for array in run.weights.values()} == {np.dtype(np.float32)}
    assert run.last_round is not None
    assert run.last_round.number == 3


def test_momentum_adds_up_over_rounds() -> None:
    run = run_of(three(), strategy="fedavgm", text="server-momentum=0.5")
    run.run()
    mean = (30 * 0.1 + 10 * 0.2 + 5 * 0.7) / 45
    assert shift_of(run) == pytest.approx(mean * (1 + 1.5 + 1.75), abs=1e-5)


@pytest.mark.parametrize(("strategy", "text", "mu"), [("fedprox", "proximal-mu=0.25", 0.25), ("fedavg", "", 0.0)])
def test_hospitals_are_told_the_weight_of_the_proximal_term(strategy: str, text: str, mu: float) -> None:
    hospitals = three()
    run = run_of(hospitals, strategy=strategy, text=text)
    run.run()
    assert [hospital.mus for hospital in hospitals] == [[mu] * 3] * 3
    assert (run.train_config().strategy, run.train_config().strategy_args) == (strategy, text)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_round_with_fewer_updates_than_the_strategy_needs_ends_the_run_in_one_line(strategy: str) -> None:
    hospitals = three()
    run = run_of(hospitals, strategy=strategy)
    run.gather()
    rounds = run.rounds()
    next(rounds)
    hospitals[2].fails = True  # which has trained in round 2, but does not evaluate what came of it
    second = next(rounds)
    assert second.hospitals["c"].train_loss == 1.0
    assert [name for name, one in second.hospitals.items() if one.counts] == ["a", "b"]
    kept = dict(run.weights)
    if strategy not in {"fedmedian", "trimmed", "krum", "multikrum", "bulyan"}:
        assert list(next(rounds).hospitals) == ["a", "b"]
        return
    with pytest.raises(RunError) as caught:
        next(rounds)
    assert str(caught.value).startswith(
        f"round 3: 2 of 3 hospitals sent a valid update, and 3 are needed ({strategy}: "
    )
    assert str(caught.value).endswith("; missing: c")
    assert run.weights == kept
    assert run.figures_of_last_round()["federation"]["accuracy"] == 1.0


def test_weights_that_are_not_finite_end_the_run_in_one_line() -> None:
    hospitals = three()
    for hospital in hospitals:
        hospital.spoil = lambda update: replace(
            update, weights={name: np.full_like(array, 1e38) for name, array in update.weights.items()}
        )
    run = run_of(hospitals, strategy="fedavgm", text="server-learning-rate=10")
    run.gather()
    with pytest.raises(RunError, match=r"round 1: training diverged .* --learning-rate"):
        next(run.rounds())
    assert run.last_round is None


def test_normalisation_is_that_of_all_rows_together() -> None:
    run = run_of(three())
    run.gather()
    shifts = np.repeat([0.1, 0.2, 0.7], [30, 10, 5])
    assert run.normalisation is not None
    assert run.normalisation.mean == pytest.approx(CENTRES + shifts.mean())
    assert run.normalisation.variance == pytest.approx([shifts.var()] * MEASUREMENTS, rel=1e-4)


def test_rounds_report_merged_counts() -> None:
    run = run_of(three())
    run.gather()
    first = next(run.rounds())
    assert list(first.hospitals) == ["a", "b", "c"]
    assert first.federation.train_examples == 45
    assert first.federation.train_loss == pytest.approx(1.0)
    assert first.federation.counts is not None
    assert first.federation.counts.examples == 90
    assert first.federation.counts.loss == pytest.approx(2.0)


def test_final_figures_are_pooled_and_beside_the_mean_of_hospitals() -> None:
    figures = run_of(three()).run()
    assert figures["hospitals"]["c"]["precision"] == pytest.approx(5 / 6)
    assert figures["federation"]["precision"] == pytest.approx(45 / 48)  # the mean of the three would be 0.903
    assert figures["federation"]["train_examples"] == 45
    assert figures["federation"]["mean_roc_auc"] == 0.5
    assert figures["federation"]["roc_auc"] == pytest.approx(0.5)
    assert figures["federation"]["brier"] == pytest.approx(3 / 90)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_does_not_reach_the_average(value: float) -> None:
    def spoil(update: Update) -> Update:
        return replace(update, weights={name: np.full_like(array, value) for name, array in update.weights.items()})

    hospitals = three()
    hospitals[1].spoil = spoil
    run = run_of(hospitals)
    run.gather()
    first = next(run.rounds())
    assert shift_of(run) == pytest.approx((30 * 0.1 + 5 * 0.7) / 35, abs=1e-5)
    assert list(first.hospitals) == ["a", "c"]


def test_a_hospital_that_fails_costs_its_own_contribution_only(caplog: pytest.LogCaptureFixture) -> None:
    hospitals = three()
    run = run_of(hospitals)
    run.gather()
    rounds = run.rounds()
    next(rounds)
    hospitals[2].fails = True
    assert [name for name, one in next(rounds).hospitals.items() if one.counts] == ["a", "b"]
    assert list(next(rounds).hospitals) == ["a", "b"]
    assert "c is left out: OSError at the hospital" in caplog.text
    assert "disk" not in "".join(record.getMessage() for record in caplog.records if record.levelname != "DEBUG")
    assert all(record.exc_info is None for record in caplog.records)


def test_a_run_in_which_every_hospital_fails_ends_and_keeps_the_rounds_before() -> None:
    hospitals = three()
    run = run_of(hospitals)
    run.gather()
    rounds = run.rounds()
    next(rounds)
    kept = dict(run.weights)
    for hospital in hospitals:
        hospital.fails = True
    with pytest.raises(
        RunError,
        match=r"round 3: 0 of 3 hospitals .* and 2 are needed .*; missing: a, b, c",
    ):
        next(rounds)
    assert run.weights == kept
    assert run.figures_of_last_round()["federation"]["accuracy"] == 1.0
    assert run.figures_of_last_round()["federation"]["roc_auc"] is None


def test_too_few_hospitals_within_the_wait_is_one_line_that_counts_them() -> None:
    with pytest.raises(RunError, match="2 of 3 hospitals were connected"):
        run_of(three()[:2]).gather()


def test_a_hospital_that_declines_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(participants, "POLL_INTERVAL", 0.01)
    hospitals = three()
    hospitals[0].fails = True
    with pytest.raises(RunError, match="2 could take part"):
        run_of(hospitals).gather()
    assert caplog.text.count("left out") == 1


def test_waiting_is_never_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participants, "LOG_INTERVAL", 0.0)
    monkeypatch.setattr(participants, "POLL_INTERVAL", 0.001)
    words: list[str] = []
    with pytest.raises(RunError):
        run_of(three()[:1]).gather(words.append)
    assert len(words) >= 3
    assert words[0].startswith("waiting for hospitals: 1 of 3 are connected")


def test_a_hospital_cannot_weigh_more_than_it_declared(caplog: pytest.LogCaptureFixture) -> None:
    hospitals = three()
    hospitals[2].spoil = lambda update: replace(update, examples=10**12)
    run = run_of(hospitals)
    run.gather()
    next(run.rounds())
    assert shift_of(run) == pytest.approx((30 * 0.1 + 10 * 0.2) / 40, abs=1e-5)
    assert "c is left out: its num-examples is not the number of training rows that it registered" in caplog.text


def test_a_hospital_cannot_register_as_another_one(caplog: pytest.LogCaptureFixture) -> None:
    hospitals = three()
    hospitals[2].alias = "b"
    with pytest.raises(RunError, match="2 could take part"):
        run_of(hospitals).gather()
    assert "it registers under another name than it joined with" in caplog.text


class LateGrid(InProcessTransport):
    """A grid in which one hospital's registration is under way until the names have been read `looks` times."""

    looks = 8
    late: "tuple[Future[Message], Message] | None" = None

    def names(self) -> dict[int, str]:
        self.looks -= 1
        if self.late is not None and self.looks < 0:
            future, reply = self.late
            self.late = None
            future.set_result(reply)
        return super().names()

    def send(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        replies = super().send(messages)
        for key, message in messages.items():
            if message.metadata.dst_node_id == node_id_of("c") and self.looks > 0:
                self.late = Future(), replies[key].result()
                replies[key] = self.late[0]
        return replies


def test_a_hospital_that_registers_late_is_named_and_takes_part(caplog: pytest.LogCaptureFixture) -> None:
    grid = LateGrid(app_of({one.name: one for one in three()}), {name: hospital_context(name, {}) for name in "abc"})
    run = PlainRun(grid, replace(settings_of("fedavg"), wait=30.0, round_timeout=0.05))
    run.gather()
    assert set(run.registrations) == set("abc")
    assert list(run.problems.unanswered) == ["c"]
    assert "c is left out: it did not register within 0.05 s" in caplog.text


def test_a_pooled_auc_without_scores_of_a_class_is_not_defined() -> None:
    hospitals = three()
    for hospital in hospitals:
        hospital.silent = True
    figures = run_of(hospitals).run()
    assert figures["federation"]["roc_auc"] is None
    assert figures["federation"]["mean_roc_auc"] == 0.5


# The threshold


def three_with_scores() -> list[LightHospital]:
    """Each hospital alone would choose another threshold than all together, whose best one parts 0.5 from 0.

    From 0.25 on there are no alarms, and five of fifteen positives are missed: F1 is 20/25. From -2.5 on none is missed
    and there are ten alarms: 30/40.
    """
    hospitals = three()
    hospitals[0].cells = ((5, 2.0, 0.0), (5, -2.0, 0.0)), ((5, -1.0, 0.0),)
    hospitals[1].cells = ((5, 0.5, 0.0),), ()
    hospitals[2].cells = (), ((5, 0.0, 0.0),)
    return hospitals


CHOSEN = 0.5622  # 1 / (1 + exp(-0.25))


def test_the_threshold_is_chosen_from_all_hospitals_cells_and_told_to_all() -> None:
    hospitals = three_with_scores()
    run = run_of(hospitals)
    assert run.threshold == 0.5
    run.run()
    assert run.threshold == CHOSEN
    assert run.train_config().threshold == CHOSEN
    rounds = [*[("train", 0.5)] * 3, ("evaluate", 0.5)]
    for hospital in hospitals:
        assert hospital.told == [*rounds, ("evaluate.threshold", 0.5), ("evaluate.final", CHOSEN)]


def test_the_threshold_does_not_depend_on_the_order_of_hospitals() -> None:
    for order in ("cab", "bca"):
        run = run_of(three_with_scores(), order)
        run.run()
        assert run.threshold == CHOSEN


@pytest.mark.parametrize("keep", [0, 1])
def test_without_both_classes_the_threshold_stays(keep: int) -> None:
    hospitals = three_with_scores()
    for hospital in hospitals:
        hospital.cells = (hospital.cells[0], ()) if keep == 0 else ((), hospital.cells[1])
    run = run_of(hospitals)
    run.run()
    assert run.threshold == 0.5
    assert {hospital.told[-1] for hospital in hospitals} == {("evaluate.final", 0.5)}


def test_without_an_answer_the_threshold_stays() -> None:
    hospitals = three_with_scores()
    run = run_of(hospitals)
    run.gather()
    list(run.rounds())
    for hospital in hospitals:
        hospital.fails = True
    assert run.evaluate() == {"hospitals": {}, "federation": None}
    assert run.threshold == 0.5


def test_cells_of_more_rows_than_a_hospital_declared_have_no_say(caplog: pytest.LogCaptureFixture) -> None:
    hospitals = three_with_scores()
    hospitals[2].cells = ((6, 3.0, 0.0),), ()  # it declared five rows
    hospitals[1].cells = ((5, 0.5, 0.0),), ((5, 0.0, 0.0),)
    run = run_of(hospitals)
    figures = run.run()
    assert run.threshold == CHOSEN
    assert "c is left out: its cells hold more than the training rows that it registered" in caplog.text
    assert list(figures["hospitals"]) == ["a", "b", "c"]


def test_a_run_that_is_stopped_between_rounds_keeps_the_threshold_of_its_counts() -> None:
    hospitals = three_with_scores()
    run = run_of(hospitals)
    run.gather()
    next(run.rounds())
    run.figures_of_last_round()
    assert run.threshold == 0.5
    assert run.train_config().threshold == 0.5


def test_a_run_that_is_stopped_in_the_final_evaluation_keeps_the_threshold_of_its_counts() -> None:
    """Its figures are those of the last round, which were counted at 0.5."""
    hospitals = three_with_scores()
    hospitals[1].interrupted = True
    run = run_of(hospitals)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert hospitals[1].told[-1] == ("evaluate.final", CHOSEN)
    assert run.figures_of_last_round()["federation"]["accuracy"] == 1.0
    assert run.threshold == 0.5
    assert run.train_config().threshold == 0.5
