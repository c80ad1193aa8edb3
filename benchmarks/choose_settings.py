"""Choice of settings by cross-validation inside training rows; prints JSON, the best setting first.

Only the training rows under each hospital's default split seed are used, never its held-out rows. They are split again,
several times, by inner seeds (Monte-Carlo cross-validation); all rows of a patient stay on one side. A setting is
ranked by a proper score over all inner held-out rows: of heart-disease the Brier score, of readmission-30d the log
loss.

`--grid batch-size=64,256 rounds=20,40` tries these combinations of settings instead of the task's grid.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import measure, quieten, summarise, write_uci
from readmission import DIVISIONS, divide_stays, write_stays

from federated_health.data.hospital import load_hospital
from federated_health.data.sources.source import read_diabetes
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import HEART_DISEASE, READMISSION_30D
from federated_health.data.tasks import Task
from federated_health.setting_fields import Value
from federated_health.settings import Settings

Grid = Mapping[str, Sequence[Value]]

GRIDS: Mapping[str, Grid] = {
    HEART_DISEASE.name: {"learning-rate": (0.02, 0.05, 0.1), "l2": (0.003, 0.01, 0.03), "batch-size": (16, 32)},
    READMISSION_30D.name: {
        "hidden": ("16", "64"),
        "learning-rate": (0.1, 0.2),
        "l2": (0.0003, 0.001, 0.003),
        "batch-size": (128, 256),
        "rounds": (20, 30),
    },
}
RANKED_BY = {HEART_DISEASE.name: "brier", READMISSION_30D.name: "log_loss"}
INNER_SPLITS = {HEART_DISEASE.name: 10, READMISSION_30D.name: 5}


def keep_training_rows(hospitals: Mapping[str, Path], task: Task) -> None:
    """Rewrite each CSV with its training rows only."""
    for name, path in hospitals.items():
        hospital = load_hospital(path, task, name, DEFAULT_SPLIT_SEED)
        assert hospital.positions is not None
        pd.read_csv(path).iloc[hospital.positions[: len(hospital.train)]].to_csv(path, index=False)


def read_grid(parts: Sequence[str]) -> Grid:
    """Values to try by setting, from NAME=VALUE,VALUE; hidden layers are written 32+16."""
    defaults = Settings().to_config()
    grid = {}
    for name, _, values in (part.partition("=") for part in parts):
        kind = type(defaults[name])
        grid[name] = [kind(value.replace("+", ",")) for value in values.split(",")]
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(GRIDS), default=HEART_DISEASE.name)
    parser.add_argument("--division", choices=DIVISIONS, default="iid", help="hospitals of readmission-30d")
    parser.add_argument("--strategy", default=None)
    parser.add_argument("--splits", type=int, help="number of inner splits")
    parser.add_argument("--grid", nargs="*", default=[], metavar="NAME=VALUE,...", help="settings to try")
    flags = parser.parse_args()
    quieten()
    grid = read_grid(flags.grid) or GRIDS[flags.task]
    tried: list[tuple[float, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        if flags.task == HEART_DISEASE.name:
            hospitals, task = write_uci(Path(folder)), HEART_DISEASE
        else:
            source, task = read_diabetes(), READMISSION_30D
            hospitals = write_stays(Path(folder), source, divide_stays(source, flags.division, DEFAULT_SPLIT_SEED))
        keep_training_rows(hospitals, task)
        strategy = flags.strategy or (Settings.strategy if task is HEART_DISEASE else "average")
        fixed: dict[str, Value] = {"task": task.name, "hospitals": len(hospitals), "strategy": strategy}
        for values in itertools.product(*grid.values()):
            setting = dict(zip(grid, values, strict=True))
            settings = Settings.from_config({**fixed, **setting})
            runs = [measure(hospitals, settings, seed) for seed in range(flags.splits or INNER_SPLITS[task.name])]
            score = sum(run[RANKED_BY[task.name]] for run in runs)
            tried.append((score, {**setting, **summarise(runs)}))
    tried.sort(key=lambda pair: pair[0])
    print(json.dumps([setting for _, setting in tried], indent=2))


if __name__ == "__main__":
    main()
