"""The server's side of the key exchange: it forwards envelopes that it cannot open, and tracks who has the key."""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.encryption import messages
from federated_health.encryption.messages import COLUMN_SUMS, ENVELOPES, KEY_ID, MAKE, PATIENTS, RUN, KeyReply
from federated_health.messages.content import CONFIG
from federated_health.messages.records import MalformedMessageError
from federated_health.server.participants import Participants
from federated_health.server.replies import AcceptedReply, ReplyCollector
from federated_health.settings import Settings

logger = logging.getLogger(__name__)

MAX_OFFERS = 4
"""Offers per message: an envelope has about 190 kB, and all of a reply's must fit into the size limit of replies."""


class KeyExchange:
    """Gives every hospital that is present the run's key and the encrypted sums for its normalisation.

    Args:
        run: the run's token (see `FederatedRun`).
        key_id: the public name of the run's key; empty before a hospital has made it.
    """

    def __init__(
        self, participants: Participants, collector: ReplyCollector, settings: Settings, run: str, key_id: str = ""
    ) -> None:
        self.key_id = key_id
        self._run = run
        self._participants = participants
        self._collector = collector
        self._task = settings.task_declaration
        # Node -> its entry (see `Participants.entry_of`) when it received the key, and when it received the sums.
        self._has_key: dict[int, int] = {}
        self._has_sums: dict[int, int] = {}
        self._has_warned = False

    def config(self, **more: str | int | float | bool) -> ConfigRecord:
        """The config that every message of this run carries, and more entries."""
        return ConfigRecord({"task": self._task.name, "schema": self._task.schema_hash, RUN: self._run, **more})

    def share_key(self, nodes: Iterable[int]) -> list[int]:
        """Share the key with the nodes that lack it, and return the nodes that then have it.

        The first hospital by name makes the key; later, any hospital that has it seals it for others.
        """
        nodes = list(nodes)
        holders = self._current(nodes, self._has_key)
        if lacking := [node for node in nodes if node not in holders]:
            self._share_key_with(lacking, holders)
        return self._current(nodes, self._has_key)

    def share_key_and_sums(self, nodes: Iterable[int], sums: list[bytes], patients: int) -> list[int]:
        """Share the key and the encrypted sums for the normalisation, and return the nodes that then have both.

        Args:
            sums: empty if the run has none.
        """
        nodes = self.share_key(nodes)
        if not sums:
            return nodes
        informed = self._current(nodes, self._has_sums)
        content = {
            CONFIG: self.config(**{PATIENTS: patients}),
            messages.ENCRYPTED: ConfigRecord({COLUMN_SUMS: sums}),
        }
        self._deliver({node: content for node in nodes if node not in informed}, self._has_sums)
        return self._current(nodes, self._has_sums)

    def recheck(self, nodes: Iterable[int]) -> None:
        """Ask these nodes again whether they have the key, because their replies could not be used.

        A hospital may have restarted without the grid reporting it, and then lacks the key.
        """
        for node in nodes:
            self._has_key.pop(node, None)
            self._has_sums.pop(node, None)

    def _share_key_with(self, lacking: list[int], holders: list[int]) -> None:
        names = self._participants.names()
        offers: dict[int, bytes] = {}
        contents = {node: {CONFIG: self.config()} for node in lacking}
        for reply in self._ask(
            messages.OFFER, contents, lambda node, content: KeyReply.offer_from_content(content, names[node])
        ):
            node = reply.message.metadata.src_node_id
            if reply.content.key_id and reply.content.key_id == self.key_id:
                self._mark(node, self._has_key)  # the server restarted, not the hospital
                holders.append(node)
            else:
                offers[node] = reply.content.envelopes[0]
        if not self.key_id:
            for maker in offers:  # in the order of names
                others = {node: offer for node, offer in offers.items() if node != maker}
                self._have_key_sealed(maker, others, make=True)
                if self.key_id:
                    break
            return
        for holder in sorted(holders, key=lambda node: names[node]):
            received = self._current(offers, self._has_key)
            if remaining := {node: offer for node, offer in offers.items() if node not in received}:
                self._have_key_sealed(holder, remaining)
        if offers and not holders and not self._has_warned:
            self._has_warned = True
            logger.warning("no connected hospital has the run's key: one that has it must reconnect")

    def _have_key_sealed(self, holder: int, offers: Mapping[int, bytes], *, make: bool = False) -> None:
        """Have one hospital seal the key for others, MAX_OFFERS per message, and deliver the envelopes.

        Args:
            make: whether it makes the key first.
        """
        nodes = list(offers)
        for start in range(0, max(len(nodes), 1), MAX_OFFERS):
            batch = nodes[start : start + MAX_OFFERS]
            requests = ConfigRecord({ENVELOPES: [offers[node] for node in batch]})
            content = {CONFIG: self.config(**{MAKE: make and not start}), ENVELOPES: requests}
            for reply in self._ask(messages.KEY, {holder: content}, partial(self._read_key, number=len(batch))):
                self.key_id = self.key_id or reply.content.key_id
                self._mark(holder, self._has_key)
                self._deliver_envelopes(dict(zip(batch, reply.content.envelopes, strict=True)), reply.hospital)

    def _deliver_envelopes(self, envelopes: Mapping[int, bytes], sender: str) -> None:
        contents = {}
        for node, envelope in envelopes.items():
            if envelope:
                record = ConfigRecord({ENVELOPES: [envelope]})
                contents[node] = {CONFIG: self.config(**{KEY_ID: self.key_id}), ENVELOPES: record}
            else:
                reason = f"{sender} does not trust its certificate with the run's key"
                self._collector.reject(self._participants.names()[node], reason)
        self._deliver(contents, self._has_key)

    def _deliver(self, contents: Mapping[int, Mapping[str, ConfigRecord]], received: dict[int, int]) -> None:
        """Send each node its content, and mark the nodes that confirm it with the key's public name."""
        for reply in self._ask(messages.DELIVERY, contents, partial(self._read_key, number=0)):
            self._mark(reply.message.metadata.src_node_id, received)

    def _ask(
        self,
        message_type: str,
        contents: Mapping[int, Mapping[str, ConfigRecord]],
        read: Callable[[int, RecordDict], KeyReply],
    ) -> list[AcceptedReply[KeyReply]]:
        questions = [Message(RecordDict(dict(content)), node, message_type) for node, content in contents.items()]
        return self._collector.send_and_receive(questions, self._participants.names(), read)

    def _read_key(self, _: int, content: RecordDict, number: int) -> KeyReply:
        reply = KeyReply.from_content(content, number)
        if not reply.key_id or (self.key_id and reply.key_id != self.key_id):
            raise MalformedMessageError("it has another key than the run's")
        return reply

    def _mark(self, node: int, received: dict[int, int]) -> None:
        received[node] = self._participants.entry_of(node)

    def _current(self, nodes: Iterable[int], received: Mapping[int, int]) -> list[int]:
        """The nodes that have received it and were not restarted since."""
        return [node for node in nodes if received.get(node) == self._participants.entry_of(node)]
