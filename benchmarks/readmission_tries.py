"""What the tabular literature offers, tried on readmission-30d inside training rows; prints JSON.

Two hospitals (--by iid), only the rows that are training rows under the default split seed, split again by patient with
inner seeds 0, 1, ... Each try changes one thing of the task's settings: the encoding of the columns, the network or its
training. The federation is the simple average of compiled local training, without messages. Means, deviations,
quantiles and most frequent codes are those of all rows, without their labels.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from common import quieten, summarise
from readmission import divide_stays
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from federated_health.data.columns import Measurement
from federated_health.data.patient_ids import hash_ids
from federated_health.data.sources.source import Source, read_diabetes
from federated_health.data.split import DEFAULT_SPLIT_SEED, split_rows
from federated_health.data.task_files import READMISSION_30D
from federated_health.ml.backend import load_keras
from federated_health.ml.calibration import calibration
from federated_health.ml.keras_training import KerasTrainer
from federated_health.ml.scores import roc_auc
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import probability
from federated_health.ml.training import LAYERS, LocalTrainer, batch_order, random_generator

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Split = Mapping[str, tuple[Rows, Rows]]
"""Hospital -> its training and held-out rows."""

TASK = READMISSION_30D

BOUNDS = {
    "age": (0, 30, 40, 50, 60, 70, 80, 90, 120),
    "days_in_hospital": (1, 2, 3, 4, 6, 8, 11, 14),
    "lab_procedures": (0, 10, 20, 30, 40, 50, 60, 70, 100),
    "procedures": (0, 1, 2, 3, 4, 6),
    "medications": (0, 5, 10, 15, 20, 25, 30, 40, 60),
    "diagnoses": (1, 3, 5, 6, 7, 8, 9, 16),
    "outpatient_visits": (0, 1, 2, 3, 5, 10, 20),
    "emergency_visits": (0, 1, 2, 3, 5, 10, 20),
    "inpatient_visits": (0, 1, 2, 3, 4, 6, 10, 20),
}
"""Bounds of the bins of each measurement, as a task file could state them."""


def encode(table: pd.DataFrame, measurement: Callable[[str, Array], list[Array]]) -> Array:
    """Features, [rows, width]: those of each measurement, and a one-hot of each category and of missing."""
    features: list[Any] = []
    for column in TASK.columns:
        values = table[column.name].to_numpy(float)
        if isinstance(column, Measurement):
            features += measurement(column.name, values)
        else:
            features += [*(values == code for code in column.codes), np.isnan(values)]
    return np.stack(features, axis=1).astype(np.float32)


def standardise(values: Array) -> Array:
    scaled: Array = (values - values.mean()) / values.std()
    return scaled


def piecewise_linear(values: Array, bounds: Sequence[float]) -> list[Array]:
    """Piecewise-linear encoding (Gorishniy et al. 2022, "On Embeddings for Numerical Features in Tabular Deep
    Learning")."""
    parts = [(values - low) / (high - low) for low, high in pairwise(bounds)]
    last = len(parts) - 1
    return [np.clip(part, 0 if number > 0 else None, 1 if number < last else None) for number, part in enumerate(parts)]


def quantiles(values: Array) -> Sequence[float]:
    return sorted(set(np.quantile(values, np.linspace(0, 1, 9)).tolist()))


def bins(values: Array, bounds: Sequence[float]) -> list[Any]:
    return [np.searchsorted(bounds[1:-1], values, side="right") == number for number in range(len(bounds) - 1)]


def scaled_log(name: str, values: Array) -> list[Array]:
    return [standardise(values if name == "age" else np.log1p(values))]


def scaled_log_of_visits(name: str, values: Array) -> list[Array]:
    return [standardise(np.log1p(values) if name.endswith("_visits") else values)]


def plain_and_piecewise(name: str, values: Array) -> list[Array]:
    return [standardise(values), *piecewise_linear(values, BOUNDS[name])]


def one_hot(cells: "pd.Series[str]", most: int) -> Array:
    """The most frequent values of a column as text."""
    return np.stack([cells == value for value in cells.value_counts().index[:most]], axis=1).astype(np.float32)


def encodings(source: Source) -> dict[str, Callable[[], Array]]:
    """Name -> features of all rows."""
    table = source.table

    def plain() -> Array:
        return encode(table, lambda _, values: [standardise(values)])

    def raw(most: Mapping[str, int]) -> Array:
        return np.concatenate(
            [plain(), *(one_hot(source.columns[name], number) for name, number in most.items())], axis=1
        )

    def diagnoses() -> Array:
        names = ("diag_1", "diag_2", "diag_3")
        return np.concatenate(
            [plain(), *(one_hot(source.columns[name].str.split(".").str[0], 60) for name in names)], axis=1
        )

    def interactions() -> Array:
        features = plain()
        stays = standardise(np.log1p(table["inpatient_visits"].to_numpy()))
        return np.concatenate([features, features * stays[:, None]], axis=1, dtype=np.float32)

    return {
        "plain": plain,
        "log": lambda: encode(table, scaled_log),
        "log visits": lambda: encode(table, scaled_log_of_visits),
        "plain and piecewise": lambda: encode(table, plain_and_piecewise),
        "piecewise": lambda: encode(table, lambda name, values: piecewise_linear(values, BOUNDS[name])),
        "piecewise, quantiles": lambda: encode(table, lambda _, values: piecewise_linear(values, quantiles(values))),
        "bins": lambda: encode(table, lambda name, values: bins(values, BOUNDS[name])),
        "interactions": interactions,
        "ICD-9": diagnoses,
        "race and payer": lambda: raw({"race": 6, "payer_code": 15}),
        "raw codes": lambda: raw({"discharge_disposition_id": 26, "admission_source_id": 17, "medical_specialty": 40}),
    }


@dataclass(frozen=True, kw_only=True)
class Try:
    """Settings of a try; the defaults are the task's.

    Attributes:
        decay: factor of the learning rate from round to round.
        averaged: number of last rounds whose weights are averaged.
        members: number of networks whose probabilities are averaged.
    """

    encoding: str = "plain"
    hidden: tuple[int, ...] = (64,)
    activation: str = "relu"
    optimizer: str = "sgd"
    dropout: float = 0.0
    learning_rate: float = 0.1
    batch_size: int = 256
    l2: float = 0.001
    proximal_mu: float = 0.0
    epochs: int = 5
    rounds: int = 30
    decay: float = 1.0
    averaged: int = 1
    members: int = 1


TRIES = {
    "the task's settings": Try(),
    "logistic": Try(hidden=()),
    **{f"{units} units": Try(hidden=(units,)) for units in (8, 16, 32, 128, 256)},
    "64 and 32 units": Try(hidden=(64, 32)),
    "128 and 64 units": Try(hidden=(128, 64)),
    **{name: Try(activation=name) for name in ("tanh", "gelu", "silu")},
    **{f"l2 {l2}": Try(l2=l2) for l2 in (0.0005, 0.0015)},
    "20 rounds": Try(rounds=20),
    "rate 0.05, 60 rounds": Try(learning_rate=0.05, rounds=60),
    "rate times 0.95 per round": Try(decay=0.95),
    "rate 0.2, times 0.93 per round": Try(learning_rate=0.2, decay=0.93),
    "mean of the last 5 rounds": Try(averaged=5),
    "Adam, rate 0.001, 10 rounds": Try(optimizer="adam", learning_rate=0.001, rounds=10),
    "dropout 0.1": Try(dropout=0.1),
    "FedProx, mu 0.01": Try(proximal_mu=0.01),
    "4 networks": Try(members=4),
    "log counts of visits and earlier stays": Try(encoding="log visits"),
    "log counts": Try(encoding="log"),
    "logistic, log counts": Try(encoding="log", hidden=()),
    "piecewise-linear, fixed bounds": Try(encoding="piecewise"),
    "piecewise-linear, 8 quantiles": Try(encoding="piecewise, quantiles"),
    "logistic, piecewise-linear": Try(encoding="piecewise", hidden=()),
    "plain and piecewise-linear": Try(encoding="plain and piecewise"),
    "bins": Try(encoding="bins"),
    "products with earlier stays": Try(encoding="interactions"),
    "logistic, products with earlier stays": Try(encoding="interactions", hidden=()),
    "60 ICD-9 categories per diagnosis": Try(encoding="ICD-9"),
    "codes of discharge, source and specialty ungrouped": Try(encoding="raw codes"),
    "race and payer, too": Try(encoding="race and payer"),
}


def split_training_rows(source: Source, seeds: int) -> Iterator[Split]:
    """The inner splits of the training rows."""
    table = source.table.assign(row=np.arange(len(source.table)))
    divided = divide_stays(replace(source, table=table), "iid", DEFAULT_SPLIT_SEED)

    def split(rows: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        ids = hash_ids(rows[TASK.patient].astype(str))
        numbers = rows[[*TASK.column_names, TASK.label.name]]
        train, test = split_rows(numbers, TASK.label.name, seed, ids, TASK.label.classes)
        return rows.iloc[train], rows.iloc[test]

    training = {name: split(rows, DEFAULT_SPLIT_SEED)[0] for name, rows in divided.items()}
    for seed in range(seeds):
        inner = {name: split(rows, seed) for name, rows in training.items()}
        yield {name: (train["row"].to_numpy(), test["row"].to_numpy()) for name, (train, test) in inner.items()}


class Federation:
    """Trains and scores the network of a try."""

    def __init__(self, chosen: Try, features: Array, labels: Array) -> None:
        keras = load_keras()
        self._try, self._features, self._labels = chosen, features, labels
        layers = [keras.Input((features.shape[1],))]
        for units in chosen.hidden:
            layers.append(keras.layers.Dense(units, activation=chosen.activation))
            layers += [keras.layers.Dropout(chosen.dropout)] if chosen.dropout else []
        head = keras.Sequential([*layers, keras.layers.Dense(1)])
        self._shapes = [tuple(weight.shape) for weight in head.trainable_weights]
        is_plain = chosen.optimizer == "sgd" and not chosen.dropout
        target = target_of(TASK)
        self._trainer = (
            LocalTrainer(head, target)
            if is_plain
            else KerasTrainer(head, target, chosen.optimizer, exact_batches=False)
        )

    def score(self, split: Split, seed: int) -> Array:
        """Log-odds of the held-out rows."""
        chosen = self._try
        risks = [self._score_member(split, seed + 1000 * member) for member in range(chosen.members)]
        risk = np.mean([probability(scores) for scores in risks], axis=0)
        log_odds: Array = np.log(risk / (1 - risk))
        return log_odds

    def _score_member(self, split: Split, seed: int) -> Array:
        chosen = self._try
        history: list[list[Array]] = []
        generator = np.random.default_rng(seed)
        limits = [np.sqrt(6 / sum(shape)) if len(shape) == 2 else 0.0 for shape in self._shapes]
        weights = [
            generator.uniform(-limit, limit, shape).astype(np.float32)
            for limit, shape in zip(limits, self._shapes, strict=True)
        ]
        for number in range(1, chosen.rounds + 1):
            updates = [self._train(weights, name, rows, seed, number) for name, (rows, _) in split.items()]
            weights = [np.mean(arrays, axis=0) for arrays in zip(*updates, strict=True)]
            history = [*history, weights][-chosen.averaged :]
        final = [np.mean(arrays, axis=0) for arrays in zip(*history, strict=True)]
        return self._trainer.score(final, self._features[np.concatenate([rows for _, rows in split.values()])])

    def _train(self, weights: list[Array], name: str, rows: Rows, seed: int, number: int) -> list[Array]:
        chosen = self._try
        order = batch_order(
            seed=seed,
            hospital=name,
            round_number=number,
            rows=len(rows),
            epochs=chosen.epochs,
            batch_size=chosen.batch_size,
        )
        trained, _ = self._trainer.train(
            weights,
            self._features[rows],
            self._labels[rows],
            order,
            learning_rate=chosen.learning_rate * chosen.decay ** (number - 1),
            l2=chosen.l2,
            proximal_mu=chosen.proximal_mu,
            generator=random_generator(seed, name, number, LAYERS),
        )
        return trained


def figures_of(log_odds: Array, labels: Array, seconds: float) -> dict[str, float]:
    scores = log_odds.astype(np.float64)
    return {
        "roc_auc": roc_auc(scores, labels) or float("nan"),
        "log_loss": float(np.mean(np.logaddexp(0.0, scores) - labels * scores)),
        "calibration_slope": calibration(scores, labels).slope or float("nan"),
        "seconds": seconds,
    }


def score_reference(name: str, source: Source, features: Array, labels: Array, split: Split) -> Array:
    """Log-odds of one of scikit-learn's models of all rows together."""
    train, test = (np.concatenate(rows) for rows in zip(*split.values(), strict=True))
    if name == "logistic regression":
        model: Any = LogisticRegression(max_iter=1000)
    else:
        features = source.table[list(TASK.column_names)].to_numpy()
        categories = [not isinstance(column, Measurement) for column in TASK.columns]
        model = HistGradientBoostingClassifier(categorical_features=categories, random_state=0)
    risk = model.fit(features[train], labels[train]).predict_proba(features[test])[:, 1]
    log_odds: Array = np.log(risk / (1 - risk))
    return log_odds


def main() -> None:
    references = ("logistic regression", "gradient boosting")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=5, help="number of inner splits (default: %(default)s)")
    parser.add_argument("--only", nargs="*", choices=[*references, *TRIES], default=[*references, *TRIES])
    flags = parser.parse_args()
    quieten()
    source = read_diabetes()
    labels = source.table[TASK.label.name].to_numpy(np.float32)
    splits = list(split_training_rows(source, flags.splits))
    makers, made = encodings(source), {"plain": encodings(source)["plain"]()}
    tried: dict[str, list[dict[str, float]]] = {}
    for name in flags.only:
        chosen = TRIES.get(name, Try())
        features = made.get(chosen.encoding)
        if features is None:
            features = made[chosen.encoding] = makers[chosen.encoding]()
        federation = Federation(chosen, features, labels) if name in TRIES else None
        tried[name] = []
        for seed, split in enumerate(splits):
            began = time.perf_counter()
            scores = (
                federation.score(split, seed) if federation else score_reference(name, source, features, labels, split)
            )
            held_out = labels[np.concatenate([rows for _, rows in split.values()])]
            tried[name].append(figures_of(scores, held_out, time.perf_counter() - began))
        print(name, summarise(tried[name]), file=sys.stderr)
    result = {name: {**summarise(runs), **gain_of(runs, tried)} for name, runs in tried.items()}
    print(json.dumps(result, indent=2))


def gain_of(runs: list[dict[str, float]], tried: Mapping[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Differences from the task's settings, paired by split."""
    pairs = [
        {key: run[key] - usual[key] for key in ("roc_auc", "log_loss")}
        for run, usual in zip(runs, tried.get("the task's settings", []), strict=False)
    ]
    return {"minus_task": summarise(pairs)} if len(pairs) > 1 else {}


if __name__ == "__main__":
    main()
