"""Messages as types, and their mapping to and from Flower's records.

A hospital sends the following in a plain run, besides Flower's envelope of each reply (node ids, times);
`encryption.messages` lists what it sends in an encrypted run:

- when it joins: its name, its agreement on the task (see `Task.agreement`), the version of the protocol, and a random
  token of its process;
- `query.statistics` (registration): its name, its numbers of training and held-out rows, and for each measurement the
  count, sum and sum of squares over its training rows; no sums over rows of fewer than 5 patients; for each measurement
  and each code of a category its correlation with the label over the training rows, with two decimals, 0 if rows of
  fewer than 5 patients are of one class, have the code or do not have it; neither sums nor correlations under
  differential privacy; with `--class-weight balanced` the number of training rows of each class, 0 if they are of fewer
  than 5 patients;
- `train`: weights, the number of training rows and the mean training loss (under differential privacy noisy weights and
  no loss); from the second round on also sums over its held-out rows under the weights of the message: the loss, and of
  a label of classes the confusion matrix and squared errors; of a number errors, labels, predictions and their squares
  and products, and of a count observed and expected events, unless the rows are of fewer than 5 patients;
- `evaluate`, after the last round (under differential privacy after every round): the same sums;
- `evaluate.threshold`, once, only of a binary label and not under differential privacy: microaggregated scores of its
  training rows (see `metrics.microaggregate`), from which the server chooses the decision threshold;
- `evaluate.final`: the same sums; of a label of classes its own ROC-AUC, and microaggregated scores of its held-out
  rows; of a number or a count mean predictions and mean labels of groups of at least 5 patients;
- `evaluate.appraisal`, once, unless the run has differential privacy or does without it: what it gains by joining, how
  much the model depends on each column, and in how many training rows each was observed (see `benefit.Benefit`);
- in place of any of these, or if it may not join, the reason: an error's text without paths, rows or values, or an
  exception's type.

Each side validates what the other sends. An invalid message raises MalformedMessageError, whose text holds no values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from federated_health.data.columns import Measurement
from federated_health.data.tasks import Task
from federated_health.messages import records, validation
from federated_health.messages.records import METRICS, MalformedMessageError
from federated_health.ml import load_privacy_plan
from federated_health.ml.metrics import EvaluationSums
from federated_health.ml.networks import OPTIMIZERS, SGD, Network, Weights, weight_shapes
from federated_health.ml.normalisation import SUM_NAMES, ColumnSums, Normalisation, withheld_sums
from federated_health.ml.targets import ScoreGroups, Target
from federated_health.names import PRIVACY_PREFIX, is_hospital_name

if TYPE_CHECKING:
    from federated_health.ml.privacy_plan import PrivacyPlan

REGISTRATION = "query.statistics"
FINAL = "evaluate.final"
THRESHOLD = "evaluate.threshold"
BENEFIT = "evaluate.appraisal"  # on the wire and in ledgers, the name of the setting

ARRAYS, CONFIG, HOSPITAL = "arrays", "config", "hospital"
NUM_EXAMPLES = "num-examples"

EQUAL_WEIGHT = "equal-weight"
"""Metric that the server adds to each accepted reply, for strategies that give all hospitals the same weight."""

ENCRYPTED_ONLY = "encrypted-only"
"""Key of a node's config: whether the hospital takes part in encrypted runs only."""

SUMS_WITHHELD = "sums-withheld"
"""Key of the request to register: whether the hospital must not send its sums."""

EVALUATE = "evaluate-first"
"""Key of a train message's config: whether its weights are to be evaluated before they are trained."""

CLASS_COUNTS = "class-counts"
"""Key of the request to register, whether the hospital is to send the number of rows of each class; and that metric."""

ASSOCIATIONS = "associations"
"""Metric of a registration: correlations of the label with the columns."""

