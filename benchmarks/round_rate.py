"""Rounds per second with the four heart hospitals, for each way to run a federation; JSON and a table.

Each round has five local epochs and an evaluation; rounds after the first are timed. The ways alternate in one run,
since machines are noisy: trust the ratios. `limit` is the same compiled training with NumPy averaging in one process,
without Flower; `tutorial` is the method of Flower's tutorials (tutorial.py). In the light ways hospitals reply at once,
so that the remaining time is the stream's.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import light_hospitals
import numpy as np
import tutorial as tutorial_script
from common import quieten, time_rounds, write_uci
from measuring import descendants, describe, judged, show, times_as_long
from scripts import script_command

import client
from federated_health.data.hospital import load_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.hospital.local_model import LocalModel
from federated_health.messages.run_terms import RunTerms
from federated_health.ml.networks import initial_weights
from federated_health.ml.normalisation import column_sums, merge_sums, normalisation_from
from federated_health.ml.targets.binary import count_outcomes, probability
from federated_health.processes import free_port, process
from federated_health.security.authority import make_demo_identities
from federated_health.security.identity import Identity, load_identity
from federated_health.security.parties import Role
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.stream_server import StreamTransport, serve_streams

POLL_SECONDS = 0.02

MIN_OVER_TUTORIAL, MIN_OVER_DEPLOYMENT = 25.0, 500.0
"""Targets: how many times faster terminals should be than these."""


@dataclass(frozen=True)
class Case:
    """Input of every way.

    Attributes:
        folder: a new folder for each run.
        hospitals: CSV by name.
    """

    folder: Path
    hospitals: Mapping[str, Path]
    settings: Settings


@contextmanager
def listening(settings: Settings, tls: Identity | None = None) -> Iterator[tuple[str, StreamTransport]]:
    address = f"127.0.0.1:{free_port()}"
    agreement, terms = settings.task_declaration.agreement, RunTerms.of(settings).text
    with serve_streams(address, agreement, lambda _: None, tls=tls, terms=terms) as grid:
        yield address, grid


def time_run(federation: PlainRun) -> list[float]:
    federation.gather()
    return time_rounds(federation)


def terminals(case: Case, *, encrypted: bool = False) -> list[float]:
    """Server in this process, each hospital in a process of its own, over gRPC."""
    own, identities = make_demo_identities(case.folder / "tls", list(case.hospitals)) if encrypted else (None, {})
    tls = load_identity(own, Role.SERVER) if own else None
    with ExitStack() as stack:
        address, grid = stack.enter_context(listening(case.settings, tls))
        for name, path in case.hospitals.items():
            flags = ("--tls", identities[name], "--accept", RunTerms.of(case.settings).hash) if encrypted else ()
            command = script_command("client.py", "--data", path, "--name", name, "--server", address, *flags)
            stack.enter_context(process(command, log=case.folder / f"{name}.log"))
        return time_run(PlainRun(grid, case.settings))


def in_process(case: Case) -> list[float]:
    contexts = {name: hospital_context(name, {"data": str(path)}) for name, path in case.hospitals.items()}
    return time_run(PlainRun(InProcessTransport(client.app, contexts), case.settings))


def limit(case: Case) -> list[float]:
    """Training, row-weighted averaging and evaluation only: the limit of one process."""
    settings, task = case.settings, case.settings.task_declaration
    hospitals = [load_hospital(path, task, name, DEFAULT_SPLIT_SEED) for name, path in case.hospitals.items()]
    positions = list(task.measurement_positions)
    normalisation = normalisation_from(
        merge_sums([column_sums(hospital.train.values[:, positions]) for hospital in hospitals])
    )
    models = [LocalModel(hospital, settings.network_declaration, normalisation) for hospital in hospitals]
    shares = np.array([len(hospital.train) for hospital in hospitals], dtype=np.float64)
    shares /= shares.sum()
    weights = initial_weights(task, settings.network_declaration, settings.seed)
    times = []
    for number in range(1, settings.rounds + 1):
        started = time.perf_counter()
        trained = [model.train(weights, settings, number)[0] for model in models]
        weights = {
            name: np.tensordot(shares, [update[name] for update in trained], axes=1).astype(np.float32)
            for name in weights
        }
        for model in models:
            count_outcomes(probability(model.score(weights)), model.hospital.test.labels)
        times.append(time.perf_counter() - started)
    return times[1:]


def tutorial(case: Case) -> list[float]:
    """Flower's tutorial; server and hospitals are processes, as in terminals."""
    address, script = f"127.0.0.1:{free_port()}", [sys.executable, tutorial_script.__file__]
    epochs, rounds = str(case.settings.local_epochs), str(case.settings.rounds)
    with ExitStack() as stack:
        output = stack.enter_context((case.folder / "times.json").open("w+"))
        server = subprocess.Popen([*script, "server", address, rounds], stdout=output)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        wait_for_port(address, server)
        for name, path in case.hospitals.items():
            command = [*script, "client", address, str(path), epochs]
            stack.enter_context(process(command, log=case.folder / f"{name}.log"))
        server.wait()
        output.seek(0)
        times: list[float] = json.load(output)
        return times


