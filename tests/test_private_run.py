"""Runs with differential privacy, in process: what replies hold, what is spent, and what hospitals refuse."""

import random
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

import client
from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import write_agreement
from federated_health.errors import AnswerError, BudgetError, RunError
from federated_health.hospital import final_handlers, handlers
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.hospital.private_training import budget_of
from federated_health.hospital.results import save_results
from federated_health.messages.accepted_terms import accept
from federated_health.messages.content import Registration, TrainConfig, Update
from federated_health.messages.records import MalformedMessageError, weights_to_record
from federated_health.messages.run_terms import RUN_TERMS, RunTerms
from federated_health.messages.server_messages import read_train_config
from federated_health.messages.validation import read_update
from federated_health.ml.model_files import read_description
from federated_health.ml.networks import Network, Weights, initial_weights, weights_hash
from federated_health.ml.normalisation import public_normalisation
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.names import ALLOWED_EPSILON, node_id_of
from federated_health.server.checkpoint import CheckpointFolder
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.interface import error_reply
from tests.support.power_cuts import nothing_lost
from tests.test_handlers import TRAIN_CONFIG as PLAIN_TRAIN_CONFIG

NAMES = ("cleveland", "hungary", "switzerland", "va-long-beach")


@pytest.fixture(scope="module")
def hospitals(hospitals_folder: Path) -> list[Hospital]:
    return [
        load_hospital(hospitals_folder / f"client_{number}.csv", HEART_DISEASE, name, 42)
        for number, name in enumerate(NAMES, start=1)
    ]


