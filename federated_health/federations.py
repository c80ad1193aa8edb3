"""Which kind of run the settings ask for: the one place that decides."""

from flwr.serverapp import Grid

from federated_health.encryption.federation import EncryptedFederation
from federated_health.federation import Federation
from federated_health.settings import Settings


def make_federation(grid: Grid, settings: Settings) -> Federation | EncryptedFederation:
    """A run over a grid whose server reads what it averages, or adds what it cannot read."""
    return EncryptedFederation(grid, settings) if settings.encrypt else Federation(grid, settings)
