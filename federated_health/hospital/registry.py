"""What a hospital's ClientApp answers to: every kind of message, of plain and of encrypted runs."""

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from federated_health.encryption import closing, keyring
from federated_health.encryption import participation as encrypted
from federated_health.errors import EncryptionError
from federated_health.hospital import handlers
from federated_health.hospital.handlers import Answer, reply_with
from federated_health.messages.content import CONFIG, WITHHELD

ONLY_ENCRYPTED = "encrypted-only"
"""Of a node's config: whether the hospital takes part in encrypted runs alone."""


def register(app: ClientApp) -> None:
    """Have an app answer. What each answer gives away, `messages` and `encryption.messages` list."""
    app.query("statistics")(reply_with(_introduce))
    app.train()(reply_with(_in_plain_run(handlers.train_round)))
    app.evaluate()(reply_with(_in_plain_run(handlers.evaluate_round)))
    app.evaluate("threshold")(reply_with(_in_plain_run(handlers.score_training_rows)))
    app.evaluate("final")(reply_with(_in_plain_run(handlers.evaluate_finally)))
    app.evaluate("appraisal")(reply_with(_in_plain_run(handlers.appraise_model)))

    app.query("offer")(reply_with(keyring.make_wish))
    app.query("key")(reply_with(keyring.pass_on))
    app.query("briefing")(reply_with(keyring.be_briefed))
    app.query("sums")(reply_with(encrypted.share_sums))
    app.train("encrypted")(reply_with(encrypted.train))
    app.evaluate("encrypted")(reply_with(encrypted.evaluate))
    app.evaluate("encrypted_threshold")(reply_with(encrypted.score_training_rows))
    app.evaluate("encrypted_final")(reply_with(encrypted.evaluate_for_good))
    app.query("closing")(reply_with(closing.close))


def _introduce(message: Message, context: Context) -> Answer:
    is_withheld = message.content.config_records[CONFIG].get(WITHHELD) is True
    return handlers.introduce(message, context) if is_withheld else _in_plain_run(handlers.introduce)(message, context)


def _in_plain_run(answer: Callable[[Message, Context], Answer]) -> Callable[[Message, Context], Answer]:
    """An answer that a hospital gives in plain runs only.

    A server that asks for it in an encrypted run would see what it must not, whether it errs or is curious.
    """

    def checked(message: Message, context: Context) -> Answer:
        if context.node_config.get(ONLY_ENCRYPTED):
            raise EncryptionError("it takes part in encrypted runs only, and the server has no --encrypt")
        if keyring.is_in_encrypted_run(context):
            raise EncryptionError("it is in an encrypted run, and says nothing that is not encrypted")
        return answer(message, context)

    return checked
