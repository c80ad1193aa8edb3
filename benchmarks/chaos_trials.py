"""The faults that `chaos.py` injects: each run's fault and all its other random choices, drawn from one seed.

A fault comes at a moment relative to the pace of an undisturbed run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from chaos_hospital import POISONS, Poison

from federated_health.names import METRICS, MODEL, REPORT

HOSPITALS = 4
LIGHT_ROUNDS, REAL_ROUNDS = 30, 20
LIGHT_STRATEGIES = {"fedavg": 0.2, "fedavgm": 0.4, "fedyogi": 0.4}
"""Probability of each strategy. The last two have state, which a checkpoint must hold."""

REAL_STRATEGY = "fedavgm"
LIGHT_TIMEOUT, REAL_TIMEOUT, LONG_TIMEOUT = 2.0, 8.0, 60.0


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
    POWER_CUT = "all killed"


CYCLE = (*Fault, Fault.SERVER_KILLED, Fault.POISONED)
"""Order of faults: of 12 runs, 2 kill the server only, and 2 have invalid updates."""

WITHOUT_ONE = (Fault.POISONED, Fault.GONE)
"""Faults after which rounds may lack a hospital; after the others every round has all."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run and its fault.

    Attributes:
        fault: None for an undisturbed run.
        is_real: whether the hospitals train with Keras; otherwise they are light.
        victim: index of the affected hospital, from 0; ignored if the fault is the server's.
        moment: when the fault comes, from 0, the start, to 1, the end (see `Pace.place`).
        seconds: duration of an interruption or stall, or time until a killed process restarts.
        hospitals_first: whether the hospitals start before the server.
    """

    number: int
    fault: Fault | None
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
        return replace(undisturbed(self.is_real, self.strategy), rounds=self.rounds)

    def describe(self, names: Sequence[str]) -> str:
        """The fault and the name of its hospital, for printing."""
        run = f"{'real' if self.is_real else 'light'}, {self.strategy}"
        if self.fault is None:
            return f"{run}: undisturbed"
        if self.poison is not None:
            return f"{run}: {self.poison.describe()}, {names[self.victim]}"
        hospital = "" if self.fault in (Fault.SERVER_KILLED, Fault.POWER_CUT) else f", {names[self.victim]}"
        return f"{run}: {self.fault}{hospital}, at {self.moment:.2f}, for {self.seconds:.1f} s"


def undisturbed(is_real: bool, strategy: str) -> Trial:
    """The trial that others are compared with."""
    return Trial(number=0, fault=None, is_real=is_real, strategy=strategy, rounds=_rounds(is_real))


def _rounds(is_real: bool) -> int:
    return REAL_ROUNDS if is_real else LIGHT_ROUNDS


def plan_trials(seed: int, runs: int, real: int, longest_cut: float) -> list[Trial]:
    """Draw the trials of this many runs, numbered from 1; the first `real` of them train with Keras.

    A trial depends only on the seed, its number and whether it is real.
    """
    trials = []
    for number in range(1, runs + 1):
        generator = np.random.default_rng([seed, number])
        fault, is_real = CYCLE[(number - 1) % len(CYCLE)], number <= real
        strategy = str(generator.choice(list(LIGHT_STRATEGIES), p=list(LIGHT_STRATEGIES.values())))
        cut, stall, away = generator.uniform(1, longest_cut), generator.uniform(0.5, 6), generator.uniform(0, 2)
        # A short timeout is shorter than most interruptions, so that the round is repeated; a long one outlasts them.
        short = REAL_TIMEOUT if is_real else LIGHT_TIMEOUT
        timeout = float(generator.choice([short, LONG_TIMEOUT]))
        trial = Trial(
            number=number,
            fault=fault,
            is_real=is_real,
            strategy=REAL_STRATEGY if is_real else strategy,
            victim=int(generator.integers(HOSPITALS)),
            moment=float(generator.uniform()),
            seconds={Fault.SILENT: cut, Fault.CLOSED: cut, Fault.STALLED: stall}.get(fault, away),
            hospitals_first=bool(generator.integers(2)),
            min_hospitals=HOSPITALS - (fault in WITHOUT_ONE),
            round_timeout=timeout,
            rounds=_rounds(is_real),
        )
        if fault is Fault.POISONED:
            before = sum(CYCLE[k % len(CYCLE)] is fault for k in range(number - 1))
            poison = Poison(
                kind=list(POISONS)[before % len(POISONS)],
                first=int(generator.integers(2, trial.rounds - 2)),
                times=int(generator.integers(1, 4)),
            )
            trial = replace(trial, poison=poison, round_timeout=short)
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
    """

    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    marks: list[float] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    struck: bool = False
    is_over: bool = False

    @property
    def pace(self) -> Pace:
        return Pace(tuple(self.marks), self.seconds)
