"""What server and hospitals of an encrypted run say to each other, beside `query.statistics` without sums.

The list of what leaves a hospital in such a run:

- `query.offer`: a wish for the run's key, signed with its certificate, which goes with it; the key's public name;
- `query.key`: the run's key, in an envelope for each hospital that wished for it (see `envelopes`);
- `query.briefing`: the public name of the key that it has;
- `query.sums`: encrypted, the sums for the normalisation (see `vectors.write_sums`);
- `train.encrypted`: encrypted, its weights times its share of the average; the number of training rows;
- `evaluate.encrypted`: encrypted, outcome counts, loss sums and training loss (see `vectors.write_round`);
- `evaluate.encrypted_threshold`, once: encrypted, how many training rows of each class score in which of 512 bins;
- `evaluate.encrypted_final`, once: encrypted, counts, its ROC-AUC, how much each column weighs, and the same bins of
  its held-out rows (see `vectors.FinalSums`);
- `query.closing`: the public name of the key, to say that it has the run's result;
- in place of any of these why not, in words that depend on nothing decrypted but that it cannot be used.

Nothing that was decrypted goes back to the server, since CKKS does not stand that (see `ckks`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from federated_health.data.tasks import Task
from federated_health.encryption.ckks import CHUNK_BYTES, Adder, Encrypted, number_of_chunks
from federated_health.encryption.envelopes import MAX_ENVELOPE, MAX_OFFER, name_in_offer
from federated_health.errors import EncryptionError
from federated_health.messages.content import NUM_EXAMPLES
from federated_health.messages.records import METRICS, MalformedMessageError, read_metrics, read_whole, size_of
from federated_health.ml.networks import weight_shapes

OFFER, KEY, BRIEFING, CLOSING = "query.offer", "query.key", "query.briefing", "query.closing"
SUMS = "query.sums"
TRAIN, EVALUATE = "train.encrypted", "evaluate.encrypted"
THRESHOLD, FINAL = "evaluate.encrypted_threshold", "evaluate.encrypted_final"

ENCRYPTED, ENVELOPES = "encrypted", "envelopes"
"""Records: of encrypted vectors by name, and of what hospitals pass to each other."""

VECTOR = "vector"
"""The name of the one vector of a hospital's reply."""

# Of the record `config`, beside a run's instructions.
RUN, KEY_ID, MAKE = "run", "key", "make"
SHARE, SCALE, PATIENTS, MAX_UPDATE_NORM = "share", "scale", "patients", "max-update-norm"
IS_COUNTED, ACCOUNT = "counted", "account"

WEIGHTS, COLUMN_SUMS, SCORES, FIGURES = "weights", "sums", "scores", "figures"
"""Names of vectors that the server sends; the history's blocks are `history-0` and so on."""

HISTORY = "history-"


def name_of_block(number: int) -> str:
    """Of a block of the history, from 0."""
    return f"{HISTORY}{number}"


def max_reply_bytes(task: Task, model: str) -> int:
    """Bytes beyond which nothing that a hospital sends in an encrypted run can be meant."""
    chunks = number_of_chunks(size_of(weight_shapes(task, model)) // 4)
    return chunks * CHUNK_BYTES + 2**20


def to_record(vectors: Mapping[str, list[bytes]]) -> ConfigRecord:
    """Encrypted vectors, as chunks by name, as a record."""
    return ConfigRecord(dict(vectors))


def chunks_in(content: RecordDict, name: str) -> list[bytes]:
    """An encrypted vector's chunks; none where there is no vector of this name.

    Raises:
        MalformedMessageError: what is there is something else.
    """
    record = content.config_records.get(ENCRYPTED)
    found = record.get(name, []) if record else []
    if not isinstance(found, list) or not all(isinstance(chunk, bytes) for chunk in found):
        raise MalformedMessageError("its encrypted vector is not bytes")
    return list(found)  # type: ignore[arg-type]  # of bytes, as was just seen


@dataclass(frozen=True, kw_only=True)
class KeyNews:
    """What a hospital says of the run's key.

    Attributes:
        key_id: the public name of the key that it has; empty where it has none.
        envelopes: its offer, or the envelopes that it was asked for, in the order in which it was asked; empty ones
            for those whom it will not trust with the key.
    """

    key_id: str = ""
    envelopes: tuple[bytes, ...] = ()

    def to_content(self) -> RecordDict:
        record = ConfigRecord({KEY_ID: self.key_id, ENVELOPES: list(self.envelopes)})
        return RecordDict({ENVELOPES: record, METRICS: MetricRecord({})})

    @classmethod
    def from_content(cls, content: RecordDict, number: int, largest: int = MAX_ENVELOPE) -> "KeyNews":
        """Read so many envelopes of at most so many bytes."""
        read_metrics(content, set())
        record = content.config_records.get(ENVELOPES) or ConfigRecord({})
        key_id, envelopes = record.get(KEY_ID), record.get(ENVELOPES)
        if not isinstance(key_id, str) or len(key_id) not in (0, 32) or not isinstance(envelopes, list):
            raise MalformedMessageError("its words about the run's key cannot be read")
        if len(envelopes) != number or not all(isinstance(one, bytes) and len(one) <= largest for one in envelopes):
            raise MalformedMessageError("its envelopes of the run's key are not those that it was asked for")
        return cls(key_id=key_id, envelopes=tuple(envelopes))  # type: ignore[arg-type]  # of bytes

    @classmethod
    def offer_from_content(cls, content: RecordDict, name: str) -> "KeyNews":
        """Read the offer of a hospital of this name."""
        news = cls.from_content(content, 1, MAX_OFFER)
        try:
            theirs = name_in_offer(news.envelopes[0])
        except EncryptionError:
            raise MalformedMessageError("its wish for the run's key cannot be read") from None
        if theirs != name:
            raise MalformedMessageError("its certificate is of another name than it introduced itself with")
        return news


@dataclass(frozen=True, kw_only=True)
class EncryptedReply:
    """An encrypted vector from a hospital.

    Attributes:
        examples: the rows that it is about.
    """

    chunks: list[bytes]
    examples: int

    def to_content(self) -> RecordDict:
        metrics = MetricRecord({NUM_EXAMPLES: self.examples})
        return RecordDict({ENCRYPTED: to_record({VECTOR: self.chunks}), METRICS: metrics})

    @classmethod
    def from_content(cls, content: RecordDict, adder: Adder, length: int, declared: int) -> Encrypted:
        """Read the vector, of this length, of a hospital that declared so many rows when it introduced itself."""
        metrics = read_metrics(content, {NUM_EXAMPLES})
        if read_whole(metrics, NUM_EXAMPLES, 0) != declared:
            raise MalformedMessageError(f"its {NUM_EXAMPLES} is not the number of rows that it declared")
        return adder.read(chunks_in(content, VECTOR), length)
