"""Names -> Flower strategies: what each is for, its parameters, and how many hospitals it needs."""

import math
from collections.abc import Mapping
from functools import partial

from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
)

from federated_health.errors import SettingsError
from federated_health.messages.content import PROXIMAL_MU, TRAIN_LOSS
from federated_health.server.corrections import CorrectedFedAdam, ExactBulyan, ExactMultiKrum, QuickQFedAvg
from federated_health.server.replies import EQUAL_WEIGHT
from federated_health.server.strategy_declaration import LARGEST, Arguments, Parameter, StrategyDeclaration


def _min_to_trim(arguments: Arguments) -> int:
    """The fewest of whom Flower's own rounding cuts one at either end."""
    hospitals = math.ceil(1 / arguments["beta"])
    return hospitals if int(arguments["beta"] * hospitals) else hospitals + 1


def _eta(default: float) -> Parameter:
    return Parameter(name="eta", default=default, meaning="the server's step size", above=0)


TAU = Parameter(name="tau", default=0.001, meaning="added to the divisor; large is less adaptive", above=0)
BETA_1 = Parameter(name="beta-1", default=0.9, meaning="memory of the mean change", minimum=0, below=1)
BETA_2 = Parameter(name="beta-2", default=0.99, meaning="memory of the squared change", minimum=0, below=1)
MALICIOUS = Parameter(name="num-malicious-nodes", default=0, meaning="hospitals that may lie", minimum=0, below=LARGEST)

STRATEGIES: Mapping[str, StrategyDeclaration] = {
    "fedavg": StrategyDeclaration(
        meaning="mean weighted by training rows (McMahan et al. 2017)", flower=FedAvg, is_mean=True
    ),
    "average": StrategyDeclaration(
        meaning="plain mean: every hospital counts the same", flower=FedAvg, weighted_by=EQUAL_WEIGHT, is_mean=True
    ),
    "fedprox": StrategyDeclaration(
        meaning="fedavg; local training is held near the round's weights (Li et al. 2020, MLSys)",
        flower=FedProx,
        is_mean=True,
        parameters=(
            Parameter(
                name=PROXIMAL_MU,
                default=0.1,
                meaning="weight of half the squared distance; at most 1 / learning-rate",
                minimum=0,
            ),
        ),
    ),
    "fedavgm": StrategyDeclaration(
        meaning="fedavg with momentum at the server (Hsu et al. 2019)",
        flower=FedAvgM,
        parameters=(
            Parameter(name="server-learning-rate", default=1.0, meaning="the server's step size", above=0),
            Parameter(name="server-momentum", default=0.3, meaning="memory of earlier changes", minimum=0, below=1),
        ),
        state={"momentum_vector": list},
    ),
    "fedadam": StrategyDeclaration(
        meaning="the mean change as the gradient of Adam at the server (Reddi et al. 2021)",
        flower=CorrectedFedAdam,
        parameters=(_eta(0.02), BETA_1, BETA_2, TAU),
        state={"m_t": dict, "v_t": dict},
    ),
    "fedyogi": StrategyDeclaration(
        meaning="the same of Yogi (Reddi et al. 2021)",
        flower=FedYogi,
        parameters=(_eta(0.01), BETA_1, BETA_2, TAU),
        state={"m_t": dict, "v_t": dict},
    ),
    "fedadagrad": StrategyDeclaration(
        meaning="the same of Adagrad (Reddi et al. 2021)",
        flower=FedAdagrad,
        parameters=(_eta(0.03), TAU),
        state={"v_t": dict},
    ),
    "fedmedian": StrategyDeclaration(
        meaning="median of each weight (Yin et al. 2018)",
        flower=FedMedian,
        weighted_by=EQUAL_WEIGHT,
        min_hospitals_needed=lambda _: 3,
        min_reason="the median of fewer is their mean",
    ),
    "trimmed": StrategyDeclaration(
        meaning="mean of each weight without its extremes (Yin et al. 2018)",
        flower=FedTrimmedAvg,
        weighted_by=EQUAL_WEIGHT,
        parameters=(Parameter(name="beta", default=0.34, meaning="share cut at either end", minimum=0.001, below=0.5),),
        min_hospitals_needed=_min_to_trim,
        min_reason="1 / beta, since of fewer none would be cut",
    ),
    "krum": StrategyDeclaration(
        meaning="the update that is nearest to its neighbours (Blanchard et al. 2017)",
        flower=partial(ExactMultiKrum, num_nodes_to_select=1),
        weighted_by=EQUAL_WEIGHT,
        parameters=(MALICIOUS,),
        min_hospitals_needed=lambda arguments: 2 * int(arguments[MALICIOUS.name]) + 3,
        min_reason="2 * num-malicious-nodes + 3, as its proof requires",
    ),
    "multikrum": StrategyDeclaration(
        meaning="plain mean of the updates that are nearest to their neighbours (Blanchard et al. 2017)",
        flower=ExactMultiKrum,
        weighted_by=EQUAL_WEIGHT,
        parameters=(
            MALICIOUS,
            Parameter(name="num-nodes-to-select", default=3, meaning="updates to average", minimum=1, below=LARGEST),
        ),
        min_hospitals_needed=lambda arguments: max(
            2 * int(arguments[MALICIOUS.name]) + 3,
            int(arguments[MALICIOUS.name]) + int(arguments["num-nodes-to-select"]),
        ),
        min_reason="2 * num-malicious-nodes + 3, as its proof requires, and num-nodes-to-select that do not lie",
    ),
    "bulyan": StrategyDeclaration(
        meaning="krum's selection, then of each weight the mean of those nearest the median (El Mhamdi et al. 2018); "
        "the plain mean where none may lie",
        flower=ExactBulyan,
        weighted_by=EQUAL_WEIGHT,
        parameters=(MALICIOUS,),
        min_hospitals_needed=lambda arguments: 4 * int(arguments[MALICIOUS.name]) + 3,
        min_reason="4 * num-malicious-nodes + 3, as its proof requires",
    ),
    "qfedavg": StrategyDeclaration(
        meaning="hospitals with a greater training loss weigh more (Li et al. 2020, ICLR)",
        flower=partial(QuickQFedAvg, train_loss_key=TRAIN_LOSS),
        weighted_by=EQUAL_WEIGHT,
        parameters=(Parameter(name="q", default=0.1, meaning="how much more; 0 is the plain mean", minimum=0),),
        local_rate="client_learning_rate",
        needs_loss=True,
    ),
}


def read_arguments(strategy: str, text: str) -> Arguments:
    """Every parameter of a strategy: as given in `NAME=VALUE,NAME=VALUE`, else its default.

    Raises:
        SettingsError: the text is not of this form, or names a parameter twice or one that the strategy has not, or a
            value is not allowed.
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
    """Refuse what cannot work.

    Raises:
        SettingsError: the strategy needs more hospitals, or local steps of this size overshoot its proximal term.
    """
    declared = STRATEGIES[strategy]
    if hospitals < (least := declared.min_hospitals_needed(arguments)):
        which = f"{strategy} with {write_arguments(arguments)}" if arguments else strategy
        raise SettingsError(f"hospitals: {which} needs at least {least} ({declared.min_reason}), got {hospitals}")
    if (pull := arguments.get(PROXIMAL_MU, 0.0)) * learning_rate > 1:
        raise SettingsError(
            f"strategy-args: {PROXIMAL_MU}: expected at most 1 / learning-rate = {1 / learning_rate:g}, beyond which a "
            f"step overshoots the round's weights, got {pull:g}"
        )
