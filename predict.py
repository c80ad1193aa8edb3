"""Score patients with a saved model: adds a column `risk`, the predicted probability, to a CSV.

`python predict.py runs/first/model.keras patients.csv --out risk.csv`
"""

import sys
from pathlib import Path

import numpy as np

import utils
from federated_health.errors import DataError
from federated_health.hospital import read_patients
from federated_health.model import load_model, predict_risk, read_description
from federated_health.runs import write_text
from federated_health.tasks import get_task

RISK = "risk"


def predict() -> None:
    """Parse the flags, read the patients, score them, and write them with their risk."""
    parser = utils.make_parser("Scores patients with a saved model: adds the column risk, a probability, to a CSV.")
    parser.add_argument("model", type=Path, help="a model.keras that server.py or client.py saved")
    parser.add_argument("patients", type=Path, help="CSV with the task's columns, raw values, missing cells allowed")
    parser.add_argument("--out", type=Path, help="default: standard output")
    flags = parser.parse_args()
    description = read_description(flags.model)
    task = get_task(str(description.get("task")))
    if description.get("schema") != task.schema_hash:
        raise DataError(f"{flags.model}: was trained for another declaration of the task {task.name}")
    table, numbers = read_patients(flags.patients, task, labelled=False)
    if RISK in table.columns:
        raise DataError(f"{flags.patients}: has a column {RISK} already")
    if flags.out is not None and flags.out.resolve() == flags.patients.resolve():
        raise DataError(f"{flags.out}: is the file of the patients; name another one")
    table[RISK] = predict_risk(load_model(flags.model), task, numbers.to_numpy(dtype=np.float64))
    text = table.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    if flags.out is None:
        sys.stdout.write(text)
    else:
        write_text(flags.out, text)


if __name__ == "__main__":
    utils.run_door(predict)
