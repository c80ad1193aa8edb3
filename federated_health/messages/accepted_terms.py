"""The run terms that a hospital accepted, and whether a server's messages keep to them.

A message outside the terms is refused and ends the hospital's part in the run: every later message is refused, too.
Malformed messages, and those that no run would send at this point (see `server_messages`), are only refused.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from flwr.app import ConfigRecord, Context, Message

from federated_health.errors import TermsError
from federated_health.messages import content, server_messages
from federated_health.messages.records import MalformedMessageError
from federated_health.messages.run_terms import MAX_TERMS_CHARACTERS, NOT_ACCEPTED, RUN_TERMS, RunTerms
from federated_health.messages.server_messages import ASKED, CONFIG_FIELDS, EVALUATION, TRAINING, Field, read_value
from federated_health.ml.metrics import DEFAULT_THRESHOLD
from federated_health.ml.networks import NETWORK_KEYS, Network, Weights
from federated_health.names import (
    AGREED_PLAN,
    LARGEST,
    MAX_EPSILON,
    MAX_ROUNDS,
    MAX_WEIGHTS,
    PRIVACY_PREFIX,
    PROXIMAL_MU,
    RUN_ID,
)

MAX_TRAININGS_PER_ROUND = 2
"""Largest number of different train messages, per round of the terms: a round may be repeated, as after a failure."""

ASKED_PERSON, HASH, POLICY, LOOPBACK, IN_PROCESS = "asked", "accept", "policy", "loopback", "in process"
"""What accepts run terms: a person at the prompt, --accept, a policy, that both sides are on one machine, or that all
are in one process or a simulation."""

ANSWERS = {
    "train": "weights",
    "evaluate": content.ROUND_EVALUATION,
    content.THRESHOLD: content.THRESHOLD_SCORES,
    content.FINAL: content.FINAL_EVALUATION,
    content.BENEFIT: content.APPRAISAL,
}
"""Messages of a run without secure aggregation, and what leaves with the answer (see `releases`).

With secure aggregation they are `train.masked`, `evaluate.masked`, `evaluate.masked_threshold` and so on.
"""

SAME = ("task", "schema", "strategy", "strategy_args", "local_epochs", "batch_size", "learning_rate", "optimizer", "l2")
"""Fields of a train config that are those of the terms, besides seed, network and privacy plan."""

TERMS_FIELDS: Mapping[str, Field] = {
    **{name: CONFIG_FIELDS[name] for name in (*SAME, "seed")},
    "parameters": Field(int, 1, MAX_WEIGHTS),
    "rounds": Field(int, 1, MAX_ROUNDS),
    "class_weight": Field(str, 1, 64, choices=("none", "balanced")),
    "hospitals": Field(int, 1, LARGEST),
    "min_updates": Field(int, 1, LARGEST),
    "authority": Field(str, 0, 64),
    "epsilon": Field(float, 0, MAX_EPSILON),
    "delta": Field(float, 0, 1),
    "secure_aggregation": Field(bool),
    "appraisal": Field(bool),
    "retention": Field(str, 0, 500),
}
"""Values in run terms, besides the network's, which are those of a train config."""


@lru_cache(maxsize=16)
def read_terms(text: str) -> RunTerms:
    """The run terms in a server's text; MalformedMessageError if it is not what `RunTerms.text` writes."""
    owner = "the run terms'"
    try:
        values = json.loads(text) if len(text) <= MAX_TERMS_CHARACTERS else {}
        network = dict(values.pop("network"))
        if values.keys() != TERMS_FIELDS.keys() or network.keys() != set(NETWORK_KEYS):
            raise ValueError
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        raise MalformedMessageError("the run terms: expected those of this version, got another text") from None
    plain = {name: field.read(values, name, owner) for name, field in TERMS_FIELDS.items()}
    network = {name: CONFIG_FIELDS[name].read(network, name, owner) for name in NETWORK_KEYS}
    texts = " ".join(value for value in (*plain.values(), *network.values()) if isinstance(value, str) and value)
    if not (texts.isascii() and texts.isprintable()) or "  " in texts:  # blanks could fill a line of a terminal
        raise MalformedMessageError("the run terms: expected printable ASCII text with single spaces")
    terms = RunTerms(network=network, **plain)
    try:
        Network.from_config(network)
        _proximal_mu(terms.strategy_args)
    except ValueError as error:
        raise MalformedMessageError(f"the run terms: {error}") from None
    if terms.text != text:
        raise MalformedMessageError("the run terms: expected JSON with sorted keys, got another form")
    return terms


def _proximal_mu(strategy_args: str) -> float:
    """The proximal term of a strategy, from its arguments; a ValueError if they are not of this form."""
    return float(dict(part.split("=") for part in strategy_args.split(",") if part).get(PROXIMAL_MU, 0.0))


def accept(context: Context, text: str, by: str) -> None:
    """Remember in a hospital's state that it accepted run terms, and what decided; earlier ones are replaced."""
    state: Any = context.state
    trained = state[ASKED]["trained"] if ASKED in state else 0
    state.pop(AGREED_PLAN, None)  # that of another run
    state[RUN_TERMS] = ConfigRecord({"text": text, "by": by, "trained-before": trained, "ended": ""})