def wait_for_port(address: str, server: "subprocess.Popen[Any]") -> None:
    """Wait until the server listens, because a tutorial's client ends without a server."""
    host, port = address.split(":")
    while server.poll() is None:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(POLL_SECONDS)
        else:
            return
    raise RuntimeError("the tutorial's server ended")


def light_terminals(case: Case) -> list[float]:
    with ExitStack() as stack:
        address, grid = stack.enter_context(listening(case.settings))
        for number in range(case.settings.hospitals):
            command = [sys.executable, light_hospitals.__file__, "threads", address, str(number), str(number + 1)]
            stack.enter_context(process(command, log=case.folder / f"light-{number}.log"))
        return time_run(PlainRun(grid, case.settings))


def light_in_process(case: Case) -> list[float]:
    names = [f"hospital-{number}" for number in range(case.settings.hospitals)]
    contexts = {name: hospital_context(name, {}) for name in names}
    return time_run(PlainRun(InProcessTransport(light_hospitals.light_app(), contexts), case.settings))


def simulation(case: Case) -> list[float]:
    """Flower's simulation, with one worker per core."""
    import flower_engines

    data = next(iter(case.hospitals.values())).parent
    with flower_engines.simulation(case.folder / "engine", data, hospitals=len(case.hospitals)) as engine:
        return time_engine(engine, case.settings)


def deployment(case: Case) -> list[float]:
    """Flower's SuperLink and SuperNodes."""
    import flower_engines

    with flower_engines.deployment(case.folder / "engine", case.hospitals) as engine:
        return time_engine(engine, case.settings)


def time_engine(engine: Any, settings: Settings) -> list[float]:
    """Seconds of each round after the first and before the last, by the times at which rounds.csv grows.

    The last round is not waited for, because in a deployment each message takes about 10 s.
    """
    table = engine.folder / "run" / "rounds.csv"
    ends: list[float] = []
    config = {"rounds": settings.rounds, "local-epochs": settings.local_epochs}
    with engine.started("run", config) as running, ExitStack() as stack:
        stack.callback(end_all, [engine.superlink, *engine.nodes.values()])
        while len(ends) < settings.rounds - 1:
            if table.exists() and rounds_in(table.read_text()) > len(ends):
                ends.append(time.perf_counter())
            elif running.poll() is not None:
                raise RuntimeError((engine.folder / "run.log").read_text(errors="replace"))
            else:
                time.sleep(POLL_SECONDS)
    return [end - begin for begin, end in pairwise(ends)]


