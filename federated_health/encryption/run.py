"""A run whose server adds what it cannot read: it holds ciphertexts, numbers of rows, and no key."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.encryption import messages, vectors
from federated_health.encryption.ckks import SLOTS, Adder, Encrypted
from federated_health.encryption.key_exchange import KeyExchange
from federated_health.encryption.messages import EncryptedReply, KeyNews
from federated_health.errors import CheckpointError, RunError, SettingsError
from federated_health.messages.content import CONFIG, ROUND, TrainConfig
from federated_health.ml.networks import weight_shapes
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.rounds import HospitalRound, Round
from federated_health.ml.strategies import PROXIMAL_MU, STRATEGIES
from federated_health.server.checkpoint import Checkpoint
from federated_health.server.replies import AcceptedReply
from federated_health.server.run import FederatedRun
from federated_health.settings import MIN_ENCRYPTED_HOSPITALS, OPERATIONAL, Settings
from federated_health.transport.interface import Transport

logger = logging.getLogger(__name__)

Chunks = list[bytes]

NOT_KNOWN = Normalisation(mean=(), variance=())
"""Stands where hospitals put what they alone know."""


class EncryptedRun(FederatedRun):
    """One run (see `FederatedRun`) in which weights, sums and counts reach the server encrypted and stay so.

    No sum of fewer than three hospitals is given to them: of fewer, each could take its own part away. What they
    conclude of the sums they keep; `evaluate` gives back only that it is so.

    Raises:
        RunError: when gathering, too many patients for the cipher's precision.
    """

    def __init__(self, transport: Transport, settings: Settings) -> None:
        if not transport.keeps_processes:
            raise SettingsError(
                "encrypt: works between terminals only: Flower's engines end a hospital's process with each message, "
                "and with it the only one that could keep the model"
            )
        super().__init__(transport, settings)
        self._adder = Adder()
        self._keys = self._new_keys()
        self._length = sum(map(math.prod, weight_shapes(settings.task_declaration, settings.model).values()))
        self._patients = 0
        self._column_sums: Chunks = []
        self._average: Chunks = []  # none before the first round: then it is the initial weights, which all can make
        self._scale = 1.0
        self._shares: dict[str, float] = {}
        self._blocks: dict[str, Chunks] = {}
        self._scores: Chunks = []
        self._figures: Chunks = []

    def _new_keys(self, key_id: str = "") -> KeyExchange:
        return KeyExchange(self.participants, self.collector, self.settings, self.run_id, key_id)

    def _begin(self) -> None:
        self._patients = sum(one.train_examples + one.test_examples for one in self.registrations.values())
        if self._patients > vectors.MAX_PATIENTS:
            raise RunError(f"with --encrypt a federation has at most {vectors.MAX_PATIENTS:,} patients")
        nodes = self._keys.share_key(self.participants.present())
        if self.privacy is None:  # else the normalisation is what the task declares
            self._merge_sums(nodes)

    def _merge_sums(self, nodes: list[int]) -> None:
        length = 3 * len(self.settings.task_declaration.measurements)
        config = self._keys.config(**{messages.PATIENTS: self._patients})
        questions = [Message(RecordDict({CONFIG: config}), node, messages.SUMS) for node in nodes]
        replies = self.collector.send_and_receive(
            questions, self.participants.names(), lambda node, content: self._read(node, content, length)
        )
        if len(replies) < self.settings.min_updates:
            raise RunError(
                f"{len(replies)} of {len(self.registrations)} hospitals sent encrypted sums that can be used, and "
                f"{self.settings.min_updates} are needed ({self.settings.min_reason})"
            )
        self._column_sums = self._add(replies)

    def rounds(self) -> Iterator[Round]:
        for number in range(len(self.history) + 1, self.settings.rounds + 1):
            trained = self.participants.repeat_until_enough(number, partial(self._ask_for_updates, number))
            self.participants.note_absent(number, trained)
            shares = self._shares  # as they were sent
            average, scale = self._add(trained), 1.0 / sum(shares[reply.hospital] for reply in trained)
            evaluated = self._evaluate(number, average, scale, {reply.hospital for reply in trained})
            if len(evaluated) >= MIN_ENCRYPTED_HOSPITALS:
                self._remember(number, evaluated)
            self._average, self._scale = average, scale
            finished = self._summarise(number, trained)
            self.history.append(finished)
            yield finished

    def evaluate(self) -> dict[str, Any]:
        """Have the hospitals choose the threshold, evaluate the final weights with it, and keep what comes of it."""
        self._scores = self._sum_scores() if self.privacy is None else []
        length = vectors.FinalSums.length(len(self.settings.task_declaration.columns))
        answers = self._ask_all(
            messages.FINAL,
            self._question({messages.SCORES: self._scores}, appraisal=self.asks_benefit),
            lambda node, content: self._read(node, content, length, of_test=True),
        )
        self._figures = self._add(answers) if len(answers) >= MIN_ENCRYPTED_HOSPITALS else []
        question = self._closing({answer.hospital for answer in answers})
        told = self._ask_all(messages.CLOSING, question, self._read_closing)
        return {"encrypted": True, "has_result": [answer.hospital for answer in told]}

    def _sum_scores(self) -> Chunks:
        """Of all training rows, for the threshold; nothing where too few hospitals answer."""
        scores = self._ask_all(
            messages.THRESHOLD,
            self._question(),
            lambda node, content: self._read(node, content, 2 * vectors.BINS),
        )
        return self._add(scores) if len(scores) >= MIN_ENCRYPTED_HOSPITALS else []

    def figures_of_last_round(self) -> dict[str, Any]:
        """Have those hospitals that are there keep what the finished rounds gave."""
        self._scores, self._figures = [], []
        names = self.participants.names()
        questions = [Message(self._closing(set()), node, messages.CLOSING) for node in self._present()]
        told = self.collector.send_and_receive(questions, names, self._read_closing)
        return {"encrypted": True, "has_result": [answer.hospital for answer in told]}

    def _closing(self, evaluated: set[str]) -> RecordDict:
        """All sums, which is all that there is; what hospitals make of them, the server is not told.

        Args:
            evaluated: hospitals whose final figures are in them.
        """
        account = {
            "hospitals": len(self.registrations),
            "train_examples": sum(self.train_examples[name] for name in evaluated or self.registrations),
            "rounds": len(self.history),
            "stopped": not evaluated,
            "settings": {key: value for key, value in self.settings.to_config().items() if key not in OPERATIONAL},
        }
        sums = {messages.SCORES: self._scores, messages.FIGURES: self._figures, **self._blocks}
        return self._question(sums, account=json.dumps(account))

    def checkpoint(self) -> Checkpoint:
        arrays = {
            "key": self._keys.key_id.encode(),
            **{f"{messages.COLUMN_SUMS}/{place}": chunk for place, chunk in enumerate(self._column_sums)},
            **{f"{name}/{place}": chunk for name, block in self._blocks.items() for place, chunk in enumerate(block)},
        }
        state: dict[str, npt.NDArray[Any]] = {name: np.frombuffer(one, np.uint8) for name, one in arrays.items()}
        average = {str(place): np.frombuffer(chunk, np.uint8) for place, chunk in enumerate(self._average)}
        return Checkpoint(
            run=self.run_id,
            round_number=len(self.history),
            settings=self.settings.to_config(),
            agreement=self.settings.task_declaration.agreement,
            weights=average,  # type: ignore[arg-type]  # bytes of ciphertexts in place of weights
            strategy_state={**state, "scale": np.array(self._scale), "patients": np.array(self._patients)},
            normalisation=NOT_KNOWN,
            registrations=tuple(one for _, one in sorted(self.registrations.items())),
            problems=self.problems.to_json(),
            history=self.history,
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.strategy_state
        try:
            key_id = state["key"].tobytes().decode()
            self._scale, self._patients = float(state["scale"]), int(state["patients"])
        except KeyError:
            raise CheckpointError("what an encrypted run should remember is not in it") from None
        self._column_sums = _chunks_under(messages.COLUMN_SUMS, state)
        self._average = [array.tobytes() for array in checkpoint.weights.values()]
        blocks = dict.fromkeys(name.partition("/")[0] for name in state if name.startswith(messages.HISTORY))
        self._blocks = {name: _chunks_under(name, state) for name in blocks}
        self._restore(checkpoint)
        self._keys = self._new_keys(key_id)

    def train_config(self) -> TrainConfig:
        """What hospitals are told; the normalisation and the threshold they know by themselves."""
        return self._make_train_config(NOT_KNOWN)

    def _present(self) -> list[int]:
        return self._keys.brief(self.participants.present(), self._column_sums, self._patients)

    def _ask_for_updates(self, number: int, nodes: list[int]) -> list[AcceptedReply[Encrypted]]:
        """One attempt at a round, among those of the nodes that have the key."""
        shares = self._shares = self._weigh_hospitals()
        questions = []
        for node in self._keys.brief(nodes, self._column_sums, self._patients):
            content = self._question(round_number=number, share=shares[self.participants.names()[node]])
            questions.append(Message(content, node, messages.TRAIN))
        return self._ask(questions, self._length)

    def _ask(self, questions: list[Message], length: int, *, of_test: bool = False) -> list[AcceptedReply[Encrypted]]:
        """The encrypted vectors of this length that hospitals answer with."""
        replies = self.collector.send_and_receive(
            questions,
            self.participants.names(),
            lambda node, content: self._read(node, content, length, of_test=of_test),
        )
        answered = {reply.message.metadata.src_node_id for reply in replies}
        self._keys.doubt({question.metadata.dst_node_id for question in questions} - answered)
        return replies

    def _evaluate(
        self, number: int, average: Chunks, scale: float, trained: set[str]
    ) -> list[AcceptedReply[Encrypted]]:
        """The encrypted figures of those hospitals that answer.

        Raises:
            RunError: none does, of those that were asked: the average may be spoiled, which they alone can see.
        """
        questions = []
        for node in (nodes := self._present()):
            is_counted = self.participants.names()[node] in trained
            new = {messages.WEIGHTS: average}
            content = self._question(new, scale=scale, round_number=number, counted=is_counted)
            questions.append(Message(content, node, messages.EVALUATE))
        evaluated = self._ask(questions, SLOTS, of_test=True)
        if nodes and not evaluated:
            raise RunError(f"round {number}: no hospital could use the average of the encrypted updates")
        return evaluated

    def _question(
        self,
        more: Mapping[str, Chunks] | None = None,
        *,
        round_number: int | None = None,
        **config: str | int | float | bool,
    ) -> RecordDict:
        """The encrypted weights of the last finished round, with what every hospital is told, and more.

        Args:
            more: vectors, among them perhaps other weights.
            config: further values of the record `config`.
        """
        settings = self.settings
        told: dict[str, Any] = {
            **self.train_config().to_record(),
            **self._keys.config(),
            messages.PATIENTS: self._patients,
            messages.SCALE: self._scale,
            messages.MAX_UPDATE_NORM: settings.max_update_norm,
            PROXIMAL_MU: float(settings.strategy_arguments.get(PROXIMAL_MU, 0.0)),
            **config,
        }
        if round_number is not None:
            told[ROUND] = round_number
        sent = {name: chunks for name, chunks in {messages.WEIGHTS: self._average, **(more or {})}.items() if chunks}
        return RecordDict({CONFIG: ConfigRecord(told), messages.ENCRYPTED: messages.to_record(sent)})

    def _weigh_hospitals(self) -> dict[str, float]:
        """Shares of the average, by hospital, as the strategy weighs them; they add up to 1."""
        rows = self.train_examples
        if STRATEGIES[self.settings.strategy].equal_weights:
            return dict.fromkeys(rows, 1.0 / len(rows))
        return {name: examples / sum(rows.values()) for name, examples in rows.items()}

    def _read(self, node: int, content: RecordDict, length: int, *, of_test: bool = False) -> Encrypted:
        one = self.participants.registration_of(node)
        declared = one.test_examples if of_test else one.train_examples
        return EncryptedReply.from_content(content, self._adder, length, declared)

    def _read_closing(self, _: int, content: RecordDict) -> KeyNews:
        return KeyNews.from_content(content, 0)

    def _add(self, replies: list[AcceptedReply[Encrypted]]) -> Chunks:
        assert len(replies) >= MIN_ENCRYPTED_HOSPITALS, "of fewer each would learn the others'"
        return self._adder.add([reply.content for reply in replies]).to_chunks()

    def _remember(self, number: int, evaluated: list[AcceptedReply[Encrypted]]) -> None:
        """Add a round's figures to those of its block of rounds, which stand at other places of the same vector."""
        name = messages.name_of_block((number - 1) // vectors.ROUNDS)
        figures = self._adder.add([reply.content for reply in evaluated])
        if before := self._blocks.get(name):
            figures = self._adder.add([self._adder.read(before, SLOTS), figures])
        self._blocks[name] = figures.to_chunks()

    def _summarise(self, number: int, trained: list[AcceptedReply[Encrypted]]) -> Round:
        """Who took part, with how many rows."""
        rows = {reply.hospital: self.registrations[reply.hospital].train_examples for reply in trained}

        def known(examples: int) -> HospitalRound:
            return HospitalRound(train_examples=examples, train_loss=None, counts=None)

        hospitals = {name: known(examples) for name, examples in rows.items()}
        return Round(number=number, hospitals=hospitals, federation=known(sum(rows.values())))


def _chunks_under(name: str, state: Mapping[str, npt.NDArray[Any]]) -> Chunks:
    return [array.tobytes() for key, array in state.items() if key.startswith(f"{name}/")]
