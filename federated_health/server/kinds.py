"""Which kind of run the settings ask for: the one place that decides."""

from flwr.serverapp import Grid

from federated_health.encryption import messages as encrypted_messages
from federated_health.encryption.run import EncryptedRun
from federated_health.errors import SettingsError
from federated_health.messages import content
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.flower_engines import is_deployment, is_simulation


def make_run(grid: Grid, settings: Settings) -> PlainRun | EncryptedRun:
    """A run over a grid whose server reads what it averages, or adds what it cannot read.

    Raises:
        SettingsError: it would be an encrypted one under Flower's own engines, where nobody keeps what comes of it.
    """
    if settings.encrypt and (is_simulation(grid) or is_deployment(grid)):
        raise SettingsError(
            "encrypt: goes between terminals only: Flower's engines end a hospital's process with each "
            "message, and with it the only one that could keep the model"
        )
    return EncryptedRun(grid, settings) if settings.encrypt else PlainRun(grid, settings)


def max_reply_bytes(settings: Settings) -> int:
    """Bytes beyond which nothing that a hospital sends in such a run can be meant."""
    largest = encrypted_messages.max_reply_bytes if settings.encrypt else content.max_reply_bytes
    return largest(settings.task_declaration, settings.model)


def check_tls(settings: Settings, *, has_identity: bool) -> None:
    """Refuse an encrypted run over streams on which nobody can tell who the hospitals are.

    Raises:
        SettingsError: it is one.
    """
    if settings.encrypt and not has_identity:
        raise SettingsError("tls: --encrypt needs it: hospitals pass their key on by their certificates")
