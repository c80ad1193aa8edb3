"""Sections of the page of a run with differential privacy or secure aggregation."""

from typing import TYPE_CHECKING

from federated_health.ml import load_privacy_plan
from federated_health.report.formatting import number_of
from federated_health.report.page import Caution, Section
from federated_health.report.panels import Panels

if TYPE_CHECKING:
    from federated_health.report.run_page import RunSummary


def privacy_section(run: "RunSummary", panels: Panels) -> Section:
    """The guarantee to each training patient and how it was met."""
    plan = run.config.privacy
    assert plan is not None
    threshold = ", so the threshold is 0.5" if panels.target.has_threshold else ""
    guarantee = (
        f"Every hospital trained with ({plan.epsilon:g}, {plan.delta:g})-differential privacy for its training "
        f"patients, over the whole run: {load_privacy_plan().GUARANTEE}."
    )
    items = [
        f"{number_of(plan.steps, 'step')} per round: in each step a patient takes part with probability "
        f"{plan.sampling_rate:g}, its gradient is clipped to an L2 norm of {plan.clip:g}, and the hospital adds "
        f"Gaussian noise of {plan.noise_multiplier:g} times that to their sum.",
        f"The noise is enough for {plan.rounds} rounds, which each hospital counts on its own disk: a repeated round "
        "counts again.",
        "Columns are scaled by the ranges that the task declares. No sums, training losses, training scores or "
        f"comparisons with a hospital's own model were released{threshold}.",
    ]
    items += [f"Privacy budget of this hospital: {run.privacy_spent}."] if run.privacy_spent else []
    exact = Caution("Figures on held-out patients are exact: differential privacy does not protect these patients.")
    return Section("Differential privacy", [guarantee, items, exact])


def list_sent_masked(run: "RunSummary") -> list[str]:
    """What each hospital sent with secure aggregation; `secure_aggregation.messages` has the exact list."""
    sums, weights, losses = "sums of its columns, ", "weights", "losses"
    if run.config.privacy is not None:
        sums, weights, losses = "", "noisy weights", "their losses"
    return [
        "At registration: its name, the columns that it expects, the numbers of its training and held-out "
        "patients, and its certificate.",
        f"Masked, so that the server learned only the sums over all hospitals: {sums}its model's {weights} in every "
        f"round, counts of held-out patients and sums of {losses}, and at the end numbers of patients by score.",
    ]
