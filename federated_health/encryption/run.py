"""The server's side of an encrypted run: it sums ciphertexts and has row counts, but no key."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, RecordDict

from federated_health.encryption import messages, vectors
from federated_health.encryption.ckks import SLOTS, Adder, EncryptedVector
from federated_health.encryption.key_exchange import KeyExchange
from federated_health.encryption.messages import KeyReply, read_vector
from federated_health.errors import CheckpointError, RunError, SettingsError
from federated_health.messages.content import CONFIG, ROUND, Update
from federated_health.ml.networks import Weights, weight_shapes
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.rounds import Round
from federated_health.ml.strategies import STRATEGIES
from federated_health.names import PROXIMAL_MU
from federated_health.server.checkpoint import Checkpoint, State
from federated_health.server.final_evaluation import ask_all
from federated_health.server.plain_run import summarise_round
from federated_health.server.replies import AcceptedReply
from federated_health.server.run import FederatedRun
from federated_health.server.share_limit import limit_shares
from federated_health.settings import MIN_ENCRYPTED_HOSPITALS, OPERATIONAL, Settings
from federated_health.transport.interface import Transport

Chunks = list[bytes]
VectorReplies = list[AcceptedReply[EncryptedVector]]
Reader = Callable[[int, RecordDict], EncryptedVector]


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
                "encrypt: needs server.py and client.py in terminals: Flower's engines end a hospital's process after "
                "each message, and with it the run's key and model"
            )
        super().__init__(transport, settings)
        self.normalisation = Normalisation(mean=(), variance=())  # only the hospitals know it
        self._adder = Adder()
        self._keys = KeyExchange(self)
        self._length = sum(
            map(math.prod, weight_shapes(settings.task_declaration, settings.network_declaration).values())
        )
        self._patients = 0
        self._average: Chunks = []  # empty before the first round: every hospital computes the initial weights itself
        self._scale = 1.0
        self._shares: dict[str, float] = {}
        self._sums: dict[str, Chunks] = {}  # for the normalisation, and the blocks of the history

    def _begin(self) -> None:
        self.participants.check_registrations()
        self._patients = sum(
            registered.train_examples + registered.test_examples for registered in self.registrations.values()
        )
        if self._patients > vectors.MAX_PATIENTS:
            raise RunError(
                f"too many patients for --encrypt: expected at most {vectors.MAX_PATIENTS:,}, got {self._patients:,}"
            )
        nodes = self._keys.share_key(self.participants.present())
        if self.privacy is not None:
            return  # the normalisation follows from the task alone
        content = RecordDict({CONFIG: self._keys.config(**{messages.PATIENTS: self._patients})})
        read = partial(self._read, length=3 * len(self.settings.task_declaration.measurements))
        replies = self._keys.ask(messages.SUMS, dict.fromkeys(nodes, content), read)
        if len(replies) < self.settings.min_updates:
            raise RunError(
                f"{len(replies)} of {len(self.registrations)} hospitals sent encrypted sums that can be used, and "
                f"{self.settings.min_updates} are needed ({self.settings.min_reason})"
            )
        self._sums[messages.COLUMN_SUMS] = self._add(replies)

    def rounds(self) -> Iterator[Round]:
        for number in range(len(self.history) + 1, self.settings.rounds + 1):
            trained = self.participants.repeat_until_enough(number, partial(self._ask_for_updates, number))
            self.participants.note_absent(number, trained)
            average, scale = self._add(trained), 1.0 / sum(self._shares[reply.hospital] for reply in trained)
            assert average, "a round has at least min_updates updates"
            evaluated = self._evaluate(number, average, scale, {reply.hospital for reply in trained})
            if figures := self._add(evaluated):
                self._add_to_block(number, figures)
            self._average, self._scale = average, scale
            rows = {reply.hospital: self.train_examples[reply.hospital] for reply in trained}
            updates = {name: Update(weights={}, examples=rows[name], loss=None) for name in rows}
            self.history.append(completed := summarise_round(number, updates, counts={}))
            yield completed

    def evaluate(self) -> dict[str, Any]:
        """Have the hospitals choose the threshold, evaluate the final weights with it, and store the result."""
        scores: Chunks = []
        if self.privacy is None:
            read = partial(self._read, length=2 * vectors.BINS)
            scores = self._add(ask_all(self, messages.THRESHOLD, self._content(), read))
        length = vectors.FinalSums.length(len(self.settings.task_declaration.columns))
        content = self._content({messages.SCORES: scores}, {messages.ASKS_BENEFIT: self.asks_benefit})
        replies = ask_all(self, messages.FINAL, content, partial(self._read, length=length, of_test=True))
        sums = {messages.SCORES: scores, messages.FIGURES: self._add(replies)}
        content = self._result_content(sums, {reply.hospital for reply in replies})
        return _result_of(ask_all(self, messages.RESULT, content, _read_confirmation))

    def figures_of_last_round(self) -> dict[str, Any]:
        """Have the hospitals that are present store the figures of the completed rounds."""
        contents = dict.fromkeys(self.participants.present(), self._result_content({}, set()))
        return _result_of(self._keys.ask(messages.RESULT, contents, _read_confirmation))

    def _result_content(self, sums: Mapping[str, Chunks], evaluated: set[str]) -> RecordDict:
        """All sums of the run, from which each hospital computes its result.

        The sums of the final evaluation, and the hospitals that are part of them, are empty if the run was stopped.
        """
        facts = {
            "hospitals": len(self.registrations),
            "train_examples": sum(self.train_examples[name] for name in evaluated or self.registrations),
            "rounds": len(self.history),
            "stopped": not evaluated,
            "settings": {key: value for key, value in self.settings.to_config().items() if key not in OPERATIONAL},
        }
        blocks = {name: chunks for name, chunks in self._sums.items() if name != messages.COLUMN_SUMS}
        return self._content({**sums, **blocks}, {messages.RUN_FACTS: json.dumps(facts)})

    def _state(self) -> tuple[Weights, State]:
        arrays = {f"{name}/{key}": array for name in self._sums for key, array in _to_arrays(self._sums[name]).items()}
        state = {
            "key": np.frombuffer(self._keys.key_id.encode(), np.uint8),
            **arrays,
            "scale": np.array(self._scale),
            "patients": np.array(self._patients),
        }
        return _to_arrays(self._average), state  # bytes of ciphertexts instead of weights

    def resume(self, checkpoint: Checkpoint) -> None:
        state = dict(checkpoint.strategy_state)
        try:
            self._keys.key_id = state.pop("key").tobytes().decode()
            self._scale, self._patients = float(state.pop("scale")), int(state.pop("patients"))
        except KeyError as error:
            raise CheckpointError(f"the checkpoint is not of an encrypted run: it lacks {error}") from None
        self._average = [array.tobytes() for array in checkpoint.weights.values()]
        for key, array in state.items():
            self._sums.setdefault(key.partition("/")[0], []).append(array.tobytes())
        super().resume(checkpoint)

    def _ask_for_updates(self, number: int, nodes: list[int]) -> VectorReplies:
        """One attempt at a round, among those of the nodes that have the key.

        The shares of all hospitals in the average follow the strategy's weighting, and add up to 1.
        """
        rows, names = self.train_examples, self.participants.names()
        weights = dict.fromkeys(rows, 1) if STRATEGIES[self.settings.strategy].equal_weights else rows
        self._shares = limit_shares(weights, self.settings.max_share)
        ready = self._keys.share_key_and_sums(nodes, self._sums.get(messages.COLUMN_SUMS, []), self._patients)
        contents = {
            node: self._content(config={ROUND: number, messages.SHARE: self._shares[names[node]]}) for node in ready
        }
        return self._ask(messages.TRAIN, contents, partial(self._read, length=self._length))

    def _evaluate(self, number: int, average: Chunks, scale: float, trained: set[str]) -> VectorReplies:
        """Encrypted figures of the hospitals that reply; if none does, the average may be unusable."""
        weights, config = {messages.WEIGHTS: average}, {messages.SCALE: scale, ROUND: number}
        present, names = self.participants.present(), self.participants.names()
        contents = {
            node: self._content(weights, {**config, messages.IS_COUNTED: names[node] in trained}) for node in present
        }
        evaluated = self._ask(messages.EVALUATE, contents, partial(self._read, length=SLOTS, of_test=True))
        if contents and not evaluated:
            raise RunError(f"round {number}: no hospital could use the average of the encrypted updates")
        return evaluated

    def _ask(self, message_type: str, contents: Mapping[int, RecordDict], read: Reader) -> VectorReplies:
        """Replies that can be used; the other hospitals may lack the key."""
        replies = self._keys.ask(message_type, contents, read)
        self._keys.recheck(set(contents) - {reply.message.metadata.src_node_id for reply in replies})
        return replies

    def _content(self, sums: Mapping[str, Chunks] = {}, config: Mapping[str, Any] = {}) -> RecordDict:
        """A message's content: the encrypted weights of the last completed round, or others; more sums; the config."""
        entries = {
            **self.train_config().to_record(),
            **self._keys.config(),
            messages.PATIENTS: self._patients,
            messages.SCALE: self._scale,
            messages.MAX_UPDATE_NORM: self.settings.max_update_norm,
            PROXIMAL_MU: float(self.settings.strategy_arguments.get(PROXIMAL_MU, 0.0)),
            **config,
        }
        encrypted = {messages.WEIGHTS: self._average, **sums}
        record = ConfigRecord({name: chunks for name, chunks in encrypted.items() if chunks})
        return RecordDict({CONFIG: ConfigRecord(entries), messages.ENCRYPTED: record})

    def _read(self, node: int, content: RecordDict, *, length: int, of_test: bool = False) -> EncryptedVector:
        """Read a reply: an encrypted vector of this length, from all training or held-out rows."""
        registration = self.participants.registration_of(node)
        declared = registration.test_examples if of_test else registration.train_examples
        return read_vector(content, self._adder, length, declared)

    def _add(self, replies: VectorReplies) -> Chunks:
        """Sum of the replies' vectors; empty if there are too few: from it, each could learn the others' part."""
        enough = len(replies) >= MIN_ENCRYPTED_HOSPITALS
        return self._adder.add([reply.content for reply in replies]) if enough else []

    def _add_to_block(self, number: int, figures: Chunks) -> None:
        """Add a round's figures to those of its block of rounds, which are at other positions of the same vector."""
        name = messages.name_of_block((number - 1) // vectors.ROUNDS_PER_BLOCK)
        parts = [self._adder.read(chunks, SLOTS) for chunks in (self._sums.get(name), figures) if chunks]
        self._sums[name] = self._adder.add(parts)


def _read_confirmation(_: int, content: RecordDict) -> KeyReply:
    return KeyReply.from_content(content, 0)


def _result_of(confirmed: list[AcceptedReply[KeyReply]]) -> dict[str, Any]:
    return {"encrypted": True, "has_result": [reply.hospital for reply in confirmed]}


def _to_arrays(chunks: Chunks) -> dict[str, npt.NDArray[Any]]:
    return {str(place): np.frombuffer(chunk, np.uint8) for place, chunk in enumerate(chunks)}
