"""Reading and validation of what hospitals send, which only a server needs; errors quote no value."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, MetricRecord, RecordDict

from federated_health.data.columns import Measurement
from federated_health.data.tasks import Task
from federated_health.messages import content as messages
from federated_health.messages.content import (
    ARRAYS,
    ASSOCIATIONS,
    CLASS_COUNTS,
    DISCLOSURE,
    HOSPITAL,
    NUM_EXAMPLES,
    TRAIN_LOSS,
    Evaluation,
    Registration,
    TrainingScores,
    Update,
)
from federated_health.messages.records import DIVERGED, METRICS, MalformedMessageError, size_of, weights_from_record
from federated_health.ml.metrics import MAX_BINARY_CELLS, MIN_CELL_SIZE, EvaluationSums
from federated_health.ml.networks import Network, weight_shapes
from federated_health.ml.normalisation import MIN_OBSERVED, SUM_NAMES, ColumnSums, withheld_sums
from federated_health.ml.targets import Target
from federated_health.names import is_hospital_name

if TYPE_CHECKING:
    from federated_health.ml.subgroups import GroupFigures

WRONG_COUNTS = "its sums of the evaluation are not over the held-out rows that it registered"

MAX_DECLARED_ROWS = 10**8
"""Largest accepted number of training rows, and of held-out rows, of one hospital."""

MAX_TRAIN_LOSS = 1e6
"""Largest accepted mean loss: no training that has not diverged comes near it, and powers of it do not overflow."""

MAX_LOG_ODDS = 1e39
"""Bound on scores: above every float32, and far enough below the largest float64 for sums."""

Record = TypeVar("Record", ArrayRecord, MetricRecord)


def max_reply_bytes(task: Task, network: Network) -> int:
    """Size limit of a hospital's message, in bytes: twice the weights, and 1 MiB for everything else."""
    return 2 * size_of(weight_shapes(task, network)) + 2**20


def read_registration(
    content: RecordDict, measurements: Sequence[Measurement], associations: int = 0, classes: int = 0
) -> Registration:
    """Read a registration.

    Args:
        measurements: of the task; their ranges limit the sums.
        associations: number of the task's associations; a registration without any is read, too.
        classes: number of classes whose rows were requested; 0 if none were.
    """
    record = content.config_records.get(HOSPITAL)
    name = record.get("name") if record else None
    if not isinstance(name, str) or not is_hospital_name(name):
        raise MalformedMessageError("its name: expected lower-case letters, digits and hyphens")
    are_released = not set(SUM_NAMES).isdisjoint(content.metric_records.get(METRICS, {}))
    keys = {"train-examples", "test-examples", *(SUM_NAMES if are_released else ())}
    keys |= {CLASS_COUNTS} if classes else set()
    metrics = read_metrics(content, keys, {ASSOCIATIONS} if associations else None)
    train_examples = read_whole(metrics, "train-examples", 1, MAX_DECLARED_ROWS)
    test_examples = read_whole(metrics, "test-examples", 0, MAX_DECLARED_ROWS)
    if are_released:
        sums = ColumnSums(**{key: read_floats(metrics, key, len(measurements)) for key in SUM_NAMES})
        check_sums(sums, train_examples, measurements)
    else:
        sums = withheld_sums(len(measurements))
    correlations = read_floats(metrics, ASSOCIATIONS, associations if ASSOCIATIONS in metrics else 0)
    if (np.abs(correlations) > 1).any():
        raise MalformedMessageError(f"its {ASSOCIATIONS} are not between -1 and 1")
    return Registration(
        name=name,
        train_examples=train_examples,
        test_examples=test_examples,
        sums=sums,
        associations=correlations,
        class_counts=_read_class_counts(metrics, classes, train_examples) if classes else (),
        suppressed=read_disclosure(content, messages.ROW_COUNTS, messages.COLUMN_SUMS, ASSOCIATIONS, CLASS_COUNTS),
    )


def read_disclosure(content: RecordDict, *releases: str, target: Target[Any] | None = None) -> dict[str, str]:
    """What is suppressed in a reply that may hold these releases, and why (see `suppressed_replies`)."""
    if DISCLOSURE not in content:
        return {}
    from federated_health.messages.suppressed_replies import read_suppressed  # noqa: PLC0415  # few replies

    return read_suppressed(content, releases, target)


def _read_class_counts(metrics: MetricRecord, classes: int, rows: int) -> tuple[int, ...]:
    counts = read_floats(metrics, CLASS_COUNTS, classes)
    if (counts % 1).any() or (counts < 0).any() or counts.sum() > rows:
        raise MalformedMessageError(f"its {CLASS_COUNTS} are not numbers of its training rows")
    return tuple(map(int, counts))


