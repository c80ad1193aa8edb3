"""A server that breaks the protocol, alone or with a hospital, and learns no single hospital's update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import ConfigRecord, Message, RecordDict
from scipy.stats import chisquare

from federated_health import files
from federated_health.data.manifest import find_hospital
from federated_health.hospital import handlers
from federated_health.messages.content import ARRAYS, CONFIG, EVALUATE, ROUND, SAME_PARTICIPANTS, TrainConfig
from federated_health.messages.records import weights_to_record
from federated_health.messages.run_terms import RUN_TERMS
from federated_health.messages.server_messages import digest_of
from federated_health.ml.networks import Weights
from federated_health.names import POLICY, node_id_of
from federated_health.secure_aggregation import masks, messages
from federated_health.secure_aggregation.masks import Masked
from federated_health.secure_aggregation.offers import Offer, make_offer
from federated_health.security.authority import make_demo_identities
from federated_health.security.identity import REVOKED, load_identity
from federated_health.security.parties import Role
from tests.support.identities import DemoIdentities, Signer
from tests.support.secure_hospitals import NAMES, Hospitals, secure_run

pytestmark = pytest.mark.slow

ROWS = {"cleveland": 227, "hungary": 220, "switzerland": 92, "va-long-beach": 150}
VICTIM = "hungary"
REST = [name for name in NAMES if name != VICTIM]


class RefusedError(Exception):
    """A hospital refused."""


@dataclass
class ActiveServer:
    """A server that has gathered a run, and then sends whatever it likes.

    Attributes:
        contents: what it sent for each round, by hospital.
    """

    hospitals: Hospitals
    run: str
    config: TrainConfig
    weights: Weights
    offers: dict[str, bytes] = field(default_factory=dict)
    contents: dict[tuple[str, int], RecordDict] = field(default_factory=dict)

    def ask(self, name: str, kind: str, content: RecordDict) -> RecordDict:
        reply = self.hospitals.ask(name, Message(content, node_id_of(name), kind))
        if reply.has_error():
            raise RefusedError(reply.error.reason)
        return reply.content

    def prepare(self, name: str, number: int = 1, weights: Any = None, **changes: Any) -> None:
        """The first step of a round."""
        record = self.config.to_record()
        record.update({messages.RUN: self.run, messages.MAX_SHARE: 1.0, ROUND: number, **changes})
        arrays = weights_to_record(weights or self.weights)
        content = RecordDict({ARRAYS: arrays, CONFIG: record})
        self.ask(name, messages.TRAIN, content)
        self.contents[name, number] = content

    def request(
        self, name: str, participants: Sequence[str] = NAMES, number: int = 1, *, rows: Mapping[str, int] = ROWS
    ) -> RecordDict:
        """A request for a hospital's masked answer."""
        offers = [self.offers[other] for other in participants]
        config: dict[str, Any] = {
            "task": self.config.task,
            "schema": self.config.schema,
            messages.RUN: self.run,
            messages.KIND: messages.TRAIN,
            messages.DIGEST: digest_of(self.contents[name, number]),
            messages.ROWS: [rows[other] for other in participants],
            ROUND: number,
        }
        lists = {messages.PARTICIPANTS: [Offer.read(offer).digest for offer in offers], messages.OFFERS: offers}
        records = {record: ConfigRecord({messages.CONTENT: items}) for record, items in lists.items()}
        return RecordDict({CONFIG: ConfigRecord(config), **records})

    def masked(self, name: str, participants: Sequence[str] = NAMES, number: int = 1, **changes: Any) -> Masked:
        """The second step of a round."""
        reply = self.ask(name, messages.MASKED, self.request(name, participants, number, **changes))
        return np.frombuffer(messages.read_bytes(reply, messages.VECTOR), np.uint64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "tls"
    make_demo_identities(folder, NAMES)
    return folder


@pytest.fixture
def hospitals(hospitals_folder: Path, tmp_path: Path) -> Hospitals:
    _, identities = make_demo_identities(tmp_path / "tls", NAMES)
    paths = {name: find_hospital(hospitals_folder, place + 1)[0] for place, name in enumerate(NAMES)}
    return Hospitals(paths, identities)


@pytest.fixture
def server(hospitals: Hospitals) -> ActiveServer:
    run, _ = secure_run(hospitals)
    for context in hospitals.contexts.values():  # which would refuse some of the following before masks do
        context.state.pop(RUN_TERMS)
    active = ActiveServer(hospitals, run.run_id, run.train_config(), run.weights)
    registration = run._registration()
    for name in NAMES:
        reply = active.ask(name, messages.OFFER, RecordDict({CONFIG: registration}))
        active.offers[name] = messages.read_bytes(reply, messages.OFFERS)
    return active


def update_of(hospitals: Hospitals, name: str, number: int = 1) -> npt.NDArray[np.float64]:
    """A hospital's own update, which the server is after."""
    prepared = session_of(hospitals, name).prepared[messages.TRAIN, number]
    weights: npt.NDArray[np.float64] = prepared.weights
    return weights


def session_of(hospitals: Hospitals, name: str) -> Any:
    return vars(hospitals.contexts[name])["secure_aggregation_session"]


def is_noise(vector: Masked) -> bool:
    """Whether its bytes are even."""
    return bool(chisquare(np.bincount(vector.view(np.uint8), minlength=256)).pvalue > 1e-6)


def weights_in(vector: Masked, size: int) -> npt.NDArray[np.float64]:
    return masks.read_weights(vector[:size])


def test_the_control_an_honest_round_gives_the_mean_and_each_part_is_noise(server: ActiveServer) -> None:
    for name in NAMES:
        server.prepare(name)
    vectors = [server.masked(name) for name in NAMES]
    assert all(is_noise(vector) for vector in vectors)
    expected = sum(ROWS[name] / 689 * update_of(server.hospitals, name) for name in NAMES)
    total = weights_in(masks.add_vectors(vectors), np.size(expected))
    np.testing.assert_allclose(total, expected, atol=1e-9)


# Replays, offsets, other messages


def test_a_repeated_request_gives_the_same_bytes_and_another_round_s_weights_nothing(server: ActiveServer) -> None:
    for name in NAMES:
        server.prepare(name)
    first = {name: server.masked(name) for name in NAMES}
    np.testing.assert_array_equal(server.masked(VICTIM), first[VICTIM])
    shifted = {key: array + np.float32(1e-3) for key, array in server.weights.items()}
    with pytest.raises(RefusedError, match="already part of another sum"):
        server.prepare(VICTIM, weights=shifted)
    with pytest.raises(RefusedError, match="already part of another sum"):
        server.prepare(VICTIM, learning_rate=0.01)


def test_a_masked_vector_that_is_sent_back_as_weights_tells_nothing(server: ActiveServer) -> None:
    """The attack on one common key: error or answer would tell whether decrypted numbers are small."""
    for name in NAMES:
        server.prepare(name)
    vector = server.masked(VICTIM)
    back, left = {}, np.frombuffer(vector.tobytes(), np.float32)
    for key, array in server.weights.items():
        values = np.nan_to_num(left[: array.size], nan=0.0, posinf=0.0, neginf=0.0)
        back[key], left = np.clip(values, -1, 1).reshape(array.shape), left[array.size :]
    for offset in (0.0, 1.0):
        shifted = {key: array + np.float32(offset) for key, array in back.items()}
        server.prepare("cleveland", 2, weights=shifted)
        answer = server.masked("cleveland", number=2)
        assert is_noise(answer)
        with pytest.raises(RefusedError, match="already part of another sum"):
            server.prepare("cleveland", 2, weights=server.weights)
        server.hospitals.start("cleveland")  # to ask once more
        server.offers["cleveland"] = messages.read_bytes(
            server.ask("cleveland", messages.OFFER, server.request("hungary")), messages.OFFERS
        )


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 0.01}, {"seed": 7}, {"local_epochs": 3}, {messages.MAX_SHARE: 0.5}]
)
def test_another_configuration_at_one_hospital_makes_the_sum_noise(
    server: ActiveServer, changes: dict[str, Any]
) -> None:
    for name in REST:
        server.prepare(name)
    server.prepare(VICTIM, **changes)
    assert is_noise(masks.add_vectors([server.masked(name) for name in NAMES]))


