"""The rows of each training setup, checked with absurd values in all other rows; tuning; settings."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import RunError, SettingsError
from federated_health.hospital import handlers
from federated_health.ml.networks import weights_hash
from federated_health.ml.targets.binary import Counts
from federated_health.server.plain_run import PlainRun
from federated_health.studies import study
from federated_health.studies.benefit import training_setups
from federated_health.studies.benefit.cohort import Cohort, Split
from federated_health.studies.benefit.training_setups import (
    INNER_FOLDS,
    PATIENCE,
    Fit,
    FitResult,
    TrainingSetup,
    plan_fits,
    run_fit,
    settings_for,
)
from federated_health.studies.study import open_run
from tests.support.cohorts import cohort_of, nothing, patients, protocol_of

HOSPITALS = ["a", "b", "c"]


# The plan


def test_every_fold_has_every_model_once() -> None:
    protocol = replace(protocol_of(folds=2, repeats=3), strategies=("fedavg", "average"))

    fits = plan_fits(HOSPITALS, protocol)

    assert len(fits) == len(set(fits)) == 2 * 3 * (3 + 2 + 1 + 3)
    last = [(fit.setup, fit.subject) for fit in fits if (fit.repeat, fit.fold) == (2, 1)]
    assert last == [
        *(("own", name) for name in HOSPITALS),
        ("federated", "fedavg"),
        ("federated", "average"),
        ("pooled", ""),
        *(("without", name) for name in HOSPITALS),
    ]


@pytest.mark.parametrize(
    ("setup", "subject", "hospitals", "strategy"),
    [
        (TrainingSetup.OWN, "a", 1, "fedavg"),
        (TrainingSetup.POOLED, "", 1, "fedavg"),
        (TrainingSetup.FEDERATED, "average", 3, "average"),
        (TrainingSetup.FEDERATED, "fedavg", 3, "fedavg"),
        (TrainingSetup.LEAVE_ONE_OUT, "b", 2, "average"),
    ],
)
def test_each_setup_has_its_number_of_hospitals_and_strategy(
    setup: TrainingSetup, subject: str, hospitals: int, strategy: str
) -> None:
    protocol = replace(protocol_of(), strategies=("average", "fedavg"))

    settings = settings_for(Fit(repeat=0, fold=0, setup=setup, subject=subject), protocol, 3)

    assert (settings.hospitals, settings.strategy) == (hospitals, strategy)
    assert replace(settings, hospitals=1, strategy="fedavg") == replace(
        protocol.settings, hospitals=1, strategy="fedavg"
    )


def test_one_of_two_hospitals_alone_is_trained_by_fedavg() -> None:
    settings = settings_for(
        Fit(repeat=0, fold=0, setup=TrainingSetup.LEAVE_ONE_OUT, subject="a"),
        replace(protocol_of(), strategies=("average",)),
        2,
    )

    assert (settings.hospitals, settings.strategy) == (1, "fedavg")


def test_an_unknown_strategy_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="strategies"):
        settings_for(Fit(repeat=0, fold=0, setup=TrainingSetup.FEDERATED, subject="magic"), protocol_of(), 3)


# Rows


@dataclass(frozen=True, eq=False, kw_only=True)
class SplitAsBefore(Cohort):
    """A changed cohort with the splits of the original one."""

    original: Cohort

    def split(self, *, folds: int, fold: int, seed: int, within: Split | None = None) -> Split:
        return self.original.split(folds=folds, fold=fold, seed=seed, within=within)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return cohort_of(
        {name: patients(rows, seed) for seed, (name, rows) in enumerate({"a": 36, "b": 45, "c": 60}.items())}
    )


FOLDS = 3
SEED = 42


def absurd(cohort: Cohort, hospital: str, *, train: bool, test: bool) -> Cohort:
    """A cohort in which patients on these sides of one hospital are 119 years old and have the other label."""
    side = cohort.split(folds=FOLDS, fold=0, seed=SEED)[hospital]
    rows = np.concatenate([*([side.train] if train else []), *([side.test] if test else [])])
    table = cohort.tables[hospital].copy()
    table.loc[rows, "age"], table.loc[rows, "chol"] = 119.0, 999.0
    table.loc[rows, "disease"] = 1 - table.loc[rows, "disease"]
    return SplitAsBefore(cohort.task, {**cohort.tables, hospital: table}, cohort.hashes, original=cohort)


@dataclass(frozen=True)
class Trained:
    """A fit and its final run.

    Attributes:
        registrations: name, training rows and held-out rows of each hospital.
    """

    weights: str
    normalisation: Any
    result: FitResult
    registrations: tuple[tuple[str, int, int], ...]


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains a model of fold 0."""
    from client import app

    runs: list[PlainRun] = []

    class RecordedRun(PlainRun):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            runs.append(self)

    monkeypatch.setattr(study, "PlainRun", RecordedRun)

    def train(cohort: Cohort, setup: TrainingSetup, subject: str = "", **protocol: Any) -> Trained:
        result = run_fit(Fit(repeat=0, fold=0, setup=setup, subject=subject), cohort, protocol_of(**protocol), app)
        run = runs[-1]
        registrations = sorted(
            (registration.name, registration.train_examples, registration.test_examples)
            for registration in run.registrations.values()
        )
        return Trained(weights_hash(run.weights), run.normalisation, result, tuple(registrations))

    return train


