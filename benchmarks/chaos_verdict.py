"""Whether a run of `chaos.py` left a valid model, and the one that its own record of the rounds says it must be."""

import csv
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from chaos_faults import Trial
from chaos_hospital import light_app

from federated_health.data.tasks import HEART_DISEASE
from federated_health.ml.keras_models import load_model, predict_risk, read_description
from federated_health.ml.networks import Weights, weight_shapes, weights_hash
from federated_health.names import FEDERATION, METRICS, MODEL, REPORT, ROUNDS
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings, read_defaults
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.interface import hospital_context

VERDICT = "verdict.json"


@dataclass
class Verdict:
    """What a run left.

    Attributes:
        problems: why it is not valid; empty where it is.
        weights: the saved model's hash.
        complete: every round has every hospital's update.
    """

    problems: list[str] = field(default_factory=list)
    weights: str = ""
    complete: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)


def judge(trial: Trial, folder: Path, data: Mapping[str, Path]) -> None:
    """In a forked process, since Keras loads the model: write the verdict into the folder."""
    verdict = Verdict()
    try:
        _look(verdict, trial, folder, data)
    except Exception as error:
        verdict.problems.append(f"{type(error).__name__}: {error}")
    (folder / VERDICT).write_text(json.dumps(asdict(verdict), indent=2))


def read_verdict(folder: Path) -> Verdict:
    try:
        return Verdict(**json.loads((folder / VERDICT).read_text()))
    except OSError:
        return Verdict(problems=["it could not be judged"])


def _look(verdict: Verdict, trial: Trial, folder: Path, data: Mapping[str, Path]) -> None:
    out, problems = folder / "run", verdict.problems
    for log in folder.glob("*.txt"):
        if "Traceback (most recent call last)" in log.read_text(errors="replace"):
            problems.append(f"a traceback in {log.name}")
    verdict.metrics = json.loads((out / METRICS).read_text())
    if verdict.metrics["rounds"] != trial.rounds or "stopped" in verdict.metrics:
        problems.append("its metrics are not those of all its rounds")
    if not (out / REPORT).exists():
        problems.append("it has no report")
    description, model = read_description(out / MODEL), load_model(out / MODEL)
    shapes = weight_shapes(HEART_DISEASE, description["model"])
    weights: Weights = dict(zip(shapes, model.get_weights(), strict=True))
    verdict.weights = weights_hash(weights)
    if description["weights_sha256"] != verdict.weights:
        problems.append("its weights are not those that it describes")
    if not all(np.isfinite(array).all() for array in weights.values()):
        problems.append("its weights are not finite")
    risk = predict_risk(model, HEART_DISEASE, np.full((1, len(HEART_DISEASE.columns)), np.nan))
    if not (np.isfinite(risk).all() and 0 <= risk[0] <= 1):
        problems.append("its risk is no probability")
    contributions = read_contributions(out / ROUNDS)
    if [number for number, _ in contributions] != list(range(1, trial.rounds + 1)):
        problems.append("rounds.csv does not hold each round once, in order")
        return
    verdict.complete = all(len(names) == len(data) for _, names in contributions)
    if not trial.is_real and verdict.weights != replay(trial, data, dict(contributions)):
        problems.append("its weights are not those that the updates in rounds.csv give")


def read_contributions(path: Path) -> list[tuple[int, frozenset[str]]]:
    """A run's rounds, in the order of its rounds.csv: number, and the hospitals whose updates were averaged."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rounds: list[tuple[int, frozenset[str]]] = []
    names: set[str] = set()
    for row in rows:
        if row["hospital"] == FEDERATION:
            rounds.append((int(row["round"]), frozenset(names)))
            names = set()
        elif int(row["train_examples"]):
            names.add(row["hospital"])
    return rounds


def replay(trial: Trial, data: Mapping[str, Path], contributions: Mapping[int, frozenset[str]]) -> str:
    """The hash of the weights that light hospitals in process give, in each round those that contributed to it."""
    silent: dict[str, set[int]] = defaultdict(set)
    for number, names in contributions.items():
        for name in data.keys() - names:
            silent[name].add(number)
    app = light_app(0.0, {name: frozenset(numbers) for name, numbers in silent.items()})
    contexts = {name: hospital_context(name, {"data": str(path)}) for name, path in data.items()}
    defaults = Settings.from_config(read_defaults())
    settings = replace(
        defaults, hospitals=len(data), min_hospitals=1, rounds=trial.rounds, strategy=trial.strategy, appraisal=False
    )
    federation = PlainRun(InProcessTransport(app, contexts), settings)
    federation.run()
    return weights_hash(federation.weights)
