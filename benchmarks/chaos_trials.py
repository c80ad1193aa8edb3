"""The faults that `chaos.py` injects: each run's fault and all its other random choices, drawn from one seed.

And when a fault strikes: at a moment relative to the pace of an undisturbed run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from chaos_hospital import POISONS, Poison

from federated_health.report.run_files import METRICS, MODEL, REPORT

HOSPITALS = 4
LIGHT_ROUNDS, REAL_ROUNDS = 30, 20
LIGHT_STRATEGIES = {"fedavg": 0.2, "fedavgm": 0.4, "fedyogi": 0.4}
"""And how often each is drawn: the last two have a state, which a checkpoint must hold."""

REAL_STRATEGY = "fedavgm"
LIGHT_TIMEOUT, REAL_TIMEOUT, LONG_TIMEOUT = 2.0, 8.0, 60.0


class Fault(StrEnum):
    """What befalls a run."""

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
"""Faults in turn: of twelve runs two kill the server alone, and two are poisoned."""

WITHOUT_ONE = (Fault.POISONED, Fault.GONE)
"""Faults after which rounds may lack a hospital; after the others each round has all of them."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run and its fault.

    Attributes:
        fault: None where nothing befalls it.
        is_real: hospitals with Keras; else light ones.
        victim: the hospital that the fault befalls, from 0; one of the server befalls none.
        moment: of the fault, from 0, the start, to 1, the end (see `Pace.place`).
        seconds: a cut or a stall is so long, and so long a killed process stays away.
        hospitals_first: they are started before the server.
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

    @property
    def rounds(self) -> int:
        return REAL_ROUNDS if self.is_real else LIGHT_ROUNDS

    @property
    def reference(self) -> tuple[bool, str]:
        """Trials that agree in it have the same model where nothing befalls them."""
        return self.is_real, self.strategy

    def describe(self, names: Sequence[str]) -> str:
        """The fault in words, with the name of its hospital."""
        run = f"{'real' if self.is_real else 'light'}, {self.strategy}"
        if self.fault is None:
            return f"{run}: undisturbed"
        if self.poison is not None:
            return f"{run}: {self.poison.describe()}, {names[self.victim]}"
        whom = "" if self.fault in (Fault.SERVER_KILLED, Fault.POWER_CUT) else f", {names[self.victim]}"
        return f"{run}: {self.fault}{whom}, at {self.moment:.2f}, for {self.seconds:.1f} s"


def undisturbed(is_real: bool, strategy: str) -> Trial:
    """The run that others are compared with."""
    return Trial(number=0, fault=None, is_real=is_real, strategy=strategy)


def plan_trials(seed: int, runs: int, real: int, longest_cut: float) -> list[Trial]:
    """So many runs, numbered from 1; the first `real` of them with Keras.

    A trial depends on the seed, its number, and on whether it is real.
    """
    trials = []
    for number in range(1, runs + 1):
        generator = np.random.default_rng([seed, number])
        fault, is_real = CYCLE[(number - 1) % len(CYCLE)], number <= real
        strategy = str(generator.choice(list(LIGHT_STRATEGIES), p=list(LIGHT_STRATEGIES.values())))
        cut, stall, away = generator.uniform(1, longest_cut), generator.uniform(0.5, 6), generator.uniform(0, 2)
        # A short one is shorter than most cuts and stalls, so that the round is repeated; a long one outlasts them.
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
"""What a server saves when the last round is over, in this order."""

MOMENTS = (0.0, 0.15, 0.8, 1.0)
"""Start, first round, last round and end of a run: most faults come while it trains, however short that is."""


@dataclass(frozen=True)
class Pace:
    """How an undisturbed run went.

    Attributes:
        marks: seconds from its start at which each round was finished, then each of SAVED was there.
        end: seconds from its start to its end.
    """

    marks: tuple[float, ...]
    end: float

    def place(self, moment: float) -> tuple[int, float]:
        """A moment as marks that were reached before it, and seconds after the last of them.

        Args:
            moment: from 0, the start, to 1, the end; see MOMENTS.
        """
        first, last = self.marks[0], self.marks[-1 - len(SAVED)]
        seconds = float(np.interp(moment, MOMENTS, (0.0, first, last, self.end)))
        number = sum(one <= seconds for one in self.marks)
        return number, seconds - (self.marks[number - 1] if number else 0.0)


@dataclass
class RunOutcome:
    """How a run went.

    Attributes:
        problems: why it did not end well; empty where it did.
        waiting: hospitals that still waited for the server when it had ended.
        struck: whether the fault befell it before it was over.
        is_over: the server was killed when all was saved, and before it said so to its hospitals.
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
