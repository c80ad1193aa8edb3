"""The data from which a run's page is made."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from federated_health.data.tasks import Task
from federated_health.messages.content import Evaluation, Registration, TrainConfig
from federated_health.ml.rounds import Round
from federated_health.settings import Settings


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A completed or stopped run as the writer of the page knows it. Sections without data are left out.

    Attributes:
        config: the train config of the final model; `rounds` counts the completed rounds.
        figures: `hospitals`, `federation` and what else there is of metrics.json.
        hospital: the hospital that writes the page; empty for the server.
        hospitals: number of hospitals that trained, if `rounds` does not hold all of them; 0 if it is not known.
        settings: None if `hospital` does not know them.
        rounds: the completed rounds, as far as they are known.
        evaluations: final evaluations by hospital, or of the federation alone.
        problems: one line each.
        stopped: whether the run ended before its last round.
        privacy_spent: the differential privacy that `hospital` has spent, in a sentence.
        facts: further names and values, such as hashes of files.
    """

    task: Task
    config: TrainConfig
    figures: Mapping[str, Any]
    hospital: str = ""
    hospitals: int = 0
    settings: Settings | None = None
    registrations: Mapping[str, Registration] = field(default_factory=dict)
    rounds: Sequence[Round] = ()
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    problems: Sequence[str] = ()
    stopped: bool = False
    encrypted: bool = False
    privacy_spent: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def rounds_trained(self) -> Counter[str]:
        """Hospital -> number of known rounds in which it trained; without hospitals that did not train."""
        return Counter(name for record in self.rounds for name, part in record.hospitals.items() if part.train_examples)

    @property
    def hospital_count(self) -> int:
        """Number of hospitals that trained; 0 if `hospital` does not know it."""
        return self.hospitals or len(self.rounds_trained)
