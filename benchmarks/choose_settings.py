"""Choice of the default settings by cross-validation inside training rows; prints JSON, the best setting first.

Only the training rows under each hospital's default split seed are used, never its held-out rows. They are split again,
ten times, by inner seeds (Monte-Carlo cross-validation). Each setting is ranked by the Brier score over all inner
held-out rows, a proper score.
"""

import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from common import measure, quieten, summarise, write_uci

from federated_health.data.patient_table import read_patients
from federated_health.data.split import DEFAULT_SPLIT_SEED, split_rows
from federated_health.data.tasks import Task
from federated_health.settings import Settings

INNER_SEEDS = range(10)
LEARNING_RATES = (0.02, 0.05, 0.1)
L2 = (0.003, 0.01, 0.03)
BATCH_SIZES = (16, 32)


def keep_training_rows(hospitals: dict[str, Path], task: Task) -> None:
    """Rewrite each CSV with its training rows only."""
    for path in hospitals.values():
        _, numbers = read_patients(path, task, labelled=True)
        train, _ = split_rows(numbers, task.label.name, DEFAULT_SPLIT_SEED)
        pd.read_csv(path).iloc[train].to_csv(path, index=False)


def main() -> None:
    quieten()
    defaults = Settings()
    tried: list[tuple[float, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        hospitals = write_uci(Path(folder))
        keep_training_rows(hospitals, defaults.task_declaration)
        for rate, l2, batch in itertools.product(LEARNING_RATES, L2, BATCH_SIZES):
            settings = replace(defaults, learning_rate=rate, l2=l2, batch_size=batch)
            figures = summarise([measure(hospitals, settings, seed) for seed in INNER_SEEDS])
            setting = {"learning-rate": rate, "l2": l2, "batch-size": batch, **figures}
            tried.append((figures["brier"]["mean"], setting))
    tried.sort(key=lambda pair: pair[0])
    print(json.dumps([setting for _, setting in tried], indent=2))


if __name__ == "__main__":
    main()