@pytest.mark.slow
@pytest.mark.parametrize("tune", [False, True])
def test_leave_one_out_models_never_see_a_row_of_the_hospital(fit: Any, cohort: Cohort, tune: bool) -> None:
    """Absurd rows of the hospital do not change weights, normalisation, threshold or number of rounds by a bit.

    Its absurd training rows do not change the scores of its held-out rows either.
    """
    reference = fit(cohort, TrainingSetup.LEAVE_ONE_OUT, "b", tune=tune, rounds=2)

    everything = fit(absurd(cohort, "b", train=True, test=True), TrainingSetup.LEAVE_ONE_OUT, "b", tune=tune, rounds=2)
    training = fit(absurd(cohort, "b", train=True, test=False), TrainingSetup.LEAVE_ONE_OUT, "b", tune=tune, rounds=2)
    another = fit(absurd(cohort, "c", train=True, test=False), TrainingSetup.LEAVE_ONE_OUT, "b", tune=tune, rounds=2)

    assert [name for name, *_ in reference.registrations] == ["a", "c"]
    assert (everything.weights, everything.normalisation) == (reference.weights, reference.normalisation)
    assert replace(everything.result, scores={}) == replace(reference.result, scores={})
    assert everything.result.scores != reference.result.scores
    assert training.result == reference.result
    assert list(reference.result.scores) == ["b"]
    assert another.weights != reference.weights  # so absurd rows would be noticed
    assert another.normalisation != reference.normalisation


@pytest.mark.slow
def test_own_models_see_only_the_rows_of_their_hospital(fit: Any, cohort: Cohort) -> None:
    reference = fit(cohort, TrainingSetup.OWN, "a")

    others = fit(absurd(absurd(cohort, "b", train=True, test=True), "c", train=True, test=True), TrainingSetup.OWN, "a")

    assert others == reference
    assert list(reference.result.scores) == ["a"]
    assert reference.registrations == (("a", 24, 12),)
    assert fit(absurd(cohort, "a", train=True, test=False), TrainingSetup.OWN, "a").weights != reference.weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setup", "subject"),
    [
        (TrainingSetup.OWN, "a"),
        (TrainingSetup.FEDERATED, "fedavg"),
        (TrainingSetup.POOLED, ""),
        (TrainingSetup.LEAVE_ONE_OUT, "b"),
    ],
)
@pytest.mark.parametrize("tune", [False, True])
def test_no_setup_trains_on_held_out_rows(
    fit: Any, cohort: Cohort, setup: TrainingSetup, subject: str, tune: bool
) -> None:
    changed = absurd(absurd(cohort, "a", train=False, test=True), "c", train=False, test=True)

    reference, other = (fit(rows, setup, subject, tune=tune, rounds=2) for rows in (cohort, changed))

    assert (other.weights, other.normalisation) == (reference.weights, reference.normalisation)
    figures: dict[str, Any] = {"scores": {}, "importance": {}, "curve": []}  # of held-out rows
    train_losses = [[of_round[0] for of_round in trained.result.curve] for trained in (reference, other)]
    assert train_losses[0] == train_losses[1]
    assert replace(other.result, **figures) == replace(reference.result, **figures)
    if "b" in reference.result.scores:
        assert other.result.scores["b"] == reference.result.scores["b"]


