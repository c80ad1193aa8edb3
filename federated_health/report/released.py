"""Of a run's page: what left the hospitals, and what their patients are promised."""

from collections.abc import Iterator

from federated_health.ml.metrics import MIN_CELL_SIZE
from federated_health.ml.normalisation import MIN_OBSERVED
from federated_health.privacy.plan import PROMISE, PrivacyPlan
from federated_health.report.formatting import number_of
from federated_health.report.page import Block, Bullets, Caution, Section, Text


def privacy_of_run(plan: PrivacyPlan | None, account: str = "") -> Iterator[Section]:
    """What was promised to each training patient, and by what means; nothing without differential privacy.

    Args:
        account: what the hospital that writes the page was charged, in a line; empty on a server's page.
    """
    if plan is None:
        return
    blocks: list[Block] = [
        Text(
            words=f"Every hospital trained with ({plan.epsilon:g}, {plan.delta:g})-differential privacy of its "
            f"training patients, over the whole run: {PROMISE}."
        ),
        Bullets(
            items=(
                f"{number_of(plan.steps, 'step')} a round; in each a patient takes part with chance "
                f"{plan.sampling_rate:g}, its gradient is clipped to an L2 norm of {plan.clip:g}, and Gaussian noise "
                f"of {plan.noise_multiplier:g} times that is added to their sum, at the hospital.",
                f"The noise is enough for {plan.rounds} rounds, which each hospital counts on its own disk: a round "
                "that is repeated counts again.",
                "Columns are scaled by what the task declares of them. No sums, training losses, training scores or "
                "comparisons with a hospital's own model were released, so the threshold is 0.5.",
                *([f"This hospital's own account: {account}."] if account else []),
            )
        ),
        Caution(words="Figures on held-out patients, above, are exact: those patients are not protected by it."),
    ]
    yield Section(title="Differential privacy", blocks=tuple(blocks))


def released_by_hospitals(
    *, asked: bool, private: bool, drawn: str = "This page is drawn from nothing else."
) -> Section:
    """For who has to know what left the hospitals; `messages` has the exact list.

    Args:
        asked: whether hospitals were asked what joining gave them.
        private: whether they trained with differential privacy.
        drawn: what the page is drawn from, in a sentence.
    """
    sums = (
        "; of each measurement how many training patients have it, and the sum and the sum of squares of its values "
        f"(nothing where fewer than {MIN_OBSERVED} have it)"
    )
    items = [
        "When it joined: its name, the columns that it expects, how many patients it trains on and holds out"
        f"{'' if private else sums}.",
        f"Each round: its model's {'noisy weights' if private else 'weights and mean training loss'}; how many "
        "held-out patients were predicted rightly and wrongly in either class, and the sums of their losses.",
        f"At the end: the same counts, its ROC-AUC, and its scores of {'' if private else 'training and of '}held-out "
        f"patients as cells of at least {MIN_CELL_SIZE} patients of a class, each with their number, and mean and "
        "deviation of the scores.",
    ]
    if asked:
        items.append(
            "At the end, what joining gave it, how much each column weighs on its held-out patients, and of each "
            "column how many training patients have it."
        )
    return Section(
        title="What left each hospital",
        blocks=(
            Bullets(items=tuple(items)),
            Text(words=f"No patient's record did. {drawn}"),
        ),
    )
