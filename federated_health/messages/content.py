"""Messages as types, and their mapping to and from Flower's records.

A hospital sends the following in a plain run, besides Flower's envelope of each reply (node ids, times);
`secure_aggregation.messages` lists what it sends with secure aggregation:

- when it joins: its name, its agreement on the task (see `Task.agreement`), the version of the protocol, and a random
  token of its process;
- `query.statistics` (registration): its name, its numbers of training and held-out rows, and for each measurement the
  count, sum and sum of squares over its training rows; no sums over rows of fewer than 5 patients; for each measurement
  and each code of a category its correlation with the label over the training rows, with two decimals, 0 if rows of
  fewer than 5 patients are of one class, have the code or do not have it; neither sums nor correlations under
  differential privacy; with `--class-weight balanced` the number of training rows of each class, 0 if they are of fewer
  than 5 patients;
- `train`: weights, the number of training rows and the mean training loss (under differential privacy noisy weights and
  no loss); from the second round on also sums over its held-out rows under the weights of the message (not under
  differential privacy): the loss, and of a label of classes the confusion matrix and squared errors; of a number
  errors, labels, predictions and their squares and products, and of a count observed and expected events, unless the
  rows are of fewer than 5 patients;
- `evaluate`, after the last round, and not under differential privacy: the same sums;
- `evaluate.threshold`, once, only of a binary label and not under differential privacy: microaggregated scores of its
  training rows (see `scores.microaggregate`), from which the server chooses the decision threshold;
- `evaluate.final`: the same sums; of a label of classes its own ROC-AUC, and microaggregated scores of its held-out
  rows; of a number or a count mean predictions and mean labels of groups of at least 5 patients; for each subgroup of
  the task counts, sums and estimates (see `ml.subgroups.GroupFigures`). Under differential privacy, once, noisy numbers
  of held-out patients in their place, by actual class and bin of their score or predicted class, and nothing of a label
  without classes;
- `evaluate.appraisal`, once, unless the run has differential privacy or does without it: what it gains by joining, how
  much the model depends on each column, and in how many training rows each was observed (see `benefit.Benefit`);
- in place of what its disclosure control suppresses (see `hospital.disclosure`), a record that says which release is
  suppressed, and why, without values;
- in place of any of these, or if it may not join, the reason: an error's text without paths, rows or values, or an
  exception's type.

Each side validates what the other sends: the server in `messages.validation`, a hospital in `messages.server_messages`.
An invalid message raises MalformedMessageError, whose text holds no values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from federated_health.messages import records
from federated_health.messages.records import METRICS
from federated_health.ml.metrics import EvaluationSums
from federated_health.ml.networks import Network, Weights
from federated_health.ml.normalisation import SUM_NAMES, ColumnSums, Normalisation
from federated_health.ml.targets import ScoreGroups
from federated_health.names import SGD

if TYPE_CHECKING:
    from federated_health.ml.privacy_plan import PrivacyPlan
    from federated_health.ml.subgroups import GroupFigures

REGISTRATION = "query.statistics"
FINAL, MASKED_FINAL = "evaluate.final", "evaluate.masked_final"
THRESHOLD = "evaluate.threshold"
BENEFIT = "evaluate.appraisal"  # on the wire and in ledgers, the name of the setting

ARRAYS, CONFIG, HOSPITAL = "arrays", "config", "hospital"
NUM_EXAMPLES = "num-examples"

EQUAL_WEIGHT = "equal-weight"
"""Metric that the server adds to each accepted reply, for strategies that give all hospitals the same weight."""

SECURE_AGGREGATION_ONLY = "secure-aggregation-only"
"""Key of a node's config: whether the hospital takes part in runs with secure aggregation only."""

SAME_PARTICIPANTS = "same-participants"
"""Key of a node's config: whether all sums of secure aggregation must be of the same hospitals."""

SUMS_WITHHELD = "sums-withheld"
"""Key of the request to register: whether the hospital must not send its sums."""

EVALUATE = "evaluate-first"
"""Key of a train message's config: whether its weights are to be evaluated before they are trained."""

CLASS_COUNTS = "class-counts"
"""Key of the request to register, whether the hospital is to send the number of rows of each class; and that metric."""

ASSOCIATIONS = "associations"
"""Metric of a registration: correlations of the label with the columns."""

DISCLOSURE = "disclosure"
"""Record of a reply: name of each release that is suppressed in it, wholly or in part, and why, one of REASONS."""

REASONS = SMALL_CELL, SWITCHED_OFF, DIFFERENCING = (
    "too few patients in a cell",
    "switched off by its policy",
    "too few patients differ from an earlier release",
)

