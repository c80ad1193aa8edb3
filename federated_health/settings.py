"""One frozen, validated set of settings: [tool.flwr.app.config] in pyproject.toml, then flags or run config."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from federated_health.errors import SettingsError
from federated_health.model import MODELS
from federated_health.privacy.plan import (
    LARGEST_CLIP,
    LARGEST_EPSILON,
    MOST_STEPS,
    SMALLEST_CLIP,
    SMALLEST_DELTA,
    SMALLEST_EPSILON,
    SMALLEST_RATE,
    PrivacyPlan,
)
from federated_health.strategies import STRATEGIES, Arguments, check_strategy, read_arguments, write_arguments
from federated_health.tasks import TASKS, Task, get_task

PROJECT_FILE = Path(__file__).resolve().parent.parent / "pyproject.toml"

OPERATIONAL = frozenset(
    {"address", "tls", "wait", "round-timeout", "out", "resume", "force", "insecure", "verbose", "data"}
)
"""Settings, with dashes, that say where and how a run is carried out; no result depends on them."""

LEAST_ENCRYPTED = 3
"""Hospitals of whom a sum is given to each of them: with one less, each could take its own part away from it."""

OF_A_FEDERATION = OPERATIONAL | {"task", "hospitals", "min-hospitals", "max-update-norm", "appraisal", "encrypt"}
"""Settings, with dashes, that a study or an audit of many federations sets itself, or has no use for."""

LARGEST = 2**31 - 1
"""Of any whole number."""

LONGEST = 1e7
"""Seconds of any wait; some clocks end before their numbers do."""

Value = str | int | float | bool


def _setting(
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    rules = {"minimum": minimum, "above": above, "maximum": maximum, "choices": choices}
    return field(metadata={"help": help, **rules})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of a run. Names are the flags' and the run config's, with _ for -.

    Raises:
        SettingsError: a value is of the wrong type or out of range, or does not go with another one.
    """

    task: str = _setting("what is predicted", choices=tuple(TASKS))
    hospitals: int = _setting("hospitals to wait for before the first round", minimum=1)
    min_hospitals: int = _setting(
        "updates below which a round is repeated, not averaged; 0 for more than half of --hospitals", minimum=0
    )
    rounds: int = _setting("rounds of training and averaging", minimum=1)
    local_epochs: int = _setting("passes over its rows that a hospital makes in a round", minimum=1)
    batch_size: int = _setting("rows in a step of local training; 0 takes all rows in one step", minimum=0)
    learning_rate: float = _setting("step size of local stochastic gradient descent", above=0)
    l2: float = _setting("weight of the squared kernels in the local loss", minimum=0)
    model: str = _setting("mlp (one hidden layer) or logistic (regression)", choices=MODELS)
    strategy: str = _setting(
        "how the hospitals' weights become one: fedavg weighs them by rows; the README's table says what the others do",
        choices=tuple(STRATEGIES),
    )
    strategy_args: str = _setting(
        "parameters of --strategy, NAME=VALUE between commas; empty for its defaults, which are "
        + "; ".join(
            f"{name}: {write_arguments(read_arguments(name, ''))}"
            for name, declared in STRATEGIES.items()
            if declared.parameters
        )
    )
    appraisal: bool = _setting("at the end each hospital says what joining gave it, and how much each column weighs")
    seed: int = _setting("seed of initial weights and of batches; it does not move any hospital's split", minimum=0)
    max_update_norm: float = _setting(
        "an update is rejected that moves the weights more than so many times as far as the round's median; 0 for any",
        minimum=0,
    )
    encrypt: bool = _setting(
        "the server adds encrypted updates, and only the hospitals can read the sums; needs --tls and three hospitals"
    )
    dp_epsilon: float = _setting(
        "differential privacy of every training patient over the whole run, see the README; 0 for none",
        minimum=0,
        maximum=LARGEST_EPSILON,
    )
    dp_delta: float = _setting(
        "delta of differential privacy, which must be below 1 / a hospital's training rows",
        minimum=SMALLEST_DELTA,
        maximum=0.5,
    )
    dp_clip: float = _setting(
        "under differential privacy, the L2 norm to which each patient's gradient is clipped",
        minimum=SMALLEST_CLIP,
        maximum=LARGEST_CLIP,
    )
    dp_sampling_rate: float = _setting(
        "under differential privacy, the chance of each patient to be in a step", minimum=SMALLEST_RATE, maximum=1
    )
    dp_steps: int = _setting(
        "under differential privacy, steps of local training in a round, in place of --local-epochs", minimum=1
    )
    dp_learning_rate: float = _setting(
        "under differential privacy, the size of these steps, in place of --learning-rate", above=0
    )
    dp_spare_rounds: int = _setting(
        "under differential privacy, rounds that may be repeated within the same epsilon", minimum=0
    )
    address: str = _setting("where the server listens, HOST:PORT")
    tls: str = _setting("folder of the server's key and certificate (see `certificates`); empty for no encryption")
    wait: float = _setting(
        "seconds to wait for hospitals, at the start and whenever a round lacks some", above=0, maximum=LONGEST
    )
    round_timeout: float = _setting("seconds that hospitals have for a reply", above=0, maximum=LONGEST)
    out: str = _setting("folder of the run's results; empty for runs/ and the date")
    resume: str = _setting("folder of a run that was cut off, to go on with it; empty for a new run")
    force: bool = _setting("overwrite the results of an earlier run in --out")
    insecure: bool = _setting("allow an address that is not loopback, without encryption")
    verbose: bool = _setting("show what Flower and TensorFlow say")
    data: str = _setting("simulation only: folder of client_1.csv, client_2.csv, ...")

    def __post_init__(self) -> None:
        for setting in fields(self):
            _check(setting, getattr(self, setting.name))
        local_rate = self.dp_learning_rate if self.dp_epsilon else self.learning_rate
        check_strategy(self.strategy, self.strategy_arguments, self.hospitals, local_rate)
        if self.min_hospitals > self.hospitals:
            raise SettingsError(
                f"min-hospitals: expected at most --hospitals {self.hospitals}, got {self.min_hospitals}"
            )
        if self.encrypt:
            self._check_encryption()
        if 0 < self.max_update_norm < 1:
            raise SettingsError(f"max-update-norm: expected 0 or at least 1, got {self.max_update_norm!r}")
        if 0 < self.dp_epsilon < SMALLEST_EPSILON:
            raise SettingsError(f"dp-epsilon: expected 0 or at least {SMALLEST_EPSILON:g}, got {self.dp_epsilon!r}")
        if self.dp_epsilon and STRATEGIES[self.strategy].needs_loss:
            raise SettingsError(f"{self.strategy}: needs each hospital's training loss, which --dp-epsilon withholds")
        if self.dp_epsilon and self.dp_steps * (self.rounds + self.dp_spare_rounds) > MOST_STEPS:
            raise SettingsError(f"dp-steps: expected at most {MOST_STEPS} in all rounds together, spare ones included")
        if self.resume and self.out and Path(self.out) != Path(self.resume):
            raise SettingsError("out: a run that is resumed goes on in its own folder")

    def _check_encryption(self) -> None:
        least = f"expected at least {LEAST_ENCRYPTED} with --encrypt: of a sum of two each learns the other's update"
        if self.hospitals < LEAST_ENCRYPTED:
            raise SettingsError(f"hospitals: {least}, got {self.hospitals}")
        if 0 < self.min_hospitals < LEAST_ENCRYPTED:
            raise SettingsError(f"min-hospitals: {least}, got {self.min_hospitals}")
        if not STRATEGIES[self.strategy].is_mean:
            means = ", ".join(name for name, declared in STRATEGIES.items() if declared.is_mean)
            raise SettingsError(
                f"strategy: {self.strategy} has to read every update, which --encrypt prevents; not so: {means}"
            )

    def check_given(self, flags: Iterable[str]) -> None:
        """Refuse flags of differential privacy without it: who gives one believes that patients are protected.

        Args:
            flags: that were given, whatever their values.

        Raises:
            SettingsError: there is such a flag.
        """
        of_privacy = [flag for flag in flags if flag.startswith("dp-") and flag != "dp-epsilon"]
        if of_privacy and not self.dp_epsilon:
            raise SettingsError(f"{', '.join(of_privacy)}: nothing is private without --dp-epsilon, which is 0")

    @classmethod
    def from_config(cls, config: Mapping[str, Value]) -> Self:
        """Settings from names with dashes, such as Flower's run config.

        Raises:
            SettingsError: a name is unknown or lacking, or a value is not allowed.
        """
        known = {flag_of(setting): setting for setting in fields(cls)}
        _check_names(config)
        values: dict[str, Any] = {
            setting.name: float(config[flag]) if _is_whole_for(setting, config[flag]) else config[flag]
            for flag, setting in known.items()
        }
        return cls(**values)

    @cached_property
    def task_declaration(self) -> Task:
        return get_task(self.task)

    @cached_property
    def strategy_arguments(self) -> Arguments:
        return read_arguments(self.strategy, self.strategy_args)

    def privacy_plan(self, run: str) -> PrivacyPlan | None:
        """What a run with these settings promises its training patients; None without differential privacy.

        Args:
            run: a random token of the run.
        """
        if not self.dp_epsilon:
            return None
        return PrivacyPlan(
            epsilon=self.dp_epsilon,
            delta=self.dp_delta,
            clip=self.dp_clip,
            sampling_rate=self.dp_sampling_rate,
            steps=self.dp_steps,
            learning_rate=self.dp_learning_rate,
            rounds=self.rounds + self.dp_spare_rounds,
            run=run,
        )

    @property
    def least_updates(self) -> int:
        """Updates that a round needs: as many as were asked for, and as the strategy takes."""
        asked = self.min_hospitals or self.hospitals // 2 + 1
        return max(asked, self._least_of_strategy, LEAST_ENCRYPTED if self.encrypt else 0)

    @property
    def least_reason(self) -> str:
        """Why a round needs so many, in words."""
        if self.least_updates == self._least_of_strategy > 1:
            return f"{self.strategy}: {STRATEGIES[self.strategy].least_reason}"
        if self.encrypt and self.least_updates == LEAST_ENCRYPTED:
            return "--encrypt: of a sum of two each learns the other's update"
        return "--min-hospitals" if self.min_hospitals else "more than half of --hospitals; see --min-hospitals"

    @cached_property
    def _least_of_strategy(self) -> int:
        return STRATEGIES[self.strategy].least_hospitals(self.strategy_arguments)

    def to_config(self) -> dict[str, Value]:
        """The inverse of `from_config`."""
        return {flag_of(setting): getattr(self, setting.name) for setting in fields(self)}


