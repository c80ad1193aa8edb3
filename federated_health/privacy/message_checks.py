"""What a hospital holds a server to: nothing of its training rows leaves that is not accounted for."""

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context

from federated_health.errors import BudgetError
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.privacy.budget import Account

AGREED = "privacy"
"""Where in a hospital's context the plan stands that it joined with."""

BUDGET = "dp-budget"
"""In a node's config: the epsilon that the hospital allows in all; it joins no run without differential privacy."""


def agree(context: Context, asked: Mapping[str, Any], account: Account, rows: int) -> PrivacyPlan | None:
    """Join a run under what its first message promises, or refuse; None without differential privacy.

    Args:
        asked: the message's settings.
        rows: that the hospital trains on.

    Raises:
        MalformedMessageError: the promise is not valid.
        BudgetError: the hospital asks for more privacy than that, or joined with a promise before.
    """
    plan = PrivacyPlan.from_config(asked)
    if plan is None:
        check(context, plan)
    else:
        account.admit(plan, rows, budget_of(context))
        context.state[AGREED] = ConfigRecord({**plan.to_config()})
    return plan


def check(context: Context, plan: PrivacyPlan | None) -> None:
    """Refuse a message that promises something else than what the hospital joined with.

    Raises:
        BudgetError: it does.
    """
    agreed = context.state.config_records.get(AGREED)
    if plan is None and budget_of(context) is not None:
        raise _refusal("it takes part only in runs with differential privacy")
    if plan is None and agreed is not None:
        raise _refusal("it joined with differential privacy, and goes on with nothing less")
    if plan is not None and (agreed is None or dict(agreed) != plan.to_config()):
        raise _refusal("the server's promise of differential privacy is not the one that it joined with")


def refuse_unaccounted(plan: PrivacyPlan | None, what: str) -> None:
    """Refuse what reads training rows and is not accounted for.

    Raises:
        BudgetError: the run has differential privacy.
    """
    if plan is not None:
        raise _refusal(f"{what}: it reads training rows, and no privacy budget accounts for it")


def budget_of(context: Context) -> float | None:
    """The epsilon that the hospital allows in all; None where it goes along with the first run's."""
    value = context.node_config.get(BUDGET)
    return None if value is None else float(value)


def _refusal(words: str) -> BudgetError:
    """In words that the server may hear, too."""
    return BudgetError(words, reason=words)
