"""The settings of a run with their defaults, validated; flags or Flower's run config replace the defaults.

`[tool.flwr.app.config]` in pyproject.toml repeats the defaults for Flower, and a test keeps the two equal.
"""

from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from federated_health import setting_fields as limits
from federated_health.data.task_files import DEFAULT_TASK, TASKS, find_task, read_task_file
from federated_health.data.tasks import Task
from federated_health.errors import SettingsError
from federated_health.ml import load_privacy_plan
from federated_health.ml.networks import FILE, Network, agreement_of, number_of_weights
from federated_health.ml.strategies import STRATEGIES, Arguments, check_strategy, read_arguments, write_arguments
from federated_health.names import (
    DEFAULT_ADDRESS,
    DEFAULT_DATA,
    DEFAULT_WAIT,
    MAX_EPSILON,
    MAX_PENALTY,
    MAX_ROUNDS,
    MAX_WAIT,
    MAX_WEIGHTS,
    SGD,
    read_hidden,
)
from federated_health.setting_fields import OF_TASK, TRAINING, Value, check, coerce, flag_of, setting

if TYPE_CHECKING:
    from federated_health.ml.privacy_plan import PrivacyPlan

OPERATIONAL = frozenset(
    {
        "task-file",
        "network",
        "address",
        "tls",
        "wait",
        "round-timeout",
        "out",
        "resume",
        "force",
        "insecure",
        "verbose",
        "data",
    }
)
"""Settings, spelled with dashes, of where and how a run is carried out; no result depends on them."""

MIN_SECURE_HOSPITALS = 3
"""Smallest number of hospitals in a sum of secure aggregation: of two, each could subtract its own part."""

