"""What server and hospitals say to each other: the names in Flower's records, and how they map to our own types.

This is the one list of what leaves a hospital:

- `query.statistics`: its name, how many rows it trains on and holds out, and per measurement the count, sum and sum of
  squares over its training rows (nothing where fewer than five were observed);
- `train`: weights, the number of training rows, the mean training loss;
- `evaluate`: outcome counts and loss sums over its held-out rows;
- `evaluate.final`: the same counts, its own ROC-AUC, and its scores of each class as coarse cells of at least five
  patients (see `metrics.score_cells`).

What comes from the other side is checked when it is read; what is wrong raises MalformedMessageError, without values.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from federated_health.metrics import MINIMUM_CELL, MOST_CELLS, Counts
from federated_health.model import Weights
from federated_health.statistics import ColumnSums, Normalisation

STATISTICS = "query.statistics"
TRAIN = "train"
EVALUATE = "evaluate"
FINAL = "evaluate.final"

ARRAYS, CONFIG, METRICS, HOSPITAL = "arrays", "config", "metrics", "hospital"
NUM_EXAMPLES = "num-examples"
ROUND = "server-round"  # Flower's own name; its strategies set it

HOSPITAL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
FEDERATION = "federation"
"""Stands for all hospitals together in tables and files, so no hospital may be called so."""


class MalformedMessageError(ValueError):
    """A record that lacks something or holds what it must not; says what, without values."""


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """All that a hospital is told, beside the weights.

    Attributes:
        schema: the task's schema hash.
        rounds: rounds that are finished.
    """

    task: str
    schema: str
    model: str
    strategy: str
    rounds: int
    local_epochs: int
    batch_size: int
    learning_rate: float
    l2: float
    seed: int
    normalisation: Normalisation

    def to_record(self) -> ConfigRecord:
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "normalisation"}
        return ConfigRecord(
            {
                **plain,
                "mean": list(self.normalisation.mean),
                "variance": list(self.normalisation.variance),
            }
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Instructions":
        normalisation = Normalisation(mean=tuple(record["mean"]), variance=tuple(record["variance"]))
        plain = {field.name: record[field.name] for field in fields(cls) if field.name != "normalisation"}
        return cls(normalisation=normalisation, **plain)


@dataclass(frozen=True, kw_only=True)
class Introduction:
    """How a hospital introduces itself, once."""

    name: str
    train_examples: int
    test_examples: int
    sums: ColumnSums

    def to_content(self) -> RecordDict:
        sums = {name: getattr(self.sums, name).tolist() for name in ("count", "total", "squares")}
        return RecordDict(
            {
                HOSPITAL: ConfigRecord({"name": self.name}),
                METRICS: MetricRecord(
                    {"train-examples": self.train_examples, "test-examples": self.test_examples, **sums}
                ),
            }
        )

    @classmethod
    def from_content(cls, content: RecordDict, measurements: int) -> "Introduction":
        record = content.config_records.get(HOSPITAL)
        name = record.get("name") if record else None
        if not isinstance(name, str) or not is_hospital_name(name):
            raise MalformedMessageError("its name is not one of lower-case letters, digits and hyphens")
        metrics = _metrics(content)
        sums = {key: _floats(metrics, key, measurements) for key in ("count", "total", "squares")}
        return cls(
            name=name,
            train_examples=_whole(metrics, "train-examples", 1),
            test_examples=_whole(metrics, "test-examples", 0),
            sums=ColumnSums(**sums),
        )


@dataclass(frozen=True, kw_only=True)
class Update:
    """A hospital's trained weights.

    Attributes:
        examples: its training rows.
        loss: mean training loss a row, in nats.
    """

    weights: Weights
    examples: int
    loss: float

    def to_content(self) -> RecordDict:
        metrics = MetricRecord({NUM_EXAMPLES: self.examples, "train-loss": self.loss})
        return RecordDict({ARRAYS: weights_to_record(self.weights), METRICS: metrics})

    @classmethod
    def from_content(cls, content: RecordDict, shapes: Mapping[str, tuple[int, ...]]) -> "Update":
        if set(content.array_records) != {ARRAYS}:
            raise MalformedMessageError("its reply does not hold exactly one set of weights")
        metrics = _metrics(content)
        return cls(
            weights=weights_from_record(content.array_records[ARRAYS], shapes),
            examples=_whole(metrics, NUM_EXAMPLES, 1),
            loss=_number(metrics, "train-loss"),
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A hospital's evaluation of the federation's weights on its held-out rows.

    Attributes:
        roc_auc: of these rows, exactly; None where undefined, and in every round but the last.
        positives, negatives: score cells of each class (see `metrics.score_cells`); the last time only.
    """

    counts: Counts
    roc_auc: float | None = None
    positives: npt.NDArray[np.float64] | None = None
    negatives: npt.NDArray[np.float64] | None = None

    def to_content(self) -> RecordDict:
        metrics = MetricRecord({NUM_EXAMPLES: self.counts.examples, **asdict(self.counts)})
        if self.roc_auc is not None:
            metrics["roc_auc"] = self.roc_auc
        for key, cells in (("positives", self.positives), ("negatives", self.negatives)):
            if cells is not None:
                metrics[key] = cells.ravel().tolist()
        return RecordDict({METRICS: metrics})

    @classmethod
    def from_content(cls, content: RecordDict) -> "Evaluation":
        metrics = _metrics(content)
        values = {
            field.name: _whole(metrics, field.name, 0) if field.type is int else _number(metrics, field.name)
            for field in fields(Counts)
        }
        counts = Counts(**values)  # type: ignore[arg-type]  # each of its field's own type
        if counts.examples != _whole(metrics, NUM_EXAMPLES, 0):
            raise MalformedMessageError("its outcome counts do not add up to its examples")
        auc = _number(metrics, "roc_auc") if "roc_auc" in metrics else None
        if auc is not None and not 0 <= auc <= 1:
            raise MalformedMessageError("its ROC-AUC is not between 0 and 1")
        return cls(
            counts=counts, roc_auc=auc, positives=_cells(metrics, "positives"), negatives=_cells(metrics, "negatives")
        )


