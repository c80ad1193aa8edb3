"""Which messages a hospital may answer under differential privacy.

Nothing derived from its training rows leaves the hospital unless the privacy budget accounts for it.
"""

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context

from federated_health.data.hospital import Patients
from federated_health.errors import BudgetError
from federated_health.messages.server_messages import read_privacy_plan
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.names import AGREED_PLAN, ALLOWED_EPSILON
from federated_health.privacy.budget import PrivacyBudget


def agree_on_plan(
    context: Context, config: Mapping[str, Any], budget: PrivacyBudget, rows: Patients
) -> PrivacyPlan | None:
    """Accept and remember the plan in the config of a run's first message; None without differential privacy.

    Args:
        rows: the hospital's training rows.

    Raises:
        MalformedMessageError: the plan is not valid.
        BudgetError: the budget does not allow the run, or the hospital asks for differential privacy; or a patient has
            several rows, of which the plan protects each alone.
    """
    plan = read_privacy_plan(config)
    if plan is not None:
        if rows.most_rows > 1:
            raise BudgetError("differential privacy protects single rows: expected one row per patient, got several")
        budget.check_run(plan, len(rows), allowed_epsilon(context))
        context.state[AGREED_PLAN] = ConfigRecord({**plan.to_config()})
    check_plan(context, plan)
    return plan


def check_plan(context: Context, plan: PrivacyPlan | None) -> None:
    """Check that a message carries the plan with which the hospital joined.

    Raises:
        BudgetError: it carries another plan, or none although the hospital asks for differential privacy.
    """
    agreed = context.state.config_records.get(AGREED_PLAN)
    if plan is None and allowed_epsilon(context) is not None:
        raise BudgetError("it takes part only in runs with differential privacy")
    if plan is None and agreed is not None:
        raise BudgetError("it joined a run with differential privacy, and the message is without")
    if plan is not None and (agreed is None or dict(agreed) != plan.to_config()):
        raise BudgetError("the server's privacy plan is not the one with which it joined")


def refuse_unaccounted(plan: PrivacyPlan | None, purpose: str) -> None:
    """Raise BudgetError in a run with differential privacy, for a message whose answer depends on training rows."""
    if plan is not None:
        raise BudgetError(f"{purpose}: it reads training rows, and no privacy budget accounts for it")


def allowed_epsilon(context: Context) -> float | None:
    """The epsilon that the hospital allows over all runs; None for that of the first run's plan."""
    value = context.node_config.get(ALLOWED_EPSILON)
    return None if value is None else float(value)
