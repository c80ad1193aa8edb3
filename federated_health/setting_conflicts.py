"""Settings that contradict each other: checks of encryption, differential privacy, class weights and some others.

`Settings` calls them where such a setting differs from its default.
"""

from dataclasses import fields

from federated_health import setting_fields as limits
from federated_health.errors import SettingsError, check_installed
from federated_health.ml.networks import FILE, SGD, Network
from federated_health.ml.strategies import STRATEGIES
from federated_health.ml.targets import target_of
from federated_health.settings import MIN_ENCRYPTED_HOSPITALS, Settings


def check_conflicts(settings: Settings) -> None:
    """Raise SettingsError if settings contradict each other, or MissingLibraryError if they need an absent library."""
    _check_target(settings)
    if settings.encrypt:
        _check_encryption(settings)
        check_installed("tenseal")
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
    if settings.encrypt and not target.has_threshold:
        raise SettingsError(f"encrypt: expected a binary label, got {settings.task_declaration.label.kind}")
    if settings.class_weight == "none":
        return
    if not target.has_classes:
        kind = settings.task_declaration.label.kind
        raise SettingsError(f"class-weight: expected a label with classes, got {kind}; leave it out")
    if settings.encrypt or settings.dp_epsilon:
        flag = "--encrypt" if settings.encrypt else "--dp-epsilon"
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


def _check_encryption(settings: Settings) -> None:
    minimum = MIN_ENCRYPTED_HOSPITALS
    for name, number in (("hospitals", settings.hospitals), ("min-hospitals", settings.min_hospitals or minimum)):
        if number < minimum:
            why = "from a sum of two, each hospital learns the other's update"
            raise SettingsError(f"{name}: expected at least {minimum} with --encrypt, got {number}: {why}")
    if not STRATEGIES[settings.strategy].is_mean:
        means = ", ".join(name for name, declared in STRATEGIES.items() if declared.is_mean)
        raise SettingsError(
            f"strategy: expected one of {means} with --encrypt, got {settings.strategy}, which reads single updates"
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