def is_hospital_name(name: str) -> bool:
    return name != FEDERATION and HOSPITAL_NAME.fullmatch(name) is not None


def weights_to_record(weights: Weights) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in weights.items()})


def weights_from_record(record: ArrayRecord, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Weights of exactly these names and shapes, finite float32.

    Raises:
        MalformedMessageError: they are not.
    """
    if list(record) != list(shapes):
        raise MalformedMessageError("its weights have other names")
    weights: Weights = {}
    for name, shape in shapes.items():
        try:
            array = record[name].numpy()
        except (ValueError, TypeError, OSError, EOFError):
            raise MalformedMessageError(f"its weights {name} cannot be read") from None
        if array.dtype != np.float32 or array.shape != shape:
            raise MalformedMessageError(f"its weights {name} have another type or shape")
        if not np.isfinite(array).all():
            raise MalformedMessageError(f"its weights {name} are not all finite")
        weights[name] = array
    return weights


def _metrics(content: RecordDict) -> MetricRecord:
    if set(content.metric_records) != {METRICS}:
        raise MalformedMessageError("its reply does not hold exactly one set of metrics")
    return content.metric_records[METRICS]


def _whole(metrics: MetricRecord, key: str, minimum: int) -> int:
    value = metrics.get(key)
    if not isinstance(value, int) or value < minimum:
        raise MalformedMessageError(f"its {key} is not a whole number of at least {minimum}")
    return value


def _number(metrics: MetricRecord, key: str) -> float:
    value = metrics.get(key)
    if not isinstance(value, float) or not np.isfinite(value):
        raise MalformedMessageError(f"its {key} is not a finite number")
    return value


def _floats(metrics: MetricRecord, key: str, length: int) -> npt.NDArray[np.float64]:
    array = np.array(metrics.get(key, []), dtype=np.float64)
    if array.shape != (length,) or not np.isfinite(array).all():
        raise MalformedMessageError(f"its {key} is not {length} finite numbers")
    return array


def _cells(metrics: MetricRecord, key: str) -> npt.NDArray[np.float64] | None:
    if key not in metrics:
        return None
    flat = np.array(metrics[key], dtype=np.float64)
    if flat.ndim != 1 or flat.size % 3 or flat.size > 3 * MOST_CELLS or not np.isfinite(flat).all():
        raise MalformedMessageError(f"its cells of {key} are not finite numbers in threes")
    cells = flat.reshape(-1, 3)
    if (cells[:, 0] < MINIMUM_CELL).any() or (cells[:, 0] % 1).any() or (cells[:, 2] < 0).any():
        raise MalformedMessageError(f"its cells of {key} are too small or have a negative deviation")
    return cells
