"""The server's side of a run: hospitals gather, share statistics, and train and evaluate in rounds.

The loop over rounds is ours, over the configure and aggregate methods of Flower's strategies: `Strategy.start` can
neither repeat a round, resume, nor order replies so that the result does not depend on who answers first.
"""

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from federated_health import messages
from federated_health.appraisal import Appraisal
from federated_health.checkpoints import Checkpoint
from federated_health.errors import RunError
from federated_health.messages import Evaluation, Instructions, TrainingScores, Update
from federated_health.metrics import THRESHOLD, choose_threshold
from federated_health.model import Weights, initial_weights, weight_shapes
from federated_health.pauses import Pauses
from federated_health.privacy.plan import PrivacyPlan
from federated_health.replies import Accepted, Correspondence, Participants
from federated_health.roster import WORDS_INTERVAL, Roster
from federated_health.settings import Settings
from federated_health.statistics import Normalisation, merge_sums, normalisation_from, public_normalisation
from federated_health.strategies import STRATEGIES, write_arguments
from federated_health.summaries import History, Round, summarise_appraisals, summarise_round, summarise_run
from federated_health.tally import Tally
from federated_health.weights import weights_to_record

logger = logging.getLogger(__name__)

Read = TypeVar("Read")

COMING_BACK = 10.0
"""Seconds that a run that goes on waits for hospitals beyond those that it needs: twice their longest delay."""

MOST_ASKED = 3
"""Times that a hospital is asked the same at the end of a run."""


