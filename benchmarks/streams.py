"""Load test: 500 hospital streams on one server for 100 rounds; prints JSON and exits with 1 on a failure or growth.

Light hospitals (light_hospitals.py) in a few processes; each has a connection and a stream of its own. This process is
the server, with the parts of server.py, rounds.csv and checkpoints included. Open files, threads and resident memory
are compared after round 10 and after the last: files and threads must not grow, memory by less than 5 %. All hospitals
join at once from one address, so none may be mistaken for an attacker.
"""

import argparse
import gc
import json
import logging
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from light_federation import light_processes, settings_for
from measuring import memory_of

from federated_health.data.task_files import HEART_DISEASE
from federated_health.processes import free_port
from federated_health.server.plain_run import PlainRun
from federated_health.server.run_folder import RunFolder
from federated_health.transport.stream_server import serve_streams

EARLY_ROUND = 10
PROCESSES = 4
MAX_GROWTH = 0.05


def is_own(task: Path) -> bool:
    """Whether a thread is none of gRPC's pool, whose number depends on the load of the moment."""
    return (task / "comm").read_text().strip() != "event_engine"


def measure_resources() -> dict[str, float]:
    """Open files, threads outside gRPC's pool, and MiB of memory of this process."""
    gc.collect()
    return {
        "open_files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  # counts itself, each time
        "threads": sum(is_own(task) for task in Path("/proc/self/task").iterdir()),
        "memory_mib": round(memory_of()["now_mib"], 1),
    }


def measure(hospitals: int, rounds: int, out: str, kind: str) -> dict[str, object]:
    """Run this many hospitals; figures, and whether all is well."""
    address = f"127.0.0.1:{free_port()}"
    settings = settings_for(hospitals, rounds, out=out, force=True)
    resources: dict[int, dict[str, float]] = {}
    complete = 0
    with light_processes(address, hospitals, PROCESSES, kind=kind) as processes:
        with ExitStack() as stack:
            grid = stack.enter_context(serve_streams(address, HEART_DISEASE.agreement, lambda _: None))
            folder = stack.enter_context(RunFolder(settings))
            run = PlainRun(grid, settings)
            began = time.perf_counter()
            run.gather()
            folder.begin(run)
            gathered = time.perf_counter()
            for record in run.rounds():
                if record.number in (
                    EARLY_ROUND,
                    rounds,
                ):  # the last round is followed by the process that saves the model
                    resources[record.number] = measure_resources()
                folder.append_round(run)
                results = record.hospitals.values()
                complete += len(results) == hospitals and all(result.counts for result in results)
            ended = time.perf_counter()
            run.evaluate()
            evaluated = len(run.evaluations)
            problems = len(grid.take_problems())
        codes = [process.wait(30) for process in processes]
    early, late = resources[EARLY_ROUND], resources[rounds]
    return {
        "hospitals": hospitals,
        "rounds": rounds,
        "complete_rounds": complete,
        "evaluated_finally": evaluated,
        "problems": problems,
        "failed_processes": sum(code != 0 for code in codes),
        "seconds_to_gather": round(gathered - began, 1),
        "seconds_per_round": round((ended - gathered) / rounds, 3),
        f"round_{EARLY_ROUND}": early,
        f"round_{rounds}": late,
        "memory_growth": round(late["memory_mib"] / early["memory_mib"] - 1, 4),
        "good": (complete, evaluated, problems) == (rounds, hospitals, 0)
        and not any(codes)
        and late["open_files"] <= early["open_files"]
        and late["threads"] <= early["threads"]
        and late["memory_mib"] < (1 + MAX_GROWTH) * early["memory_mib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hospitals", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--kind", choices=["threads", "loop"], default="threads", help="see light_hospitals.py")
    flags = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    if flags.rounds <= EARLY_ROUND:
        parser.error(f"--rounds: expected more than {EARLY_ROUND}, got {flags.rounds}")
    with tempfile.TemporaryDirectory() as out:
        result = measure(flags.hospitals, flags.rounds, out, flags.kind)
    print(json.dumps(result, indent=2))
    sys.exit(not result["good"])


if __name__ == "__main__":
    main()
