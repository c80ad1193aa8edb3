"""What a hospital does with each message; `final_handlers` has the work after the last round.

A hospital's rows and its compiled training stay in its process from message to message.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message

from federated_health import privacy, secure_aggregation
from federated_health.data.associations import measure_associations
from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.manifest import find_hospital, is_public
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import TASK_FILE, find_task
from federated_health.data.tasks import Task, find_difference, read_agreement
from federated_health.errors import AnswerError, DataError, JoinError, SecureAggregationError
from federated_health.hospital.ledger import LEDGER
from federated_health.messages import accepted_terms
from federated_health.messages.content import (
    ARRAYS,
    BENEFIT,
    CLASS_COUNTS,
    CONFIG,
    EVALUATE,
    FINAL,
    MASKED_FINAL,
    REGISTRATION,
    ROUND,
    SECURE_AGGREGATION_ONLY,
    SUMS_WITHHELD,
    THRESHOLD,
    Evaluation,
    Registration,
    TrainConfig,
    Update,
)
from federated_health.messages.records import (
    MalformedMessageError,
    weights_from_record,
)
from federated_health.messages.server_messages import (
    answering,
    check_config,
    has_privacy_plan,
    read_train_config,
    read_value,
)
from federated_health.ml.metrics import EvaluationSums
from federated_health.ml.networks import FILE, Network, Weights, agreement_of, weight_shapes
from federated_health.ml.normalisation import MIN_OBSERVED, Normalisation, column_sums, withheld_sums
from federated_health.ml.targets import target_of
from federated_health.names import (
    AGREED_PLAN,
    ALLOWED_EPSILON,
    MAPPING,
    NETWORK,
    POLICY,
    PROXIMAL_MU,
    SECURE_AGGREGATION,
)
from federated_health.transport.app_calls import hospital_context

if TYPE_CHECKING:
    from federated_health.hospital.local_model import LocalModel
    from federated_health.hospital.policy import Policy
    from federated_health.messages.run_terms import RunTerms
    from federated_health.privacy.budget import PrivacyBudget

logger = logging.getLogger(__name__)

Handler = Callable[[Message, Context], Any]
"""Answers a message with one of the contents in `messages`."""


class InMemoryHospital(Context):
    """Context of a hospital in process whose rows are in memory rather than in a CSV, such as one side of a fold.

    Args:
        network: file that builds the network; None for a network of the package.
        policy: what may leave the hospital; everything by default, since all rows are in one process.
    """

    def __init__(self, hospital: Hospital, network: Path | None = None, policy: "Policy | None" = None) -> None:
        super().__init__(**vars(hospital_context(hospital.name, {NETWORK: str(network or "")})))
        self.hospital = hospital
        self.policy = policy
        self.budget: PrivacyBudget | None = None


def reply(handler: Handler, message: Message, context: Context) -> Message:
    """The reply of a handler to a message of a plain run, if a run would send it now (see `messages.server_messages`).

    Raises:
        AnswerError: the handler failed; its text is safe to send, where that of another exception may hold values.
    """
    try:
        _refuse_unmasked(message, context)
        with accepted_terms.within_terms(message, context), answering(message, context):
            content = disclose(handler(message, context), message, context)
            return Message(content.to_content(), reply_to=message)
    except Exception as error:
        raise AnswerError(error) from error


def disclose(content: Any, message: Message, context: Context, policy: "Policy | None" = None) -> Any:
    """What may leave of a handler's content, by this hospital's policy or another one (see `hospital.disclosure`)."""
    if policy is None and _releases_all(context):
        return content
    policy = policy or disclosure_policy(context)
    if policy.public and not policy.releases_off:
        return content
    from federated_health.hospital import disclosure  # noqa: PLC0415  # public data need none

    is_final = message.metadata.message_type in (FINAL, MASKED_FINAL)
    return disclosure.disclose(content, hospital_of(message, context), policy, is_final=is_final)


def _releases_all(context: Context) -> bool:
    """Whether nothing is suppressed: the data are public, and no policy switches a release off."""
    if isinstance(context, InMemoryHospital):
        return context.policy is None
    return not context.node_config.get(POLICY) and _is_public(own_csv(context)[0])


def disclosure_policy(context: Context) -> "Policy":
    """This hospital's policy; its data are public if a manifest says so."""
    from federated_health.hospital.policy import Policy, policy_of  # noqa: PLC0415  # public data need none

    if isinstance(context, InMemoryHospital):
        return context.policy or Policy(public=True)
    return replace(policy_of(context.node_config), public=_is_public(own_csv(context)[0]))