def test_other_weights_at_one_hospital_make_the_sum_noise(server: ActiveServer) -> None:
    """Model inconsistency: weights for which the others' updates are 0 would leave the victim's alone."""
    dead = {key: np.zeros_like(array) for key, array in server.weights.items()}
    for name in REST:
        server.prepare(name, weights=dead)
    server.prepare(VICTIM)
    assert is_noise(masks.add_vectors([server.masked(name) for name in NAMES]))


def test_an_answer_is_not_masked_for_another_message_than_the_one_it_is_for(server: ActiveServer) -> None:
    server.prepare(VICTIM)
    server.contents[VICTIM, 1].config_records[CONFIG]["seed"] = 7
    with pytest.raises(RefusedError, match="has not computed"):
        server.masked(VICTIM)


# Participants


def test_other_participants_at_one_hospital_make_the_sum_noise(server: ActiveServer) -> None:
    for name in NAMES:
        server.prepare(name)
    vectors = {name: server.masked(name) for name in REST}
    vectors[VICTIM] = server.masked(VICTIM, ["cleveland", VICTIM, "switzerland"])
    for part in (NAMES, NAMES[:3]):
        assert is_noise(masks.add_vectors([vectors[name] for name in part]))


def test_another_order_of_participants_makes_the_sum_noise(server: ActiveServer) -> None:
    for name in NAMES:
        server.prepare(name)
    vectors = [server.masked(name, NAMES if name == VICTIM else NAMES[::-1]) for name in NAMES]
    assert is_noise(masks.add_vectors(vectors))


