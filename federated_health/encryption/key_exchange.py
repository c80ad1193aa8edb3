"""The server's side of the key exchange: it forwards envelopes that it cannot open, and tracks who has the key."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.encryption import messages
from federated_health.encryption.messages import COLUMN_SUMS, ENVELOPES, KEY_ID, MAKE, PATIENTS, RUN, KeyReply
from federated_health.messages.content import CONFIG
from federated_health.messages.records import MalformedMessageError
from federated_health.server.replies import AcceptedReply
from federated_health.server.run import FederatedRun

logger = logging.getLogger(__name__)

Content = TypeVar("Content")

MAX_OFFERS = 4
"""Offers per message: an envelope has about 190 kB, and all of a reply's must fit into the size limit of replies."""


class KeyExchange:
    """Gives every hospital that is present the run's key and the encrypted sums for its normalisation.

    Attributes:
        key_id: see `SecretKey.id`; empty before a hospital has made the key.
    """

    def __init__(self, run: FederatedRun) -> None:
        self.key_id = ""
        self._run = run
        # Entries of the nodes that have received the key, and the sums; a node that was restarted has a new one.
        self._entry_of = run.participants.entry_of
        self._with_key: set[int] = set()
        self._with_sums: set[int] = set()
        self._has_warned = False

    def config(self, **more: str | int | float | bool) -> ConfigRecord:
        """The config that every message of this run carries, and more entries."""
        task = self._run.settings.task_declaration
        return ConfigRecord({"task": task.name, "schema": task.schema_hash, RUN: self._run.run_id, **more})

    def ask(
        self, message_type: str, contents: Mapping[int, RecordDict], read: Callable[[int, RecordDict], Content]
    ) -> list[AcceptedReply[Content]]:
        """Send each node its content, once, and return the valid replies (see `ReplyCollector`)."""
        requests = [Message(content, node, message_type) for node, content in contents.items()]
        return self._run.collector.send_and_receive(requests, self._run.participants.names(), read)

    def share_key(self, nodes: Iterable[int]) -> list[int]:
        """Share the key with the nodes that lack it, and return the nodes that then have it.

        The first hospital by name makes the key; later, any hospital that has it seals it for others.
        """
        nodes, names, had_key = list(nodes), self._run.participants.names(), bool(self.key_id)
        offers = self._collect_offers(node for node in nodes if self._entry_of(node) not in self._with_key)
        holders = [node for node in nodes if self._entry_of(node) in self._with_key]
        for sealer in sorted(holders, key=lambda node: names[node]) if had_key else offers:
            lacking = [node for node in offers if self._entry_of(node) not in self._with_key and node != sealer]
            if lacking or not had_key:
                self._have_key_sealed(sealer, {node: offers[node] for node in lacking})
            if self.key_id and not had_key:
                break
        if offers and had_key and not holders and not self._has_warned:
            self._has_warned = True
            logger.warning("no connected hospital has the run's key: one that has it must reconnect")
        return [node for node in nodes if self._entry_of(node) in self._with_key]

    def share_key_and_sums(self, nodes: Iterable[int], sums: list[bytes], patients: int) -> list[int]:
        """Share the key and the encrypted sums, if there are any, and return the nodes that then have both."""
        nodes = self.share_key(nodes)
        if not sums:
            return nodes
        encrypted = ConfigRecord({COLUMN_SUMS: sums})
        content = RecordDict({CONFIG: self.config(**{PATIENTS: patients}), messages.ENCRYPTED: encrypted})
        uninformed = [node for node in nodes if self._entry_of(node) not in self._with_sums]
        self._deliver(dict.fromkeys(uninformed, content), self._with_sums)
        return [node for node in nodes if self._entry_of(node) in self._with_sums]

    def recheck(self, nodes: Iterable[int]) -> None:
        """Ask these nodes again whether they have the key, because their replies could not be used.

        A hospital may have restarted without the grid reporting it, and then lacks the key.
        """
        entries = set(map(self._entry_of, nodes))
        self._with_key -= entries
        self._with_sums -= entries

    def _collect_offers(self, nodes: Iterable[int]) -> dict[int, bytes]:
        """Offers of nodes that lack the key, in the order of names; those that have it are marked."""
        names, offers = self._run.participants.names(), {}

        def read(node: int, content: RecordDict) -> KeyReply:
            return KeyReply.offer_from_content(content, names[node])

        for reply in self.ask(messages.OFFER, dict.fromkeys(nodes, RecordDict({CONFIG: self.config()})), read):
            if reply.content.key_id and reply.content.key_id == self.key_id:
                self._mark(reply, self._with_key)  # the server restarted, not the hospital
            else:
                offers[reply.message.metadata.src_node_id] = reply.content.envelopes[0]
        return offers

    def _have_key_sealed(self, sealer: int, offers: Mapping[int, bytes]) -> None:
        """Have one hospital seal the key for others, MAX_OFFERS per message, and deliver the envelopes.

        If there is no key, the hospital makes it first.
        """
        nodes = list(offers)
        for start in range(0, max(len(nodes), 1), MAX_OFFERS):
            batch = nodes[start : start + MAX_OFFERS]
            content = self._content([offers[node] for node in batch], **{MAKE: not self.key_id})
            for reply in self.ask(messages.KEY, {sealer: content}, partial(self._read_key, number=len(batch))):
                self.key_id = reply.content.key_id
                self._mark(reply, self._with_key)
                envelopes = dict(zip(batch, reply.content.envelopes, strict=True))
                for node in [node for node, envelope in envelopes.items() if not envelope]:
                    reason = f"{reply.hospital} does not trust its certificate with the run's key"
                    self._run.collector.reject(self._run.participants.names()[node], reason)
                    del envelopes[node]
                contents = {node: self._content([envelopes[node]], **{KEY_ID: self.key_id}) for node in envelopes}
                self._deliver(contents, self._with_key)

    def _deliver(self, contents: Mapping[int, RecordDict], received: set[int]) -> None:
        """Send each node its content, and mark the nodes that confirm it with the key's public name."""
        for reply in self.ask(messages.DELIVERY, contents, partial(self._read_key, number=0)):
            self._mark(reply, received)

    def _content(self, envelopes: Sequence[bytes], **more: str | bool) -> RecordDict:
        return RecordDict({CONFIG: self.config(**more), ENVELOPES: ConfigRecord({ENVELOPES: list(envelopes)})})

    def _read_key(self, _: int, content: RecordDict, number: int) -> KeyReply:
        reply = KeyReply.from_content(content, number)
        if not reply.key_id or (self.key_id and reply.key_id != self.key_id):
            raise MalformedMessageError("it has another key than the run's")
        return reply

    def _mark(self, reply: AcceptedReply[KeyReply], received: set[int]) -> None:
        received.add(self._entry_of(reply.message.metadata.src_node_id))
