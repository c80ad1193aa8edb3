"""Light hospitals for `chaos.py`, and the invalid updates that a light or real hospital can be made to send.

A light hospital joins and replies as client.py does, with arithmetic in place of Keras.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated_health.data.hospital import Hospital
from federated_health.hospital import handlers
from federated_health.hospital.handlers import hospital_of
from federated_health.messages.benefit import Benefit
from federated_health.messages.content import (
    ARRAYS,
    CONFIG,
    EVALUATE,
    NUM_EXAMPLES,
    ROUND,
    TRAIN_LOSS,
    Evaluation,
    TrainingScores,
    Update,
)
from federated_health.messages.records import METRICS, weights_from_record
from federated_health.messages.server_messages import read_train_config
from federated_health.ml.networks import Weights, weight_shapes
from federated_health.ml.targets.binary import Counts
from federated_health.transport.framing import Serialised

MEMORY, STEP = 0.9, 0.1
"""Shares of the received weights and of the hospital's own noise in a light hospital's update."""

HUGE = 1e4
"""Added to every weight of an outsized update; finite, but large enough to ruin any average."""


def light_app(pause: float, silent: Mapping[str, frozenset[int]] | None = None) -> ClientApp:
    """A ClientApp that replies to every kind of message that client.py replies to.

    An update depends, to the bit, only on the seed, the hospital's name, the round and the received weights.

    Args:
        pause: seconds that training takes.
        silent: by hospital, the rounds in which it replies with an error instead of an update.
    """
    app = ClientApp()

    @app.query("statistics")
    def register(message: Message, context: Context) -> Message:
        return Message(handlers.register(message, context).to_content(), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        hospital, number = hospital_of(message, context), round_of(message)
        if silent is not None and number in silent.get(hospital.name, ()):
            raise OSError("no update in this round")
        time.sleep(pause)
        counts = _counts(message, context) if EVALUATE in message.content.config_records[CONFIG] else None
        weights = train_lightly(message, hospital)
        update = Update(weights=weights, examples=len(hospital.train), loss=1 / number, counts=counts)
        return Message(update.to_content(), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(Evaluation(counts=_counts(message, context)).to_content(), reply_to=message)

    @app.evaluate("threshold")
    def score_training(message: Message, context: Context) -> Message:
        half = len(hospital_of(message, context).train) // 2
        scores = TrainingScores(positives=_cell(half, 1.0), negatives=_cell(half, -1.0))
        return Message(scores.to_content(), reply_to=message)

    @app.evaluate("final")
    def finish(message: Message, context: Context) -> Message:
        time.sleep(pause)
        counts = _counts(message, context)
        cells = {"positives": _cell(counts.positives, 1.0), "negatives": _cell(counts.true_negatives, -1.0)}
        return Message(Evaluation(counts=counts, roc_auc=1.0, scores=cells).to_content(), reply_to=message)

    @app.evaluate("appraisal")
    def measure_benefit(message: Message, context: Context) -> Message:
        time.sleep(pause)
        columns = len(hospital_of(message, context).task.columns)
        appraisal = Benefit(
            comparisons={},
            calibration={},
            importance=np.zeros(columns),
            observed=np.zeros(columns),
        )
        return Message(appraisal.to_content(), reply_to=message)

    return app


def train_lightly(message: Message, hospital: Hospital) -> Weights:
    """A light hospital's update of the weights in a message."""
    config = read_train_config(message.content.config_records[CONFIG])
    sent = weights_from_record(message.content.array_records[ARRAYS], weight_shapes(hospital.task, config.network))
    generator = np.random.default_rng([config.seed, *hospital.name.encode(), round_of(message)])
    noise = {name: generator.standard_normal(array.shape) for name, array in sent.items()}
    return {name: (MEMORY * array + STEP * noise[name]).astype(np.float32) for name, array in sent.items()}


def round_of(message: Message) -> int:
    return int(str(message.content.config_records[CONFIG][ROUND]))


def _counts(message: Message, context: Context) -> Counts:
    """Outcome counts if every held-out row were predicted correctly."""
    labels = hospital_of(message, context).test.labels
    positives = int(labels.sum())
    return Counts(true_positives=positives, true_negatives=len(labels) - positives, loss_sum=0.5 * len(labels))


def _cell(patients: int, log_odds: float) -> npt.NDArray[np.float64]:
    """One cell of this many patients; none if they are too few to be released."""
    return np.array([[patients, log_odds, 1.0]] if patients >= 5 else []).reshape(-1, 3)


@dataclass(frozen=True, kw_only=True)
class Poison:
    """What makes a hospital's updates invalid.

    Attributes:
        kind: a key of POISONS.
        first: round of the first invalid update, or the next round in which the hospital trains.
        times: number of invalid updates.
    """

    kind: str
    first: int
    times: int

    def describe(self) -> str:
        return f"{self.kind}, in {self.times} updates from round {self.first} on"


