"""A hospital's privacy budget: the epsilon that all runs together have spent on its training rows, and what is left.

The privacy account `privacy-NAME.jsonl` lies next to the hospital's CSV, or in the folder of --ledger. It belongs to
the CSV's rows: move or copy both together. `privacy-NAME.folder` beside the CSV says in which other folder the account
is, so that neither a flag that is forgotten nor one that names another folder begins a second account.

Each line is one round of a run and is on the disk before the round's noise is drawn. Lines are only appended, so a
repeated round is spent again.
"""

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from federated_health import file_access
from federated_health.errors import BudgetError, PrivacyError, StorageError
from federated_health.files import write_text
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.privacy.accounting import Steps, epsilon_of
from federated_health.privacy.spending import RoundSpend, is_incomplete, read_line, write_line


@dataclass
class RunSummary:
    """Privacy spent by one run.

    Attributes:
        first, last: when it first and last spent.
        kinds: number of rounds by what each spent; there are several kinds if the noise multiplier changed.
    """

    first: datetime
    last: datetime
    kinds: Counter[RoundSpend]

    @property
    def rounds(self) -> int:
        return self.kinds.total()

    @property
    def last_round(self) -> RoundSpend:
        return next(reversed(self.kinds))

    @property
    def epsilon(self) -> float:
        """Epsilon of this run alone, at the delta of its plan."""
        return epsilon_of([spend.times(rounds) for spend, rounds in self.kinds.items()], self.last_round.delta)


@dataclass
class BudgetSummary:
    """Privacy spent by all runs together, which are in the order in which they began."""

    runs: dict[str, RunSummary] = field(default_factory=dict)

    def add(self, spend: RoundSpend, time: datetime) -> None:
        run = self.runs.setdefault(spend.run, RunSummary(time, time, Counter()))
        run.kinds[spend] += 1
        run.last = time

    @property
    def kinds(self) -> dict[RoundSpend, int]:
        return {spend: rounds for run in self.runs.values() for spend, rounds in run.kinds.items()}

    @property
    def rounds(self) -> int:
        return sum(self.kinds.values())

    @property
    def delta(self) -> float | None:
        """Smallest delta of all runs' plans; None if nothing was spent."""
        return min((spend.delta for spend in self.kinds), default=None)

    @property
    def epsilon(self) -> float:
        """Epsilon at `delta`."""
        return 0.0 if self.delta is None else self.epsilon_at(self.delta)

    def epsilon_at(self, delta: float, *more: Steps) -> float:
        """Epsilon of everything spent, and of more steps, together."""
        return epsilon_of([*more, *(spend.times(rounds) for spend, rounds in self.kinds.items())], delta)

    def describe(self) -> str:
        """One line for the log and the report."""
        if self.delta is None:
            return "no privacy spent on the training rows so far"
        return (
            f"spent on the training rows by all runs ({len(self.runs)} so far): "
            f"epsilon {self.epsilon:.4g} at delta {self.delta:g}"
        )