@pytest.mark.parametrize(
    ("participants", "reason"),
    [
        ((VICTIM,), "expected at least 3"),
        ((VICTIM, "cleveland"), "expected at least 3"),
        ((VICTIM, "cleveland", "cleveland"), "named twice"),
        ((VICTIM, VICTIM, "cleveland"), "named twice"),
        (REST, "its own offer is not among them"),
        ((), "expected at least 3"),
    ],
)
def test_participants_that_expose_a_hospital_are_refused(
    server: ActiveServer, participants: Sequence[str], reason: str
) -> None:
    server.prepare(VICTIM)
    with pytest.raises(RefusedError, match=reason):
        server.masked(VICTIM, participants)


def test_a_hospital_s_policy_may_demand_more_participants(server: ActiveServer, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("min_hospitals = 4\n")
    server.hospitals.contexts[VICTIM].node_config[POLICY] = str(policy)
    server.prepare(VICTIM)
    with pytest.raises(RefusedError, match="expected at least 4 hospitals, got 3"):
        server.masked(VICTIM, NAMES[:3])
    assert is_noise(server.masked(VICTIM))


def test_a_hospital_may_demand_the_same_participants_in_all_sums(server: ActiveServer) -> None:
    """Else the server pretends in the next round, with the same weights, that the victim dropped out."""
    for name in NAMES:
        server.hospitals.contexts[name].node_config[SAME_PARTICIPANTS] = True
        server.prepare(name)
        server.masked(name)
        server.prepare(name, 2)
    for name in REST:
        with pytest.raises(RefusedError, match="expected those of the sums before"):
            server.masked(name, REST, 2)
    assert is_noise(server.masked(VICTIM, number=2))


def add_offer(server: ActiveServer, name: str, offer: bytes) -> list[str]:
    """Participants, the last of whom has this offer."""
    server.offers[name] = offer
    return [*NAMES, name]


def check_refused(server: ActiveServer, name: str, offer: bytes, reason: str) -> None:
    participants = add_offer(server, name, offer)
    server.prepare(VICTIM)
    with pytest.raises(RefusedError, match=reason):
        server.masked(VICTIM, participants, rows={**ROWS, name: 10})


def test_an_offer_of_another_authority_is_refused(server: ActiveServer, tmp_path: Path) -> None:
    federation = DemoIdentities(tmp_path / "other")
    offer = make_offer(federation.hospitals["a"], server.run, X25519PrivateKey.generate())
    check_refused(server, "a", offer, "another authority")


def test_an_offer_of_the_server_is_refused(server: ActiveServer, tmp_path: Path) -> None:
    own = load_identity(tmp_path / "tls" / "server", Role.SERVER)
    check_refused(server, "server", make_offer(own, server.run, X25519PrivateKey.generate()), "is for server")


@pytest.mark.parametrize("is_known", [False, True])
def test_an_offer_of_a_revoked_hospital_is_refused(server: ActiveServer, tmp_path: Path, *, is_known: bool) -> None:
    """Also if it was not revoked yet when the offer was first seen."""
    if is_known:
        server.prepare(VICTIM)
        server.masked(VICTIM)
    authority = Signer.of(tmp_path / "tls" / "authority")
    revoked = load_identity(server.hospitals.identities["cleveland"], Role.HOSPITAL)
    folder = server.hospitals.identities[VICTIM]
    files.write_bytes(folder / REVOKED, authority.revocations(revoked.certificate, number=9))
    server.prepare(VICTIM, 2)
    with pytest.raises(RefusedError, match="was revoked on"):
        server.masked(VICTIM, number=2)


def test_an_offer_of_another_run_is_refused(server: ActiveServer) -> None:
    own = load_identity(server.hospitals.identities["cleveland"], Role.HOSPITAL)
    server.offers["cleveland"] = make_offer(own, "f" * 16, X25519PrivateKey.generate())
    server.prepare(VICTIM)
    with pytest.raises(RefusedError, match="not signed by its hospital for this run"):
        server.masked(VICTIM)


def test_another_offer_in_the_hospital_s_own_name_is_refused(server: ActiveServer) -> None:
    own = load_identity(server.hospitals.identities[VICTIM], Role.HOSPITAL)
    server.offers[VICTIM] = make_offer(own, server.run, X25519PrivateKey.generate())
    server.prepare(VICTIM)
    with pytest.raises(RefusedError, match="its own offer is not among them"):
        server.masked(VICTIM)


@pytest.mark.parametrize("rows", [{VICTIM: 100_000}, {VICTIM: 1}])
def test_a_wrong_number_of_a_hospital_s_rows_is_refused(server: ActiveServer, rows: dict[str, int]) -> None:
    """Its share would be nearly 1, or the others' would be."""
    server.prepare(VICTIM)
    with pytest.raises(RefusedError, match="numbers of rows"):
        server.masked(VICTIM, rows={**ROWS, **rows})


def test_wrong_rows_of_others_make_the_sum_noise(server: ActiveServer) -> None:
    """The victim is told that the others have 1 row each, so that its share is nearly 1."""
    for name in NAMES:
        server.prepare(name)
    vectors = [server.masked(name) for name in REST]
    vectors.append(server.masked(VICTIM, rows={**dict.fromkeys(NAMES, 1), VICTIM: ROWS[VICTIM]}))
    assert is_noise(masks.add_vectors(vectors))


# Pretended drop-outs


def test_a_pretended_drop_out_does_not_give_two_sums_to_subtract(server: ActiveServer) -> None:
    for name in NAMES:
        server.prepare(name)
    for name in NAMES:
        server.masked(name)  # the sum of all is known
    for name in REST:
        with pytest.raises(RefusedError, match="already part of another sum"):
            server.masked(name, REST)
        server.prepare(name)  # a repeated message does not help
        with pytest.raises(RefusedError, match="already part of another sum"):
            server.masked(name, REST)


def test_a_sum_without_the_victim_does_not_allow_one_with_it(server: ActiveServer) -> None:
    """The reverse order: the victim drops out, and comes back."""
    for name in NAMES:
        server.prepare(name)
    for name in REST:
        server.masked(name, REST)
    for name in REST:
        with pytest.raises(RefusedError, match="already part of another sum"):
            server.masked(name)
    assert is_noise(server.masked(VICTIM))


def test_hospitals_that_answer_for_different_participants_open_no_sum(server: ActiveServer) -> None:
    """Half of them are told that the victim dropped out."""
    for name in NAMES:
        server.prepare(name)
    vectors = {name: server.masked(name, NAMES if name in (VICTIM, "cleveland") else REST) for name in NAMES}
    for left_out in [*NAMES, None]:
        assert is_noise(masks.add_vectors([vectors[name] for name in NAMES if name != left_out]))


def test_held_out_counts_of_the_same_weights_are_in_one_sum(server: ActiveServer) -> None:
    """Two rounds that ask for them would give two sums to subtract, exactly, since no batch is drawn."""
    is_evaluated: dict[str, Any] = {EVALUATE: True}
    for name in NAMES:
        server.prepare(name, **is_evaluated)
        server.masked(name)
    with pytest.raises(RefusedError, match="already part of another sum"):
        server.prepare("cleveland", 2, **is_evaluated)
    server.prepare("cleveland", 2)


def test_one_process_answers_in_one_run(server: ActiveServer) -> None:
    """A new run would ask the same questions again."""
    for name in NAMES:
        server.prepare(name)
    server.masked(VICTIM)
    server.run = "f" * 16
    with pytest.raises(RefusedError, match="a new one needs a new process"):
        server.ask(VICTIM, messages.OFFER, server.request(VICTIM))
    with pytest.raises(RefusedError, match="not offered a key for this run"):
        server.prepare(VICTIM, 2)


@pytest.mark.parametrize("kind", ["train", "evaluate", "evaluate.final", "evaluate.threshold", "query.statistics"])
def test_a_hospital_answers_no_message_of_a_plain_run(server: ActiveServer, kind: str) -> None:
    record = server.config.to_record()
    record[ROUND] = 1
    content = RecordDict({ARRAYS: weights_to_record(server.weights), CONFIG: record})
    with pytest.raises(RefusedError, match="sends nothing unmasked"):
        server.ask(VICTIM, kind, content)


# Collusion


def test_two_hospitals_that_are_told_of_different_participants_open_no_sum(server: ActiveServer) -> None:
    """The server has the keys of all that are named besides the two, who state any number of rows."""
    named = {VICTIM: NAMES[:3], "cleveland": ("cleveland", VICTIM, "va-long-beach")}
    rows = {**ROWS, "va-long-beach": ROWS["switzerland"]}
    parts = []
    for name, participants in named.items():
        for other in (*REST, VICTIM):
            server.prepare(other)
        vector = server.masked(name, participants, rows=rows).copy()
        label = session_of(server.hospitals, name).answers[messages.TRAIN, 1]
        for other in set(participants) - set(named):
            own = session_of(server.hospitals, other)
            masks.add_masks(vector, own.key, own.offer, [Offer.read(server.offers[name])], label)
        parts.append(vector)
    assert is_noise(masks.add_vectors(parts))


@pytest.mark.parametrize("colluding", [["cleveland"], ["cleveland", "switzerland"]])
def test_what_colluding_hospitals_know_opens_the_others_sum_only(server: ActiveServer, colluding: list[str]) -> None:
    """They give the server their keys; all hospitals but two may."""
    for name in NAMES:
        server.prepare(name)
    offers = {name: Offer.read(offer) for name, offer in server.offers.items()}
    vectors = {name: server.masked(name) for name in NAMES}
    honest = [name for name in NAMES if name not in colluding]
    size = update_of(server.hospitals, VICTIM).size
    for name in colluding:  # their whole parts, and so the masks that the others share with them, are known
        own = session_of(server.hospitals, name).prepared[messages.TRAIN, 1]
        content = np.concatenate([masks.write_weights(own.weights, ROWS[name] / 689), masks.write_figures(own.figures)])
        mask = vectors[name] - content
        assert is_noise(mask)
    for name in honest:
        vector = vectors[name].copy()
        label = label_of(server)
        for other in colluding:
            key = session_of(server.hospitals, other).key
            masks.add_masks(vector, key, offers[other], [offers[name]], label)  # takes away the mask that they share
        assert is_noise(vector)
        vectors[name] = vector
    expected = sum(ROWS[name] / 689 * update_of(server.hospitals, name) for name in honest)
    total = weights_in(masks.add_vectors([vectors[name] for name in honest]), size)
    np.testing.assert_allclose(total, expected, atol=1e-9)  # what it does learn: that the masks were right


def label_of(server: ActiveServer) -> bytes:
    label: bytes = session_of(server.hospitals, VICTIM).answers[messages.TRAIN, 1]
    return label


def test_an_update_is_computed_once(server: ActiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under differential privacy each training would be spent."""
    counts, train = count(), handlers.train
    monkeypatch.setattr(handlers, "train", lambda *arguments: (next(counts), train(*arguments))[1])
    server.prepare(VICTIM)
    server.prepare(VICTIM)
    server.masked(VICTIM, NAMES)
    server.prepare(VICTIM)
    assert next(counts) == 1
