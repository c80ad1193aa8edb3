"""Federations of two virtual hospitals compared with pooled rows and the Bayes optimum; prints JSON.

Over generator seeds, with the default settings except for strategy `average`. Every figure is the exact ROC-AUC over
the same held-out patients of both hospitals:

federation_mlp, federation_logistic   the federation in process, through the same apps and strategies as over gRPC
pooled_mlp                            one model, trained with the same recipe on both hospitals' training rows together
pooled_mlp_other_seed                 the same with another training seed, which shows the noise of a difference
bayes                                 the probabilities that the generator knows, with the labels that were drawn
bayes_expected                        their expected figure over labels
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import measure, pool, quieten, summarise, write_source

from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.partitions import Partition
from federated_health.data.sources.generated_patients import expected_roc_auc, generate_patients, held_out_probability
from federated_health.data.sources.source import generate_readmission
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import READMISSION
from federated_health.hospital.local_model import LocalModel
from federated_health.ml.networks import initial_weights
from federated_health.ml.normalisation import column_sums, merge_sums, normalisation_from
from federated_health.ml.scores import roc_auc
from federated_health.settings import Settings


def score_pooled(hospitals: list[Hospital], settings: Settings) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Held-out scores of one model, trained on all training rows for the rounds and epochs of a federation."""
    sums = [column_sums(hospital.train.values[:, READMISSION.measurement_positions]) for hospital in hospitals]
    local = LocalModel(pool(hospitals), settings.network_declaration, normalisation_from(merge_sums(sums)))
    weights = initial_weights(READMISSION, settings.network_declaration, settings.seed)
    for number in range(1, settings.rounds + 1):
        weights, _ = local.train(weights, settings, number)
    return local.score(weights)


def compare(patients: int, seed: int, settings: Settings) -> dict[str, float]:
    """All figures for one draw of patients."""
    records = generate_patients(patients, seed)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_source(Path(folder), generate_readmission(patients, seed), Partition(by="hospital", seed=0))
        hospitals = [load_hospital(path, READMISSION, name, DEFAULT_SPLIT_SEED) for name, path in paths.items()]
        mlp, logistic = (
            measure(paths, replace(settings, model=model), DEFAULT_SPLIT_SEED)["roc_auc_all"]
            for model in ("mlp", "logistic")
        )
    labels = np.concatenate([hospital.test.labels for hospital in hospitals])
    known, drawn = held_out_probability(records)
    assert (drawn == labels).all()
    other = replace(settings, seed=settings.seed + 1)
    scores = (score_pooled(hospitals, settings), score_pooled(hospitals, other), known)
    pooled, pooled_other, bayes = (roc_auc(score, labels) or float("nan") for score in scores)
    return {
        "prevalence": float(records.table[READMISSION.label.name].mean()),
        "federation_mlp": mlp,
        "pooled_mlp": pooled,
        "pooled_mlp_other_seed": pooled_other,
        "federation_logistic": logistic,
        "bayes": bayes,
        "bayes_expected": expected_roc_auc(known),
        "federation_minus_pooled": mlp - pooled,
        "pooled_minus_pooled_of_other_seed": pooled - pooled_other,
        "mlp_minus_logistic": mlp - logistic,
        "bayes_minus_mlp": bayes - mlp,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="generator seeds (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first generator seed (default: %(default)s)")
    parser.add_argument("--patients", type=int, default=4000, help="patients of both hospitals (default: %(default)s)")
    flags = parser.parse_args()
    quieten()
    settings = Settings(task=READMISSION.name, hospitals=2, strategy="average")
    seeds = range(flags.first_seed, flags.first_seed + flags.seeds)
    runs = [compare(flags.patients, seed, settings) for seed in seeds]
    result: dict[str, Any] = {
        "settings": settings.to_config(),
        "patients": flags.patients,
        "generator_seeds": list(seeds),
        "seeds_within_0.01_of_pooled": sum(abs(run["federation_minus_pooled"]) <= 0.01 for run in runs),
        **(summarise(runs) if len(runs) > 1 else runs[0]),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
