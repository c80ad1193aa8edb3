"""The server's side of a run with secure aggregation: a plain run whose server learns sums over hospitals only."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from math import prod, sqrt
from typing import Any, NamedTuple

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.errors import RunError, SecureAggregationError, SettingsError
from federated_health.messages import content as plain
from federated_health.messages.content import CONFIG, Evaluation, TrainConfig, Update
from federated_health.messages.records import METRICS, MalformedMessageError, weights_to_record
from federated_health.messages.server_messages import digest_of
from federated_health.messages.validation import read_metrics, read_whole
from federated_health.ml.metrics import DEFAULT_THRESHOLD, EvaluationSums
from federated_health.ml.networks import Weights
from federated_health.ml.noisy_evaluation import fixed_threshold, largest_change, table_shape
from federated_health.ml.normalisation import public_normalisation
from federated_health.ml.rounds import Round
from federated_health.names import FEDERATION
from federated_health.secure_aggregation import figures, masks, messages
from federated_health.secure_aggregation.masks import Masked, Vector
from federated_health.secure_aggregation.offers import Offer
from federated_health.server.final_evaluation import ask_all, check_for_harm
from federated_health.server.noisy_summary import summarise_sum
from federated_health.server.plain_run import AveragedRound, PlainRun
from federated_health.server.replies import AcceptedReply, grid_of
from federated_health.server.run_summary import summarise_run
from federated_health.settings import MIN_SECURE_HOSPITALS, Settings
from federated_health.transport.interface import Transport

logger = logging.getLogger(__name__)


MAX_LOST = 2
"""Number of sums that a hospital's process may lose; then it is left out."""


class Total(NamedTuple):
    """A sum over hospitals: their names, the average of their weights if it holds weights, and their figures."""

    hospitals: list[str]
    weights: Vector
    figures: Vector


