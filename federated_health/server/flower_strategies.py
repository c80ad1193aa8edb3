"""Flower's strategies other than weighted means, and the state that they keep from one round to the next.

Some of Flower's classes are subclassed here, to correct them or to save time per round; each says why.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import strategy as flower

from federated_health.errors import CheckpointError
from federated_health.messages.content import ARRAYS, TRAIN_LOSS
from federated_health.server.checkpoint import State
from federated_health.server.strategies import Aggregate


class CorrectedFedAdam(flower.FedAdam):
    """FedAdam whose bias correction counts rounds from 1, as Kingma and Ba (2015) do.

    Flower 1.39 raises the betas to the power of the round plus one, so that the first step is a quarter too short.
    """

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        return super().aggregate_train(server_round - 1, replies)


class ExactMultiKrum(flower.MultiKrum):
    """Multi-Krum by exact distances (see `rank_by_krum`)."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        replies = list(replies)
        best = rank_by_krum([reply.content for reply in replies], self.num_malicious_nodes)
        return flower.FedAvg.aggregate_train(self, server_round, [replies[i] for i in best[: self.num_nodes_to_select]])


class QuickArrays(ArrayRecord):
    """Arrays that are read without a garbage collection.

    Flower 1.39's `to_numpy_ndarrays` runs one when it does not keep its input. Bulyan and q-FedAvg call it for every
    reply, which costs seconds per round with TensorFlow in the process.
    """

    def to_numpy_ndarrays(self, *, keep_input: bool = True) -> list[npt.NDArray[Any]]:  # noqa: ARG002  # Flower's
        return super().to_numpy_ndarrays()


class QuickQFedAvg(flower.QFedAvg):
    """q-FedAvg without garbage collections (see `QuickArrays`)."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        assert self.current_arrays is not None, "configure_train comes first"
        self.current_arrays = _quick_arrays(self.current_arrays)
        return super().aggregate_train(server_round, _quicken(replies))


class QuickBulyan(flower.Bulyan):
    """Bulyan without garbage collections (see `QuickArrays`)."""

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
    for i, vector in enumerate(vectors):
        distances = sorted(float(((vector - other) ** 2).sum()) for j, other in enumerate(vectors) if j != i)
        scores.append(sum(distances[:nearest]))
    return sorted(range(len(vectors)), key=scores.__getitem__)


def _quicken(replies: Iterable[Message]) -> list[Message]:
    replies = list(replies)
    for reply in replies:
        reply.content[ARRAYS] = _quick_arrays(reply.content.array_records[ARRAYS])
    return replies


def _quick_arrays(record: ArrayRecord) -> QuickArrays:
    arrays = QuickArrays()  # its constructor would make bytes
    arrays.update(record)
    return arrays


def _select_by_krum(contents: list[RecordDict], malicious: int, number: int) -> list[RecordDict]:
    return [contents[i] for i in rank_by_krum(contents, malicious)[:number]]


FLOWER_STRATEGIES: Mapping[str, Callable[..., flower.Strategy]] = {
    "fedavgm": flower.FedAvgM,
    "fedadam": CorrectedFedAdam,
    "fedyogi": flower.FedYogi,
    "fedadagrad": flower.FedAdagrad,
    "fedmedian": flower.FedMedian,
    "trimmed": flower.FedTrimmedAvg,
    "krum": partial(ExactMultiKrum, num_nodes_to_select=1),
    "multikrum": ExactMultiKrum,
    "bulyan": partial(QuickBulyan, selection_rule=_select_by_krum),
    "qfedavg": partial(QuickQFedAvg, train_loss_key=TRAIN_LOSS),
}
"""Classes, called with Flower's keywords, by the names of `ml.strategies.STRATEGIES`."""


STATE_ATTRIBUTES: Mapping[str, Mapping[str, type[dict[str, Any]] | type[list[Any]]]] = {
    "fedavgm": {"momentum_vector": list},
    "fedadam": {"m_t": dict, "v_t": dict},
    "fedyogi": {"m_t": dict, "v_t": dict},
    "fedadagrad": {"v_t": dict},
}
"""Attributes of Flower's strategies on which a later round depends: a dict by weights' names, or a list in their order.

Other attributes need not be kept: `configure_train` sets them anew in every round, or (fedavgm's `current_arrays`) they
equal the round's weights, or (fedadagrad's `m_t`, since its beta-1 is 0) nothing depends on them.
"""


def read_state(name: str, strategy: flower.Strategy, weight_names: Collection[str]) -> State:
    """A copy of a strategy's state; empty before its first round. `weight_names` are in the order of the weights."""
    state: dict[str, npt.NDArray[Any]] = {}
    for attribute, form in STATE_ATTRIBUTES.get(name, {}).items():
        value = getattr(strategy, attribute)
        if value is not None:
            arrays = value if form is dict else dict(zip(weight_names, value, strict=True))
            state |= {f"{attribute}/{weight}": np.array(arrays[weight]) for weight in weight_names}
    return state


def write_state(name: str, strategy: flower.Strategy, state: State, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give a new strategy the state that `read_state` read, as if it had aggregated the same rounds.

    Raises:
        CheckpointError: the state does not fit this strategy or these weights.
    """
    attributes = STATE_ATTRIBUTES.get(name, {})
    expected = {f"{attribute}/{weight}": shape for attribute in attributes for weight, shape in shapes.items()}
    if state and {key: array.shape for key, array in state.items()} != expected:
        raise CheckpointError(f"the strategy's state in the checkpoint does not fit {name} and this network")
    for attribute, form in attributes.items() if state else ():
        arrays = {weight: np.array(state[f"{attribute}/{weight}"]) for weight in shapes}
        setattr(strategy, attribute, arrays if form is dict else list(arrays.values()))
