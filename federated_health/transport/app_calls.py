"""Calls of a hospital's app, a ClientApp or a function that answers as one."""

from collections.abc import Callable

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.common.constant import ErrorCode

from federated_health.errors import AnswerError, MissingLibraryError, TermsError
from federated_health.names import RUN_ID, node_id_of

App = Callable[[Message, Context], Message]
"""A ClientApp, or a function that answers as one."""


def call_app(app: App, message: Message, context: Context) -> Message:
    """The app's reply; an exception becomes an error reply.

    The reply holds the reason of an AnswerError only, since the text of another exception may hold a patient's values.

    Raises:
        MissingLibraryError: the run needs a library that is not installed, so that no later message can be answered.
        TermsError: the message is outside the terms of the run, so that no later one is answered.
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
        from federated_health.transport.error_log import log_error  # noqa: PLC0415  # only after a failure

        log_error(error, message, context)
        if isinstance(error, TermsError):
            raise error from None
        return failed_reply(message, str(answer))


def failed_reply(message: Message, reason: str) -> Message:
    """An error in place of the reply of an app that failed; `interface.has_failed` recognises it."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def hospital_context(name: str, node_config: UserConfig) -> Context:
    """Context for calling a hospital's ClientApp outside Flower's own runtimes."""
    return Context(RUN_ID, node_id_of(name), {"name": name, **node_config}, state=RecordDict(), run_config={})
