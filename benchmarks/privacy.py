"""Cost of differential privacy in figures on held-out patients, over 20 split seeds; prints JSON.

Each split seed is one run of the hospitals in process, without privacy and at every epsilon and delta. Figures are
exact, from the hospitals' own scores; `noise_of_...` is what the server shows, less the exact figure.

heart-disease     the four hospitals
readmission-30d   all stays of UCI's Diabetes 130-US Hospitals at 2 hospitals, or with --division dirichlet at 20

The noise comes from the operating system's entropy, so two executions print slightly different figures. The defaults of
the dp- settings were chosen on the split seeds 100 to 111 (`--first-split 100 --splits 12 --settings ...`), not on
these. Those of readmission-30d were chosen by cross-validation inside the training rows of the split seed 42.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import federate, quieten, summarise, write_source, write_uci

from federated_health.data.hospital import load_hospital
from federated_health.data.partitions import Partition
from federated_health.data.sources.source import read_diabetes
from federated_health.data.task_files import HEART_DISEASE, READMISSION_30D
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary_figures import SCORE_FIGURES
from federated_health.setting_fields import Value
from federated_health.settings import Settings

TARGETS: Mapping[str, Mapping[tuple[float, float], float | None]] = {
    HEART_DISEASE.name: {
        (1e-5, 8.0): 0.88,
        (1e-5, 2.0): 0.87,
        (1e-5, 1.0): 0.86,
        (1e-3, 8.0): 0.89,
        (1e-3, 2.0): 0.88,
        (1e-3, 1.0): 0.87,
    },
    READMISSION_30D.name: {(1e-5, 8.0): None, (1e-5, 2.0): None, (1e-5, 1.0): None},
}
"""Task -> (delta, epsilon) -> targeted ROC-AUC over all held-out patients; that of readmission is the plain run's."""

FIGURES = ("accuracy", "f1", "roc_auc", "brier", *SCORE_FIGURES)

DIVISIONS = {
    "iid": Partition(by="iid", seed=0, hospitals=2),
    "dirichlet": Partition(by="dirichlet", seed=0, hospitals=20, alpha=0.5, min_patients=20),
}


def write_task(folder: Path, task: str, division: str) -> dict[str, Path]:
    """The CSVs of a task's hospitals, by name."""
    if task == HEART_DISEASE.name:
        return write_uci(folder)
    return write_source(folder, read_diabetes(), DIVISIONS[division])


def measure(hospitals: dict[str, Path], settings: Settings, split_seed: int) -> dict[str, float]:
    """Exact held-out figures of one run, and with differential privacy the noise in what the server shows of them."""
    task = settings.task_declaration
    hospitals_of_split = [load_hospital(path, task, name, split_seed) for name, path in hospitals.items()]
    started = time.perf_counter()
    outcome = federate(hospitals_of_split, settings)
    seconds = time.perf_counter() - started
    exact = {**outcome.exact, **target_of(task).score_figures(outcome.log_odds, outcome.labels)}
    figures = {name: exact[name] for name in (*FIGURES, "mean_roc_auc")} | {"seconds": seconds}
    if not settings.dp_epsilon:
        return figures
    shown, chance = outcome.federation, {"roc_auc": 0.5}
    known = [name for name in FIGURES if name in chance or shown.get(name) is not None]
    noise = {name: (chance[name] if shown[name] is None else shown[name]) - figures[name] for name in known}
    stated = {f"stated_noise_of_{name}": shown.get(f"{name}_noise", 0.0) for name in known}
    hospital_noise = [figures.get("accuracy_noise", 0.0) for figures in outcome.hospitals.values()]
    return {
        **figures,
        **{f"noise_of_{name}": value for name, value in noise.items()},
        **stated,
        "stated_noise_of_a_hospital_s_accuracy": float(np.mean(hospital_noise)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=20, help="split seeds (default: %(default)s)")
    parser.add_argument("--first-split", type=int, default=0, help="the first split seed (default: %(default)s)")
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=VALUE", help="other than the defaults")
    parser.add_argument("--task", choices=TARGETS, default=HEART_DISEASE.name, help="default: %(default)s")
    parser.add_argument("--division", choices=DIVISIONS, default="iid", help="of the stays, by default iid")
    parser.add_argument("--epsilons", nargs="*", type=float, help="only these (default: all; none is a plain run)")
    flags = parser.parse_args()
    quieten()
    given = [setting.split("=") for setting in flags.settings]
    with tempfile.TemporaryDirectory() as folder:
        hospitals = write_task(Path(folder), flags.task, flags.division)
        of_task = {"task": flags.task, "hospitals": len(hospitals)}
        defaults = Settings.from_config(of_task).to_config()
        others = {**of_task, **{name: type(defaults[name])(value) for name, value in given}}

        def figures(changes: dict[str, Value]) -> dict[str, dict[str, float]]:
            settings = Settings.from_config({**others, **changes})
            seeds = range(flags.first_split, flags.first_split + flags.splits)
            return summarise([measure(hospitals, settings, seed) for seed in seeds])

        result: dict[str, Any] = {"settings": {**defaults, **others}, "split_seeds": flags.splits, "plain": figures({})}
        result["private"] = []
        for (delta, epsilon), target in TARGETS[flags.task].items():
            if flags.epsilons is not None and epsilon not in flags.epsilons:
                continue
            settings = Settings.from_config({**others, "dp-epsilon": epsilon, "dp-delta": delta})
            plan = settings.privacy_plan("0" * 16)
            assert plan is not None
            result["private"].append(
                {
                    "epsilon": epsilon,
                    "delta": delta,
                    "noise_multiplier": plan.noise_multiplier,
                    "evaluation_noise": plan.evaluation_noise,
                    "exchange_epsilons": plan.exchange_epsilons,
                    "wanted": target,
                    **figures({"dp-epsilon": epsilon, "dp-delta": delta}),
                }
            )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
