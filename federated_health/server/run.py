"""The course of a run at the server, whether or not it can read what it averages: gather, rounds, last questions.

The loop over rounds is ours: `Strategy.start` can neither repeat a round, resume, nor order replies so that the result
does not depend on who answers first.
"""

import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from federated_health.errors import RunError
from federated_health.messages.content import TrainConfig
from federated_health.ml.metrics import THRESHOLD
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.server.checkpoints import Checkpoint
from federated_health.server.history import History, Round
from federated_health.server.participants import WORDS_INTERVAL, Participants
from federated_health.server.pauses import RetryPauses
from federated_health.server.problem_log import ProblemLog
from federated_health.server.replies import AcceptedReply, ReplyCollector
from federated_health.server.strategies import write_arguments
from federated_health.settings import Settings

logger = logging.getLogger(__name__)

Read = TypeVar("Read")

COMING_BACK = 10.0
"""Seconds that a run that goes on waits for hospitals beyond those that it needs: twice their longest delay."""

MAX_ATTEMPTS = 3
"""Times that a hospital is asked the same at the end of a run."""


class FederatedRun(ABC):
    """One run of one federation over any Flower grid.

    Use: `gather`, then iterate over `rounds`, then `evaluate_finally`; or `resume` first, with the checkpoint of a run
    that was cut off. After an interruption between two rounds, `history` and all that a checkpoint holds are those of
    the last finished round. What went wrong is counted in `problems`.

    Attributes:
        threshold: 0.5 until one is chosen at the end.
        registrations: by name, of every hospital that has taken part.
        run_token: 16 random hex digits, which a run that goes on keeps.
    """

    def __init__(self, grid: Grid, settings: Settings) -> None:
        self.settings = settings
        self.run_id = secrets.token_hex(8)
        self.history = History()
        self.threshold = THRESHOLD
        self.problems = ProblemLog()
        self._collector = ReplyCollector(grid, settings.round_timeout, self.problems)
        self._participants = Participants(grid, settings, self._collector)
        self._participants.privacy = self.privacy
        self.registrations = self._participants.registrations
        self._has_begun = False
        self._away: list[str] = []

    @property
    def privacy(self) -> PrivacyPlan | None:
        """What training patients are promised; None without differential privacy."""
        return self.settings.privacy_plan(self.run_id)

    @property
    def asks_benefit(self) -> bool:
        """Whether hospitals are asked what joining gave them, which depends on their training rows."""
        return self.settings.appraisal and self.privacy is None

    @property
    def last_round(self) -> Round | None:
        """The last finished round."""
        return self.history[-1] if self.history else None

    def run(self) -> dict[str, Any]:
        """All of it, from gathering to the final figures (see `evaluate_finally`), in silence."""
        self.gather()
        for _ in self.rounds():
            pass
        return self.evaluate_finally()

    def gather(self, announce: Callable[[str], None] = lambda _: None) -> None:
        """Wait for the hospitals, and merge their statistics into the normalisation of this run.

        A run that is resumed has its normalisation, and waits for as many hospitals as a round needs.

        Args:
            announce: told, in words, who is awaited and how many are there.

        Raises:
            RunError: too few hospitals joined within the wait, or too few could take part.
        """
        needed = self.settings.min_updates if self._has_begun else self.settings.hospitals
        deadline = time.monotonic() + self.settings.wait
        present = self._participants.wait_for(needed, "waiting for hospitals", announce, deadline)
        if self._has_begun:
            present = self._participants.wait_for_others(min(COMING_BACK, self.settings.wait), announce)
        names = ", ".join(sorted(self._participants.names()[node] for node in present))
        if self._has_begun:
            announce(f"going on after round {len(self.history)} with {names}")
        else:
            self._participants.forget_others(present)
            self._participants.settle()
            self._begin()
            self._has_begun = True
            announce(f"training with {names}")
        if self.privacy is not None:
            announce(self.privacy.describe())

    @abstractmethod
    def _begin(self) -> None:
        """Settle what the rounds need, once, among the hospitals that have gathered."""

    @abstractmethod
    def rounds(self) -> Iterator[Round]:
        """Train, average and evaluate, round after round, from the first that is not finished.

        A round with too few updates that can be used is repeated, for at most the settings' `wait`.

        Raises:
            RunError: too few updates still, or what was made of them is not finite.
        """

    @abstractmethod
    def evaluate_finally(self) -> dict[str, Any]:
        """Ask the last questions.

        Where fewer hospitals answer than a round needs, those that did not are waited for and asked again, for at most
        the settings' `wait`; then what there is must do.

        Returns:
            What metrics.json says of the final model, as far as the server knows it.
        """

    @abstractmethod
    def figures_of_last_round(self) -> dict[str, Any]:
        """The same of the last finished round, where there was no final evaluation."""

    @abstractmethod
    def train_config(self) -> TrainConfig:
        """What hospitals are told, as far as the server knows it; `rounds` counts those that are finished."""

    @abstractmethod
    def checkpoint(self) -> Checkpoint:
        """All that the rounds to come depend on, as it is between two rounds."""

    @abstractmethod
    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of a run with these settings, before anybody is gathered.

        Raises:
            CheckpointError: it is not of this strategy and model.
        """

    def _make_train_config(self, normalisation: Normalisation) -> TrainConfig:
        """What hospitals are told in every run, between two rounds."""
        settings = self.settings
        return TrainConfig(
            task=settings.task,
            schema=settings.task_declaration.schema_hash,
            model=settings.model,
            strategy=settings.strategy,
            strategy_args=write_arguments(settings.strategy_arguments),
            rounds=len(self.history),
            local_epochs=settings.local_epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            l2=settings.l2,
            seed=settings.seed,
            threshold=self.threshold,
            normalisation=normalisation,
            privacy=self.privacy,
        )

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        """What every run takes from a checkpoint."""
        self.run_id = checkpoint.run
        self._participants.privacy = self.privacy
        self.history = History(checkpoint.history)
        self.registrations.update({one.name: one for one in checkpoint.registrations})
        self._participants.settle()
        self.problems.go_on_from(checkpoint.problems)
        self.problems.resumed_after.append(checkpoint.round_number)
        self._has_begun = True

    def _present(self) -> list[int]:
        """Nodes of hospitals that can be asked, in the order of their ids."""
        return self._participants.present()

    def _train_examples(self) -> dict[str, int]:
        return {name: one.train_examples for name, one in self.registrations.items()}

    def _collect(
        self, number: int, ask: Callable[[int, list[int]], list[AcceptedReply[Read]]]
    ) -> list[AcceptedReply[Read]]:
        """A round's updates, asked for until there are enough of them.

        Args:
            ask: one attempt at a round of this number, among these nodes.
        """
        needed, pauses = self.settings.min_updates, RetryPauses(self.settings.wait)
        while True:
            nodes = self._participants.wait_for(needed, f"round {number}", logger.warning, pauses.deadline)
            trained = ask(number, nodes)
            without = sorted(set(self.registrations) - {reply.hospital for reply in trained})
            if len(trained) >= needed:
                break
            self.problems.repeated_rounds += 1
            words = (
                f"round {number}: {len(trained)} of {len(nodes)} hospitals sent an update that can be used, and "
                f"{needed} are needed ({self.settings.min_reason})"
            )
            if not pauses.pause():
                raise RunError(f"{words}; without {', '.join(without)}")
            logger.warning("%s; without %s; it is repeated", words, ", ".join(without))
        return trained

    def _note_absent(self, number: int, trained: list[AcceptedReply[Read]]) -> None:
        """Count those without an update in a round, and say it when they are others than in the round before."""
        without = sorted(set(self.registrations) - {reply.hospital for reply in trained})
        self.problems.count_absent(without)
        if without != self._away:
            logger.warning("round %d goes on %s", number, f"without {', '.join(without)}" if without else "with all")
        self._away = without

    def _ask_finally(
        self, message_type: str, content: RecordDict, read: Callable[[int, RecordDict], Read]
    ) -> list[AcceptedReply[Read]]:
        """Ask every hospital the same.

        While too few have answered, others are asked again: those that were away, for as long as the settings' `wait`,
        and those that are there three times.
        """
        accepted: dict[str, AcceptedReply[Read]] = {}
        asked: Counter[str] = Counter()
        pauses, next_words = RetryPauses(self.settings.wait), 0.0
        while True:
            names = {node: self._participants.names()[node] for node in self._present()}
            nodes = [node for node, name in names.items() if name not in accepted and asked[name] < MAX_ATTEMPTS]
            questions = [Message(content, node, message_type) for node in nodes]
            answers = self._collector.ask(questions, names, read)
            accepted.update({answer.hospital: answer for answer in answers})
            asked.update(names[node] for node in nodes)
            may_answer = [name for name in self.registrations if name not in accepted and asked[name] < MAX_ATTEMPTS]
            if len(accepted) >= self.settings.min_updates or not may_answer:
                break
            words = f"{message_type}: {len(accepted)} of {len(self.registrations)} hospitals answered"
            if (now := time.monotonic()) >= next_words:
                waits = f"{self.settings.min_updates} are needed; waiting up to {self.settings.wait:g} s for"
                logger.warning("%s, and %s %s", words, waits, ", ".join(sorted(may_answer)))
                next_words = now + WORDS_INTERVAL
            if not pauses.pause():
                logger.warning("%s", words)
                break
        return [answer for _, answer in sorted(accepted.items())]
