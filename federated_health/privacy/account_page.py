"""What a hospital's privacy account says, as a page: the promise, the total, a row a run."""

import stat
from dataclasses import dataclass
from pathlib import Path

from federated_health.errors import PrivacyError
from federated_health.privacy.account import Account, RunStatement, Statement
from federated_health.privacy.accounting import ACCOUNTANT
from federated_health.privacy.plan import PROMISE
from federated_health.report.formatting import number_of


@dataclass(frozen=True)
class AccountPage:
    """Of an account that holds a charge at least."""

    path: Path
    statement: Statement

    @property
    def title(self) -> str:
        """Of the page."""
        return f"What the training rows were charged, by {self.path}"

    def lines(self) -> list[str]:
        """The promise in words, and what all runs cost together."""
        runs = self.statement.runs.values()
        first, last = min(run.first for run in runs), max(run.last for run in runs)
        return [
            f"from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC",
            f"promised: {PROMISE}",
            f"spent in all: epsilon {self.statement.epsilon:.4g} at delta {self.statement.delta:g}, "
            f"in {number_of(self.statement.charged, 'round')} of {number_of(len(runs), 'run')}",
            f"accountant: {ACCOUNTANT}",
            "a round counts from before its noise was drawn, whether or not its update arrived",
            "what left in runs without differential privacy is not in it; with --dp-budget a hospital joins none",
        ]

    def tables(self) -> dict[str, dict[str, dict[str, object]]]:
        """Title -> a table with a row a run."""
        runs = self.statement.runs.items()
        return {"Runs": {f"{statement.first:%Y-%m-%d} {run}": _row(statement) for run, statement in runs}}


def read_page(path: Path) -> AccountPage:
    """The page of an account's file.

    Raises:
        PrivacyError: it cannot be read, is not an account, or holds no charge.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe might be waited for without end
            raise PrivacyError(f"{path}: is not a regular file")
    except OSError as error:
        raise PrivacyError(f"{path}: cannot be read ({error.strerror})") from None
    statement = Account(path).statement()
    if not statement.charged:
        raise PrivacyError(f"{path}: holds no charge")
    return AccountPage(path, statement)


def _row(run: RunStatement) -> dict[str, object]:
    """Figures as text, since they are of very different sizes."""
    promised = run.promised
    return {
        "epsilon": f"{run.epsilon:.4g} of {promised.epsilon:g}",
        "delta": f"{promised.delta:g}",
        "clip": f"{promised.clip:g}",
        "noise": f"{promised.noise_multiplier:.4g}",
        "sampling": f"{promised.sampling_rate:.3g}",
        "steps": run.charged * promised.steps,
        "rounds": f"{run.charged} of {promised.rounds}",
    }