class PoisonedApp(ClientApp):
    """A hospital's app that makes some of its updates invalid."""

    def __init__(self, app: ClientApp, poison: Poison) -> None:
        super().__init__()
        self._app, self._poison = app, poison
        self._before: Message | None = None
        self._left = poison.times
        if poison.kind in OVERSIZES:  # otherwise the client respects the server's limit and does not send them
            patch("federated_health.transport.stream_client._read_limit", lambda _: 2**31).start()

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self._app(message, context)
        if message.metadata.message_type != "train":
            return reply
        before, self._before = self._before, message
        if round_of(message) < self._poison.first or not self._left or not reply.has_content():
            return reply
        self._left -= 1
        if self._poison.kind == ANOTHER_ROUND:
            return Message(reply.content, reply_to=before or message)
        if self._poison.kind == GARBAGE:
            _garble_next_reply()
            return reply
        if self._poison.kind in OVERSIZES:
            weight = np.zeros(OVERSIZES[self._poison.kind] // 4, dtype=np.float32)
            return Message(_with_arrays(reply.content, lambda _: weight), reply_to=message)
        return Message(POISONS[self._poison.kind](reply.content), reply_to=message)


def _garble_next_reply() -> None:
    """Replace the bytes of the next reply where they are serialised, since an app cannot send such."""

    def garble(_: object) -> tuple[bytes, Serialised]:
        patched.stop()
        return b"", Serialised(b"\xff" * 1000)

    patched = patch("federated_health.transport.stream_client.serialise_reply", garble)
    patched.start()


Change = Callable[[RecordDict], RecordDict]


def _with_arrays(
    content: RecordDict, change: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.generic]]
) -> RecordDict:
    """The update with its first array of weights changed."""
    arrays = ArrayRecord(dict(content.array_records[ARRAYS]))
    first = next(iter(arrays))
    arrays[first] = Array(change(arrays[first].numpy()))
    return RecordDict({ARRAYS: arrays, METRICS: content.metric_records[METRICS]})


def _with_metric(key: str, change: Callable[[int], int | float]) -> Change:
    """Replaces one figure; `change` gets the number of training rows."""

    def changed(content: RecordDict) -> RecordDict:
        metrics = content.metric_records[METRICS]
        rows = int(str(metrics[NUM_EXAMPLES]))
        return RecordDict({**content, METRICS: MetricRecord({**metrics, key: change(rows)})})

    return changed


def _one_weight(value: float) -> Change:
    def change(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        changed = array.copy()
        changed.flat[0] = value
        return changed

    return lambda content: _with_arrays(content, change)


def _unreadable(content: RecordDict) -> RecordDict:
    """Weights whose bytes are not an array's."""
    arrays = ArrayRecord(dict(content.array_records[ARRAYS]))
    first = next(iter(arrays))
    old = arrays[first]
    arrays[first] = Array(dtype=old.dtype, shape=old.shape, stype=old.stype, data=b"\x93NUMPY" + b"\xff" * 100)
    return RecordDict({ARRAYS: arrays, METRICS: content.metric_records[METRICS]})


ANOTHER_ROUND, GARBAGE = "a reply to another round", "bytes of no message"
FAR_TOO_LARGE = "64 MiB"
"""After such a message the server ends the stream permanently, and the hospital ends."""

OVERSIZES: Mapping[str, int] = {FAR_TOO_LARGE: 64 * 2**20, "1.5 MiB": 3 * 2**19}
"""Bytes of messages that are too large for any task; the second is parsed and rejected."""

ON_THE_WAY = (ANOTHER_ROUND, GARBAGE, *OVERSIZES)
"""Kinds that concern the message, not the update in it."""

POISONS: Mapping[str, Change] = {
    "NaN": _one_weight(float("nan")),
    "num-examples 0": _with_metric(NUM_EXAMPLES, lambda _: 0),
    "a huge norm": lambda content: _with_arrays(content, lambda array: array + np.float32(HUGE)),
    ANOTHER_ROUND: lambda content: content,
    "another shape": lambda content: _with_arrays(content, lambda array: array[1:]),
    FAR_TOO_LARGE: lambda content: content,
    "infinity": _one_weight(float("inf")),
    "num-examples negative": _with_metric(NUM_EXAMPLES, lambda rows: -rows),
    GARBAGE: lambda content: content,
    "another dtype": lambda content: _with_arrays(content, lambda array: array.astype(np.float64)),
    "num-examples beyond the declared": _with_metric(NUM_EXAMPLES, lambda rows: 1000 * rows),
    "bytes of no array": _unreadable,
    "a loss of NaN": _with_metric(TRAIN_LOSS, lambda _: float("nan")),
    "1.5 MiB": lambda content: content,
    "no weights": lambda content: RecordDict({METRICS: content.metric_records[METRICS]}),
}
"""How an update can be invalid. The app itself handles those of ON_THE_WAY."""