_is_public = lru_cache(maxsize=1024)(is_public)
"""`is_public`, once per process."""


def answer(message: Message, context: Context) -> Message:
    """The reply to any message, as the ClientApp in `client.py` gives it."""
    handler = PLAIN_HANDLERS.get(message.metadata.message_type)
    return reply(handler, message, context) if handler else secure_aggregation.answer(message, context)


def _refuse_unmasked(message: Message, context: Context) -> None:
    """Raise SecureAggregationError for a message of a plain run to a hospital whose answers are to be masked.

    A registration without sums is answered.
    """
    config: Mapping[str, Any] = message.content.config_records.get(CONFIG, {}) if message.has_content() else {}
    if message.metadata.message_type == REGISTRATION and config.get(SUMS_WITHHELD) is True:
        return
    if context.node_config.get(SECURE_AGGREGATION_ONLY):
        raise SecureAggregationError("it takes part with secure aggregation only, which the server does not use")
    if SECURE_AGGREGATION in context.state:
        raise SecureAggregationError("it takes part in a run with secure aggregation, and sends nothing unmasked")


def _load_privacy(config: Mapping[str, Any], context: Context) -> ModuleType | None:
    """The `privacy` package if the message, the hospital or its agreed plan asks for differential privacy."""
    is_private = ALLOWED_EPSILON in context.node_config or AGREED_PLAN in context.state
    return privacy.load() if is_private or has_privacy_plan(config) else None


def hospital_of(message: Message, context: Context) -> Hospital:
    """The hospital of this node: from its node config, or in a simulation from its number and the run config.

    Raises:
        DataError: its CSV cannot be used.
        JoinError: the server's task or network file is not this hospital's.
        NetworkError: the network file cannot be read.
    """
    config = message.content.config_records[CONFIG]
    task = task_of(context, read_value(config, "task", ""))
    if (terms := read_value(config, "terms")) is not None:
        try:
            server = read_agreement(terms)
        except ValueError as error:
            raise MalformedMessageError(f"the server's terms: {error}") from None
        if server and (difference := find_difference(agreement_of(task, _own_network(context)), server)):
            raise JoinError(difference)
    if task.schema_hash != read_value(config, "schema"):
        raise JoinError("the server's columns are not this hospital's")
    if isinstance(context, InMemoryHospital):
        return context.hospital
    path, name = own_csv(context)
    seed, mapping = context.node_config.get("split-seed", DEFAULT_SPLIT_SEED), context.node_config.get(MAPPING)
    try:
        hospital = load_hospital(path, task, name, int(seed), Path(str(mapping)) if mapping else None)
    except DataError as error:
        if ALLOWED_EPSILON not in context.node_config:
            raise
        raise DataError(str(error)) from None  # the reason names a column, which no budget accounts for
    if _is_public(path):
        return hospital
    from federated_health.hospital.release_memory import choose_rows_once  # noqa: PLC0415  # public data need none

    return choose_rows_once(hospital, path, context.node_config.get(LEDGER), disclosure_policy(context).min_cell)


def task_of(context: Context, name: str) -> Task:
    """The task of this node: of its task file, in a simulation of the run config's, or that of the package.

    Args:
        name: the server's name for the task.

    Raises:
        DataError: the task file cannot be used.
        SettingsError: there is no task file, and the package has no task of this name.
    """
    if isinstance(context, InMemoryHospital):
        return context.hospital.task
    return _find_task_once(name, _own_file(context, TASK_FILE))


