"""Strategies by name: what each is for, its parameters, and how many hospitals it needs.

Declarations only, which settings and `--help` read; `server.strategies` makes Flower's strategy of one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from federated_health.errors import SettingsError
from federated_health.names import MAX_PENALTY, PROXIMAL_MU

Arguments = Mapping[str, int | float]
"""Value of every parameter of a strategy, by the parameter's name with dashes."""

WHOLE_NUMBER_LIMIT = 2**31


@dataclass(frozen=True)
class Parameter:
    """A numeric parameter of a strategy; a whole number where its default is one.

    Attributes:
        name: as `--strategy-args` spells it; Flower's keyword is the same with underscores.
        above, below: bounds that the value must not reach; `above` replaces `minimum`.
    """

    name: str
    default: int | float
    meaning: str
    minimum: float = 0
    above: float | None = None
    below: float = math.inf

    @property
    def rule(self) -> str:
        """The values that are allowed."""
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        low = f"of at least {self.minimum:g}" if self.above is None else f"above {self.above:g}"
        return f"{kind} {low}" + (f" and below {self.below:,.12g}" if self.below < WHOLE_NUMBER_LIMIT else "")

    def read(self, text: str) -> int | float:
        """Parse a value; SettingsError if it is not a number, or out of range."""
        try:
            value = type(self.default)(text)
        except ValueError:
            value = math.nan
        is_enough = value >= self.minimum if self.above is None else value > self.above
        if not (is_enough and value < self.below):
            raise SettingsError(f"strategy-args: {self.name}: expected {self.rule}, got {text!r}")
        return value


@dataclass(frozen=True)
class StrategyDeclaration:
    """A strategy as a user chooses it.

    Attributes:
        meaning: what it does, in a line, with its source.
        equal_weights: whether every hospital counts the same, rather than by its training rows.
        min_hospitals: smallest number of hospitals that must send an update in each round.
        min_reason: why it needs that number.
        needs_mean_only: whether it depends on the weighted mean of the updates only, not on single ones.
        needs_loss: whether it depends on each hospital's training loss.
        extrapolates: whether its weights can lie outside the range of the updates.
    """

    meaning: str
    parameters: tuple[Parameter, ...] = ()
    equal_weights: bool = False
    min_hospitals: Callable[[Arguments], int] = lambda _: 1
    min_reason: str = ""
    needs_mean_only: bool = False
    needs_loss: bool = False
    extrapolates: bool = False


def _min_to_trim(arguments: Arguments) -> int:
    """Smallest number of hospitals of which Flower's rounding trims one at either end."""
    hospitals = math.ceil(1 / arguments["beta"])
    return hospitals if int(arguments["beta"] * hospitals) else hospitals + 1


def _min_to_outvote(factor: int, arguments: Arguments) -> int:
    return factor * int(arguments["num-malicious-nodes"]) + 3


def _eta(default: float) -> Parameter:
    return Parameter("eta", default, "the server's step size", above=0)


TAU = Parameter("tau", 0.001, "added to the divisor; large is less adaptive", above=0)
BETA_1 = Parameter("beta-1", 0.9, "memory of the mean change", below=1)
BETA_2 = Parameter("beta-2", 0.99, "memory of the squared change", below=1)
MALICIOUS = Parameter("num-malicious-nodes", 0, "hospitals that may lie", below=WHOLE_NUMBER_LIMIT)