def end_all(parents: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End the processes that these have started for a run and that would outlive them."""
    for pid in [child for parent in parents for child in descendants(parent.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def rounds_in(table: str) -> int:
    """Number of complete rounds in a rounds.csv: the federation's row is the last of each round."""
    return sum(line.split(",")[1:2] == ["federation"] for line in table.splitlines() if table.endswith("\n"))


FAST: Mapping[str, Callable[[Case], list[float]]] = {
    "terminals": terminals,
    "terminals_tls": partial(terminals, encrypted=True),
    "in_process": in_process,
    "limit": limit,
    "tutorial": tutorial,
    "light_terminals": light_terminals,
    "light_in_process": light_in_process,
}

SLOW: Mapping[str, Callable[[Case], list[float]]] = {"simulation": simulation, "deployment": deployment}

PAIRS = {
    "tutorial_over_terminals": ("tutorial", "terminals"),
    "deployment_over_terminals": ("deployment", "terminals"),
    "simulation_over_terminals": ("simulation", "terminals"),
    "tls_over_terminals": ("terminals_tls", "terminals"),
    "terminals_over_in_process": ("terminals", "in_process"),
    "in_process_over_limit": ("in_process", "limit"),
    "light_terminals_over_light_in_process": ("light_terminals", "light_in_process"),
}
"""Name of a ratio -> the slow and the fast way."""


def measure(ways: Sequence[str], rounds: Mapping[str, int], repeats: Mapping[str, int]) -> dict[str, list[list[float]]]:
    """Seconds of rounds per turn, by way; the turns of all ways alternate."""
    measured: dict[str, list[list[float]]] = {way: [] for way in ways}
    settings = replace(Settings(), local_epochs=5, wait=300.0)
    with tempfile.TemporaryDirectory() as name:
        data = write_uci(Path(name) / "data")
        for turn in range(max(repeats.values())):
            for way in ways:
                if turn < repeats[way]:
                    folder = Path(name) / f"{way}-{turn}"
                    folder.mkdir()
                    case = Case(folder, data, replace(settings, rounds=rounds[way]))
                    measured[way].append({**FAST, **SLOW}[way](case))
    return measured


def sum_up(measured: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Figures of each way, and ratios of the measured pairs."""
    result: dict[str, Any] = {
        "ways": {way: describe([seconds for turn in turns for seconds in turn]) for way, turns in measured.items()}
    }
    result["ratios"] = {}
    for name, (slow, fast) in PAIRS.items():
        if slow in measured and fast in measured:
            turns = min(len(measured[slow]), len(measured[fast]))
            result["ratios"][name] = times_as_long(measured[slow][:turns], measured[fast][:turns])
    targets = {"tutorial_over_terminals": MIN_OVER_TUTORIAL, "deployment_over_terminals": MIN_OVER_DEPLOYMENT}
    result["targets"] = {
        name: judged(result["ratios"][name]["ratio"], at_least=least)
        for name, least in targets.items()
        if name in result["ratios"]
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="rounds per turn of the fast ways")
    parser.add_argument("--repeats", type=int, default=3, help="turns of the fast ways")
    parser.add_argument("--tutorial-rounds", type=int, default=12)
    parser.add_argument("--slow-rounds", type=int, default=4, help="rounds of simulation and deployment, in one turn")
    parser.add_argument("--ways", nargs="+", choices=[*FAST, *SLOW], default=[*FAST, *SLOW])
    flags = parser.parse_args()
    quieten()
    rounds = {way: flags.slow_rounds if way in SLOW else flags.rounds for way in flags.ways}
    if "tutorial" in rounds:
        rounds["tutorial"] = flags.tutorial_rounds
    result = sum_up(measure(flags.ways, rounds, {way: 1 if way in SLOW else flags.repeats for way in flags.ways}))
    ways = [{"way": way.replace("_", " "), **figures} for way, figures in result["ways"].items()]
    ratios = [{"ratio of round times": name.replace("_", " "), **ratio} for name, ratio in result["ratios"].items()]
    show(result, {"Rounds": ways, **({"In turns": ratios} if ratios else {})})


if __name__ == "__main__":
    main()
