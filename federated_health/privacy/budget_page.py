"""The page that shows a hospital's privacy account: the guarantee, the total, one row per run."""

import stat
from dataclasses import dataclass
from pathlib import Path

from federated_health.errors import PrivacyError
from federated_health.ml.privacy_plan import ACCOUNTANT, EXCHANGE_NOTE, GUARANTEE
from federated_health.privacy.budget import SIDES, BudgetSummary, PrivacyBudget, RunSummary
from federated_health.report.formatting import number_of


@dataclass(frozen=True)
class BudgetPage:
    """The page of a privacy account that holds at least one line."""

    path: Path
    summary: BudgetSummary

    @property
    def title(self) -> str:
        """Title of the page."""
        return f"Privacy spent on a hospital's patients, according to {self.path}"

    def lines(self) -> list[str]:
        """The guarantee, and what all runs spent together."""
        summary, runs = self.summary, self.summary.runs.values()
        first, last = min(run.first for run in runs), max(run.last for run in runs)
        splits = {spend.split for spend in summary.spends}
        sides = [
            f"on {side} patients: epsilon {summary.epsilon_of_side(side):.4g}; "
            f"{summary.epsilon_of_side(side, exchange=True):.4g} if a patient is exchanged for another"
            for side in SIDES
        ]
        joint = "a patient is on one of these sides, so the larger epsilon is every patient's"
        if len(splits) > 1:
            joint = "the runs held out different patients, or it is not known which, so both sides are added up"
        return [
            f"from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC",
            f"guarantee: {GUARANTEE}",
            f"spent by all runs: epsilon {summary.epsilon:.4g} at delta {summary.delta:g}, "
            f"in {number_of(summary.rounds, 'round')} of {number_of(len(runs), 'run')}",
            *sides,
            joint,
            EXCHANGE_NOTE,
            f"accountant: {ACCOUNTANT}",
            "a round or an evaluation counts from before its noise was drawn, whether or not it arrived",
            "runs without differential privacy are not included; with --dp-budget a hospital joins none of them",
            *(
                ["lines without a split are of an earlier version, whose held-out figures had no noise"]
                if "" in splits
                else []
            ),
        ]

    def tables(self) -> dict[str, dict[str, dict[str, object]]]:
        """Title -> a table with one row per run."""
        return {"Runs": {f"{run.first:%Y-%m-%d} {token}": _row(run) for token, run in self.summary.runs.items()}}


def read_page(path: Path) -> BudgetPage:
    """The page of a privacy account; PrivacyError if it cannot be read, is no such file, or holds no line."""
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise PrivacyError(f"{path}: cannot be read ({error.strerror})") from None
    if not is_regular:  # reading a pipe could block forever
        raise PrivacyError(f"{path}: is not a regular file")
    summary = PrivacyBudget(path).summary()
    if not summary.runs:
        raise PrivacyError(f"{path}: holds no round and no evaluation")
    return BudgetPage(path, summary)


def _row(run: RunSummary) -> dict[str, object]:
    """Figures as text, since their magnitudes differ too much for one number format."""
    plan, limit = run.last_round, next(iter(run.spends)).epsilon
    training, held_out = (f"{run.epsilon(side):.4g}" for side in SIDES)
    row: dict[str, object] = {"training": f"{training} of {limit:g}", "held-out": held_out, "delta": f"{run.delta:g}"}
    if plan is not None:
        row |= {
            "clip": f"{plan.clip:g}",
            "noise": f"{plan.noise_multiplier:.4g}",
            "rate": f"{plan.sampling_rate:.3g}",
            "steps": run.rounds * plan.steps,
            "rounds": f"{run.rounds} of {plan.rounds}",
        }
    return row
