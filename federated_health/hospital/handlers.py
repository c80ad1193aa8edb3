"""A hospital's side of a message: whose it is, what it asks, and what is answered.

A hospital's rows and compiled training stay in its process from message to message.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message, MetricRecord, RecordDict

from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.manifest import find_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.tasks import get_task
from federated_health.errors import AnswerError, DataError, JoinError
from federated_health.hospital.benefit import Benefit, measure_benefit
from federated_health.messages.content import (
    ARRAYS,
    CONFIG,
    EVALUATE,
    ROUND,
    SUMS_WITHHELD,
    Evaluation,
    Registration,
    TrainConfig,
    TrainingScores,
    Update,
    read_proximal_mu,
)
from federated_health.messages.task_agreement import find_difference, read_agreement
from federated_health.messages.weights import weights_from_record, weights_to_record
from federated_health.ml.metrics import Counts, count_outcomes, figures_of, microaggregate, probability, roc_auc
from federated_health.ml.networks import Weights, weight_shapes
from federated_health.ml.normalisation import Normalisation, column_sums, withheld_sums
from federated_health.privacy import guard
from federated_health.privacy.account import Account
from federated_health.transport.grids import hospital_context

if TYPE_CHECKING:
    from federated_health.hospital.local_model import LocalModel

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OpenedMessage:
    """A message of a round, opened.

    Attributes:
        round_number: from 1.
        local: this hospital's rows and compiled training.
        weights: the federation's, as the message carries them.
        proximal_mu: how strongly training is held near them (see `LocalTrainer.train`).
        evaluates: whether they are to be evaluated before they are trained.
    """

    train_config: TrainConfig
    round_number: int
    local: "LocalModel"
    weights: Weights
    proximal_mu: float
    evaluates: bool

    def count(self) -> Counts:
        """Outcomes of the held-out rows under these weights."""
        scores = probability(self.local.score(self.weights))
        return count_outcomes(scores, self.local.hospital.test.labels, self.train_config.threshold)


class Answer(Protocol):
    """What a hospital answers (see `messages`)."""

    def to_content(self) -> RecordDict: ...


class InMemoryHospital(Context):
    """The context of a hospital in process whose rows are in memory, such as one side of a fold, not in a CSV."""

    def __init__(self, hospital: Hospital) -> None:
        super().__init__(**vars(hospital_context(hospital.name, {})))
        self.hospital = hospital
        self.account = Account.in_memory()


def handler(answer: Callable[[Message, Context], Answer]) -> Callable[[Message, Context], Message]:
    """An answer as a handler of a Flower ClientApp.

    What it raises is an AnswerError, since Flower's own runtimes send the words of any exception to the server.
    """

    def reply(message: Message, context: Context) -> Message:
        try:
            return Message(answer(message, context).to_content(), reply_to=message)
        except Exception as error:
            raise AnswerError(error) from error

    return reply


def hospital_of(message: Message, context: Context) -> Hospital:
    """The hospital that this node is: from its node config, or in a simulation from its number and the run config.

    Raises:
        DataError: its CSV cannot be used.
        JoinError: the server's task is not the one that this hospital knows.
    """
    config = message.content.config_records[CONFIG]
    task = get_task(str(config["task"]))
    if task.schema_hash != config["schema"]:
        theirs = read_agreement(str(config["terms"])) if "terms" in config else {}
        raise JoinError(find_difference(task.agreement, theirs) or "the server's terms are not this hospital's")
    if isinstance(context, InMemoryHospital):
        return context.hospital
    path, name = _place_of(context)
    try:
        return load_hospital(path, task, name, int(context.node_config.get("split-seed", DEFAULT_SPLIT_SEED)))
    except DataError as error:
        if guard.budget_of(context) is None:
            raise
        raise DataError(str(error)) from None  # which column, and why, no budget accounts for


def account_of(context: Context) -> Account:
    """What this hospital's training rows have been charged for privacy, in all runs.

    Raises:
        PrivacyError: it cannot be read.
    """
    return context.account if isinstance(context, InMemoryHospital) else _account_beside(*_place_of(context))


def _place_of(context: Context) -> tuple[Path, str]:
    """This hospital's CSV and name."""
    node = context.node_config
    if "data" in node:
        return Path(str(node["data"])), str(node["name"])
    return find_hospital(Path(str(context.run_config["data"])), int(node["partition-id"]) + 1)


_account_beside = lru_cache(maxsize=1024)(Account.beside)


def open_message(message: Message, context: Context) -> OpenedMessage:
    """What a train or evaluate message asks of this hospital.

    Raises:
        MalformedMessageError: its instructions are not valid, or its weights not those of the model that it names.
        BudgetError: they promise another privacy than the hospital joined with.
        DataError, JoinError: see `hospital_of`.
    """
    content = message.content
    config = content.config_records[CONFIG]
    train_config = TrainConfig.from_record(config)
    guard.check(context, train_config.privacy)
    hospital = hospital_of(message, context)
    return OpenedMessage(
        train_config=train_config,
        round_number=int(str(config.get(ROUND, train_config.rounds))),
        local=local_model(hospital, train_config.model, train_config.normalisation),
        weights=weights_from_record(content.array_records[ARRAYS], weight_shapes(hospital.task, train_config.model)),
        proximal_mu=read_proximal_mu(config),
        evaluates=config.get(EVALUATE) is True,
    )


