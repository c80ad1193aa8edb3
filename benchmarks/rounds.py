"""Rounds a second with four hospitals, over gRPC in processes of their own and in process; prints JSON.

Five local epochs and an evaluation every round, after the first round. Both are measured in turns in one run, since
machines are noisy: trust the ratio.
"""

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from common import quieten, time_rounds, write_uci

import client
from federated_health.federation import Federation
from federated_health.processes import door, free_port, process
from federated_health.settings import Settings, read_defaults
from federated_health.streaming import InProcessGrid, hospital_context, serve_streams


def over_grpc(hospitals: dict[str, Path], settings: Settings) -> list[float]:
    """The server in this process, each hospital in one of its own."""
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        grid = stack.enter_context(serve_streams(address, settings.task_declaration.terms, lambda _: None))
        for name, path in hospitals.items():
            log = path.with_name(f"{name}.log")
            command = door("client.py", "--data", path, "--name", name, "--server", address)
            stack.enter_context(process(command, log=log))
        federation = Federation(grid, settings)
        federation.gather()
        return time_rounds(federation)


def in_process(hospitals: dict[str, Path], settings: Settings) -> list[float]:
    contexts = {name: hospital_context(name, {"data": str(path)}) for name, path in hospitals.items()}
    federation = Federation(InProcessGrid(client.app, contexts), settings)
    federation.gather()
    return time_rounds(federation)


def describe(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "rounds_per_second": round(len(times) / sum(times), 2),
        "median_ms": round(1000 * statistics.median(times), 2),
        "p95_ms": round(1000 * ordered[int(0.95 * len(ordered))], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    quieten()
    settings = replace(Settings.from_config(read_defaults()), rounds=flags.rounds, local_epochs=5)
    grpc_times, plain_times = [], []
    with tempfile.TemporaryDirectory() as folder:
        hospitals = write_uci(Path(folder))
        for _ in range(flags.repeats):
            grpc_times += over_grpc(hospitals, settings)
            plain_times += in_process(hospitals, settings)
    result = {"grpc": describe(grpc_times), "in_process": describe(plain_times)}
    ratio = statistics.median(grpc_times) / statistics.median(plain_times)
    print(json.dumps({**result, "grpc_over_in_process": round(ratio, 2), "rounds": flags.rounds}, indent=2))


if __name__ == "__main__":
    main()
