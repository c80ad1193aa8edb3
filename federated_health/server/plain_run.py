"""A run whose server reads what it averages: it has the normalisation, the weights and every hospital's figures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp import Grid

from federated_health.errors import RunError
from federated_health.hospital.benefit import Benefit
from federated_health.messages import content
from federated_health.messages.content import Evaluation, TrainConfig, TrainingScores, Update
from federated_health.messages.weights import weights_to_record
from federated_health.ml.metrics import THRESHOLD, Counts, choose_threshold
from federated_health.ml.networks import Weights, initial_weights, weight_shapes
from federated_health.ml.normalisation import Normalisation, merge_sums, normalisation_from, public_normalisation
from federated_health.server.checkpoints import Checkpoint
from federated_health.server.history import Round, summarise_benefits, summarise_round, summarise_run
from federated_health.server.replies import AcceptedReply, NodeSample
from federated_health.server.run import FederatedRun
from federated_health.server.strategies import STRATEGIES
from federated_health.settings import Settings


class PlainRun(FederatedRun):
    """One run (see `FederatedRun`) in which hospitals send weights, sums and counts that the server reads.

    After an interruption between two rounds, `weights`, `history` and `normalisation` are those of the last finished
    round. What hospitals release of the final weights is kept, by name, in `evaluations`.
    """

    def __init__(self, grid: Grid, settings: Settings) -> None:
        super().__init__(grid, settings)
        self.weights: Weights = initial_weights(settings.task_declaration, settings.model, settings.seed)
        self.normalisation: Normalisation | None = None
        self.evaluations: dict[str, Evaluation] = {}
        self._declared = STRATEGIES[settings.strategy]
        self._strategy = self._declared.build(settings.strategy_arguments, settings.learning_rate)
        self._shapes = weight_shapes(settings.task_declaration, settings.model)

    def _begin(self) -> None:
        if self.privacy is not None:
            self.normalisation = public_normalisation(self.settings.task_declaration.measurements)
            return
        sums = [one.sums for _, one in sorted(self.registrations.items())]
        self.normalisation = normalisation_from(merge_sums(sums))

    def rounds(self) -> Iterator[Round]:
        """As `FederatedRun.rounds`; a round's weights are evaluated by the message that has them trained in the next.

        So a round is one message a hospital. After the last one they are evaluated apart; under differential privacy
        after every one, since a run that goes on would else pay for two rounds again.
        """
        averaged: _Averaged | None = None
        for number in range(len(self.history) + 1, self.settings.rounds + 1):
            counts: dict[str, Counts] = {}
            try:
                trained = self._collect(number, partial(self._ask_for_updates, averaged=averaged, counts=counts))
            except (KeyboardInterrupt, RunError):
                if averaged is not None and counts:
                    yield self._finish(averaged, counts)
                raise
            if averaged is not None:
                yield self._finish(averaged, counts)
            self._note_absent(number, trained)
            averaged = _Averaged(number, trained, self._aggregate(number, trained))
            if self.privacy is not None or number == self.settings.rounds:
                yield self._finish(averaged, self._evaluate(averaged))
                averaged = None

    def _finish(self, averaged: "_Averaged", counts: Mapping[str, Counts]) -> Round:
        """Settle a round whose weights have been evaluated."""
        updates = {reply.hospital: reply.content for reply in averaged.trained}
        finished = summarise_round(averaged.number, updates, counts)
        self.weights = averaged.weights
        self.history.append(finished)
        return finished

    def evaluate_finally(self) -> dict[str, Any]:
        """Choose the threshold; then each hospital evaluates the final weights with it, and adds what needs its scores.

        Returns:
            `hospitals` and `federation` as in metrics.json, and what `summarise_benefits` gives; None for a figure
            that is not defined.
        """
        self.threshold = self._choose_threshold()
        try:
            replies = self._ask_finally(
                content.FINAL,
                question := self._final_question(),
                lambda node, content: Evaluation.from_content(
                    content, self._participants.registration_of(node).test_examples, final=True
                ),
            )
            benefits = self._ask_finally(content.BENEFIT, question, self._read_benefit) if self.asks_benefit else []
        except BaseException:  # Ctrl-C, too: the figures that are left, of the last round, were counted with this one
            self.threshold = THRESHOLD
            raise
        self.evaluations = {reply.hospital: reply.content for reply in replies}
        return {
            **summarise_run(self.evaluations, self._train_examples()),
            **summarise_benefits(
                {reply.hospital: reply.content for reply in benefits},
                self.evaluations,
                self.settings.task_declaration,
            ),
        }

    def figures_of_last_round(self) -> dict[str, Any]:
        """The figures that the last finished round's counts give."""
        rounds = self.last_round.hospitals if self.last_round else {}
        evaluations = {name: Evaluation(counts=one.counts) for name, one in rounds.items() if one.counts}
        return summarise_run(evaluations, self._train_examples())

    def train_config(self) -> TrainConfig:
        assert self.normalisation is not None, "gather comes first"
        return self._make_train_config(self.normalisation)

    def checkpoint(self) -> Checkpoint:
        assert self.normalisation is not None, "gather comes first"
        return Checkpoint(
            run=self.run_id,
            round_number=len(self.history),
            settings=self.settings.to_config(),
            agreement=self.settings.task_declaration.agreement,
            weights=self.weights,
            strategy_state=self._declared.read_state(self._strategy, self._shapes),
            normalisation=self.normalisation,
            registrations=tuple(one for _, one in sorted(self.registrations.items())),
            problems=self.problems.to_json(),
            history=self.history,
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        self._declared.write_state(self._strategy, checkpoint.strategy_state, self._shapes)
        self.weights = dict(checkpoint.weights)
        self.normalisation = checkpoint.normalisation
        self._go_on_from(checkpoint)

    def _choose_threshold(self) -> float:
        """From all hospitals' scores of their training rows; 0.5 where these hold not both classes, or stay hidden."""
        if self.privacy is not None:
            return THRESHOLD
        replies = self._ask_finally(
            content.THRESHOLD,
            self._final_question(),
            lambda node, content: TrainingScores.from_content(
                content, self._participants.registration_of(node).train_examples
            ),
        )
        if not replies:
            return THRESHOLD
        chosen = choose_threshold(
            np.concatenate([reply.content.positives for reply in replies]),
            np.concatenate([reply.content.negatives for reply in replies]),
        )
        return THRESHOLD if chosen is None else chosen

    def _final_question(self) -> RecordDict:
        """The final weights, and what goes with them."""
        config = self.train_config().to_record()
        return RecordDict({content.ARRAYS: weights_to_record(self.weights), content.CONFIG: config})

    def _read_benefit(self, node: int, content: RecordDict) -> Benefit:
        one = self._participants.registration_of(node)
        return Benefit.from_content(content, self.settings.task_declaration, one.train_examples, one.test_examples)

    def _ask_for_updates(
        self, number: int, nodes: list[int], averaged: "_Averaged | None", counts: dict[str, Counts]
    ) -> list[AcceptedReply[Update]]:
        """One attempt at a round; updates out of all proportion are left out.

        Args:
            averaged: the round before, where its weights are yet to be evaluated.
            counts: takes, by hospital, what that gave.
        """
        weights = averaged.weights if averaged else self.weights
        config = replace(self.train_config(), rounds=number - 1).to_record()
        if averaged:
            config[content.EVALUATE] = True
        questions = self._strategy.configure_train(
            number, weights_to_record(weights), config, NodeSample(nodes).as_grid()
        )

        def read(node: int, content: RecordDict) -> Update:
            one = self._participants.registration_of(node)
            evaluated = one.test_examples if averaged else None
            private = self.privacy is not None
            return Update.from_content(content, self._shapes, one.train_examples, private=private, evaluated=evaluated)

        trained = self._collector.ask(questions, self._participants.names(), read)
        counts.update({reply.hospital: reply.content.counts for reply in trained if reply.content.counts})
        return self._collector.leave_out_outsized(trained, weights, self.settings.max_update_norm)

    def _aggregate(self, number: int, trained: list[AcceptedReply[Update]]) -> Weights:
        with np.errstate(all="ignore"):  # what overflows is not finite, and told below
            arrays, _ = self._strategy.aggregate_train(number, [reply.message for reply in trained])
            assert arrays is not None, "there are updates"
            weights = {name: arrays[name].numpy().astype(np.float32) for name in self._shapes}
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise RunError(f"round {number}: the weights came apart; smaller steps may help (see --learning-rate)")
        return weights

    def _evaluate(self, averaged: "_Averaged") -> dict[str, Counts]:
        """The held-out counts, by hospital, of those that answer; the average does not depend on them."""
        if not (nodes := self._present()):  # Flower would wait for somebody without end
            return {}
        questions = self._strategy.configure_evaluate(
            averaged.number,
            weights_to_record(averaged.weights),
            self.train_config().to_record(),
            NodeSample(nodes).as_grid(),
        )
        evaluated = self._collector.ask(
            questions,
            self._participants.names(),
            lambda node, content: Evaluation.from_content(
                content, self._participants.registration_of(node).test_examples
            ),
        )
        self._strategy.aggregate_evaluate(averaged.number, [reply.message for reply in evaluated])
        return {reply.hospital: reply.content.counts for reply in evaluated}


@dataclass(frozen=True)
class _Averaged:
    """A round whose new weights are yet to be evaluated.

    Attributes:
        trained: the updates that it was made of.
    """

    number: int
    trained: list[AcceptedReply[Update]]
    weights: Weights
