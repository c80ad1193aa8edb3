"""Messages of an encrypted run, besides the registration (`query.statistics`), which then carries no sums.

The list of what leaves a hospital in such a run:

- `query.offer`: a request for the run's key, signed with the hospital's certificate, which goes with it; the key's
  public name;
- `query.key`: the run's key, in one envelope for each hospital that requested it (see `envelopes`);
- `query.briefing`: the public name of its key, to confirm the key or the sums that were delivered;
- `query.sums`: encrypted, the sums for the normalisation (see `vectors.write_sums`);
- `train.encrypted`: encrypted, its weights times its share of the average; the number of training rows;
- `evaluate.encrypted`: encrypted, outcome counts, loss sums and training loss (see `vectors.write_round`);
- `evaluate.encrypted_threshold`, once: encrypted, the number of training rows of each class in each of 512 score bins;
- `evaluate.encrypted_final`, once: encrypted, counts, its ROC-AUC, the importance of each column, and the same bins of
  its held-out rows (see `vectors.FinalSums`);
- `query.closing`: the public name of its key, to confirm that it has the run's result;
- instead of any of these, an error whose text depends on decrypted values only in that they cannot be used.

Nothing that was decrypted is sent to the server, because CKKS is not secure if it is (see `ckks`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from federated_health.data.tasks import Task
from federated_health.encryption.ckks import MAX_CHUNK_BYTES, SLOTS, Adder, EncryptedVector
from federated_health.encryption.envelopes import MAX_ENVELOPE, MAX_OFFER, name_in_offer
from federated_health.encryption.vectors import MAX_PATIENTS
from federated_health.errors import EncryptionError
from federated_health.messages.content import NUM_EXAMPLES
from federated_health.messages.records import METRICS, MalformedMessageError, size_of
from federated_health.messages.server_messages import ABOVE_0, Field
from federated_health.messages.validation import read_metrics, read_whole
from federated_health.ml.networks import Network, weight_shapes
from federated_health.names import MAX_PENALTY, MAX_ROUNDS

OFFER, KEY, DELIVERY, RESULT = "query.offer", "query.key", "query.briefing", "query.closing"
SUMS = "query.sums"
TRAIN, EVALUATE = "train.encrypted", "evaluate.encrypted"
THRESHOLD, FINAL = "evaluate.encrypted_threshold", "evaluate.encrypted_final"

ENCRYPTED, ENVELOPES = "encrypted", "envelopes"
"""Records: encrypted vectors by name, and what hospitals send to each other."""

VECTOR = "vector"
"""Name of the one encrypted vector in a hospital's reply."""

# Keys of the record `config`, besides those of a `TrainConfig`.
RUN, KEY_ID, MAKE = "run", "key", "make"
SHARE, SCALE, PATIENTS, MAX_UPDATE_NORM = "share", "scale", "patients", "max-update-norm"
IS_COUNTED, ASKS_BENEFIT, RUN_FACTS = "counted", "appraisal", "account"

WEIGHTS, COLUMN_SUMS, SCORES, FIGURES = "weights", "sums", "scores", "figures"
"""Names of encrypted vectors that the server sends, besides the blocks of the history."""

CONFIG_FIELDS: Mapping[str, Field] = {
    RUN: Field(str, 16, 16),
    KEY_ID: Field(str, 0, 32),
    MAKE: Field(bool),
    SHARE: Field(float, ABOVE_0, 1),
    SCALE: Field(float, ABOVE_0, 1e9),
    PATIENTS: Field(int, 1, MAX_PATIENTS),
    MAX_UPDATE_NORM: Field(float, 0, MAX_PENALTY),
    IS_COUNTED: Field(bool),
    ASKS_BENEFIT: Field(bool),
    RUN_FACTS: Field(str, 2, 100_000),
}
"""Values in the config of a server's messages of an encrypted run, besides those of a plain run."""

