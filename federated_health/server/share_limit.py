"""Limits a hospital's share in the average (`--max-share`), since a hospital declares its own number of rows."""

from collections.abc import Mapping, Sequence
from typing import cast

from flwr.app import MetricRecord

from federated_health.messages.content import NUM_EXAMPLES, Update
from federated_health.messages.records import METRICS
from federated_health.server.replies import AcceptedReply


def limit_shares(rows: Mapping[str, float], limit: float) -> dict[str, float]:
    """Shares by hospital that are proportional to rows, none above the limit, and add up to 1.

    What a hospital has above the limit goes to the others by their rows. All are equal if the limit leaves no choice.
    """
    if limit * len(rows) <= 1:
        return dict.fromkeys(rows, 1 / len(rows))
    limited: set[str] = set()
    while True:
        left = 1 - limit * len(limited)
        total = sum(number for name, number in rows.items() if name not in limited)
        shares = {name: limit if name in limited else left * number / total for name, number in rows.items()}
        above = {name for name, share in shares.items() if share > limit and name not in limited}
        if not above:
            return shares
        limited |= above


def set_shares(updates: Sequence[AcceptedReply[Update]], limit: float) -> None:
    """Replace the numbers of rows by which a strategy weighs a round's updates by limited shares."""
    shares = limit_shares({reply.hospital: reply.content.examples for reply in updates}, limit)
    for reply in updates:
        cast(MetricRecord, reply.message.content[METRICS])[NUM_EXAMPLES] = shares[reply.hospital]
