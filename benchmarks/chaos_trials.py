"""The faults that `chaos.py` injects: each run's fault and all its other random choices, drawn from one seed.

A fault comes at a moment relative to the pace of an undisturbed run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from chaos_conditions import ASCII, OUTPUTS
from chaos_hangs import HANGS
from chaos_hospital import POISONS, Poison
from chaos_hostile import HOSTILITIES
from chaos_liars import LIES

from federated_health.names import METRICS, MODEL, REPORT
from federated_health.settings import Settings

HOSPITALS = 4
LIGHT_ROUNDS, REAL_ROUNDS, SLOW_ROUNDS = 30, 20, 2
LIGHT_STRATEGIES = {"fedavg": 0.2, "fedavgm": 0.4, "fedyogi": 0.4}
"""Probability of each strategy. The last two have state, which a checkpoint must hold."""

REAL_STRATEGY = "fedavgm"
LIGHT_TIMEOUT, REAL_TIMEOUT, LONG_TIMEOUT = 2.0, 8.0, 60.0

DURING, AFTER_SAVED = "during the run", "after it is saved"
"""When the power of a server's machine fails."""

DEAD, WORKING = "dead", "working"
"""Whether an HTTP proxy answers that the environment names."""


@dataclass(frozen=True)
class SlowLink:
    """A connection with too low a rate for the size of the messages.

    Attributes:
        rate: bytes per second.
        hidden: units of the network's hidden layer.
    """

    rate: float
    hidden: int


SLOW_KEEPALIVE = 1.0
"""Seconds of silence before a ping, of which a message of a slow link takes several."""

SLOW_LINKS: Mapping[str, SlowLink] = {
    "5 kB/s": SlowLink(5e3, 70),
    "50 kB/s": SlowLink(50e3, 700),
    "500 kB/s": SlowLink(500e3, 7_000),
}


class Fault(StrEnum):
    """Kinds of injected faults."""

    SERVER_KILLED = "server killed"
    POISONED = "poisoned reply"
    HOSPITAL_KILLED = "hospital killed"
    SILENT = "network silent"
    STALLED = "hospital stalled"
    CLOSED = "network closed"
    RESTARTED = "hospital restarted"
    GARBLED = "noise on the wire"
    GONE = "hospital gone"
    ALL_KILLED = "all killed"
    POWER_CUT = "power cut"
    HANG = "hospital hangs"
    PROXY = "proxy"
    LIAR = "lying hospital"
    HOSTILE_SERVER = "hostile server"
    OUTPUT = "output fails"
    SLOW = "slow link"


CYCLE = (*Fault, Fault.SERVER_KILLED, Fault.POISONED, Fault.POWER_CUT)
"""Order of faults: of 20 runs, 2 kill the server only, 2 have invalid updates, and 2 cut the server's power."""

KINDS: Mapping[Fault, tuple[str, ...]] = {
    Fault.POISONED: tuple(POISONS),
    Fault.POWER_CUT: (DURING, AFTER_SAVED),
    Fault.HANG: tuple(HANGS),
    Fault.PROXY: (DEAD, WORKING),
    Fault.LIAR: tuple(LIES),
    Fault.HOSTILE_SERVER: tuple(HOSTILITIES),
    Fault.OUTPUT: tuple(OUTPUTS),
    Fault.SLOW: tuple(SLOW_LINKS),
}
"""Kinds of a fault, which take turns."""

OF_NO_HOSPITAL = (Fault.SERVER_KILLED, Fault.ALL_KILLED, Fault.POWER_CUT, Fault.PROXY)
"""Faults that concern the server, or all processes."""

WITHOUT_ONE = (Fault.POISONED, Fault.GONE, Fault.LIAR)
"""Faults after which rounds may lack a hospital; after the others every round has all, unless one hangs for ever."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run and its fault.

    Attributes:
        fault: None for an undisturbed run.
        kind: of the fault, where it has several (see KINDS).
        is_real: whether the hospitals train with Keras; otherwise they are light.
        victim: index of the affected hospital, from 0; ignored if the fault is the server's.
        moment: when the fault comes, from 0, the start, to 1, the end (see `Pace.place`).
        seconds: duration of an interruption or stall, or time until a killed process restarts.
        hospitals_first: whether the hospitals start before the server.
    """

    number: int
    fault: Fault | None
    kind: str = ""
    is_real: bool
    strategy: str
    victim: int = 0
    moment: float = 0.0
    seconds: float = 0.0
    poison: Poison | None = None
    hospitals_first: bool = False
    min_hospitals: int = HOSPITALS
    round_timeout: float = 60.0
    rounds: int

    @property
    def reference(self) -> "Trial":
        """The undisturbed run that this trial is compared with."""
        kind = self.kind if self.fault is Fault.SLOW else ""
        return replace(undisturbed(self.is_real, self.strategy), rounds=self.rounds, kind=kind)

    @property
    def slow_link(self) -> SlowLink | None:
        """The victim's connection if it is slow; the undisturbed run with the same messages has the same kind."""
        return SLOW_LINKS.get(self.kind)

    @property
    def hidden(self) -> str:
        """The setting `hidden`."""
        return str(self.slow_link.hidden) if self.slow_link else Settings().hidden

    @property
    def first_round(self) -> int:
        """Round in which a hospital's own fault comes, from 2 on."""
        return 2 + int(self.moment * (self.rounds - 3))

    @property
    def is_complete(self) -> bool:
        """Whether every round must have every hospital, so that the weights are those of the undisturbed run."""
        return self.min_hospitals == HOSPITALS and self.fault is not Fault.HOSTILE_SERVER

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        if self.fault is None:
            return "-".join(filter(None, ("real" if self.is_real else "light", self.strategy, self.hidden)))
        return f"{self.number:03d}{'-Zürich' if self.kind == ASCII else ''}"

    def describe(self, names: Sequence[str]) -> str:
        """The fault and the name of its hospital, for printing."""
        run = f"{'real' if self.is_real else 'light'}, {self.strategy}"
        if self.fault is None:
            return f"{run}: undisturbed"
        if self.poison is not None:
            return f"{run}: {self.poison.describe()}, {names[self.victim]}"
        fault = f"{self.fault} ({self.kind})" if self.kind else str(self.fault)
        hospital = "" if self.fault in OF_NO_HOSPITAL else f", {names[self.victim]}"
        return f"{run}: {fault}{hospital}, at {self.moment:.2f}, for {self.seconds:.1f} s"


