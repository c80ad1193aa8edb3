"""Secure aggregation in process with the four heart hospitals; prints JSON.

`difference`: the greatest difference of a weight from a plain run's after 30 rounds, by strategy.

`cosine`: what a server learns of a hospital that drops out, or that it pretends has dropped out, from the sum of a
round and the next sum without that hospital: the cosine of the difference of both and the hospital's own update, from
the least exposed hospital to the most exposed. `next`: the next round starts from the average; `repeated`: it starts
from the same weights.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import quieten, write_uci

from federated_health.hospital import handlers
from federated_health.ml.networks import Weights
from federated_health.ml.strategies import STRATEGIES
from federated_health.security.authority import make_demo_identities
from federated_health.server.plain_run import PlainRun, make_run
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport

ROUNDS = 30
AT = (1, 5, 15, 29)
"""Rounds after which a hospital drops out."""

Vector = npt.NDArray[np.float64]
Updates = dict[str, tuple[int, Vector]]
"""Hospital -> its number of rows, and by how much it moves the weights."""


class Federation:
    """The four hospitals, each with a certificate."""

    def __init__(self, folder: Path) -> None:
        self.paths = write_uci(folder / "data")
        _, self.identities = make_demo_identities(folder / "tls", list(self.paths))

    def run(self, settings: Settings) -> PlainRun:
        contexts = {
            name: hospital_context(name, {"data": str(path), "tls": str(self.identities[name])})
            for name, path in self.paths.items()
        }
        run = make_run(InProcessTransport(handlers.answer, contexts), settings)
        assert isinstance(run, PlainRun)
        return run


def flat(weights: Weights) -> Vector:
    return np.concatenate([array.ravel() for array in weights.values()]).astype(np.float64)


def difference_from_plain(federation: Federation, settings: Settings) -> float:
    runs = [federation.run(replace(settings, secure_aggregation=is_secure)) for is_secure in (True, False)]
    for run in runs:
        run.run()
    secure, plain = (flat(run.weights) for run in runs)
    return float(np.abs(secure - plain).max())


def train(run: PlainRun, number: int, weights: Weights) -> Updates:
    """All hospitals' updates of a round that starts from these weights."""
    run.weights = weights
    config = replace(run.train_config(), rounds=number - 1)
    replies = run._train(config, None, run.participants.present())
    return {reply.hospital: (reply.content.examples, flat(reply.content.weights) - flat(weights)) for reply in replies}


def average(weights: Weights, updates: Updates) -> Weights:
    total = sum(rows for rows, _ in updates.values())
    left = (flat(weights) + sum(rows * update for rows, update in updates.values()) / total).astype(np.float32)
    ends = np.cumsum([array.size for array in weights.values()])[:-1]
    parts = zip(weights.items(), np.split(left, ends), strict=True)
    return {name: part.reshape(array.shape) for (name, array), part in parts}


def cosines(first: Updates, second: Updates) -> list[float]:
    """Cosine of each hospital's first update and the difference of both sums, the second of which lacks it."""
    found = []
    for name, (rows, own) in first.items():
        others = np.sum([other * update for key, (other, update) in second.items() if key != name], axis=0)
        guess = (np.sum([other * update for other, update in first.values()], axis=0) - others) / rows
        found.append(round(float(guess @ own / np.linalg.norm(guess) / np.linalg.norm(own)), 3))
    return sorted(found)


def exposure(federation: Federation, settings: Settings) -> dict[str, dict[str, list[float]]]:
    run = federation.run(settings)
    run.gather()
    weights, rounds = run.weights, list[tuple[Weights, Updates]]()
    for number in range(1, max(AT) + 2):
        rounds.append((weights, train(run, number, weights)))
        weights = average(*rounds[-1])
    return {
        f"after round {number}": {
            "next": cosines(rounds[number - 1][1], rounds[number][1]),
            "repeated": cosines(rounds[number - 1][1], train(run, number + 1, rounds[number - 1][0])),
        }
        for number in AT
    }


def main() -> None:
    quieten()
    base = replace(Settings(), rounds=ROUNDS, appraisal=False)
    with tempfile.TemporaryDirectory() as folder:
        federation = Federation(Path(folder))
        result: dict[str, Any] = {
            "difference": {
                name: difference_from_plain(federation, replace(base, strategy=name))
                for name, strategy in STRATEGIES.items()
                if strategy.needs_mean_only
            },
            "cosine": {
                f"batch size {size}": exposure(federation, replace(base, rounds=max(AT) + 2, batch_size=size))
                for size in (base.batch_size, 0)
            },
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
