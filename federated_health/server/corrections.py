"""Flower's strategies where what they compute, or how, would not do here; each with the reason."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedAdam, FedAvg, MultiKrum, QFedAvg

from federated_health.messages.content import ARRAYS

Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


class CorrectedFedAdam(FedAdam):
    """FedAdam whose bias correction counts rounds from 1, as Kingma and Ba (2015) do.

    Flower 1.39 raises the betas to the power of the round plus one, so that the first step is a quarter too short.
    """

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        return super().aggregate_train(server_round - 1, replies)


class ExactMultiKrum(MultiKrum):
    """Multi-Krum by exact distances (see `rank_by_krum`)."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        replies = list(replies)
        best = rank_by_krum([reply.content for reply in replies], self.num_malicious_nodes)
        return FedAvg.aggregate_train(self, server_round, [replies[i] for i in best[: self.num_nodes_to_select]])


class QuickArrays(ArrayRecord):
    """Arrays that are read without more ado.

    Flower 1.39's `to_numpy_ndarrays` collects the garbage of the whole process when it does not keep its input, so that
    Bulyan and q-FedAvg do so for every reply: with TensorFlow in the process these are seconds a round.
    """

    def to_numpy_ndarrays(self, *, keep_input: bool = True) -> list[npt.NDArray[Any]]:  # noqa: ARG002  # Flower's
        return super().to_numpy_ndarrays()


class QuickQFedAvg(QFedAvg):
    """q-FedAvg without collections of garbage (see `QuickArrays`)."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        assert self.current_arrays is not None, "configure_train comes first"
        self.current_arrays = QuickArrays(dict(self.current_arrays))
        return super().aggregate_train(server_round, _quicken(replies))


class ExactBulyan(Bulyan):
    """Bulyan that selects by exact distances (see `rank_by_krum`), without collections of garbage."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, selection_rule=_select_by_krum)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        return super().aggregate_train(server_round, _quicken(replies))


def rank_by_krum(contents: Sequence[RecordDict], malicious: int) -> list[int]:
    """Positions of updates, the best Krum score first; of equal scores the earlier one.

    A score is the sum of the squared distances to the n - malicious - 2 nearest others (Blanchard et al. 2017). The
    distances are of differences, in float64: Flower 1.39 takes |x|^2 + |y|^2 - 2xy in float32, which is rounding error
    where the weights of a round are close to each other.
    """
    vectors = [
        np.concatenate([array.numpy().ravel() for array in content.array_records[ARRAYS].values()]).astype(np.float64)
        for content in contents
    ]
    nearest = max(1, len(vectors) - malicious - 2)
    scores = []
    for i, one in enumerate(vectors):
        distances = sorted(float(((one - other) ** 2).sum()) for j, other in enumerate(vectors) if j != i)
        scores.append(sum(distances[:nearest]))
    return sorted(range(len(vectors)), key=scores.__getitem__)


def _quicken(replies: Iterable[Message]) -> list[Message]:
    replies = list(replies)
    for reply in replies:
        reply.content[ARRAYS] = QuickArrays(dict(reply.content.array_records[ARRAYS]))
    return replies


def _select_by_krum(contents: list[RecordDict], malicious: int, number: int) -> list[RecordDict]:
    return [contents[i] for i in rank_by_krum(contents, malicious)[:number]]
