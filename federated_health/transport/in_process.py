"""A hospital's app as a plain call, and hospitals in the server's own process: for studies and tests."""

import logging
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from flwr.app import Context, Message
from flwr.common.constant import ErrorCode

from federated_health.errors import AnswerError, MissingLibraryError, UserError
from federated_health.names import node_id_of
from federated_health.transport.interface import ReplyFutures, error_reply

logger = logging.getLogger(__name__)

App = Callable[[Message, Context], Message]
"""A ClientApp, or a function that answers as one."""


class InProcessTransport(ReplyFutures):
    """Hospitals as plain calls of one app, each with the context under its name."""

    def __init__(self, app: App, contexts: Mapping[str, Context]) -> None:
        super().__init__()
        self._app = app
        self._contexts = {node_id_of(name): context for name, context in contexts.items()}
        self._names = {node_id_of(name): name for name in contexts}

    def names(self) -> dict[int, str]:
        return self._names

    def send(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        futures = {}
        for key, message in messages.items():
            futures[key] = Future[Message]()
            context = self._contexts.get(message.metadata.dst_node_id)
            futures[key].set_result(
                call_app(self._app, message, context) if context else error_reply(message, "it is not connected")
            )
        return futures


def call_app(app: App, message: Message, context: Context) -> Message:
    """The app's reply; an exception becomes an error reply.

    The reply holds the reason of an AnswerError only, since the text of another exception may hold a patient's values.

    Raises:
        MissingLibraryError: the run needs a library that is not installed, so that no later message can be answered.
    """
    try:
        reply = app(message, context)
        if not isinstance(reply, Message):
            raise TypeError
        return reply
    except Exception as raised:
        answer = raised if isinstance(raised, AnswerError) else AnswerError(raised)
        error = answer.error
        if isinstance(error, MissingLibraryError):
            raise error from None
        if isinstance(error, UserError):
            logger.error("%s", error)
        else:
            from federated_health.transport.error_text import describe_error  # noqa: PLC0415  # only after a failure

            logger.error("%s failed: %s", message.metadata.message_type, describe_error(error))
            # Where the error was raised; its own text is left out, since it may hold values, and a log is a file.
            logger.debug("".join(traceback.format_tb(error.__traceback__)))
        return error_reply(message, str(answer), ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