class SecureRun(PlainRun):
    """A run (see `FederatedRun`) whose server learns the average and the figures of all hospitals together.

    A hospital that drops out before it has computed its answer is left out of the sum. If it does so between its answer
    and the masked numbers, the sum is lost, since no other hospital answers the same question for others: a round is
    trained again under the next number; the normalisation is then that of the task's declared ranges, and a threshold
    or figures are missing.

    Raises:
        SettingsError: the transport ends a hospital's process after each message.
    """

    def __init__(self, transport: Transport, settings: Settings, strategy: Any = None) -> None:
        if not transport.keeps_processes:
            raise SettingsError(
                "secure-aggregation: needs server.py and client.py in terminals: Flower's engines end a hospital's "
                "process after each message, and with it its key"
            )
        super().__init__(transport, settings, strategy)
        self._offers: dict[int, Offer] = {}  # by entry of a participant, which changes with its process
        self._has_offers: dict[int, set[bytes]] = {}  # digests of offers that a participant has, by entry
        self._lost: Counter[int] = Counter()  # number of sums that a participant lost, by entry
        self._skipped = 0  # rounds' numbers that were used for sums that were lost, or before the run was resumed
        self._total: Total | None = None
        self._is_evaluated = 0  # round of whose weights the held-out figures were asked for

    def gather(self, announce: Callable[[str], None] = lambda _: None) -> None:
        super().gather(announce)
        announce("--secure-aggregation: the server cannot compare updates, so it does not notice harmful ones")

    def _begin(self) -> None:
        self.participants.check_registrations()
        measurements = self.settings.task_declaration.measurements
        self.normalisation = public_normalisation(measurements)
        nodes = self._with_offers(self.participants.present())
        if len(nodes) < self.settings.min_updates:
            raise RunError(
                f"{len(nodes)} of {len(self.registrations)} hospitals offered a key, and {self.settings.min_updates} "
                f"are needed ({self.settings.min_reason})"
            )
        if self.privacy is not None:
            return
        content = RecordDict({CONFIG: ConfigRecord({**self._identity(), **self.train_config().to_record()})})
        total = self._sum(messages.SUMS, content, self._prepare(messages.SUMS, content, nodes), 3 * len(measurements))
        try:
            if total is not None:
                self.normalisation = figures.read_normalisation(total.figures, measurements)
                return
        except RunError:  # some hospital sent impossible sums
            pass
        logger.warning("no valid sums of measurements: they are scaled by their declared ranges")

    def _identity(self) -> dict[str, str | float]:
        return {messages.RUN: self.run_id, messages.MAX_SHARE: self.settings.max_share}

    def _train(
        self, config: TrainConfig, averaged: AveragedRound | None, nodes: list[int]
    ) -> list[AcceptedReply[Update]]:
        """One attempt at a round: send the weights, then collect the masked updates."""
        self._total, nodes = None, self._with_offers(nodes)
        if len(nodes) < self.settings.min_updates:
            return []
        record = config.to_record()
        record.update(self._identity())
        is_evaluated = averaged is not None and self._is_evaluated < averaged.number
        if is_evaluated:
            record[plain.EVALUATE] = True
        number, arrays = config.rounds + 1, weights_to_record(averaged.weights if averaged else self.weights)
        request, *_ = self.strategy.configure_train(number + self._skipped, arrays, record, grid_of(nodes))
        ready = self._prepare(messages.TRAIN, request.content, nodes)
        if len(ready) < self.settings.min_updates:
            return []
        if averaged is not None:
            self._is_evaluated = averaged.number
        length = 1 + is_evaluated * figures.number_of_counts(self.target)
        if (total := self._sum(messages.TRAIN, request.content, ready, length)) is None:
            self._skipped += 1
            return []
        loss, counts = float(total.figures[0]), total.figures[1:]
        if averaged is not None and is_evaluated:
            self._note_counts(averaged, counts)
            averaged.is_evaluated = True
        self._total = total
        rows = self.train_examples
        mean_loss = None if config.privacy else loss / sum(rows[name] for name in total.hospitals)
        updates = {name: Update(weights={}, examples=rows[name], loss=mean_loss) for name in total.hospitals}
        return [AcceptedReply(reply.hospital, reply.message, updates[reply.hospital]) for reply in ready]

    def _average(self, number: int, updates: list[AcceptedReply[Update]]) -> AveragedRound:
        """The strategy's step with the hospitals' mean, as if one hospital with all rows had sent it."""
        assert self._total is not None, "there are updates"
        weights: Weights = {}
        left = self._total.weights.astype(np.float32)
        for name, shape in self._shapes.items():
            size = int(np.prod(shape))
            weights[name], left = left[:size].reshape(shape), left[size:]
        rows = sum(reply.content.examples for reply in updates)
        mean = Update(weights=weights, examples=rows, loss=updates[0].content.loss)
        content = mean.to_content()
        content.metric_records[METRICS][plain.EQUAL_WEIGHT] = 1.0
        message = Message(content, reply_to=updates[0].message)
        averaged = super()._average(number, [AcceptedReply(FEDERATION, message, mean)])
        averaged.updates = {reply.hospital: reply.content for reply in updates}
        return averaged

    def _evaluate(self, averaged: AveragedRound) -> None:
        if not (nodes := self._with_offers(self.participants.present())):
            return
        record = replace(self.train_config(), rounds=averaged.number).to_record()
        record.update(self._identity())
        arrays, number = weights_to_record(averaged.weights), averaged.number + self._skipped
        request, *_ = self.strategy.configure_evaluate(number, arrays, record, grid_of(nodes))
        ready = self._prepare(messages.EVALUATE, request.content, nodes)
        if total := self._sum(messages.EVALUATE, request.content, ready, figures.number_of_counts(self.target)):
            self._note_counts(averaged, total.figures)

    def _note_counts(self, averaged: AveragedRound, vector: Vector) -> None:
        counts = figures.read_counts(vector, self.target)
        if self._are_possible(counts):
            averaged.counts[FEDERATION] = counts

    def _are_possible(self, counts: EvaluationSums) -> bool:
        """Whether the hospitals' rows can add up to the sums; if not, some hospital sent wrong ones."""
        rows = sum(known.train_examples + known.test_examples for known in self.registrations.values())
        is_possible = figures.are_possible(counts, self.target, rows)
        if not is_possible:
            logger.warning("no held-out figures: no rows add up to the sum over all hospitals")
        return is_possible

    def summarise(self, averaged: AveragedRound) -> Round:
        """The round, with figures of the federation alone."""
        known = super().summarise(averaged)
        hospitals = {name: part for name, part in known.hospitals.items() if name != FEDERATION}
        own = {name: replace(part, train_loss=None, counts=None) for name, part in hospitals.items()}
        return replace(known, hospitals=own)

    def evaluate(self) -> dict[str, Any]:
        """Choose the threshold, then evaluate the final weights with it (see `FederatedRun.evaluate`)."""
        self.participants.check_registrations()
        task = self.settings.task_declaration
        if self.target.has_threshold:
            self.threshold = self._choose_threshold() if self.privacy is None else fixed_threshold(self.target)
        length = figures.length_of_final(self.target, len(task.columns))
        if self.privacy is not None:
            length = prod(table_shape(self.target) or (0,))
        total = self._ask_all(messages.FINAL, length, {messages.ASKS_BENEFIT: self.asks_benefit})
        if total is None:
            self.threshold = DEFAULT_THRESHOLD
            return self.figures_of_last_round()
        rows = sum(self.train_examples[name] for name in total.hospitals)
        if self.privacy is not None:
            noise = largest_change(task) * self.privacy.evaluation_noise * sqrt(len(total.hospitals))
            return {"hospitals": {}, "federation": summarise_sum(self, total.figures, noise, rows)}
        counts, (auc_sum, with_auc, small), importance, scores = figures.read_final(
            total.figures, self.target, len(task.columns)
        )
        if not self._are_possible(counts):
            self.threshold = DEFAULT_THRESHOLD
            return self.figures_of_last_round()
        self.evaluations = {FEDERATION: Evaluation(counts=counts, scores=scores)}
        result = self._figures_of(self.evaluations[FEDERATION], rows)
        if self.target.has_classes:
            is_known = with_auc >= MIN_SECURE_HOSPITALS
            result["federation"] |= {"mean_roc_auc": float(auc_sum / with_auc) if is_known else None}
            result["federation"] |= {"small_in_mean": round(small)}
        check_for_harm(self, {FEDERATION: counts}, result["federation"].get("roc_auc"))
        if self.asks_benefit:
            rise = importance / max(counts.examples, 1)
            result["importance"] = dict(zip(task.column_names, rise.tolist(), strict=True))
        return result

    def figures_of_last_round(self) -> dict[str, Any]:
        last = self.last_round.federation if self.last_round else None
        if last is None or last.counts is None:
            return {"hospitals": {}, "federation": None}
        return self._figures_of(Evaluation(counts=last.counts), last.train_examples)

    def _figures_of(self, evaluation: Evaluation, rows: int) -> dict[str, Any]:
        return {**summarise_run(self.target, {FEDERATION: evaluation}, {FEDERATION: rows}), "hospitals": {}}

    def _choose_threshold(self) -> float:
        names = ("positives", "negatives")
        if (total := self._ask_all(messages.THRESHOLD, 2 * figures.BINS * len(names))) is None:
            return DEFAULT_THRESHOLD
        from federated_health.ml.microaggregates import choose_threshold  # noqa: PLC0415  # at the end of a run only

        groups = figures.read_bins(total.figures, names)
        chosen = choose_threshold(groups["positives"], groups["negatives"])
        return DEFAULT_THRESHOLD if chosen is None else chosen

    def _ask_all(self, kind: str, length: int, more: Mapping[str, bool] = {}) -> Total | None:
        """A sum over all hospitals that answer about the final weights; absent ones are awaited (see `ask_all`)."""
        config = ConfigRecord({**self.train_config().to_record(), **self._identity(), **more})
        content = RecordDict({plain.ARRAYS: weights_to_record(self.weights), CONFIG: config})
        self._with_offers(self.participants.present())
        return self._sum(kind, content, ask_all(self, kind, content, _read_nothing), length)

    def _with_offers(self, nodes: Iterable[int]) -> list[int]:
        """Those of the nodes that have offered a key; the others are asked for one."""
        entry_of, names = self.participants.entry_of, self.participants.names()
        nodes = [node for node in nodes if self._lost[entry_of(node)] < MAX_LOST]

        def read(node: int, content: RecordDict) -> tuple[Offer, int]:
            try:
                offer = Offer.read(messages.read_bytes(content, messages.OFFERS))
                if offer.name != names[node]:
                    raise MalformedMessageError("its certificate has another name than its registration")
            except SecureAggregationError as error:
                raise MalformedMessageError(f"its offer cannot be read: {error}") from None
            return offer, read_whole(read_metrics(content, {messages.LAST_ROUND}), messages.LAST_ROUND, 0)

        content = RecordDict({CONFIG: self._registration()})
        requests = [Message(content, node, messages.OFFER) for node in nodes if entry_of(node) not in self._offers]
        for reply in self.collector.send_and_receive(requests, names, read):
            self._offers[entry_of(reply.message.metadata.src_node_id)], last = reply.content
            self._skipped = max(self._skipped, last - len(self.history))
        return [node for node in nodes if entry_of(node) in self._offers]

    def _registration(self) -> ConfigRecord:
        task = self.settings.task_declaration
        return ConfigRecord({"task": task.name, "schema": task.schema_hash, messages.RUN: self.run_id})

    def _prepare(self, kind: str, content: RecordDict, nodes: list[int]) -> list[AcceptedReply[None]]:
        """The replies of hospitals that have computed what a message asks for."""
        requests = [Message(content, node, kind) for node in nodes]
        return self.collector.send_and_receive(requests, self.participants.names(), _read_nothing)

    def _sum(
        self, kind: str, content: RecordDict, ready: list[AcceptedReply[None]], number_of_figures: int
    ) -> Total | None:
        """The sum of what hospitals have computed; None if there are too few, or one of them does not send its part.

        Args:
            content: of the message that asked for it.
            ready: the hospitals' replies to it.
        """
        entry_of, names = self.participants.entry_of, self.participants.names()
        nodes = [node for reply in ready if entry_of(node := reply.message.metadata.src_node_id) in self._offers]
        if len(nodes) < MIN_SECURE_HOSPITALS:
            return None
        offers = [self._offers[entry_of(node)] for node in nodes]
        digests = [offer.digest for offer in offers]
        rows = [self.train_examples[names[node]] for node in nodes]
        number = content.config_records[CONFIG].get(plain.ROUND, 0)
        config = {**self._registration(), messages.KIND: kind, messages.DIGEST: digest_of(content), messages.ROWS: rows}
        config |= {plain.ROUND: number} if number else {}
        requests = []
        for node in nodes:
            unknown = [o.content for o in offers if o.digest not in self._has_offers.get(entry_of(node), set())]
            records = {messages.PARTICIPANTS: digests, messages.OFFERS: unknown}
            lists = {name: ConfigRecord({messages.CONTENT: items}) for name, items in records.items()}
            requests.append(Message(RecordDict({CONFIG: ConfigRecord(config), **lists}), node, messages.MASKED))
        size = sum(int(np.prod(shape)) for shape in self._shapes.values()) if kind == messages.TRAIN else 0
        read = partial(_read_vector, length=size + 2 * (1 + number_of_figures))
        replies = self.collector.send_and_receive(requests, names, read)
        for reply in replies:
            self._has_offers[entry_of(reply.message.metadata.src_node_id)] = set(digests)
        if len(replies) < len(nodes):
            missing = set(nodes) - {reply.message.metadata.src_node_id for reply in replies}
            for entry in map(entry_of, missing):
                self._lost[entry] += len(replies) >= MIN_SECURE_HOSPITALS  # else the others may be the cause
                del self._offers[entry]  # it may have restarted without the transport's knowledge
                self._has_offers.pop(entry, None)
            logger.warning("%s: the sum is lost: no masked answer of %s", kind, ", ".join(names[n] for n in missing))
            return None
        total = masks.add_vectors([reply.content for reply in replies])
        known = masks.read_figures(total[size:])
        if known[0] != sum(rows):
            logger.warning("%s: the sum is lost: the masks do not cancel", kind)
            return None
        return Total([names[node] for node in nodes], masks.read_weights(total[:size]), known[1:])


def _read_vector(_: int, content: RecordDict, length: int) -> Masked:
    read_metrics(content, set())
    vector = messages.read_bytes(content, messages.VECTOR)
    if len(vector) != 8 * length:
        raise MalformedMessageError(f"its masked vector: expected {8 * length:,} bytes, got {len(vector):,}")
    return np.frombuffer(vector, dtype="<u8").astype(np.uint64)


def _read_nothing(_: int, content: RecordDict) -> None:
    read_metrics(content, set())
