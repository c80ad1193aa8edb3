"""Whether a hospital accepts the terms of a run: by a hash that it was given, by its policy, or by asking a person."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from federated_health.data.hospital import Hospital
from federated_health.errors import ConsentError, TermsError
from federated_health.hospital.policy import policy_of
from federated_health.messages.accepted_terms import ASKED_PERSON, HASH, LOOPBACK, POLICY
from federated_health.messages.run_terms import RunTerms

logger = logging.getLogger(__name__)


def decide(
    terms: RunTerms,
    *,
    accept: str | None = None,
    policy: str = "",
    refusals: Sequence[str] = (),
    is_local: bool = False,
    ask: Callable[[], bool] | None = None,
) -> str:
    """What accepts the terms: one of the names in `accepted_terms`.

    Args:
        accept: hash that the user accepts, all of it: a server finds other terms with the same 12 digits in 90 s. None
            if the user gave none.
        policy: file of the hospital's policy; empty without one.
        refusals: what the hospital's policy and flags refuse in these terms, which nothing overrules.
        is_local: whether the server is on this machine, without TLS.
        ask: asks a person; None without a terminal.

    Raises:
        ConsentError: the terms are not accepted.
    """
    if refusals:
        for refusal in refusals[:-1]:
            logger.error("%s", refusal)
        more = f" ({len(refusals)} reasons, see above)" if len(refusals) > 1 else ""
        raise ConsentError(f"not joined: {refusals[-1]}{more}")
    if accept is not None:
        if accept.lower() != terms.hash:
            raise ConsentError(
                f"not joined: --accept: expected {terms.hash}, the hash of the run's terms, got {accept!r}; "
                "--show-terms shows them"
            )
        return HASH
    if policy:
        return POLICY
    if is_local:
        return LOOPBACK
    if ask is None:
        raise ConsentError(
            "not joined: there is no terminal to ask whether the run's terms are accepted: expected "
            f"--accept {terms.hash}, or --policy; --show-terms shows them"
        )
    if not ask():
        raise ConsentError("not joined: the run's terms were not accepted")
    return ASKED_PERSON


def decide_by_policy(terms: RunTerms, node_config: Mapping[str, Any], hospital: Hospital) -> str:
    """The same for a hospital that cannot be asked and has no flags, under Flower's deployment engine.

    Raises:
        TermsError: its policy does not allow the terms, or its node config names none.
    """
    policy = policy_of(node_config)
    if not policy.file:
        raise TermsError("it has no policy: expected the path of a policy file as `policy` in its node config")
    policy = replace(policy, servers=())  # the app does not know the server's key; `supernode` checks it
    if refusals := policy.refusals(terms, train_rows=len(hospital.train), task=hospital.task):
        for refusal in refusals:
            logger.error("%s", refusal)
        raise TermsError("; ".join(refusals), reason="its policy does not allow the terms of the run")
    for warning in policy.warnings(terms, train_rows=len(hospital.train), task=hospital.task):
        logger.warning("warning: %s", warning)
    return POLICY
