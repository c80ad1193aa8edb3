"""What a hospital allows: the runs that it joins, and what may leave it. `docs/policy.md` explains every key."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from federated_health.messages.run_terms import RunTerms

POLICY = "policy"
"""Key of a node's config: path of the policy's file; absent or empty for the defaults."""

WARN, REFUSE = "warn", "refuse"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A hospital's policy; the defaults allow every run, and suppress small cells.

    Attributes:
        min_cell: smallest number of patients in a published cell.
        public: whether the data are public, so that nothing is suppressed; the manifest says so, never the file.
        servers: SHA-256, in lower-case hex, of the certificates of the servers to join; empty for any.
        tasks, strategies: allowed names; empty for any.
        networks: allowed networks, each mlp, logistic or a hash (see `RunTerms.network_hash`); empty for any.
        min_hospitals: smallest number of hospitals in an average, as the server's --min-hospitals.
        max_parameters_per_row: largest number of the network's weights per training row.
        too_many_parameters: whether more of them warn or refuse.
        differential_privacy: whether a run must have it, with at most `max_epsilon` and `max_delta`.
        secure_aggregation: whether a run must have it.
        releases_off: names of releases that are suppressed (see `messages.releases`).
        places: key -> where it was set, such as `policy.toml, line 3` or `--dp-budget`.
    """

    min_cell: int = 5
    public: bool = False
    servers: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    min_hospitals: int = 1
    max_rounds: int | None = None
    max_local_epochs: int | None = None
    min_batch_size: int = 1
    max_parameters_per_row: float = math.inf
    too_many_parameters: str = WARN
    differential_privacy: bool = False
    max_epsilon: float = math.inf
    max_delta: float = 1.0
    secure_aggregation: bool = False
    releases_off: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict, compare=False)

    def allows(self, release: str) -> bool:
        """Whether values of this name may leave, as far as the list of what is off says."""
        return release not in self.releases_off

    def refusals(self, terms: "RunTerms", *, train_rows: int, server: str = "") -> list[str]:
        """Why the hospital does not join a run with these terms, one text per line of the policy; empty if it may.

        Args:
            train_rows: number of this hospital's training rows.
            server: SHA-256, in lower-case hex, of the server's certificate; empty without TLS.
        """
        from federated_health.hospital.policy_rules import find_refusals  # noqa: PLC0415  # only with a policy

        return find_refusals(self, terms, train_rows, server)

    def warnings(self, terms: "RunTerms", *, train_rows: int) -> list[str]:
        """What the policy says of a run with these terms without refusing it."""
        from federated_health.hospital.policy_rules import find_warnings  # noqa: PLC0415  # only with a policy

        return find_warnings(self, terms, train_rows)
