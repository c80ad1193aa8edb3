"""A hospital's privacy account: what its training rows have been charged, by all runs ever, and what may still be.

`privacy-NAME.jsonl` stands in the folder of the hospital's CSV and belongs to its rows: where they go, it goes. Each
line is a round of a run, on the disk before the round's noise is drawn; lines are added and never taken back, so that a
round that is repeated is charged again.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from federated_health import files
from federated_health.errors import BudgetError, PrivacyError
from federated_health.privacy.charges import Charge, Charges, read_lines, write_line
from federated_health.privacy.plan import PrivacyPlan


@dataclass(frozen=True, kw_only=True)
class RunStatement:
    """What one run was charged.

    Attributes:
        promised: its charge a round.
        charged: rounds.
        epsilon: of them alone, at the delta that was promised.
    """

    promised: Charge
    charged: int
    epsilon: float
    first: datetime
    last: datetime


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What an account holds.

    Attributes:
        epsilon: of all charges together.
        delta: at which; None where there is no charge and none was asked for.
        charged: rounds of all runs.
        runs: token -> its part, in the order in which they began.
    """

    epsilon: float
    delta: float | None
    charged: int
    runs: dict[str, RunStatement]

    def describe(self) -> str:
        """In a line."""
        if self.delta is None:
            return "nothing was charged"
        spent = f"epsilon {self.epsilon:.4g} at delta {self.delta:g}"
        return f"all runs, {len(self.runs)} so far, have charged the training rows {spent}"