def agree(config: Mapping[str, Any], context: Context, decide: Callable[[RunTerms], str]) -> None:
    """Hold a request to register to the accepted terms; a hospital that has accepted none decides now.

    A hospital in process, or in a simulation, accepts by itself, also other terms than before.

    Args:
        decide: returns what accepts the terms, or raises; for a hospital that could not be asked before.

    Raises:
        TermsError: the request states no terms, or others than those that were accepted, or asks for something else.
    """
    text, state = read_value(config, RUN_TERMS), _accepted(context)
    if state is None or (state["by"] == IN_PROCESS and text not in (None, state["text"])):
        if text is None:
            if _decides_itself(context):
                return
            raise TermsError("the server states no run terms")
        terms = read_terms(text)
        accept(context, text, IN_PROCESS if _decides_itself(context) else decide(terms))
    elif text != state["text"]:
        raise TermsError("the request to register states other run terms than those that the hospital accepted")
    terms = read_terms(_accepted(context)["text"])
    _compare("task", terms.task, config.get("task"))
    _compare("schema", terms.schema, config.get("schema"))
    _compare(content.SUMS_WITHHELD, terms.secure_aggregation, read_value(config, content.SUMS_WITHHELD, False))
    _compare(content.CLASS_COUNTS, terms.class_weight == "balanced", read_value(config, content.CLASS_COUNTS, False))
    for name in ("epsilon", "delta"):
        _compare(PRIVACY_PREFIX + name, getattr(terms, name), config.get(PRIVACY_PREFIX + name, 0.0))


@contextmanager
def within_terms(message: Message, context: Context) -> Iterator[None]:
    """Hold a message that is answered within this context to the accepted terms.

    Raises:
        TermsError: it is outside them, or an earlier message was, or none were accepted.
    """
    state, is_registration = _accepted(context), message.metadata.message_type == content.REGISTRATION
    if state is not None and state["ended"]:
        raise TermsError(state["ended"])
    if state is None and not (is_registration or _decides_itself(context)):
        raise TermsError(NOT_ACCEPTED)
    try:
        if state is not None and not is_registration:
            _check_message(message, context, state)
        yield
    except TermsError as error:
        if (state := _accepted(context)) is not None:
            state["ended"] = error.reason
        raise


def _check_message(message: Message, context: Context, state: Any) -> None:
    """Raise TermsError for a kind of message, a round or a proximal term that is outside the terms."""
    kind, config = message.metadata.message_type, server_messages.config_of(message)
    terms = read_terms(state["text"])
    if (kind not in ANSWERS) != terms.secure_aggregation:
        how = "with" if terms.secure_aggregation else "without"
        raise TermsError(f"unexpected {kind}: expected messages of a run {how} secure aggregation")
    asked = [ANSWERS.get(kind.replace(".masked_", ".").removesuffix(".masked"))]
    asked += [content.ROUND_EVALUATION] * read_value(config, content.EVALUATE, False)
    asked += [content.APPRAISAL] * (config.get("appraisal") is True)
    for release in asked:
        if release not in (None, *terms.releases):
            raise TermsError(f"unexpected {kind}: expected none that asks for {release}, by the terms of the run")
    trainings = MAX_TRAININGS_PER_ROUND * terms.rounds
    # With secure aggregation a round that is repeated gets the next number.
    for name, most in (
        (content.ROUND, trainings if terms.secure_aggregation else terms.rounds),
        ("rounds", terms.rounds),
    ):
        if (number := read_value(config, name, 0)) > most:
            raise TermsError(f"{name}: expected at most {most}, by the terms of the run, got {number}")
    if kind in (*TRAINING, *EVALUATION):  # counts at many thresholds would differ by single patients
        _compare("threshold", DEFAULT_THRESHOLD, read_value(config, "threshold", DEFAULT_THRESHOLD))
    if kind in TRAINING:
        _compare(PROXIMAL_MU, _proximal_mu(terms.strategy_args), read_value(config, PROXIMAL_MU, 0.0))
        trained = context.state[ASKED]["trained"] - state["trained-before"] if ASKED in context.state else 0
        if trained >= trainings:
            raise TermsError(f"unexpected {kind}: expected at most {trainings} trainings in {terms.rounds} rounds")


def check_settings(config: content.TrainConfig, context: Context) -> None:
    """Raise TermsError if a train config differs from the accepted terms."""
    if (state := _accepted(context)) is None:
        return
    terms = read_terms(state["text"])
    for name in (*SAME, "seed"):
        _compare(name, getattr(terms, name), getattr(config, name))
    for name, value in config.network.to_config().items():
        _compare(name, terms.network[name], value)
    if config.class_weights and terms.class_weight == "none":
        raise TermsError("class_weights: expected none, by the terms of the run")
    for name in ("epsilon", "delta"):
        _compare(PRIVACY_PREFIX + name, getattr(terms, name), getattr(config.privacy, name) if config.privacy else 0.0)


def check_parameters(weights: Weights, context: Context) -> None:
    """Raise TermsError if a message's weights are more or fewer than the terms say."""
    if (state := _accepted(context)) is not None:
        _compare("parameters", read_terms(state["text"]).parameters, sum(array.size for array in weights.values()))


def _compare(name: str, expected: object, got: object) -> None:
    if got != expected:
        raise TermsError(f"{name}: expected {expected!r}, by the terms of the run, got {got!r}"[:500])


def _accepted(context: Context) -> Any:
    """Record of the accepted terms; None if there is none."""
    return context.state.get(RUN_TERMS)


def _decides_itself(context: Context) -> bool:
    """Whether a hospital accepts every run: in process and in a simulation, where no data are another party's."""
    return "data" not in context.node_config or context.run_id == RUN_ID
