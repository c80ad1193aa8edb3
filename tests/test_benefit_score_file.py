"""scores.csv and learning_curves.csv of a study."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import StorageError
from federated_health.ml.rounds import HospitalRound
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts
from federated_health.studies.benefit import benefit_study, training_setups
from federated_health.studies.benefit.cohort import read_cohort
from federated_health.studies.benefit.comparison import OutOfFold, Scores
from federated_health.studies.benefit.learning_curves import curve_of, write_learning_curves
from federated_health.studies.benefit.score_file import write_scores
from federated_health.studies.benefit.training_setups import Fit, FitResult, TrainingSetup
from tests.support.cohorts import patients, write_tables
from tests.support.studies import made_up_result
from tests.support.targets import patients_of, task_of

SIZES = {"north": 41, "south": 26, "east": 60}
MODELS = ["own", "federated", "fedprox:proximal-mu=0.01", "pooled", "without", "recalibrated"]


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return {name: patients(rows, seed) for seed, (name, rows) in enumerate(SIZES.items())}


@pytest.fixture(scope="module")
def study(tables: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study whose models are random, beside the folder of its hospitals."""
    folder = tmp_path_factory.mktemp("study")
    write_tables(folder / "data", tables)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training_setups, "run_fit", lambda fit, cohort, protocol, **_: made_up_result(fit, cohort, protocol)
        )
        run(folder)
    return folder


def run(folder: Path, **changes: Any) -> None:
    flags: dict[str, Any] = {
        "data": folder / "data",
        "out": folder / "out",
        "force": False,
        "folds": 3,
        "repeats": 2,
        "strategies": ("fedavg", "fedprox:proximal-mu=0.01"),
        "tune": False,
        "settings": {},
        "jobs": 1,
        "show": lambda *_: None,
    }
    benefit_study.run(**(flags | changes))


@pytest.fixture(scope="module")
def scores(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "out" / "scores.csv")


@pytest.fixture(scope="module")
def evidence(study: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((study / "out" / "evidence.json").read_text())
    return figures


def test_a_row_is_found_in_its_hospital_s_csv_where_a_spreadsheet_shows_it(study: Path, scores: pd.DataFrame) -> None:
    for number, name in enumerate(SIZES, 1):
        lines = list(csv.DictReader((study / "data" / f"client_{number}.csv").read_text().splitlines()))
        of_hospital = scores[scores.hospital == name]
        assert sorted(of_hospital.row) == sorted([*range(2, SIZES[name] + 2)] * 2)
        for row, label in zip(of_hospital.row, of_hospital.label, strict=True):
            assert float(lines[row - 2]["disease"]) == label


def test_every_row_is_scored_once_per_repeat_by_every_model(scores: pd.DataFrame) -> None:
    assert len(scores) == 2 * sum(SIZES.values())
    assert not scores.duplicated(["hospital", "row", "repeat"]).any()
    assert set(scores["repeat"]) == {1, 2}
    assert set(scores["fold"]) == {1, 2, 3}
    columns = [f"{column}_{model}" for model in MODELS for column in ("risk", "threshold")]
    assert list(scores.columns) == ["hospital", "row", "repeat", "fold", "label", *columns]
    assert scores.notna().all(axis=None)


def test_the_scores_of_a_fold_are_those_of_its_model(study: Path, scores: pd.DataFrame) -> None:
    cohort = read_cohort(study / "data")
    seed = 42 + 1  # of the second repeat
    split = cohort.split(folds=3, fold=2, seed=seed)
    of_fold = scores[(scores["repeat"] == 2) & (scores["fold"] == 3)]
    for name in SIZES:
        assert (of_fold[of_fold.hospital == name].row - 2).tolist() == split[name].test.tolist()
    lines = [json.loads(line) for line in (study / "out" / "fits.jsonl").read_text().splitlines()[1:]]
    (fit,) = [
        line
        for line in lines
        if (line["repeat"], line["fold"], line["regime"], line["subject"]) == (1, 2, "own", "south")
    ]
    own = of_fold[of_fold.hospital == "south"]
    np.testing.assert_allclose(own.risk_own, 1 / (1 + np.exp(-np.array(fit["scores"]["south"]))), rtol=1e-8)
    assert set(own.threshold_own) == {fit["threshold"]}


def roc_auc_of_folds(rows: pd.DataFrame, risk: str) -> float:
    """Share of the pairs of a positive and a negative row of one fold that are in the right order."""
    folds = [of_fold for _, of_fold in rows.groupby("fold")]
    pairs = [(of_fold.label == 1).sum() * (of_fold.label == 0).sum() for of_fold in folds]
    return float(np.average([reference.roc_auc_score(part.label, part[risk]) for part in folds], weights=pairs))


def value_of(figure: Any) -> Any:
    return figure["value"] if isinstance(figure, dict) else figure


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("hospital", SIZES)
def test_figures_recomputed_from_the_file_are_those_of_the_study(
    scores: pd.DataFrame, evidence: dict[str, Any], hospital: str, model: str
) -> None:
    found = evidence["hospitals"][hospital]["models"][model]
    repeats = [rows for _, rows in scores[scores.hospital == hospital].groupby("repeat")]
    risks = [rows[f"risk_{model}"] for rows in repeats]
    expected = {
        "roc_auc": [roc_auc_of_folds(rows, f"risk_{model}") for rows in repeats],
        "brier": [reference.brier_score_loss(rows.label, risk) for rows, risk in zip(repeats, risks, strict=True)],
        "accuracy": [((rows[f"risk_{model}"] >= rows[f"threshold_{model}"]) == rows.label).mean() for rows in repeats],
        "average_precision": [
            reference.average_precision_score(rows.label, risk) for rows, risk in zip(repeats, risks, strict=True)
        ],
    }
    for name, values in expected.items():
        assert value_of(found[name]) == pytest.approx(np.mean(values), abs=1e-8), name


def test_only_the_owner_can_read_scores(study: Path) -> None:
    for name in ("scores.csv", "fits.jsonl"):
        assert (study / "out" / name).stat().st_mode & 0o077 == 0


def test_a_folder_that_is_missing_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        write_scores(tmp_path / "missing" / "scores.csv", Scores(target_of(HEART_DISEASE), {}, {}, {}))


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("classes", ["probability_0_own", "probability_1_own", "probability_3_own"]),
        ("number", ["prediction_own"]),
        ("count", ["expected_own"]),
    ],
)
def test_scores_of_other_labels_are_what_a_saved_model_predicts(kind: str, columns: list[str], tmp_path: Path) -> None:
    target, labels = target_of(task_of(kind)), patients_of(kind, 20).labels
    shape = (1, 20, target.outputs) if target.outputs > 1 else (1, 20)
    outputs = np.random.default_rng(1).normal(size=shape)
    folds = {"a": np.zeros((1, 20), dtype=np.intp)}
    scores = Scores(target, {"a": labels}, {"own": {"a": OutOfFold(outputs, np.full((1, 20), 0.5))}}, folds)

    write_scores(tmp_path / "scores.csv", scores)

    table = pd.read_csv(tmp_path / "scores.csv")
    assert list(table.columns) == ["hospital", "row", "repeat", "fold", "label", *columns]
    predictions = target.predict(outputs[0]).reshape(20, -1)
    np.testing.assert_allclose(table[columns], predictions, rtol=1e-8)
    np.testing.assert_allclose(table["label"], labels, rtol=1e-8)