RUN_FACTS_FIELDS: Mapping[str, Field] = {
    "hospitals": Field(int, 1, MAX_PATIENTS),
    "train_examples": Field(int, 0, MAX_PATIENTS),
    "rounds": Field(int, 0, MAX_ROUNDS),
    "stopped": Field(bool),
}
"""Values in the JSON of RUN_FACTS, besides the settings, which are validated as a server's own."""


def name_of_block(number: int) -> str:
    """Name of the encrypted vector that holds a block of the history; blocks are numbered from 0."""
    return f"history-{number}"


def max_reply_bytes(task: Task, network: Network) -> int:
    """Upper bound of a reply's size in an encrypted run."""
    return math.ceil(size_of(weight_shapes(task, network)) / 4 / SLOTS) * MAX_CHUNK_BYTES + 2**20


def read_chunks(content: RecordDict, name: str) -> list[bytes]:
    """Chunks of an encrypted vector; an empty list if there is no vector of this name."""
    record: Mapping[str, Any] = content.config_records.get(ENCRYPTED, {})
    chunks = record.get(name, [])
    if not isinstance(chunks, list) or not all(isinstance(chunk, bytes) for chunk in chunks):
        raise MalformedMessageError("its encrypted vector is not bytes")
    return chunks


@dataclass(frozen=True)
class KeyReply:
    """A hospital's reply in the key exchange.

    Attributes:
        key_id: see `SecretKey.id`; empty if it has none.
        envelopes: its offer, or the envelopes that were requested, in the order of the requests; empty bytes for a
            hospital that it does not trust with the key.
    """

    key_id: str
    envelopes: Sequence[bytes]

    def to_content(self) -> RecordDict:
        record = ConfigRecord({KEY_ID: self.key_id, ENVELOPES: list(self.envelopes)})
        return RecordDict({ENVELOPES: record, METRICS: MetricRecord({})})

    @classmethod
    def from_content(cls, content: RecordDict, number: int, max_bytes: int = MAX_ENVELOPE) -> "KeyReply":
        """Read a reply with this number of envelopes of at most this size."""
        read_metrics(content, set())
        record: Mapping[str, Any] = content.config_records.get(ENVELOPES, {})
        key_id, envelopes = record.get(KEY_ID), record.get(ENVELOPES)
        if not isinstance(key_id, str) or len(key_id) not in (0, 32) or not isinstance(envelopes, list):
            raise MalformedMessageError("its reply about the run's key cannot be read")
        is_valid = all(isinstance(envelope, bytes) and len(envelope) <= max_bytes for envelope in envelopes)
        if len(envelopes) != number or not is_valid:
            raise MalformedMessageError("its envelopes of the run's key are not those that were requested")
        return cls(key_id, envelopes)

    @classmethod
    def offer_from_content(cls, content: RecordDict, hospital: str) -> "KeyReply":
        """Read the offer of a hospital of this name."""
        reply = cls.from_content(content, 1, MAX_OFFER)
        try:
            name = name_in_offer(reply.envelopes[0])
        except EncryptionError:
            raise MalformedMessageError("its request for the run's key cannot be read") from None
        if name != hospital:
            raise MalformedMessageError("its certificate has another name than its registration")
        return reply


def write_vector(chunks: list[bytes], examples: int) -> RecordDict:
    """A hospital's reply: an encrypted vector, and the number of rows that it is computed from."""
    return RecordDict({ENCRYPTED: ConfigRecord({VECTOR: chunks}), METRICS: MetricRecord({NUM_EXAMPLES: examples})})


def read_vector(content: RecordDict, adder: Adder, length: int, declared: int) -> EncryptedVector:
    """Read a vector of this length, from a hospital that registered with this number of rows."""
    if read_whole(read_metrics(content, {NUM_EXAMPLES}), NUM_EXAMPLES, 0) != declared:
        raise MalformedMessageError(f"its {NUM_EXAMPLES} is not the number of rows that it registered with")
    return adder.read(read_chunks(content, VECTOR), length)