ROUND = "server-round"  # set by Flower's strategies
TRAIN_LOSS = "train-loss"
MAX_TRAIN_LOSS = 1e6
"""Largest accepted mean loss: no training that has not diverged comes near it, and powers of it do not overflow."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Configuration that the server sends with the weights.

    Attributes:
        schema: hash of the task's schema.
        strategy_args: all parameters of the strategy, written by `strategies.write_arguments`.
        rounds: number of completed rounds.
        threshold: smallest probability with which a patient is predicted positive.
        class_weights: factor of the loss of each class's rows; empty where all rows count the same.
        privacy: plan of a run with differential privacy; None in other runs.
    """

    task: str
    schema: str
    network: Network
    strategy: str
    strategy_args: str
    rounds: int
    local_epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str = SGD
    l2: float
    seed: int
    threshold: float
    normalisation: Normalisation
    class_weights: tuple[float, ...] = ()
    privacy: "PrivacyPlan | None" = None

    def to_record(self) -> ConfigRecord:
        plain = {name: value for name, value in vars(self).items() if name not in _NESTED}
        normalisation = {"mean": list(self.normalisation.mean), "variance": list(self.normalisation.variance)}
        weights = {"class_weights": list(self.class_weights)} if self.class_weights else {}
        privacy = self.privacy.to_config() if self.privacy else {}
        return ConfigRecord({**plain, **self.network.to_config(), **normalisation, **weights, **privacy})

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "TrainConfig":
        """Read the config of a server's train message."""
        names = [field.name for field in fields(cls) if field.name not in _NESTED]
        try:
            normalisation = Normalisation(mean=tuple(record["mean"]), variance=tuple(record["variance"]))
            plain = {name: record[name] for name in names}
            class_weights = tuple(map(float, record.get("class_weights", ())))
            network = Network.from_config(record)
        except KeyError as error:
            raise MalformedMessageError(f"the server's train config lacks {error.args[0]}") from None
        except TypeError:
            raise MalformedMessageError("the server's train config holds no valid normalisation") from None
        except ValueError as error:
            raise MalformedMessageError(f"the server's network: {error}") from None
        if plain["optimizer"] not in OPTIMIZERS:
            raise MalformedMessageError("the server's optimizer is unknown")
        if not isinstance(plain["threshold"], float) or not 0 <= plain["threshold"] <= 1:
            raise MalformedMessageError("the server's threshold is not between 0 and 1")
        return cls(
            network=network,
            normalisation=normalisation,
            class_weights=class_weights,
            privacy=read_privacy_plan(record),
            **plain,
        )


_NESTED = ("network", "normalisation", "class_weights", "privacy")


def max_reply_bytes(task: Task, network: Network) -> int:
    """Size limit of a hospital's message, in bytes: twice the weights, and 1 MiB for everything else."""
    return 2 * records.size_of(weight_shapes(task, network)) + 2**20


def has_privacy_plan(config: Mapping[str, Any]) -> bool:
    """Whether a message's config holds a privacy plan, valid or not."""
    return any(key.startswith(PRIVACY_PREFIX) for key in config)


