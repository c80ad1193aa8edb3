"""The final evaluation under differential privacy: released once, recorded first; and what it tells of who is in it."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import Context, Message, RecordDict

import client
from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import BudgetError
from federated_health.hospital import final_handlers, handlers
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.hospital.private_training import budget_of
from federated_health.hospital.results import save_results
from federated_health.messages.content import TrainConfig
from federated_health.messages.records import weights_from_record, weights_to_record
from federated_health.ml.model_files import read_description
from federated_health.ml.networks import Network, Weights, initial_weights, weight_shapes, weights_hash
from federated_health.ml.noisy_evaluation import EDGES, count_rows
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.ml.scores import roc_auc
from federated_health.ml.targets import target_of
from federated_health.names import node_id_of
from federated_health.privacy.spending import digest_of_split
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from tests.support.targets import hospitals_of
from tests.test_private_run import PLAN, TRAIN_CONFIG, RecordingTransport, join, settings_of

TARGET = target_of(HEART_DISEASE)
NETWORK = Network("logistic")


@pytest.fixture(scope="module")
def switzerland(hospitals_folder: Path) -> Hospital:
    return load_hospital(hospitals_folder / "client_3.csv", HEART_DISEASE, "switzerland", 42)


@pytest.fixture
def context(switzerland: Hospital) -> InMemoryHospital:
    context = InMemoryHospital(switzerland)
    InProcessTransport(client.app, {"switzerland": context})  # gives this process the identity that messages need
    join(context)
    return context


def weights_of(seed: int) -> Weights:
    return initial_weights(HEART_DISEASE, NETWORK, seed)


def question(kind: str = "evaluate.final", seed: int = 1, config: TrainConfig = TRAIN_CONFIG) -> Message:
    content = RecordDict({"arrays": weights_to_record(weights_of(seed)), "config": config.to_record()})
    return Message(content, node_id_of("switzerland"), kind)


def spent_evaluations(context: InMemoryHospital) -> int:
    return sum(run.is_evaluated for run in budget_of(context).summary().runs.values())


# Once


@pytest.mark.slow
def test_the_same_question_has_the_same_answer_and_is_spent_once(context: InMemoryHospital) -> None:
    first, second = (final_handlers.evaluate_final(question(), context) for _ in range(2))
    assert len(first.noisy_counts) == 2 * (len(EDGES) + 1)
    assert first == second
    assert spent_evaluations(context) == 1


@pytest.mark.slow
def test_another_question_is_refused(context: InMemoryHospital) -> None:
    final_handlers.evaluate_final(question(), context)
    others = question(seed=2), question(config=replace(TRAIN_CONFIG, threshold=0.4))
    for other in others:
        with pytest.raises(BudgetError, match="expected one final evaluation"):
            final_handlers.evaluate_final(other, context)


@pytest.mark.slow
def test_after_a_restart_nothing_more_is_released_but_the_model_is_kept(
    switzerland: Hospital, context: InMemoryHospital, tmp_path: Path
) -> None:
    final_handlers.evaluate_final(question(), context)
    restarted = InMemoryHospital(switzerland)
    restarted.budget = context.budget
    restarted.node_config["name"] = "switzerland"
    join(restarted)

    with pytest.raises(BudgetError, match="released before"):
        final_handlers.evaluate_final(question(), restarted)

    model = final_handlers.final_model(restarted)
    assert model is not None
    assert save_results(tmp_path, restarted, *model) == "model.keras, metrics.json, report.html, tables/"
    assert read_description(tmp_path / "model.keras")["weights_sha256"] == weights_hash(weights_of(1))


@pytest.mark.slow
def test_the_evaluation_is_recorded_before_its_noise_is_drawn(
    context: InMemoryHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    from federated_health.privacy import evaluation
    from federated_health.privacy.entropy import gaussian_noise as draw

    recorded = []

    def record(*arguments: Any) -> Any:
        recorded.append(spent_evaluations(context))
        return draw(*arguments)

    monkeypatch.setattr(evaluation, "gaussian_noise", record)
    final_handlers.evaluate_final(question(), context)
    assert recorded == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("context")
def test_the_noise_of_the_counts_is_that_of_the_plan(switzerland: Hospital) -> None:
    local = handlers.local_model(switzerland, NETWORK, TRAIN_CONFIG.normalisation)
    rows = switzerland.test
    exact = count_rows(TARGET, local.score(weights_of(1)), rows.labels, rows.number_patients(), 1.0)
    noise = []
    for number in range(60):
        other = InMemoryHospital(switzerland)
        plan = replace(PLAN, run=f"{number:016x}")
        join(other, plan)
        answer = final_handlers.evaluate_final(question(config=replace(TRAIN_CONFIG, privacy=plan)), other)
        noise.append(np.array(answer.noisy_counts) - exact.ravel())
    # Standard error of the deviation of 960 draws: 2.3 %.
    assert np.std(noise) == pytest.approx(PLAN.evaluation_noise, rel=7 * 0.023)
    assert abs(np.mean(noise)) < 7 * PLAN.evaluation_noise / np.sqrt(960)


@pytest.mark.slow
def test_no_held_out_row_is_evaluated_before_the_end(context: InMemoryHospital) -> None:
    asked = question("train")
    asked.content.config_records["config"]["evaluate-first"] = True
    for message, handler in ((question("evaluate"), handlers.evaluate), (asked, handlers.train)):
        with pytest.raises(BudgetError, match="no privacy budget accounts for it"):
            handler(message, context)
    assert budget_of(context).summary().rounds == 0


def test_the_account_tells_whether_runs_held_out_the_same_patients(hospitals_folder: Path) -> None:
    first, again, other = (
        load_hospital(hospitals_folder / "client_3.csv", HEART_DISEASE, name, seed)
        for name, seed in (("a", 42), ("b", 42), ("a", 43))
    )
    assert first is not again
    assert digest_of_split(first) == digest_of_split(again) != digest_of_split(other)
    assert len(digest_of_split(first)) == 16


# Other labels


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "number"])
def test_figures_of_other_labels_are_of_noisy_counts_or_none(kind: str) -> None:
    contexts = {hospital.name: InMemoryHospital(hospital) for hospital in hospitals_of(kind)}
    grid = RecordingTransport(dict(contexts))
    task = next(iter(contexts.values())).hospital.task
    config: dict[str, Any] = {
        "dp-epsilon": 8.0,
        "rounds": 2,
        "hospitals": len(contexts),
        "model": "logistic",
        "appraisal": False,
    }
    run = PlainRun(grid, Settings.from_config(config, declared_task=task))

    announced: list[str] = []
    run.gather(announced.append)
    for _ in run.rounds():
        pass
    figures = run.evaluate()

    assert any("no figure" in line for line in announced) == (kind == "number")
    last = [reply.content.metric_records["metrics"] for reply in grid.replies if "final" in reply.metadata.message_type]
    if kind == "classes":
        assert all(set(metrics) - {"equal-weight"} == {"noisy-counts"} for metrics in last)
        assert figures["federation"]["accuracy_noise"] > 0
    else:
        assert all(metrics["num-examples"] == 0 for metrics in last)
        assert {value for name, value in figures["federation"].items() if name not in ROWS} == {None}
    assert [spent_evaluations(context) for context in contexts.values()] == [kind == "classes"] * len(contexts)


ROWS = ("train_examples", "test_examples")


# Who is held out


def replies_of(hospital: Hospital, **changed: Any) -> tuple[list[tuple[Weights, dict[str, Any]]], PlainRun]:
    """The weights and the metrics of every reply of a run of one hospital, as its server has them."""
    answered = []

    class Listening(InProcessTransport):
        def send(self, messages: Any) -> Any:
            futures = super().send(messages)
            for key, message in messages.items():
                arrays = message.content.array_records.get("arrays")
                if arrays is not None:
                    weights = weights_from_record(arrays, weight_shapes(HEART_DISEASE, NETWORK))
                    metrics = futures[key].result().content.metric_records["metrics"]
                    answered.append((weights, dict(metrics)))
            return futures

    contexts: dict[str, Context] = {hospital.name: InMemoryHospital(hospital)}
    run = PlainRun(Listening(client.app, contexts), settings_of(hospitals=1, **changed))
    run.run()
    return answered, run


def guess_held_out(
    candidates: Hospital, answered: Iterable[tuple[Weights, dict[str, Any]]], normalisation: Any
) -> npt.NDArray[np.float64]:
    """How likely each candidate is held out, by least squares from everything that was sent of held-out rows.

    The attacker knows the candidates' records, so what each adds to every sum. The sums tell which candidates add up
    to them.
    """
    local = handlers.local_model(candidates, NETWORK, normalisation)
    rows = candidates.test
    one = np.zeros(len(rows), np.intp)
    equations, sums = [], []
    for weights, metrics in answered:
        outputs = local.score(weights)
        if "loss_sum" in metrics:
            each = [TARGET.measure(outputs[row : row + 1], rows.labels[row : row + 1], 0.5) for row in range(len(rows))]
            for name in ("true_positives", "false_positives", "true_negatives", "loss_sum", "squared_error_sum"):
                equations.append([getattr(part, name) for part in each])
                sums.append(metrics[name])
        if "noisy-counts" in metrics:
            tables = [
                count_rows(TARGET, outputs[row : row + 1], rows.labels[row : row + 1], one[:1], 1.0).ravel()
                for row in range(len(rows))
            ]
            equations.extend(np.transpose(tables))
            sums.extend(metrics["noisy-counts"])
    estimate: npt.NDArray[np.float64] = np.linalg.lstsq(np.array(equations), np.array(sums), rcond=None)[0]
    return estimate


@pytest.mark.slow
def test_known_records_do_not_tell_who_is_held_out(switzerland: Hospital) -> None:
    """Exact sums of every round told 122 of these 123 patients apart, with an AUC of 1."""
    answered, run = replies_of(switzerland, rounds=60)
    everybody = Hospital(
        "everybody",
        HEART_DISEASE,
        switzerland.train,
        type(switzerland.train).concatenate([switzerland.train, switzerland.test]),
    )
    is_held_out = np.repeat([0.0, 1.0], [len(switzerland.train), len(switzerland.test)]).astype(np.float32)

    estimate = guess_held_out(everybody, answered, run.train_config().normalisation)

    # An attack that finds nothing has an AUC of 0.5, with a standard deviation of 0.06.
    auc = roc_auc(estimate, is_held_out)
    assert auc is not None
    assert auc < 0.8


def test_the_plan_states_what_a_change_of_the_csv_costs() -> None:
    plan = PrivacyPlan(
        epsilon=2.0,
        delta=1e-5,
        clip=0.25,
        sampling_rate=0.5,
        steps=1,
        learning_rate=3.0,
        rounds=32,
        run="0" * 16,
    )
    exchanged = plan.exchange_epsilons
    assert plan.epsilon < exchanged["held_out"] < exchanged["training"] < exchanged["both"]
    line = plan.describe()
    assert all(f"{epsilon:.4g}" in line for epsilon in (2.0, exchanged["training"], exchanged["both"]))