ROW_COUNTS, COLUMN_SUMS = "row-counts", "column-sums"
ROUND_EVALUATION, FINAL_EVALUATION = "round-evaluation", "final-evaluation"
ROC_AUC, SCORES, THRESHOLD_SCORES, APPRAISAL = "roc-auc", "scores", "threshold-scores", "appraisal"
SUBGROUPS = "subgroups"
"""Names of what may be suppressed, besides CLASS_COUNTS and ASSOCIATIONS; `messages.releases` explains them."""

NOISY_COUNTS = "noisy-counts"
"""Metric of a final evaluation under differential privacy, and the only one."""

ROUND = "server-round"  # set by Flower's strategies
TRAIN_LOSS = "train-loss"


@dataclass(frozen=True, kw_only=True)
class Disclosed:
    """A reply; `suppressed` has the reason for each release that is suppressed in it, wholly or in part."""

    suppressed: Mapping[str, str] = field(default_factory=dict)

    def with_disclosure(self, content: RecordDict) -> RecordDict:
        """The content, and what is suppressed in it."""
        if self.suppressed:
            content[DISCLOSURE] = ConfigRecord(dict(self.suppressed))
        return content


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
        plain = {name: value for name, value in vars(self).items() if name not in NESTED}
        normalisation = {"mean": list(self.normalisation.mean), "variance": list(self.normalisation.variance)}
        weights = {"class_weights": list(self.class_weights)} if self.class_weights else {}
        privacy = self.privacy.to_config() if self.privacy else {}
        return ConfigRecord({**plain, **_write_network(self.network), **normalisation, **weights, **privacy})


NESTED = ("network", "normalisation", "class_weights", "privacy")
"""Fields of a `TrainConfig` that are not one value in a message."""

_write_network = lru_cache(maxsize=64)(Network.to_config)
"""What a message says of a network, written once since it is the same in every round."""


@dataclass(frozen=True, kw_only=True)
class Registration(Disclosed):
    """A hospital's first message.

    Attributes:
        sums: sums over the training rows. Withheld sums are 0 and are not sent.
        associations: of the label with the columns over the training rows (see `data.associations`); empty if withheld.
        test_examples: number of held-out rows; 0 if it is suppressed.
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
        return self.with_disclosure(RecordDict({HOSPITAL: ConfigRecord({"name": self.name}), METRICS: metrics}))


@dataclass(frozen=True, kw_only=True)
class Update(Disclosed):
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
        return self.with_disclosure(RecordDict({ARRAYS: records.weights_to_record(self.weights), METRICS: metrics}))


@dataclass(frozen=True, kw_only=True)
class Evaluation(Disclosed):
    """A hospital's evaluation of the run's weights on its held-out rows.

    Attributes:
        counts: sums over the rows (see `Target.measure`); suppressed, they are those over no rows and are not sent.
        roc_auc: exact ROC-AUC of the hospital's own rows; None if it is undefined, and before the final evaluation.
        scores: groups of scores (see `Target.group_scores`); empty before the final evaluation.
        subgroups: figures of the task's subgroups, in their order, or none.
        noisy_counts: under differential privacy the table from which the others are computed, and all that is sent
            (see `ml.noisy_evaluation`); else empty.
    """

    counts: EvaluationSums
    roc_auc: float | None = None
    scores: ScoreGroups = field(default_factory=dict)
    subgroups: Sequence["GroupFigures"] = ()
    noisy_counts: tuple[float, ...] = ()

    @property
    def has_counts(self) -> bool:
        """Whether the sums are released."""
        return self.suppressed.keys().isdisjoint((ROUND_EVALUATION, FINAL_EVALUATION))

    def to_content(self) -> RecordDict:
        if self.noisy_counts:
            return RecordDict({METRICS: MetricRecord({NOISY_COUNTS: list(self.noisy_counts)})})
        metrics = MetricRecord()
        if self.has_counts:
            metrics.update({NUM_EXAMPLES: self.counts.examples, **records.write_counts(self.counts)})
        if self.roc_auc is not None:
            metrics["roc_auc"] = self.roc_auc
        metrics.update({key: groups.ravel().tolist() for key, groups in self.scores.items()})
        if self.subgroups:
            metrics[SUBGROUPS] = [number for group in self.subgroups for number in group.sent]
        return self.with_disclosure(RecordDict({METRICS: metrics}))


@dataclass(frozen=True, kw_only=True)
class TrainingScores(Disclosed):
    """Microaggregated scores of a hospital's training rows under the final weights (see `scores.microaggregate`)."""

    positives: npt.NDArray[np.float64]
    negatives: npt.NDArray[np.float64]

    def to_content(self) -> RecordDict:
        keys = () if THRESHOLD_SCORES in self.suppressed else ("positives", "negatives")
        metrics = MetricRecord({key: getattr(self, key).ravel().tolist() for key in keys})
        return self.with_disclosure(RecordDict({METRICS: metrics}))
