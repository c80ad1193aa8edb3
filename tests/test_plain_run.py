"""The loop over rounds of a plain run, with light hospitals whose weights and counts are known."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Message

from federated_health.errors import RunError
from federated_health.messages.content import Update
from federated_health.ml.strategies import STRATEGIES
from federated_health.names import node_id_of
from federated_health.server import participants
from federated_health.server.plain_run import PlainRun
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from tests.support.light_hospitals import (
    CENTRES,
    CHOSEN,
    MEASUREMENTS,
    app_of,
    run_of,
    settings_of,
    shift_of,
    three,
    three_with_scores,
)

MOVES = {
    "fedavg": 3 * (30 * 0.1 + 10 * 0.2 + 5 * 0.7) / 45,
    "average": 3 * (0.1 + 0.2 + 0.7) / 3,
    "fedprox": 3 * (30 * 0.1 + 10 * 0.2 + 5 * 0.7) / 45,
    "fedmedian": 3 * 0.2,
    "trimmed": 3 * 0.2,
    "krum": 3 * 0.1,  # as near to its neighbour as b, and first by name
    "multikrum": 3 * (0.1 + 0.2 + 0.7) / 3,
    "bulyan": 3 * (0.1 + 0.2 + 0.7) / 3,
}
"""How far three rounds move every weight, worked out by hand."""


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_and_moves_the_weights(strategy: str) -> None:
    run = run_of(three(), strategy=strategy)
    figures = run.run()
    assert figures["federation"]["train_examples"] == 45
    if strategy in MOVES:
        assert shift_of(run) == pytest.approx(MOVES[strategy], abs=1e-5)
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
def test_train_messages_hold_the_weight_of_the_proximal_term(strategy: str, text: str, mu: float) -> None:
    hospitals = three()
    run = run_of(hospitals, strategy=strategy, text=text)
    run.run()
    assert [hospital.proximal_mus for hospital in hospitals] == [[mu] * 3] * 3
    assert (run.train_config().strategy, run.train_config().strategy_args) == (strategy, text)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_round_with_fewer_updates_than_the_strategy_needs_ends_the_run(strategy: str) -> None:
    hospitals = three()
    run = run_of(hospitals, strategy=strategy, wait=0.02)
    run.gather()
    rounds = run.rounds()
    next(rounds)
    hospitals[2].fails = True  # it has trained in round 2, and will not evaluate the average of that round
    second = next(rounds)
    assert second.hospitals["c"].train_loss == 1.0
    assert [name for name, figures in second.hospitals.items() if figures.counts] == ["a", "b"]
    weights = dict(run.weights)
    if strategy not in {"fedmedian", "trimmed", "krum", "multikrum", "bulyan"}:
        assert list(next(rounds).hospitals) == ["a", "b"]
        return
    with pytest.raises(RunError, match=rf"round 3: 2 of 3 .* 3 are needed \({strategy}: .*missing: c$"):
        next(rounds)
    assert run.weights == weights
    assert run.figures_of_last_round()["federation"]["accuracy"] == 1.0


def test_an_average_that_is_not_finite_ends_the_run_with_advice() -> None:
    hospitals = three()
    for hospital in hospitals:
        hospital.spoil = lambda update: replace(
            update, weights={name: np.full_like(array, 1e38) for name, array in update.weights.items()}
        )
    run = run_of(hospitals, strategy="fedavgm", text="server-learning-rate=10")
    run.gather()
    with pytest.raises(RunError, match=r"diverged.* --learning-rate"):
        next(run.rounds())
    assert run.last_round is None


def with_nan_weights(update: Update) -> Update:
    return replace(update, weights={name: np.full_like(array, np.nan) for name, array in update.weights.items()})


def with_infinite_loss(update: Update) -> Update:
    return replace(update, loss=float("inf"))


@pytest.mark.parametrize("spoil", [with_nan_weights, with_infinite_loss])
def test_a_run_whose_hospitals_all_diverge_ends_at_once_with_advice(spoil: Callable[[Update], Update]) -> None:
    hospitals = three()
    for hospital in hospitals:
        hospital.spoil = spoil
    run = run_of(hospitals, wait=60.0)
    run.gather()
    with pytest.raises(
        RunError, match=r"^round 1: training diverged at every hospital; try a smaller --learning-rate$"
    ):
        next(run.rounds())
    assert run.problems.rejected.keys() == {"a", "b", "c"}


def test_a_run_ends_at_once_when_too_many_hospitals_diverge_for_any_round_to_complete() -> None:
    hospitals = three()
    hospitals[0].spoil = hospitals[2].spoil = with_nan_weights
    run = run_of(hospitals, wait=60.0)
    run.gather()
    with pytest.raises(RunError, match=r"^round 1: training diverged at a, c; try a smaller --learning-rate$"):
        next(run.rounds())
    assert run.problems.repeated_rounds == 0


def test_a_run_goes_on_when_only_some_hospitals_diverge_or_fail() -> None:
    hospitals = three()
    hospitals[0].spoil = lambda update: replace(update, loss=float("nan"))
    run = run_of(hospitals)
    run.run()
    assert run.last_round is not None
    assert run.last_round.number == 3
    trained = [name for name, figures in run.last_round.hospitals.items() if figures.train_loss is not None]
    assert trained == ["b", "c"]


def test_the_normalisation_is_that_of_all_rows_together() -> None:
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


def test_final_figures_of_the_federation_come_from_merged_counts() -> None:
    figures = run_of(three()).run()
    assert figures["hospitals"]["c"]["precision"] == pytest.approx(5 / 6)
    assert figures["federation"]["precision"] == pytest.approx(45 / 48)  # the mean of the three would be 0.903
    assert figures["federation"]["mean_roc_auc"] == 0.5
    assert figures["federation"]["roc_auc"] == pytest.approx(0.5)
    assert figures["federation"]["brier"] == pytest.approx(3 / 90)


def test_rounds_continue_without_a_failing_hospital_and_its_log_has_the_error_without_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hospitals = three()
    run = run_of(hospitals)
    run.gather()
    rounds = run.rounds()
    next(rounds)
    hospitals[2].fails = True
    assert [name for name, figures in next(rounds).hospitals.items() if figures.counts] == ["a", "b"]
    assert list(next(rounds).hospitals) == ["a", "b"]
    assert "c is left out: OSError at the hospital" in caplog.text
    assert "train failed: OSError: the disk of patient '#' is gone" in caplog.text
    assert "Smith" not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)


def test_a_run_whose_hospitals_all_fail_ends_with_the_rounds_before() -> None:
    hospitals = three()
    run = run_of(hospitals, wait=60.0)
    run.gather()
    rounds = run.rounds()
    next(rounds)
    weights = dict(run.weights)
    for hospital in hospitals:
        hospital.fails = True
    with pytest.raises(RunError, match=r"round 3: every hospital failed twice .*: a, b, c: OSError"):
        next(rounds)
    assert run.weights == weights
    assert run.figures_of_last_round()["federation"]["accuracy"] == 1.0
    assert run.figures_of_last_round()["federation"]["roc_auc"] is None


def test_a_run_that_too_few_hospitals_join_within_the_wait_does_not_begin() -> None:
    with pytest.raises(RunError, match="2 of 3 hospitals were connected"):
        run_of(three()[:2], wait=0.001).gather()


def test_a_hospital_that_cannot_register_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(participants, "POLL_INTERVAL", 0.01)
    hospitals = three()
    hospitals[0].fails = True
    with pytest.raises(RunError, match="2 could take part"):
        run_of(hospitals, wait=0.1).gather()
    assert caplog.text.count("left out") == 1


def test_a_wait_for_hospitals_is_announced_at_every_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participants, "LOG_INTERVAL", 0.0)
    monkeypatch.setattr(participants, "POLL_INTERVAL", 0.001)
    lines: list[str] = []
    with pytest.raises(RunError):
        run_of(three()[:1], wait=0.1).gather(lines.append)
    assert len(lines) >= 3
    assert all("1 of 3 are connected" in line for line in lines)


def test_an_update_of_more_rows_than_its_hospital_registered_is_rejected() -> None:
    hospitals = three()
    hospitals[2].spoil = lambda update: replace(update, examples=10**12)
    run = run_of(hospitals)
    run.gather()
    next(run.rounds())
    assert shift_of(run) == pytest.approx((30 * 0.1 + 10 * 0.2) / 40, abs=1e-5)
    (reason,) = run.problems.rejected["c"]
    assert "num-examples" in reason


def test_a_hospital_cannot_register_under_the_name_of_another() -> None:
    hospitals = three()
    hospitals[2].alias = "b"
    run = run_of(hospitals, wait=0.001)
    with pytest.raises(RunError, match="2 could take part"):
        run.gather()
    (reason,) = run.problems.rejected["c"]
    assert "another name" in reason


class LateGrid(InProcessTransport):
    """A transport over which one hospital's registration arrives once the names have been read `looks` times."""

    looks = 12
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


