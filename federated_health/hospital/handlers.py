"""What a hospital does with each message.

A hospital's rows and its compiled training stay in its process from message to message.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt
from flwr.app import Context, Message, MetricRecord, RecordDict

from federated_health import encryption, privacy
from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.manifest import find_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.tasks import find_difference, get_task, read_agreement
from federated_health.errors import AnswerError, DataError, EncryptionError, JoinError
from federated_health.hospital import load_benefit
from federated_health.messages.content import (
    ARRAYS,
    BENEFIT,
    CONFIG,
    ENCRYPTED_ONLY,
    EVALUATE,
    FINAL,
    REGISTRATION,
    ROUND,
    SUMS_WITHHELD,
    THRESHOLD,
    Evaluation,
    Registration,
    TrainConfig,
    TrainingScores,
    Update,
    has_privacy_plan,
)
from federated_health.messages.records import (
    read_proximal_mu,
    weights_from_record,
    weights_to_record,
)
from federated_health.ml.metrics import Counts, Scores, count_outcomes, figures_of, microaggregate, probability, roc_auc
from federated_health.ml.networks import Weights, weight_shapes
from federated_health.ml.normalisation import Normalisation, column_sums, withheld_sums
from federated_health.names import AGREED_PLAN, ALLOWED_EPSILON
from federated_health.transport.interface import hospital_context

if TYPE_CHECKING:
    from federated_health.hospital.local_model import LocalModel
    from federated_health.messages.benefit import Benefit
    from federated_health.privacy.budget import PrivacyBudget

logger = logging.getLogger(__name__)

ENCRYPTED_RUN = "encryption"
"""Record of a hospital's own state during an encrypted run."""


class Answer(Protocol):
    """The content of a reply (see `messages`)."""

    def to_content(self) -> RecordDict: ...


Handler = Callable[[Message, Context], Answer]


@dataclass(frozen=True)
class OpenedMessage:
    """A train or evaluate message, validated.

    Attributes:
        round_number: from 1.
        local: this hospital's rows and compiled training.
        weights: of the message.
        proximal_mu: weight of FedProx's term (see `LocalTrainer.train`).
        evaluates: whether the weights are to be evaluated before they are trained.
    """

    config: TrainConfig
    round_number: int
    local: "LocalModel"
    weights: Weights
    proximal_mu: float
    evaluates: bool

    @property
    def hospital(self) -> Hospital:
        return self.local.hospital

    def count(self) -> Counts:
        """Outcome counts of the held-out rows under the message's weights."""
        scores = probability(self.local.score(self.weights))
        return count_outcomes(scores, self.hospital.test.labels, self.config.threshold)


class InMemoryHospital(Context):
    """Context of a hospital in process whose rows are in memory rather than in a CSV, such as one side of a fold."""

    def __init__(self, hospital: Hospital) -> None:
        super().__init__(**vars(hospital_context(hospital.name, {})))
        self.hospital = hospital
        self.budget: PrivacyBudget | None = None


def reply(handler: Handler, message: Message, context: Context) -> Message:
    """The reply of a handler to a message of a plain run.

    Raises:
        AnswerError: the handler failed; its text is safe to send, where that of another exception may hold values.
    """
    try:
        _refuse_unencrypted(message, context)
        return Message(handler(message, context).to_content(), reply_to=message)
    except Exception as error:
        raise AnswerError(error) from error


def answer(message: Message, context: Context) -> Message:
    """The reply to any message, as the ClientApp in `client.py` gives it."""
    handler = PLAIN_HANDLERS.get(message.metadata.message_type)
    return reply(handler, message, context) if handler else encryption.answer(message, context)


def _refuse_unencrypted(message: Message, context: Context) -> None:
    """Refuse a message of a plain run to a hospital that takes part in encrypted ones.

    A server that sends one by mistake, or is curious, would otherwise see what encryption hides.

    Raises:
        EncryptionError: it is such a hospital; it registers only without sums.
    """
    config: Mapping[str, Any] = message.content.config_records.get(CONFIG, {})
    if message.metadata.message_type == REGISTRATION and config.get(SUMS_WITHHELD) is True:
        return
    if context.node_config.get(ENCRYPTED_ONLY):
        raise EncryptionError("it takes part in encrypted runs only, and the server has no --encrypt")
    if ENCRYPTED_RUN in context.state:
        raise EncryptionError("it takes part in an encrypted run, and sends nothing unencrypted")


