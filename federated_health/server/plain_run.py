"""A run whose server reads the weights that it averages: the round loop over a Flower strategy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp.strategy import Strategy

from federated_health import secure_aggregation
from federated_health.errors import RunError
from federated_health.messages import content as messages
from federated_health.messages.content import Evaluation, TrainConfig, Update
from federated_health.messages.records import elements_of, is_finite, weights_to_record
from federated_health.messages.validation import read_evaluation, read_update
from federated_health.ml.metrics import EvaluationSums, merge_counts
from federated_health.ml.networks import Weights, initial_weights, weight_shapes
from federated_health.ml.normalisation import merge_sums, normalisation_from, public_normalisation
from federated_health.ml.rounds import HospitalRound, Round
from federated_health.ml.targets import target_of
from federated_health.server.checkpoint import Checkpoint, State
from federated_health.server.replies import AcceptedReply, grid_of
from federated_health.server.run import FederatedRun
from federated_health.server.strategies import MEANS, make_strategy
from federated_health.settings import Settings
from federated_health.transport.interface import Transport


def make_run(transport: Transport, settings: Settings, strategy: Strategy | None = None) -> FederatedRun:
    """A run over a transport (see `FederatedRun`), with secure aggregation where the settings ask for it.

    Args:
        strategy: averages the updates; the settings' strategy by default.
    """
    run_class = secure_aggregation.load("run").SecureRun if settings.secure_aggregation else PlainRun
    run: FederatedRun = run_class(transport, settings, strategy)
    return run


class PlainRun(FederatedRun):
    """A run (see `FederatedRun`) in which hospitals send weights, sums and counts that the server reads.

    Attributes:
        target: what the run predicts.
    """

    def __init__(self, transport: Transport, settings: Settings, strategy: Strategy | None = None) -> None:
        super().__init__(transport, settings)
        self.weights = initial_weights(settings.task_declaration, settings.network_declaration, settings.seed)
        self.strategy = strategy or make_strategy(settings)
        self._shapes = weight_shapes(settings.task_declaration, settings.network_declaration)
        self._lowest_losses: dict[str, float] = {}  # of held-out rows, by hospital
        self._first_loss, self._has_worsened = 0.0, False
        self._opposed: dict[str, int] = {}  # number of rounds in a row with an opposed update, by hospital
        self.target = target_of(settings.task_declaration)

    def _begin(self) -> None:
        if self.privacy is not None:
            self.normalisation = public_normalisation(self.settings.task_declaration.measurements)
        else:
            sums = [registration.sums for _, registration in sorted(self.registrations.items())]
            self.normalisation = normalisation_from(merge_sums(sums))
        if self.settings.class_weight == "balanced":
            from federated_health.ml.class_weights import balance_classes  # noqa: PLC0415  # only with class weights

            self.class_weights = balance_classes([part.class_counts for part in self.registrations.values()])
        self.participants.check_registrations()

    def rounds(self) -> Iterator[Round]:
        """Iterate over the rounds (see `FederatedRun.rounds`).

        A train message also asks for an evaluation of the weights of the round before, so that a round is one message
        per hospital. The last round has an evaluate message of its own. Under differential privacy no round is
        evaluated.
        """
        config = self.train_config()
        averaged: AveragedRound | None = None
        for number in range(len(self.history) + 1, self.settings.rounds + 1):
            attempt = partial(self._train, replace(config, rounds=number - 1), averaged)
            try:
                updates = self.participants.repeat_until_enough(number, attempt)
            except (KeyboardInterrupt, RunError):
                if averaged is not None and averaged.is_evaluated:
                    yield self._complete(averaged)
                raise
            if averaged is not None:
                yield self._complete(averaged)
            averaged = self._average(number, updates)
            self.participants.note_absent(number, updates)
            del updates  # their weights take several times the memory of the network
            if self.privacy is not None or number == self.settings.rounds:
                if self.privacy is None:
                    self._evaluate(averaged)
                yield self._complete(averaged)
                averaged = None

    def _train(
        self, config: TrainConfig, averaged: "AveragedRound | None", nodes: list[int]
    ) -> list[AcceptedReply[Update]]:
        """One attempt at a round: send the weights, and validate the updates.

        Args:
            averaged: the round before, where its weights are not evaluated yet; receives their held-out counts.
        """
        weights = averaged.weights if averaged else self.weights
        record = config.to_record()
        if averaged:
            record[messages.EVALUATE] = True
        number, arrays = config.rounds + 1, weights_to_record(weights)
        train_messages = self.strategy.configure_train(number, arrays, record, grid_of(nodes))

        def read(node: int, content: RecordDict) -> Update:
            registration = self.participants.registration_of(node)
            return read_update(
                content,
                self._shapes,
                registration.train_examples,
                private=config.privacy is not None,
                evaluated=registration.test_examples if averaged else None,
                target=self.target,
            )

        updates = self.collector.send_and_receive(train_messages, self.participants.names(), read)
        if averaged:
            averaged.counts |= {reply.hospital: reply.content.counts for reply in updates if reply.content.counts}
            averaged.is_evaluated = averaged.is_evaluated or bool(updates)
        return self.collector.reject_outsized(updates, weights, self.settings.max_update_norm)

    def _average(self, number: int, updates: list[AcceptedReply[Update]]) -> "AveragedRound":
        """The strategy's average of the updates."""
        opposed: list[str] = []
        if self._has_worsened:
            from federated_health.server.opposed_updates import note_opposed  # noqa: PLC0415  # in failing runs only

            opposed = note_opposed(updates, self.weights, self._opposed, self.problems)
        self._opposed = {name: 1 + self._opposed.get(name, 0) for name in opposed}
        if self.settings.max_share < 1:
            from federated_health.server.share_limit import set_shares  # noqa: PLC0415  # only with a limit

            set_shares(updates, self.settings.max_share)
        with np.errstate(all="ignore"):  # overflow gives non-finite weights, which are reported below
            arrays, _ = self.strategy.aggregate_train(number, [reply.message for reply in updates])
            assert arrays is not None, "there are updates"
            weights = {name: elements_of(arrays[name]).astype(np.float32, copy=False) for name in self._shapes}
        if not all(map(is_finite, weights.values())):
            cause = "training diverged (non-finite weights); try a smaller --learning-rate"
            raise RunError(f"round {number}: {cause}{self.participants.suspicion()}")
        trained = {reply.hospital: replace(reply.content, weights={}) for reply in updates}
        return AveragedRound(number, trained, weights)

    def _evaluate(self, averaged: "AveragedRound") -> None:
        """Add the held-out counts of the hospitals that answer; the average does not depend on them."""
        if not (nodes := self.participants.present()):  # Flower would wait forever for a node
            return
        arrays, config = weights_to_record(averaged.weights), self.train_config().to_record()
        evaluate_messages = self.strategy.configure_evaluate(averaged.number, arrays, config, grid_of(nodes))
        replies = self.collector.send_and_receive(evaluate_messages, self.participants.names(), self.read_evaluation_of)
        replies = [reply for reply in replies if reply.content.has_counts]
        self.strategy.aggregate_evaluate(averaged.number, [reply.message for reply in replies])
        averaged.counts |= {reply.hospital: reply.content.counts for reply in replies}

    def _complete(self, averaged: "AveragedRound") -> Round:
        """Complete a round whose weights have been evaluated."""
        completed = self.summarise(averaged)
        self.weights = averaged.weights
        self.history.append(completed)
        self._note_losses(completed)
        return completed

    def summarise(self, averaged: "AveragedRound") -> Round:
        """Figures of a round."""
        return summarise_round(averaged.number, averaged.updates, averaged.counts)

    def compare_losses(self, counts: Mapping[str, EvaluationSums | None]) -> tuple[float, float]:
        """Mean held-out loss of hospitals' counts, and what it was if each had the loss of its own best round.

        So a hospital that joins or leaves is no rise of the loss.
        """
        known = {name: part for name, part in counts.items() if part is not None and name in self._lowest_losses}
        rows = max(sum(part.examples for part in known.values()), 1)
        best = sum(self._lowest_losses[name] * part.examples for name, part in known.items())
        return sum(part.loss_sum for part in known.values()) / rows, best / rows

    def _note_losses(self, completed: Round) -> None:
        counts = {name: part.counts for name, part in completed.hospitals.items()}
        for name, part in counts.items():
            if part is not None and part.loss is not None:
                self._lowest_losses[name] = min(part.loss, self._lowest_losses.get(name, part.loss))
        loss, best = self.compare_losses(counts)
        self._first_loss = self._first_loss or loss
        self._has_worsened = loss - best > max(0.25 * best, 0.05 * self._first_loss)  # not where all are near 0

    def evaluate(self) -> dict[str, Any]:
        """Choose the threshold, then evaluate the final weights with it (see `FederatedRun.evaluate`)."""
        from federated_health.server.final_evaluation import evaluate_final_weights  # noqa: PLC0415  # at the end

        return evaluate_final_weights(self)

    def figures_of_last_round(self) -> dict[str, Any]:
        from federated_health.server.run_summary import summarise_run  # noqa: PLC0415  # at the end of a run only

        hospitals = self.last_round.hospitals if self.last_round else {}
        evaluations = {name: Evaluation(counts=figures.counts) for name, figures in hospitals.items() if figures.counts}
        return summarise_run(self.target, evaluations, self.train_examples)

    def _state(self) -> tuple[Weights, State]:
        name = self.settings.strategy
        if name in MEANS:
            return self.weights, {}
        from federated_health.server.flower_strategies import read_state  # noqa: PLC0415  # means keep no state

        return self.weights, read_state(name, self.strategy, self._shapes)

    def resume(self, checkpoint: Checkpoint) -> None:
        from federated_health.server.flower_strategies import write_state  # noqa: PLC0415  # to resume only

        write_state(self.settings.strategy, self.strategy, checkpoint.strategy_state, self._shapes)
        self.weights = dict(checkpoint.weights)
        super().resume(checkpoint)
        for completed in self.history:
            self._note_losses(completed)

    def read_evaluation_of(self, node: int, content: RecordDict, *, final: bool = False) -> Evaluation:
        """Read a hospital's evaluation, of the final weights or of a round's."""
        if self.privacy is not None:
            from federated_health.messages.noisy_evaluation import read_noisy_evaluation  # noqa: PLC0415  # as it says

            return read_noisy_evaluation(content, self.target)
        registration = self.participants.registration_of(node)
        task = self.settings.task_declaration
        return read_evaluation(content, self.target, registration.test_examples, final=final, task=task)


