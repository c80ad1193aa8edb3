"""Patient-level differential privacy: what is promised, what it costs, and what has been spent of it."""

from federated_health.privacy.account import Account, RunStatement, Statement
from federated_health.privacy.entropy import gaussian_noise, poisson_sample
from federated_health.privacy.plan import PROMISE, PrivacyPlan

__all__ = ["PROMISE", "Account", "PrivacyPlan", "RunStatement", "Statement", "gaussian_noise", "poisson_sample"]
