"""The grade of heart disease, 0 to 4, at four real hospitals: a federated model against one of all rows together."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from federated_health.data.hospital import Hospital, Patients, load_hospital
from federated_health.data.task_files import read_task_file
from federated_health.hospital import handlers
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from tests.support.scripts import PROJECT

pytestmark = pytest.mark.slow

TASK_FILE = PROJECT / "examples" / "heart_severity" / "heart-severity.toml"
NAMES = ("cleveland", "hungary", "switzerland", "va-long-beach")
SPLITS = 12


def macro_f1(hospitals: list[Hospital]) -> float:
    """Macro F1 over all held-out patients of a run with balanced classes."""
    settings = Settings(
        task_file=str(TASK_FILE), hospitals=len(hospitals), rounds=30, class_weight="balanced", appraisal=False
    )
    contexts = {hospital.name: InMemoryHospital(hospital) for hospital in hospitals}
    figures = PlainRun(InProcessTransport(handlers.answer, contexts), settings).run()
    return float(figures["federation"]["macro_f1"])


def test_the_federated_model_of_five_classes_is_as_good_as_the_pooled_one(tmp_path: Path) -> None:
    """Mean over splits, since one patient of a rare class moves the macro F1 of a split by 0.02 or more."""
    command = [sys.executable, "create_dataset.py", "--task-file", str(TASK_FILE), "--out", str(tmp_path / "data")]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    task = read_task_file(TASK_FILE)
    differences = []
    for seed in range(SPLITS):
        hospitals = [
            load_hospital(tmp_path / "data" / f"client_{i}.csv", task, name, seed) for i, name in enumerate(NAMES, 1)
        ]
        train, test = (
            Patients.concatenate(getattr(hospital, part) for hospital in hospitals) for part in ("train", "test")
        )
        differences.append(macro_f1(hospitals) - macro_f1([Hospital("pooled", task, train, test)]))
    assert abs(np.mean(differences)) <= 0.02