@pytest.mark.slow
def test_federated_and_pooled_models_share_normalisation_and_held_out_rows(fit: Any, cohort: Cohort) -> None:
    federated, pooled = fit(cohort, TrainingSetup.FEDERATED, "fedavg"), fit(cohort, TrainingSetup.POOLED)

    np.testing.assert_allclose(pooled.normalisation.mean, federated.normalisation.mean, rtol=1e-12)
    np.testing.assert_allclose(pooled.normalisation.variance, federated.normalisation.variance, rtol=1e-9)
    assert federated.registrations == (("a", 24, 12), ("b", 30, 15), ("c", 40, 20))
    assert pooled.registrations == (("pooled", 94, 47),)
    sizes = {"a": 12, "b": 15, "c": 20}
    assert {name: len(scores) for name, scores in federated.result.scores.items()} == sizes
    assert {name: len(scores) for name, scores in pooled.result.scores.items()} == sizes
    ages = np.concatenate(
        [
            rows.iloc[cohort.split(folds=FOLDS, fold=0, seed=SEED)[name].train]["age"]
            for name, rows in cohort.tables.items()
        ]
    )
    assert pooled.normalisation.mean[0] == pytest.approx(ages.mean())


@pytest.mark.slow
def test_scores_match_a_logistic_regression_by_hand(fit: Any, cohort: Cohort) -> None:
    """Scores of a hospital that did not take part, from the final weights and in the order of its rows."""
    from client import app

    protocol = protocol_of()
    split = cohort.split(folds=FOLDS, fold=0, seed=SEED)
    left_out = Fit(repeat=0, fold=0, setup=TrainingSetup.LEAVE_ONE_OUT, subject="b")
    hospitals = {name: cohort.hospital(name, rows) for name, rows in split.items() if name != "b"}
    federated_run = open_run(hospitals, settings_for(left_out, protocol, 3), app)
    federated_run.run()
    kernel, bias = (array.astype(np.float64) for array in federated_run.weights.values())
    assert federated_run.normalisation is not None
    values = cohort.tables["b"][list(HEART_DISEASE.column_names)].iloc[split["b"].test]
    expected = np.full(len(values), bias[0])
    names = [column.name for column in HEART_DISEASE.measurements]
    means = dict(zip(names, federated_run.normalisation.mean, strict=True))
    variances = dict(zip(names, federated_run.normalisation.variance, strict=True))
    for column, place in zip(HEART_DISEASE.columns, HEART_DISEASE.feature_slices, strict=True):
        if column.name in ("age", "chol"):
            scaled = (values[column.name].to_numpy() - means[column.name]) / variances[column.name] ** 0.5
            expected += scaled * kernel[place.start, 0]
        else:
            expected += kernel[place.stop - 1, 0]  # missing

    result = fit(cohort, TrainingSetup.LEAVE_ONE_OUT, "b").result

    np.testing.assert_allclose(result.scores["b"], expected, atol=1e-4)
    assert handlers.local_model.cache_info().currsize == 0  # the rows of the fold are freed


@pytest.mark.slow
def test_every_repeat_has_a_seed_of_its_own_for_all_setups(cohort: Cohort, monkeypatch: Any) -> None:
    from client import app

    seeds: list[int] = []

    def open_recorded(hospitals: Any, settings: Any, app: Any) -> Any:
        seeds.append(settings.seed)
        return open_run(hospitals, settings, app)

    monkeypatch.setattr(training_setups, "open_run", open_recorded)
    for repeat in (0, 1):
        for setup, subject in (
            (TrainingSetup.OWN, "a"),
            (TrainingSetup.FEDERATED, "fedavg"),
            (TrainingSetup.LEAVE_ONE_OUT, "a"),
        ):
            run_fit(Fit(repeat=repeat, fold=0, setup=setup, subject=subject), cohort, protocol_of(rounds=1), app)

    assert seeds == [42] * 3 + [43] * 3


# Small hospitals


@pytest.mark.slow
@pytest.mark.parametrize(("folds", "tune"), [(10, False), (2, True)])
def test_hospitals_of_few_patients_or_one_class_have_finite_scores(folds: int, tune: bool) -> None:
    """Also if a fold holds out no row of a hospital, because it has fewer patients than there are folds."""
    from client import app

    tiny, single = patients(8, 1), patients(9, 2)
    tiny["disease"], single["disease"] = [1.0, *[0.0] * 7], 1.0
    cohort = cohort_of({"tiny": tiny, "single": single, "c": patients(40, 3)})
    protocol = protocol_of(folds=folds, tune=tune, rounds=1, local_epochs=1)
    fits = [fit for fit in plan_fits(list(cohort.tables), protocol) if fit.fold == folds - 1]

    for fit in fits:
        result = run_fit(fit, cohort, protocol, app)

        split = cohort.split(folds=folds, fold=fit.fold, seed=42)
        assert all(len(scores) == len(split[name].test) for name, scores in result.scores.items())
        assert all(np.isfinite(scores).all() for scores in result.scores.values())