def read_privacy_plan(config: Mapping[str, Any]) -> "PrivacyPlan | None":
    """The privacy plan in a message's config; None if there is none."""
    if not has_privacy_plan(config):
        return None
    try:
        plan: PrivacyPlan = load_privacy_plan().PrivacyPlan.from_config(config)
    except ValueError as error:
        raise MalformedMessageError(str(error)) from None
    return plan


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A hospital's first message.

    Attributes:
        sums: sums over the training rows. Withheld sums are 0 and are not sent.
        associations: of the label with the columns over the training rows (see `data.associations`); empty if withheld.
        class_counts: number of training rows of each class, 0 if they are of fewer than 5 patients; empty unless
            requested (see CLASS_COUNTS).
    """

    name: str
    train_examples: int
    test_examples: int
    sums: ColumnSums
    associations: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    class_counts: tuple[int, ...] = ()

    def is_of_same_rows(self, other: "Registration") -> bool:
        """Whether both describe the same rows, judged by numbers of rows and sums."""
        same = self.train_examples == other.train_examples and self.test_examples == other.test_examples
        return same and all(
            np.allclose(getattr(self.sums, name), getattr(other.sums, name), rtol=1e-9, atol=0) for name in SUM_NAMES
        )

    @property
    def statistics(self) -> tuple[object, ...]:
        """All statistics of the rows, equal where the rows are, whatever their order."""
        sums = [f"{value:.9g}" for name in SUM_NAMES for value in getattr(self.sums, name)]
        return (self.train_examples, self.test_examples, *sums, *self.associations.tolist())

    def to_content(self) -> RecordDict:
        sums = {name: getattr(self.sums, name).tolist() for name in SUM_NAMES} if self.sums.are_released else {}
        associations = {ASSOCIATIONS: self.associations.tolist()} if self.associations.size else {}
        rows = {"train-examples": self.train_examples, "test-examples": self.test_examples}
        classes = {CLASS_COUNTS: list(self.class_counts)} if self.class_counts else {}
        metrics = MetricRecord({**rows, **sums, **associations, **classes})
        return RecordDict({HOSPITAL: ConfigRecord({"name": self.name}), METRICS: metrics})

    @classmethod
    def from_content(
        cls, content: RecordDict, measurements: Sequence[Measurement], associations: int = 0, classes: int = 0
    ) -> "Registration":
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
        metrics = validation.read_metrics(content, keys, {ASSOCIATIONS} if associations else None)
        train_examples = validation.read_whole(metrics, "train-examples", 1)
        test_examples = validation.read_whole(metrics, "test-examples", 0)
        if are_released:
            sums = ColumnSums(**{key: validation.read_floats(metrics, key, len(measurements)) for key in SUM_NAMES})
            validation.check_sums(sums, train_examples, measurements)
        else:
            sums = withheld_sums(len(measurements))
        correlations = validation.read_floats(metrics, ASSOCIATIONS, associations if ASSOCIATIONS in metrics else 0)
        if (np.abs(correlations) > 1).any():
            raise MalformedMessageError(f"its {ASSOCIATIONS} are not between -1 and 1")
        return cls(
            name=name,
            train_examples=train_examples,
            test_examples=test_examples,
            sums=sums,
            associations=correlations,
            class_counts=_read_class_counts(metrics, classes, train_examples) if classes else (),
        )


def _read_class_counts(metrics: MetricRecord, classes: int, rows: int) -> tuple[int, ...]:
    counts = validation.read_floats(metrics, CLASS_COUNTS, classes)
    if (counts % 1).any() or (counts < 0).any() or counts.sum() > rows:
        raise MalformedMessageError(f"its {CLASS_COUNTS} are not numbers of its training rows")
    return tuple(map(int, counts))


@dataclass(frozen=True, kw_only=True)
class Update:
    """A hospital's trained weights.

    Attributes:
        examples: number of training rows.
        loss: mean training loss per row, in nats; None under differential privacy, which does not account for it.
        counts: sums over the held-out rows under the received weights; None unless requested (see EVALUATE).
    """

    weights: Weights
    examples: int
    loss: float | None
    counts: EvaluationSums | None = None

    def to_content(self) -> RecordDict:
        loss = {} if self.loss is None else {TRAIN_LOSS: self.loss}
        counts = {} if self.counts is None else records.write_counts(self.counts)
        metrics = MetricRecord({NUM_EXAMPLES: self.examples, **loss, **counts})
        return RecordDict({ARRAYS: records.weights_to_record(self.weights), METRICS: metrics})

    @classmethod
    def from_content(
        cls,
        content: RecordDict,
        shapes: Mapping[str, tuple[int, ...]],
        declared: int,
        *,
        private: bool = False,
        evaluated: int | None = None,
        target: Target[Any] | None = None,
    ) -> "Update":
        """Read an update.

        Args:
            shapes: shapes of the weights by name, in their order.
            declared: number of training rows with which the hospital registered.
            private: whether the run has differential privacy.
            evaluated: number of held-out rows with which it registered, if the server requested an evaluation, which
                also needs the target; else None.
        """
        arrays = validation.read_only(content, ArrayRecord, ARRAYS, "weights")
        keys = {NUM_EXAMPLES} if private else {NUM_EXAMPLES, TRAIN_LOSS}
        if evaluated is not None and target is not None:
            keys |= validation.names_of_counts(target)
        metrics = validation.read_metrics(content, keys)
        if validation.read_whole(metrics, NUM_EXAMPLES, 1) != declared:
            raise MalformedMessageError(f"its {NUM_EXAMPLES} is not the number of training rows that it registered")
        loss = metrics.get(TRAIN_LOSS)
        if isinstance(loss, float) and not loss <= MAX_TRAIN_LOSS:
            raise MalformedMessageError(f"{records.DIVERGED}its {TRAIN_LOSS} is out of range")
        loss = None if private else validation.read_number(metrics, TRAIN_LOSS)
        if loss is not None and loss < 0:
            raise MalformedMessageError(f"its {TRAIN_LOSS} is out of range")
        return cls(
            weights=records.weights_from_record(arrays, shapes),
            examples=declared,
            loss=loss,
            counts=None if evaluated is None or target is None else validation.read_counts(metrics, target, evaluated),
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A hospital's evaluation of the run's weights on its held-out rows.

    Attributes:
        counts: sums over the rows (see `Target.measure`).
        roc_auc: exact ROC-AUC of the hospital's own rows; None if it is undefined, and before the final evaluation.
        scores: groups of scores (see `Target.group_scores`); empty before the final evaluation.
    """

    counts: EvaluationSums
    roc_auc: float | None = None
    scores: ScoreGroups = field(default_factory=dict)

    def to_content(self) -> RecordDict:
        metrics = MetricRecord({NUM_EXAMPLES: self.counts.examples, **records.write_counts(self.counts)})
        if self.roc_auc is not None:
            metrics["roc_auc"] = self.roc_auc
        metrics.update({key: groups.ravel().tolist() for key, groups in self.scores.items()})
        return RecordDict({METRICS: metrics})

    @classmethod
    def from_content(
        cls, content: RecordDict, target: Target[Any], declared: int, *, final: bool = False
    ) -> "Evaluation":
        """Read an evaluation by a hospital that registered with this number of held-out rows."""
        names = target.rows_of_groups(target.no_sums).keys()
        optional = {"roc_auc", *names} if final else set()
        metrics = validation.read_metrics(content, {NUM_EXAMPLES, *validation.names_of_counts(target)}, optional)
        counts = validation.read_counts(metrics, target, declared)
        if validation.read_whole(metrics, NUM_EXAMPLES, 0) != counts.examples:
            raise MalformedMessageError(validation.WRONG_COUNTS)
        auc = validation.read_number(metrics, "roc_auc") if "roc_auc" in metrics else None
        if auc is not None and not 0 <= auc <= 1:
            raise MalformedMessageError("its ROC-AUC is not between 0 and 1")
        read = partial(validation.read_cells, metrics, has_deviation=target.has_classes)
        scores = {name: read(name) for name in names if name in metrics}
        expected = target.rows_of_groups(counts)
        for name, groups in scores.items():
            if groups.size and groups[:, 0].sum() != expected[name]:
                raise MalformedMessageError(f"its score groups of {name} do not add up to its rows of that kind")
        return cls(counts=counts, roc_auc=auc, scores=scores)


@dataclass(frozen=True, kw_only=True)
class TrainingScores:
    """Microaggregated scores of a hospital's training rows under the final weights (see `metrics.microaggregate`)."""

    positives: npt.NDArray[np.float64]
    negatives: npt.NDArray[np.float64]

    def to_content(self) -> RecordDict:
        metrics = MetricRecord({key: getattr(self, key).ravel().tolist() for key in ("positives", "negatives")})
        return RecordDict({METRICS: metrics})

    @classmethod
    def from_content(cls, content: RecordDict, declared: int) -> "TrainingScores":
        """Read the scores of a hospital that registered with this number of training rows."""
        metrics = validation.read_metrics(content, {"positives", "negatives"})
        positives, negatives = validation.read_cells(metrics, "positives"), validation.read_cells(metrics, "negatives")
        if positives[:, 0].sum() + negatives[:, 0].sum() > declared:
            raise MalformedMessageError("its score groups hold more than the training rows that it registered")
        return cls(positives=positives, negatives=negatives)
