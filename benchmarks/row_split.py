"""How much a split by row flatters a model of patients with several stays; prints JSON.

The stays of UCI's diabetes data are split with five seeds: once with all stays of a patient on one side, as the project
splits them, and once by row. Each model is trained and tested on both splits, with the features of the project's
networks. Figures are ROC-AUCs on the held-out quarter, and `shared`, the share of its stays whose patients are also
among the training rows.
"""

import json
import statistics
from collections import defaultdict

import common  # noqa: F401  # makes the package importable from a checkout
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from federated_health.data.sources.source import read_diabetes
from federated_health.data.split import split_rows
from federated_health.data.task_files import READMISSION_30D as TASK
from federated_health.ml.keras_models import build_encoder, encode
from federated_health.ml.normalisation import column_sums, normalisation_from

SEEDS = range(5)


def main() -> None:
    table = read_diabetes().table
    ids = table[TASK.patient].to_numpy(dtype=np.int64)
    numbers = table[[*TASK.column_names, TASK.label.name]].astype(np.float64)
    values, labels = numbers[list(TASK.column_names)].to_numpy(), numbers[TASK.label.name].to_numpy()
    sums = column_sums(values[:, list(TASK.measurement_positions)])
    features = encode(build_encoder(TASK, normalisation_from(sums)), TASK, values)
    figures = defaultdict(list)
    for seed in SEEDS:
        for name, patients in (("by_patient", ids), ("by_row", np.arange(len(ids)))):
            train, test = split_rows(numbers, TASK.label.name, seed, patients)
            figures[f"shared_{name}"].append(float(np.isin(ids[test], ids[train]).mean()))
            models = {
                "logistic_regression": LogisticRegression(C=0.1, max_iter=100, tol=1e-3),
                "random_forest": RandomForestClassifier(20, random_state=seed),
            }
            for model, classifier in models.items():
                fitted = classifier.fit(features[train], labels[train])
                scores = fitted.predict_proba(features[test])[:, 1]
                figures[f"{model}_{name}"].append(float(roc_auc_score(labels[test], scores)))
    for model in models:
        pairs = zip(figures[f"{model}_by_row"], figures[f"{model}_by_patient"], strict=True)
        figures[f"{model}_flattered_by"] = [by_row - by_patient for by_row, by_patient in pairs]
    summary = {
        name: {"mean": statistics.fmean(of), "deviation": statistics.stdev(of)} for name, of in sorted(figures.items())
    }
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
