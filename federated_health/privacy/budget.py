"""A hospital's privacy budget: the epsilon that all runs together have spent on its patients, and what is left.

The privacy account `privacy-NAME.jsonl` lies next to the hospital's CSV, or in the folder of --ledger. It belongs to
the CSV's rows: move or copy both together. `privacy-NAME.folder` beside the CSV says in which other folder the account
is, so that neither a flag that is forgotten nor one that names another folder begins a second account.

Each line is one round of a run, or its final evaluation, and is on the disk before the noise is drawn. Lines are only
appended, so a repeated round is spent again.

Rounds are spent on the training patients, evaluations on the held-out ones. While all runs hold out the same patients,
no patient is on both sides, and the larger of the two epsilons is everybody's. Else both are composed.
"""

import math
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from federated_health import file_access
from federated_health.data.record_location import find_record, write_note
from federated_health.errors import BudgetError, PrivacyError
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.privacy.accounting import Steps, epsilon_of
from federated_health.privacy.spending import (
    EvaluationSpend,
    RoundSpend,
    Spend,
    is_incomplete,
    read_line,
    write_line,
)

Spends = Iterable[tuple[Spend, int]]
"""What was spent, and how often."""

SIDES = {"training": RoundSpend, "held-out": EvaluationSpend}
"""Patients, and what is spent on them."""

HOW_TO_GO_ON = (
    "If the data's owner allows more: client.py --dp-budget {epsilon:g}. To go on practising with example data: "
    "create_dataset.py --out sandbox, then client.py --data sandbox/client_1.csv, which has an account of its own"
)
"""What helps where a budget is spent."""


@dataclass
class RunSummary:
    """Privacy spent by one run.

    Attributes:
        first, last: when it first and last spent.
        spends: number of times of everything that it spent; there are several kinds of rounds if the noise multiplier
            or the split changed.
    """

    first: datetime
    last: datetime
    spends: Counter[Spend]

    @property
    def rounds(self) -> int:
        return sum(number for spend, number in self.spends.items() if isinstance(spend, RoundSpend))

    @property
    def is_evaluated(self) -> bool:
        """Whether its final evaluation was spent."""
        return any(isinstance(spend, EvaluationSpend) for spend in self.spends)

    @property
    def last_round(self) -> RoundSpend | None:
        return next((spend for spend in reversed(self.spends) if isinstance(spend, RoundSpend)), None)

    @property
    def delta(self) -> float:
        """Delta of its plan."""
        return next(iter(self.spends)).delta

    def epsilon(self, side: str) -> float:
        """Epsilon of this run alone, at the delta of its plan, of the patients on one of the SIDES."""
        return epsilon_of(_steps(self.spends.items(), side), self.delta)


@dataclass
class BudgetSummary:
    """Privacy spent by all runs together, which are in the order in which they began."""

    runs: dict[str, RunSummary] = field(default_factory=dict)

    def add(self, spend: Spend, time: datetime) -> None:
        run = self.runs.setdefault(spend.run, RunSummary(time, time, Counter()))
        run.spends[spend] += 1
        run.last = time

    @property
    def spends(self) -> dict[Spend, int]:
        return {spend: number for run in self.runs.values() for spend, number in run.spends.items()}

    @property
    def rounds(self) -> int:
        return sum(run.rounds for run in self.runs.values())

    @property
    def delta(self) -> float | None:
        """Smallest delta of all runs' plans; None if nothing was spent."""
        return min((spend.delta for spend in self.spends), default=None)

    @property
    def epsilon(self) -> float:
        """Epsilon of every patient, at `delta`."""
        return 0.0 if self.delta is None else self.epsilon_at(self.delta)

    def epsilon_at(self, delta: float, *more: tuple[Spend, int]) -> float:
        """Epsilon of every patient, of everything spent, and of more, together."""
        spends = [*more, *self.spends.items()]
        sides = [_steps(spends, side) for side in SIDES]
        if len({spend.split for spend, _ in spends}) > 1:  # a patient may have been on both sides
            sides = [[*sides[0], *sides[1]]]
        return max(epsilon_of(steps, delta) for steps in sides)

    def epsilon_of_side(self, side: str, *, exchange: bool = False) -> float:
        """Epsilon at `delta` of what was spent on the patients of one of the SIDES (see `epsilon_of`)."""
        return (
            0.0
            if self.delta is None
            else epsilon_of(_steps(self.spends.items(), side, exchange=exchange), self.delta, exchange=exchange)
        )

    def describe(self) -> str:
        """One line for the log and the report."""
        if self.delta is None:
            return "no privacy spent so far"
        sides = [
            f"epsilon {self.epsilon_of_side(side):.4g} on the {side} patients ({exchanged:.4g} if one is exchanged)"
            for side in SIDES
            if (exchanged := self.epsilon_of_side(side, exchange=True))
        ]
        return f"spent by all runs ({len(self.runs)} so far): {', '.join(sides)}, at delta {self.delta:g}"


