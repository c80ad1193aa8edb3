"""Load: 200 hospital streams on one server for 100 rounds; prints JSON, and ends with 1 where something fails or grows.

Light hospitals, without Keras, in a few processes; each has a connection and a stream of its own. The server is this
process: `PlainRun` over `serve_streams`, as in server.py, and rounds.csv is written as there. Open files, threads and
resident memory are taken after round 10 and after the last; files and threads may not grow, memory by less than 5 %.
"""

import argparse
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import light_hospitals  # and finds the project

from federated_health.data.tasks import HEART_DISEASE
from federated_health.processes import free_port, process
from federated_health.server.plain_run import PlainRun
from federated_health.server.run_folder import RunFolder
from federated_health.settings import Settings, read_defaults
from federated_health.transport.stream_server import serve_streams

EARLY_ROUND = 10
PROCESSES = 4
MAX_GROWTH = 0.05


@contextmanager
def hospitals(address: str, number: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """So many hospitals, in PROCESSES processes."""
    bounds = [number * part // PROCESSES for part in range(PROCESSES + 1)]
    with ExitStack() as stack:
        yield [
            stack.enter_context(process([sys.executable, light_hospitals.__file__, address, str(first), str(last)]))
            for first, last in pairwise(bounds)
        ]


def take_stock() -> dict[str, float]:
    """What this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "open_files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  # counts itself, each time
        "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208
        "memory_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
    }


def run(number: int, rounds: int, out: str) -> dict[str, object]:
    """A federation of so many hospitals, and what it cost."""
    address = f"127.0.0.1:{free_port()}"
    settings = replace(
        Settings.from_config(read_defaults()),
        hospitals=number,
        rounds=rounds,
        wait=light_hospitals.WAIT,
        appraisal=False,
        out=out,
        force=True,
    )
    stock: dict[int, dict[str, float]] = {}
    complete = 0
    with hospitals(address, number) as running:
        with serve_streams(address, HEART_DISEASE.agreement, lambda _: None) as grid, RunFolder(settings) as folder:
            federation = PlainRun(grid, settings)
            began = time.perf_counter()
            federation.gather()
            folder.begin(federation)
            gathered = time.perf_counter()
            for record in federation.rounds():
                folder.append_round(federation)
                complete += len(record.hospitals) == number and all(one.counts for one in record.hospitals.values())
                if record.number in (EARLY_ROUND, rounds):
                    stock[record.number] = take_stock()
            ended = time.perf_counter()
            federation.evaluate_finally()
            evaluated = len(federation.evaluations)
            incidents = len(grid.take_incidents())
        codes = [one.wait(30) for one in running]
    early, late = stock[EARLY_ROUND], stock[rounds]
    return {
        "hospitals": number,
        "rounds": rounds,
        "complete_rounds": complete,
        "evaluated_finally": evaluated,
        "incidents": incidents,
        "failed_processes": sum(code != 0 for code in codes),
        "seconds_to_gather": round(gathered - began, 1),
        "seconds_a_round": round((ended - gathered) / rounds, 3),
        f"round_{EARLY_ROUND}": early,
        f"round_{rounds}": late,
        "memory_growth": round(late["memory_mib"] / early["memory_mib"] - 1, 4),
        "good": (complete, evaluated, incidents) == (rounds, number, 0)
        and not any(codes)
        and late["open_files"] <= early["open_files"]
        and late["threads"] <= early["threads"]
        and late["memory_mib"] < (1 + MAX_GROWTH) * early["memory_mib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hospitals", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=100)
    flags = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    if flags.rounds <= EARLY_ROUND:
        parser.error(f"--rounds: expected more than {EARLY_ROUND}")
    with tempfile.TemporaryDirectory() as out:
        result = run(flags.hospitals, flags.rounds, out)
    print(json.dumps(result, indent=2))
    sys.exit(not result["good"])


if __name__ == "__main__":
    main()
