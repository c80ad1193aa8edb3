"""Calls of a hospital's app, a ClientApp or a function that answers as one."""

import logging
import re
import traceback
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.common.constant import ErrorCode

from federated_health.errors import AnswerError, MissingLibraryError, RefusedMessageError, UserError
from federated_health.names import RUN_ID, node_id_of, printable

logger = logging.getLogger(__name__)

LOGGED = "logged"
"""Record of a hospital's own state: hashes of the errors that its log names."""

MAX_LOGGED = 50
"""Largest number of errors that a log names, each once."""

App = Callable[[Message, Context], Message]
"""A ClientApp, or a function that answers as one."""


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
        kind = printable(message.metadata.message_type)
        if isinstance(error, RefusedMessageError):
            text = f"refused the server's {kind}: {error}"
        elif isinstance(error, UserError):
            text = str(error)
        else:
            from federated_health.transport.error_text import describe_error  # noqa: PLC0415  # only after a failure

            text = f"{kind} failed: {describe_error(error)}"
        logger.log(logging.ERROR if _is_new(kind, text, context) else logging.DEBUG, "%s", text)
        if not isinstance(error, UserError):
            # Where the error was raised; its own text is left out, since it may hold values, and a log is a file.
            logger.debug("".join(traceback.format_tb(error.__traceback__)))
        return failed_reply(message, str(answer))


def _is_new(kind: str, text: str, context: Context) -> bool:
    """Whether no error of such a text, but for numbers, was logged for such a message: no server can fill the log."""
    logged: Any = context.state.setdefault(LOGGED, ConfigRecord({"errors": []}))
    error = sha256(re.sub(r"[0-9.,e+-]+", "0", f"{kind} {text}").encode()).hexdigest()
    if error in logged["errors"] or len(logged["errors"]) >= MAX_LOGGED:
        return False
    logged["errors"] = [*logged["errors"], error]
    return True


def failed_reply(message: Message, reason: str) -> Message:
    """An error in place of the reply of an app that failed; `interface.has_failed` recognises it."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def hospital_context(name: str, node_config: UserConfig) -> Context:
    """Context for calling a hospital's ClientApp outside Flower's own runtimes."""
    return Context(RUN_ID, node_id_of(name), {"name": name, **node_config}, state=RecordDict(), run_config={})