class PrivacyBudget:
    """Records what each round spends; processes that share a file wait for each other.

    Args:
        path: created by the first round; None to keep the budget in memory, for rows that are in memory too.
        note: file that the first round writes, unless its folder cannot be written to: it names the folder of `path`.
    """

    def __init__(self, path: Path | None = None, note: Path | None = None) -> None:
        self.path = path
        self._note = note
        self._spent = BudgetSummary()
        self._bytes_read = 0
        # The accountant is slow: rounds left are computed per run and after another process wrote, then counted down.
        self._rounds_left = 0
        self._counted_for: tuple[PrivacyPlan, float] | None = None

    @classmethod
    def beside(cls, data: Path, hospital: str, folder: Path | None = None) -> "PrivacyBudget":
        """The budget in the folder of a hospital's CSV, or in another one.

        Raises:
            PrivacyError: there is an account of these rows elsewhere, or was one that is missing.
        """
        own, note = data.parent / f"privacy-{hospital}.jsonl", data.parent / f"privacy-{hospital}.folder"
        path = (folder or data.parent) / own.name
        try:
            noted = Path(note.read_text(encoding="utf-8").rstrip("\n")) / own.name if note.exists() else own
            for other in (own, noted):
                if other.exists() and not (path.exists() and other.samefile(path)):
                    raise PrivacyError(
                        f"{other}: is the privacy account of these rows, and a second one would not know what is "
                        f"spent; give its folder as --ledger, or move it to {path.parent}"
                    )
            if noted != own and not path.exists():
                raise PrivacyError(f"{noted}: the privacy account of these rows is missing; restore the file as it was")
        except (OSError, ValueError) as error:
            raise PrivacyError(f"{note}: cannot be read ({getattr(error, 'strerror', error)})") from None
        return cls(path, note if folder and path.parent.resolve() != data.parent.resolve() else None)

    def check_run(self, plan: PrivacyPlan, rows: int, allowed_epsilon: float | None = None) -> None:
        """Check whether the hospital may join a run; spends nothing.

        Args:
            rows: number of training rows.
            allowed_epsilon: over all runs; None for the epsilon of the first run's plan.

        Raises:
            BudgetError: delta is not below 1 / rows (publishing one row in full would satisfy such a guarantee); a new
                run does not fit into the budget with all its rounds; or a known run has no round left.
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
        self._check_rounds_left(1 if plan.run in self._spent.runs else plan.rounds, plan, allowed_epsilon)

    def spend(self, plan: PrivacyPlan, allowed_epsilon: float | None = None) -> None:
        """Record one round. Only after this returns may its noise be drawn: the line is then on the disk.

        Raises:
            BudgetError: the round exceeds the budget or the plan's rounds; nothing was recorded.
            PrivacyError: the file cannot be read or written; the round may have been recorded and must not be trained.
        """
        with self._locked_file() as file:
            self._check_rounds_left(1, plan, allowed_epsilon)
            spend, time = RoundSpend.of(plan), datetime.now(UTC)
            if file is not None:
                self._write_note()
                self._append(file, write_line(spend, time))
            self._spent.add(spend, time)
            self._rounds_left -= 1

    def summary(self) -> BudgetSummary:
        """What all runs have spent so far; PrivacyError if the file cannot be read."""
        self._read()
        return self._spent

    def _check_rounds_left(self, needed: int, plan: PrivacyPlan, allowed_epsilon: float | None) -> None:
        limit = allowed_epsilon
        if limit is None:  # then no run can raise it above the first one's
            limit = next((spend.epsilon for spend in self._spent.kinds), plan.epsilon)
        delta = min(plan.delta, self._spent.delta or plan.delta)
        run = self._spent.runs.get(plan.run)
        planned = plan.rounds - (run.rounds if run else 0)
        if self._counted_for != (plan, limit):
            self._rounds_left = self._count_rounds_left(plan, planned, limit, delta)
            self._counted_for = plan, limit
        if self._rounds_left >= needed:
            return
        if planned <= 0:
            raise BudgetError(f"run {plan.run} has used all its {plan.rounds} rounds, spare rounds included")
        spent, total = (self._spent.epsilon_at(delta, RoundSpend.of(plan).times(rounds)) for rounds in (0, planned))
        raise BudgetError(
            f"{self.path or 'this budget'}: epsilon {spent:.4g} of {limit:.4g} is spent (at delta {delta:g}), and the "
            f"run could raise it to {total:.4g}; --dp-budget allows more",
            reason="its privacy budget does not allow the run, or the rest of it",
        )

    def _count_rounds_left(self, plan: PrivacyPlan, planned: int, limit: float, delta: float) -> int:
        spend, spent = RoundSpend.of(plan), self._spent.kinds
        # The noise multiplier follows from the plan, but may differ between releases of dp-accounting.
        earlier = {replace(kind, noise_multiplier=spend.noise_multiplier) for kind in spent if kind.run == plan.run}
        if not earlier <= {spend}:
            raise BudgetError(f"run {plan.run} was begun with another privacy plan")
        is_alone = spent.keys() <= {spend}
        if planned <= 0 or (is_alone and plan.epsilon <= limit):  # the noise was calibrated so that all rounds fit
            return planned

        def epsilon_with(rounds: int) -> float:
            return self._spent.epsilon_at(delta, spend.times(rounds))

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
        """Say beside the CSV, once, in which folder the account is; where nothing can be written, none can begin."""
        note, self._note = self._note, None
        if note is not None and self.path is not None:
            with suppress(StorageError):
                write_text(note, f"{self.path.parent.resolve()}\n")

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