STRATEGIES: Mapping[str, StrategyDeclaration] = {
    "fedavg": StrategyDeclaration("mean weighted by training rows (McMahan et al. 2017)", needs_mean_only=True),
    "average": StrategyDeclaration(
        "plain mean: every hospital counts the same", equal_weights=True, needs_mean_only=True
    ),
    "fedprox": StrategyDeclaration(
        "fedavg; local training is held near the round's weights (Li et al. 2020, MLSys)",
        (
            Parameter(
                PROXIMAL_MU, 0.1, "weight of half the squared distance; at most 1 / learning-rate", below=MAX_PENALTY
            ),
        ),
        needs_mean_only=True,
    ),
    "fedavgm": StrategyDeclaration(
        "fedavg with momentum at the server (Hsu et al. 2019)",
        (
            Parameter("server-learning-rate", 1.0, "the server's step size", above=0),
            Parameter("server-momentum", 0.3, "memory of earlier changes", below=1),
        ),
        needs_mean_only=True,
        extrapolates=True,
    ),
    "fedadam": StrategyDeclaration(
        "the mean change as the gradient of Adam at the server (Reddi et al. 2021)",
        (_eta(0.02), BETA_1, BETA_2, TAU),
        needs_mean_only=True,
        extrapolates=True,
    ),
    "fedyogi": StrategyDeclaration(
        "the same with Yogi (Reddi et al. 2021)",
        (_eta(0.01), BETA_1, BETA_2, TAU),
        needs_mean_only=True,
        extrapolates=True,
    ),
    "fedadagrad": StrategyDeclaration(
        "the same with Adagrad (Reddi et al. 2021)", (_eta(0.03), TAU), needs_mean_only=True, extrapolates=True
    ),
    "fedmedian": StrategyDeclaration(
        "median of each weight (Yin et al. 2018)",
        equal_weights=True,
        min_hospitals=lambda _: 3,
        min_reason="the median of fewer is their mean",
    ),
    "trimmed": StrategyDeclaration(
        "mean of each weight without its extremes (Yin et al. 2018)",
        (Parameter("beta", 0.34, "share cut at either end", minimum=0.001, below=0.5),),
        equal_weights=True,
        min_hospitals=_min_to_trim,
        min_reason="1 / beta, since of fewer none would be cut",
    ),
    "krum": StrategyDeclaration(
        "the update that is nearest to its neighbours (Blanchard et al. 2017)",
        (MALICIOUS,),
        equal_weights=True,
        min_hospitals=partial(_min_to_outvote, 2),
        min_reason="2 * num-malicious-nodes + 3, as its proof requires",
    ),
    "multikrum": StrategyDeclaration(
        "plain mean of the updates that are nearest to their neighbours (Blanchard et al. 2017)",
        (MALICIOUS, Parameter("num-nodes-to-select", 3, "updates to average", minimum=1, below=WHOLE_NUMBER_LIMIT)),
        equal_weights=True,
        min_hospitals=lambda arguments: max(
            _min_to_outvote(2, arguments), int(arguments[MALICIOUS.name] + arguments["num-nodes-to-select"])
        ),
        min_reason="2 * num-malicious-nodes + 3, as its proof requires, and num-nodes-to-select that do not lie",
    ),
    "bulyan": StrategyDeclaration(
        "krum's selection, then of each weight the mean of those nearest the median (El Mhamdi et al. 2018); the plain "
        "mean where none may lie",
        (MALICIOUS,),
        equal_weights=True,
        min_hospitals=partial(_min_to_outvote, 4),
        min_reason="4 * num-malicious-nodes + 3, as its proof requires",
    ),
    "qfedavg": StrategyDeclaration(
        "hospitals with a greater training loss weigh more (Li et al. 2020, ICLR)",
        (Parameter("q", 0.1, "how much more; 0 is the plain mean"),),
        equal_weights=True,
        needs_loss=True,
        extrapolates=True,
    ),
}


def read_arguments(strategy: str, text: str) -> Arguments:
    """Value of every parameter of a strategy: as given in `NAME=VALUE,NAME=VALUE`, or its default.

    Raises:
        SettingsError: the text is not of this form, a parameter is unknown or given twice, or a value is not allowed.
    """
    known = {parameter.name: parameter for parameter in STRATEGIES[strategy].parameters}
    given: dict[str, int | float] = {}
    for part in text.split(",") if text.strip() else []:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not known:
            raise SettingsError(f"strategy-args: {strategy} has no parameters, got {text!r}")
        if not equals:
            raise SettingsError(f"strategy-args: expected NAME=VALUE between commas, got {part!r}")
        if name not in known:
            raise SettingsError(f"strategy-args: {strategy} has no {name!r}; known are: {', '.join(known)}")
        if name in given:
            raise SettingsError(f"strategy-args: {name} is given twice")
        given[name] = known[name].read(value)
    return {name: given.get(name, parameter.default) for name, parameter in known.items()}


def write_arguments(arguments: Arguments) -> str:
    """The inverse of `read_arguments`."""
    return ",".join(f"{name}={value}" for name, value in arguments.items())


def check_strategy(strategy: str, arguments: Arguments, hospitals: int, learning_rate: float) -> None:
    """Raise SettingsError if a strategy needs more hospitals, or steps of this size overshoot its proximal term."""
    declared = STRATEGIES[strategy]
    if hospitals < (least := declared.min_hospitals(arguments)):
        which = f"{strategy} with {write_arguments(arguments)}" if arguments else strategy
        raise SettingsError(f"hospitals: {which} needs at least {least} ({declared.min_reason}), got {hospitals}")
    if (pull := arguments.get(PROXIMAL_MU, 0.0)) * learning_rate > 1:
        raise SettingsError(
            f"strategy-args: {PROXIMAL_MU}: expected at most 1 / learning-rate = {1 / learning_rate:g}, beyond which a "
            f"step overshoots the round's weights, got {pull:g}"
        )
