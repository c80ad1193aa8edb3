"""Masks cancel in the sum of all, hide each part, and fixed-point sums are exact."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy.stats import chisquare

from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import SecureAggregationError
from federated_health.messages.content import Evaluation
from federated_health.ml.normalisation import column_sums, merge_sums, normalisation_from
from federated_health.ml.scores import microaggregate
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts
from federated_health.secure_aggregation import figures, masks
from federated_health.secure_aggregation.masks import Masked, add_masks, add_vectors
from federated_health.secure_aggregation.offers import Offer, make_offer
from tests.support.example_targets import labels_of, outputs_of
from tests.support.identities import DemoIdentities
from tests.support.labels import task_with
from tests.support.targets import LABELS

LABEL = b"label"
LENGTH = 100_000  # more than one block


@dataclass
class Member:
    key: X25519PrivateKey
    offer: Offer


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    federation = DemoIdentities(tmp_path_factory.mktemp("tls") / "tls")
    for name in ("c", "d"):
        federation.hospitals[name] = federation.add(name)
    keys = {name: X25519PrivateKey.generate() for name in federation.hospitals}
    return [
        Member(keys[name], Offer.read(make_offer(own, "0" * 16, keys[name])))
        for name, own in federation.hospitals.items()
    ]


def masked(member: Member, others: list[Member], values: Masked, label: bytes = LABEL) -> Masked:
    vector = values.copy()
    add_masks(vector, member.key, member.offer, [other.offer for other in others], label)
    return vector


def test_masks_cancel_in_the_sum_of_all(members: list[Member]) -> None:
    values = np.random.default_rng(1).integers(0, 2**64, (4, LENGTH), dtype=np.uint64)
    vectors = [masked(member, members, part) for member, part in zip(members, values, strict=True)]
    np.testing.assert_array_equal(add_vectors(vectors), values.sum(axis=0, dtype=np.uint64))


@pytest.mark.parametrize("missing", range(4))
def test_without_one_of_them_the_sum_is_noise(members: list[Member], missing: int) -> None:
    vectors = [masked(member, members, np.zeros(LENGTH, np.uint64)) for member in members]
    del vectors[missing]
    assert is_uniform(add_vectors(vectors))


def test_another_label_at_one_hospital_makes_the_sum_noise(members: list[Member]) -> None:
    zeros = np.zeros(LENGTH, np.uint64)
    vectors = [masked(member, members, zeros) for member in members[:3]]
    vectors.append(masked(members[3], members, zeros, b"other"))
    assert is_uniform(add_vectors(vectors))


def test_a_masked_vector_is_uniform_to_everybody_but_the_two_others(members: list[Member]) -> None:
    """What the server has with hospitals c and d, which give it all that they know: a's part, without their masks."""
    a, *_, c, d = members
    vector = masked(a, members, np.zeros(LENGTH, np.uint64))
    for colluding in (c, d):
        known = masked(colluding, [a, colluding], np.zeros(LENGTH, np.uint64))
        vector = add_vectors([vector, known])
    assert is_uniform(vector)


def is_uniform(vector: Masked) -> bool:
    """Whether its bytes are even, and no number occurs twice."""
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    return bool(chisquare(counts).pvalue > 1e-6 and len(np.unique(vector)) == len(vector))


def test_a_hospital_that_copies_another_one_s_key_does_not_cancel_its_mask(members: list[Member]) -> None:
    a, b, c, _ = members
    copy = replace(c.offer, public=b.offer.public)
    vector = np.zeros(LENGTH, np.uint64)
    add_masks(vector, a.key, a.offer, [a.offer, b.offer, copy], LABEL)
    own_mask = np.zeros(LENGTH, np.uint64)
    add_masks(own_mask, a.key, a.offer, [a.offer, b.offer], LABEL)
    for part in (vector, vector - own_mask, vector - 2 * own_mask):
        assert is_uniform(part)


def test_the_same_label_gives_the_same_mask_and_another_one_another(members: list[Member]) -> None:
    a, zeros = members[0], np.zeros(100, np.uint64)
    np.testing.assert_array_equal(masked(a, members, zeros), masked(a, members, zeros))
    assert not np.intersect1d(masked(a, members, zeros), masked(a, members, zeros, b"other")).size


def test_a_key_of_low_order_is_refused(members: list[Member]) -> None:
    a, b = members[:2]
    weak = replace(b.offer, public=bytes(32))
    with pytest.raises(SecureAggregationError, match="no usable key"):
        add_masks(np.zeros(1, np.uint64), a.key, a.offer, [weak], LABEL)


@pytest.mark.parametrize("hospitals", [3, 500])
def test_averages_are_exact_to_the_resolution(hospitals: int) -> None:
    generator = np.random.default_rng(2)
    weights = generator.normal(scale=[[1e-3], [1.0], [1e6]], size=(hospitals, 3, 1000)).reshape(hospitals, -1)
    shares = generator.dirichlet(np.ones(hospitals))
    total = add_vectors([masks.write_weights(of, share) for of, share in zip(weights, shares, strict=True)])
    expected = (shares[:, None] * weights).sum(axis=0)
    np.testing.assert_allclose(masks.read_weights(total), expected, rtol=1e-12, atol=hospitals * masks.RESOLUTION)


