"""Rounds a second with the four heart hospitals, each way that a federation can be run; JSON and a table.

Five local epochs and an evaluation every round, times of rounds after the first. All ways are measured in turns in one
run, since machines are noisy: trust the ratios. `limit` is the same compiled training and NumPy averaging without
Flower in one process; `tutorial` what Flower's tutorials do (tutorial_way.py). The light ways have hospitals that
answer at once, so what is left is the stream's own.
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
import tutorial_way
from common import quieten, time_rounds, write_uci
from measuring import descendants, describe, judged, show, times_as_long

import client
from federated_health.cli.processes import free_port, process, script_command
from federated_health.data.hospital import load_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.hospital.local_model import LocalModel
from federated_health.ml.metrics import count_outcomes, probability
from federated_health.ml.networks import initial_weights
from federated_health.ml.normalisation import column_sums, merge_sums, normalisation_from
from federated_health.security import Identity, Role, load_identity, make_all_identities
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings, read_defaults
from federated_health.transport import InProcessGrid, StreamGrid, hospital_context, serve_streams

POLL_SECONDS = 0.02

AGAINST_TUTORIAL, AGAINST_DEPLOYMENT = 25.0, 500.0
"""Times as fast as these that terminals should be."""


@dataclass(frozen=True)
class Setting:
    """What every way gets.

    Attributes:
        folder: a new one for each run of a way.
        hospitals: name -> CSV.
    """

    folder: Path
    hospitals: Mapping[str, Path]
    settings: Settings


@contextmanager
def listening(settings: Settings, tls: Identity | None = None) -> Iterator[tuple[str, StreamGrid]]:
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, settings.task_declaration.agreement, lambda _: None, tls=tls) as grid:
        yield address, grid


def time_course(federation: PlainRun) -> list[float]:
    federation.gather()
    return time_rounds(federation)


def terminals(given: Setting, *, encrypted: bool = False) -> list[float]:
    """The server in this process, each hospital in one of its own, over gRPC."""
    own, identities = make_all_identities(given.folder / "tls", list(given.hospitals)) if encrypted else (None, {})
    tls = load_identity(own, Role.SERVER) if own else None
    with ExitStack() as stack:
        address, grid = stack.enter_context(listening(given.settings, tls))
        for name, path in given.hospitals.items():
            flags = ("--tls", identities[name]) if encrypted else ()
            command = script_command("client.py", "--data", path, "--name", name, "--server", address, *flags)
            stack.enter_context(process(command, log=given.folder / f"{name}.log"))
        return time_course(PlainRun(grid, given.settings))


def in_process(given: Setting) -> list[float]:
    contexts = {name: hospital_context(name, {"data": str(path)}) for name, path in given.hospitals.items()}
    return time_course(PlainRun(InProcessGrid(client.app, contexts), given.settings))


def limit(given: Setting) -> list[float]:
    """Training, row-weighted averaging and evaluation alone: as fast as one process can be."""
    settings, task = given.settings, given.settings.task_declaration
    hospitals = [load_hospital(path, task, name, DEFAULT_SPLIT_SEED) for name, path in given.hospitals.items()]
    positions = list(task.measurement_positions)
    normalisation = normalisation_from(merge_sums([column_sums(one.train.values[:, positions]) for one in hospitals]))
    local = [LocalModel(one, settings.model, normalisation) for one in hospitals]
    shares = np.array([len(one.train) for one in hospitals], dtype=np.float64)
    shares /= shares.sum()
    weights = initial_weights(task, settings.model, settings.seed)
    times = []
    for number in range(1, settings.rounds + 1):
        started = time.perf_counter()
        trained = [one.train(weights, settings, number)[0] for one in local]
        weights = {
            name: np.tensordot(shares, [one[name] for one in trained], axes=1).astype(np.float32) for name in weights
        }
        for one in local:
            count_outcomes(probability(one.score(weights)), one.hospital.test.labels)
        times.append(time.perf_counter() - started)
    return times[1:]


def tutorial(given: Setting) -> list[float]:
    """Server and hospitals are processes, as in terminals."""
    address, script = f"127.0.0.1:{free_port()}", [sys.executable, tutorial_way.__file__]
    epochs, rounds = str(given.settings.local_epochs), str(given.settings.rounds)
    with ExitStack() as stack:
        told = stack.enter_context((given.folder / "times.json").open("w+"))
        server = subprocess.Popen([*script, "server", address, rounds], stdout=told)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        wait_for_port(address, server)
        for name, path in given.hospitals.items():
            command = [*script, "client", address, str(path), epochs]
            stack.enter_context(process(command, log=given.folder / f"{name}.log"))
        server.wait()
        told.seek(0)
        times: list[float] = json.load(told)
        return times


def wait_for_port(address: str, server: "subprocess.Popen[Any]") -> None:
    """A tutorial's client ends where there is no server yet."""
    host, port = address.split(":")
    while server.poll() is None:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(POLL_SECONDS)
        else:
            return
    raise RuntimeError("the tutorial's server ended")


def light_terminals(given: Setting) -> list[float]:
    with ExitStack() as stack:
        address, grid = stack.enter_context(listening(given.settings))
        for number in range(given.settings.hospitals):
            command = [sys.executable, light_hospitals.__file__, address, str(number), str(number + 1)]
            stack.enter_context(process(command, log=given.folder / f"light-{number}.log"))
        return time_course(PlainRun(grid, given.settings))


