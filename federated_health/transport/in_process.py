"""A transport for studies and tests: hospitals are calls of one app in this process."""

from collections.abc import Mapping
from concurrent.futures import Future

from flwr.app import Context, Message

from federated_health.names import node_id_of
from federated_health.transport.app_calls import App, call_app
from federated_health.transport.interface import ReplyFutures, error_reply


class InProcessTransport(ReplyFutures):
    """Hospitals as plain calls of one app, each with the context under its name."""

    def __init__(self, app: App, contexts: Mapping[str, Context]) -> None:
        super().__init__()
        self._app = app
        self._contexts = {node_id_of(name): context for name, context in contexts.items()}
        self._names = {node_id_of(name): name for name in contexts}

    def names(self) -> dict[int, str]:
        return self._names

    def send(self, messages: Mapping[str, Message]) -> dict[str, Future[Message]]:
        futures = {}
        for key, message in messages.items():
            futures[key] = Future[Message]()
            context = self._contexts.get(message.metadata.dst_node_id)
            futures[key].set_result(
                call_app(self._app, message, context) if context else error_reply(message, "it is not connected")
            )
        return futures
