"""Settings that contradict each other: checks of secure aggregation, differential privacy, class weights and others.

`Settings` calls them where such a setting differs from its default.
"""

from dataclasses import fields

from federated_health import setting_fields as limits
from federated_health.errors import SettingsError, check_installed
from federated_health.ml.networks import FILE, Network
from federated_health.ml.strategies import STRATEGIES
from federated_health.ml.targets import target_of
from federated_health.names import SGD
from federated_health.settings import MIN_SECURE_HOSPITALS, Settings


def check_conflicts(settings: Settings) -> None:
    """Raise SettingsError if settings contradict each other, or MissingLibraryError if they need an absent library."""
    _check_target(settings)
    if settings.secure_aggregation:
        _check_secure_aggregation(settings)
    if settings.dp_epsilon:
        _check_privacy(settings)
        check_installed("dp_accounting")
    if settings.max_share < 1:
        _check_share(settings)
    if settings.strategy == "qfedavg" and settings.optimizer != SGD:
        why = "which divides updates by the learning rate"
        raise SettingsError(f"optimizer: expected {SGD} with qfedavg, {why}, got {settings.optimizer}")


def check_network_settings(settings: Settings) -> None:
    """Raise SettingsError for settings of the mlp that have no effect on the chosen network."""
    chosen = "--network" if settings.network else f"--model {settings.model}"
    unused = Network(FILE if settings.network else settings.model).unused_settings
    for field in fields(settings):
        if field.name in unused and (value := getattr(settings, field.name)) != field.default:
            raise SettingsError(f"{field.name}: has no effect with {chosen}: expected none, got {value}")


def _check_target(settings: Settings) -> None:
    target = target_of(settings.task_declaration)
    if settings.class_weight == "none":
        return
    if not target.has_classes:
        kind = settings.task_declaration.label.kind
        raise SettingsError(f"class-weight: expected a label with classes, got {kind}; leave it out")
    if settings.secure_aggregation or settings.dp_epsilon:
        flag = "--secure-aggregation" if settings.secure_aggregation else "--dp-epsilon"
        raise SettingsError(f"class-weight: {flag} withholds the numbers of rows that balanced needs")


def _check_share(settings: Settings) -> None:
    if STRATEGIES[settings.strategy].equal_weights:
        raise SettingsError(
            f"max-share: expected none with {settings.strategy}, which does not weigh hospitals by rows"
        )
    if settings.max_share * settings.hospitals < 1:
        raise SettingsError(
            f"max-share: expected at least 1 / --hospitals = {1 / settings.hospitals:.3g}, got {settings.max_share:g}"
        )


def _check_secure_aggregation(settings: Settings) -> None:
    minimum = MIN_SECURE_HOSPITALS
    for name, number in (("hospitals", settings.hospitals), ("min-hospitals", settings.min_hospitals or minimum)):
        if number < minimum:
            why = "from a sum of two, each hospital learns the other's update"
            raise SettingsError(f"{name}: expected at least {minimum} with --secure-aggregation, got {number}: {why}")
    if not STRATEGIES[settings.strategy].needs_mean_only:
        known = ", ".join(name for name, declared in STRATEGIES.items() if declared.needs_mean_only)
        raise SettingsError(
            f"strategy: expected one of {known} with --secure-aggregation, got {settings.strategy}, which reads single "
            "updates"
        )


def _check_privacy(settings: Settings) -> None:
    if settings.dp_epsilon < limits.MIN_EPSILON:
        raise SettingsError(f"dp-epsilon: expected 0 or at least {limits.MIN_EPSILON:g}, got {settings.dp_epsilon!r}")
    if settings.optimizer != SGD:
        raise SettingsError(f"optimizer: expected {SGD} with --dp-epsilon, got {settings.optimizer}")
    if settings.dropout:
        raise SettingsError(f"dropout: expected 0 with --dp-epsilon, got {settings.dropout:g}")
    if STRATEGIES[settings.strategy].needs_loss:
        raise SettingsError(f"{settings.strategy}: needs each hospital's training loss, which --dp-epsilon withholds")
    if settings.dp_steps * (settings.rounds + settings.dp_spare_rounds) > limits.MAX_STEPS:
        raise SettingsError(
            f"dp-steps: expected at most {limits.MAX_STEPS} over all rounds, including --dp-spare-rounds"
        )
