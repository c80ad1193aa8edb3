"""A run whose server reads the weights that it averages: the round loop over a Flower strategy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp.strategy import Strategy

from federated_health import encryption
from federated_health.errors import RunError
from federated_health.messages import content as messages
from federated_health.messages.benefit import Benefit
from federated_health.messages.content import BENEFIT, Evaluation, TrainConfig, TrainingScores, Update
from federated_health.messages.records import weights_to_record
from federated_health.ml.metrics import THRESHOLD, Counts, choose_threshold
from federated_health.ml.networks import Weights, initial_weights, weight_shapes
from federated_health.ml.normalisation import Normalisation, merge_sums, normalisation_from, public_normalisation
from federated_health.ml.rounds import Round
from federated_health.server.checkpoint import Checkpoint
from federated_health.server.history import summarise_benefits, summarise_round, summarise_run
from federated_health.server.replies import AcceptedReply, NodeSample
from federated_health.server.run import FederatedRun
from federated_health.server.strategies import make_strategy, read_state, write_state
from federated_health.settings import Settings
from federated_health.transport.interface import Transport


def make_run(transport: Transport, settings: Settings, strategy: Strategy | None = None) -> FederatedRun:
    """A run over a transport: a plain one, or an encrypted one where the settings ask for it.

    Args:
        strategy: averages the updates of a plain run; the settings' strategy by default.

    Raises:
        UserError: the transport cannot carry a run with these settings.
    """
    if settings.encrypt:
        encrypted: FederatedRun = encryption.load("run").EncryptedRun(transport, settings)
        return encrypted
    return PlainRun(transport, settings, strategy)


class PlainRun(FederatedRun):
    """A run (see `FederatedRun`) in which hospitals send weights, sums and counts that the server reads."""

    weights: Weights

    def __init__(self, transport: Transport, settings: Settings, strategy: Strategy | None = None) -> None:
        super().__init__(transport, settings)
        self.weights = initial_weights(settings.task_declaration, settings.model, settings.seed)
        self.normalisation: Normalisation | None = None
        self.strategy = strategy or make_strategy(settings)
        self._shapes = weight_shapes(settings.task_declaration, settings.model)

    def _begin(self) -> None:
        if self.privacy is not None:
            self.normalisation = public_normalisation(self.settings.task_declaration.measurements)
        else:
            sums = [registration.sums for _, registration in sorted(self.registrations.items())]
            self.normalisation = normalisation_from(merge_sums(sums))

    def rounds(self) -> Iterator[Round]:
        """Iterate over the rounds (see `FederatedRun.rounds`).

        The message that starts the training of a round also has the weights of the round before evaluated, so that a
        round is one message per hospital. The last round is evaluated apart. Under differential privacy every round is,
        since a resumed run would otherwise spend the budget of two rounds again.
        """
        config = self.train_config()
        averaged: _AveragedRound | None = None
        for number in range(len(self.history) + 1, self.settings.rounds + 1):
            counts: dict[str, Counts] = {}
            attempt = partial(self._train, number=number, config=config, averaged=averaged, counts=counts)
            try:
                updates = self.participants.repeat_until_enough(number, attempt)
            except (KeyboardInterrupt, RunError):
                if averaged is not None and counts:
                    yield self._complete(averaged, counts)
                raise
            if averaged is not None:
                yield self._complete(averaged, counts)
            averaged = _AveragedRound(number, updates, self._aggregate(number, updates))
            self.participants.note_absent(number, updates)
            if self.privacy is not None or number == self.settings.rounds:
                yield self._complete(averaged, self._evaluate(averaged))
                averaged = None

    def _train(
        self,
        nodes: list[int],
        *,
        number: int,
        config: TrainConfig,
        averaged: "_AveragedRound | None",
        counts: dict[str, Counts],
    ) -> list[AcceptedReply[Update]]:
        """One attempt at a round: configure, send, and validate the updates.

        Args:
            averaged: the round before, where its weights are not evaluated yet.
            counts: receives their held-out counts, by hospital.
        """
        weights = averaged.weights if averaged else self.weights
        record = replace(config, rounds=number - 1).to_record()
        if averaged:
            record[messages.EVALUATE] = True
        train_messages = self.strategy.configure_train(
            number, weights_to_record(weights), record, NodeSample(nodes).as_grid()
        )

        def read(node: int, content: RecordDict) -> Update:
            registration = self.participants.registration_of(node)
            return Update.from_content(
                content,
                self._shapes,
                registration.train_examples,
                private=config.privacy is not None,
                evaluated=registration.test_examples if averaged else None,
            )

        updates = self.collector.send_and_receive(train_messages, self.participants.names(), read)
        counts.update({reply.hospital: reply.content.counts for reply in updates if reply.content.counts})
        return self.collector.reject_outsized(updates, weights, self.settings.max_update_norm)

    def _aggregate(self, number: int, updates: list[AcceptedReply[Update]]) -> Weights:
        """The strategy's average of the updates."""
        with np.errstate(all="ignore"):  # overflow gives non-finite weights, which are reported below
            arrays, _ = self.strategy.aggregate_train(number, [reply.message for reply in updates])
            assert arrays is not None, "there are updates"
            weights = {name: arrays[name].numpy().astype(np.float32) for name in self._shapes}
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise RunError(f"round {number}: training diverged (non-finite weights); try a smaller --learning-rate")
        return weights

    def _evaluate(self, averaged: "_AveragedRound") -> dict[str, Counts]:
        """Held-out counts, by hospital, of those that answer; the average does not depend on them."""
        if not (nodes := self.participants.present()):  # Flower would wait forever for a node
            return {}
        evaluate_messages = self.strategy.configure_evaluate(
            averaged.number,
            weights_to_record(averaged.weights),
            self.train_config().to_record(),
            NodeSample(nodes).as_grid(),
        )
        replies = self.collector.send_and_receive(
            evaluate_messages,
            self.participants.names(),
            lambda node, content: Evaluation.from_content(content, self._test_examples(node)),
        )
        self.strategy.aggregate_evaluate(averaged.number, [reply.message for reply in replies])
        return {reply.hospital: reply.content.counts for reply in replies}

    def _complete(self, averaged: "_AveragedRound", counts: Mapping[str, Counts]) -> Round:
        """Complete a round whose weights have been evaluated."""
        updates = {reply.hospital: reply.content for reply in averaged.updates}
        completed = summarise_round(averaged.number, updates, counts)
        self.weights = averaged.weights
        self.history.append(completed)
        return completed

    def evaluate(self) -> dict[str, Any]:
        """Choose the threshold, then evaluate the final weights with it (see `FederatedRun.evaluate`)."""
        self.threshold = self._choose_threshold()
        try:
            evaluations = self._ask_all(
                messages.FINAL,
                content := self._final_message(),
                lambda node, reply: Evaluation.from_content(reply, self._test_examples(node), final=True),
            )
            benefits = self._ask_all(BENEFIT, content, self._read_benefit) if self.asks_benefit else []
        except BaseException:  # Ctrl-C too: the figures that remain, of the last round, were counted at 0.5
            self.threshold = THRESHOLD
            raise
        self.evaluations = {reply.hospital: reply.content for reply in evaluations}
        return {
            **summarise_run(self.evaluations, self.train_examples),
            **summarise_benefits(
                {reply.hospital: reply.content for reply in benefits},
                self.evaluations,
                self.settings.task_declaration,
            ),
        }

    def figures_of_last_round(self) -> dict[str, Any]:
        hospitals = self.last_round.hospitals if self.last_round else {}
        evaluations = {name: Evaluation(counts=figures.counts) for name, figures in hospitals.items() if figures.counts}
        return summarise_run(evaluations, self.train_examples)

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
            strategy_state=read_state(self.settings.strategy, self.strategy, self._shapes),
            normalisation=self.normalisation,
            registrations=tuple(registration for _, registration in sorted(self.registrations.items())),
            problems=self.problems.to_json(),
            history=self.history,
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        write_state(self.settings.strategy, self.strategy, checkpoint.strategy_state, self._shapes)
        self.weights = dict(checkpoint.weights)
        self.normalisation = checkpoint.normalisation
        self._restore(checkpoint)

    def _choose_threshold(self) -> float:
        """The threshold with the greatest F1 on all training rows; 0.5 without both classes, or under privacy."""
        if self.privacy is not None:
            return THRESHOLD
        scores = self._ask_all(
            messages.THRESHOLD,
            self._final_message(),
            lambda node, content: TrainingScores.from_content(
                content, self.participants.registration_of(node).train_examples
            ),
        )
        if not scores:
            return THRESHOLD
        chosen = choose_threshold(
            np.concatenate([reply.content.positives for reply in scores]),
            np.concatenate([reply.content.negatives for reply in scores]),
        )
        return THRESHOLD if chosen is None else chosen

    def _final_message(self) -> RecordDict:
        """The final weights and the configuration."""
        config = self.train_config().to_record()
        return RecordDict({messages.ARRAYS: weights_to_record(self.weights), messages.CONFIG: config})

    def _test_examples(self, node: int) -> int:
        return self.participants.registration_of(node).test_examples

    def _read_benefit(self, node: int, content: RecordDict) -> Benefit:
        registration = self.participants.registration_of(node)
        task = self.settings.task_declaration
        return Benefit.from_content(content, task, registration.train_examples, registration.test_examples)


@dataclass(frozen=True)
class _AveragedRound:
    """A round whose new weights are not evaluated yet, and the updates that they were averaged from."""

    number: int
    updates: list[AcceptedReply[Update]]
    weights: Weights