def test_a_hospital_that_registers_late_is_reported_and_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participants, "POLL_INTERVAL", 0.01)
    app = app_of({hospital.name: hospital for hospital in three()})
    grid = LateGrid(app, {name: hospital_context(name, {}) for name in "abc"})
    run = PlainRun(grid, settings_of("fedavg", wait=30.0, round_timeout=0.005))
    run.gather()
    assert set(run.registrations) == set("abc")
    assert [(name, "did not register" in reason) for name, (reason,) in run.problems.unanswered.items()] == [
        ("c", True)
    ]


def test_the_federation_has_no_roc_auc_without_scores_of_a_class() -> None:
    hospitals = three()
    for hospital in hospitals:
        hospital.hides_negatives = True
    figures = run_of(hospitals).run()
    assert figures["federation"]["roc_auc"] is None
    assert figures["federation"]["mean_roc_auc"] == 0.5


# The threshold


def test_the_threshold_is_chosen_from_the_scores_of_all_hospitals_and_sent_to_all() -> None:
    hospitals = three_with_scores()
    run = run_of(hospitals)
    assert run.threshold == 0.5
    run.run()
    assert run.threshold == CHOSEN
    assert run.train_config().threshold == CHOSEN
    rounds = [*[("train", 0.5)] * 3, ("evaluate", 0.5)]
    for hospital in hospitals:
        assert hospital.thresholds == [*rounds, ("evaluate.threshold", 0.5), ("evaluate.final", CHOSEN)]


