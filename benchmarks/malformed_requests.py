"""A server's messages, corrupted, repeated and out of order, and a hospital's whole path from bytes to an answer.

For `decoder.py`, which tries very many, and for the tests, which try a few. Scores and updates are arithmetic instead
of Keras's; everything else is the hospital's own code. `malformed_messages` does the same with a server.
"""

import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message
from flwr.proto.message_pb2 import Message as ProtoMessage
from hypothesis import strategies as st
from malformed_messages import MAX_BYTES, Operation, Original, corrupt, draw_operations

from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import read_uci
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import AnswerError, UserError
from federated_health.hospital import benefit, handlers
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.messages.content import REGISTRATION, TrainConfig
from federated_health.ml.networks import Network, Weights, weight_shapes
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.targets import target_of
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.framing import (
    Receiver,
    UndecodableError,
    serialise_content,
    serialise_message,
    serialise_reply,
)
from federated_health.transport.interface import InProcessTransport

NAME, FILE = "switzerland", "client_3.csv"
"""The smallest hospital; it has too few patients of a class for comparisons of models, which take long."""

MAX_PASSES = 10**8
"""Most rows, over all epochs, that a hospital trains on for one message."""

BEGINNINGS = (REGISTRATION, "train")
"""Kinds of messages that a hospital may answer first; under Flower's engines it may have forgotten a registration."""

MAX_REASON = 500
"""Most characters of the reason with which a hospital refuses a message."""

Example = tuple[bool, list[tuple[int, list[Operation]]]]
"""Whether the sequence begins with a registration; then position of each message in the run, and its corruption."""


class ArithmeticModel:
    """A hospital's model whose scores and updates are arithmetic, and that checks what it is asked to do."""

    may_measure = True

    def __init__(self, hospital: Hospital, network: Network, _normalisation: Normalisation) -> None:
        self.hospital, self.target = hospital, target_of(hospital.task)
        self.shapes = weight_shapes(hospital.task, network)
        self.train_rows = len(hospital.train)

    def train(
        self, weights: Weights, config: TrainConfig, _number: int, proximal_mu: float = 0.0
    ) -> tuple[Weights, float]:
        for value in (config.learning_rate, config.l2, proximal_mu, *config.normalisation.mean):
            if not math.isfinite(value):
                raise AssertionError("a hospital trains with a setting that is not finite")
        if not 0 < config.local_epochs * self.train_rows <= MAX_PASSES:
            raise AssertionError("a hospital trains for a long time, or not at all")
        return {name: array + np.float32(0.01) for name, array in weights.items()}, 0.5

    def score(self, weights: Weights) -> npt.NDArray[np.float32]:
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise AssertionError("a hospital evaluates weights that are not finite")
        return self._score(self.hospital.test.values)

    def score_shuffled(self, weights: Weights, _column: int, _order: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        return self.score(weights)

    def score_training(self, _weights: Weights) -> npt.NDArray[np.float32]:
        return self._score(self.hospital.train.values)

    def _score(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        return ((values[:, 0] - 55) / 10).astype(np.float32)


@cache
def hospital() -> Hospital:
    with tempfile.TemporaryDirectory() as folder:
        source, partition = read_uci(), Partition(by="hospital", seed=42)
        write_hospitals(Path(folder), source, divide(source, partition), partition=partition.describe())
        return load_hospital(Path(folder) / FILE, HEART_DISEASE, NAME, 0)


@contextmanager
def arithmetic_models() -> Iterator[None]:
    """Use arithmetic instead of Keras at hospitals of this process; their log is not shown."""
    with patch.object(handlers, "local_model", ArithmeticModel), patch.object(benefit, "PERMUTATIONS", 1):
        logging.getLogger("federated_health").setLevel(logging.CRITICAL)
        yield


@cache
def original_messages() -> list[tuple[str, Original]]:
    """Kind and parts of each message of a short run, in order; of a round also one with a network of large arrays."""
    messages: list[tuple[str, Original]] = []

    def record(message: Message, context: Context) -> Message:
        header, *chunks = serialise_message(
            message, f"{len(messages):016x}", serialise_content(message.content)
        ).parts()
        messages.append((message.metadata.message_type, (ProtoMessage.FromString(header), chunks)))
        return handlers.answer(message, context)

    for settings in (Settings(rounds=3, hospitals=1), Settings(rounds=1, hospitals=1, hidden="600", appraisal=False)):
        PlainRun(InProcessTransport(record, {NAME: InMemoryHospital(hospital())}), settings).run()
    return messages


def examples() -> st.SearchStrategy[Example]:
    """Up to eight messages of a run, in any order, of which about half are corrupted."""
    positions = st.integers(0, len(original_messages()) - 1)
    message = st.tuples(positions, st.one_of(st.just([]), draw_operations()))
    return st.tuples(st.booleans(), st.lists(message, min_size=1, max_size=8))


def examine(example: Example) -> list[tuple[str, str]]:
    """Process a server's messages as a hospital that has just joined; the kind of each message, and its outcome.

    Raises:
        Exception: an unexpected error, or an answer that a hospital must not give.
    """
    joins, sequence = example
    originals, context = original_messages(), InMemoryHospital(hospital())
    outcomes, has_begun = [], False
    for position, operations in [(0, []), *sequence] if joins else sequence:
        kind, original = originals[position]
        outcome, answered_kind = receive(corrupt(original, operations), context)
        has_begun = has_begun or answered_kind in BEGINNINGS
        if answered_kind and not has_begun:
            raise AssertionError(f"a hospital answers {answered_kind} before it has registered or trained")
        outcomes.append((kind, outcome))
    return outcomes


def receive(parts: Sequence[bytes], context: Context) -> tuple[str, str]:
    """Process a server's bytes as a hospital.

    Returns:
        What the first part that leads to something leads to: `answered`, `refused`, or `not a message`, which ends the
        stream; or `incomplete`. Then the kind of the message that is answered, or nothing.

    Raises:
        Exception: an unexpected error, which would end the hospital, or leave the server without a reason.
    """
    receiver = Receiver(MAX_BYTES)
    for part in parts:
        try:
            message = receiver.add(part)
        except UndecodableError:
            return "not a message", ""
        if message is None:
            continue
        try:
            reply = handlers.answer(message, context)
        except AnswerError as error:
            if not isinstance(error.error, UserError):
                raise error.error from None
            if not str(error).isprintable() or len(str(error)) > MAX_REASON:
                raise AssertionError("the reason is not a short line") from None
            return "refused", ""
        serialise_reply(reply)
        return "answered", message.metadata.message_type
    return "incomplete", ""
