"""Messages of a run with secure aggregation, besides the registration (`query.statistics`), which carries no sums.

The list of what leaves a hospital in such a run:

- `query.offer`: its offer (see `offers`), and the number of the last round whose sum it was part of;
- `query.sums`, `train.masked`, `evaluate.masked`, `evaluate.masked_threshold`, `evaluate.masked_final`: that it has
  computed what the message asks for, and nothing of it;
- `query.masked`: what it computed, as masked fixed-point numbers (see `masks`): the sums for the normalisation; its
  weights times its share, the training loss and the sums over its held-out rows; these sums alone; rows of its
  training scores by bin; at the end sums, ROC-AUC, importance of each column, and rows of its held-out scores by bin
  (see `figures`);
- instead of any of these, an error.
"""

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from federated_health.data.tasks import Task
from federated_health.messages.content import MASKED_FINAL
from federated_health.messages.records import METRICS, MalformedMessageError, size_of
from federated_health.messages.server_messages import Field
from federated_health.ml.networks import Network, weight_shapes
from federated_health.secure_aggregation.masks import MAX_HOSPITALS

OFFER, SUMS, MASKED = "query.offer", "query.sums", "query.masked"
TRAIN, EVALUATE = "train.masked", "evaluate.masked"
THRESHOLD, FINAL = "evaluate.masked_threshold", MASKED_FINAL

PARTICIPANTS, OFFERS, VECTOR = "participants", "offers", "vector"
"""Records: of a request for a masked vector, and of its reply; OFFERS is also the record of a reply with an offer."""

# Keys of the record `config`, besides those of a plain run.
RUN, MAX_SHARE, ASKS_BENEFIT, KIND, DIGEST = "run", "max-share", "appraisal", "kind", "digest"

ROWS, CONTENT = "rows", "content"
"""Training rows of each participant, in the config; and the value of the other records: bytes of offers or vectors."""

LAST_ROUND = "last-round"
"""Metric of a reply with an offer."""

CONFIG_FIELDS: Mapping[str, Field] = {
    RUN: Field(str, 16, 16),
    MAX_SHARE: Field(float, 0, 1),
    ASKS_BENEFIT: Field(bool),
    KIND: Field(str, 1, 64, choices=(SUMS, TRAIN, EVALUATE, THRESHOLD, FINAL)),
    DIGEST: Field(str, 64, 64),
    ROWS: Field(int, 1, 2**40, (1, MAX_HOSPITALS)),
}
"""Values in the config of a server's messages, besides those of a plain run."""


def max_reply_bytes(task: Task, network: Network) -> int:
    """Upper bound of a reply's size: eight bytes per weight, and 1 MiB for everything else."""
    return 2 * size_of(weight_shapes(task, network)) + 2**20


def write_bytes(record: str, content: bytes, **metrics: int) -> RecordDict:
    """A reply that consists of bytes."""
    return RecordDict({record: ConfigRecord({CONTENT: content}), METRICS: MetricRecord({**metrics})})


def read_bytes(content: RecordDict, record: str) -> bytes:
    """The bytes of a reply."""
    values: Mapping[str, Any] = content.config_records.get(record, {})
    found = values.get(CONTENT)
    if len(values) != 1 or not isinstance(found, bytes):
        raise MalformedMessageError(f"its reply does not hold exactly one {record}")
    return found


def read_list(content: RecordDict, record: str, max_bytes: int) -> list[bytes]:
    """A list of bytes in a server's message; empty if there is none."""
    values: Mapping[str, Any] = content.config_records.get(record, {})
    items = values.get(CONTENT, [])
    if not isinstance(items, list) or len(items) > MAX_HOSPITALS:
        raise MalformedMessageError(f"the server's {record}: expected a list of at most {MAX_HOSPITALS:,}")
    if not all(isinstance(item, bytes) and len(item) <= max_bytes for item in items):
        raise MalformedMessageError(f"the server's {record}: expected at most {max_bytes:,} bytes each")
    return items