class Federation:
    """One run of one federation over any Flower grid.

    Use: `gather`, then iterate over `rounds`, then `evaluate_finally`; or `resume` first, with the checkpoint of a run
    that was cut off. After an interruption between two rounds, `weights`, `history` and `normalisation` are those of
    the last finished round. `threshold` is 0.5 until one is chosen at the end. What hospitals release of the final
    weights is kept, by name, in `evaluations`; what went wrong is counted in `tally`.
    """

    def __init__(self, grid: Grid, settings: Settings) -> None:
        self.settings = settings
        self.run_token = secrets.token_hex(8)
        self.weights: Weights = initial_weights(settings.task_declaration, settings.model, settings.seed)
        self.normalisation: Normalisation | None = None
        self.history = History()
        self.threshold = THRESHOLD
        self.tally = Tally()
        self.evaluations: dict[str, Evaluation] = {}
        self._declared = STRATEGIES[settings.strategy]
        self._strategy = self._declared.build(settings.strategy_arguments, settings.learning_rate)
        self._correspondence = Correspondence(grid, settings.round_timeout, self.tally)
        self._roster = Roster(grid, settings, self._correspondence)
        self._roster.privacy = self.privacy
        self.introductions = self._roster.introductions  # by name, of every hospital that has taken part
        self._away: list[str] = []
        self._shapes = weight_shapes(settings.task_declaration, settings.model)

    @property
    def privacy(self) -> PrivacyPlan | None:
        """What training patients are promised."""
        return self.settings.privacy_plan(self.run_token)

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
        needed = self.settings.hospitals if self.normalisation is None else self.settings.least_updates
        deadline = time.monotonic() + self.settings.wait
        present = self._roster.wait_for(needed, "waiting for hospitals", announce, deadline)
        if self.normalisation is not None:
            present = self._roster.wait_for_others(min(COMING_BACK, self.settings.wait), announce)
        names = sorted(self._roster.names()[node] for node in present)
        if self.normalisation is None:
            self._roster.forget_others(present)
            self._roster.settle()
            self.normalisation = self._normalise()
            announce(f"training with {', '.join(names)}")
        else:
            announce(f"going on after round {len(self.history)} with {', '.join(names)}")
        if self.privacy is not None:
            announce(self.privacy.describe())

    def rounds(self) -> Iterator[Round]:
        """Train, average and evaluate, round after round, from the first that is not finished.

        A round with too few updates that can be used is repeated, for at most the settings' `wait`.

        Raises:
            RunError: too few updates still, or what was made of them is not finite.
        """
        for number in range(len(self.history) + 1, self.settings.rounds + 1):
            trained = self._train(number)
            weights = self._aggregate(number, trained)
            evaluated = self._evaluate(number, weights)
            finished = summarise_round(
                number,
                {reply.hospital: reply.content for reply in trained},
                {reply.hospital: reply.content.counts for reply in evaluated},
            )
            self.weights = weights
            self.history.append(finished)
            yield finished

    def evaluate_finally(self) -> dict[str, Any]:
        """Choose the threshold; then each hospital evaluates the final weights with it, and adds what needs its scores.

        Where fewer hospitals answer than a round needs, those that did not are waited for and asked again, for at most
        the settings' `wait`; then what there is must do.

        Returns:
            `hospitals` and `federation` as in metrics.json, and what `summarise_appraisals` gives; None for a figure
            that is not defined.
        """
        self.threshold = self._choose_threshold()
        try:
            replies = self._ask_finally(
                messages.FINAL,
                lambda node, content: Evaluation.from_content(
                    content, self._roster.introduction_of(node).test_examples, final=True
                ),
            )
            appraisals = self._ask_finally(messages.APPRAISAL, self._read_appraisal) if self.asks_appraisal else []
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
            rounds=len(self.history),
            local_epochs=settings.local_epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            l2=settings.l2,
            seed=settings.seed,
            threshold=self.threshold,
            normalisation=self.normalisation,
            privacy=self.privacy,
        )

    def checkpoint(self) -> Checkpoint:
        """All that the rounds to come depend on, as it is between two rounds."""
        assert self.normalisation is not None, "gather comes first"
        return Checkpoint(
            run=self.run_token,
            round_number=len(self.history),
            settings=self.settings.to_config(),
            terms=self.settings.task_declaration.terms,
            weights=self.weights,
            strategy_state=self._declared.read_state(self._strategy, self._shapes),
            normalisation=self.normalisation,
            introductions=tuple(one for _, one in sorted(self.introductions.items())),
            tally=self.tally.to_json(),
            history=self.history,
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of a run with these settings, before anybody is gathered.

        Raises:
            CheckpointError: what the strategy should remember is not of this strategy and model.
        """
        self._declared.write_state(self._strategy, checkpoint.strategy_state, self._shapes)
        self.run_token = checkpoint.run
        self._roster.privacy = self.privacy
        self.weights = dict(checkpoint.weights)
        self.normalisation = checkpoint.normalisation
        self.history = History(checkpoint.history)
        self.introductions.update({one.name: one for one in checkpoint.introductions})
        self._roster.settle()
        self.tally.go_on_from(checkpoint.tally)
        self.tally.resumed_after.append(checkpoint.round_number)

    @property
    def asks_appraisal(self) -> bool:
        """Whether hospitals are asked what joining gave them, which their training rows tell."""
        return self.settings.appraisal and self.privacy is None

    def _normalise(self) -> Normalisation:
        if self.privacy is not None:
            return public_normalisation(self.settings.task_declaration.measurements)
        return normalisation_from(merge_sums(one.sums for _, one in sorted(self.introductions.items())))

    def _choose_threshold(self) -> float:
        """From all hospitals' scores of their training rows; 0.5 where these hold not both classes, or stay hidden."""
        if self.privacy is not None:
            return THRESHOLD
        replies = self._ask_finally(
            messages.THRESHOLD,
            lambda node, content: TrainingScores.from_content(
                content, self._roster.introduction_of(node).train_examples
            ),
        )
        if not replies:
            return THRESHOLD
        chosen = choose_threshold(
            np.concatenate([reply.content.positives for reply in replies]),
            np.concatenate([reply.content.negatives for reply in replies]),
        )
        return THRESHOLD if chosen is None else chosen

    def _ask_finally(self, message_type: str, read: Callable[[int, RecordDict], Read]) -> list[Accepted[Read]]:
        """Send the final weights to every hospital.

        While too few have answered, others are asked again: those that were away, for as long as the settings' `wait`,
        and those that are there three times.
        """
        config = self.instructions().to_record()
        content = RecordDict({messages.ARRAYS: weights_to_record(self.weights), messages.CONFIG: config})
        accepted: dict[str, Accepted[Read]] = {}
        asked: Counter[str] = Counter()
        pauses, next_words = Pauses(self.settings.wait), 0.0
        while True:
            names = {node: self._roster.names()[node] for node in self._roster.present()}
            nodes = [node for node, name in names.items() if name not in accepted and asked[name] < MOST_ASKED]
            questions = [Message(content, node, message_type) for node in nodes]
            answers = self._correspondence.ask(questions, names, read)
            accepted.update({answer.hospital: answer for answer in answers})
            asked.update(names[node] for node in nodes)
            may_answer = [name for name in self.introductions if name not in accepted and asked[name] < MOST_ASKED]
            if len(accepted) >= self.settings.least_updates or not may_answer:
                break
            words = f"{message_type}: {len(accepted)} of {len(self.introductions)} hospitals answered"
            if (now := time.monotonic()) >= next_words:
                waits = f"{self.settings.least_updates} are needed; waiting up to {self.settings.wait:g} s for"
                logger.warning("%s, and %s %s", words, waits, ", ".join(sorted(may_answer)))
                next_words = now + WORDS_INTERVAL
            if not pauses.pause():
                logger.warning("%s", words)
                break
        return [answer for _, answer in sorted(accepted.items())]

    def _train_examples(self) -> dict[str, int]:
        return {name: one.train_examples for name, one in self.introductions.items()}

    def _read_appraisal(self, node: int, content: RecordDict) -> Appraisal:
        one = self._roster.introduction_of(node)
        return Appraisal.from_content(content, self.settings.task_declaration, one.train_examples, one.test_examples)

    def _train(self, number: int) -> list[Accepted[Update]]:
        """A round's updates, asked for until there are enough of them."""
        needed, pauses = self.settings.least_updates, Pauses(self.settings.wait)
        while True:
            nodes = self._roster.wait_for(needed, f"round {number}", logger.warning, pauses.deadline)
            trained = self._ask_for_updates(number, nodes)
            without = sorted(set(self.introductions) - {reply.hospital for reply in trained})
            if len(trained) >= needed:
                break
            self.tally.repeated_rounds += 1
            words = (
                f"round {number}: {len(trained)} of {len(nodes)} hospitals sent an update that can be used, and "
                f"{needed} are needed ({self.settings.least_reason})"
            )
            if not pauses.pause():
                raise RunError(f"{words}; without {', '.join(without)}")
            logger.warning("%s; without %s; it is repeated", words, ", ".join(without))
        self.tally.count_absent(without)
        if without != self._away:
            logger.warning("round %d goes on %s", number, f"without {', '.join(without)}" if without else "with all")
        self._away = without
        return trained

    def _ask_for_updates(self, number: int, nodes: list[int]) -> list[Accepted[Update]]:
        """One attempt at a round; updates out of all proportion are left out."""
        questions = self._strategy.configure_train(
            number,
            weights_to_record(self.weights),
            self.instructions().to_record(),
            Participants(nodes).as_grid(),
        )
        trained = self._correspondence.ask(
            questions,
            self._roster.names(),
            lambda node, content: Update.from_content(
                content,
                self._shapes,
                self._roster.introduction_of(node).train_examples,
                private=self.privacy is not None,
            ),
        )
        return self._correspondence.leave_out_outsized(trained, self.weights, self.settings.max_update_norm)

    def _aggregate(self, number: int, trained: list[Accepted[Update]]) -> Weights:
        with np.errstate(all="ignore"):  # what overflows is not finite, and told below
            arrays, _ = self._strategy.aggregate_train(number, [reply.message for reply in trained])
            assert arrays is not None, "there are updates"
            weights = {name: arrays[name].numpy().astype(np.float32) for name in self._shapes}
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise RunError(f"round {number}: the weights came apart; smaller steps may help (see --learning-rate)")
        return weights

    def _evaluate(self, number: int, weights: Weights) -> list[Accepted[Evaluation]]:
        """The held-out counts of those hospitals that answer; the average does not depend on them."""
        if not (nodes := self._roster.present()):  # Flower would wait for somebody without end
            return []
        questions = self._strategy.configure_evaluate(
            number,
            weights_to_record(weights),
            self.instructions().to_record(),
            Participants(nodes).as_grid(),
        )
        evaluated = self._correspondence.ask(
            questions,
            self._roster.names(),
            lambda node, content: Evaluation.from_content(content, self._roster.introduction_of(node).test_examples),
        )
        self._strategy.aggregate_evaluate(number, [reply.message for reply in evaluated])
        return evaluated
