"""Figures of readmission-30d on real stays, over splits by patient; prints JSON with mean and deviation of each.

All 99,340 stays of UCI's Diabetes 130-US Hospitals. A split seed draws the held-out quarter of the patients at every
hospital, and the division where it is random. Every figure is exact, over the held-out stays of all hospitals together;
the federations run in process, through the same apps and strategies as over gRPC.

logistic_regression, gradient_boosting   scikit-learn's, on the training rows of both hospitals together
iid_...                                  2 hospitals, --by iid
specialty_...                            --hospital-column medical_specialty --min-patients 500
dirichlet_...                            20 hospitals, --by dirichlet --alpha 0.5
..._average, ..._fedavg                  the federation with the task's settings and that strategy
..._fedavgm                              the same with the settings for hospitals with very different patients
..._pooled                               one hospital with the rows of all: the same network, settings and stays
..._minus_pooled                         difference of ROC-AUC from it, paired by split
naive                                    iid_average, but rows instead of patients are divided and held out
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import Outcome, federate, pool, quieten, summarise
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from federated_health.data.columns import Measurement
from federated_health.data.data_check import DataCheck, check_data
from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.hospital import Hospital, Patients, split_hospital
from federated_health.data.manifest import find_hospital
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source, read_diabetes
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import READMISSION_30D
from federated_health.ml.calibration import calibration
from federated_health.ml.scores import roc_auc
from federated_health.setting_fields import Value
from federated_health.settings import Settings

DIVISIONS = ("iid", "specialty", "dirichlet")
PARTS = ("references", *DIVISIONS, "naive")

FOR_SKEW: Mapping[str, Value] = {
    "strategy": "fedavgm",
    "strategy-args": "server-momentum=0.9",
    "batch-size": 0,
    "local-epochs": 1,
    "learning-rate": 1.0,
    "rounds": 150,
}
"""For hospitals with very different patients: each round is one step with momentum along the gradient of all rows."""

Figures = dict[str, float]


def divide_stays(source: Source, kind: str, seed: int) -> dict[str, pd.DataFrame]:
    """Hospital -> its stays."""
    partitions = {
        "iid": Partition(by="iid", hospitals=2, seed=seed),
        "specialty": Partition(by="hospital", column="medical_specialty", min_patients=500, seed=seed),
        "dirichlet": Partition(by="dirichlet", hospitals=20, alpha=0.5, min_patients=20, seed=seed),
    }
    return divide(source, partitions[kind])


def write_stays(folder: Path, source: Source, divided: Mapping[str, pd.DataFrame]) -> dict[str, Path]:
    """The hospitals' CSVs, by name."""
    write_hospitals(folder, source, divided, partition={})
    return {name: path for path, name in (find_hospital(folder, number + 1) for number in range(len(divided)))}


