"""Flower's strategies, made by name, and the weighted mean, in less time than Flower takes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from federated_health.messages.content import ARRAYS, CONFIG, EQUAL_WEIGHT, NUM_EXAMPLES
from federated_health.messages.records import METRICS, blocks, elements_of, weights_to_record
from federated_health.ml.strategies import STRATEGIES
from federated_health.server.replies import drop_metrics, merge_evaluations
from federated_health.settings import Settings

Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


class QuickFedAvg(flower.FedAvg):
    """FedAvg with the same bits, without arrays of intermediate results and bytes of the mean.

    Flower 1.39 takes three times as long.
    """

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:  # noqa: ARG002  # Flower's
        contents = [reply.content for reply in replies]
        if not contents:
            return None, None
        return average(contents, self.weighted_by_key), self.train_metrics_aggr_fn(contents, self.weighted_by_key)


class QuickFedProx(flower.FedProx, QuickFedAvg):
    """FedProx, which averages as FedAvg does."""


def average(contents: Sequence[RecordDict], weighted_by: str) -> ArrayRecord:
    """The mean of updates' arrays, weighted by a metric: products are added in float32, in the order of the updates."""
    # Flower's views (`array_records`) are reference cycles that would keep the arrays until a garbage collection.
    amounts = [cast(float, cast(MetricRecord, content[METRICS])[weighted_by]) for content in contents]
    shares = [amount / sum(amounts) for amount in amounts]
    records = [cast(ArrayRecord, content[ARRAYS]) for content in contents]
    mean = {}
    for name in records[0]:
        arrays = [elements_of(record[name]) for record in records]
        mean[name] = np.empty_like(arrays[0])
        for total, first, *others in blocks(mean[name], *arrays):
            np.multiply(first, shares[0], out=total)
            for other, share in zip(others, shares[1:], strict=True):
                total += other * share
    return weights_to_record(mean)


MEANS: Mapping[str, Callable[..., flower.Strategy]] = {
    "fedavg": QuickFedAvg,
    "average": QuickFedAvg,
    "fedprox": QuickFedProx,
}
"""Classes of weighted means, by the names of `ml.strategies.STRATEGIES`; they keep no state."""


def make_strategy(settings: Settings) -> flower.Strategy:
    """The settings' strategy, one of Flower's; FedAvg by default."""
    name, arguments = settings.strategy, settings.strategy_arguments
    keywords: dict[str, Any] = {parameter.replace("-", "_"): value for parameter, value in arguments.items()}
    if name == "qfedavg":
        keywords["client_learning_rate"] = settings.learning_rate
    classes = MEANS
    if name not in MEANS:
        from federated_health.server.flower_strategies import FLOWER_STRATEGIES  # noqa: PLC0415  # a mean needs none

        classes = FLOWER_STRATEGIES
    return classes[name](
        # The run decides who takes part (see `replies.grid_of`); Flower would wait forever for a larger minimum.
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        weighted_by_key=EQUAL_WEIGHT if STRATEGIES[name].equal_weights else NUM_EXAMPLES,
        arrayrecord_key=ARRAYS,
        configrecord_key=CONFIG,
        train_metrics_aggr_fn=drop_metrics,
        evaluate_metrics_aggr_fn=merge_evaluations,
        **keywords,
    )