def _load_privacy(config: Mapping[str, Any], context: Context) -> ModuleType | None:
    """`privacy`, where the message, the hospital or what it agreed to asks for differential privacy."""
    is_private = ALLOWED_EPSILON in context.node_config or AGREED_PLAN in context.state
    return privacy.load() if is_private or has_privacy_plan(config) else None


def hospital_of(message: Message, context: Context) -> Hospital:
    """The hospital of this node: from its node config, or in a simulation from its number and the run config.

    Raises:
        DataError: its CSV cannot be used.
        JoinError: the server's task is not this hospital's.
    """
    config = message.content.config_records[CONFIG]
    task = get_task(str(config["task"]))
    if task.schema_hash != config["schema"]:
        server = read_agreement(str(config["terms"])) if "terms" in config else {}
        raise JoinError(find_difference(task.agreement, server) or "the server's columns are not this hospital's")
    if isinstance(context, InMemoryHospital):
        return context.hospital
    path, name = _own_csv(context)
    try:
        return load_hospital(path, task, name, int(context.node_config.get("split-seed", DEFAULT_SPLIT_SEED)))
    except DataError as error:
        if ALLOWED_EPSILON not in context.node_config:
            raise
        raise DataError(str(error)) from None  # the reason names a column, and no budget accounts for that


def budget_of(context: Context) -> "PrivacyBudget":
    """What all runs have spent of the privacy of this hospital's training rows.

    Raises:
        PrivacyError: it cannot be read.
    """
    if isinstance(context, InMemoryHospital):
        context.budget = context.budget or privacy.load().budget.PrivacyBudget()
        return context.budget
    return _budget_beside(*_own_csv(context))


def _own_csv(context: Context) -> tuple[Path, str]:
    """Path of this hospital's CSV, and the hospital's name."""
    node = context.node_config
    if "data" in node:
        return Path(str(node["data"])), str(node["name"])
    return find_hospital(Path(str(context.run_config["data"])), int(node["partition-id"]) + 1)


@lru_cache(maxsize=1024)
def _budget_beside(path: Path, name: str) -> "PrivacyBudget":
    budget: PrivacyBudget = privacy.load().budget.PrivacyBudget.beside(path, name)
    return budget


def open_message(message: Message, context: Context) -> OpenedMessage:
    """Validate a train or evaluate message.

    Raises:
        MalformedMessageError: its config is not valid, or its weights are not of the network that it names.
        BudgetError: it promises another privacy than the hospital joined with.
        DataError, JoinError: see `hospital_of`.
    """
    record = message.content.config_records[CONFIG]
    config = TrainConfig.from_record(record)
    if private := _load_privacy(record, context):
        private.message_checks.check_plan(context, config.privacy)
    hospital = hospital_of(message, context)
    local = local_model(hospital, config.model, config.normalisation)
    return OpenedMessage(
        config=config,
        round_number=int(str(record.get(ROUND, config.rounds))),
        local=local,
        weights=weights_from_record(message.content.array_records[ARRAYS], local.shapes),
        proximal_mu=read_proximal_mu(record),
        evaluates=record.get(EVALUATE) is True,
    )


def register(message: Message, context: Context) -> Registration:
    """Name, row counts, and sums for the normalisation, unless they are withheld or the run is private."""
    hospital = hospital_of(message, context)
    config = message.content.config_records[CONFIG]
    plan = None
    if private := _load_privacy(config, context):
        plan = private.message_checks.agree_on_plan(context, config, budget_of(context), len(hospital.train))
    if plan is not None:
        logger.info("%s", plan.describe())
    is_withheld = plan is not None or config.get(SUMS_WITHHELD) is True
    positions = list(hospital.task.measurement_positions)
    return Registration(
        name=hospital.name,
        train_examples=len(hospital.train),
        test_examples=len(hospital.test),
        sums=withheld_sums(len(positions)) if is_withheld else column_sums(hospital.train.values[:, positions]),
    )


