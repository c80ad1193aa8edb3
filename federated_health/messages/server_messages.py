"""A server's messages as a hospital reads them: the bounds of their values, and their order, number and work.

A run is a registration; rounds, each a train message, which may also ask for an evaluation, and perhaps an evaluate
message; then the threshold, the final evaluation and the benefit of joining. A server may send a message again, also
with other content, such as after it was resumed; a hospital may join late. So a hospital answers of different messages

- no evaluation before a registration or a training (a server of Flower's engines may not notice that a hospital lost
  its state, and does not ask it to register again),
- MAX_DIFFERENT per round of train and of evaluate messages, and in total of each other kind; one more of the train
  messages, whose first content is not compared, since the hash of large weights takes time,
- rounds in their order: one that is more than MAX_ROUNDS_BACK before the latest, MAX_DIFFERENT times, for a run that is
  begun anew; else what is remembered of a round could be made forgotten, and the round asked again,
- one evaluation of weights before its first training, and then as many as it has trained, and SPARE_EVALUATIONS,
- MAX_DIFFERENT configurations, which differ in the normalisation or the class weights: all other settings are those of
  the run's terms (see `accepted_terms`).

An equal message is answered again and not counted, since the answer is the same: under differential privacy, where it
is not, each training is spent. What was asked is in the hospital's context, which lasts as long as its process, or as a
run of Flower's engines.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from flwr.app import Array, ConfigRecord, Context, Message, RecordDict

from federated_health.data.tasks import MAX_AGREEMENT_CHARACTERS
from federated_health.errors import RefusedMessageError
from federated_health.messages.content import (
    BENEFIT,
    CLASS_COUNTS,
    CONFIG,
    EVALUATE,
    FINAL,
    NESTED,
    REGISTRATION,
    ROUND,
    SUMS_WITHHELD,
    THRESHOLD,
    TrainConfig,
)
from federated_health.messages.records import MalformedMessageError, NumpyArray
from federated_health.messages.run_terms import MAX_TERMS_CHARACTERS, RUN_TERMS
from federated_health.ml import load_privacy_plan
from federated_health.ml.networks import FILE, NETWORK_KEYS, Network, number_of_weights
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.targets import target_of
from federated_health.names import (
    ACTIVATIONS,
    LARGEST,
    MAX_BATCH_SIZE,
    MAX_LOCAL_EPOCHS,
    MAX_PENALTY,
    MAX_RATE,
    MAX_ROUNDS,
    MAX_WEIGHTS,
    MODELS,
    OPTIMIZERS,
    PRIVACY_PREFIX,
    PROXIMAL_MU,
)

if TYPE_CHECKING:
    from federated_health.data.hospital import Hospital
    from federated_health.ml.privacy_plan import PrivacyPlan

ABOVE_0 = 5e-324
"""Smallest number above 0: the lower bound of what must not be 0."""

ASKED = "asked"
"""Record of a hospital's own state: what the server asked, and the hospital answered."""

MAX_DIFFERENT, SPARE_EVALUATIONS = 3, 3

MAX_REMEMBERED = 32
"""Number of train and evaluate messages that are remembered, so that the state does not grow with the rounds."""

MAX_ROUNDS_BACK = 3
"""Number of rounds by which a server may go back, such as to its checkpoint; of so many, all messages are remembered.

They are at most 4 rounds with 7 messages.
"""

MAX_ROW_PASSES = 10**8
"""Largest number of rows that one training passes over, all epochs together: 400 MB of indices."""

MAX_WORK = 10**13
"""Largest product of row passes and weights in one message: minutes to hours."""

TRAINING, EVALUATION = ("train", "train.masked"), ("evaluate", "evaluate.masked")
LAST = (THRESHOLD, FINAL, BENEFIT, "evaluate.masked_threshold", "evaluate.masked_final")
KEYS, SUMS = ("query.offer", "query.masked"), "query.sums"
"""Kinds of messages, those of secure aggregation included, whose KEYS have limits of their own."""


