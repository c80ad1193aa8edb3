"""A server's messages to a hospital, valid, corrupted and out of order, and the hospital's whole path to its reply.

For `decoder.py`, which tries very many, and for the tests, which try a few. The hospital's handlers are the real ones;
its network is replaced, so that a message costs what the handlers cost.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import Message as ProtoMessage
from hypothesis import strategies as st
from malformed_messages import MAX_BYTES, TASK, Operation, Original, corrupt

from federated_health.data.columns import Measurement
from federated_health.data.hospital import Hospital, Patients
from federated_health.data.tasks import write_agreement
from federated_health.hospital import handlers
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.messages.content import TrainConfig
from federated_health.messages.records import weights_to_record
from federated_health.ml.networks import Network, Weights, initial_weights, weight_shapes
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.targets import target_of
from federated_health.transport.app_calls import call_app
from federated_health.transport.framing import (
    Receiver,
    UndecodableError,
    serialise_content,
    serialise_message,
    serialise_reply,
)
from federated_health.transport.interface import InProcessTransport

NETWORK = Network("logistic")
TRAIN_ROWS, TEST_ROWS = 60, 40
MEASUREMENTS = len(TASK.measurements)

CONFIG = TrainConfig(
    task=TASK.name,
    schema=TASK.schema_hash,
    network=NETWORK,
    strategy="fedavg",
    strategy_args="",
    rounds=0,
    local_epochs=2,
    batch_size=16,
    learning_rate=0.1,
    l2=0.01,
    seed=42,
    threshold=0.5,
    normalisation=Normalisation(mean=(50.0,) * MEASUREMENTS, variance=(100.0,) * MEASUREMENTS),
)

REGISTRATION, TRAIN, EVALUATE = "query.statistics", "train", "evaluate"
THRESHOLD, FINAL, BENEFIT = "evaluate.threshold", "evaluate.final", "evaluate.appraisal"
KINDS = (REGISTRATION, TRAIN, EVALUATE, THRESHOLD, FINAL, BENEFIT)

Step = tuple[str, int, int, list[Operation]]
"""Kind of a message, its round, the seed of its weights, and how it is corrupted."""


def request(
    kind: str, number: int = 1, weights: int | Weights = 1, config: TrainConfig = CONFIG, **more: Any
) -> Message:
    """A message as an honest server sends it.

    Args:
        number: of the round; in the last messages of a run, the number of rounds.
        weights: or the seed of random ones.
        more: values of the record config, with underscores for dashes, that replace those of the config or are added.
    """
    InProcessTransport(None, {})  # type: ignore[arg-type]  # gives this process the identity that messages need
    added = {name.replace("_", "-"): value for name, value in more.items()}
    if kind == REGISTRATION:
        terms = {"task": TASK.name, "schema": TASK.schema_hash, "terms": write_agreement(TASK.agreement)}
        return Message(RecordDict({"config": ConfigRecord({**terms, **added})}), 1, kind)
    in_rounds = kind in (TRAIN, EVALUATE)
    record = replace(config, rounds=number - in_rounds).to_record()
    record.update({"server-round": number, **added} if in_rounds else added)
    arrays = initial_weights(TASK, NETWORK, weights) if isinstance(weights, int) else weights
    return Message(RecordDict({"arrays": weights_to_record(arrays), "config": record}), 1, kind)


def rows_of(rows: int) -> Patients:
    """Patients with values that repeat."""
    numbers = np.arange(rows)
    values = [
        column.low + numbers * 7 % 13 / 13 * (column.high - column.low)
        if isinstance(column, Measurement)
        else np.array([float(code) for code in column.codes])[numbers % len(column.codes)]
        for column in TASK.columns
    ]
    return Patients(np.array(values, dtype=np.float64).T, (numbers % 2).astype(np.float32))


@dataclass
class QuickModel:
    """In place of a hospital's network: a risk by the first column, without training; checks how much is asked."""

    hospital: Hospital
    network: Network
    normalisation: Normalisation

    @property
    def target(self) -> Any:
        return target_of(self.hospital.task)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return weight_shapes(self.hospital.task, self.network)

    train_rows, may_measure = TRAIN_ROWS, True

    def train(
        self, weights: Weights, config: TrainConfig, number: int, proximal_mu: float = 0.0
    ) -> tuple[Weights, float]:
        if not (0 <= number <= 100_000 and 0 <= proximal_mu <= 1e6):
            raise AssertionError("it trains a round, or with a proximal term, that it should refuse")
        if config.local_epochs * max(config.batch_size, self.train_rows) > 10**8:
            raise AssertionError("it works more than it should")
        return weights, 0.5

    def score(self, weights: Weights) -> Any:
        return self._score(self.hospital.test, weights)

    def score_training(self, weights: Weights) -> Any:
        return self._score(self.hospital.train, weights)

    def score_shuffled(self, weights: Weights, _column: int, _order: Any) -> Any:
        return self.score(weights)

    def _score(self, rows: Patients, weights: Weights) -> Any:
        bias = float(np.clip(next(reversed(weights.values())).ravel()[0], -10, 10))
        return ((rows.values[:, 0] - 50) / 10 + bias).astype(np.float32)


def quick_models() -> AbstractContextManager[Any]:
    """Have hospitals use a QuickModel."""
    return mock.patch.multiple(handlers, local_model=QuickModel)


def open_hospital() -> InMemoryHospital:
    """A hospital that knows nothing yet."""
    return InMemoryHospital(Hospital("cleveland", TASK, rows_of(TRAIN_ROWS), rows_of(TEST_ROWS)))


