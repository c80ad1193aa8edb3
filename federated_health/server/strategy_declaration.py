"""What a strategy is to this project: its parameters, how Flower's is made of them, and what it remembers."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from federated_health.errors import CheckpointError, SettingsError
from federated_health.messages.content import ARRAYS, CONFIG, NUM_EXAMPLES
from federated_health.server.replies import merge_evaluations

Arguments = Mapping[str, int | float]
"""Name with dashes -> value of every parameter of a strategy."""

State = Mapping[str, npt.NDArray[Any]]
"""ATTRIBUTE/WEIGHTS -> array: what a strategy remembers from one round to the next."""

LARGEST = 2**31
"""Above any whole number."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A number that a strategy takes; whole where its default is.

    Attributes:
        name: with dashes; with _ for -, Flower's own.
        minimum, above: the least value, or what is too little.
        below: what is too much.
    """

    name: str
    default: int | float
    meaning: str
    minimum: float | None = None
    above: float | None = None
    below: float = math.inf

    @property
    def rule(self) -> str:
        """What it must be, in words."""
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        low = f"above {self.above:g}" if self.above is not None else f"of at least {self.minimum:g}"
        return f"{kind} {low}" + (f" and below {self.below:g}" if self.below < LARGEST else "")

    def read(self, text: str) -> int | float:
        """The value that a text stands for.

        Raises:
            SettingsError: it stands for none that is allowed.
        """
        try:
            value = type(self.default)(text)
        except ValueError:
            value = math.nan
        enough = value > self.above if self.above is not None else value >= (self.minimum or 0)
        if not (enough and value < self.below):
            raise SettingsError(f"strategy-args: {self.name}: expected {self.rule}, got {text!r}")
        return value


@dataclass(frozen=True, kw_only=True)
class StrategyDeclaration:
    """What a user may choose, and what Flower makes of it.

    Attributes:
        meaning: in a line, with its source.
        flower: the class, called with Flower's keywords.
        weighted_by: the metric that weighs a hospital where the strategy averages: its rows, or the same for all.
        min_hospitals_needed: so many must take part, and send an update each round.
        min_reason: why, in words.
        is_mean: whether it gives the mean of the updates and no more, so that updates may be added unread.
        needs_loss: whether its average depends on each hospital's training loss.
        local_rate: the keyword under which Flower asks for the step size of local training, where it does.
        state: attributes in which Flower's strategy remembers something of earlier rounds that a later one depends on,
            and whether it does so by name or in the weights' order. Where an attribute is none of these, either
            configure_train sets it anew in every round, or (fedavgm's current_arrays) it equals the round's weights, or
            (fedadagrad's m_t, since its beta-1 is 0) nothing depends on what was in it.
    """

    meaning: str
    flower: Callable[..., Strategy]
    weighted_by: str = NUM_EXAMPLES
    parameters: tuple[Parameter, ...] = ()
    min_hospitals_needed: Callable[[Arguments], int] = lambda _: 1
    min_reason: str = ""
    is_mean: bool = False
    local_rate: str | None = None
    needs_loss: bool = False
    state: Mapping[str, type[dict[str, Any]] | type[list[Any]]] = field(default_factory=dict)

    def build(self, arguments: Arguments, learning_rate: float) -> Strategy:
        """Flower's strategy, with every argument (see `read_arguments`) and the step size of local training."""
        own: dict[str, Any] = {name.replace("-", "_"): value for name, value in arguments.items()}
        if self.local_rate is not None:
            own[self.local_rate] = learning_rate
        return self.flower(
            # Who takes part is the federation's to decide (see `NodeSample`). For a larger minimum Flower waits
            # without end.
            min_train_nodes=1,
            min_evaluate_nodes=1,
            min_available_nodes=1,
            weighted_by_key=self.weighted_by,
            arrayrecord_key=ARRAYS,
            configrecord_key=CONFIG,
            train_metrics_aggr_fn=_keep_no_metrics,
            evaluate_metrics_aggr_fn=merge_evaluations,
            **own,
        )

    def read_state(self, strategy: Strategy, names: Iterable[str]) -> State:
        """A copy of what a strategy that `build` made remembers; empty before its first round.

        Args:
            names: of the weights, in their order.
        """
        names = list(names)
        state: dict[str, npt.NDArray[Any]] = {}
        for attribute in self.state:
            kept = getattr(strategy, attribute)
            if kept is not None:
                arrays = kept if isinstance(kept, Mapping) else dict(zip(names, kept, strict=True))
                state |= {f"{attribute}/{name}": np.array(arrays[name]) for name in names}
        return state

    def write_state(self, strategy: Strategy, state: State, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make a new strategy that `build` made remember a state, as if it had lived through the rounds that led to it.

        Args:
            state: of `read_state`.
            shapes: of the weights, in their order.

        Raises:
            CheckpointError: the state is not of such a strategy or of such weights.
        """
        expected = {f"{attribute}/{name}": shape for attribute in self.state for name, shape in shapes.items()}
        if state and {name: array.shape for name, array in state.items()} != expected:
            raise CheckpointError("what the strategy should remember is not of this strategy and model")
        for attribute, form in self.state.items() if state else ():
            arrays = {name: np.array(state[f"{attribute}/{name}"]) for name in shapes}
            setattr(strategy, attribute, arrays if form is dict else list(arrays.values()))


def _keep_no_metrics(_contents: list[RecordDict], _weighted_by: str) -> MetricRecord:
    """Flower's hook for the metrics of updates, which nobody here looks at: its own takes longer than the average."""
    return MetricRecord()
