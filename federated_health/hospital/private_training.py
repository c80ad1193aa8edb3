"""Training under differential privacy at a hospital, and the privacy budget from which it is spent."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context

from federated_health import privacy
from federated_health.hospital.handlers import InMemoryHospital, own_csv
from federated_health.hospital.ledger import LEDGER
from federated_health.messages.content import TrainConfig, Update
from federated_health.ml.networks import Weights

if TYPE_CHECKING:
    from federated_health.hospital.local_model import LocalModel
    from federated_health.ml.privacy_plan import PrivacyPlan
    from federated_health.privacy.budget import PrivacyBudget


def budget_of(context: Context) -> "PrivacyBudget":
    """The privacy budget of this hospital's training rows, which all runs spend from."""
    if isinstance(context, InMemoryHospital):
        context.budget = context.budget or privacy.load().budget.PrivacyBudget()
        return context.budget
    return _budget_beside(*own_csv(context), context.node_config.get(LEDGER))


@lru_cache(maxsize=1024)
def _budget_beside(path: Path, name: str, ledger: str | None) -> "PrivacyBudget":
    budget: PrivacyBudget = privacy.load().budget.PrivacyBudget.beside(path, name, Path(ledger) if ledger else None)
    return budget


def train_privately(
    config: TrainConfig,
    plan: "PrivacyPlan",
    local: "LocalModel",
    weights: Weights,
    context: Context,
    proximal_mu: float,
) -> Update:
    """A round's noisy steps, which are spent from the budget first."""
    privacy.load().message_checks.spend_round(context, plan, budget_of(context), local.hospital)
    rows = local.hospital.train
    trained = privacy.load_training().train_privately(
        local.hospital.task,
        config.network,
        weights,
        local.train_features,
        rows.labels,
        rows.number_patients(),
        plan,
        l2=config.l2,
        proximal_mu=proximal_mu,
    )
    return Update(weights=trained, examples=local.train_rows, loss=None)
