"""Whose rows each training setup trains on, proved by making the other rows absurd; tuning; settings."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from federated_health.data.tasks import HEART_DISEASE
from federated_health.errors import RunError, SettingsError
from federated_health.hospital import handlers
from federated_health.ml.metrics import Counts
from federated_health.ml.networks import weights_hash
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
    one = [(fit.setup, fit.subject) for fit in fits if (fit.repeat, fit.fold) == (2, 1)]
    assert one == [
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
def test_a_fit_is_a_federation_of_so_many(setup: TrainingSetup, subject: str, hospitals: int, strategy: str) -> None:
    protocol = replace(protocol_of(), strategies=("average", "fedavg"))

    settings = settings_for(Fit(repeat=0, fold=0, setup=setup, subject=subject), protocol, 3)

    assert (settings.hospitals, settings.strategy) == (hospitals, strategy)
    assert replace(settings, hospitals=1, strategy="fedavg") == replace(
        protocol.settings, hospitals=1, strategy="fedavg"
    )


def test_of_two_hospitals_the_one_that_is_left_is_alone() -> None:
    settings = settings_for(
        Fit(repeat=0, fold=0, setup=TrainingSetup.LEAVE_ONE_OUT, subject="a"),
        replace(protocol_of(), strategies=("average",)),
        2,
    )

    assert (settings.hospitals, settings.strategy) == (1, "fedavg")


def test_an_unknown_strategy_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="strategy"):
        settings_for(Fit(repeat=0, fold=0, setup=TrainingSetup.FEDERATED, subject="magic"), protocol_of(), 3)


# Whose rows


@dataclass(frozen=True, eq=False)
class Dealt(Cohort):
    """A cohort that is split as another one was, whatever its rows have become."""

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
    """All patients on one side of one hospital are 119 years old, with the other label."""
    side = cohort.split(folds=FOLDS, fold=0, seed=SEED)[hospital]
    rows = np.concatenate([*([side.train] if train else []), *([side.test] if test else [])])
    table = cohort.tables[hospital].copy()
    table.loc[rows, "age"], table.loc[rows, "chol"] = 119.0, 999.0
    table.loc[rows, "disease"] = 1 - table.loc[rows, "disease"]
    return Dealt(cohort.task, {**cohort.tables, hospital: table}, cohort.hashes, cohort)


@dataclass(frozen=True)
class Fitted:
    """What a fit's final federation came to."""

    weights: str
    normalisation: Any
    scored: FitResult
    introduced: tuple[tuple[str, int, int], ...]


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a fit of fold 0, and looks at its federation."""
    from client import app

    made: list[PlainRun] = []

    class Watched(PlainRun):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(study, "PlainRun", Watched)

    def run(cohort: Cohort, setup: TrainingSetup, subject: str = "", **protocol: Any) -> Fitted:
        scored = run_fit(Fit(repeat=0, fold=0, setup=setup, subject=subject), cohort, protocol_of(**protocol), app)
        last = made[-1]
        introduced = sorted((one.name, one.train_examples, one.test_examples) for one in last.registrations.values())
        return Fitted(weights_hash(last.weights), last.normalisation, scored, tuple(introduced))

    return run


@pytest.mark.slow
@pytest.mark.parametrize("tune", [False, True])
def test_a_federation_without_a_hospital_never_sees_a_row_of_it(fit: Any, cohort: Cohort, tune: bool) -> None:
    """Neither training nor normalisation, threshold or tuning moves by a bit when all its rows become absurd; and its
    tested rows' scores do not when its training rows do.
    """
    reference = fit(cohort, TrainingSetup.LEAVE_ONE_OUT, "b", tune=tune, rounds=2)

    everything = fit(absurd(cohort, "b", train=True, test=True), TrainingSetup.LEAVE_ONE_OUT, "b", tune=tune, rounds=2)
    training = fit(absurd(cohort, "b", train=True, test=False), TrainingSetup.LEAVE_ONE_OUT, "b", tune=tune, rounds=2)
    another = fit(absurd(cohort, "c", train=True, test=False), TrainingSetup.LEAVE_ONE_OUT, "b", tune=tune, rounds=2)

    assert [name for name, *_ in reference.introduced] == ["a", "c"]
    assert (everything.weights, everything.normalisation) == (reference.weights, reference.normalisation)
    assert replace(everything.scored, scores={}) == replace(reference.scored, scores={})
    assert everything.scored.scores != reference.scored.scores
    assert training.scored == reference.scored
    assert list(reference.scored.scores) == ["b"]
    assert another.weights != reference.weights  # absurd rows would be noticed
    assert another.normalisation != reference.normalisation


@pytest.mark.slow
def test_an_own_model_sees_its_own_rows_only(fit: Any, cohort: Cohort) -> None:
    reference = fit(cohort, TrainingSetup.OWN, "a")

    others = fit(absurd(absurd(cohort, "b", train=True, test=True), "c", train=True, test=True), TrainingSetup.OWN, "a")

    assert others == reference
    assert list(reference.scored.scores) == ["a"]
    assert reference.introduced == (("a", 24, 12),)
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
def test_no_setup_sees_a_tested_row_before_it_scores_it(
    fit: Any, cohort: Cohort, setup: TrainingSetup, subject: str, tune: bool
) -> None:
    spoilt = absurd(absurd(cohort, "a", train=False, test=True), "c", train=False, test=True)

    reference, found = (fit(one, setup, subject, tune=tune, rounds=2) for one in (cohort, spoilt))

    assert (found.weights, found.normalisation) == (reference.weights, reference.normalisation)
    untested: dict[str, Any] = {"scores": {}, "importance": {}}  # both are of the tested rows
    assert replace(found.scored, **untested) == replace(reference.scored, **untested)
    if "b" in reference.scored.scores:
        assert found.scored.scores["b"] == reference.scored.scores["b"]


@pytest.mark.slow
def test_federated_and_pooled_models_are_normalised_alike_and_tested_on_the_same_rows(fit: Any, cohort: Cohort) -> None:
    federated, pooled = fit(cohort, TrainingSetup.FEDERATED, "fedavg"), fit(cohort, TrainingSetup.POOLED)

    np.testing.assert_allclose(pooled.normalisation.mean, federated.normalisation.mean, rtol=1e-12)
    np.testing.assert_allclose(pooled.normalisation.variance, federated.normalisation.variance, rtol=1e-9)
    assert federated.introduced == (("a", 24, 12), ("b", 30, 15), ("c", 40, 20))
    assert pooled.introduced == (("pooled", 94, 47),)
    sizes = {"a": 12, "b": 15, "c": 20}
    assert {name: len(scores) for name, scores in federated.scored.scores.items()} == sizes
    assert {name: len(scores) for name, scores in pooled.scored.scores.items()} == sizes
    by_hand = np.concatenate(
        [
            rows.iloc[cohort.split(folds=FOLDS, fold=0, seed=SEED)[name].train]["age"]
            for name, rows in cohort.tables.items()
        ]
    )
    assert pooled.normalisation.mean[0] == pytest.approx(by_hand.mean())


@pytest.mark.slow
def test_scores_are_those_of_the_final_weights_on_the_fold_s_rows_in_their_order(fit: Any, cohort: Cohort) -> None:
    """Logistic regression by hand, from the weights; a hospital that had no part is scored with the same."""
    from client import app

    protocol = protocol_of()
    split = cohort.split(folds=FOLDS, fold=0, seed=SEED)
    job = Fit(repeat=0, fold=0, setup=TrainingSetup.LEAVE_ONE_OUT, subject="b")
    hospitals = {name: cohort.hospital(name, rows) for name, rows in split.items() if name != "b"}
    federated_run = open_run(hospitals, settings_for(job, protocol, 3), app)
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

    scored = fit(cohort, TrainingSetup.LEAVE_ONE_OUT, "b").scored

    np.testing.assert_allclose(scored.scores["b"], expected, atol=1e-4)
    assert handlers.local_model.cache_info().currsize == 0  # no rows of a fold are kept


@pytest.mark.slow
def test_repeats_train_with_other_seeds_and_the_same_one_for_every_setup(cohort: Cohort, monkeypatch: Any) -> None:
    from client import app

    seeds: list[int] = []

    def watch(hospitals: Any, settings: Any, app: Any) -> Any:
        seeds.append(settings.seed)
        return open_run(hospitals, settings, app)

    monkeypatch.setattr(training_setups, "open_run", watch)
    for repeat in (0, 1):
        for setup, subject in (
            (TrainingSetup.OWN, "a"),
            (TrainingSetup.FEDERATED, "fedavg"),
            (TrainingSetup.LEAVE_ONE_OUT, "a"),
        ):
            run_fit(Fit(repeat=repeat, fold=0, setup=setup, subject=subject), cohort, protocol_of(rounds=1), app)

    assert seeds == [42] * 3 + [43] * 3


# Awkward hospitals


@pytest.mark.slow
@pytest.mark.parametrize(("folds", "tune"), [(10, False), (2, True)])
def test_hospitals_of_a_few_patients_or_one_class_break_nothing(folds: int, tune: bool) -> None:
    """Also where a fold tests no row of a hospital, because it has fewer patients than there are folds."""
    from client import app

    tiny, single = patients(8, 1), patients(9, 2)
    tiny["disease"], single["disease"] = [1.0, *[0.0] * 7], 1.0
    cohort = cohort_of({"tiny": tiny, "single": single, "c": patients(40, 3)})
    protocol = protocol_of(folds=folds, tune=tune, rounds=1, local_epochs=1)
    fits = [fit for fit in plan_fits(list(cohort.tables), protocol) if fit.fold == folds - 1]

    for fit in fits:
        scored = run_fit(fit, cohort, protocol, app)

        split = cohort.split(folds=folds, fold=fit.fold, seed=42)
        assert all(len(scores) == len(split[name].test) for name, scores in scored.scores.items())
        assert all(np.isfinite(scores).all() for scores in scored.scores.values())


@pytest.mark.slow
def test_a_model_that_lacks_a_hospital_is_no_result(cohort: Cohort) -> None:
    """A federation's run would go on without it."""
    from client import app

    def fail_at_b(message: Message, context: Any) -> Message:
        if message.metadata.message_type == "train" and context.hospital.name == "b":
            raise ValueError
        return app(message, context)

    with pytest.raises(RunError, match=r"^b sent no usable update in round 1$"):
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
    """The number of rounds that was chosen, how many were tried, and the hospitals of each inner fold."""
    cohort = cohort_of({name: patients(30, seed) for seed, name in enumerate(HOSPITALS)})
    split = cohort.split(folds=3, fold=0, seed=42)
    tried: list[list[str]] = []
    runs: list[KnownLosses] = []

    def open_known(hospitals: Any, settings: Any, _app: Any) -> Any:
        tried.append(list(hospitals))
        runs.append(KnownLosses(losses, len(runs), settings.rounds))
        return runs[-1]

    monkeypatch.setattr(training_setups, "open_run", open_known)
    fit = Fit(repeat=0, fold=0, setup=TrainingSetup.LEAVE_ONE_OUT, subject="a")
    chosen = training_setups.choose_rounds(fit, split, cohort, protocol_of(rounds=rounds).settings, ClientApp())
    assert len({run.reached for run in runs}) == 1
    return chosen, runs[0].reached, tried


