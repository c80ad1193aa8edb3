"""One case of growth.py, whose server is this process: `python growth_server.py HOSPITALS ROUNDS WEIGHTS`; JSON.

It imports no more than a server does, so that its memory is a server's.
"""

import json
import logging
import sys
import tempfile
import time
from dataclasses import replace

import light_hospitals  # noqa: F401  # finds the project
from light_federation import light_federation
from measuring import memory_of, significant

from federated_health.server.run_folder import RunFolder


def serve(hospitals: int, rounds: int, weights: int) -> dict[str, float]:
    """One case, whose server is this process."""
    before = memory_of()["now_mib"]
    with tempfile.TemporaryDirectory() as out, light_federation(hospitals, rounds, weights=weights) as made:
        federation, grid, _ = made
        began = time.perf_counter()
        federation.gather()
        gathered = time.perf_counter()
        joined = memory_of()["now_mib"]
        ends, complete = [], 0
        with RunFolder(replace(federation.settings, out=out, force=True)) as folder:
            folder.begin(federation)
            for record in federation.rounds():
                folder.append_round(federation)
                ends.append(time.perf_counter())
                complete += sum(one.counts is not None for one in record.hospitals.values()) == hospitals
        incidents = len(grid.take_incidents())
    if (complete, incidents) != (rounds, 0):
        raise RuntimeError(f"{complete} of {rounds} rounds were complete; {incidents} incidents")
    # Of each round there is its evaluation in the next one's message; the last one's comes alone.
    seconds = (ends[-2] - ends[0]) / (rounds - 2)
    return {
        "round_ms": significant(1000 * seconds),
        "rounds_per_second": significant(1 / seconds),
        "seconds_to_gather": significant(gathered - began),
        "memory_before_mib": significant(before, 4),
        "memory_joined_mib": significant(joined, 4),
        "memory_peak_mib": significant(memory_of()["peak_mib"], 4),
    }


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.ERROR)
    print(json.dumps(serve(*map(int, sys.argv[1:]))))
