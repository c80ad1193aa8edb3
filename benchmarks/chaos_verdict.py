"""Checks that a run of `chaos.py` saved a valid model, namely the one that its own rounds.csv gives."""

import csv
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from chaos_hospital import light_app
from chaos_trials import Fault, Trial

from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.keras_models import predict
from federated_health.ml.model_files import load_model, read_description
from federated_health.ml.networks import Network, Weights, weight_shapes, weights_hash
from federated_health.names import FEDERATION, METRICS, MODEL, REPORT, ROUNDS
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport

VERDICT = "verdict.json"


@dataclass
class Verdict:
    """What a check of a run's folder found.

    Attributes:
        problems: why the result is invalid; empty if it is valid.
        weights: hash of the saved model's weights.
        complete: whether every round has every hospital's update.
    """

    problems: list[str] = field(default_factory=list)
    weights: str = ""
    complete: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def roc_auc(self) -> float:
        """The federation's ROC-AUC on held-out patients; 0 if it is not known."""
        return float((self.metrics.get("federation") or {}).get("roc_auc") or 0.0)


def judge(trial: Trial, folder: Path, data: Mapping[str, Path]) -> None:
    """Write the verdict into the run's folder; to be run in a forked process, since it loads Keras."""
    verdict = Verdict()
    try:
        _check(verdict, trial, folder, data)
    except Exception as error:
        verdict.problems.append(f"{type(error).__name__}: {error}")
    (folder / VERDICT).write_text(json.dumps(asdict(verdict), indent=2))


def read_verdict(folder: Path) -> Verdict:
    try:
        return Verdict(**json.loads((folder / VERDICT).read_text()))
    except OSError:
        return Verdict(problems=["the run could not be checked"])


def find_tracebacks(folder: Path) -> list[str]:
    """Problems: output of a process that is meant for developers."""
    texts = {log.name: log.read_text(errors="replace") for log in sorted(folder.glob("*.txt"))}
    return [f"a traceback in {name}" for name, text in texts.items() if "Traceback (most recent call last)" in text]


def _check(verdict: Verdict, trial: Trial, folder: Path, data: Mapping[str, Path]) -> None:
    out, problems = folder / "run", verdict.problems
    verdict.metrics = json.loads((out / METRICS).read_text())
    if verdict.metrics["rounds"] != trial.rounds or "stopped" in verdict.metrics:
        problems.append("metrics.json does not cover all rounds")
    if not (out / REPORT).exists():
        problems.append("there is no report")
    description, model = read_description(out / MODEL), load_model(out / MODEL)
    shapes = weight_shapes(HEART_DISEASE, Network.from_config(description["network"]))
    weights: Weights = dict(zip(shapes, model.get_weights(), strict=True))
    verdict.weights = weights_hash(weights)
    if description["weights_sha256"] != verdict.weights:
        problems.append("the weights do not match the model's description")
    if not all(np.isfinite(array).all() for array in weights.values()):
        problems.append("the weights are not finite")
    risk = predict(model, HEART_DISEASE, np.full((1, len(HEART_DISEASE.columns)), np.nan))
    if not (np.isfinite(risk).all() and 0 <= risk[0, 0] <= 1):
        problems.append("the risk is not a probability")
    contributions = read_contributions(out / ROUNDS)
    if [number for number, _ in contributions] != list(range(1, trial.rounds + 1)):
        problems.append("rounds.csv does not hold each round once, in order")
        return
    verdict.complete = all(len(names) == len(data) for _, names in contributions)
    if (
        not trial.is_real
        and trial.fault is not Fault.LIAR
        and verdict.weights != replay(trial, data, dict(contributions))
    ):
        problems.append("the weights are not those that the updates in rounds.csv give")


def read_contributions(path: Path) -> list[tuple[int, frozenset[str]]]:
    """Rounds in the order of rounds.csv: number, and the hospitals whose updates were averaged."""
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
    """Hash of the weights from a run in process in which, per round, only the given hospitals send updates."""
    silent: dict[str, set[int]] = defaultdict(set)
    for number, names in contributions.items():
        for name in data.keys() - names:
            silent[name].add(number)
    app = light_app(0.0, {name: frozenset(numbers) for name, numbers in silent.items()})
    contexts = {name: hospital_context(name, {"data": str(path)}) for name, path in data.items()}
    defaults = Settings()
    settings = replace(
        defaults,
        hospitals=len(data),
        min_hospitals=1,
        rounds=trial.rounds,
        hidden=trial.hidden,
        strategy=trial.strategy,
        appraisal=False,
    )
    run = PlainRun(InProcessTransport(app, contexts), settings)
    run.run()
    return weights_hash(run.weights)
