"""Hospitals of `chaos.py` that lie in well-formed messages, to make the model theirs, or a bad one."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated_health.messages.content import ARRAYS, NUM_EXAMPLES, REGISTRATION
from federated_health.messages.records import METRICS
from federated_health.ml.normalisation import SUM_NAMES


@dataclass(frozen=True)
class Lie:
    """What a hospital makes up.

    Attributes:
        rows: number of training rows that it declares; 0 for its own.
        has_matching_sums: whether its sums are of as many rows as it declares.
        factor: of its updates; negative for updates in the opposite direction.
        liars: number of hospitals that lie in this way.
        copies_rows: whether it has the rows of another hospital.
    """

    rows: int = 0
    has_matching_sums: bool = False
    factor: float = 1.0
    liars: int = 1
    copies_rows: bool = False


LIES: Mapping[str, Lie] = {
    "10^12 rows": Lie(rows=10**12),
    "an update in the opposite direction": Lie(factor=-1.0),
    "an update of 5 times the norm": Lie(factor=5.0),
    "the rows of another hospital": Lie(copies_rows=True),
    "10^7 rows, with sums to match": Lie(rows=10**7, has_matching_sums=True),
    "an update of 20 times the norm": Lie(factor=20.0),
    "an opposite update of 5 times the norm": Lie(factor=-5.0),
    "10^7 rows at each of two hospitals": Lie(rows=10**7, has_matching_sums=True, liars=2),
    "opposite updates of two hospitals": Lie(factor=-1.0, liars=2),
}


class LyingApp(ClientApp):
    """A hospital's app that changes its replies."""

    def __init__(self, app: ClientApp, lie: Lie) -> None:
        super().__init__()
        self._app, self._lie = app, lie

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self._app(message, context)
        if not reply.has_content():
            return reply
        content, lie = reply.content, self._lie
        kind = message.metadata.message_type
        if kind == REGISTRATION and lie.rows:
            content = _declare(content, lie.rows, with_sums=lie.has_matching_sums)
        elif kind == "train":
            content = _exaggerate(message.content, content, lie.factor)
            if lie.rows:
                content = _with_metrics(content, {NUM_EXAMPLES: lie.rows})
        return Message(content, reply_to=message)


def _with_metrics(content: RecordDict, metrics: Mapping[str, int | list[float]]) -> RecordDict:
    return RecordDict({**content, METRICS: MetricRecord({**content.metric_records[METRICS], **metrics})})


def _declare(content: RecordDict, rows: int, *, with_sums: bool) -> RecordDict:
    metrics = content.metric_records[METRICS]
    factor = rows / int(str(metrics["train-examples"]))
    sums = {name: [factor * float(value) for value in metrics[name]] for name in SUM_NAMES} if with_sums else {}  # type: ignore[union-attr]
    return _with_metrics(content, {"train-examples": rows, **sums})


def _exaggerate(asked: RecordDict, content: RecordDict, factor: float) -> RecordDict:
    """The update `factor` times as far from the weights that the server sent."""
    sent, trained = asked.array_records[ARRAYS], content.array_records[ARRAYS]
    arrays = ArrayRecord()
    for name, array in trained.items():
        start = sent[name].numpy()
        arrays[name] = Array((start + np.float32(factor) * (array.numpy() - start)).astype(np.float32))
    return RecordDict({**content, ARRAYS: arrays})
