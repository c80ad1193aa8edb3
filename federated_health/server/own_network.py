"""The check of a network that a user's file builds, before a run waits for hospitals."""

from federated_health.errors import SettingsError
from federated_health.ml.network_file import check_network
from federated_health.ml.strategies import STRATEGIES
from federated_health.settings import Settings


def check_own_network(settings: Settings) -> None:
    """Build the network in another process, unless this one has loaded Keras, and try it out.

    Raises:
        NetworkError: the file cannot be used.
        SettingsError: other settings do not go with a network of its kind.
    """
    description = check_network(settings.task_declaration, settings.network_declaration, settings.seed)
    if description.state and STRATEGIES[settings.strategy].extrapolates:
        means = ", ".join(name for name, declared in STRATEGIES.items() if not declared.extrapolates)
        raise SettingsError(
            f"strategy: expected one of {means} with the state of this --network, such as moving variances, which "
            f"{settings.strategy} could make negative"
        )
    if settings.dp_epsilon and (description.state or description.is_random or description.has_penalties):
        raise SettingsError(
            "network: expected no BatchNormalization or other state, no Dropout or other random layer, and no losses "
            "or constraints of layers with --dp-epsilon, whose gradients are of single patients"
        )
