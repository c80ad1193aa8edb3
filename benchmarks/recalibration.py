"""Whether a recalibration, fitted to a hospital's own training rows, improves its risks on held-out rows; prints JSON.

Each split seed is one run in process. At every hospital the final model's log-odds of the training rows are fitted by

intercept      the intercept alone
line           intercept and slope, whatever the slope
line_from_50   the slope too, from 50 patients of each class on
closed         none, the intercept or both, by a closed testing procedure (Vergouwe et al. 2017)
chosen         what a run does: the slope too, if its interval lies below 1

and applied to the held-out rows. Figures are changes of the mean log-loss and of the Brier score against the model as
it is; below 0 they improve. Hospitals in which a class has fewer than 5 training patients are left out of a split.

heart          the four hospitals
specialty      real stays, --hospital-column medical_specialty --min-patients 500: 15 hospitals
dirichlet      real stays, 20 hospitals, --by dirichlet --alpha 0.5
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import quieten, write_uci
from readmission import check_hospitals, divide_stays
from scipy.stats import chi2

import client
from federated_health.data.hospital import Hospital, load_hospital, split_hospital
from federated_health.data.sources.source import read_diabetes
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.hospital.local_model import LocalModel
from federated_health.ml.bootstrap import labels_of_patients, rarer_class
from federated_health.ml.calibration import fit_logistic
from federated_health.ml.recalibration import fit_recalibration
from federated_health.ml.targets.binary import probability
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport

CASES = ("heart", "specialty", "dirichlet")
FITS = ("intercept", "line", "line_from_50", "closed", "chosen")

Array = npt.NDArray[np.float64]


def read_hospitals(case: str, seed: int) -> list[Hospital]:
    """The hospitals of one split."""
    if case == "heart":
        with tempfile.TemporaryDirectory() as folder:
            task = Settings().task_declaration
            return [load_hospital(path, task, name, seed) for name, path in write_uci(Path(folder)).items()]
    source = read_diabetes()
    checks = check_hospitals(source, divide_stays(source, case, seed))
    return [split_hospital(check, name, seed) for name, check in checks.items()]


def measure(hospital: Hospital, train: Array, test: Array) -> dict[str, dict[str, float]] | None:
    """Figures of the model as it is, and their changes by each fit; None with too few patients of a class.

    Args:
        train, test: log-odds of the hospital's rows.
    """
    chosen = fit_recalibration(train, hospital.train.labels, hospital.train.ids)
    if chosen is None:
        return None
    labels, weights = hospital.train.labels.astype(np.float64), np.full(len(train), 1 / len(train))
    ones = np.ones_like(train)
    (intercept,) = fit_logistic(ones[:, np.newaxis], train, labels, weights)
    at_zero, slope = fit_logistic(np.column_stack([ones, train]), 0 * train, labels, weights)
    before = losses(test, hospital.test.labels)
    corrected = {"intercept": intercept + test, "line": at_zero + slope * test, "chosen": chosen.apply(test)}
    is_large = rarer_class(labels_of_patients(labels, hospital.train.ids)) >= 50
    corrected["line_from_50"] = corrected["line" if is_large else "intercept"]
    of_fits = (train, intercept + train, at_zero + slope * train)
    none, one, both = (2 * len(train) * losses(log_odds, labels)["log_loss"] for log_odds in of_fits)
    if none - both <= chi2.ppf(0.95, 2):
        corrected["closed"] = test
    else:
        corrected["closed"] = corrected["intercept" if one - both <= chi2.ppf(0.95, 1) else "line"]
    changes = {
        fit: {name: value - before[name] for name, value in losses(log_odds, hospital.test.labels).items()}
        for fit, log_odds in corrected.items()
    }
    fitted = {"intercept": float(intercept), "slope_of_line": float(slope), "has_slope": float(bool(chosen.slope))}
    return {"before": before, "fitted": fitted, **changes}


def losses(log_odds: Array, labels: npt.NDArray[Any]) -> dict[str, float]:
    """Mean log-loss and Brier score."""
    return {
        "log_loss": float(np.mean(np.logaddexp(0.0, log_odds) - labels * log_odds)),
        "brier": float(np.mean((probability(log_odds) - labels) ** 2)),
    }


def run_split(case: str, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Hospital -> `measure`, of one run."""
    hospitals = read_hospitals(case, seed)
    settings = Settings.from_config({"task": hospitals[0].task.name, "hospitals": len(hospitals)})
    contexts = {hospital.name: InMemoryHospital(hospital) for hospital in hospitals}
    run = PlainRun(InProcessTransport(client.app, contexts), replace(settings, appraisal=False))
    run.run()
    measured = {}
    for hospital in hospitals:
        model = LocalModel(hospital, settings.network_declaration, run.train_config().normalisation)
        train, test = (
            rows.astype(np.float64) for rows in (model.score_training(run.weights), model.score(run.weights))
        )
        if (found := measure(hospital, train, test)) is not None:
            measured[hospital.name] = found
    return measured


def average(splits: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]]) -> dict[str, Any]:
    """Means over the splits of each hospital, the share of splits that improve, and means over hospitals."""
    by_hospital: dict[str, list[Mapping[str, Mapping[str, float]]]] = defaultdict(list)
    for split in splits:
        for name, found in split.items():
            by_hospital[name].append(found)
    hospitals = {}
    for name, measured in sorted(by_hospital.items()):
        rows: dict[str, Any] = {"splits": len(measured)}
        for part in measured[0]:
            rows[part] = {key: mean(one[part][key] for one in measured) for key in measured[0][part]}
        for fit in FITS:
            rows[fit]["share_better"] = mean(one[fit]["log_loss"] < 0 for one in measured)
        hospitals[name] = rows
    of_all = {
        fit: {
            "log_loss": mean(rows[fit]["log_loss"] for rows in hospitals.values()),
            "brier": mean(rows[fit]["brier"] for rows in hospitals.values()),
            "hospitals_with_larger_log_loss": sum(rows[fit]["log_loss"] > 0 for rows in hospitals.values()),
            "largest_change_of_log_loss": max(rows[fit]["log_loss"] for rows in hospitals.values()),
        }
        for fit in FITS
    }
    return {"mean": of_all, "hospitals": hospitals}


def mean(values: Any) -> float:
    return round(float(np.mean([*values])), 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--splits", type=int, default=20, help="split seeds 0, 1, ... (default: %(default)s)")
    flags = parser.parse_args()
    quieten()
    splits = [run_split(flags.case, seed) for seed in range(flags.splits)]
    print(json.dumps({"case": flags.case, "split_seeds": flags.splits, **average(splits)}, indent=2))


if __name__ == "__main__":
    main()