def light_in_process(given: Setting) -> list[float]:
    names = [f"hospital-{number}" for number in range(given.settings.hospitals)]
    contexts = {name: hospital_context(name, {}) for name in names}
    return time_course(PlainRun(InProcessGrid(light_hospitals.light_app(), contexts), given.settings))


def simulation(given: Setting) -> list[float]:
    """Flower's simulation, with as many workers at a time as there are cores."""
    import flower_engines

    data = next(iter(given.hospitals.values())).parent
    with flower_engines.simulation(given.folder / "engine", data, hospitals=len(given.hospitals)) as engine:
        return time_engine(engine, given.settings)


def deployment(given: Setting) -> list[float]:
    """Flower's SuperLink and SuperNodes."""
    import flower_engines

    with flower_engines.deployment(given.folder / "engine", given.hospitals) as engine:
        return time_engine(engine, given.settings)


def time_engine(engine: Any, settings: Settings) -> list[float]:
    """Seconds of each round after the first and before the last, as they appear in rounds.csv.

    The last one only evaluates, and is not waited for: in a deployment every message takes some ten seconds.
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
    """End the processes that these have started for a run, which would outlive them."""
    for pid in [child for one in parents for child in descendants(one.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def rounds_in(table: str) -> int:
    """Rounds that a rounds.csv holds wholly: the federation's row is each one's last."""
    return sum(line.split(",")[1:2] == ["federation"] for line in table.splitlines() if table.endswith("\n"))


FAST: Mapping[str, Callable[[Setting], list[float]]] = {
    "terminals": terminals,
    "terminals_tls": partial(terminals, encrypted=True),
    "in_process": in_process,
    "limit": limit,
    "tutorial": tutorial,
    "light_terminals": light_terminals,
    "light_in_process": light_in_process,
}

SLOW: Mapping[str, Callable[[Setting], list[float]]] = {"simulation": simulation, "deployment": deployment}

PAIRS = {
    "tutorial_over_terminals": ("tutorial", "terminals"),
    "deployment_over_terminals": ("deployment", "terminals"),
    "simulation_over_terminals": ("simulation", "terminals"),
    "tls_over_terminals": ("terminals_tls", "terminals"),
    "terminals_over_in_process": ("terminals", "in_process"),
    "in_process_over_limit": ("in_process", "limit"),
    "light_terminals_over_light_in_process": ("light_terminals", "light_in_process"),
}
"""Name -> the slow and the fast one of two ways."""


def measure(ways: Sequence[str], rounds: Mapping[str, int], repeats: Mapping[str, int]) -> dict[str, list[list[float]]]:
    """Seconds of rounds of each turn, by way; a way's turns are spread among the others'."""
    measured: dict[str, list[list[float]]] = {way: [] for way in ways}
    settings = replace(Settings.from_config(read_defaults()), local_epochs=5, wait=300.0)
    with tempfile.TemporaryDirectory() as name:
        data = write_uci(Path(name) / "data")
        for turn in range(max(repeats.values())):
            for way in ways:
                if turn < repeats[way]:
                    folder = Path(name) / f"{way}-{turn}"
                    folder.mkdir()
                    given = Setting(folder, data, replace(settings, rounds=rounds[way]))
                    measured[way].append({**FAST, **SLOW}[way](given))
    return measured


def sum_up(measured: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Figures of each way, and ratios of those pairs that were measured."""
    result: dict[str, Any] = {
        "ways": {way: describe([one for turn in turns for one in turn]) for way, turns in measured.items()}
    }
    result["ratios"] = {}
    for name, (slow, fast) in PAIRS.items():
        if slow in measured and fast in measured:
            turns = min(len(measured[slow]), len(measured[fast]))
            result["ratios"][name] = times_as_long(measured[slow][:turns], measured[fast][:turns])
    targets = {"tutorial_over_terminals": AGAINST_TUTORIAL, "deployment_over_terminals": AGAINST_DEPLOYMENT}
    result["targets"] = {
        name: judged(result["ratios"][name]["ratio"], at_least=least)
        for name, least in targets.items()
        if name in result["ratios"]
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="a turn, of the fast ways")
    parser.add_argument("--repeats", type=int, default=3, help="turns, of the fast ways")
    parser.add_argument("--tutorial-rounds", type=int, default=12)
    parser.add_argument("--slow-rounds", type=int, default=4, help="of simulation and deployment, in one turn")
    parser.add_argument("--ways", nargs="+", choices=[*FAST, *SLOW], default=[*FAST, *SLOW])
    flags = parser.parse_args()
    quieten()
    rounds = {way: flags.slow_rounds if way in SLOW else flags.rounds for way in flags.ways}
    if "tutorial" in rounds:
        rounds["tutorial"] = flags.tutorial_rounds
    result = sum_up(measure(flags.ways, rounds, {way: 1 if way in SLOW else flags.repeats for way in flags.ways}))
    ways = [{"way": way.replace("_", " "), **figures} for way, figures in result["ways"].items()]
    ratios = [{"ratio of rounds' times": name.replace("_", " "), **one} for name, one in result["ratios"].items()]
    show(result, {"Rounds": ways, **({"In turns": ratios} if ratios else {})})


if __name__ == "__main__":
    main()
