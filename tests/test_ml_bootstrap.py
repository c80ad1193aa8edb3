"""Draws of patients, and ROC-AUCs of draws against scikit-learn and SciPy."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import roc_auc_score

from federated_health.ml import bootstrap
from federated_health.ml.bootstrap import (
    can_judge,
    labels_of_patients,
    percentile_interval,
    resample,
    resample_patients,
    roc_auc_draws,
)
from federated_health.ml.verdicts import MIN_CLASS_SIZE, Interval

Array = npt.NDArray[np.float64]


def binormal(seed: int, positives: int, negatives: int, distance: float = 1.2) -> tuple[Array, Array]:
    """Scores with a known ROC-AUC, Phi(distance / sqrt(2)), and labels in no order."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat([1.0, 0.0], [positives, negatives]))
    return generator.normal(distance * labels, 1.0), labels


def labels_of(positives: int, negatives: int) -> Array:
    return np.repeat([1.0, 0.0], [positives, negatives])


def auc_interval(scores: Array, labels: Array, times: Array) -> Interval:
    (value,) = roc_auc_draws(scores, labels, np.ones((len(labels), 1)))
    return percentile_interval(float(value), roc_auc_draws(scores, labels, times))


# Draws

SOME_PATIENTS = st.lists(
    st.tuples(st.sampled_from([-1.5, 0.0, 0.5, 2.0]), st.sampled_from([0, 1]), st.integers(0, 3)), min_size=2
)


@given(SOME_PATIENTS)
def test_the_auc_of_a_draw_is_that_of_scikit_learn_with_weights(
    patients: list[tuple[float, int, int]],
) -> None:
    scores, labels, times = (np.array(column, dtype=np.float64) for column in zip(*patients, strict=True))
    if not (times * labels).any() or not (times * (1 - labels)).any():
        return

    drawn = roc_auc_draws(scores, labels, times[:, None])

    assert drawn == pytest.approx([roc_auc_score(labels, scores, sample_weight=times)], abs=1e-12)


def test_ties_worked_by_hand() -> None:
    """The positive scores higher in 3 of 2 x 3 pairs, and the same in 2."""
    scores, labels = np.array([0.0, 1.0, 1.0, 2.0, 1.0]), np.array([0, 0, 0, 1, 1])

    assert roc_auc_draws(scores, labels, np.ones((5, 1))) == pytest.approx([(3 + 1 + 2 * 0.5) / 6])


@pytest.mark.parametrize(("positives", "negatives"), [(5, 40), (1, 3), (4, 0), (0, 4)])
def test_every_draw_holds_as_many_patients_of_each_class_as_there_are(positives: int, negatives: int) -> None:
    labels = np.random.default_rng(0).permutation(labels_of(positives, negatives))

    times = resample(labels, 300, seed=1)

    assert times.shape == (positives + negatives, 300)
    assert (times == np.floor(times)).all()
    assert (times >= 0).all()
    assert (times[labels == 1].sum(axis=0) == positives).all()
    assert (times[labels == 0].sum(axis=0) == negatives).all()


def test_each_patient_is_drawn_as_often_as_with_replacement() -> None:
    """With 8 drawn out of 8, how often a patient is drawn is binomial: mean 1, variance 7/8, and 0 with (7/8)^8."""
    times = resample(labels_of(8, 0), 20_000, seed=1)

    assert times.mean(axis=1) == pytest.approx(np.ones(8), abs=0.03)  # four deviations of a mean: 0.026
    assert times.var(axis=1) == pytest.approx(np.full(8, 7 / 8), abs=0.05)
    assert (times == 0).mean() == pytest.approx((7 / 8) ** 8, abs=0.005)
    assert np.corrcoef(times[0], times[1])[0, 1] == pytest.approx(-1 / 7, abs=0.03)


def test_draws_depend_on_the_seed() -> None:
    labels = labels_of(10, 10)

    np.testing.assert_array_equal(resample(labels, 20, seed=[1, 2]), resample(labels, 20, seed=[1, 2]))
    assert (resample(labels, 20, seed=[1, 2]) != resample(labels, 20, seed=[1, 3])).any()


def test_draws_of_a_class_are_one_table_of_indices() -> None:
    """The same draws as of a table [patients, draws] of random indices, the classes one after the other."""
    labels = np.random.default_rng(0).permutation(labels_of(4, 9))
    generator = np.random.default_rng(5)
    expected = np.zeros((13, 6))
    for value in (0, 1):
        members = np.flatnonzero(labels == value)
        for indices in generator.integers(len(members), size=(len(members), 6)):
            for draw, index in enumerate(indices):
                expected[members[index], draw] += 1

    np.testing.assert_array_equal(resample(labels, 6, seed=5), expected)


# Draws of patients with several rows