def test_final_weights_and_threshold_do_not_depend_to_the_bit_on_the_order_of_joining() -> None:
    runs = [run_of(three_with_scores(), order) for order in ("abc", "cab", "bca")]
    for run in runs:
        run.run()
        assert run.threshold == CHOSEN
        assert all(run.weights[name].tobytes() == array.tobytes() for name, array in runs[0].weights.items())


@pytest.mark.parametrize("label", [1, 0])
def test_the_threshold_stays_at_a_half_without_both_classes(label: int) -> None:
    hospitals = three_with_scores()
    for hospital in hospitals:
        hospital.cells = (hospital.cells[0], ()) if label == 1 else ((), hospital.cells[1])
    run = run_of(hospitals)
    run.run()
    assert run.threshold == 0.5
    assert {hospital.thresholds[-1] for hospital in hospitals} == {("evaluate.final", 0.5)}


def test_the_threshold_stays_at_a_half_without_replies() -> None:
    hospitals = three_with_scores()
    run = run_of(hospitals, wait=0.02)
    run.gather()
    list(run.rounds())
    for hospital in hospitals:
        hospital.fails = True
    assert run.evaluate() == {"hospitals": {}, "federation": None}
    assert run.threshold == 0.5


def test_scores_of_more_rows_than_a_hospital_registered_do_not_move_the_threshold() -> None:
    hospitals = three_with_scores()
    hospitals[2].cells = ((6, 3.0, 0.0),), ()  # it registered five rows
    hospitals[1].cells = ((5, 0.5, 0.0),), ((5, 0.0, 0.0),)
    run = run_of(hospitals)
    figures = run.run()
    assert run.threshold == CHOSEN
    (reason,) = run.problems.rejected["c"]
    assert "score groups hold more than the training rows" in reason
    assert list(figures["hospitals"]) == ["a", "b", "c"]


def test_a_run_stopped_between_rounds_keeps_the_threshold_of_its_counts() -> None:
    hospitals = three_with_scores()
    run = run_of(hospitals)
    run.gather()
    next(run.rounds())
    run.figures_of_last_round()
    assert run.threshold == 0.5
    assert run.train_config().threshold == 0.5


def test_a_run_stopped_in_the_final_evaluation_keeps_the_threshold_of_its_counts() -> None:
    """Its figures are those of the last round, which were counted at 0.5."""
    hospitals = three_with_scores()
    hospitals[1].interrupted = True
    run = run_of(hospitals)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert hospitals[1].thresholds[-1] == ("evaluate.final", CHOSEN)
    assert run.figures_of_last_round()["federation"]["accuracy"] == 1.0
    assert run.threshold == 0.5
    assert run.train_config().threshold == 0.5