@pytest.mark.slow
def test_a_fit_without_the_update_of_a_hospital_fails(cohort: Cohort) -> None:
    """Other runs continue without it."""
    from client import app

    def fail_at_b(message: Message, context: Any) -> Message:
        if message.metadata.message_type == "train" and context.hospital.name == "b":
            raise ValueError
        return app(message, context)

    with pytest.raises(RunError, match=r"^b .*round 1"):
        run_fit(
            Fit(repeat=0, fold=0, setup=TrainingSetup.FEDERATED, subject="fedavg"),
            cohort,
            protocol_of(rounds=1),
            cast(ClientApp, fail_at_b),
        )


# Tuning


class KnownLosses:
    """A run whose held-out loss is known for every inner fold and round."""

    def __init__(self, losses: Any, inner: int, rounds: int) -> None:
        self.losses, self.inner, self.last, self.reached = losses, inner, rounds, 0

    def gather(self) -> None:
        pass

    def rounds(self) -> Iterator[Any]:
        for number in range(1, self.last + 1):
            self.reached = number
            loss = self.losses(self.inner, number)
            counts = None if loss is None else Counts(loss_sum=loss)
            yield SimpleNamespace(number=number, federation=SimpleNamespace(counts=counts))


def tuned(monkeypatch: pytest.MonkeyPatch, losses: Any, rounds: int = 6) -> tuple[int, int, list[list[str]]]:
    """The chosen number of rounds, the number of rounds tried, and the hospitals of each inner fold."""
    cohort = cohort_of({name: patients(30, seed) for seed, name in enumerate(HOSPITALS)})
    split = cohort.split(folds=3, fold=0, seed=42)
    participants: list[list[str]] = []
    runs: list[KnownLosses] = []

    def open_known(hospitals: Any, settings: Any, _app: Any) -> Any:
        participants.append(list(hospitals))
        runs.append(KnownLosses(losses, len(runs), settings.rounds))
        return runs[-1]

    monkeypatch.setattr(training_setups, "open_run", open_known)
    fit = Fit(repeat=0, fold=0, setup=TrainingSetup.LEAVE_ONE_OUT, subject="a")
    chosen = training_setups.choose_rounds(fit, split, cohort, protocol_of(rounds=rounds).settings, ClientApp())
    assert len({run.reached for run in runs}) == 1
    return chosen, runs[0].reached, participants


@pytest.mark.parametrize("best", [1, 4, 6])
def test_the_rounds_with_the_lowest_loss_over_all_inner_folds_are_chosen(
    monkeypatch: pytest.MonkeyPatch, best: int
) -> None:
    """Each fold alone would choose another round."""
    lowest = [{best: 5.0, 2: 4.9}, {best: 5.0, 3: 4.9}, {best: 5.0, 5: 4.9}]

    rounds, _, participants = tuned(monkeypatch, lambda inner, number: lowest[inner].get(number, 5.1))

    assert rounds == best
    assert participants == [["b", "c"]] * INNER_FOLDS


def test_equal_losses_choose_the_smaller_number_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuned(monkeypatch, lambda _, number: 4.0 if number in (3, 5) else 5.0)[0] == 3


def test_tuning_ends_after_patience_rounds_without_a_lower_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lower loss in the last of these rounds counts, one in the round after it does not."""
    late = {3: 4.0, 4 + PATIENCE: 1.0}

    rounds, reached, _ = tuned(monkeypatch, lambda _, number: late.get(number, 5.0), rounds=40)
    assert (rounds, reached) == (3, 3 + PATIENCE)

    in_time = {3: 4.0, 3 + PATIENCE: 1.0}
    assert tuned(monkeypatch, lambda _, number: in_time.get(number, 5.0), rounds=40)[0] == 3 + PATIENCE


def test_a_round_without_an_evaluation_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuned(monkeypatch, lambda _, number: 9.0 if number == 2 else None)[0] == 2


@pytest.mark.slow
def test_tuning_on_noise_stops_early(fit: Any) -> None:
    noise = cohort_of({name: patients(30, seed, nothing) for seed, name in enumerate(HOSPITALS)})

    trained = fit(noise, TrainingSetup.OWN, "a", tune=True, rounds=12, local_epochs=5, learning_rate=0.5)

    assert trained.result.rounds < 12