def _steps(spends: Spends, side: str, *, exchange: bool = False) -> list[Steps]:
    of_side = [(spend, number) for spend, number in spends if isinstance(spend, SIDES[side])]
    return [spend.exchanged(number) if exchange else spend.times(number) for spend, number in of_side]


class PrivacyBudget:
    """Records what rounds and final evaluations spend; processes that share a file wait for each other.

    Args:
        path: created by the first round; None to keep the budget in memory, for rows that are in memory too.
        own: path of the account if it were beside the CSV, where the first round says that it is elsewhere.
    """

    def __init__(self, path: Path | None = None, own: Path | None = None) -> None:
        self.path = path
        self._own = own
        self._spent = BudgetSummary()
        self._bytes_read = 0
        # The accountant is slow: rounds left are computed per run and after another process wrote, then counted down.
        self._rounds_left = 0
        self._counted_for: tuple[PrivacyPlan, str, float] | None = None

    @classmethod
    def beside(cls, data: Path, hospital: str, folder: Path | None = None) -> "PrivacyBudget":
        """The budget in the folder of a hospital's CSV, or in another one.

        Raises:
            PrivacyError: there is an account of these rows elsewhere, or was one that is missing.
        """
        own = data.parent / f"privacy-{hospital}.jsonl"
        path = find_record(own, folder, "the privacy account of these rows", PrivacyError)
        return cls(path, own)

    def check_run(self, plan: PrivacyPlan, rows: int, allowed_epsilon: float | None = None, *, split: str = "") -> None:
        """Check whether the hospital may join a run; spends nothing.

        Args:
            rows: number of training rows.
            split: see `RoundSpend`.
            allowed_epsilon: over all runs; None for the epsilon of the first run's plan.

        Raises:
            BudgetError: delta is not below 1 / rows (publishing one row in full would satisfy such a guarantee); a new
                run does not fit into the budget with all its rounds and its final evaluation; or a known run has no
                round left.
            PrivacyError: the file cannot be read.
        """
        if plan.delta * rows >= 1:
            raise BudgetError(
                f"the run's delta is too large: expected less than 1/{rows}, one over the number of training rows, "
                f"got {plan.delta:g}"
            )
        self._read()
        if self.path is not None and not os.access(self.path if self.path.exists() else self.path.parent, os.W_OK):
            raise PrivacyError(
                f"{self.path}: cannot be written, and a round that cannot be recorded is not trained; --ledger names "
                "another folder for a new account"
            )
        if plan.run in self._spent.runs:
            self._check_rounds_left(1, plan, allowed_epsilon, split)
        else:
            whole = (RoundSpend.of(plan, split), plan.rounds), (EvaluationSpend.of(plan, split), 1)
            self._check_limit(plan, split, allowed_epsilon, *whole)

    def spend(self, plan: PrivacyPlan, allowed_epsilon: float | None = None, *, split: str = "") -> None:
        """Record one round. Only after this returns may its noise be drawn: the line is then on the disk.

        Raises:
            BudgetError: the round exceeds the budget or the plan's rounds; nothing was recorded.
            PrivacyError: the file cannot be read or written; the round may have been recorded and must not be trained.
        """
        with self._locked_file() as file:
            self._check_rounds_left(1, plan, allowed_epsilon, split)
            self._record(file, RoundSpend.of(plan, split))
            self._rounds_left -= 1

    def spend_evaluation(self, plan: PrivacyPlan, allowed_epsilon: float | None = None, *, split: str = "") -> None:
        """Record the final evaluation of a run, which there is once. Only after this returns may its noise be drawn.

        Raises:
            BudgetError: it exceeds the budget, or was spent already; nothing was recorded.
            PrivacyError: as for a round.
        """
        with self._locked_file() as file:
            run = self._spent.runs.get(plan.run)
            if run is not None and run.is_evaluated:
                raise BudgetError(
                    f"the figures of run {plan.run} on held-out patients were released before: expected once"
                )
            evaluation = EvaluationSpend.of(plan, split)
            self._check_limit(plan, split, allowed_epsilon, (evaluation, 1))
            self._record(file, evaluation)
            self._counted_for = None

    def _record(self, file: FileIO | None, spend: Spend) -> None:
        time = datetime.now(UTC)
        if file is not None:
            self._write_note()
            self._append(file, write_line(spend, time))
        self._spent.add(spend, time)

    def summary(self) -> BudgetSummary:
        """What all runs have spent so far; PrivacyError if the file cannot be read."""
        self._read()
        return self._spent

    def _limit(self, plan: PrivacyPlan, allowed_epsilon: float | None) -> float:
        if allowed_epsilon is not None:
            return allowed_epsilon
        return next((spend.epsilon for spend in self._spent.spends), plan.epsilon)  # no run can raise the first one's

    def _delta(self, plan: PrivacyPlan) -> float:
        return min(plan.delta, self._spent.delta or plan.delta)

    def _fits_as_planned(self, plan: PrivacyPlan, split: str, limit: float) -> bool:
        """Whether nothing but this run's own plan was spent, whose noise was calibrated so that all of it fits."""
        own = {RoundSpend.of(plan, split), EvaluationSpend.of(plan, split)}
        return plan.epsilon <= limit and self._spent.spends.keys() <= own

    def _check_limit(
        self, plan: PrivacyPlan, split: str, allowed_epsilon: float | None, *more: tuple[Spend, int]
    ) -> None:
        limit, delta = self._limit(plan, allowed_epsilon), self._delta(plan)
        if not self._fits_as_planned(plan, split, limit) and self._spent.epsilon_at(delta, *more) > limit:
            raise self._exceeded(limit, delta, *more)

    def _exceeded(self, limit: float, delta: float, *more: tuple[Spend, int]) -> BudgetError:
        spent, total = self._spent.epsilon_at(delta), self._spent.epsilon_at(delta, *more)
        return BudgetError(
            f"{self.path or 'this budget'}: epsilon {spent:.4g} of {limit:.4g} is spent (at delta {delta:g}), and the "
            f"run could raise it to {total:.4g}. {HOW_TO_GO_ON.format(epsilon=math.ceil(total * 10) / 10)}",
            reason="its privacy budget does not allow the run, or the rest of it",
        )

    def _check_rounds_left(self, needed: int, plan: PrivacyPlan, allowed_epsilon: float | None, split: str) -> None:
        limit, delta = self._limit(plan, allowed_epsilon), self._delta(plan)
        run = self._spent.runs.get(plan.run)
        planned = plan.rounds - (run.rounds if run else 0)
        if self._counted_for != (plan, split, limit):
            self._rounds_left = self._count_rounds_left(plan, split, planned, limit, delta)
            self._counted_for = plan, split, limit
        if self._rounds_left >= needed:
            return
        if planned <= 0:
            raise BudgetError(f"run {plan.run} has used all its {plan.rounds} rounds, spare rounds included")
        raise self._exceeded(limit, delta, (RoundSpend.of(plan, split), planned))

    def _count_rounds_left(self, plan: PrivacyPlan, split: str, planned: int, limit: float, delta: float) -> int:
        spend, spent = RoundSpend.of(plan, split), self._spent.spends
        # The noise multiplier follows from the plan, but may differ between releases of dp-accounting.
        earlier = {
            replace(kind, noise_multiplier=spend.noise_multiplier, split=split)
            for kind in spent
            if isinstance(kind, RoundSpend) and kind.run == plan.run
        }
        if not earlier <= {spend}:
            raise BudgetError(f"run {plan.run} was begun with another privacy plan")
        if planned <= 0 or self._fits_as_planned(plan, split, limit):
            return planned

        def epsilon_with(rounds: int) -> float:
            return self._spent.epsilon_at(delta, (spend, rounds))

        if epsilon_with(planned) <= limit:
            return planned
        return bisect_right(range(1, planned), limit, key=epsilon_with)

    def _read(self) -> None:
        if self.path is None:
            return
        try:
            if self._bytes_read or self.path.exists():  # otherwise nothing was spent yet
                with self.path.open("rb", buffering=0) as file:
                    self._read_new_lines(file)
        except OSError as error:
            raise PrivacyError(f"{self.path}: cannot be read ({error.strerror})") from None

    @contextmanager
    def _locked_file(self) -> Iterator[FileIO | None]:
        """The file, locked, read to its end and without an incomplete last line; None for a budget in memory."""
        if self.path is None:
            yield None
            return
        try:
            with file_access.open_to_append(self.path, lock=True) as file:
                self._read_new_lines(file)
                if os.fstat(file.fileno()).st_size > self._bytes_read:
                    file.truncate(self._bytes_read)
                yield file
        except OSError as error:
            raise PrivacyError(
                f"{self.path}: cannot be written ({error.strerror}); a round that cannot be recorded is not trained"
            ) from None

    def _write_note(self) -> None:
        """Say beside the CSV, once, in which folder the account is."""
        own, self._own = self._own, None
        if own is not None and self.path is not None:
            write_note(own, self.path)

    def _append(self, file: FileIO, line: bytes) -> None:
        file.seek(max(self._bytes_read - 1, 0))
        if file.read(1) not in (b"\n", b""):  # the last line is complete but for its line break
            line = b"\n" + line
        file_access.append(file, line)
        self._bytes_read += len(line)

    def _read_new_lines(self, file: FileIO) -> None:
        """Read what other processes wrote; PrivacyError if a line is invalid, or lines that were there are missing.

        An incomplete last line, as after a power failure or on a full disk, is left out: its round had not drawn any
        noise. A last line that lacks only its line break counts.
        """
        size = os.fstat(file.fileno()).st_size
        if size < self._bytes_read:
            raise PrivacyError(f"{self.path}: has fewer lines than before; restore the earlier file")
        file.seek(self._bytes_read)
        lines = file.read(size - self._bytes_read).splitlines(keepends=True)
        spent, end = [], self._bytes_read
        for number, line in enumerate(lines, start=1):
            try:
                if line != b"\n":  # written before the next line where the last one had no line break
                    spent.append(read_line(line))
            except ValueError:
                if number == len(lines) and is_incomplete(line):
                    break
                file.seek(0)
                line_number = file.read(end).count(b"\n") + 1
                raise PrivacyError(
                    f"{self.path}, line {line_number}: is not a line of a privacy account; restore the file as it "
                    "was, since without it the privacy spent is not known"
                ) from None
            end += len(line)
        for spend in spent:  # only now: a file that is refused counts for nothing
            self._spent.add(*spend)
        if spent:
            self._counted_for = None
        self._bytes_read = end