def check_hospitals(source: Source, divided: Mapping[str, pd.DataFrame]) -> dict[str, DataCheck]:
    """The hospitals' CSVs, written, read and checked."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_stays(Path(folder), source, divided)
        return {name: check_data(path, source.task) for name, path in paths.items()}


def figures_of(outcome: Outcome) -> Figures:
    """Exact figures of a run."""
    fitted = calibration(outcome.log_odds, outcome.labels)
    risk = 1 / (1 + np.exp(-outcome.log_odds.astype(np.float64)))
    return {
        "roc_auc": outcome.roc_auc_all,
        "average_precision": float(average_precision_score(outcome.labels, risk)),
        "brier": outcome.exact["brier"],
        "calibration_slope": fitted.slope or float("nan"),
        "calibration_intercept": fitted.intercept or float("nan"),
        **{name: outcome.exact[name] for name in ("recall", "precision", "f1", "accuracy")},
        "threshold": outcome.threshold,
    }


def federated_and_pooled(hospitals: list[Hospital], settings: Settings, *, skewed: bool) -> dict[str, Figures]:
    """Figures by strategy, and of all rows in one place."""
    tried = {"average": settings}
    if skewed:
        tried["fedavg"] = replace(settings, strategy="fedavg")
        tried["fedavgm"] = Settings.from_config({**settings.to_config(), **FOR_SKEW})
    figures = {name: figures_of(federate(hospitals, chosen)) for name, chosen in tried.items()}
    pooled = figures_of(federate([pool(hospitals)], replace(settings, hospitals=1)))
    minus = {f"{name}_minus_pooled": {"roc_auc": figures[name]["roc_auc"] - pooled["roc_auc"]} for name in tried}
    return figures | {"pooled": pooled} | minus


def score_references(hospital: Hospital, seed: int) -> dict[str, Figures]:
    """Figures of scikit-learn's models, trained on the hospital's training rows."""
    task = READMISSION_30D
    measurements = [i for i, column in enumerate(task.columns) if isinstance(column, Measurement)]
    categories = [i for i in range(len(task.columns)) if i not in measurements]
    features = make_column_transformer(
        (StandardScaler(), measurements), (OneHotEncoder(handle_unknown="ignore"), categories)
    )
    models = {
        "logistic_regression": make_pipeline(features, LogisticRegression(max_iter=1000)),
        "gradient_boosting": HistGradientBoostingClassifier(categorical_features=categories, random_state=seed),
    }
    figures = {}
    for name, model in models.items():
        model.fit(hospital.train.values, hospital.train.labels)
        risk = model.predict_proba(hospital.test.values)[:, 1]
        fitted = calibration(np.log(risk / (1 - risk)), hospital.test.labels)
        figures[name] = {
            "roc_auc": roc_auc(risk, hospital.test.labels) or float("nan"),
            "average_precision": float(average_precision_score(hospital.test.labels, risk)),
            "brier": float(np.mean((risk - hospital.test.labels) ** 2)),
            "calibration_slope": fitted.slope or float("nan"),
        }
    return figures


def split_rows_naively(source: Source, seed: int) -> list[Hospital]:
    """Two hospitals of rows drawn at random, a quarter of which are held out, whoever their patients are."""
    order = np.random.default_rng(seed).permutation(len(source.table))
    ids = source.table[READMISSION_30D.patient].to_numpy(dtype=np.int64)
    rows = Patients.from_table(source.table, READMISSION_30D, ids)
    return [
        Hospital(
            name=f"hospital-{number}",
            task=READMISSION_30D,
            train=rows.take(part[len(part) // 4 :]),
            test=rows.take(part[: len(part) // 4]),
        )
        for number, part in enumerate(np.array_split(order, 2), start=1)
    ]


def share_known(hospitals: list[Hospital]) -> float:
    """Share of the held-out rows whose patient has a training row at any hospital."""
    train, test = (
        np.concatenate([side.ids for side in sides if side.ids is not None])
        for sides in ([hospital.train for hospital in hospitals], [hospital.test for hospital in hospitals])
    )
    return float(np.isin(test, train).mean())


def run_split(source: Source, parts: list[str], settings: Settings, seed: int) -> dict[str, Figures]:
    """Figures of one split, by what was measured."""
    figures: dict[str, Figures] = {}
    for kind in DIVISIONS:
        if kind not in parts and not (kind == "iid" and {"references", "naive"} & set(parts)):
            continue
        checks = check_hospitals(source, divide_stays(source, kind, seed))
        hospitals = [split_hospital(check, name, seed) for name, check in checks.items()]
        here = replace(settings, hospitals=len(hospitals))
        if kind in parts:
            measured = federated_and_pooled(hospitals, here, skewed=kind != "iid")
            figures |= {f"{kind}_{name}": values for name, values in measured.items()}
        if kind == "iid" and "references" in parts:
            figures |= score_references(pool(hospitals), seed)
        if kind == "iid" and "naive" in parts:
            naive = split_rows_naively(source, seed)
            figures["naive"] = figures_of(federate(naive, here)) | {"known_patients": share_known(naive)}
            if kind in parts:
                difference = figures["naive"]["roc_auc"] - figures["iid_average"]["roc_auc"]
                figures["naive_minus_iid_average"] = {"roc_auc": difference, "known_patients": share_known(hospitals)}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=5, help="number of split seeds (default: %(default)s)")
    parser.add_argument("--first-split", type=int, default=DEFAULT_SPLIT_SEED, metavar="SEED")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="some of the figures")
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=VALUE", help="other than the task's")
    flags = parser.parse_args()
    quieten()
    defaults = Settings().to_config()
    others = {name: type(defaults[name])(value) for name, value in (setting.split("=") for setting in flags.settings)}
    settings = Settings.from_config({"task": READMISSION_30D.name, "strategy": "average", "hospitals": 2, **others})
    source = read_diabetes()
    began = time.perf_counter()
    seeds = range(flags.first_split, flags.first_split + flags.splits)
    runs = [run_split(source, flags.only, settings, seed) for seed in seeds]
    result: dict[str, Any] = {"settings": settings.to_config(), "split_seeds": list(seeds)}
    for name in runs[0]:
        result[name] = summarise([run[name] for run in runs]) if len(runs) > 1 else runs[0][name]
    result["seconds"] = round(time.perf_counter() - began)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
