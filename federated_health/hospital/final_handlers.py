"""What a hospital does with the messages after the last round; see `handlers` for those of the rounds."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flwr.app import Context, Message, MetricRecord

from federated_health import privacy
from federated_health.data.subgroups import subgroups_of
from federated_health.hospital import handlers
from federated_health.hospital.private_training import budget_of
from federated_health.messages.content import (
    ARRAYS,
    BENEFIT,
    CONFIG,
    FINAL,
    THRESHOLD,
    Evaluation,
    TrainConfig,
    TrainingScores,
)
from federated_health.messages.records import METRICS, MalformedMessageError, weights_from_record, weights_to_record
from federated_health.messages.server_messages import check_config
from federated_health.ml.networks import Weights, weight_shapes
from federated_health.ml.subgroups import measure_groups

if TYPE_CHECKING:
    from federated_health.messages.benefit import Benefit

logger = logging.getLogger(__name__)


def score_training_rows(message: Message, context: Context) -> TrainingScores:
    """Microaggregated scores of the training rows under the final weights, for the decision threshold."""
    config, local, weights = handlers.open_message(message, context)
    handlers.refuse_private(config, "the threshold")
    if not local.target.has_threshold:
        raise MalformedMessageError("the server asks for a threshold, which only a binary label has")
    rows = local.hospital.train
    groups = local.target.group_scores(local.score_training(weights), rows.labels, rows.ids)
    return TrainingScores(positives=groups["positives"], negatives=groups["negatives"])


def evaluate_final(message: Message, context: Context) -> Evaluation:
    """Sums, ROC-AUC and groups of scores of the held-out rows under the final weights; noisy counts under privacy.

    The final weights and this hospital's own figures are saved in its context, which stays at the hospital.
    """
    from federated_health.hospital.recalibration import keep_recalibration, recalibrate  # noqa: PLC0415  # at the end

    config, local, weights = handlers.open_message(message, context)
    held_out, outputs, target = local.hospital.test, local.score(weights), local.target
    context.state[ARRAYS] = weights_to_record(weights)
    context.state[CONFIG] = config.to_record()
    if config.privacy is not None:
        evaluate_once = privacy.load().evaluation.evaluate_once
        evaluation, figures = evaluate_once(context, local.hospital, config, weights, outputs, budget_of(context))
    else:
        evaluation = Evaluation(
            counts=handlers.measure(config, local, outputs),
            roc_auc=target.roc_auc(outputs, held_out.labels),
            scores=target.group_scores(outputs, held_out.labels, held_out.ids),
            subgroups=measure_groups(
                subgroups_of(local.hospital.task),
                held_out.values,
                outputs,
                held_out.labels,
                config.threshold,
                held_out.ids,
            ),
        )
        figures = target.figures(evaluation.counts, local.train_rows, evaluation.roc_auc)
        figures |= target.score_figures(outputs, held_out.labels)
        figures |= {"small": int(evaluation.counts.is_small)} if target.has_classes else {}
        keep_recalibration(context, recalibrate(local, weights))
        context.state["evaluation"] = evaluation.to_content()[METRICS]
    context.state["figures"] = MetricRecord({key: value for key, value in figures.items() if value is not None})
    return evaluation  # type: ignore[no-any-return]  # of a module that is loaded late


def report_benefit(message: Message, context: Context) -> "Benefit":
    """What this hospital gains by joining, and how much the model depends on each column."""
    from federated_health.data.data_review import describe_inverted_label  # noqa: PLC0415  # where it is asked for
    from federated_health.hospital.benefit import describe_benefit, measure_benefit  # noqa: PLC0415  # as above

    config, local, weights = handlers.open_message(message, context)
    check_config(config, local.hospital, context, rounds=config.rounds)
    handlers.refuse_private(config, "the benefit of joining")
    benefit = measure_benefit(local, weights, config)
    context.state[BENEFIT] = benefit.to_content()[METRICS]
    logger.info("%s", describe_benefit(benefit, local.target))
    if warning := describe_inverted_label(
        local.hospital.train.values, local.hospital.train.labels, local.hospital.task
    ):
        logger.warning("%s", warning)
    return benefit


def final_model(context: Context) -> tuple[TrainConfig, Weights] | None:
    """The final model, as `evaluate_final` saved it in the context; None before the end of a run."""
    if CONFIG not in context.state:
        return None
    config = handlers.read_config(context.state.config_records[CONFIG], context)
    shapes = weight_shapes(handlers.task_of(context, config.task), config.network)
    return config, weights_from_record(context.state.array_records[ARRAYS], shapes)


HANDLERS: Mapping[str, handlers.Handler] = {
    THRESHOLD: score_training_rows,
    FINAL: evaluate_final,
    BENEFIT: report_benefit,
}
"""Handlers of these messages by message type."""
