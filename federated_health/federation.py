"""The server's side of a run: hospitals gather, share statistics, and train and evaluate in rounds.

The loop over rounds is ours, over the configure and aggregate methods of Flower's strategies: `Strategy.start` can
neither repeat a round, resume, nor order replies so that the result does not depend on who answers first.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from federated_health import messages
from federated_health.appraisal import Appraisal
from federated_health.errors import RunError
from federated_health.messages import Evaluation, Instructions, Introduction, TrainingScores, Update
from federated_health.metrics import THRESHOLD, choose_threshold
from federated_health.model import Weights, initial_weights, weight_shapes
from federated_health.replies import Accepted, Participants, accept_replies
from federated_health.settings import Settings
from federated_health.statistics import Normalisation, merge_sums, normalisation_from
from federated_health.strategies import STRATEGIES, write_arguments
from federated_health.streaming.grids import FutureGrid
from federated_health.summaries import Round, summarise_appraisals, summarise_round, summarise_run
from federated_health.terms import write_terms
from federated_health.weights import MalformedMessageError, weights_to_record

logger = logging.getLogger(__name__)

Read = TypeVar("Read")

REPLY_TIMEOUT = 600.0
"""Seconds after which a hospital that has not answered is left out of a round."""

WORDS_INTERVAL = 15.0
"""Seconds after which a server that waits says so again."""

GATHER_INTERVAL = 0.1
"""Seconds between looks at who is connected."""


class Federation:
    """One run of one federation over any Flower grid.

    Use: `gather`, then iterate over `rounds`, then `evaluate_finally`. After an interruption between two rounds,
    `weights`, `last_round` and `normalisation` are those of the last finished round. `threshold` is 0.5 until one is
    chosen at the end. What hospitals release of the final weights is kept, by name, in
    `evaluations`.
    """

    def __init__(self, grid: Grid, settings: Settings) -> None:
        self.settings = settings
        self.weights: Weights = initial_weights(settings.task_declaration, settings.model, settings.seed)
        self.normalisation: Normalisation | None = None
        self.last_round: Round | None = None
        self.threshold = THRESHOLD
        self.introductions: dict[int, Introduction] = {}
        self.evaluations: dict[str, Evaluation] = {}
        self._declined: set[int] = set()
        self._grid = grid
        declared, arguments = STRATEGIES[settings.strategy], settings.strategy_arguments
        self._strategy = declared.build(arguments, settings.learning_rate)
        self._least_updates, self._least_reason = declared.least_hospitals(arguments), declared.least_reason
        self._shapes = weight_shapes(settings.task_declaration, settings.model)

    def run(self) -> dict[str, Any]:
        """All of it, from gathering to the final figures (see `evaluate_finally`), in silence."""
        self.gather()
        for _ in self.rounds():
            pass
        return self.evaluate_finally()

    def gather(self, announce: Callable[[str], None] = lambda _: None) -> None:
        """Wait for the hospitals, and merge their statistics into the normalisation of this run.

        Args:
            announce: told, in words, who is awaited and how many are there.

        Raises:
            RunError: too few hospitals joined within the wait, or too few could take part.
        """
        needed, wait = self.settings.hospitals, self.settings.wait
        deadline = time.monotonic() + wait
        next_words = 0.0
        while len(self.introductions) < needed:
            nodes = self._connected()
            if time.monotonic() >= next_words:
                left = max(0.0, deadline - time.monotonic())
                announce(f"waiting for hospitals: {len(nodes)} of {needed} are connected, {left:.0f} s left")
                next_words = time.monotonic() + WORDS_INTERVAL
            if len(nodes) >= needed:
                self._introduce(nodes)
            if len(self.introductions) < needed:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{len(nodes)} of {needed} hospitals were connected and {len(self.introductions)} could take "
                        f"part within {wait:g} s; see --wait and --hospitals"
                    )
                time.sleep(GATHER_INTERVAL)
        ordered = sorted(self.introductions.values(), key=lambda hospital: hospital.name)
        self.normalisation = normalisation_from(merge_sums(hospital.sums for hospital in ordered))
        announce(f"training with {', '.join(hospital.name for hospital in ordered)}")

    def rounds(self) -> Iterator[Round]:
        """Train, average and evaluate, round after round.

        Raises:
            RunError: no hospital is left, fewer than the strategy needs sent an update that can be used, or what was
                made of these is not finite.
        """
        for number in range(1, self.settings.rounds + 1):
            nodes = self._participants()
            weights, trained = self._train(number, nodes)
            evaluated = self._evaluate(number, nodes, weights)
            self.weights, self.last_round = (
                weights,
                summarise_round(
                    number,
                    {reply.hospital: reply.content for reply in trained},
                    {reply.hospital: reply.content.counts for reply in evaluated},
                ),
            )
            yield self.last_round

    def evaluate_finally(self) -> dict[str, Any]:
        """Choose the threshold; then each hospital evaluates the final weights with it, and adds what needs its scores.

        Returns:
            `hospitals` and `federation` as in metrics.json, and what `summarise_appraisals` gives; None for a figure
            that is not defined.
        """
        self.threshold = self._choose_threshold()
        try:
            replies = self._ask(
                self._questions(messages.FINAL),
                lambda node, content: Evaluation.from_content(
                    content, self.introductions[node].test_examples, final=True
                ),
            )
            appraisals = (
                self._ask(self._questions(messages.APPRAISAL), self._read_appraisal) if self.settings.appraisal else []
            )
        except BaseException:  # Ctrl-C, too: the figures that are left, of the last round, were counted with this one
            self.threshold = THRESHOLD
            raise
        self.evaluations = {reply.hospital: reply.content for reply in replies}
        return {
            **summarise_run(self.evaluations, self._train_examples()),
            **summarise_appraisals(
                {reply.hospital: reply.content for reply in appraisals},
                self.evaluations,
                self.settings.task_declaration,
            ),
        }

    def figures_of_last_round(self) -> dict[str, Any]:
        """The figures that the last finished round's counts give, where there was no final evaluation."""
        rounds = self.last_round.hospitals if self.last_round else {}
        evaluations = {name: Evaluation(counts=one.counts) for name, one in rounds.items() if one.counts}
        return summarise_run(evaluations, self._train_examples())

    def instructions(self) -> Instructions:
        """What hospitals are told beside the weights; `rounds` counts those that are finished."""
        assert self.normalisation is not None, "gather comes first"
        settings = self.settings
        return Instructions(
            task=settings.task,
            schema=settings.task_declaration.schema_hash,
            model=settings.model,
            strategy=settings.strategy,
            strategy_args=write_arguments(settings.strategy_arguments),
            rounds=self.last_round.number if self.last_round else 0,
            local_epochs=settings.local_epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            l2=settings.l2,
            seed=settings.seed,
            threshold=self.threshold,
            normalisation=self.normalisation,
        )

    def _choose_threshold(self) -> float:
        """From all hospitals' scores of their training rows; 0.5 where these do not hold both classes."""
        replies = self._ask(
            self._questions(messages.THRESHOLD),
            lambda node, content: TrainingScores.from_content(content, self.introductions[node].train_examples),
        )
        if not replies:
            return THRESHOLD
        chosen = choose_threshold(
            np.concatenate([reply.content.positives for reply in replies]),
            np.concatenate([reply.content.negatives for reply in replies]),
        )
        return THRESHOLD if chosen is None else chosen

    def _questions(self, message_type: str) -> list[Message]:
        """The final weights to every participant."""
        content = RecordDict(
            {
                messages.ARRAYS: weights_to_record(self.weights),
                messages.CONFIG: self.instructions().to_record(),
            }
        )
        return [Message(content, node, message_type) for node in self._participants()]

    def _connected(self) -> list[int]:
        return sorted(self._grid.get_node_ids())

    def _participants(self) -> list[int]:
        """Connected hospitals that have introduced themselves; waits a while when none is connected."""
        deadline = time.monotonic() + self.settings.wait
        while True:
            nodes = self._connected()
            self._introduce(nodes)
            if known := [node for node in nodes if node in self.introductions]:
                return known
            if time.monotonic() > deadline:
                raise RunError(f"no hospital was connected for {self.settings.wait:g} s")
            time.sleep(GATHER_INTERVAL)

    def _introduce(self, nodes: Iterable[int]) -> None:
        """Ask hospitals that are new for their names, row counts and statistics; each once while it is connected."""
        task = self.settings.task_declaration
        config = ConfigRecord({"task": task.name, "schema": task.schema_hash, "terms": write_terms(task.terms)})
        self._declined &= set(nodes)
        new = [node for node in nodes if node not in self.introductions and node not in self._declined]
        replies = self._ask(
            [Message(RecordDict({messages.CONFIG: config}), node, messages.STATISTICS) for node in new],
            self._read_introduction,
        )
        self._declined |= set(new)
        for reply in replies:
            if reply.content.name in self._names().values():
                logger.warning("a second hospital called %s is left out", reply.content.name)
            else:
                self.introductions[reply.message.metadata.src_node_id] = reply.content

    def _read_introduction(self, node: int, content: RecordDict) -> Introduction:
        introduction = Introduction.from_content(content, self.settings.task_declaration.measurements)
        if self._joined_names().get(node, introduction.name) != introduction.name:
            raise MalformedMessageError("it introduces itself under another name than it joined with")
        return introduction

    def _joined_names(self) -> dict[int, str]:
        """Names that our own grids know from joining; Flower's grids know none."""
        return self._grid.names() if isinstance(self._grid, FutureGrid) else {}

    def _train_examples(self) -> dict[str, int]:
        return {hospital.name: hospital.train_examples for hospital in self.introductions.values()}

    def _read_appraisal(self, node: int, content: RecordDict) -> Appraisal:
        one = self.introductions[node]
        return Appraisal.from_content(content, self.settings.task_declaration, one.train_examples, one.test_examples)

    def _names(self) -> dict[int, str]:
        return {node: hospital.name for node, hospital in self.introductions.items()}

    def _ask(self, questions: Iterable[Message], read: Callable[[int, RecordDict], Read]) -> list[Accepted[Read]]:
        questions = list(questions)
        if not questions:
            return []
        names = self._names()
        asked = {question.metadata.dst_node_id for question in questions}
        replies = self._grid.send_and_receive(questions, timeout=REPLY_TIMEOUT)
        expected = [reply for reply in replies if reply.metadata.src_node_id in asked]
        accepted, rejected = accept_replies(expected, {**self._joined_names(), **names}, read)
        for reply in rejected:
            logger.warning("%s is left out: %s", reply.hospital, reply.reason)
        return accepted

    def _train(self, number: int, nodes: list[int]) -> tuple[Weights, list[Accepted[Update]]]:
        questions = self._strategy.configure_train(
            number,
            weights_to_record(self.weights),
            self.instructions().to_record(),
            Participants(nodes).as_grid(),
        )
        trained = self._ask(
            questions,
            lambda node, content: Update.from_content(content, self._shapes, self.introductions[node].train_examples),
        )
        if not trained:
            raise RunError(f"round {number}: no hospital sent an update that can be used")
        if len(trained) < self._least_updates:
            raise RunError(
                f"round {number}: {len(trained)} of {len(nodes)} hospitals sent an update that can be used, and "
                f"{self.settings.strategy} needs {self._least_updates} ({self._least_reason})"
            )
        with np.errstate(all="ignore"):  # what overflows is not finite, and told below
            arrays, _ = self._strategy.aggregate_train(number, [reply.message for reply in trained])
            assert arrays is not None, "there are updates"
            weights = {name: arrays[name].numpy().astype(np.float32) for name in self._shapes}
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise RunError(f"round {number}: the weights came apart; smaller steps may help (see --learning-rate)")
        return weights, trained

    def _evaluate(self, number: int, nodes: list[int], weights: Weights) -> list[Accepted[Evaluation]]:
        questions = self._strategy.configure_evaluate(
            number,
            weights_to_record(weights),
            self.instructions().to_record(),
            Participants(nodes).as_grid(),
        )
        evaluated = self._ask(
            questions,
            lambda node, content: Evaluation.from_content(content, self.introductions[node].test_examples),
        )
        self._strategy.aggregate_evaluate(number, [reply.message for reply in evaluated])
        return evaluated
