"""The server's side of an encrypted run: it sums ciphertexts and has row counts, but no key."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.encryption import messages, vectors
from federated_health.encryption.ckks import SLOTS, Adder, EncryptedVector
from federated_health.encryption.key_exchange import KeyExchange
from federated_health.encryption.messages import EncryptedReply, KeyReply
from federated_health.errors import CheckpointError, RunError, SettingsError
from federated_health.messages.content import CONFIG, ROUND
from federated_health.ml.networks import Weights, weight_shapes
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.rounds import HospitalRound, Round
from federated_health.ml.strategies import STRATEGIES
from federated_health.names import PROXIMAL_MU
from federated_health.server.checkpoint import Checkpoint, State
from federated_health.server.replies import AcceptedReply
from federated_health.server.run import FederatedRun
from federated_health.settings import MIN_ENCRYPTED_HOSPITALS, OPERATIONAL, Settings
from federated_health.transport.interface import Transport

Chunks = list[bytes]
VectorReplies = list[AcceptedReply[EncryptedVector]]


class EncryptedRun(FederatedRun):
    """One run (see `FederatedRun`) in which weights, sums and counts reach the server encrypted and stay encrypted.

    The server sends no sum of fewer than three hospitals: each of two could subtract its own part. The hospitals keep
    what they decrypt; `evaluate` returns only which of them have the result.

    Raises:
        RunError: when gathering, if there are too many patients for the cipher's precision.
    """

    def __init__(self, transport: Transport, settings: Settings) -> None:
        if not transport.keeps_processes:
            raise SettingsError(
                "encrypt: works between terminals only: Flower's engines end a hospital's process with each message, "
                "and with it the only one that could keep the model"
            )
        super().__init__(transport, settings)
        self.normalisation = Normalisation(mean=(), variance=())  # only the hospitals know it
        self._adder = Adder()
        self._keys = self._new_keys()
        self._length = sum(map(math.prod, weight_shapes(settings.task_declaration, settings.model).values()))
        self._patients = 0
        self._column_sums: Chunks = []
        self._average: Chunks = []  # empty before the first round: every hospital computes the initial weights itself
        self._scale = 1.0
        self._shares: dict[str, float] = {}
        self._blocks: dict[str, Chunks] = {}
        self._scores: Chunks = []
        self._figures: Chunks = []

    def _new_keys(self, key_id: str = "") -> KeyExchange:
        return KeyExchange(self.participants, self.collector, self.settings, self.run_id, key_id)

    def _begin(self) -> None:
        self._patients = sum(each.train_examples + each.test_examples for each in self.registrations.values())
        if self._patients > vectors.MAX_PATIENTS:
            raise RunError(
                f"too many patients for --encrypt: expected at most {vectors.MAX_PATIENTS:,}, got {self._patients:,}"
            )
        nodes = self._keys.share_key(self.participants.present())
        if self.privacy is None:  # otherwise the normalisation follows from the task alone
            self._merge_sums(nodes)

    def _merge_sums(self, nodes: list[int]) -> None:
        content = RecordDict({CONFIG: self._keys.config(**{messages.PATIENTS: self._patients})})
        read = self._reader(3 * len(self.settings.task_declaration.measurements))
        questions = [Message(content, node, messages.SUMS) for node in nodes]
        replies = self.collector.send_and_receive(questions, self.participants.names(), read)
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
            average, scale = self._add(trained), 1.0 / sum(self._shares[reply.hospital] for reply in trained)
            evaluated = self._evaluate(number, average, scale, {reply.hospital for reply in trained})
            if len(evaluated) >= MIN_ENCRYPTED_HOSPITALS:
                self._add_to_block(number, evaluated)
            self._average, self._scale = average, scale
            self.history.append(finished := self._summarise(number, trained))
            yield finished

    def evaluate(self) -> dict[str, Any]:
        """Have the hospitals choose the threshold, evaluate the final weights with it, and store the result.

        Returns:
            Which hospitals have the result.
        """
        self._scores = []
        if self.privacy is None:
            scores = self._ask_all(messages.THRESHOLD, self._content(), self._reader(2 * vectors.BINS))
            self._scores = self._add_if_enough(scores)
        length = vectors.FinalSums.length(len(self.settings.task_declaration.columns))
        content = self._content({messages.SCORES: self._scores}, {messages.ASKS_BENEFIT: self.asks_benefit})
        replies = self._ask_all(messages.FINAL, content, self._reader(length, of_test=True))
        self._figures = self._add_if_enough(replies)
        content = self._result_content({reply.hospital for reply in replies})
        return _result_of(self._ask_all(messages.RESULT, content, _read_confirmation))

    def figures_of_last_round(self) -> dict[str, Any]:
        """Have the hospitals that are present store the figures of the finished rounds."""
        self._scores, self._figures = [], []
        content, names = self._result_content(set()), self.participants.names()
        questions = [Message(content, node, messages.RESULT) for node in self.participants.present()]
        return _result_of(self.collector.send_and_receive(questions, names, _read_confirmation))

    def _result_content(self, evaluated: set[str]) -> RecordDict:
        """All sums of the run, from which each hospital computes its result.

        Args:
            evaluated: hospitals whose final figures are included; empty if the run was stopped.
        """
        facts = {
            "hospitals": len(self.registrations),
            "train_examples": sum(self.train_examples[name] for name in evaluated or self.registrations),
            "rounds": len(self.history),
            "stopped": not evaluated,
            "settings": {key: value for key, value in self.settings.to_config().items() if key not in OPERATIONAL},
        }
        sums = {messages.SCORES: self._scores, messages.FIGURES: self._figures, **self._blocks}
        return self._content(sums, {messages.RUN_FACTS: json.dumps(facts)})

    def _state(self) -> tuple[Weights, State]:
        chunks = {messages.COLUMN_SUMS: self._column_sums, **self._blocks}
        arrays = {
            "key": _to_array(self._keys.key_id.encode()),
            **{f"{name}/{key}": array for name in chunks for key, array in _to_arrays(chunks[name]).items()},
            "scale": np.array(self._scale),
            "patients": np.array(self._patients),
        }
        return _to_arrays(self._average), arrays  # bytes of ciphertexts instead of weights

    def resume(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.strategy_state
        try:
            key_id = state["key"].tobytes().decode()
            self._scale, self._patients = float(state["scale"]), int(state["patients"])
        except KeyError as error:
            raise CheckpointError(f"the checkpoint is not of an encrypted run: it lacks {error}") from None
        self._column_sums = _chunks_in(state, messages.COLUMN_SUMS)
        self._average = [array.tobytes() for array in checkpoint.weights.values()]
        names = dict.fromkeys(key.partition("/")[0] for key in state if key.startswith(messages.HISTORY))
        self._blocks = {name: _chunks_in(state, name) for name in names}
        super().resume(checkpoint)
        self._keys = self._new_keys(key_id)

    def _ask_for_updates(self, number: int, nodes: list[int]) -> VectorReplies:
        """One attempt at a round, among those of the nodes that have the key."""
        self._shares, names = self._weigh_hospitals(), self.participants.names()
        ready = self._keys.share_key_and_sums(nodes, self._column_sums, self._patients)
        contents = {
            node: self._content(config={ROUND: number, messages.SHARE: self._shares[names[node]]}) for node in ready
        }
        return self._ask(messages.TRAIN, contents, self._reader(self._length))

    def _evaluate(self, number: int, average: Chunks, scale: float, trained: set[str]) -> VectorReplies:
        """Encrypted figures of the hospitals that reply.

        Raises:
            RunError: hospitals are present and none replies: the average may be unusable, which only they can see.
        """
        weights, config = {messages.WEIGHTS: average}, {messages.SCALE: scale, ROUND: number}
        names = self.participants.names()
        contents = {
            node: self._content(weights, {**config, messages.IS_COUNTED: names[node] in trained})
            for node in self.participants.present()
        }
        evaluated = self._ask(messages.EVALUATE, contents, self._reader(SLOTS, of_test=True))
        if contents and not evaluated:
            raise RunError(f"round {number}: no hospital could use the average of the encrypted updates")
        return evaluated

    def _ask(
        self,
        message_type: str,
        contents: Mapping[int, RecordDict],
        read: Callable[[int, RecordDict], EncryptedVector],
    ) -> VectorReplies:
        """Replies that can be used; the other hospitals may lack the key."""
        questions = [Message(content, node, message_type) for node, content in contents.items()]
        replies = self.collector.send_and_receive(questions, self.participants.names(), read)
        self._keys.recheck(set(contents) - {reply.message.metadata.src_node_id for reply in replies})
        return replies

    def _content(self, sums: Mapping[str, Chunks] | None = None, config: Mapping[str, Any] | None = None) -> RecordDict:
        """A message's content: the encrypted weights of the last finished round, the train config, and more.

        Args:
            sums: more encrypted vectors by name, or other weights.
            config: more entries of the record `config`.
        """
        entries = {
            **self.train_config().to_record(),
            **self._keys.config(),
            messages.PATIENTS: self._patients,
            messages.SCALE: self._scale,
            messages.MAX_UPDATE_NORM: self.settings.max_update_norm,
            PROXIMAL_MU: float(self.settings.strategy_arguments.get(PROXIMAL_MU, 0.0)),
            **(config or {}),
        }
        encrypted = {messages.WEIGHTS: self._average, **(sums or {})}
        record = ConfigRecord({name: chunks for name, chunks in encrypted.items() if chunks})
        return RecordDict({CONFIG: ConfigRecord(entries), messages.ENCRYPTED: record})

    def _weigh_hospitals(self) -> dict[str, float]:
        """Share of each hospital in the average, by the strategy's weighting; the shares add up to 1."""
        rows = self.train_examples
        if STRATEGIES[self.settings.strategy].equal_weights:
            return dict.fromkeys(rows, 1.0 / len(rows))
        return {name: examples / sum(rows.values()) for name, examples in rows.items()}

    def _reader(self, length: int, *, of_test: bool = False) -> Callable[[int, RecordDict], EncryptedVector]:
        """Function that validates a reply: an encrypted vector of this length, from all training or held-out rows."""

        def read(node: int, content: RecordDict) -> EncryptedVector:
            registration = self.participants.registration_of(node)
            declared = registration.test_examples if of_test else registration.train_examples
            return EncryptedReply.from_content(content, self._adder, length, declared)

        return read

    def _add(self, replies: VectorReplies) -> Chunks:
        assert len(replies) >= MIN_ENCRYPTED_HOSPITALS, "from a sum of fewer, each could learn the others' part"
        return self._adder.add([reply.content for reply in replies]).to_chunks()

    def _add_if_enough(self, replies: VectorReplies) -> Chunks:
        return self._add(replies) if len(replies) >= MIN_ENCRYPTED_HOSPITALS else []

    def _add_to_block(self, number: int, evaluated: VectorReplies) -> None:
        """Add a round's figures to those of its block of rounds, which are at other positions of the same vector."""
        name = messages.name_of_block((number - 1) // vectors.ROUNDS_PER_BLOCK)
        figures = self._adder.add([reply.content for reply in evaluated])
        if earlier := self._blocks.get(name):
            figures = self._adder.add([self._adder.read(earlier, SLOTS), figures])
        self._blocks[name] = figures.to_chunks()

    def _summarise(self, number: int, trained: VectorReplies) -> Round:
        """Participants of a round and their row counts: all that the server knows."""
        rows = {reply.hospital: self.registrations[reply.hospital].train_examples for reply in trained}
        unknown = {"train_loss": None, "counts": None}
        return Round(
            number=number,
            hospitals={name: HospitalRound(train_examples=examples, **unknown) for name, examples in rows.items()},
            federation=HospitalRound(train_examples=sum(rows.values()), **unknown),
        )


def _read_confirmation(_: int, content: RecordDict) -> KeyReply:
    return KeyReply.from_content(content, 0)


def _result_of(confirmed: list[AcceptedReply[KeyReply]]) -> dict[str, Any]:
    return {"encrypted": True, "has_result": [reply.hospital for reply in confirmed]}


def _to_array(content: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)


def _to_arrays(chunks: Chunks) -> dict[str, npt.NDArray[Any]]:
    return {str(place): _to_array(chunk) for place, chunk in enumerate(chunks)}


def _chunks_in(state: Mapping[str, npt.NDArray[Any]], name: str) -> Chunks:
    return [array.tobytes() for key, array in state.items() if key.startswith(f"{name}/")]
