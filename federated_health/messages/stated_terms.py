"""The terms of a run that a server states, from its settings."""

from federated_health.messages.run_terms import RunTerms
from federated_health.ml.networks import number_of_weights
from federated_health.ml.strategies import write_arguments
from federated_health.names import METRICS, MODEL, REPORT, ROUNDS, SETTINGS
from federated_health.settings import Settings


def terms_of(settings: Settings, authority: str = "") -> RunTerms:
    """The terms of a run with these settings."""
    task, network = settings.task_declaration, settings.network_declaration
    same = ("rounds", "local_epochs", "batch_size", "learning_rate", "optimizer", "l2", "class_weight", "seed")
    return RunTerms(
        task=task.name,
        schema=task.schema_hash,
        network=network.to_config(),
        parameters=number_of_weights(task, network),
        strategy=settings.strategy,
        strategy_args=write_arguments(settings.strategy_arguments),
        **{name: getattr(settings, name) for name in (*same, "hospitals", "min_updates", "appraisal")},
        authority=authority,
        epsilon=settings.dp_epsilon,
        delta=settings.dp_delta if settings.dp_epsilon else 0.0,
        secure_aggregation=settings.secure_aggregation,
        retention=_retention_of(settings),
    )


def _retention_of(settings: Settings) -> str:
    """What a run's folder holds at the end (see `RunFolder.finish`), in words."""
    until = "until the run is over" if settings.dp_epsilon else "to extend the run, also after it is over"
    return f"{SETTINGS}, {ROUNDS}, {METRICS}, {MODEL}, {REPORT}; {until}: checkpoints with the registrations"
