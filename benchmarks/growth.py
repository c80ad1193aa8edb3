"""Growth of a round's time and of the server's memory with hospitals and with weights; JSON and tables.

Each case has its own server process, whose memory is measured, and light hospitals in a few other processes on the same
machine. The exponent is the k of cost ~ size**k, by least squares of the logarithms; up to 1 is linear. Rounds and
checkpoints are as in server.py. Virtual hospitals in Flower's simulation come last.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import light_federation
from common import write_source
from measuring import LINEAR, descendants, growth, judged, memory_of, show, significant
from round_rate import time_engine

from federated_health.data.partitions import Partition
from federated_health.data.sources.source import generate_readmission
from federated_health.settings import Settings

HOSPITALS = (4, 16, 64, 256, 1000)
VIRTUAL = (10, 100, 1000)
WEIGHTS = (1_000, 100_000, 10_000_000)
HOSPITALS_WITH_WEIGHTS = 4
"""Number of hospitals in the cases that vary the number of weights."""

PATIENTS = 40
"""Patients per virtual hospital."""


def run_case(hospitals: int, rounds: int, weights: int) -> dict[str, float]:
    command = [sys.executable, light_federation.__file__, str(hospitals), str(rounds), str(weights)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def simulate(hospitals: int, rounds: int) -> dict[str, float]:
    """Run virtual hospitals in Flower's simulation; memory is the sum over all its processes."""
    import flower_engines

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        patients = generate_readmission(PATIENTS * hospitals, 0)
        write_source(folder / "data", patients, Partition(by="iid", hospitals=hospitals, seed=0))
        where = folder / "engine", folder / "data"
        with flower_engines.simulation(*where, hospitals=hospitals, task="readmission") as engine:
            settings = replace(Settings(), task="readmission", rounds=rounds, hospitals=hospitals)
            began = time.perf_counter()
            times = time_engine(engine, settings)
            seconds = time.perf_counter() - began
            memory = [memory_of(process).get("now_mib", 0.0) for process in descendants(engine.superlink.pid)]
    return {
        "hospitals": hospitals,
        "round_s": significant(times[0]),
        "run_s": significant(seconds),
        "superlink_mib": significant(sum(memory) or 0.0, 4),
    }


def vary_hospitals(numbers: Sequence[int], rounds: int, largest_rounds: int) -> list[dict[str, float]]:
    rows = []
    for number in numbers:
        found = run_case(number, rounds if number < max(HOSPITALS) else largest_rounds, 0)
        found["ms_per_hospital"] = significant(found["round_ms"] / number)
        found["mib_per_hospital"] = significant((found["memory_peak_mib"] - found["memory_before_mib"]) / number)
        rows.append({"hospitals": number, **found})
    return rows


def vary_weights(numbers: Sequence[int], rounds: int) -> list[dict[str, float]]:
    return [{"weights": number, **run_case(HOSPITALS_WITH_WEIGHTS, rounds, number)} for number in numbers]


def fit_growth(rows: Sequence[Mapping[str, float]], size: str, time_key: str, memory: str) -> dict[str, Any]:
    """Exponents of a round's time, and of the memory in addition to a server without hospitals."""
    sizes = [row[size] for row in rows]
    added = [row[memory] - row.get("memory_before_mib", 0.0) for row in rows]
    return {
        "round": growth(sizes, [row[time_key] for row in rows]),
        "memory": growth(sizes, [max(mib, 0.1) for mib in added]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--largest-rounds", type=int, default=8, help="rounds with the most hospitals")
    parser.add_argument("--hospitals", type=int, nargs="*", default=list(HOSPITALS))
    parser.add_argument("--weights", type=int, nargs="*", default=list(WEIGHTS))
    parser.add_argument("--virtual", type=int, nargs="*", default=list(VIRTUAL), help="hospitals in a simulation")
    parser.add_argument("--virtual-rounds", type=int, default=3)
    flags = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    cases: dict[str, list[dict[str, float]]] = {
        "hospitals": vary_hospitals(flags.hospitals, flags.rounds, flags.largest_rounds) if flags.hospitals else [],
        "weights": vary_weights(flags.weights, flags.rounds) if flags.weights else [],
        "virtual": [simulate(number, flags.virtual_rounds) for number in flags.virtual],
    }
    keys = {
        "hospitals": ("hospitals", "round_ms", "memory_peak_mib"),
        "weights": ("weights", "round_ms", "memory_peak_mib"),
        "virtual": ("hospitals", "round_s", "superlink_mib"),
    }
    growths = {name: fit_growth(rows, *keys[name]) for name, rows in cases.items() if len(rows) > 1}
    targets = {
        f"exponent of a {cost}'s growth with {name}, last step": judged(fit["between_neighbours"][-1], at_most=LINEAR)
        for name, fits in growths.items()
        for cost, fit in fits.items()
    }
    show(
        {**cases, "growth": growths, "targets": targets},
        {f"Growth with {name}": rows for name, rows in cases.items() if rows},
    )


if __name__ == "__main__":
    main()
