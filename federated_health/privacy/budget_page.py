"""The page that shows a hospital's privacy account: the guarantee, the total, one row per run."""

import stat
from dataclasses import dataclass
from pathlib import Path

from federated_health.errors import PrivacyError
from federated_health.ml.privacy_plan import ACCOUNTANT, GUARANTEE
from federated_health.privacy.budget import BudgetSummary, PrivacyBudget, RunSummary
from federated_health.report.formatting import number_of


@dataclass(frozen=True)
class BudgetPage:
    """The page of a privacy account that holds at least one round."""

    path: Path
    summary: BudgetSummary

    @property
    def title(self) -> str:
        """Title of the page."""
        return f"Privacy spent on the training rows, according to {self.path}"

    def lines(self) -> list[str]:
        """The guarantee, and what all runs spent together."""
        runs = self.summary.runs.values()
        first, last = min(run.first for run in runs), max(run.last for run in runs)
        return [
            f"from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC",
            f"guarantee: per training row; {GUARANTEE}",
            f"spent by all runs: epsilon {self.summary.epsilon:.4g} at delta {self.summary.delta:g}, "
            f"in {number_of(self.summary.rounds, 'round')} of {number_of(len(runs), 'run')}",
            f"accountant: {ACCOUNTANT}",
            "a round counts from before its noise was drawn, whether or not its update arrived",
            "runs without differential privacy are not included; with --dp-budget a hospital joins none of them",
        ]

    def tables(self) -> dict[str, dict[str, dict[str, object]]]:
        """Title -> a table with one row per run."""
        return {"Runs": {f"{run.first:%Y-%m-%d} {token}": _row(run) for token, run in self.summary.runs.items()}}


def read_page(path: Path) -> BudgetPage:
    """The page of a privacy account; PrivacyError if it cannot be read, is no such file, or holds no round."""
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise PrivacyError(f"{path}: cannot be read ({error.strerror})") from None
    if not is_regular:  # reading a pipe could block forever
        raise PrivacyError(f"{path}: is not a regular file")
    summary = PrivacyBudget(path).summary()
    if not summary.rounds:
        raise PrivacyError(f"{path}: holds no round")
    return BudgetPage(path, summary)


def _row(run: RunSummary) -> dict[str, object]:
    """Figures as text, since their magnitudes differ too much for one number format."""
    plan = run.last_round
    return {
        "epsilon": f"{run.epsilon:.4g} of {plan.epsilon:g}",
        "delta": f"{plan.delta:g}",
        "clip": f"{plan.clip:g}",
        "noise": f"{plan.noise_multiplier:.4g}",
        "sampling": f"{plan.sampling_rate:.3g}",
        "steps": run.rounds * plan.steps,
        "rounds": f"{run.rounds} of {plan.rounds}",
    }
