"""How a run of `chaos.py` went, and the pace of one that nothing befell."""

from dataclasses import dataclass, field

import numpy as np

from federated_health.names import METRICS, MODEL, REPORT

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
class FederatedRun:
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
