"""What a hospital's own log says of a message that its app could not answer."""

import logging
import re
import traceback
from hashlib import sha256
from typing import Any

from flwr.app import ConfigRecord, Context, Message

from federated_health.errors import RefusedMessageError, UserError
from federated_health.names import printable
from federated_health.transport.error_text import describe_error

logger = logging.getLogger(__name__)

LOGGED = "logged"
"""Record of a hospital's own state: hashes of the errors that its log names."""

MAX_LOGGED = 50
"""Largest number of errors that a log names, each once."""


def log_error(error: BaseException, message: Message, context: Context) -> None:
    """Log why a message is not answered; equal errors once, and without what may be a patient's value."""
    kind = printable(message.metadata.message_type)
    if isinstance(error, RefusedMessageError):
        text = f"refused the server's {kind}: {error}"
    elif isinstance(error, UserError):
        text = str(error)
    else:
        text = f"{kind} failed: {describe_error(error)}"
    logger.log(logging.ERROR if _is_new(kind, text, context) else logging.DEBUG, "%s", text)
    if not isinstance(error, UserError):
        # Where the error was raised; its own text is left out, since it may hold values, and a log is a file.
        logger.debug("".join(traceback.format_tb(error.__traceback__)))


def _is_new(kind: str, text: str, context: Context) -> bool:
    """Whether no error of such a text, but for numbers, was logged for such a message: no server can fill the log."""
    logged: Any = context.state.setdefault(LOGGED, ConfigRecord({"errors": []}))
    error = sha256(re.sub(r"[0-9.,e+-]+", "0", f"{kind} {text}").encode()).hexdigest()
    if error in logged["errors"] or len(logged["errors"]) >= MAX_LOGGED:
        return False
    logged["errors"] = [*logged["errors"], error]
    return True