def train(message: Message, context: Context) -> Update:
    """Train a round's local epochs, or its noisy steps under differential privacy.

    The weights in the message are the average of the round before; where the server asks, they are evaluated first.
    """
    opened = open_message(message, context)
    counts = opened.count() if opened.evaluates else None
    local, plan = opened.local, opened.config.privacy
    if plan is None:
        weights, loss = local.train(opened.weights, opened.config, opened.round_number, proximal_mu=opened.proximal_mu)
        logger.debug("round %d: trained on %d rows, loss %.4f", opened.round_number, local.train_rows, loss)
        return Update(weights=weights, examples=local.train_rows, loss=loss, counts=counts)
    budget_of(context).spend(plan, privacy.load().message_checks.allowed_epsilon(context))
    weights = privacy.load_training().train_privately(
        opened.hospital.task,
        opened.config.model,
        opened.weights,
        local.train_features,
        opened.hospital.train.labels,
        plan,
        l2=opened.config.l2,
        proximal_mu=opened.proximal_mu,
    )
    return Update(weights=weights, examples=local.train_rows, loss=None, counts=counts)


def evaluate(message: Message, context: Context) -> Evaluation:
    """Outcome counts of the held-out rows under the round's new weights."""
    return Evaluation(counts=open_message(message, context).count())


def score_training_rows(message: Message, context: Context) -> TrainingScores:
    """Microaggregated scores of the training rows under the final weights, for the decision threshold."""
    opened = open_message(message, context)
    _refuse_private(opened, "the threshold")
    return TrainingScores(
        **_microaggregate_classes(opened.local.score_training(opened.weights), opened.hospital.train.labels)
    )


def evaluate_final(message: Message, context: Context) -> Evaluation:
    """Outcome counts, ROC-AUC and microaggregated scores of the held-out rows under the final weights.

    The final weights and this hospital's own figures are kept in its context, which stays at the hospital.
    """
    opened = open_message(message, context)
    labels, log_odds = opened.hospital.test.labels, opened.local.score(opened.weights)
    evaluation = Evaluation(
        counts=count_outcomes(probability(log_odds), labels, opened.config.threshold),
        roc_auc=roc_auc(log_odds, labels),
        **_microaggregate_classes(log_odds, labels),
    )
    figures = figures_of(evaluation.counts, opened.local.train_rows, evaluation.roc_auc)
    context.state["figures"] = MetricRecord({key: value for key, value in figures.items() if value is not None})
    context.state[ARRAYS] = weights_to_record(opened.weights)
    context.state[CONFIG] = opened.config.to_record()
    return evaluation


def report_benefit(message: Message, context: Context) -> "Benefit":
    """What this hospital gains by joining, and how much the model depends on each column."""
    opened = open_message(message, context)
    _refuse_private(opened, "the benefit of joining")
    measuring = load_benefit()
    benefit: Benefit = measuring.measure_benefit(opened.local, opened.weights, opened.config)
    logger.info("%s", measuring.describe_benefit(benefit))
    return benefit


def _refuse_private(opened: OpenedMessage, purpose: str) -> None:
    if opened.config.privacy is not None:
        privacy.load().message_checks.refuse_unaccounted(opened.config.privacy, purpose)


def _microaggregate_classes(log_odds: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, Scores]:
    return {"positives": microaggregate(log_odds[labels == 1]), "negatives": microaggregate(log_odds[labels == 0])}


def final_model(context: Context) -> tuple[TrainConfig, Weights] | None:
    """The final model as `evaluate_final` kept it; None before the end of a run."""
    if CONFIG not in context.state:
        return None
    config = TrainConfig.from_record(context.state.config_records[CONFIG])
    shapes = weight_shapes(get_task(config.task), config.model)
    return config, weights_from_record(context.state.array_records[ARRAYS], shapes)


@lru_cache(maxsize=1024)
def local_model(hospital: Hospital, model: str, normalisation: Normalisation) -> "LocalModel":
    """A hospital's rows as features, and its compiled training; made once per process."""
    from federated_health.hospital.local_model import LocalModel  # noqa: PLC0415  # TensorFlow, once the CSV is checked

    return LocalModel(hospital, model, normalisation)


PLAIN_HANDLERS: Mapping[str, Handler] = {
    REGISTRATION: register,
    "train": train,
    "evaluate": evaluate,
    THRESHOLD: score_training_rows,
    FINAL: evaluate_final,
    BENEFIT: report_benefit,
}
"""Handlers of plain runs by message type."""