class Field(NamedTuple):
    """What a value of a message may be.

    Attributes:
        type: of the value or, in a list, of each value, exactly: a bool is no number.
        low, high: smallest and largest number, or length of a text.
        length: smallest and largest length of a list; None if the value is no list.
        choices: all texts that are allowed; empty if any is.
    """

    type: type
    low: float = 0
    high: float = 1
    length: tuple[int, int] | None = None
    choices: tuple[str, ...] = ()

    def read(self, record: Mapping[str, Any], name: str, owner: str = "the server's") -> Any:
        """The value of this name in a record, which must have it; MalformedMessageError if it is not valid."""
        value = record[name]
        is_valid = self._allows_list(value) if self.length else self._allows(value)
        if not is_valid:
            raise MalformedMessageError(f"{owner} {name}: expected {self}")
        return value

    def _allows_list(self, values: Any) -> bool:
        low, high = self.length or (0, 0)
        return type(values) is list and low <= len(values) <= high and all(map(self._allows, values))

    def _allows(self, value: Any) -> bool:
        size: Any = len(value) if isinstance(value, str) else value
        is_in_range: bool = type(value) is self.type and self.low <= size <= self.high  # which no NaN is
        return is_in_range and (not self.choices or value in self.choices)

    def __str__(self) -> str:
        if self.choices:
            return f"one of {', '.join(choice or 'none' for choice in self.choices)}"
        low, high = (f"{end:,.0f}" if 1e3 <= abs(end) < 1e12 else f"{end:g}" for end in (self.low, self.high))
        bounds = f"above 0, at most {high}" if self.low == ABOVE_0 else f"from {low} to {high}"
        texts = {str: f"text of {low} to {high} characters", bool: "true or false"}
        numbers = {int: f"whole number {bounds}", float: f"number {bounds}"}
        each = texts.get(self.type) or f"a {numbers[self.type]}"
        return f"a list of {self.length[0]:,} to {self.length[1]:,}, each {each}" if self.length else each


_PER_COLUMN = (0, 10_000)

CONFIG_FIELDS: Mapping[str, Field] = {
    "task": Field(str, 1, 200),
    "schema": Field(str, 0, 64),
    "terms": Field(str, 0, MAX_AGREEMENT_CHARACTERS),
    RUN_TERMS: Field(str, 1, MAX_TERMS_CHARACTERS),
    SUMS_WITHHELD: Field(bool),
    CLASS_COUNTS: Field(bool),
    "strategy": Field(str, 0, 64),
    "strategy_args": Field(str, 0, 1_000),
    "rounds": Field(int, 0, MAX_ROUNDS),
    ROUND: Field(int, 1, MAX_ROUNDS),
    EVALUATE: Field(bool),
    "local_epochs": Field(int, 1, MAX_LOCAL_EPOCHS),
    "batch_size": Field(int, 0, MAX_BATCH_SIZE),
    "learning_rate": Field(float, ABOVE_0, MAX_RATE),
    "optimizer": Field(str, 1, 64, choices=OPTIMIZERS),
    "l2": Field(float, 0, MAX_PENALTY),
    PROXIMAL_MU: Field(float, 0, MAX_PENALTY),
    "seed": Field(int, 0, LARGEST),
    "threshold": Field(float, 0, 1),
    "mean": Field(float, -1e30, 1e30, _PER_COLUMN),
    "variance": Field(float, ABOVE_0, 1e60, _PER_COLUMN),
    "class_weights": Field(float, 0, 1e9, _PER_COLUMN),
    "model": Field(str, 1, 64, choices=(*MODELS, FILE)),
    "hidden": Field(str, 0, 1_000),
    "activation": Field(str, 0, 64, choices=("", *ACTIVATIONS)),
    "dropout": Field(float, 0, 1),
    "network-sha256": Field(str, 0, 64),
}
"""Values in the config of a server's messages, besides a privacy plan's (see `PrivacyPlan`)."""

