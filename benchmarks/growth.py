"""How the cost of a round grows with hospitals and with weights: rounds a second, the server's memory; JSON and tables.

Each case has a server process of its own, so that its memory is its own, and light hospitals in up to four other
processes, which are part of what one machine can do. The exponent is the k of cost ~ size**k, by least squares of the
logarithms; at most 1 is linear. Rounds and checkpoints are as in server.py. Virtual hospitals in Flower's simulation
come last.
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

import growth_server
from common import write_source
from measuring import LINEAR, descendants, growth, judged, memory_of, show, significant
from round_rate import time_engine

from federated_health.data.partitions import Partition
from federated_health.data.sources.source import generate_readmission
from federated_health.settings import Settings, read_defaults

HOSPITALS = (4, 16, 64, 256, 1000)
VIRTUAL = (10, 100, 1000)
WEIGHTS = (1_000, 100_000, 10_000_000)
OF_WEIGHTS = 4
"""Hospitals that share a model of many weights."""

PATIENTS = 40
"""Of a virtual hospital."""


def in_process_of_its_own(hospitals: int, rounds: int, weights: int) -> dict[str, float]:
    command = [sys.executable, growth_server.__file__, str(hospitals), str(rounds), str(weights)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def simulate(hospitals: int, rounds: int) -> dict[str, float]:
    """Virtual hospitals in Flower's simulation; memory is of the whole tree of processes."""
    import flower_engines

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        patients = generate_readmission(PATIENTS * hospitals, 0)
        write_source(folder / "data", patients, Partition(by="iid", hospitals=hospitals, seed=0))
        where = folder / "engine", folder / "data"
        with flower_engines.simulation(*where, hospitals=hospitals, task="readmission") as engine:
            settings = replace(
                Settings.from_config(read_defaults()), task="readmission", rounds=rounds, hospitals=hospitals
            )
            began = time.perf_counter()
            times = time_engine(engine, settings)
            seconds = time.perf_counter() - began
            memory = [memory_of(one).get("now_mib", 0.0) for one in descendants(engine.superlink.pid)]
    return {
        "hospitals": hospitals,
        "round_s": significant(times[0]),
        "run_s": significant(seconds),
        "superlink_mib": significant(sum(memory) or 0.0, 4),
    }


def of_hospitals(numbers: Sequence[int], rounds: int, largest_rounds: int) -> list[dict[str, float]]:
    rows = []
    for number in numbers:
        found = in_process_of_its_own(number, rounds if number < max(HOSPITALS) else largest_rounds, 0)
        found["ms_a_hospital"] = significant(found["round_ms"] / number)
        found["mib_a_hospital"] = significant((found["memory_peak_mib"] - found["memory_before_mib"]) / number)
        rows.append({"hospitals": number, **found})
    return rows


def of_weights(numbers: Sequence[int], rounds: int) -> list[dict[str, float]]:
    return [{"weights": number, **in_process_of_its_own(OF_WEIGHTS, rounds, number)} for number in numbers]


def grown(rows: Sequence[Mapping[str, float]], size: str, time_key: str, memory: str) -> dict[str, Any]:
    """Exponents of the time of a round, and of the memory beyond what the server takes without hospitals."""
    sizes = [row[size] for row in rows]
    added = [row[memory] - row.get("memory_before_mib", 0.0) for row in rows]
    return {
        "round": growth(sizes, [row[time_key] for row in rows]),
        "memory": growth(sizes, [max(one, 0.1) for one in added]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--largest-rounds", type=int, default=8, help="with the most hospitals")
    parser.add_argument("--hospitals", type=int, nargs="*", default=list(HOSPITALS))
    parser.add_argument("--weights", type=int, nargs="*", default=list(WEIGHTS))
    parser.add_argument("--virtual", type=int, nargs="*", default=list(VIRTUAL), help="hospitals in a simulation")
    parser.add_argument("--virtual-rounds", type=int, default=3)
    flags = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    cases: dict[str, list[dict[str, float]]] = {
        "hospitals": of_hospitals(flags.hospitals, flags.rounds, flags.largest_rounds) if flags.hospitals else [],
        "weights": of_weights(flags.weights, flags.rounds) if flags.weights else [],
        "virtual": [simulate(number, flags.virtual_rounds) for number in flags.virtual],
    }
    keys = {
        "hospitals": ("hospitals", "round_ms", "memory_peak_mib"),
        "weights": ("weights", "round_ms", "memory_peak_mib"),
        "virtual": ("hospitals", "round_s", "superlink_mib"),
    }
    growths = {name: grown(rows, *keys[name]) for name, rows in cases.items() if len(rows) > 1}
    targets = {
        f"exponent of a {what}'s growth with {name}, last step": judged(of["between_neighbours"][-1], at_most=LINEAR)
        for name, found in growths.items()
        for what, of in found.items()
    }
    show(
        {**cases, "growth": growths, "targets": targets},
        {f"Growth with {name}": rows for name, rows in cases.items() if rows},
    )


if __name__ == "__main__":
    main()