def register(message: Message, context: Context) -> Registration:
    """Name, row counts, and the sums from which the federation's one normalisation is made, if it may have them."""
    hospital = hospital_of(message, context)
    positions = list(hospital.task.measurement_positions)
    plan = guard.agree(context, message.content.config_records[CONFIG], account_of(context), len(hospital.train))
    if plan is not None:
        logger.info("%s", plan.describe())
    is_withheld = plan is not None or message.content.config_records[CONFIG].get(SUMS_WITHHELD) is True
    return Registration(
        name=hospital.name,
        train_examples=len(hospital.train),
        test_examples=len(hospital.test),
        sums=withheld_sums(len(positions)) if is_withheld else column_sums(hospital.train.values[:, positions]),
    )


def train_round(message: Message, context: Context) -> Update:
    """The round's local epochs, from the federation's weights; under differential privacy its noisy steps.

    These weights are those that the round before has made; the server may ask how good they are.
    """
    asked = open_message(message, context)
    counts = asked.count() if asked.evaluates else None
    if (plan := asked.train_config.privacy) is not None:
        account_of(context).charge(plan, guard.budget_of(context))
        weights = asked.local.train_privately(asked.weights, plan, asked.train_config.l2, asked.proximal_mu)
        return Update(weights=weights, examples=len(asked.local.hospital.train), loss=None, counts=counts)
    weights, loss = asked.local.train(
        asked.weights, asked.train_config, asked.round_number, proximal_mu=asked.proximal_mu
    )
    rows = len(asked.local.hospital.train)
    logger.debug("round %d: trained on %d rows, loss %.4f", asked.round_number, rows, loss)
    return Update(weights=weights, examples=rows, loss=loss, counts=counts)


def evaluate_round(message: Message, context: Context) -> Evaluation:
    """Counts over the held-out rows under the round's new weights."""
    return Evaluation(counts=open_message(message, context).count())


def score_training_rows(message: Message, context: Context) -> TrainingScores:
    """Coarse cells of the final scores of the training rows, from which the threshold is chosen."""
    asked = open_message(message, context)
    guard.refuse_unaccounted(asked.train_config.privacy, "the threshold")
    log_odds, labels = asked.local.score_training(asked.weights), asked.local.hospital.train.labels
    return TrainingScores(**_microaggregate_by_class(log_odds, labels))


def evaluate_finally(message: Message, context: Context) -> Evaluation:
    """Counts, own ROC-AUC and coarse cells of the final scores of the held-out rows.

    The final weights and this hospital's own figures are kept in its context, which does not leave it.
    """
    asked = open_message(message, context)
    hospital, log_odds = asked.local.hospital, asked.local.score(asked.weights)
    labels = hospital.test.labels
    evaluation = Evaluation(
        counts=count_outcomes(probability(log_odds), labels, asked.train_config.threshold),
        roc_auc=roc_auc(log_odds, labels),
        **_microaggregate_by_class(log_odds, labels),
    )
    figures = figures_of(evaluation.counts, len(hospital.train), evaluation.roc_auc)
    context.state["figures"] = MetricRecord({key: value for key, value in figures.items() if value is not None})
    context.state[ARRAYS] = weights_to_record(asked.weights)
    context.state[CONFIG] = asked.train_config.to_record()
    return evaluation


def report_benefit(message: Message, context: Context) -> Benefit:
    """What joining gave this hospital, and how much each column weighs on its held-out rows."""
    asked = open_message(message, context)
    guard.refuse_unaccounted(asked.train_config.privacy, "the appraisal")
    appraisal = measure_benefit(asked.local, asked.weights, asked.train_config)
    logger.info("%s", appraisal.describe())
    return appraisal


def _microaggregate_by_class(log_odds: Floats, labels: Floats) -> dict[str, npt.NDArray[np.float64]]:
    return {"positives": microaggregate(log_odds[labels == 1]), "negatives": microaggregate(log_odds[labels == 0])}


def remembered_model(context: Context) -> tuple[TrainConfig, Weights] | None:
    """The federation's final model as `evaluate_finally` kept it; None before the end of a run."""
    if CONFIG not in context.state:
        return None
    told = TrainConfig.from_record(context.state.config_records[CONFIG])
    shapes = weight_shapes(get_task(told.task), told.model)
    return told, weights_from_record(context.state.array_records[ARRAYS], shapes)


@lru_cache(maxsize=1024)
def local_model(hospital: Hospital, model: str, normalisation: Normalisation) -> "LocalModel":
    """A hospital's rows as features, and its compiled training; made once a process."""
    from federated_health.hospital.local_model import (
        LocalModel,  # brings TensorFlow, which a wrong CSV need not wait for
    )

    return LocalModel(hospital, model, normalisation)