def stays(seed: int, patients: int, most: int = 4) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Scores and labels of stays that resemble each other within a patient; numbers of the patients."""
    generator = np.random.default_rng(seed)
    ids = generator.permutation(np.repeat(1000 - np.arange(patients), generator.integers(1, most + 1, patients)))
    labels = (generator.random(1001)[ids] < 0.3).astype(np.float64)
    labels *= generator.random(len(ids)) < 0.8  # not each stay of a patient with a readmission ends in one
    scores = 1.5 * generator.normal(size=1001)[ids] + labels + generator.normal(size=len(ids))
    return scores, labels, ids


def test_all_rows_of_a_patient_are_drawn_together_and_each_draw_has_as_many_patients_of_each_class() -> None:
    _, labels, ids = stays(1, 50)
    table = pd.DataFrame({"patient": ids, "label": labels})
    of_patient = table.groupby("patient")["label"].max()

    times = pd.DataFrame(resample_patients(labels, 40, 3, ids)).groupby(table["patient"])

    assert (times.nunique() == 1).all(axis=None)
    for value in (0.0, 1.0):
        drawn = times.first()[of_patient == value].sum()
        assert (drawn == (of_patient == value).sum()).all()
    assert labels_of_patients(labels, ids).tolist() == of_patient.tolist()


def test_the_interval_of_patients_is_that_of_a_cluster_bootstrap_by_hand() -> None:
    scores, labels, ids = stays(2, 300)
    table = pd.DataFrame({"patient": ids, "label": labels, "score": scores})
    rows = dict(tuple(table.groupby("patient")))
    of_patient = table.groupby("patient")["label"].max()
    strata = [of_patient.index[of_patient == value] for value in (0, 1)]
    generator = np.random.default_rng(11)
    expected = []
    for _ in range(400):
        drawn = [rows[name] for names in strata for name in generator.choice(names, len(names))]
        draw = pd.concat(drawn)
        expected.append(roc_auc_score(draw["label"], draw["score"]))

    interval = auc_interval(scores, labels, resample_patients(labels, 2000, 5, ids))

    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])), abs=0.012)
    of_rows = auc_interval(scores, labels, resample(labels, 2000, 5))
    assert width_of(interval) > 1.25 * width_of(of_rows)


def width_of(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low


def test_repeated_rows_of_a_patient_do_not_narrow_the_interval() -> None:
    scores, labels = binormal(3, 30, 60)
    once = auc_interval(scores, labels, resample_patients(labels, 500, 1, np.arange(90)))

    scores, labels, ids = np.repeat(scores, 4), np.repeat(labels, 4), np.repeat(np.arange(90), 4)
    fourfold = auc_interval(scores, labels, resample_patients(labels, 500, 1, ids))

    assert vars(fourfold) == pytest.approx(vars(once))
    naive = auc_interval(scores, labels, resample(labels, 500, 1))
    assert width_of(naive) < 0.6 * width_of(once)


@pytest.mark.parametrize("cells", [1, 50, 51, 333, 10**9])
def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    scores, labels = binormal(2, 20, 30)
    times = resample(labels, 13, seed=0)
    expected = [roc_auc_score(labels, scores, sample_weight=draw) for draw in times.T]

    monkeypatch.setattr(bootstrap, "MAX_CELLS_PER_STEP", cells)

    np.testing.assert_allclose(roc_auc_draws(scores, labels, times), expected, atol=1e-12)


# Intervals


def test_an_interval_is_between_the_quantiles_of_the_draws() -> None:
    interval = percentile_interval(0.7, np.arange(201)[::-1] / 200)

    assert (interval.value, interval.low, interval.high) == pytest.approx((0.7, 0.025, 0.975))


def test_an_interval_is_scipy_s_stratified_percentile_bootstrap() -> None:
    scores, labels = binormal(4, 30, 45)

    def auc(positives: Array, negatives: Array) -> float:
        return float((positives[:, None] > negatives).mean())

    sides = (scores[labels == 1], scores[labels == 0])
    theirs = scipy_bootstrap(
        sides, auc, vectorized=False, method="percentile", n_resamples=4000, rng=1
    ).confidence_interval

    ours = auc_interval(scores, labels, resample(labels, 8000, seed=2))

    assert ours.value == pytest.approx(roc_auc_score(labels, scores))
    # Ends of two bootstraps of this many draws differ by 0.002 or so; a plain one that does not stratify, by as much.
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.008)


# Verdicts


@pytest.mark.parametrize("rarer", [0, MIN_CLASS_SIZE - 1, MIN_CLASS_SIZE])
def test_a_verdict_needs_five_patients_of_each_class(rarer: int) -> None:
    assert can_judge(labels_of(rarer, 100)) is (rarer >= 5)
    assert can_judge(labels_of(100, rarer)) is (rarer >= 5)