def test_sums_of_whole_figures_are_exact_and_others_to_the_resolution() -> None:
    values = np.array([[0, 1, 2**40 + 3, -5, 0.1, -1e12, 65_535.5], [7, 2, 2**40, 5, 0.2, 1e-3, 0.25]])
    total = masks.read_figures(add_vectors([masks.write_figures(part) for part in values]))
    assert total[:4].tolist() == [7, 3, 2**41 + 3, 0]
    np.testing.assert_allclose(total, values.sum(axis=0), rtol=1e-12, atol=2 * masks.RESOLUTION)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**61])
def test_numbers_that_do_not_fit_are_refused(value: float) -> None:
    good = np.ones(2)
    masks.check_values(good, good)
    for weights, other in (([1.0, value], good), (good, [1.0, value])):
        with pytest.raises(SecureAggregationError):
            masks.check_values(np.array(weights), np.array(other))


def test_the_normalisation_is_that_of_all_rows_together() -> None:
    generator, measurements = np.random.default_rng(3), HEART_DISEASE.measurements
    tables = []
    for rows in (30, 7, 100):
        values = np.column_stack([generator.uniform(column.low, column.high, rows) for column in measurements])
        tables.append(np.where(generator.random(values.shape) < 0.2, np.nan, values))
    tables[1][3:, 0] = np.nan  # too few rows to be sent
    sums = [figures.scaled_sums(table, measurements, 1) for table in tables]
    parts = [masks.write_figures(np.concatenate([part.count, part.total, part.squares])) for part in sums]
    found = figures.read_normalisation(masks.read_figures(add_vectors(parts)), measurements)
    expected = normalisation_from(merge_sums(column_sums(table) for table in tables))
    assert found.mean == pytest.approx(expected.mean, rel=1e-9)
    assert found.variance == pytest.approx(expected.variance, rel=1e-9)


@pytest.mark.parametrize("kind", ["binary", "classes", "number", "count"])
def test_sums_of_evaluations_of_every_kind_of_label_add_up(kind: str) -> None:
    """The sums of both parts are those of all rows."""
    task = task_with(LABELS[kind])
    target, labels = target_of(task), labels_of(task.label, 40, seed=4)
    outputs = outputs_of(task, labels, 1.0)
    parts = [target.measure(outputs[rows], labels[rows], 0.5) for rows in (slice(0, 15), slice(15, 40))]
    whole = figures.write_counts(target.measure(outputs, labels, 0.5))
    total = masks.read_figures(add_vectors([masks.write_figures(figures.write_counts(part)) for part in parts]))
    np.testing.assert_allclose(total, whole, rtol=1e-6)
    read = figures.read_counts(total, target)
    assert type(read) is target.sums
    assert read.examples == 40
    np.testing.assert_allclose(figures.write_counts(read), whole, rtol=1e-6)


def test_no_patient_is_alone_in_a_bin() -> None:
    scores = np.random.default_rng(5).normal(scale=6.0, size=203).astype(np.float32)
    groups = {"positives": microaggregate(scores[:100]), "negatives": microaggregate(scores[100:103])}
    bins = figures.write_bins(groups, ("positives", "negatives"))
    read = figures.read_bins(bins, ("positives", "negatives"))
    assert read["positives"][:, 0].sum() == 100
    assert read["positives"][:, 0].min() >= 5
    assert len(read["negatives"]) == 0  # too few for a group


def test_bins_of_hospitals_add_up_to_groups_with_their_rows_means_and_deviations() -> None:
    first = {"positives": np.array([[5, 0.3, 0.2], [6, 40.0, 1.0]])}
    second = {"positives": np.array([[10, 0.3, 0.5], [7, -3.0, 0.0]])}
    total = sum(figures.write_bins(part, ("positives",)) for part in (first, second))
    of_bin = (0.1**2 - 0.05**2) / 12  # an even spread over a bin, less that over a step of 15 rows
    np.testing.assert_allclose(
        figures.read_bins(np.asarray(total), ("positives",))["positives"],
        [[7, -3.0, 0.0], [15, 0.3, np.sqrt(0.4**2 + of_bin)], [6, figures.MAX_LOG_ODDS, 1.0]],
        atol=1e-9,
    )


def test_figures_of_the_final_weights_add_up() -> None:
    target = target_of(HEART_DISEASE)
    groups = {"positives": np.array([[5, 1.0, 0.1]]), "negatives": np.array([[6, -1.0, 0.2]])}
    parts = [
        Evaluation(counts=Counts(1, 2, 3, 4, 5.5, 6.5), roc_auc=0.75, scores=groups),  # of few rows
        Evaluation(counts=Counts(100, 200, 300, 400, 0.5, 0.5), roc_auc=0.5, scores=groups),
        Evaluation(counts=Counts()),
    ]
    vectors = [figures.write_final(part, np.arange(13.0), target) for part in parts]
    assert {len(vector) for vector in vectors} == {figures.length_of_final(target, 13)}
    counts, aucs, importance, scores = figures.read_final(np.sum(vectors, axis=0), target, 13)
    assert counts == Counts(101, 202, 303, 404, 6.0, 7.0)
    assert aucs.tolist() == [1.25, 2, 1]
    assert importance.tolist() == (3 * np.arange(13.0)).tolist()
    assert scores["negatives"].tolist() == [[12.0, pytest.approx(-1.0), pytest.approx(0.2, abs=0.002)]]
