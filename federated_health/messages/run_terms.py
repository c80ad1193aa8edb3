"""What a server states about a run before any hospital registers, for each hospital to accept or to refuse."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from federated_health.ml.networks import Network

if TYPE_CHECKING:
    from federated_health.settings import Settings

RUN_TERMS = "run-terms"
"""Key of the request to register: the run terms as text; and record of a hospital's state: the text it accepted."""

NOT_ACCEPTED = "it has not accepted the terms of a run"
"""Reason of a hospital that was not asked to register, or that has lost its state, as under Flower's engines."""

MAX_TERMS_CHARACTERS, HASH_DIGITS = 65_536, 32
"""Largest length of run terms as text, which is ASCII; and number of hex digits of their hash: 128 bits."""


@dataclass(frozen=True, kw_only=True)
class RunTerms:
    """A run as a hospital accepts it.

    Attributes:
        schema: hash of the task's columns.
        network: see `Network.to_config`.
        parameters: number of the network's weights, of which each update consists.
        rounds: largest number of rounds.
        hospitals: number of hospitals for which the server waits before the first round.
        min_updates: smallest number of hospitals in an average.
        authority: SHA-256, in hex, of the certificate of the authority that admits hospitals; empty without TLS.
        epsilon, delta: of differential privacy over the whole run; 0 without.
        secure_aggregation: whether the server learns sums over at least three hospitals only.
        appraisal: whether hospitals report what they gain by joining.
        retention: what the server keeps, in words.
    """

    task: str
    schema: str
    network: dict[str, str | float]
    parameters: int
    strategy: str
    strategy_args: str
    rounds: int
    local_epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str
    l2: float
    class_weight: str
    seed: int
    hospitals: int
    min_updates: int
    authority: str
    epsilon: float
    delta: float
    secure_aggregation: bool
    appraisal: bool
    retention: str

    @classmethod
    def of(cls, settings: "Settings", authority: str = "") -> "RunTerms":
        """The terms of a run with these settings (see `stated_terms`)."""
        from federated_health.messages.stated_terms import terms_of  # noqa: PLC0415  # a hospital states none

        return terms_of(settings, authority)

    @cached_property
    def text(self) -> str:
        """The terms as JSON with sorted keys: equal terms are equal texts."""
        return json.dumps(asdict(self), sort_keys=True)

    @cached_property
    def hash(self) -> str:
        """What stands for the terms in `--accept`, in ledgers and in logs."""
        return hash_of(self.text)

    @property
    def network_hash(self) -> str:
        """SHA-256, in hex, of the network: of its file, or of what a message says of it."""
        network = Network.from_config(self.network)
        return network.sha256 or hashlib.sha256(json.dumps(self.network, sort_keys=True).encode()).hexdigest()

    @cached_property
    def releases(self) -> tuple[str, ...]:
        """Names of what leaves a hospital in such a run (see `messages.releases`)."""
        private, hidden = self.epsilon > 0, self.secure_aggregation
        sums = () if private else ("column-sums",)
        more = () if private or hidden else ("associations",)
        classes = ("class-counts",) if self.class_weight == "balanced" and not private else ()
        figures = ("final-evaluation",) if private else ("training-loss", "round-evaluation", "final-evaluation")
        own = () if hidden else ("roc-auc", "subgroups")
        scores = () if private else ("threshold-scores", "scores", *own)
        masked = ("masked",) if hidden else ()
        benefit = ("appraisal",) if self.appraisal and not private else ()
        return ("name", "row-counts", *sums, *more, *classes, "weights", *figures, *scores, *benefit, *masked, "error")


def hash_of(text: str) -> str:
    """Hash of run terms as text: the first HASH_DIGITS of its SHA-256, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]