@dataclass
class AveragedRound:
    """A round whose new weights are being evaluated, and the held-out counts so far.

    Attributes:
        updates: by hospital, without their weights.
        is_evaluated: whether any hospital has evaluated the weights, perhaps without sending counts.
    """

    number: int
    updates: dict[str, Update]
    weights: Weights
    counts: dict[str, EvaluationSums] = field(default_factory=dict)
    is_evaluated: bool = False


def summarise_round(number: int, updates: Mapping[str, Update], counts: Mapping[str, EvaluationSums]) -> Round:
    """Figures of a round from its updates (at least one) and the held-out sums that arrived, each by hospital."""
    hospitals = {
        name: HospitalRound(
            train_examples=updates[name].examples if name in updates else 0,
            train_loss=updates[name].loss if name in updates else None,
            counts=counts.get(name),
        )
        for name in sorted(updates.keys() | counts.keys())
    }
    rows = sum(update.examples for update in updates.values())
    losses = [update.loss * update.examples for update in updates.values() if update.loss is not None]
    federation = HospitalRound(
        train_examples=rows,
        train_loss=sum(losses) / rows if len(losses) == len(updates) else None,
        counts=merge_counts(counts.values()) if counts else None,
    )
    return Round(number=number, hospitals=hospitals, federation=federation)
