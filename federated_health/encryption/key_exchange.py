"""The server's part in sharing a key that it must not have: it passes envelopes on, and knows who has the key."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.encryption import messages
from federated_health.encryption.messages import COLUMN_SUMS, ENVELOPES, KEY_ID, MAKE, PATIENTS, RUN, KeyNews
from federated_health.messages.content import CONFIG
from federated_health.messages.records import MalformedMessageError
from federated_health.server.participants import Participants
from federated_health.server.replies import AcceptedReply, RejectedReply, ReplyCollector
from federated_health.settings import Settings

Read = TypeVar("Read")

logger = logging.getLogger(__name__)

MAX_OFFERS = 4
"""For the key, in one question: an envelope has some 190 kB, and the answer must fit into any run's largest reply."""


class KeyExchange:
    """Sees to it that every hospital that is present has the run's key and knows the sums for its normalisation.

    Args:
        run: the run's token (see `FederatedRun`).
        key_id: the public name of the run's key; empty as long as there is none.
    """

    def __init__(
        self, roster: Participants, correspondence: ReplyCollector, settings: Settings, run: str, key_id: str = ""
    ) -> None:
        self.run = run
        self.key_id = key_id
        self._participants = roster
        self._collector = correspondence
        self._settings = settings
        # Node -> its entry (see `Participants.entry_of`) when it had the key, or also the sums.
        self._holders: dict[int, int] = {}
        self._briefed: dict[int, int] = {}
        self._has_warned = False

    def config(self, **more: str | int | float | bool) -> ConfigRecord:
        """What every question of this run holds, and more (with - for _)."""
        task = self._settings.task_declaration
        known: dict[str, str | int | float | bool] = {"task": task.name, "schema": task.schema_hash, RUN: self.run}
        return ConfigRecord({**known, **more})

    def share_key(self, nodes: Iterable[int]) -> list[int]:
        """Those of the nodes that have the key, once all that can get it have it.

        The first hospital by name makes it; later, any that has it passes it on.
        """
        nodes = list(nodes)
        lacking = [node for node in nodes if not self._is_known(node, self._holders)]
        if lacking:
            self._share_key_with(lacking, [node for node in nodes if node not in lacking])
        return [node for node in nodes if self._is_known(node, self._holders)]

    def brief(self, nodes: Iterable[int], sums: list[bytes], patients: int) -> list[int]:
        """Those of the nodes that have the key and, if there are any, the encrypted sums for the normalisation."""
        nodes = self.share_key(nodes)
        if not sums:
            return nodes
        lacking = [node for node in nodes if not self._is_known(node, self._briefed)]
        record = messages.to_record({COLUMN_SUMS: sums})
        content = {CONFIG: self.config(**{PATIENTS: patients}), messages.ENCRYPTED: record}
        for reply in self._ask(messages.BRIEFING, dict.fromkeys(lacking, content), self._read_key_id):
            node = reply.message.metadata.src_node_id
            self._briefed[node] = self._participants.entry_of(node)
        return [node for node in nodes if self._is_known(node, self._briefed)]

    def doubt(self, nodes: Iterable[int]) -> None:
        """Look anew at what these have, who gave no answer that can be used.

        A hospital may have been started anew without a grid's word of it, and lack the key.
        """
        for node in nodes:
            self._holders.pop(node, None)
            self._briefed.pop(node, None)

    def _share_key_with(self, lacking: list[int], holders: list[int]) -> None:
        offers: dict[int, bytes] = {}
        wishes = self._ask(messages.OFFER, {node: {CONFIG: self.config()} for node in lacking}, self._read_offer)
        for reply in wishes:
            node = reply.message.metadata.src_node_id
            if reply.content.key_id and reply.content.key_id == self.key_id:
                self._hold(node)  # the server was away, and not the hospital
                holders.append(node)
            else:
                offers[node] = reply.content.envelopes[0]
        if not offers:
            return
        if not self.key_id:
            for maker in offers:  # replies are in the order of names
                self._pass_on(maker, {node: offer for node, offer in offers.items() if node != maker}, make=True)
                if self.key_id:
                    return
            return
        for holder in sorted(holders, key=lambda node: self._participants.names()[node]):
            offers = {node: offer for node, offer in offers.items() if not self._is_known(node, self._holders)}
            if offers:
                self._pass_on(holder, offers)
        if not holders and not self._has_warned:
            self._has_warned = True
            logger.warning("no hospital that is here has the run's key: one that has it must come back")

    def _pass_on(self, holder: int, offers: Mapping[int, bytes], *, make: bool = False) -> None:
        """Have a hospital seal the key for others, so many at a time, and hand it to them."""
        nodes = list(offers)
        for first in range(0, max(len(nodes), 1), MAX_OFFERS):
            some = {node: offers[node] for node in nodes[first : first + MAX_OFFERS]}
            self._pass_some_on(holder, some, make=make and not first)

    def _pass_some_on(self, holder: int, offers: Mapping[int, bytes], *, make: bool) -> None:
        wishes = ConfigRecord({ENVELOPES: list(offers.values())})
        question = {CONFIG: self.config(**{MAKE: make}), ENVELOPES: wishes}
        sealed = self._ask(messages.KEY, {holder: question}, lambda _, content: self._read_key(content, len(offers)))
        if not sealed:
            return
        news = sealed[0].content
        self.key_id = self.key_id or news.key_id
        self._hold(holder)
        contents = {}
        for node, envelope in zip(offers, news.envelopes, strict=True):
            if envelope:
                one = ConfigRecord({ENVELOPES: [envelope]})
                contents[node] = {CONFIG: self.config(**{KEY_ID: self.key_id}), ENVELOPES: one}
            else:
                reason = f"{sealed[0].hospital} does not trust its certificate with the run's key"
                self._collector.reject(RejectedReply(self._participants.names()[node], reason))
        for reply in self._ask(messages.BRIEFING, contents, self._read_key_id):
            self._hold(reply.message.metadata.src_node_id)

    def _ask(
        self,
        message_type: str,
        contents: Mapping[int, Mapping[str, ConfigRecord]],
        read: Callable[[int, RecordDict], Read],
    ) -> list[AcceptedReply[Read]]:
        questions = [Message(RecordDict(dict(content)), node, message_type) for node, content in contents.items()]
        return self._collector.send_and_receive(questions, self._participants.names(), read)

    def _read_offer(self, node: int, content: RecordDict) -> KeyNews:
        return KeyNews.offer_from_content(content, self._participants.names()[node])

    def _read_key(self, content: RecordDict, number: int) -> KeyNews:
        news = KeyNews.from_content(content, number)
        if not news.key_id or (self.key_id and news.key_id != self.key_id):
            raise MalformedMessageError("it has another key than the run's")
        return news

    def _read_key_id(self, _: int, content: RecordDict) -> KeyNews:
        news = KeyNews.from_content(content, 0)
        if news.key_id != self.key_id:
            raise MalformedMessageError("it has another key than the run's")
        return news

    def _hold(self, node: int) -> None:
        self._holders[node] = self._participants.entry_of(node)

    def _is_known(self, node: int, among: Mapping[int, int]) -> bool:
        return among.get(node) == self._participants.entry_of(node)
