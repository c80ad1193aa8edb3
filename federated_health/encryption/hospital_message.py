"""Messages of an encrypted run as a hospital opens them, and what it knows of the run.

In a plain run the server checks that updates are finite and that they do not move the weights too far. Here it cannot,
so hospitals check the average.
"""

import copy
import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict

from federated_health.encryption import messages, vectors
from federated_health.encryption.ckks import MAX_VALUE, SecretKey, Vector, load_key
from federated_health.errors import EncryptionError
from federated_health.hospital.handlers import ENCRYPTED_RUN, hospital_of, local_model, read_config
from federated_health.messages.content import ARRAYS, CONFIG, ROUND
from federated_health.messages.records import MalformedMessageError, weights_to_record
from federated_health.messages.run_terms import RUN_TERMS
from federated_health.messages.server_messages import ASKED, check_config, read_value
from federated_health.ml.curves import choose_threshold
from federated_health.ml.metrics import DEFAULT_THRESHOLD
from federated_health.ml.networks import initial_weights
from federated_health.ml.normalisation import Normalisation, public_normalisation
from federated_health.names import AGREED_PLAN
from federated_health.privacy.message_checks import check_plan

KEY, MEAN, VARIANCE = "key", "mean", "variance"
"""What a hospital's state holds of the run: the key, and the federation's normalisation."""


class EncryptedMessage:
    """A message of an encrypted run.

    Attributes:
        config: of the message.
        run: the run's token.
        state: what this hospital knows of the run and the server does not. It is kept in the hospital's context, from
            which everything of any other run is deleted.

    Raises:
        MalformedMessageError: the message does not belong to an encrypted run.
        DataError, JoinError: see `hospital_of`.
    """

    def __init__(self, message: Message, context: Context) -> None:
        self.content, self.context = message.content, context
        self.config: dict[str, Any] = dict(message.content.config_records[CONFIG])
        run = self.read(messages.RUN)
        state = context.state.config_records.get(ENCRYPTED_RUN)
        if state is None or state[messages.RUN] != run:
            for name in set(context.state) - {AGREED_PLAN, ASKED, RUN_TERMS}:  # what is of the other run
                del context.state[name]
            state = context.state[ENCRYPTED_RUN] = ConfigRecord({messages.RUN: run})
        self.run = run
        self.state: dict[str, Any] = state  # type: ignore[assignment]  # Flower's record is a mapping of this type
        self.hospital = hospital_of(message, context)

    @property
    def patients(self) -> int:
        """Number of patients of all hospitals, by which figures are divided."""
        patients: int = self.read(messages.PATIENTS)
        return patients

    def read(self, name: str, default: Any = None) -> Any:
        """A value in the config, validated; without a default MalformedMessageError if there is none."""
        if name not in self.config and default is None:
            raise MalformedMessageError(f"the server's message lacks {name}")
        return messages.CONFIG_FIELDS[name].read(self.config, name) if name in self.config else default

    @property
    def key(self) -> SecretKey:
        """The run's key; EncryptionError if the hospital does not have it."""
        if KEY not in self.state:
            raise EncryptionError("it does not have the run's key")
        return load_key(self.state[KEY])

    def decrypt(self, name: str, length: int) -> Vector | None:
        """The vector of this name in the message; None if there is none."""
        chunks = messages.read_chunks(self.content, name)
        return self.key.decrypt(chunks, length) if chunks else None

    def reply(self, vector: Vector, examples: int) -> RecordDict:
        """A reply with the vector, encrypted, and the number of rows that it is computed from."""
        try:
            return messages.write_vector(self.key.encrypt(vector), examples)
        except ValueError:
            raise EncryptionError("the reply cannot be encrypted: a number is not finite, or too large") from None

    def key_reply(self, *envelopes: bytes) -> RecordDict:
        """A reply in the key exchange, with the public name of the key."""
        return messages.KeyReply(self.key.id if KEY in self.state else "", envelopes).to_content()


class WeightsMessage(EncryptedMessage):
    """A train or evaluate message of an encrypted run, decrypted.

    Args:
        is_final: whether it carries the scores from which the threshold is chosen; otherwise the threshold is 0.5.

    Attributes:
        plain: the same message as in a plain run.
        local: this hospital's rows and compiled training.

    Raises:
        EncryptionError: the hospital has no key or no normalisation, or the weights cannot be used.
        BudgetError: its privacy plan is not the one with which the hospital joined.
    """

    def __init__(self, message: Message, context: Context, *, is_final: bool = False) -> None:
        super().__init__(message, context)
        key = self.key  # raises before anything is trained that could not be encrypted
        config = read_config(self.config, context)
        check_plan(context, config.privacy)
        if config.privacy:
            normalisation = public_normalisation(self.hospital.task.measurements)
        elif MEAN in self.state:
            normalisation = Normalisation(mean=tuple(self.state[MEAN]), variance=tuple(self.state[VARIANCE]))
        else:
            raise EncryptionError("it does not have the run's normalisation")
        threshold = self._choose_threshold() if is_final else DEFAULT_THRESHOLD
        config = replace(config, normalisation=normalisation, threshold=threshold)
        check_config(config, self.hospital, context)
        self.train_config, self.round_number = config, read_value(self.config, ROUND, config.rounds)
        self.local = local_model(self.hospital, config.network, config.normalisation)
        if chunks := messages.read_chunks(self.content, messages.WEIGHTS):
            scale, length = self.read(messages.SCALE), sum(map(math.prod, self.local.shapes.values()))
            self.weights = vectors.unflatten(_decrypt_average(key, tuple(chunks), length, scale), self.local.shapes)
        else:
            self.weights = initial_weights(self.hospital.task, config.network, config.seed)
        plain_config = ConfigRecord({**self.config, **config.to_record()})
        self.plain = copy.copy(message)  # Flower lets a hospital make replies only
        self.plain.content = RecordDict({ARRAYS: weights_to_record(self.weights), CONFIG: plain_config})

    def _choose_threshold(self) -> float:
        """The threshold chosen from the sum of all hospitals' bins of training scores; 0.5 if there is no sum."""
        bins = self.decrypt(messages.SCORES, 2 * vectors.BINS)
        chosen = None if bins is None else choose_threshold(*vectors.read_histogram(bins * self.patients))
        return DEFAULT_THRESHOLD if chosen is None else chosen


@lru_cache(maxsize=4)
def _decrypt_average(key: SecretKey, chunks: tuple[bytes, ...], length: int, scale: float) -> Vector:
    """The average, [length]; cached because each average is used twice per round."""
    average = key.decrypt(chunks, length) * scale
    if not (np.abs(average) <= MAX_VALUE).all():  # as if encrypted with another key
        raise EncryptionError(f"the decrypted average is impossible: expected numbers up to {MAX_VALUE:g}")
    return average
