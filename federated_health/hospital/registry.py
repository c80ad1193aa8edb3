"""What a hospital's ClientApp answers to: every kind of message, of plain and of encrypted runs."""

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from federated_health.encryption import handlers as encrypted
from federated_health.encryption import hospital_key, hospital_result
from federated_health.errors import EncryptionError
from federated_health.hospital import handlers
from federated_health.hospital.handlers import Answer, handler
from federated_health.messages.content import CONFIG, SUMS_WITHHELD

ONLY_ENCRYPTED = "encrypted-only"
"""Of a node's config: whether the hospital takes part in encrypted runs alone."""


def register(app: ClientApp) -> None:
    """Have an app answer. What each answer gives away, `messages` and `encryption.messages` list."""
    app.query("statistics")(handler(_register))
    app.train()(handler(_in_plain_run(handlers.train_round)))
    app.evaluate()(handler(_in_plain_run(handlers.evaluate_round)))
    app.evaluate("threshold")(handler(_in_plain_run(handlers.score_training_rows)))
    app.evaluate("final")(handler(_in_plain_run(handlers.evaluate_finally)))
    app.evaluate("appraisal")(handler(_in_plain_run(handlers.report_benefit)))

    app.query("offer")(handler(hospital_key.offer_public_key))
    app.query("key")(handler(hospital_key.seal_run_key))
    app.query("briefing")(handler(hospital_key.accept_delivery))
    app.query("sums")(handler(encrypted.share_sums))
    app.train("encrypted")(handler(encrypted.train))
    app.evaluate("encrypted")(handler(encrypted.evaluate))
    app.evaluate("encrypted_threshold")(handler(encrypted.score_training_rows))
    app.evaluate("encrypted_final")(handler(encrypted.evaluate_final_weights))
    app.query("closing")(handler(hospital_result.store_result))


def _register(message: Message, context: Context) -> Answer:
    is_withheld = message.content.config_records[CONFIG].get(SUMS_WITHHELD) is True
    return handlers.register(message, context) if is_withheld else _in_plain_run(handlers.register)(message, context)


def _in_plain_run(answer: Callable[[Message, Context], Answer]) -> Callable[[Message, Context], Answer]:
    """An answer that a hospital gives in plain runs only.

    A server that asks for it in an encrypted run would see what it must not, whether it errs or is curious.
    """

    def checked(message: Message, context: Context) -> Answer:
        if context.node_config.get(ONLY_ENCRYPTED):
            raise EncryptionError("it takes part in encrypted runs only, and the server has no --encrypt")
        if hospital_key.is_in_encrypted_run(context):
            raise EncryptionError("it is in an encrypted run, and says nothing that is not encrypted")
        return answer(message, context)

    return checked