class RecordingTransport(InProcessTransport):
    """Records messages and replies; a reply whose hospital and message type are in `lost` is lost once."""

    def __init__(self, contexts: dict[str, Context]) -> None:
        super().__init__(client.app, contexts)
        self.kinds: set[str] = set()
        self.replies: list[Message] = []
        self.lost: list[tuple[str, str]] = []

    def send(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        futures = super().send(messages)
        for key, message in messages.items():
            name, kind = self.names()[message.metadata.dst_node_id], message.metadata.message_type
            self.kinds.add(kind)
            self.replies.append(futures[key].result())
            if (name, kind) in self.lost:
                self.lost.remove((name, kind))
                futures[key] = Future()
                futures[key].set_result(error_reply(message, "lost"))
        return futures


def settings_of(**changed: Any) -> Settings:
    changed = {"hospitals": 4, "rounds": 3, "dp-epsilon": 4.0, "wait": 5.0, "model": "logistic", **changed}
    return Settings.from_config({**changed})


def grid_of(hospitals: Iterable[Hospital]) -> tuple[RecordingTransport, dict[str, InMemoryHospital]]:
    contexts = {hospital.name: InMemoryHospital(hospital) for hospital in hospitals}
    return RecordingTransport(dict(contexts)), contexts


def spent_rounds(contexts: dict[str, InMemoryHospital]) -> dict[str, int]:
    return {name: budget_of(context).summary().rounds for name, context in contexts.items()}


def train_privately_at(hospital: Hospital, weights: Weights, plan: PrivacyPlan) -> Weights:
    """A round's noisy steps of a logistic model on a hospital's training rows, as its handler calls them."""
    from federated_health.hospital.local_model import LocalModel  # brings TensorFlow
    from federated_health.privacy.training import train_privately

    local = LocalModel(hospital, Network("logistic"), public_normalisation(HEART_DISEASE.measurements))
    rows = hospital.train
    arguments = HEART_DISEASE, Network("logistic"), weights, local.train_features, rows.labels, rows.number_patients()
    return train_privately(*arguments, plan, l2=0.0)


# What leaves


@pytest.mark.slow
def test_rows_leave_as_noisy_weights_row_counts_and_one_table_of_noisy_counts(hospitals: list[Hospital]) -> None:
    grid, contexts = grid_of(hospitals)
    federated_run = PlainRun(grid, settings_of(appraisal=True))

    figures = federated_run.run()

    assert grid.kinds == {"query.statistics", "train", "evaluate.final"}
    for reply in grid.replies:
        metrics = reply.content.metric_records["metrics"]
        match reply.metadata.message_type:
            case "query.statistics":
                assert set(metrics) - {"equal-weight"} == {"train-examples", "test-examples"}
            case "train":
                assert set(metrics) - {"equal-weight"} == {"num-examples"}
            case "evaluate.final":
                assert set(metrics) - {"equal-weight"} == {"noisy-counts"}
                assert len(list(metrics["noisy-counts"])) == 16  # type: ignore[arg-type]  # a list
    assert spent_rounds(contexts) == dict.fromkeys(NAMES, 3)
    assert federated_run.normalisation == public_normalisation(HEART_DISEASE.measurements)
    assert federated_run.threshold == 0.5
    assert {completed.federation.train_loss for completed in federated_run.history} == {None}
    assert not {"joining", "importance", "observed"} & set(figures)
    assert {completed.federation.counts for completed in federated_run.history} == {None}
    federation = figures["federation"]
    assert abs(federation["roc_auc"] - 0.85) < 0.15 + 6 * federation["roc_auc_noise"]


@pytest.mark.slow
def test_no_seed_repeats_noise_or_samples(hospitals: list[Hospital]) -> None:
    from federated_health.ml.backend import load_tensorflow

    def trained() -> Weights:
        random.seed(1)
        np.random.seed(1)
        load_tensorflow().random.set_seed(1)
        grid, _ = grid_of(hospitals[2:3])
        federated_run = PlainRun(grid, settings_of(hospitals=1, rounds=1))
        federated_run.run()
        return federated_run.weights

    first, second = trained(), trained()

    assert all(not np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_the_scatter_of_the_weights_is_that_of_the_noise_multiplier(hospitals: list[Hospital]) -> None:
    plan = PLAN
    start = initial_weights(HEART_DISEASE, Network("logistic"), 1)
    draws = [train_privately_at(hospitals[2], start, plan) for _ in range(150)]  # 42 weights: a deviation of 0.9 %

    steps = np.stack([np.concatenate([draw[name].ravel() - start[name].ravel() for name in start]) for draw in draws])
    rows = len(hospitals[2].train)
    noise = plan.learning_rate * plan.noise_multiplier * plan.clip / (plan.sampling_rate * rows)
    # Sampling adds to the scatter: by at most a quarter of the clipped gradients' squares, all rows together.
    sampling = plan.learning_rate * plan.clip * np.sqrt(rows / 4) / (plan.sampling_rate * rows)
    total = np.sqrt((steps.std(axis=0) ** 2).sum())
    size = np.sqrt(steps.shape[1])
    assert 0.95 * noise * size < total < 1.05 * np.sqrt((noise * size) ** 2 + sampling**2)


@pytest.mark.slow
def test_each_step_samples_patients_anew_at_the_sampling_rate(
    hospitals: list[Hospital], monkeypatch: pytest.MonkeyPatch
) -> None:
    from federated_health.privacy import training
    from federated_health.privacy.entropy import poisson_sample as draw

    rates = []

    def silence(_: float, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape)

    def sample(rows: int, rate: float, steps: int) -> np.ndarray:
        drawn = draw(rows, rate, steps)
        rates.append(drawn.mean())
        return drawn

    monkeypatch.setattr(training, "gaussian_noise", silence)
    start, plan = initial_weights(HEART_DISEASE, Network("logistic"), 1), replace(PLAN, sampling_rate=0.25)

    first, second = (train_privately_at(hospitals[0], start, plan) for _ in range(2))

    assert all(not np.array_equal(first[name], second[name]) for name in first)
    monkeypatch.setattr(training, "poisson_sample", sample)
    for _ in range(40):
        train_privately_at(hospitals[0], start, plan)
    assert np.mean(rates) == pytest.approx(0.25, abs=0.02)  # 40 times 227 patients


@pytest.mark.slow
def test_a_hospital_saves_the_model_and_a_report_with_its_own_budget(hospitals: list[Hospital], tmp_path: Path) -> None:
    grid, contexts = grid_of(hospitals)
    federated_run = PlainRun(grid, settings_of())
    federated_run.run()
    model = final_handlers.final_model(contexts["hungary"])
    assert model is not None

    with nothing_lost(tmp_path):
        assert save_results(tmp_path, contexts["hungary"], *model) == "model.keras, metrics.json, report.html, tables/"

    assert read_description(tmp_path / "model.keras")["weights_sha256"] == weights_hash(federated_run.weights)
    assert "sites" not in read_description(tmp_path / "model.keras")  # no budget accounts for a recalibration
    report = (tmp_path / "report.html").read_text()
    summary = budget_of(contexts["hungary"]).summary()
    assert f"epsilon {summary.epsilon_of_side('training'):.4g} on the training patients" in report
    assert f"epsilon {summary.epsilon_of_side('held-out'):.4g} on the held-out patients" in report
    assert "(4, 1e-05)-differential privacy" in report
    assert not any(name in report for name in NAMES if name != "hungary")


# What is spent


@pytest.mark.slow
def test_a_repeated_round_is_spent_again(hospitals: list[Hospital]) -> None:
    grid, contexts = grid_of(hospitals)
    grid.lost = [("hungary", "train")]

    PlainRun(grid, settings_of(**{"min-hospitals": 4})).run()

    assert spent_rounds(contexts) == dict.fromkeys(NAMES, 4)  # the others trained again, too


@pytest.mark.slow
def test_a_hospital_with_a_spent_budget_does_not_train(hospitals: list[Hospital]) -> None:
    grid, contexts = grid_of(hospitals)
    federated_run = PlainRun(grid, settings_of(**{"dp-spare-rounds": 0}))
    federated_run.gather()
    assert federated_run.privacy is not None
    budget_of(contexts["hungary"]).spend(federated_run.privacy)

    for _ in federated_run.rounds():
        pass

    assert ["hungary" in completed.hospitals for completed in federated_run.history] == [True, True, False]
    assert list(federated_run.problems.to_json()["unanswered"]) == ["hungary"]


@pytest.mark.slow
def test_a_round_is_recorded_before_its_noise_is_drawn(
    hospitals: list[Hospital], monkeypatch: pytest.MonkeyPatch
) -> None:
    from federated_health.privacy import training
    from federated_health.privacy.entropy import gaussian_noise as draw

    grid, contexts = grid_of(hospitals[2:3])
    recorded: list[int] = []

    def record(*arguments: Any) -> Any:
        recorded.append(spent_rounds(contexts)["switzerland"])
        return draw(*arguments)

    monkeypatch.setattr(training, "gaussian_noise", record)

    PlainRun(grid, settings_of(hospitals=1, rounds=2)).run()

    assert sorted(set(recorded)) == [1, 2]
    assert recorded == sorted(recorded)


@pytest.mark.slow
def test_a_resumed_run_spends_the_rest_of_its_budget(hospitals: list[Hospital], tmp_path: Path) -> None:
    grid, contexts = grid_of(hospitals)
    chosen = settings_of(**{"dp-spare-rounds": 0})
    first = PlainRun(grid, chosen)
    first.gather()
    next(first.rounds())
    folder = CheckpointFolder(tmp_path)
    folder.save(first.checkpoint())

    second = PlainRun(grid, chosen)
    second.resume(CheckpointFolder(tmp_path).load())
    second.run()

    assert second.privacy == first.privacy
    assert spent_rounds(contexts) == dict.fromkeys(NAMES, 3)
    with pytest.raises(RunError, match="0 could take part"):  # no budget is left for another run
        PlainRun(grid, replace(chosen, wait=0.2)).run()


# What a hospital refuses

PLAN = PrivacyPlan(
    epsilon=2.0,
    delta=1e-5,
    clip=0.5,
    sampling_rate=0.5,
    steps=1,
    learning_rate=1.0,
    rounds=3,
    run="0123456789abcdef",
)
TRAIN_CONFIG = replace(PLAIN_TRAIN_CONFIG, rounds=0, threshold=0.5, privacy=PLAN)


def request(kind: str, train_config: TrainConfig = TRAIN_CONFIG) -> Message:
    weights = weights_to_record(initial_weights(HEART_DISEASE, Network("logistic"), 1))
    return Message(RecordDict({"arrays": weights, "config": train_config.to_record()}), node_id_of("cleveland"), kind)


def registration_request(plan: PrivacyPlan | None) -> Message:
    agreement = {
        "task": "heart-disease",
        "schema": HEART_DISEASE.schema_hash,
        "terms": write_agreement(HEART_DISEASE.agreement),
    }
    message = request("query.statistics")
    config = message.content.config_records["config"]
    config.clear()
    config.update({**agreement, **(plan.to_config() if plan else {})})
    return message


@pytest.fixture
def cleveland(hospitals: list[Hospital]) -> InMemoryHospital:
    context = InMemoryHospital(hospitals[0])
    InProcessTransport(client.app, {"cleveland": context})  # gives this process the identity that messages need
    return context


def join(context: InMemoryHospital, plan: PrivacyPlan | None = PLAN) -> Registration:
    return handlers.register(registration_request(plan), context)


def test_a_repeated_registration_spends_nothing_and_keeps_the_plan(cleveland: InMemoryHospital) -> None:
    first = join(cleveland)
    budget_of(cleveland).spend(PLAN)
    again = join(cleveland)
    assert again.to_content() == first.to_content()
    assert budget_of(cleveland).summary().rounds == 1


def test_the_terms_of_one_run_are_not_spent_on_another(cleveland: InMemoryHospital) -> None:
    """A server that registers the hospital again under another run's number would else spend epsilon once more."""
    cleveland.node_config[ALLOWED_EPSILON] = 100.0
    terms = RunTerms.of(settings_of(**{"dp-epsilon": PLAN.epsilon})).text
    accept(cleveland, terms, "asked")
    first, second = (registration_request(replace(PLAN, run=digit * 16)) for digit in "ab")
    for message in (first, second):
        message.content.config_records["config"][RUN_TERMS] = terms

    handlers.register(first, cleveland)
    handlers.register(second, cleveland)  # nothing was spent on the first one, such as one that ended at once
    budget_of(cleveland).spend(replace(PLAN, run="b" * 16), 100.0)
    with pytest.raises(BudgetError, match="another run"):
        handlers.register(first, cleveland)
    handlers.register(second, cleveland)

    accept(cleveland, terms, "asked")  # anew
    handlers.register(first, cleveland)


@pytest.mark.parametrize("handler", [final_handlers.score_training_rows, final_handlers.report_benefit])
def test_messages_that_no_budget_accounts_for_are_refused(cleveland: InMemoryHospital, handler: Any) -> None:
    join(cleveland)
    with pytest.raises(BudgetError, match="no privacy budget accounts for it"):
        handler(request("evaluate"), cleveland)


ALL = (
    handlers.train,
    handlers.evaluate,
    final_handlers.score_training_rows,
    final_handlers.evaluate_final,
    final_handlers.report_benefit,
)


@pytest.mark.parametrize("handler", ALL)
@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (None, "joined a run with differential privacy"),
        (replace(PLAN, epsilon=3.0), "not the one with which it joined"),
        (replace(PLAN, clip=0.6), "not the one with which it joined"),
        (replace(PLAN, learning_rate=2.0), "not the one with which it joined"),
        (replace(PLAN, run="f" * 16), "not the one with which it joined"),
    ],
)
def test_a_message_with_another_plan_is_refused(
    cleveland: InMemoryHospital, handler: Any, plan: PrivacyPlan | None, words: str
) -> None:
    join(cleveland)
    with pytest.raises(BudgetError, match=words):
        handler(request("train", replace(TRAIN_CONFIG, privacy=plan)), cleveland)
    assert budget_of(cleveland).summary().rounds == 0