@dataclass
class HostileSession:
    """One hospital's process, and what a server learns from it; refuses what the hospital should have refused.

    Attributes:
        outcomes: of the messages, in order: answered, refused, failed (for a reason that was not foreseen), not a
            message, too large, wrong chunk or incomplete.
    """

    context: InMemoryHospital = field(default_factory=open_hospital)
    outcomes: list[str] = field(default_factory=list)
    _trained: int = 0
    _is_known: bool = False
    _evaluated: set[bytes] = field(default_factory=set)
    _contents: defaultdict[tuple[str, int], set[bytes]] = field(default_factory=lambda: defaultdict(set))

    def receive(self, parts: Sequence[bytes]) -> str:
        """Process a server's bytes as the hospital's stream does, and return the outcome of the first message."""
        receiver = Receiver(MAX_BYTES)
        outcome = "incomplete"
        for part in parts:
            try:
                message = receiver.add(part)
            except UndecodableError as error:
                words = {"more than": "too large", "chunk": "wrong chunk"}
                outcome = next((words[word] for word in words if word in str(error)), "not a message")
                break
            if message is not None:
                outcome = self.answer(message)
                break
        self.outcomes.append(outcome)
        return outcome

    def answer(self, message: Message) -> str:
        """The outcome of a message.

        Raises:
            AssertionError: it was answered, and no run would hold it; or a reason of a refusal is not a short line.
        """
        reply = call_app(handlers.answer, message, self.context)
        serialise_reply(reply)
        if not reply.has_error():
            self._check_answered(message)
            return "answered"
        reason = reply.error.reason or ""
        if not reason.isprintable() or len(reason) > 1_000:
            raise AssertionError("the reason is not a short line")
        return "failed" if reason.endswith(" at the hospital") else "refused"

    def _check_answered(self, message: Message) -> None:
        kind = message.metadata.message_type
        config: Mapping[str, Any] = message.content.config_records["config"]
        content = serialise_content(message.content).header
        if kind == REGISTRATION:
            self._is_known = True
        elif not (kind == TRAIN or self._is_known):
            raise AssertionError("it answered before a registration or a training")
        number: Any = 0
        if kind in (TRAIN, EVALUATE):
            self._trained += kind == TRAIN
            self._is_known = True
            number = config.get("server-round", config["rounds"])
            if kind == EVALUATE or config.get("evaluate-first") is True:
                self._evaluated.add(content)
        if len(self._evaluated) > self._trained + 3 or len(self._evaluated) > 1 + 4 * self._trained:
            raise AssertionError("it evaluated more than it trained")
        contents = self._contents[kind, number]
        contents.add(content)
        if len(contents) > (4 if kind == TRAIN else 3):
            raise AssertionError("it answered too many different messages")
        for name, (low, high) in LIMITS.items():
            values = config.get(name, low)
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, bool) or not (math.isfinite(value) and low <= value <= high):
                    raise AssertionError(f"it answered with an impossible {name}")


LIMITS: Mapping[str, tuple[float, float]] = {
    "rounds": (0, 100_000),
    "server-round": (1, 100_000),
    "local_epochs": (1, 10_000),
    "batch_size": (0, 1_000_000),
    "learning_rate": (5e-324, 1e6),
    "l2": (0, 1e6),
    "proximal-mu": (0, 1e6),
    "seed": (0, 2**31 - 1),
    "threshold": (0, 1),
    "dropout": (0, 1),
    "mean": (-1e30, 1e30),
    "variance": (5e-324, 1e60),
    "class_weights": (0, 1e9),
}


def original_of(kind: str, number: int, weights: int) -> Original:
    """A message of an honest server, as it is sent."""
    more: dict[str, Any] = {"evaluate_first": True} if kind == TRAIN and number > 1 else {}
    message = request(kind, number, weights, **more)
    header, *chunks = serialise_message(message, "0123456789abcdef", serialise_content(message.content)).parts()
    return ProtoMessage.FromString(header), chunks


def steps() -> st.SearchStrategy[list[Step]]:
    """Messages to one hospital: those of a run in their order, and others; each valid or corrupted."""
    names = st.sampled_from(["field", "field", "field", "type", "type", "swap", "bytes", "parts"])
    some = st.lists(st.tuples(names, st.integers(0, 2**32)), min_size=1, max_size=3)
    operations: st.SearchStrategy[list[Operation]] = st.one_of(st.just([]), some)
    rounds, seeds = st.integers(1, 5), st.integers(1, 4)
    step = st.tuples(st.sampled_from([*KINDS, TRAIN, TRAIN, EVALUATE]), rounds, seeds, operations)
    in_order: list[Step] = [(REGISTRATION, 1, 1, []), (TRAIN, 1, 1, []), (TRAIN, 2, 2, [])]
    return st.tuples(st.integers(0, 3), st.lists(step, min_size=1, max_size=12)).map(
        lambda drawn: [*in_order[: drawn[0]], *drawn[1]]
    )


def play(drawn: Sequence[Step], originals: Mapping[tuple[str, int, int], Original]) -> HostileSession:
    """Send messages to one new hospital."""
    session = HostileSession()
    for kind, number, weights, operations in drawn:
        session.receive(corrupt(originals[kind, number, weights], operations))
    return session


def all_originals() -> dict[tuple[str, int, int], Original]:
    """Every message that `steps` may draw."""
    return {
        (kind, number, weights): original_of(kind, number, weights)
        for kind in KINDS
        for number in range(1, 6)
        for weights in range(1, 5)
    }