_PLAIN = tuple(field.name for field in fields(TrainConfig) if field.name not in NESTED)


def read_value(record: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A value in the config of a server's message, validated; the default if there is none."""
    return CONFIG_FIELDS[name].read(record, name) if name in record else default


def read_train_config(record: Mapping[str, Any]) -> TrainConfig:
    """The config of a server's train message; the inverse of `TrainConfig.to_record`."""
    try:
        mean, variance = (tuple(CONFIG_FIELDS[name].read(record, name)) for name in ("mean", "variance"))
        plain = {name: CONFIG_FIELDS[name].read(record, name) for name in _PLAIN}
        network = _read_network(*(CONFIG_FIELDS[key].read(record, key) for key in NETWORK_KEYS))
    except KeyError as error:
        raise MalformedMessageError(f"the server's train config lacks {error.args[0]}") from None
    except ValueError as error:
        text = str(error) if isinstance(error, MalformedMessageError) else f"the server's network: {error}"
        raise MalformedMessageError(text) from None
    weights = CONFIG_FIELDS["class_weights"].read({"class_weights": [], **record}, "class_weights")
    return TrainConfig(
        network=network,
        normalisation=Normalisation(mean=mean, variance=variance),
        class_weights=tuple(weights),
        privacy=read_privacy_plan(record),
        **plain,
    )


@lru_cache(maxsize=64, typed=True)
def _read_network(*values: str | float) -> Network:
    """The network of which a message says this, read once since it is the same in every round."""
    return Network.from_config(dict(zip(NETWORK_KEYS, values, strict=True)))


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


@contextmanager
def answering(message: Message, context: Context) -> Iterator[None]:
    """Count a message that is answered within this context; RefusedMessageError if no run would send it now."""
    kind, config = message.metadata.message_type, config_of(message)
    asked = _asked_of(context)
    if kind not in (REGISTRATION, *TRAINING, *EVALUATION, *LAST, *KEYS, SUMS):
        raise RefusedMessageError("unexpected message: its kind is unknown")
    if kind in (*EVALUATION, *LAST, SUMS) and not (asked["once"] or asked["trained"]):
        raise RefusedMessageError(f"unexpected {kind}: expected a registration or a train message first")
    if kind in KEYS:
        yield
        return
    place, number = "once", 0
    if kind in TRAINING or kind in EVALUATION:
        place, number = "rounds", read_value(config, ROUND, read_value(config, "rounds", 0))
    is_earlier = place == "rounds" and number < asked["latest"] - MAX_ROUNDS_BACK
    if is_earlier and asked["restarts"] >= MAX_DIFFERENT:
        raise RefusedMessageError(
            f"unexpected {kind} of round {number}: expected none before round {asked['latest'] - MAX_ROUNDS_BACK}; a "
            "new run needs a new process"
        )
    asked_of_kind = f"{kind} {number} "
    entries: list[str] = asked[place].splitlines()
    earlier = [entry for entry in entries if entry.startswith(asked_of_kind)]
    is_uncompared = kind in TRAINING and not earlier
    entry = asked_of_kind + ("-" if is_uncompared else digest_of(message.content)[:32])
    is_new = entry not in earlier
    if is_new and len(earlier) >= MAX_DIFFERENT + (kind in TRAINING):
        where = f" of round {number}" if number else ""
        raise RefusedMessageError(
            f"unexpected {kind}{where}: expected at most {MAX_DIFFERENT} different ones; a new run needs a new process"
        )
    is_evaluated = kind in EVALUATION or read_value(config, EVALUATE, False)
    if is_new and kind in EVALUATION:
        allowed = asked["trained"] + SPARE_EVALUATIONS if asked["trained"] else 1
        if asked["evaluated"] >= allowed:
            raise RefusedMessageError(f"unexpected {kind} of round {number}: expected a train message first")
    yield
    if place == "rounds":
        asked["latest"] = number if is_earlier else max(number, asked["latest"])
        if is_earlier:
            asked["restarts"] += 1
    if is_new:
        if kind in TRAINING:
            asked["trained"] += 1
        asked[place] = "\n".join([*entries, entry][-MAX_REMEMBERED:])
        if is_evaluated:
            asked["evaluated"] += 1


def check_config(config: TrainConfig, hospital: "Hospital", context: Context, *, rounds: int = 1) -> None:
    """Raise if a config does not fit the task, asks for too much work, or is one of too many different ones.

    Args:
        rounds: number of rounds for which the message has this hospital train.
    """
    asked, digest = _asked_of(context), _digest_of_config(replace(config, rounds=0, threshold=0.0))
    known = asked["configs"].splitlines()
    if digest in known and rounds == 1:
        return
    measurements, classes = len(hospital.task.measurements), target_of(hospital.task).classes
    normalisation = config.normalisation
    if {len(normalisation.mean), len(normalisation.variance)} != {measurements}:
        raise MalformedMessageError(f"the server's mean and variance: expected {measurements} numbers each")
    if len(config.class_weights) not in (0, classes):
        raise MalformedMessageError(f"the server's class_weights: expected none, or {classes}")
    rows, weights = len(hospital.train), number_of_weights(hospital.task, config.network)
    batch = config.batch_size or rows
    passes, numbers = config.local_epochs * -(-rows // batch) * batch, 0
    if config.privacy is not None:
        # Patients with fewer rows than the others are filled up.
        passes, numbers = config.privacy.steps * rows * hospital.train.most_rows, config.privacy.steps * weights
    if weights > MAX_WEIGHTS or max(passes, numbers) > MAX_ROW_PASSES or passes * weights * rounds > MAX_WORK:
        raise RefusedMessageError(
            f"too much work: expected at most {MAX_WEIGHTS:,} weights, {MAX_ROW_PASSES:,} rows per round (over all "
            f"epochs), and {MAX_WORK:.0e} rows times weights per message"
        )
    if digest in known:
        return
    if len(known) >= MAX_DIFFERENT:
        raise RefusedMessageError(
            f"unexpected settings: expected at most {MAX_DIFFERENT} different ones; a new run needs a new process"
        )
    asked["configs"] = "\n".join([*known, digest])


@lru_cache(maxsize=64)
def _digest_of_config(config: TrainConfig) -> str:
    return hashlib.sha256(repr(config).encode()).hexdigest()[:32]


def _asked_of(context: Context) -> Any:
    """What was asked: digests of messages and of configurations, as lines, and numbers of trainings and evaluations,
    the latest round, and how often a much earlier one came.

    Lines rather than lists, whose types Flower would check again with every message.
    """
    if ASKED not in context.state:
        context.state[ASKED] = ConfigRecord(
            {"once": "", "rounds": "", "trained": 0, "evaluated": 0, "configs": "", "latest": 0, "restarts": 0}
        )
    return context.state[ASKED]


def config_of(message: Message) -> ConfigRecord:
    """The config of a server's message; MalformedMessageError if there is none."""
    config = message.content.get(CONFIG) if message.has_content() else None
    if not isinstance(config, ConfigRecord):
        raise MalformedMessageError("the server's message: expected a record config")
    return config


def digest_of(content: RecordDict) -> str:
    """SHA-256, in hex, of every value in a message."""
    digest = hashlib.sha256()
    for key, record in sorted(content.items()):
        for name, value in sorted(record.items()):
            digest.update(repr((key, name)).encode())
            if isinstance(value, NumpyArray):
                digest.update(repr(value.shape).encode() + value.digest)
            elif isinstance(value, Array):
                digest.update(hashlib.sha256(value.data).digest())
            else:
                chunks = value if isinstance(value, list) else [value]
                digest.update(b"".join(hashlib.sha256(_bytes_of(chunk)).digest() for chunk in chunks))
    return digest.hexdigest()


def _bytes_of(value: Any) -> bytes:
    return value if isinstance(value, bytes) else repr(value).encode()