@pytest.mark.parametrize("handler", ALL)
def test_a_message_with_a_plan_is_refused_in_a_run_without_one(cleveland: InMemoryHospital, handler: Any) -> None:
    join(cleveland, None)
    with pytest.raises(BudgetError, match="not the one with which it joined"):
        handler(request("train"), cleveland)


def test_a_hospital_that_joined_with_a_plan_does_not_rejoin_without(cleveland: InMemoryHospital) -> None:
    assert not join(cleveland).sums.total.any()
    assert not join(cleveland).associations.size
    with pytest.raises(BudgetError, match="joined a run with differential privacy"):
        join(cleveland, None)
    assert not join(cleveland).sums.total.any()


@pytest.mark.parametrize("handler", ALL)
def test_a_hospital_with_a_budget_refuses_runs_without_privacy(cleveland: InMemoryHospital, handler: Any) -> None:
    cleveland.node_config[ALLOWED_EPSILON] = 3.0
    with pytest.raises(BudgetError, match="only in runs with differential privacy"):
        join(cleveland, None)
    with pytest.raises(BudgetError, match="only in runs with differential privacy"):
        handler(request("train", replace(TRAIN_CONFIG, privacy=None)), cleveland)
    join(cleveland)


def test_a_run_that_costs_more_than_the_hospital_allows_is_refused(cleveland: InMemoryHospital) -> None:
    cleveland.node_config[ALLOWED_EPSILON] = 1.9
    with pytest.raises(BudgetError, match=r"of 1\.9 is spent"):
        join(cleveland)