_find_task_once = lru_cache(maxsize=1024)(find_task)
"""`find_task`, once per process: a task file that changes during a run is not read again."""


def _own_file(context: Context, key: str) -> Path | None:
    """A file of this node; in a simulation that of the run config."""
    is_simulated = "data" not in context.node_config and not isinstance(context, InMemoryHospital)
    own = context.run_config if is_simulated else context.node_config
    file = str(own.get(key, ""))
    return Path(file) if file else None


def _own_network(context: Context) -> Network | None:
    """The network of this node's file; None if it has none."""
    if (file := _own_file(context, NETWORK)) is None:
        return None
    from federated_health.ml.network_file import read_network  # noqa: PLC0415  # only where there is a file

    return read_network(file)


def read_config(record: Mapping[str, Any], context: Context) -> TrainConfig:
    """The train config in a record, whose network is built from this node's own copy if it is a file."""
    config = read_train_config(record)
    accepted_terms.check_settings(config, context)
    if config.network.model != FILE:
        return config
    return replace(config, network=replace(config.network, path=_own_file(context, NETWORK)))


def own_csv(context: Context) -> tuple[Path, str]:
    """Path of this hospital's CSV, and the hospital's name."""
    node = context.node_config
    if "data" in node:
        return Path(str(node["data"])), str(node["name"])
    return find_hospital(Path(str(context.run_config["data"])), int(node["partition-id"]) + 1)


def open_message(message: Message, context: Context) -> "tuple[TrainConfig, LocalModel, Weights]":
    """Validate a train or evaluate message: its config, its weights, this hospital's rows and compiled training.

    The weights are read before their network is built, so that a small message cannot ask for a large network.

    Raises:
        MalformedMessageError: its config is not valid, or its weights are not of the network that it names.
        RefusedMessageError: see `check_config`.
        TermsError: they are not those of the accepted terms.
        BudgetError: its privacy plan is not the one with which the hospital joined.
        DataError, JoinError: see `hospital_of`.
    """
    record = message.content.config_records[CONFIG]
    config = read_config(record, context)
    if private := _load_privacy(record, context):
        private.message_checks.check_plan(context, config.privacy)
    hospital = hospital_of(message, context)
    check_config(config, hospital, context)
    arrays = message.content.array_records.get(ARRAYS)
    if arrays is None:
        raise MalformedMessageError("the server's message: expected a record arrays")
    weights = weights_from_record(arrays, _shapes_of(hospital.task, config.network))
    accepted_terms.check_parameters(weights, context)
    return config, local_model(hospital, config.network, config.normalisation), weights


_shapes_of = lru_cache(maxsize=64)(weight_shapes)
"""Shapes of a network's weights, which are the same in every round."""


def register(message: Message, context: Context) -> Registration:
    """Name, row counts, and sums for the normalisation and associations of the label, unless these are withheld.

    Differential privacy withholds both.
    """
    hospital = hospital_of(message, context)
    config = message.content.config_records[CONFIG]
    accepted_terms.agree(config, context, partial(_decide_by_policy, context, hospital))
    plan = None
    if private := _load_privacy(config, context):
        from federated_health.hospital.private_training import budget_of  # noqa: PLC0415  # optional feature

        plan = private.message_checks.agree_on_plan(context, config, budget_of(context), hospital)
    if plan is not None:
        logger.info("%s", plan.describe())
    is_withheld = plan is not None or read_value(config, SUMS_WITHHELD, False)
    return describe_rows(hospital, is_withheld=is_withheld, asks_classes=read_value(config, CLASS_COUNTS, False))


def describe_rows(hospital: Hospital, *, is_withheld: bool = False, asks_classes: bool = False) -> Registration:
    """The registration of a hospital, with numbers of rows alone if everything else is withheld."""
    positions, train = list(hospital.task.measurement_positions), hospital.train
    return Registration(
        name=hospital.name,
        train_examples=len(train),
        test_examples=len(hospital.test),
        sums=withheld_sums(len(positions)) if is_withheld else column_sums(train.values[:, positions], train.most_rows),
        associations=np.zeros(0)
        if is_withheld
        else measure_associations(train.values, train.labels, hospital.task, train.most_rows),
        class_counts=_count_classes(hospital) if asks_classes and not is_withheld else (),
    )