@pytest.mark.parametrize("best", [1, 4, 6])
def test_the_rounds_of_least_loss_over_all_inner_folds_are_chosen(monkeypatch: pytest.MonkeyPatch, best: int) -> None:
    """Each fold alone would choose another round."""
    least = [{best: 5.0, 2: 4.9}, {best: 5.0, 3: 4.9}, {best: 5.0, 5: 4.9}]

    rounds, _, tried = tuned(monkeypatch, lambda inner, number: least[inner].get(number, 5.1))

    assert rounds == best
    assert len(tried) == INNER_FOLDS
    assert tried == [["b", "c"]] * INNER_FOLDS


def test_of_equal_losses_the_fewer_rounds_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuned(monkeypatch, lambda _, number: 4.0 if number in (3, 5) else 5.0)[0] == 3


def test_patience_ends_when_none_of_so_many_rounds_was_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later round that would be better still is not waited for; one just in time is."""
    late = {3: 4.0, 4 + PATIENCE: 1.0}

    rounds, reached, _ = tuned(monkeypatch, lambda _, number: late.get(number, 5.0), rounds=40)
    assert (rounds, reached) == (3, 3 + PATIENCE)

    in_time = {3: 4.0, 3 + PATIENCE: 1.0}
    assert tuned(monkeypatch, lambda _, number: in_time.get(number, 5.0), rounds=40)[0] == 3 + PATIENCE


def test_a_round_that_nobody_could_evaluate_is_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuned(monkeypatch, lambda _, number: 9.0 if number == 2 else None)[0] == 2


@pytest.mark.slow
def test_where_columns_say_nothing_tuning_stops_early(fit: Any) -> None:
    noise = cohort_of({name: patients(30, seed, nothing) for seed, name in enumerate(HOSPITALS)})

    found = fit(noise, TrainingSetup.OWN, "a", tune=True, rounds=12, local_epochs=5, learning_rate=0.5)

    assert found.scored.rounds < 12