def test_the_server_receives_the_reason_of_a_refusal(cleveland: InMemoryHospital) -> None:
    client.app(request("query.statistics"), cleveland)
    with pytest.raises(AnswerError, match=r"threshold.*no privacy budget"):
        client.app(request("evaluate.threshold"), cleveland)


@pytest.mark.parametrize("private", [False, True])
def test_an_update_has_a_loss_only_without_differential_privacy(private: bool) -> None:
    weights = initial_weights(HEART_DISEASE, Network("logistic"), 1)
    shapes = {name: array.shape for name, array in weights.items()}
    without, with_loss = (Update(weights=weights, examples=5, loss=loss).to_content() for loss in (None, 0.5))

    update = read_update(without if private else with_loss, shapes, 5, private=private)

    assert (update.loss, update.examples) == (None if private else 0.5, 5)
    with pytest.raises(MalformedMessageError, match="its metrics are not"):
        read_update(with_loss if private else without, shapes, 5, private=private)


def test_a_train_config_carries_the_plan_only_if_there_is_one() -> None:
    assert read_train_config(TRAIN_CONFIG.to_record()) == TRAIN_CONFIG
    plain = replace(TRAIN_CONFIG, privacy=None)
    assert not any(name.startswith("dp-") for name in plain.to_record())
    assert read_train_config(plain.to_record()) == plain
