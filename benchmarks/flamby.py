"""FLamby's Fed-Heart-Disease by two protocols, on exactly FLamby's test patients; prints tables or JSON.

(a) FLamby's 740 rows and ten columns; (b) every patient who is not in FLamby's test sets, missing cells and all 13
columns. Both leave out the training row that equals a test row: see `flamby_protocol`. Five training seeds, with the
same apps and strategies as over gRPC; the threshold is chosen from training rows, as in any run.

`--choose` instead ranks settings inside each protocol's training rows, without using test rows. These rows are split
again, ten times, by inner seeds (Monte-Carlo cross-validation), and each combination of the grid is ranked by the Brier
score over all inner held-out patients, a proper score. CHOSEN holds the best of each ranking. The defaults are
shown beside it: they were chosen in the same way (choose_settings.py), but inside the training rows of the project's
own split, which hold patients whom FLamby tests on.

Published figures: FLamby's are of du Terrail et al. 2022 (NeurIPS Datasets and Benchmarks), its own code run again with
five seeds, mean over the four hospitals' test sets, at a threshold of 0.5; NVFLARE's is what its example hello-lr
reports on the same split.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from common import Outcome, federate, quieten, summarise
from flamby_protocol import every_patient_hospitals, flamby_hospitals, majority_accuracy

from federated_health.cli.tables import print_figures
from federated_health.data.hospital import Hospital, Patients
from federated_health.data.sources.source import read_uci
from federated_health.data.split import split_rows
from federated_health.settings import Settings

PROTOCOLS: dict[str, Callable[[pd.DataFrame], list[Hospital]]] = {
    "(a)": flamby_hospitals,
    "(b)": every_patient_hospitals,
}

CHOSEN: dict[tuple[str, str], dict[str, Any]] = {
    ("(a)", "mlp"): {"learning_rate": 0.1, "l2": 0.03},
    ("(a)", "logistic"): {"learning_rate": 0.05, "l2": 0.001},
    ("(b)", "mlp"): {"learning_rate": 0.05, "l2": 0.003},
    ("(b)", "logistic"): {"learning_rate": 0.1, "l2": 0.001},
}
"""Protocol and model -> the best settings by `--choose`; all others are the defaults, as all are of (b) mlp.

Their inner Brier scores are 0.1392, 0.1359, 0.1191 and 0.1178; those of the defaults 0.1438, 0.1359, 0.1191 and 0.1197.
"""

LEARNING_RATES = (0.02, 0.05, 0.1, 0.2)
L2 = (0.001, 0.003, 0.01, 0.03, 0.1)
INNER_SEEDS = range(10)

SEEDS = range(5)

PUBLISHED: dict[str, dict[str, float]] = {
    "FLamby, FedAvg": {"accuracy": 0.685, "roc auc": 0.820},
    "FLamby, its best strategies": {"accuracy": 0.731, "roc auc": 0.837},  # FedYogi and FedAdagrad
    "FLamby, rows pooled": {"accuracy": 0.735, "roc auc": 0.856},
    "NVFLARE, hello-lr": {"accuracy": 0.713},
}
"""Means over the four hospitals' test sets."""

MAJORITY = "majority class"


def inner_split(hospital: Hospital, seed: int) -> Hospital:
    """A hospital with only another's training rows, a quarter of them held out."""
    task, rows = hospital.task, hospital.train
    numbers = pd.DataFrame(rows.values, columns=list(task.column_names)).assign(**{task.label.name: rows.labels})
    sides = split_rows(numbers, task.label.name, seed)
    train, held_out = (Patients(rows.values[side], rows.labels[side]) for side in sides)
    return replace(hospital, train=train, test=held_out)