def _decide_by_policy(context: Context, hospital: Hospital, terms: "RunTerms") -> str:
    from federated_health.hospital.consent import decide_by_policy  # noqa: PLC0415  # under Flower's engine only

    return decide_by_policy(terms, context.node_config, hospital)


def _count_classes(hospital: Hospital) -> tuple[int, ...]:
    """Number of training rows of each class; 0 if they are of fewer than MIN_OBSERVED patients."""
    target, train = target_of(hospital.task), hospital.train
    rows = np.bincount(target.class_of(train.labels), minlength=target.classes)
    return tuple(np.where(rows >= MIN_OBSERVED * train.most_rows, rows, 0).tolist())


def train(message: Message, context: Context) -> Update:
    """Train a round's local epochs, or its noisy steps under differential privacy.

    The weights in the message are the average of the round before. If the server asks for it, they are evaluated first;
    not under differential privacy.
    """
    config, local, weights = open_message(message, context)
    record = message.content.config_records[CONFIG]
    round_number, proximal_mu = read_value(record, ROUND, config.rounds), read_value(record, PROXIMAL_MU, 0.0)
    counts = _evaluate(config, local, weights) if read_value(record, EVALUATE, False) else None
    if config.privacy is not None:
        from federated_health.hospital.private_training import train_privately  # noqa: PLC0415  # optional feature

        return train_privately(config, config.privacy, local, weights, context, proximal_mu)
    trained, loss = local.train(weights, config, round_number, proximal_mu=proximal_mu)
    logger.debug("round %d: trained on %d rows, loss %.4f", round_number, local.train_rows, loss)
    return Update(weights=trained, examples=local.train_rows, loss=loss, counts=counts)


def evaluate(message: Message, context: Context) -> Evaluation:
    """Sums over the held-out rows under the round's new weights."""
    return Evaluation(counts=_evaluate(*open_message(message, context)))


def answer_final(message: Message, context: Context) -> Any:
    """The content of the answer to a message after the last round (see `final_handlers`)."""
    from federated_health.hospital.final_handlers import HANDLERS  # noqa: PLC0415  # once per run

    return HANDLERS[message.metadata.message_type](message, context)


def _evaluate(config: TrainConfig, local: "LocalModel", weights: Weights) -> EvaluationSums:
    refuse_private(config, "an evaluation before the end")
    return measure(config, local, local.score(weights))


def measure(config: TrainConfig, local: "LocalModel", outputs: npt.NDArray[np.float32]) -> EvaluationSums:
    """Sums over the held-out rows; over none if sums over so few patients' labels would describe single ones."""
    target, labels = local.target, local.hospital.test.labels
    sums: EvaluationSums = target.measure(outputs, labels, config.threshold) if local.may_measure else target.no_sums
    return sums


def refuse_private(config: TrainConfig, purpose: str) -> None:
    """Raise BudgetError under differential privacy, whose budget does not account for this purpose."""
    if config.privacy is not None:
        privacy.load().message_checks.refuse_unaccounted(config.privacy, purpose)


@lru_cache(maxsize=1024)
def local_model(hospital: Hospital, network: Network, normalisation: Normalisation) -> "LocalModel":
    """A hospital's rows as features, and its compiled training; made once per process."""
    from federated_health.hospital.local_model import LocalModel  # noqa: PLC0415  # TensorFlow, once the CSV is checked

    return LocalModel(hospital, network, normalisation)


PLAIN_HANDLERS: Mapping[str, Handler] = {
    REGISTRATION: register,
    "train": train,
    "evaluate": evaluate,
    THRESHOLD: answer_final,
    FINAL: answer_final,
    BENEFIT: answer_final,
}
"""Handlers of plain runs by message type."""
