"""A real study of a federation in which one hospital gains, one loses, and one has no difference."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from federated_health.data.columns import Measurement
from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.verdicts import Verdict
from federated_health.studies.benefit.benefit_study import run_fits
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.comparison import collect_scores, compare_models
from federated_health.studies.benefit.journal import Journal, fingerprint_of
from tests.support.cohorts import cohort_of, protocol_of

pytestmark = pytest.mark.slow


def patients(number: int, seed: int, direction: float) -> pd.DataFrame:
    """All columns together determine the label, in this direction; with direction 0 nothing was recorded."""
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
        table["age"] = 50 + np.arange(number) * 1e-9  # different rows with the same features
    risk = direction * log_odds if direction else generator.random(number)
    table["disease"] = (risk >= np.median(risk)).astype(np.float64)  # classes of equal size
    return table


def hospitals(seed: int) -> Cohort:
    """Most patients are those of one large hospital.

    - `small` has the same mechanism, and too few patients to learn the effect of so many columns.
    - `contrary` has the opposite mechanism.
    - `blank` recorded nothing: no model can distinguish its patients.
    """
    sizes = {"large": (600, 1.0), "small": (60, 1.0), "contrary": (60, -1.0), "blank": (40, 0.0)}
    return cohort_of(
        {
            name: patients(rows, 10 * seed + place, direction)
            for place, (name, (rows, direction)) in enumerate(sizes.items())
        }
    )


def figures_of(seed: int, folder: Path) -> dict[str, Any]:
    cohort = hospitals(seed)
    protocol = protocol_of(folds=2, rounds=8, local_epochs=3, learning_rate=0.1, l2=0.01)
    journal = Journal(folder, fingerprint_of(cohort, protocol), force=False)
    results = run_fits(cohort, protocol, journal, jobs=1)
    return compare_models(collect_scores(cohort, protocol, results))


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return figures_of(0, tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("small", Verdict.GAINS), ("contrary", Verdict.LOSES), ("blank", Verdict.UNCLEAR)],
)
def test_each_hospital_has_the_verdict_of_its_mechanism(figures: dict[str, Any], name: str, verdict: Verdict) -> None:
    assert figures["hospitals"][name]["verdict"] is verdict


def test_aucs_agree_with_the_mechanism_of_each_hospital(figures: dict[str, Any]) -> None:
    aucs = {
        name: {model: metrics["roc_auc"]["value"] for model, metrics in entry["models"].items()}
        for name, entry in figures["hospitals"].items()
    }

    assert aucs["small"]["federated"] - aucs["small"]["own"] > 0.1
    assert aucs["small"]["without"] > 0.8  # the others teach its mechanism without it
    assert aucs["contrary"]["own"] > 0.6
    assert aucs["contrary"]["federated"] < 0.4
    assert set(aucs["blank"].values()) == {0.5}
    assert aucs["large"]["without"] < 0.7  # small, contrary and blank remain


def test_no_figure_is_small_or_undefined(figures: dict[str, Any]) -> None:
    entries = figures["hospitals"].values()
    assert not any(entry["small"] for entry in entries)
    assert all(entry["differences"]["own"]["roc_auc"]["low"] is not None for entry in entries)