class Account:
    """Charges rounds; processes that share a file wait for each other.

    It costs the disk's time: how many rounds are left is worked out once a run, or when another process wrote, and then
    counted.

    Args:
        path: made with the first charge; None for a hospital whose rows are in memory only, as in a test or a study.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._charges = Charges()
        self._size = self._lines = 0
        self._left: tuple[PrivacyPlan, float, int] | None = None

    @classmethod
    def beside(cls, data: Path, hospital: str) -> "Account":
        """The account in the folder of a hospital's CSV."""
        return cls(data.parent / f"privacy-{hospital}.jsonl")

    @classmethod
    def in_memory(cls) -> "Account":
        """An account that is gone with the process, for rows that are."""
        return cls(None)

    def admit(self, plan: PrivacyPlan, rows: int, budget: float | None = None) -> None:
        """Check at joining that a run may be trained in; charges nothing.

        Args:
            rows: that are trained on.
            budget: epsilon that the hospital allows in all, over all runs ever; None for that of the first run ever.

        Raises:
            BudgetError: delta is not below 1 / rows (a promise that publishing one row would keep); the run is new and
                does not fit whole into what is left; or it is not, and has no round left.
            PrivacyError: the account cannot be read.
        """
        if plan.delta * rows >= 1:
            words = f"the run's delta {plan.delta:g} is not below 1/{rows}, one over the number of training rows"
            raise BudgetError(words, reason=words)
        self._read()
        left, is_new = self._rounds_left(plan, budget), not self._charges.of(plan.run)
        if left < (plan.rounds if is_new else 1):
            raise self._refusal(plan, budget)

    def charge(self, plan: PrivacyPlan, budget: float | None = None) -> None:
        """Charge one round, on the disk when this returns: only then may its noise be drawn.

        Raises:
            BudgetError: it is past the budget, or past the plan's rounds; nothing was charged.
            PrivacyError: the account cannot be read or written to; the round may have been charged and is not to be
                trained.
        """
        with self._written() as file:
            left = self._rounds_left(plan, budget)
            if left < 1:
                raise self._refusal(plan, budget)
            charge, time = Charge.of(plan), datetime.now(UTC)
            if file is not None:
                self._append(file, write_line(charge, time))
            self._charges.add(charge, time)
            self._left = (plan, self._allowed(plan, budget), left - 1)

    def statement(self, delta: float | None = None) -> Statement:
        """What was charged so far.

        Args:
            delta: at which the total is; None for the smallest that was ever promised.

        Raises:
            PrivacyError: the account cannot be read.
        """
        self._read()
        charges = self._charges
        delta = charges.delta if delta is None else delta
        return Statement(
            epsilon=0.0 if delta is None else charges.epsilon(delta),
            delta=delta,
            charged=charges.rounds.total(),
            runs={run: _statement_of(run, charges) for run in charges.first},
        )

    def _rounds_left(self, plan: PrivacyPlan, budget: float | None) -> int:
        """That may still be charged of a run."""
        allowed = self._allowed(plan, budget)
        if self._left is not None and self._left[:2] == (plan, allowed):
            return self._left[2]
        left = self._count_rounds_left(plan, allowed)
        self._left = (plan, allowed, left)
        return left

    def _allowed(self, plan: PrivacyPlan, budget: float | None) -> float:
        """Epsilon of all runs; without a budget no later run can ask for more than the first one did."""
        if budget is not None:
            return budget
        first = next(iter(self._charges.rounds), None)
        return plan.epsilon if first is None else first.epsilon

    def _count_rounds_left(self, plan: PrivacyPlan, allowed: float) -> int:
        charge, before = Charge.of(plan), self._charges.of(plan.run)
        if any(earlier.promise != charge.promise for earlier in before):
            words = f"run {plan.run} was begun with another privacy plan"
            raise BudgetError(words, reason=words)
        most = plan.rounds - sum(before.values())
        is_alone = all(earlier == charge for earlier in self._charges.rounds)
        if most < 1 or (is_alone and plan.epsilon <= allowed):  # the noise was calibrated so that all rounds fit
            return max(most, 0)
        delta = min(plan.delta, self._charges.delta or plan.delta)
        fits, past = 0, most + 1
        while past - fits > 1:
            middle = most if past > most else (fits + past) // 2
            if self._charges.epsilon(delta, charge.times(middle)) <= allowed:
                fits = middle
            else:
                past = middle
        return fits

    def _refusal(self, plan: PrivacyPlan, budget: float | None) -> BudgetError:
        charged = sum(self._charges.of(plan.run).values())
        if charged >= plan.rounds:
            words = f"all {plan.rounds} rounds that run {plan.run} may be charged have been charged"
            return BudgetError(words, reason=words)
        delta = min(plan.delta, self._charges.delta or plan.delta)
        spent = self._charges.epsilon(delta)
        whole = self._charges.epsilon(delta, Charge.of(plan).times(plan.rounds - charged))
        return BudgetError(
            f"{self.path or 'this account'}: these rows have cost epsilon {spent:.4g} so far and may cost "
            f"{self._allowed(plan, budget):.4g} in all (at delta {delta:g}), and the run could make it {whole:.4g}; "
            "--dp-budget allows more",
            reason="what its patients' privacy may cost in all does not allow the run, or the rest of it",
        )

    def _read(self) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("rb", buffering=0) as file:
                self._catch_up(file)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._size == 0:
                return  # nothing was charged yet
            raise PrivacyError(f"{self.path}: cannot be read ({error.strerror})") from None

    @contextmanager
    def _written(self) -> Iterator[FileIO | None]:
        """The account's file, locked, read to its end and without a line that was cut off; None for one in memory."""
        if self.path is None:
            yield None
            return
        try:
            with files.open_to_append(self.path, lock=True) as file:
                self._catch_up(file)
                if os.fstat(file.fileno()).st_size > self._size:
                    file.truncate(self._size)
                yield file
        except OSError as error:
            raise PrivacyError(
                f"{self.path}: cannot be written to ({error.strerror}); what cannot be charged is not trained"
            ) from None

    def _append(self, file: FileIO, line: bytes) -> None:
        assert self.path is not None
        if self._size == 0:
            files.sync_folder(self.path.parent)
        file.seek(max(self._size - 1, 0))
        if file.read(1) not in (b"\n", b""):  # whole, but for its end
            line = b"\n" + line
        files.append(file, line)
        self._size += len(line)
        self._lines += line.count(b"\n")

    def _catch_up(self, file: FileIO) -> None:
        """Read what other processes wrote.

        Raises:
            PrivacyError: it is not an account, or has lost charges.
        """
        size = os.fstat(file.fileno()).st_size
        if size < self._size:
            raise PrivacyError(f"{self.path}: has lost charges that it held; put back the file that was there")
        if size == self._size:
            return
        file.seek(self._size)
        content = file.read(size - self._size)
        try:
            charges, kept = read_lines(content)
        except ValueError as error:
            raise PrivacyError(
                f"{self.path}, line {self._lines + int(str(error))}: is not a charge of a privacy account; put back "
                "the file as it was, since what was spent is not known without it"
            ) from None
        for charge, time in charges:
            self._charges.add(charge, time)
        self._size += kept
        self._lines += content[:kept].count(b"\n")
        self._left = None if charges else self._left


def _statement_of(run: str, charges: Charges) -> RunStatement:
    its = charges.of(run)
    promised = next(reversed(its))
    return RunStatement(
        promised=promised,
        charged=sum(its.values()),
        epsilon=Charges(Counter(its)).epsilon(promised.delta),
        first=charges.first[run],
        last=charges.last[run],
    )