# Learning curves


def test_learning_curves_hold_the_figures_of_every_round_of_federated_models(tmp_path: Path) -> None:
    target = target_of(HEART_DISEASE)
    rounds = [
        HospitalRound(30, 0.7, Counts(3, 1, 5, 1, loss_sum=6.0, squared_error_sum=2.5)),
        HospitalRound(30, None, None),
    ]
    fit = Fit(repeat=1, fold=0, setup=TrainingSetup.FEDERATED, subject="fedprox:proximal-mu=0.01")
    own = replace(fit, setup=TrainingSetup.OWN, subject="a")
    result = FitResult(scores={}, threshold=0.5, rounds=2, importance={})
    results = {own: result, fit: replace(result, curve=curve_of(rounds, target))}

    write_learning_curves(tmp_path / "learning_curves.csv", results, target)

    table = pd.read_csv(tmp_path / "learning_curves.csv")
    assert table.columns.tolist() == [
        *("strategy", "repeat", "fold", "round", "train_loss", "test_loss", "test_accuracy", "test_brier")
    ]
    assert table.iloc[0].tolist() == ["fedprox:proximal-mu=0.01", 2, 1, 1, 0.7, 0.6, 0.8, 0.25]
    assert table.iloc[1, :4].tolist() == ["fedprox:proximal-mu=0.01", 2, 1, 2]
    assert table.iloc[1, 4:].isna().all()
    assert len(table) == 2


@pytest.mark.slow
def test_the_learning_curve_of_a_study_ends_at_the_loss_of_its_scores(tables: dict[str, Any], tmp_path: Path) -> None:
    write_tables(tmp_path / "data", {name: tables[name] for name in ("north", "south")})
    run(tmp_path, folds=2, repeats=1, strategies=("fedavg",), settings={"rounds": 3, "model": "logistic"})

    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    curves = pd.read_csv(tmp_path / "out" / "learning_curves.csv")
    assert curves[["strategy", "repeat", "fold", "round"]].to_numpy().tolist() == [
        ["fedavg", 1, fold, number] for fold in (1, 2) for number in (1, 2, 3)
    ]
    for fold, rows in scores.groupby("fold"):
        last = curves[(curves.fold == fold) & (curves["round"] == 3)].iloc[0]
        assert last.test_loss == pytest.approx(reference.log_loss(rows.label, rows.risk_federated), abs=1e-5)
        assert last.test_brier == pytest.approx(reference.brier_score_loss(rows.label, rows.risk_federated), abs=1e-5)
    assert curves[curves["round"] == 3].train_loss.mean() < curves[curves["round"] == 1].train_loss.mean()
