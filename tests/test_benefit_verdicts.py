"""A federation in which one hospital must gain, one must lose, and for one it cannot matter, through a real study."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from federated_health.data.columns import Measurement
from federated_health.data.tasks import HEART_DISEASE
from federated_health.ml.metrics import Verdict
from federated_health.studies.benefit.benefit_study import run_fits
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.comparison import collect_scores, compare_models
from federated_health.studies.benefit.journal import Journal, fingerprint_of
from tests.support.cohorts import cohort_of, protocol_of

pytestmark = pytest.mark.slow


def patients(number: int, seed: int, direction: float) -> pd.DataFrame:
    """Every column says a little, and all of them together all, in this direction; 0 where nothing was recorded."""
    mechanism, generator = np.random.default_rng(1), np.random.default_rng(seed)
    table, log_odds = pd.DataFrame(), np.zeros(number)
    for column in HEART_DISEASE.columns:
        if isinstance(column, Measurement):
            place = generator.normal(size=number).clip(-2.9, 2.9)
            table[column.name] = (column.low + column.high) / 2 + place * (column.high - column.low) / 6
            log_odds += mechanism.choice([-1.2, 1.2]) * place
        else:
            place = generator.integers(len(column.codes), size=number)
            table[column.name] = np.array([float(code) for code in column.codes])[place]
            log_odds += (mechanism.permutation(np.linspace(-1.5, 1.5, len(column.codes))))[place]
    if not direction:
        table[:] = np.nan
        table["age"] = 50 + np.arange(number) * 1e-9  # other patients, whose features are the same
    risk = direction * log_odds if direction else generator.random(number)
    table["disease"] = (risk >= np.median(risk)).astype(np.float64)  # as many of either class
    return table


def hospitals(seed: int) -> Cohort:
    """Most patients are those of one large hospital.

    - `small` has the same mechanism, and too few patients to learn so many columns from.
    - `contrary` has enough of them, and the mechanism is the other way round.
    - `blank` recorded nothing: no model can tell its patients apart.
    """
    sizes = {"large": (600, 1.0), "small": (60, 1.0), "contrary": (60, -1.0), "blank": (40, 0.0)}
    return cohort_of(
        {name: patients(rows, 10 * seed + place, way) for place, (name, (rows, way)) in enumerate(sizes.items())}
    )


def figures_of(seed: int, folder: Path) -> dict[str, Any]:
    cohort = hospitals(seed)
    protocol = protocol_of(folds=2, rounds=8, local_epochs=3, learning_rate=0.1, l2=0.01)
    journal = Journal(folder, fingerprint_of(cohort, protocol), force=False)
    results = run_fits(cohort, protocol, journal, jobs=1)
    return compare_models(collect_scores(cohort, protocol, results), seed=1, draws=500)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return figures_of(0, tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("small", Verdict.GAINS), ("contrary", Verdict.LOSES), ("blank", Verdict.UNCLEAR)],
)
def test_each_hospital_has_the_verdict_that_it_must_have(figures: dict[str, Any], name: str, verdict: Verdict) -> None:
    assert figures["hospitals"][name]["verdict"] is verdict


def test_the_figures_behind_the_verdicts(figures: dict[str, Any]) -> None:
    of = {
        name: {way: model["roc_auc"]["value"] for way, model in one["models"].items()}
        for name, one in figures["hospitals"].items()
    }

    assert of["small"]["federated"] - of["small"]["own"] > 0.1
    assert of["small"]["without"] > 0.8  # the others know its mechanism without it
    assert of["contrary"]["own"] > 0.6
    assert of["contrary"]["federated"] < 0.4
    assert set(of["blank"].values()) == {0.5}
    assert of["large"]["without"] < 0.7  # what is left without it is small, contrary and blank


def test_nothing_is_small_or_undefined(figures: dict[str, Any]) -> None:
    assert not any(one["small"] for one in figures["hospitals"].values())
    assert all(one["differences"]["federated_minus_own"]["low"] is not None for one in figures["hospitals"].values())