_of_run = partial(setting, "the run")
_of_training = partial(setting, "training at the hospitals")
_of_averaging = partial(setting, "averaging at the server")
_of_privacy = partial(setting, "privacy")
_of_connection = partial(setting, "connection")
_of_results = partial(setting, "results")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of a run; flags and the run config spell the names with dashes.

    Args:
        declared_task: the task itself, in place of its name or file, for a run in one process.

    Raises:
        SettingsError: a value is of the wrong type or out of range, or contradicts another one.
    """

    task: str = _of_run(DEFAULT_TASK, f"what to predict, the same at every hospital: {', '.join(TASKS)}", unit="NAME")
    task_file: str = _of_run("", "TOML file that declares a task of your own, instead of --task", unit="FILE")
    hospitals: int = _of_run(4, "hospitals to wait for before the first round", unit="N", minimum=1)
    min_hospitals: int = _of_run(
        0,
        "updates that a round needs; with fewer, the round is repeated; 0 means more than half of --hospitals",
        unit="N",
        minimum=0,
    )
    rounds: int = _of_run(
        30,
        "number of rounds; in each, the hospitals train and the server averages their weights",
        unit="N",
        limits=TRAINING["rounds"],
    )
    local_epochs: int = _of_training(
        5, "passes over a hospital's training rows per round", unit="N", limits=TRAINING["local_epochs"]
    )
    batch_size: int = _of_training(
        32, "rows per training step; 0 means all rows of a hospital", unit="ROWS", limits=TRAINING["batch_size"]
    )
    learning_rate: float = _of_training(
        0.05, "learning rate of --optimizer", unit="RATE", limits=TRAINING["learning_rate"]
    )
    optimizer: str = _of_training(
        SGD,
        "optimizer of local training, one of Keras's; sgd is plain stochastic gradient descent; the state of the "
        "others, such as Adam's moments, is local to a round",
        unit="NAME",
        limits=TRAINING["optimizer"],
    )
    l2: float = _of_training(
        0.003,
        "L2 regularisation strength: weight of the squared kernels in the loss",
        unit="WEIGHT",
        limits=TRAINING["l2"],
    )
    class_weight: str = _of_training(
        "none",
        "balanced makes every class count the same in training, by the hospitals' numbers of rows; predicted risks are "
        "then no longer calibrated",
        choices=("none", "balanced"),
    )
    model: str = _of_training(
        "mlp", "the network: mlp has hidden layers, logistic is a logistic regression", limits=TRAINING["model"]
    )
    hidden: str = _of_training(
        "16", "units of each hidden layer of the mlp, such as 32,16", unit="UNITS", limits=TRAINING["hidden"]
    )
    activation: str = _of_training(
        "relu", "activation of the mlp's hidden layers, one of Keras's", unit="NAME", limits=TRAINING["activation"]
    )
    dropout: float = _of_training(
        0.0,
        "share of each hidden layer's units that a training step of the mlp drops",
        unit="SHARE",
        limits=TRAINING["dropout"],
    )
    network: str = _of_training(
        "",
        "Python file that builds a Keras network of your own, instead of --model; every hospital needs the same file; "
        "docs/extending.md explains it",
        unit="FILE",
    )
    strategy: str = _of_averaging(
        "fedavg",
        "how the server combines the hospitals' weights: fedavg weighs each hospital by its rows, average weighs all "
        "the same; docs/settings.md explains the others",
        choices=tuple(STRATEGIES),
        unit="NAME",
    )
    strategy_args: str = _of_averaging(
        "",
        "parameters of --strategy: NAME=VALUE, separated by commas; defaults: "
        + "; ".join(
            f"{name}: {write_arguments(read_arguments(name, ''))}"
            for name, declared in STRATEGIES.items()
            if declared.parameters
        ),
        unit="ARGS",
        shown="those of the strategy",
    )
    appraisal: bool = _of_run(
        True, "at the end, each hospital reports what it gains by joining and how much each column matters"
    )
    seed: int = _of_run(
        42,
        "seed of the initial weights and batches: the same seed gives the same model; hospitals' splits ignore it",
        unit="SEED",
        minimum=0,
    )
    max_update_norm: float = _of_averaging(
        30.0,
        "reject an update whose norm is more than this multiple of the round's median norm",
        unit="TIMES",
        minimum=0,
        maximum=MAX_PENALTY,
        allowed="0 = off, else 1 to 1,000,000",
    )
    max_share: float = _of_averaging(
        1.0,
        "largest share of one hospital in the average, however many rows it declares; 1 means no limit",
        unit="SHARE",
        above=0,
        maximum=1,
    )
    secure_aggregation: bool = _of_privacy(
        False,
        "the server learns the sums over at least 3 hospitals only, never a single hospital's update or figures; needs "
        "--tls",
    )
    dp_epsilon: float = _of_privacy(
        0.0,
        "differential privacy: epsilon of each patient over the whole run; smaller is more private and noisier",
        unit="EPSILON",
        minimum=0,
        maximum=MAX_EPSILON,
        allowed=f"0 = off, else {limits.MIN_EPSILON:g} to {MAX_EPSILON:g}",
    )
    dp_delta: float = _of_privacy(
        1e-5,
        "with differential privacy: probability that the bound epsilon fails; must be below 1 / a hospital's training "
        "rows",
        unit="DELTA",
        minimum=limits.MIN_DELTA,
        maximum=0.5,
    )
    dp_clip: float = _of_privacy(
        0.25,
        "with differential privacy: L2 norm to which each patient's gradient is clipped",
        unit="NORM",
        limits=TRAINING["dp_clip"],
    )
    dp_sampling_rate: float = _of_privacy(
        0.5,
        "with differential privacy: probability that a training step includes a given patient",
        unit="CHANCE",
        limits=TRAINING["dp_sampling_rate"],
    )
    dp_steps: int = _of_privacy(
        1,
        "with differential privacy: training steps per round, instead of --local-epochs",
        unit="N",
        limits=TRAINING["dp_steps"],
    )
    dp_learning_rate: float = _of_privacy(
        3.0,
        "with differential privacy: learning rate, instead of --learning-rate",
        unit="RATE",
        limits=TRAINING["dp_learning_rate"],
    )
    dp_spare_rounds: int = _of_privacy(
        2,
        "with differential privacy: rounds that may be repeated; epsilon covers them, too",
        unit="N",
        minimum=0,
        maximum=MAX_ROUNDS,
    )
    address: str = _of_connection(DEFAULT_ADDRESS, "address on which the server listens", unit="HOST:PORT")
    tls: str = _of_connection(
        "",
        "folder of the server's key and certificate, which `python -m federated_health certificates` makes; without it "
        "messages are not encrypted and peers are not authenticated",
        unit="DIR",
    )
    wait: float = _of_connection(
        DEFAULT_WAIT,
        "seconds to wait for hospitals, at the start and whenever a round has too few; then the run ends",
        unit="SECONDS",
        above=0,
        maximum=MAX_WAIT,
    )
    round_timeout: float = _of_connection(
        600.0,
        "longest time in seconds that a hospital has to answer a message",
        unit="SECONDS",
        above=0,
        maximum=MAX_WAIT,
    )
    out: str = _of_results("", "folder for the run's results", unit="DIR", shown="runs/ with the date and time")
    resume: str = _of_results(
        "",
        "resume the run in this folder after its last completed round; a larger --rounds extends it, even if it is "
        "finished",
        unit="DIR",
    )
    force: bool = _of_results(False, "overwrite the results of an earlier run in --out")
    insecure: bool = _of_connection(False, "allow an --address that other machines can reach, without --tls")
    verbose: bool = _of_results(False, "show debug messages, and the logs of Flower and TensorFlow")
    data: str = _of_results(DEFAULT_DATA, "simulation only: folder of client_1.csv, client_2.csv, ...", unit="DIR")
    declared_task: InitVar[Task | None] = None

    def __post_init__(self, declared_task: Task | None) -> None:
        if declared_task is not None:
            vars(self).update(task=declared_task.name, task_declaration=declared_task)
        for field in fields(self):
            check(field, getattr(self, field.name))
        if self.task_file:
            task = read_task_file(Path(self.task_file))
            if self.task not in (DEFAULT_TASK, task.name):
                raise SettingsError(f"task: expected {task.name}, the task of {self.task_file}, got {self.task!r}")
        task, network = self.task_declaration, self.network_declaration
        object.__setattr__(self, "task", task.name)  # its own, if an alias was given
        if network.model != FILE and (weights := number_of_weights(task, network)) > MAX_WEIGHTS:
            raise SettingsError(f"hidden: expected at most {MAX_WEIGHTS:,} weights in all layers, got {weights:,}")
        local_rate = self.dp_learning_rate if self.dp_epsilon else self.learning_rate
        check_strategy(self.strategy, self.strategy_arguments, self.hospitals, local_rate)
        if self.min_hospitals > self.hospitals:
            raise SettingsError(
                f"min-hospitals: expected at most --hospitals {self.hospitals}, got {self.min_hospitals}"
            )
        if 0 < self.max_update_norm < 1:
            raise SettingsError(f"max-update-norm: expected 0 or at least 1, got {self.max_update_norm!r}")
        is_special = self.class_weight != "none" or self.strategy == "qfedavg" or self.max_share < 1
        if self.secure_aggregation or self.dp_epsilon or is_special:
            from federated_health.setting_conflicts import check_conflicts  # noqa: PLC0415  # of these settings only

            check_conflicts(self)
        if self.resume and self.out and Path(self.out) != Path(self.resume):
            raise SettingsError("out: expected none, or the folder of --resume, where the run continues")

    def check_given(self, flags: Iterable[str]) -> None:
        """Raise SettingsError for flags of differential privacy without --dp-epsilon, where they have no effect."""
        of_privacy = [flag for flag in flags if flag.startswith("dp-") and flag != "dp-epsilon"]
        if of_privacy and not self.dp_epsilon:
            raise SettingsError(
                f"{', '.join(of_privacy)}: no effect without differential privacy; set --dp-epsilon above 0"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Value], declared_task: Task | None = None) -> Self:
        """Settings from names with dashes, such as Flower's run config; an unknown name is an error, too.

        A value of the config wins, then one that the task states, then the default.
        """
        known = {flag_of(setting): setting for setting in fields(cls)}
        if unknown := sorted(set(config) - set(known)):
            raise SettingsError(f"unknown setting {', '.join(unknown)}; known are: {', '.join(known)}")
        given: dict[str, Any] = {
            known[flag].name: coerce(known[flag].metadata["type"], value)
            for flag, value in config.items()
            if value != OF_TASK or known[flag].name not in TRAINING
        }
        for name in ("task", "task-file"):
            check(known[name], given.get(known[name].name, known[name].default))
        file = given.get("task_file")
        task = declared_task or find_task(given.get("task", DEFAULT_TASK), Path(file) if file else None)
        if task.training:
            from federated_health.task_settings import applicable_settings  # noqa: PLC0415  # most tasks state nothing

            given = {**applicable_settings(task, given), **given}
        return cls(**given, declared_task=declared_task)

    @cached_property
    def task_declaration(self) -> Task:
        """The task; a SettingsError if it has no file, and does not come with the package."""
        return find_task(self.task, Path(self.task_file) if self.task_file else None)

    @cached_property
    def network_declaration(self) -> Network:
        """The network.

        Raises:
            SettingsError: settings of it contradict each other.
            NetworkError: its file cannot be read.
        """
        if self.network or self.model != "mlp":
            from federated_health.setting_conflicts import check_network_settings  # noqa: PLC0415  # not for an mlp

            check_network_settings(self)
            if self.network:
                from federated_health.ml.network_file import read_network  # noqa: PLC0415  # only where there is a file

                return read_network(Path(self.network))
            return Network(self.model)
        if not (hidden := read_hidden(self.hidden)):
            raise SettingsError("hidden: expected units of each hidden layer, such as 32,16; --model logistic has none")
        return Network(self.model, hidden, self.activation, self.dropout)

    @property
    def agreement(self) -> dict[str, str]:
        """What every hospital must agree on."""
        return agreement_of(self.task_declaration, self.network_declaration)

    @cached_property
    def strategy_arguments(self) -> Arguments:
        return read_arguments(self.strategy, self.strategy_args)

    def privacy_plan(self, run: str) -> "PrivacyPlan | None":
        """The privacy plan of the run with this identifier; None without differential privacy."""
        if not self.dp_epsilon:
            return None
        names = ("epsilon", "delta", "clip", "sampling_rate", "steps", "learning_rate")
        chosen = {name: getattr(self, f"dp_{name}") for name in names}
        plan: PrivacyPlan = load_privacy_plan().PrivacyPlan(
            **chosen, rounds=self.rounds + self.dp_spare_rounds, run=run
        )
        return plan

    @property
    def min_updates(self) -> int:
        """Smallest number of updates that a round needs, by the settings and the strategy."""
        minimum = self.min_hospitals or self.hospitals // 2 + 1
        return max(minimum, self._strategy_minimum, MIN_SECURE_HOSPITALS if self.secure_aggregation else 0)

    @property
    def min_reason(self) -> str:
        """Why a round needs `min_updates`."""
        if self.min_updates == self._strategy_minimum > 1:
            return f"{self.strategy}: {STRATEGIES[self.strategy].min_reason}"
        if self.secure_aggregation and self.min_updates == MIN_SECURE_HOSPITALS:
            return "--secure-aggregation: from a sum of two, each hospital learns the other's update"
        return "--min-hospitals" if self.min_hospitals else "more than half of --hospitals; see --min-hospitals"

    @cached_property
    def _strategy_minimum(self) -> int:
        return STRATEGIES[self.strategy].min_hospitals(self.strategy_arguments)

    def to_config(self) -> dict[str, Value]:
        """The inverse of `from_config`."""
        return {flag_of(field): getattr(self, field.name) for field in fields(self)}