def rank_settings(hospitals: Sequence[Hospital], settings: Settings) -> list[dict[str, Any]]:
    """Combinations of the grid with their means over the inner splits, the best first."""
    folds = [[inner_split(hospital, seed) for hospital in hospitals] for seed in INNER_SEEDS]
    ranking = []
    for rate, l2 in itertools.product(LEARNING_RATES, L2):
        tried: dict[str, Any] = {"learning_rate": rate, "l2": l2}
        outcomes = [federate(fold, replace(settings, **tried)) for fold in folds]
        brier = statistics.mean(outcome.federation["brier"] for outcome in outcomes)
        accuracy = statistics.mean(outcome.mean_accuracy for outcome in outcomes)
        ranking.append({**tried, "brier": brier, "mean_accuracy": accuracy})
    return sorted(ranking, key=lambda result: float(result["brier"]))


def rank_all(defaults: Settings) -> dict[str, list[dict[str, Any]]]:
    """The ranking of each protocol and model, by name."""
    table = read_uci().table
    return {
        f"{protocol} {model}": rank_settings(PROTOCOLS[protocol](table), replace(defaults, model=model))
        for protocol, model in CHOSEN
    }


def run_all(defaults: Settings) -> dict[str, dict[str, Any]]:
    """Settings and figures over training seeds, of each protocol and model by name, as chosen and with the defaults."""
    table, runs = read_uci().table, {}
    for (protocol, model), chosen in CHOSEN.items():
        hospitals = PROTOCOLS[protocol](table)
        plain = replace(defaults, model=model)
        tuned = replace(plain, **chosen)
        named = {f"{protocol} {model}": tuned} | ({f"{protocol} {model}, defaults": plain} if plain != tuned else {})
        for name, settings in named.items():
            outcomes = [figures_of(federate(hospitals, replace(settings, seed=seed))) for seed in SEEDS]
            runs[name] = {"settings": settings.to_config(), **summarise(outcomes)}
    return runs


def figures_of(outcome: Outcome) -> dict[str, float]:
    """Means over hospitals, figures over all patients, and figures of each hospital."""
    each = {
        f"{name} {figure}": figures[figure]
        for name, figures in outcome.hospitals.items()
        for figure in ("accuracy", "roc_auc")
    }
    return {
        "mean_accuracy": outcome.mean_accuracy,
        "mean_roc_auc": outcome.federation["mean_roc_auc"],
        "roc_auc_all": outcome.roc_auc_all,
        "threshold": outcome.threshold,
        **each,
    }


def print_rankings(rankings: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for name, ranking in rankings.items():
        rows = {
            str(place): {key: f"{value:.4g}" for key, value in result.items()}
            for place, result in enumerate(ranking, 1)
        }
        print_figures(f"{name}: means over {len(INNER_SEEDS)} splits of the training rows", rows)


def print_runs(runs: Mapping[str, Mapping[str, Any]], majority: Mapping[str, float]) -> None:
    """Print a table with the published figures, and one with each hospital's accuracy."""

    def rows(columns: Mapping[str, str]) -> dict[str, dict[str, str]]:
        return {
            name: {column: f"{run[key]['mean']:.3f} ({run[key]['sd']:.3f})" for column, key in columns.items()}
            for name, run in runs.items()
        }

    columns = {"accuracy": "mean_accuracy", "roc auc": "mean_roc_auc", "roc auc, all patients": "roc_auc_all"}
    others = {**PUBLISHED, MAJORITY: {"accuracy": statistics.mean(majority.values())}}
    note = f"(a) FLamby's protocol, (b) every patient and column; in brackets: SD over {len(SEEDS)} training seeds."
    print_figures("Mean over the four hospitals' test sets", {**rows(columns), **others}, note)
    by_hospital = rows({name: f"{name} accuracy" for name in majority})
    print_figures("Accuracy of each hospital", {**by_hospital, MAJORITY: majority})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="rank settings inside training rows instead")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    flags = parser.parse_args()
    quieten()
    defaults = Settings()
    if flags.choose:
        rankings = rank_all(defaults)
        if flags.json:
            print(json.dumps(rankings, indent=2))
        else:
            print_rankings(rankings)
        return
    runs, majority = run_all(defaults), majority_accuracy(flamby_hospitals(read_uci().table))
    if flags.json:
        print(json.dumps({"runs": runs, "published": PUBLISHED, MAJORITY: majority}, indent=2))
    else:
        print_runs(runs, majority)


if __name__ == "__main__":
    main()
