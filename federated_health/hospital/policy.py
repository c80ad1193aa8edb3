"""What a hospital allows: the runs that it joins, and what may leave it. `docs/policy.md` explains every key."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from federated_health.messages.content import SECURE_AGGREGATION_ONLY
from federated_health.names import ALLOWED_EPSILON, POLICY

if TYPE_CHECKING:
    from federated_health.data.tasks import Task
    from federated_health.messages.run_terms import RunTerms


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A hospital's policy, by default that of a hospital without a file: every run is allowed, small cells are not.

    Attributes: the keys of a policy file, and
        public: whether the data are public, so that nothing is suppressed; the manifest says so, never the file.
        file, text: the file and its content, for the lines in refusals.
        flags: key -> flag that set it, in place of the file.
    """

    min_cell: int = 5
    servers: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    min_hospitals: int = 1
    max_rounds: float = math.inf
    max_local_epochs: float = math.inf
    min_batch_size: int = 1
    max_parameters_per_row: float = math.inf
    above_max_parameters: str = "warn"
    max_epsilon: float = math.inf
    max_delta: float = 1.0
    require_secure_aggregation: bool = False
    releases_off: tuple[str, ...] = ()
    public: bool = False
    file: str = ""
    text: str = field(default="", repr=False)
    flags: Mapping[str, str] = field(default_factory=dict)

    def allows(self, release: str) -> bool:
        return release not in self.releases_off

    def refusals(
        self, terms: "RunTerms", *, train_rows: int, server: str = "", task: "Task | None" = None
    ) -> list[str]:
        """Why a run with these terms is not allowed (see `policy_rules.find_refusals`); empty if it is."""
        from federated_health.hospital import policy_rules  # noqa: PLC0415  # only where consent is asked for

        return policy_rules.find_refusals(self, terms, train_rows, server, task)

    def warnings(self, terms: "RunTerms", *, train_rows: int, task: "Task | None" = None) -> list[str]:
        """What the policy says of a run that it allows (see `policy_rules.find_warnings`)."""
        from federated_health.hospital import policy_rules  # noqa: PLC0415  # only where consent is asked for

        return policy_rules.find_warnings(self, terms, train_rows, task)


def policy_of(config: Mapping[str, Any]) -> Policy:
    """The policy of a node's config: of its file and its flags; a DataError if the file cannot be used."""
    if not any(config.get(key) for key in (POLICY, ALLOWED_EPSILON, SECURE_AGGREGATION_ONLY)):
        return Policy()
    from federated_health.hospital.policy_file import read_node_policy  # noqa: PLC0415  # only where there is one

    return read_node_policy(config)