def read_update(
    content: RecordDict,
    shapes: Mapping[str, tuple[int, ...]],
    declared: int,
    *,
    private: bool = False,
    evaluated: int | None = None,
    target: Target[Any] | None = None,
) -> Update:
    """Read an update.

    Args:
        shapes: shapes of the weights by name, in their order.
        declared: number of training rows with which the hospital registered.
        private: whether the run has differential privacy.
        evaluated: number of held-out rows with which it registered, if the server requested an evaluation, which also
            needs the target; else None.
    """
    arrays = read_only(content, ArrayRecord, ARRAYS, "weights")
    keys = {NUM_EXAMPLES} if private else {NUM_EXAMPLES, TRAIN_LOSS}
    suppressed = read_disclosure(content, messages.ROUND_EVALUATION, target=target)
    if evaluated is not None and target is not None:
        keys |= names_of_counts(target)
    metrics = read_metrics(content, keys)
    if read_whole(metrics, NUM_EXAMPLES, 1) != declared:
        raise MalformedMessageError(f"its {NUM_EXAMPLES} is not the number of training rows that it registered")
    loss = metrics.get(TRAIN_LOSS)
    if isinstance(loss, float) and not loss <= MAX_TRAIN_LOSS:
        raise MalformedMessageError(f"{DIVERGED}its {TRAIN_LOSS} is out of range")
    loss = None if private else read_number(metrics, TRAIN_LOSS)
    if loss is not None and loss < 0:
        raise MalformedMessageError(f"its {TRAIN_LOSS} is out of range")
    return Update(
        weights=weights_from_record(arrays, shapes),
        examples=declared,
        loss=loss,
        counts=None if evaluated is None or target is None or suppressed else read_counts(metrics, target, evaluated),
        suppressed=suppressed,
    )


def read_evaluation(
    content: RecordDict, target: Target[Any], declared: int, *, final: bool = False, task: Task | None = None
) -> Evaluation:
    """Read an evaluation by a hospital that registered with this number of held-out rows.

    Args:
        task: whose subgroups a final evaluation may hold; None if it may hold none.
    """
    names = target.rows_of_groups(target.no_sums).keys()
    releases: tuple[str, ...] = (messages.ROUND_EVALUATION,)
    if final:
        releases = (messages.FINAL_EVALUATION, messages.ROC_AUC, messages.SCORES, messages.SUBGROUPS)
    suppressed = read_disclosure(content, *releases, target=target)
    optional = {"roc_auc", *names} if final else set()
    optional |= {messages.SUBGROUPS} if final and task is not None and task.subgroups else set()
    metrics = read_metrics(content, {NUM_EXAMPLES, *names_of_counts(target)}, optional)
    counts = read_counts(metrics, target, 0 if releases[0] in suppressed else declared)
    if read_whole(metrics, NUM_EXAMPLES, 0) != counts.examples:
        raise MalformedMessageError(WRONG_COUNTS)
    auc = read_number(metrics, "roc_auc") if "roc_auc" in metrics else None
    if auc is not None and not 0 <= auc <= 1:
        raise MalformedMessageError("its ROC-AUC is not between 0 and 1")
    read = partial(read_cells, metrics, has_deviation=target.has_classes)
    scores = {name: read(name) for name in names if name in metrics}
    expected = target.rows_of_groups(counts)
    for name, groups in scores.items():
        rows = groups[:, 0].sum()
        if rows > declared or (groups.size and rows != expected[name] and releases[0] not in suppressed):
            raise MalformedMessageError(f"its score groups of {name} do not add up to its rows of that kind")
    subgroups: Sequence[GroupFigures] = ()
    if task is not None and messages.SUBGROUPS in metrics:
        from federated_health.messages.subgroups import read_subgroups  # noqa: PLC0415  # at the end of a run only

        subgroups = read_subgroups(metrics, task, counts if releases[0] not in suppressed else None, declared)
    return Evaluation(counts=counts, roc_auc=auc, scores=scores, subgroups=subgroups, suppressed=suppressed)


def read_training_scores(content: RecordDict, declared: int) -> TrainingScores:
    """Read the scores of a hospital that registered with this number of training rows."""
    suppressed = read_disclosure(content, messages.THRESHOLD_SCORES)
    metrics = read_metrics(content, {"positives", "negatives"})
    positives, negatives = read_cells(metrics, "positives"), read_cells(metrics, "negatives")
    if positives[:, 0].sum() + negatives[:, 0].sum() > declared:
        raise MalformedMessageError("its score groups hold more than the training rows that it registered")
    return TrainingScores(positives=positives, negatives=negatives, suppressed=suppressed)


def read_only(content: RecordDict, kind: type[Record], name: str, meaning: str) -> Record:
    """The only record of a kind, which must have this name. Flower's own views would copy all records."""
    records = {key: record for key, record in content.items() if isinstance(record, kind)}
    if list(records) != [name]:
        raise MalformedMessageError(f"its reply does not hold exactly one set of {meaning}")
    return records[name]


def read_metrics(content: RecordDict, keys: set[str], optional: set[str] | None = None) -> MetricRecord:
    """The only set of metrics, with exactly these keys: Flower aggregates by key, and another key would break it."""
    metrics = read_only(content, MetricRecord, METRICS, METRICS)
    if not keys <= set(metrics) <= keys | (optional or set()):
        raise MalformedMessageError(f"its metrics are not exactly: {', '.join(sorted(keys))}")
    return metrics


