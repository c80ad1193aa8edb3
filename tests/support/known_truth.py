"""Simulated federations of which it is known what joining does to each hospital.

The log-odds of a patient are known. A model's log-odds are these with noise, as of a model from few rows; less noise is
a better ranking and better risks. A shift makes risks too high without changing the ranking.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from federated_health.ml.targets.binary import probability
from federated_health.ml.verdicts import Verdict

Floats = npt.NDArray[np.float32]


class Truth(StrEnum):
    """What joining does."""

    HELPS = "joining helps"
    HARMS_RISKS = "joining harms the risks but not the ranking"
    CHANGES_NOTHING = "joining changes nothing"


VERDICTS = {
    Truth.HELPS: {"roc_auc": Verdict.GAINS, "brier": Verdict.GAINS},
    Truth.HARMS_RISKS: {"roc_auc": Verdict.UNCLEAR, "brier": Verdict.LOSES},
    Truth.CHANGES_NOTHING: {"roc_auc": Verdict.UNCLEAR, "brier": Verdict.UNCLEAR},
}
"""The right verdicts by figure."""

COMBINED = {
    Truth.HELPS: Verdict.GAINS,
    Truth.HARMS_RISKS: Verdict.LOSES,
    Truth.CHANGES_NOTHING: Verdict.UNCLEAR,
}
"""The right verdict on both figures together."""

_OWN_NOISE = {Truth.HELPS: 2.5, Truth.HARMS_RISKS: 0.5, Truth.CHANGES_NOTHING: 0.5}
_SHIFT = {Truth.HELPS: 0.0, Truth.HARMS_RISKS: 1.5, Truth.CHANGES_NOTHING: 0.0}


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out patients of a hospital: labels of 0 or 1, and log-odds by both models, each [patients]."""

    labels: Floats
    own: Floats
    federated: Floats


def simulate_federation(truth: Truth, *, hospitals: int = 3, patients: int = 400, seed: int = 0) -> dict[str, HeldOut]:
    """Held-out patients by hospital; about 4 in 10 are positive."""
    generator = np.random.default_rng(seed)

    def hospital() -> HeldOut:
        log_odds = generator.normal(-0.5, 1.5, patients)
        labels = generator.random(patients) < probability(log_odds)
        own, federated = (
            log_odds + generator.normal(0, noise, patients) + shift
            for noise, shift in ((_OWN_NOISE[truth], 0.0), (0.5, _SHIFT[truth]))
        )
        return HeldOut(*(part.astype(np.float32) for part in (labels, own, federated)))

    return {f"hospital-{number}": hospital() for number in range(1, hospitals + 1)}
