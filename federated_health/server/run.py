"""What every federated run has in common, whatever the server learns of single hospitals."""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from federated_health.messages.content import Evaluation, TrainConfig
from federated_health.ml.metrics import DEFAULT_THRESHOLD
from federated_health.ml.networks import Weights
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.rounds import Round
from federated_health.ml.strategies import write_arguments
from federated_health.ml.targets import target_of
from federated_health.server.checkpoint import Checkpoint, State
from federated_health.server.participants import Participants
from federated_health.server.problem_log import ProblemLog
from federated_health.server.replies import ReplyCollector
from federated_health.settings import Settings
from federated_health.transport.interface import Transport

if TYPE_CHECKING:
    from federated_health.ml.privacy_plan import PrivacyPlan

REJOIN_SECONDS = 10.0
"""Seconds that a resumed run waits for more hospitals than it needs: twice their longest reconnection delay."""


class FederatedRun(ABC):
    """One training from start to finish, over any transport.

    Call `gather`, iterate over `rounds`, then call `evaluate`. A run that was cut off starts with `resume` and its
    checkpoint. After an interruption between two rounds, `history` and all that a checkpoint holds are those of the
    last completed round.

    Attributes:
        threshold: decision threshold, a probability; 0.5 until one is chosen at the end.
        registrations: registration of every hospital that has taken part, by name.
        weights: of the last completed round.
        normalisation: of the measurements, once hospitals have gathered.
        class_weights: factor of each class's loss; empty where all rows count the same.
        evaluations: what hospitals sent of the final weights, by name; with secure aggregation or differential privacy
            in the end that of the federation alone.
        run_id: 16 random hex digits, which a resumed run keeps.

    Raises:
        UserError: the transport cannot carry a run with these settings.
    """

    def __init__(self, transport: Transport, settings: Settings) -> None:
        transport.check(settings)
        if settings.network:
            from federated_health.server.own_network import check_own_network  # noqa: PLC0415  # only with a file

            check_own_network(settings)
        self.settings = settings
        self.run_id = secrets.token_hex(8)
        self.history: list[Round] = []
        self.threshold = DEFAULT_THRESHOLD
        self.problems = ProblemLog()
        self.weights: Weights = {}
        self.normalisation: Normalisation | None = None
        self.class_weights: tuple[float, ...] = ()
        self.evaluations: dict[str, Evaluation] = {}
        self.collector = ReplyCollector(transport, settings.round_timeout, self.problems)
        self.participants = Participants(transport, settings, self.collector)
        self.participants.privacy = self.privacy
        self.registrations = self.participants.registrations

    @property
    def privacy(self) -> "PrivacyPlan | None":
        """Differential-privacy guarantee to the run's training patients; None without."""
        return self.settings.privacy_plan(self.run_id)

    @property
    def asks_benefit(self) -> bool:
        """Whether hospitals report what they gain by joining, which depends on their training rows."""
        return self.settings.appraisal and self.privacy is None

    @property
    def last_round(self) -> Round | None:
        """The last completed round."""
        return self.history[-1] if self.history else None

    @property
    def train_examples(self) -> dict[str, int]:
        """Number of training rows by hospital."""
        return {name: registration.train_examples for name, registration in self.registrations.items()}

    def run(self) -> dict[str, Any]:
        """Gather, train every round and evaluate, without console output; returns the figures (see `evaluate`)."""
        self.gather()
        for _ in self.rounds():
            pass
        return self.evaluate()

    def gather(self, announce: Callable[[str], None] = lambda _: None) -> None:
        """Wait for the hospitals and prepare the first round.

        A resumed run waits for as many hospitals as a round needs, then briefly for the others. `announce` is called
        with lines that say which hospitals are awaited and how many are connected.

        Raises:
            RunError: too few hospitals joined within the settings' `wait`, or too few can take part.
        """
        is_resumed = self.participants.has_begun
        needed = self.settings.min_updates if is_resumed else self.settings.hospitals
        deadline = time.monotonic() + self.settings.wait
        present = self.participants.wait_for(needed, "waiting for hospitals", announce, deadline)
        if is_resumed:
            present = self.participants.wait_for_absent(min(REJOIN_SECONDS, self.settings.wait), announce)
            what = f"resuming after round {len(self.history)}"
        else:
            self.participants.begin(present)
            self._begin()
            what = "training"
        announce(f"{what} with {', '.join(sorted(self.participants.names()[node] for node in present))}")
        for line in self.problems.describe_data_warnings():
            announce(line)
        if self.privacy is not None:
            announce(self.privacy.describe())
            from federated_health.ml.noisy_evaluation import NO_FIGURES, table_shape  # noqa: PLC0415  # with privacy only

            if table_shape(target_of(self.settings.task_declaration)) is None:
                announce(NO_FIGURES)

    @abstractmethod
    def _begin(self) -> None:
        """Prepare what all rounds need among the hospitals that have gathered."""

    @abstractmethod
    def rounds(self) -> Iterator[Round]:
        """Train, average and evaluate, from the first round that is not completed.

        A round with too few valid updates is repeated, for at most the settings' `wait`.

        Raises:
            RunError: there are still too few, or the averaged weights are not finite.
        """

    @abstractmethod
    def evaluate(self) -> dict[str, Any]:
        """Evaluate the final model at the hospitals; returns figures as in metrics.json, as far as the server has them.

        Where fewer hospitals answer than a round needs, the others are awaited and asked again, for at most the
        settings' `wait`.
        """

    @abstractmethod
    def figures_of_last_round(self) -> dict[str, Any]:
        """Figures of the last completed round, for a run that ends without a final evaluation."""

    def train_config(self) -> TrainConfig:
        """Configuration that hospitals get with the weights; its `rounds` counts completed rounds."""
        assert self.normalisation is not None, "gather comes first"
        settings = self.settings
        return TrainConfig(
            task=settings.task,
            schema=settings.task_declaration.schema_hash,
            network=settings.network_declaration,
            strategy=settings.strategy,
            strategy_args=write_arguments(settings.strategy_arguments),
            rounds=len(self.history),
            local_epochs=settings.local_epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            optimizer=settings.optimizer,
            l2=settings.l2,
            seed=settings.seed,
            threshold=self.threshold,
            normalisation=self.normalisation,
            class_weights=self.class_weights,
            privacy=self.privacy,
        )

    def checkpoint(self) -> Checkpoint:
        """Everything that later rounds depend on, as of the last completed round."""
        assert self.normalisation is not None, "gather comes first"
        weights, strategy_state = self._state()
        return Checkpoint(
            run=self.run_id,
            round_number=len(self.history),
            settings=self.settings.to_config(),
            agreement=self.settings.agreement,
            weights=weights,
            strategy_state=strategy_state,
            normalisation=self.normalisation,
            class_weights=self.class_weights,
            registrations=tuple(registration for _, registration in sorted(self.registrations.items())),
            problems=self.problems.to_json(),
            history=self.history,
        )

    @abstractmethod
    def _state(self) -> tuple[Weights, State]:
        """The weights and the further arrays that a checkpoint holds."""

    def resume(self, checkpoint: Checkpoint) -> None:
        """Restore a checkpoint of a run with these settings, before `gather`; one of another network is refused."""
        self.run_id = checkpoint.run
        self.normalisation = checkpoint.normalisation
        self.class_weights = checkpoint.class_weights
        self.participants.privacy = self.privacy
        self.participants.restore(checkpoint.registrations)
        self.history = list(checkpoint.history)
        self.problems.restore(checkpoint.problems)
        self.problems.resumed_after.append(checkpoint.round_number)