def read_whole(metrics: MetricRecord, key: str, minimum: int, maximum: float = np.inf) -> int:
    """A whole number of at least `minimum`, and at most `maximum`."""
    value = metrics.get(key)
    if type(value) is not int or value < minimum:
        raise MalformedMessageError(f"its {key} is not a whole number of at least {minimum}")
    if value > maximum:
        raise MalformedMessageError(f"its {key}: expected at most {maximum:,}")
    return value


def read_number(metrics: MetricRecord, key: str) -> float:
    """A finite float."""
    value = metrics.get(key)
    if not isinstance(value, float) or not np.isfinite(value):
        raise MalformedMessageError(f"its {key} is not a finite number")
    return value


def read_between(metrics: MetricRecord, key: str, minimum: float, maximum: float) -> float:
    """A number within limits."""
    value = read_number(metrics, key)
    if not minimum <= value <= maximum:
        raise MalformedMessageError(f"its {key} is not between {minimum:g} and {maximum:g}")
    return value


def read_floats(metrics: MetricRecord, key: str, length: int) -> npt.NDArray[np.float64]:
    """Finite numbers, [length]."""
    array = np.array(metrics.get(key, []), dtype=np.float64)
    if array.shape != (length,) or not np.isfinite(array).all():
        raise MalformedMessageError(f"its {key} is not {length} finite numbers")
    return array


def names_of_counts(target: Target[Any]) -> set[str]:
    """Names of the metrics of an evaluation's sums."""
    return {field.name for field in fields(target.sums)}


def read_counts(metrics: MetricRecord, target: Target[Any], declared: int) -> EvaluationSums:
    """The sums of an evaluation over the held-out rows that a hospital registered, or over none if these are few."""
    values = {
        field.name: _read_like(getattr(target.no_sums, field.name), metrics, field.name)
        for field in fields(target.sums)
    }
    counts: EvaluationSums = target.sums(**values)
    if counts.examples != declared and not (counts == target.no_sums and target.min_rows):
        raise MalformedMessageError(WRONG_COUNTS)
    if not 0 <= counts.loss_sum <= counts.examples * target.max_loss or not target.is_possible(counts):
        raise MalformedMessageError("its sums of the evaluation are impossible")
    return counts


def _read_like(example: Any, metrics: MetricRecord, name: str) -> Any:
    """A number of at least 0 of the example's type, or as many whole numbers of at least 0 as it has."""
    if isinstance(example, float):
        return read_number(metrics, name)
    if isinstance(example, int):
        return read_whole(metrics, name, 0)
    values = metrics.get(name)
    if (
        not isinstance(values, list)
        or len(values) != len(example)
        or not all(type(v) is int and v >= 0 for v in values)
    ):
        raise MalformedMessageError(f"its {name} is not {len(example)} whole numbers of at least 0")
    return tuple(values)


def check_sums(sums: ColumnSums, rows: int, measurements: Sequence[Measurement]) -> None:
    """Refuse sums that no rows of plausible values can add up to."""
    count, total, squares = sums.count, sums.total, sums.squares
    low = np.array([measurement.low for measurement in measurements])
    high = np.array([measurement.high for measurement in measurements])
    if (count % 1).any() or (count > rows).any() or ((count != 0) & (count < MIN_OBSERVED)).any():
        raise MalformedMessageError("its counts of observed rows are impossible")
    slack = 1e-6 * np.maximum(squares, 1.0)
    outside = (total < count * low - slack) | (total > count * high + slack)
    if outside.any() or (squares > count * np.maximum(low**2, high**2) + slack).any():
        raise MalformedMessageError("its sums are outside what plausible values can add up to")
    with np.errstate(over="ignore"):  # infinities are refused below
        too_small = squares * count < total**2 - slack * np.maximum(count, 1.0)
    if too_small.any():
        raise MalformedMessageError("its sums of squares are smaller than its sums allow")
    if (squares < 0).any() or ((count == 0) & ((total != 0) | (squares != 0))).any():
        raise MalformedMessageError("its sums over no rows, or of squares, are impossible")


def read_cells(metrics: MetricRecord, key: str, *, has_deviation: bool = True) -> npt.NDArray[np.float64]:
    """Groups of at least MIN_CELL_SIZE rows, [groups, 3].

    Args:
        has_deviation: whether the third number of a group is a deviation (see `scores.microaggregate`).
    """
    flat = np.array(metrics[key], dtype=np.float64)
    if flat.ndim != 1 or flat.size % 3 or flat.size > 3 * MAX_BINARY_CELLS or not (np.abs(flat) < MAX_LOG_ODDS).all():
        raise MalformedMessageError(
            f"its score groups of {key} are not at most {MAX_BINARY_CELLS} triples of finite numbers"
        )
    cells = flat.reshape(-1, 3)
    if (cells[:, 0] < MIN_CELL_SIZE).any() or (cells[:, 0] % 1).any() or (has_deviation and (cells[:, 2] < 0).any()):
        raise MalformedMessageError(f"its score groups of {key} are too small or have a negative deviation")
    return cells