def undisturbed(is_real: bool, strategy: str) -> Trial:
    """The trial that others are compared with."""
    return Trial(number=0, fault=None, is_real=is_real, strategy=strategy, rounds=_rounds(is_real))


def _rounds(is_real: bool) -> int:
    return REAL_ROUNDS if is_real else LIGHT_ROUNDS


def _needs_training(fault: Fault, kind: str) -> bool:
    """Whether light hospitals would not do: what they answer is no figure of a model, and they refuse nothing."""
    return fault is Fault.HOSTILE_SERVER or (fault is Fault.LIAR and LIES[kind].factor != 1.0)


def plan_trials(seed: int, runs: int, real: int, longest_cut: float) -> list[Trial]:
    """Draw the trials of this many runs, numbered from 1; the first `real` of them train with Keras.

    A trial depends only on the seed, its number and whether it is real, which some faults need (see `_needs_training`).
    """
    trials = []
    for number in range(1, runs + 1):
        generator = np.random.default_rng([seed, number])
        fault = CYCLE[(number - 1) % len(CYCLE)]
        kinds = KINDS.get(fault, ("",))
        before = sum(CYCLE[earlier % len(CYCLE)] is fault for earlier in range(number - 1))
        kind = kinds[before % len(kinds)]
        is_real = (number <= real and fault is not Fault.SLOW) or _needs_training(fault, kind)
        strategy = str(generator.choice(list(LIGHT_STRATEGIES), p=list(LIGHT_STRATEGIES.values())))
        cut, stall, away = generator.uniform(1, longest_cut), generator.uniform(0.5, 6), generator.uniform(0, 2)
        # A short timeout is shorter than most interruptions, so that the round is repeated; a long one outlasts them.
        short = REAL_TIMEOUT if is_real else LIGHT_TIMEOUT
        timeout = float(generator.choice([short, LONG_TIMEOUT]))
        lacks_one = fault in WITHOUT_ONE or (fault is Fault.HANG and HANGS[kind].is_lasting)
        trial = Trial(
            number=number,
            fault=fault,
            kind=kind,
            is_real=is_real,
            strategy=REAL_STRATEGY if is_real else strategy,
            victim=int(generator.integers(HOSPITALS)),
            moment=float(generator.uniform()),
            seconds={Fault.SILENT: cut, Fault.CLOSED: cut, Fault.STALLED: stall, Fault.HANG: stall}.get(fault, away),
            hospitals_first=bool(generator.integers(2)),
            min_hospitals=HOSPITALS - lacks_one,
            round_timeout=timeout,
            rounds=_rounds(is_real),
        )
        if fault is Fault.POISONED:
            poison = Poison(
                kind=kind,
                first=int(generator.integers(2, trial.rounds - 2)),
                times=int(generator.integers(1, 4)),
            )
            trial = replace(trial, poison=poison, round_timeout=short)
        if fault is Fault.SLOW:
            trial = replace(trial, strategy="fedavg", rounds=SLOW_ROUNDS, round_timeout=LONG_TIMEOUT)
        if fault is Fault.HANG:
            trial = replace(trial, round_timeout=short)
        trials.append(trial)
    return trials


SAVED = (METRICS, MODEL, REPORT)
"""Files that a server saves after the last round, in this order."""

MOMENTS = (0.0, 0.15, 0.8, 1.0)
"""Start, first round, last round and end of a run, so that most faults come during training, however short it is."""


@dataclass(frozen=True)
class Pace:
    """Times of an undisturbed run.

    Attributes:
        marks: seconds from the start to the end of each round, then to each file of SAVED.
        end: seconds from start to end.
    """

    marks: tuple[float, ...]
    end: float

    def place(self, moment: float) -> tuple[int, float]:
        """A moment as the number of marks reached before it, and the seconds since the last of them.

        Args:
            moment: from 0, the start, to 1, the end; see MOMENTS.
        """
        first, last = self.marks[0], self.marks[-1 - len(SAVED)]
        seconds = float(np.interp(moment, MOMENTS, (0.0, first, last, self.end)))
        number = sum(mark <= seconds for mark in self.marks)
        return number, seconds - (self.marks[number - 1] if number else 0.0)


@dataclass
class RunOutcome:
    """Outcome of a run.

    Attributes:
        problems: why the run did not end well; empty if it did.
        waiting: hospitals that still waited for the server after it had ended.
        struck: whether the fault came before the run was over.
        is_over: whether the server was killed after it saved everything and before it told its hospitals.
        refusal: line with which the server ended a run that lying hospitals had spoiled.
    """

    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    marks: list[float] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    struck: bool = False
    is_over: bool = False
    refusal: str = ""

    @property
    def pace(self) -> Pace:
        return Pace(tuple(self.marks), self.seconds)
