"""Which messages a hospital may answer under differential privacy.

Nothing derived from its rows leaves the hospital unless the privacy budget accounts for it.
"""

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context

from federated_health.data.hospital import Hospital
from federated_health.errors import BudgetError
from federated_health.messages.accepted_terms import IN_PROCESS
from federated_health.messages.run_terms import RUN_TERMS
from federated_health.messages.server_messages import read_privacy_plan
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.names import AGREED_PLAN, ALLOWED_EPSILON
from federated_health.privacy.budget import PrivacyBudget
from federated_health.privacy.spending import digest_of_split


def agree_on_plan(
    context: Context, config: Mapping[str, Any], budget: PrivacyBudget, hospital: Hospital
) -> PrivacyPlan | None:
    """Accept and remember the plan in the config of a run's first message; None without differential privacy.

    Raises:
        MalformedMessageError: the plan is not valid.
        BudgetError: the budget does not allow the run, the hospital accepted the terms of another one, or it asks for
            differential privacy.
    """
    plan = read_privacy_plan(config)
    if plan is not None:
        _check_run(context, plan, budget)
        budget.check_run(plan, len(hospital.train), allowed_epsilon(context), split=digest_of_split(hospital))
        context.state[AGREED_PLAN] = ConfigRecord({**plan.to_config()})
    check_plan(context, plan)
    return plan


def _check_run(context: Context, plan: PrivacyPlan, budget: PrivacyBudget) -> None:
    """Refuse another run than the one in which the hospital has spent epsilon since it accepted the terms.

    Their epsilon is that of one run. A hospital that accepts by itself accepts each run anew.
    """
    agreed, terms = (context.state.config_records.get(key) for key in (AGREED_PLAN, RUN_TERMS))
    if agreed is None or terms is None or terms["by"] == IN_PROCESS or agreed["dp-run"] == plan.run:
        return
    if agreed["dp-run"] in budget.summary().runs:
        raise BudgetError(
            "it accepted the terms of another run with differential privacy: a new one needs a new process"
        )


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


def spend_round(context: Context, plan: PrivacyPlan, budget: PrivacyBudget, hospital: Hospital) -> None:
    """Record a round before it is trained (see `PrivacyBudget.spend`)."""
    budget.spend(plan, allowed_epsilon(context), split=digest_of_split(hospital))


def refuse_unaccounted(plan: PrivacyPlan | None, purpose: str) -> None:
    """Raise BudgetError in a run with differential privacy, for a message whose answer no noise protects."""
    if plan is not None:
        raise BudgetError(f"{purpose}: it reads patients' rows, and no privacy budget accounts for it")


def allowed_epsilon(context: Context) -> float | None:
    """The epsilon that the hospital allows over all runs; None for that of the first run's plan."""
    value = context.node_config.get(ALLOWED_EPSILON)
    return None if value is None else float(value)
