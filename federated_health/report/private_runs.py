"""Sections of the page of a run with differential privacy or secure aggregation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from federated_health.ml import load_privacy_plan
from federated_health.ml.noisy_evaluation import NO_FIGURES, NOISE, edges_of, fixed_threshold, table_shape
from federated_health.report.cells import Cell, Noisy
from federated_health.report.formatting import capitalise, number_of
from federated_health.report.page import Caution, Section
from federated_health.report.panels import Panels

if TYPE_CHECKING:
    from federated_health.report.run_page import RunSummary


def privacy_section(run: "RunSummary", panels: Panels) -> Section:
    """The guarantee to each patient and how it was met."""
    plan = run.config.privacy
    assert plan is not None
    threshold = f", so the threshold is fixed: {fixed_threshold(panels.target)}" if panels.target.has_threshold else ""
    exchanged = plan.exchange_epsilons
    guarantee = (
        f"Every hospital took part with ({plan.epsilon:g}, {plan.delta:g})-differential privacy for its patients: the "
        f"training patients over the whole run, and the held-out ones in its final evaluation. Guarantee: "
        f"{load_privacy_plan().GUARANTEE}."
    )
    items = [
        f"If a patient is exchanged for another on the same side of the split, epsilon is {exchanged['training']:.4g} "
        f"for a training patient and {exchanged['held_out']:.4g} for a held-out one. If a patient is added to the CSV "
        f"or removed from it, which can exchange one on each side, it is {exchanged['both']:.4g}.",
        f"{number_of(plan.steps, 'step')} per round: in each step a patient takes part with probability "
        f"{plan.sampling_rate:g}, its gradient is clipped to an L2 norm of {plan.clip:g}, and the hospital adds "
        f"Gaussian noise of {plan.noise_multiplier:g} times that to their sum.",
        f"The noise is enough for {plan.rounds} rounds, which each hospital counts on its own disk: a repeated round "
        "counts again.",
        "Columns are scaled by the ranges that the task declares. No sums, training losses, training scores or "
        f"comparisons with a hospital's own model were released{threshold}.",
        "No round was evaluated: figures per round would tell who is held out. The final model is evaluated at most "
        "once, and each hospital records that as it records a round.",
    ]
    items += [f"Privacy budget of this hospital: {run.privacy_spent}."] if run.privacy_spent else []
    noisy = Caution(explain_noise(panels))
    return Section("Differential privacy", [guarantee, items, noisy])


def explain_noise(panels: Panels) -> str:
    """Why figures of a run with differential privacy are not exact, or why there are none."""
    if table_shape(panels.target) is None:
        return f"{capitalise(NO_FIGURES)}."
    return (
        "Figures on held-out patients are computed from counts with noise; \N{PLUS-MINUS SIGN} is the standard "
        "deviation of the noise. What another sample of patients would change comes on top of it."
    )


def with_noise(row: Mapping[str, Any]) -> dict[str, Cell]:
    """Figures with the standard deviation of their noise; others as they are."""
    noise = {name.removesuffix(NOISE): value for name, value in row.items() if name.endswith(NOISE)}
    return {
        name: Noisy(value, noise[name]) if name in noise else value
        for name, value in row.items()
        if not name.endswith(NOISE)
    }


def list_sent_privately(panels: Panels) -> list[str]:
    """What each hospital sent in the rounds and at the end of a run with differential privacy."""
    by = (
        f"their class and {len(edges_of(panels.target)) + 1} ranges of their risk"
        if panels.target.has_threshold
        else "their class and predicted class"
    )
    counts = (
        "nothing about held-out patients"
        if table_shape(panels.target) is None
        else (f"once, noisy numbers of held-out patients by {by}")
    )
    return ["In each round: its model's noisy weights.", f"At the end: {counts}."]


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