def flag_of(setting: "Field[Any]") -> str:
    """A setting's name with dashes, as flags and the run config spell it."""
    return setting.name.replace("_", "-")


def read_defaults(path: Path = PROJECT_FILE) -> dict[str, Value]:
    """[tool.flwr.app.config] of a pyproject.toml.

    Raises:
        SettingsError: the file or the table is not there, or a name in it is unknown or lacking.
    """
    try:
        defaults = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # tomllib's own errors, and bytes that are not UTF-8
        raise SettingsError(f"{path}: is not TOML ({error})") from None
    except (KeyError, TypeError):
        defaults = None
    if not isinstance(defaults, dict):
        raise SettingsError(f"{path}: lacks the table [tool.flwr.app.config]")
    _check_names(defaults)
    return defaults


def _check_names(config: Mapping[str, Value]) -> None:
    known = [flag_of(setting) for setting in fields(Settings)]
    if unknown := sorted(set(config) - set(known)):
        raise SettingsError(f"unknown setting {', '.join(unknown)}; known are: {', '.join(known)}")
    if lacking := sorted(set(known) - set(config)):
        raise SettingsError(f"lacks the setting {', '.join(lacking)}")


def _is_whole_for(setting: "Field[Any]", value: Value) -> bool:
    """Whether a whole number was given where a float is meant, as in TOML's `wait = 300`."""
    return setting.type is float and type(value) is int and abs(value) <= LARGEST


def _check(setting: "Field[Any]", value: object) -> None:
    name, rules = flag_of(setting), setting.metadata
    assert setting.default is MISSING  # every default stands in pyproject.toml
    if type(value) is not setting.type:
        raise SettingsError(f"{name}: expected {_words[setting.type]}, got {value!r}")
    if rules["choices"] and value not in rules["choices"]:
        raise SettingsError(f"{name}: expected one of {', '.join(rules['choices'])}, got {value!r}")
    if isinstance(value, int | float):
        if rules["minimum"] is not None and not rules["minimum"] <= value < float("inf"):
            raise SettingsError(f"{name}: expected at least {rules['minimum']}, got {value!r}")
        if type(value) is int and value > LARGEST:
            raise SettingsError(f"{name}: expected at most {LARGEST}, got {value!r}")
        if rules["maximum"] is not None and value > rules["maximum"]:
            raise SettingsError(f"{name}: expected at most {rules['maximum']:g}, got {value!r}")
        if rules["above"] is not None and not rules["above"] < value < float("inf"):
            raise SettingsError(f"{name}: expected more than {rules['above']}, got {value!r}")


_words: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
