"""A hospital's message handlers, with known scores in place of a network's."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from sklearn import metrics as reference

from federated_health.data.hospital import Hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import write_agreement
from federated_health.errors import AnswerError, DataError, JoinError
from federated_health.hospital import final_handlers, handlers
from federated_health.hospital.handlers import hospital_of
from federated_health.messages.content import SECURE_AGGREGATION_ONLY, Registration, TrainConfig
from federated_health.messages.records import MalformedMessageError, weights_to_record
from federated_health.ml.networks import Network, initial_weights, weight_shapes
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts
from federated_health.names import ALLOWED_EPSILON, node_id_of
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport

TRAIN_CONFIG = TrainConfig(
    task="heart-disease",
    schema=HEART_DISEASE.schema_hash,
    network=Network("logistic"),
    strategy="fedavg",
    strategy_args="",
    rounds=3,
    local_epochs=1,
    batch_size=0,
    learning_rate=0.1,
    l2=0.0,
    seed=42,
    threshold=0.3,
    normalisation=Normalisation(mean=(0.0,) * 5, variance=(1.0,) * 5),
)
WEIGHTS = initial_weights(HEART_DISEASE, Network("logistic"), 1)


@dataclass
class KnownScores:
    """Ages as log-odds: (age - 55) / 10."""

    hospital: Hospital
    target = target_of(HEART_DISEASE)
    may_measure = True

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return weight_shapes(self.hospital.task, Network("logistic"))

    @property
    def train_rows(self) -> int:
        return len(self.hospital.train)

    def score(self, _: Any) -> npt.NDArray[np.float32]:
        return ((self.hospital.test.values[:, 0] - 55) / 10).astype(np.float32)

    def score_training(self, _: Any) -> npt.NDArray[np.float32]:
        return ((self.hospital.train.values[:, 0] - 55) / 10).astype(np.float32)


@pytest.fixture
def context(hospitals_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(handlers, "local_model", lambda hospital, *_: KnownScores(hospital))
    return hospital_context("cleveland", {"data": str(hospitals_folder / "client_1.csv")})


def message_of(config: TrainConfig = TRAIN_CONFIG, kind: str = "evaluate") -> Message:
    InProcessTransport(None, {})  # type: ignore[arg-type]  # gives this process the identity that messages need
    content = RecordDict({"arrays": weights_to_record(WEIGHTS), "config": config.to_record()})
    return Message(content, node_id_of("cleveland"), kind)


def local_model_of(context: Context) -> KnownScores:
    return KnownScores(hospital_of(message_of(), context))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7311, 1.0])
@pytest.mark.parametrize("kind", ["round", "final"])
def test_held_out_rows_are_counted_at_the_threshold_of_the_message(
    context: Context, threshold: float, kind: str
) -> None:
    local = local_model_of(context)
    risk, labels = 1 / (1 + np.exp(-local.score(None).astype(float))), local.hospital.test.labels
    handler = handlers.evaluate if kind == "round" else final_handlers.evaluate_final

    counts = handler(message_of(replace(TRAIN_CONFIG, threshold=threshold)), context).counts

    assert isinstance(counts, Counts)
    assert [
        [counts.true_negatives, counts.false_positives],
        [counts.false_negatives, counts.true_positives],
    ] == reference.confusion_matrix(labels, risk >= threshold).tolist()
    assert counts.loss == pytest.approx(reference.log_loss(labels, risk), rel=1e-6)


def test_training_scores_are_cells_of_each_class_and_of_no_held_out_row(context: Context) -> None:
    local = local_model_of(context)
    ages, labels = local.hospital.train.values[:, 0], local.hospital.train.labels

    scores = final_handlers.score_training_rows(message_of(), context)

    for cells, label in ((scores.positives, 1), (scores.negatives, 0)):
        of_class = (ages[labels == label] - 55) / 10
        assert cells[:, 0].sum() == len(of_class)
        assert (cells[:, 0] * cells[:, 1]).sum() / len(of_class) == pytest.approx(of_class.mean(), abs=0.051)
        assert cells[:, 0].min() >= 5
    assert scores.positives[:, 0].sum() + scores.negatives[:, 0].sum() == 227


def test_only_the_final_evaluation_holds_a_roc_auc_and_cells(context: Context) -> None:
    local = local_model_of(context)
    labels = local.hospital.test.labels

    early = handlers.evaluate(message_of(), context)
    final = final_handlers.evaluate_final(message_of(), context)

    assert (early.roc_auc, early.scores) == (None, {})
    assert final.roc_auc == pytest.approx(reference.roc_auc_score(labels, local.score(None)))
    rows = [final.scores[name][:, 0].sum() for name in ("positives", "negatives")]
    assert rows == [(labels == 1).sum(), (labels == 0).sum()]


def test_only_the_final_evaluation_saves_the_model_its_threshold_and_the_hospital_s_figures(context: Context) -> None:
    assert final_handlers.final_model(context) is None
    for handler in (handlers.evaluate, final_handlers.score_training_rows):
        handler(message_of(), context)
        assert final_handlers.final_model(context) is None

    config = replace(TRAIN_CONFIG, threshold=0.4321)
    counts = final_handlers.evaluate_final(message_of(config), context).counts

    assert isinstance(counts, Counts)
    final = final_handlers.final_model(context)
    assert final is not None
    assert final[0] == config
    assert all(np.array_equal(final[1][name], WEIGHTS[name]) for name in WEIGHTS)
    figures = context.state.metric_records["figures"]
    assert figures["f1"] == counts.f1
    assert (figures["train_examples"], figures["test_examples"]) == (227, 76)


@pytest.mark.parametrize("threshold", [math.nan, -0.1, 1.1, math.inf])
def test_a_threshold_that_is_not_a_probability_is_refused(context: Context, threshold: float) -> None:
    with pytest.raises(MalformedMessageError, match="threshold"):
        handlers.evaluate(message_of(replace(TRAIN_CONFIG, threshold=threshold)), context)


@dataclass
class KnownTraining(KnownScores):
    """Adds the weight of the proximal term to every weight."""

    def train(self, weights: Any, _config: Any, _number: int, proximal_mu: float) -> Any:
        return {name: array + np.float32(proximal_mu) for name, array in weights.items()}, 0.5


@pytest.mark.parametrize("mu", [None, 0.0, 0.25])
def test_training_uses_the_proximal_term_of_the_message(
    context: Context, monkeypatch: pytest.MonkeyPatch, mu: float | None
) -> None:
    monkeypatch.setattr(handlers, "local_model", lambda hospital, *_: KnownTraining(hospital))
    message = message_of(kind="train")
    if mu is not None:
        message.content.config_records["config"]["proximal-mu"] = mu

    update = handlers.train(message, context)

    assert (update.examples, update.loss) == (227, 0.5)
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(update.weights[name], array + np.float32(mu or 0.0))


def test_a_negative_proximal_term_is_refused(context: Context) -> None:
    message = message_of(kind="train")
    message.content.config_records["config"]["proximal-mu"] = -1.0

    with pytest.raises(MalformedMessageError, match="proximal-mu"):
        handlers.train(message, context)


# Registration


def registration_of(**config: str) -> Message:
    InProcessTransport(None, {})  # type: ignore[arg-type]  # gives this process the identity that messages need
    record = ConfigRecord({"task": "heart-disease", "schema": HEART_DISEASE.schema_hash, **config})
    return Message(RecordDict({"config": record}), node_id_of("cleveland"), "query.statistics")


@pytest.mark.parametrize(
    ("agreement", "pattern"),
    [
        ({**HEART_DISEASE.agreement, "column sex": "sex: 0 male, 1 female"}, "column sex .*0 female.*server.*0 male"),
        (HEART_DISEASE.agreement, "server's columns"),  # equal, although the hashes differ
        (None, "server's columns"),
    ],
)
def test_a_server_with_another_schema_is_refused_with_the_difference(
    context: Context, agreement: dict[str, str] | None, pattern: str
) -> None:
    terms = {} if agreement is None else {"terms": write_agreement(agreement)}

    with pytest.raises(JoinError, match=pattern):
        handlers.register(registration_of(schema="another", **terms), context)


def test_the_server_gets_the_column_of_a_wrong_value_but_nothing_of_a_private_hospital_s_csv(
    context: Context, patients: Any, tmp_path: Path
) -> None:
    patients.loc[4, "age"] = "old"
    patients.to_csv(tmp_path / "mine.csv", index=False)
    context.node_config["data"] = str(tmp_path / "mine.csv")

    with pytest.raises(DataError, match="column age, row 5") as raised:
        handlers.register(registration_of(), context)
    assert "column age" in raised.value.reason
    assert "row" not in raised.value.reason
    assert "old" not in raised.value.reason.split()

    context.node_config[ALLOWED_EPSILON] = 2.0  # no budget accounts for the content of the file
    with pytest.raises(DataError, match="column age, row 5") as raised:
        handlers.register(registration_of(), context)
    assert "age" not in raised.value.reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("age 61 of row 3"), "ValueError at the hospital"),
        (DataError("/home/x/patients.csv: row 3 of chol", reason="chol is not a number"), "chol is not a number"),
    ],
)
def test_the_text_of_an_exception_stays_at_the_hospital(error: Exception, words: str) -> None:
    def fail(_message: Message, _context: Context) -> Registration:
        raise error

    with pytest.raises(AnswerError) as raised:
        handlers.reply(fail, registration_of(), hospital_context("a", {}))
    assert str(raised.value) == words
    assert raised.value.error is error


def test_a_hospital_for_secure_aggregation_only_calls_no_handler_for_a_plain_message() -> None:
    """The guard is before all handlers, so that a new one cannot bypass it."""

    def handler(_message: Message, _context: Context) -> Registration:
        pytest.fail("was called")

    with pytest.raises(AnswerError, match="secure aggregation only"):
        handlers.reply(
            handler, Message(RecordDict(), 1, "query"), hospital_context("a", {SECURE_AGGREGATION_ONLY: True})
        )
