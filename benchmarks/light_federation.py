"""A server in this process and light hospitals in others (light_hospitals.py), for benchmarks of growth and bytes.

The model may have any number of weights, as one array, because light hospitals do not know the model.

`python light_federation.py HOSPITALS ROUNDS WEIGHTS` runs one case of growth.py and prints JSON. It imports no more
than a server does, so its memory is a server's.
"""

import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import light_hospitals
import numpy as np
from chaos_links import CHUNK, Link
from measuring import memory_of, significant

from federated_health.data.task_files import HEART_DISEASE
from federated_health.messages.validation import max_reply_bytes
from federated_health.ml.networks import initial_weights
from federated_health.processes import free_port, process
from federated_health.security.authority import make_demo_identities
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.server import plain_run
from federated_health.server.plain_run import PlainRun
from federated_health.server.run_folder import RunFolder
from federated_health.settings import Settings
from federated_health.transport.stream_server import serve_streams

MAX_PROCESSES = 2


class Meter(Link):
    """A relay between hospitals and their server that counts bytes on the sockets.

    Attributes:
        to_hospitals, from_hospitals: bytes since it was opened, including HTTP/2 and TLS, excluding TCP and IP.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.to_hospitals = self.from_hospitals = 0

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        is_up = sink in self._writers.values()
        while chunk := await source.read(CHUNK):
            if is_up:
                self.from_hospitals += len(chunk)
            else:
                self.to_hospitals += len(chunk)
            sink.write(chunk)
            await sink.drain()


@contextmanager
def metered(address: str) -> Iterator[Meter]:
    """A meter in front of a server, in a thread of its own."""
    host, port = address.split(":")
    loop, meter = asyncio.new_event_loop(), Meter(host, int(port))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(meter.open(), loop).result()
    try:
        yield meter
    finally:
        asyncio.run_coroutine_threadsafe(meter.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def settings_for(hospitals: int, rounds: int, **others: Any) -> Settings:
    """The default settings for light hospitals, which have no own model to compare the federated one with."""
    defaults = Settings()
    return replace(defaults, hospitals=hospitals, rounds=rounds, wait=light_hospitals.WAIT, appraisal=False, **others)


@contextmanager
def light_processes(
    address: str, hospitals: int, processes: int, *, kind: str, tls: Path | None = None
) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Light hospitals in at most this many processes.

    Args:
        kind: `threads` or `loop`, see light_hospitals.py.
        tls: folder of the hospitals' identities.
    """
    parts = min(processes, hospitals)
    command = [sys.executable, light_hospitals.__file__, kind, address]
    with ExitStack() as stack:
        yield [
            stack.enter_context(process([*command, str(first), str(last), *([str(tls)] if tls else [])]))
            for first, last in pairwise(hospitals * part // parts for part in range(parts + 1))
        ]


@contextmanager
def light_federation(
    hospitals: int,
    rounds: int,
    *,
    weights: int = 0,
    tls: Path | None = None,
    meter: bool = False,
    processes: int = MAX_PROCESSES,
    kind: str = "loop",
) -> Iterator[tuple[PlainRun, Any, Meter | None]]:
    """A run that has not gathered its hospitals yet, its grid, and the meter if one was asked for.

    Args:
        weights: number of weights; 0 for the default model.
        tls: a new folder for all identities; None for no TLS.
        processes, kind: see `light_processes`.
    """
    settings = settings_for(hospitals, rounds)
    address = f"127.0.0.1:{free_port()}"
    names = [f"hospital-{number}" for number in range(hospitals)]
    own, folders = make_demo_identities(tls, names) if tls else (None, {})
    with ExitStack() as stack:
        identity = load_identity(own, Role.SERVER) if own else None
        largest = max_reply_bytes(settings.task_declaration, settings.network_declaration) + 8 * weights
        grid = stack.enter_context(
            serve_streams(address, HEART_DISEASE.agreement, lambda _: None, max_message_bytes=largest, tls=identity)
        )
        if weights:
            arrays = {"weights": np.random.default_rng(0).normal(size=weights).astype(np.float32)}
        else:
            arrays = initial_weights(HEART_DISEASE, settings.network_declaration, settings.seed)
        shapes = {name: values.shape for name, values in arrays.items()}
        stack.enter_context(mock.patch.object(plain_run, "initial_weights", return_value=arrays))
        stack.enter_context(mock.patch.object(plain_run, "weight_shapes", return_value=shapes))
        run = PlainRun(grid, settings)
        meter_link = stack.enter_context(metered(address)) if meter else None
        joined = meter_link.address if meter_link else address
        identities = folders["hospital-0"].parent if folders else None
        stack.enter_context(light_processes(joined, hospitals, processes, kind=kind, tls=identities))
        yield run, grid, meter_link


def serve(hospitals: int, rounds: int, weights: int) -> dict[str, float]:
    """Run one case, whose server is this process; times and memory."""
    before = memory_of()["now_mib"]
    with tempfile.TemporaryDirectory() as out, light_federation(hospitals, rounds, weights=weights) as started:
        run, grid, _ = started
        began = time.perf_counter()
        run.gather()
        gathered = time.perf_counter()
        with_hospitals = memory_of()["now_mib"]
        ends, complete = [], 0
        with RunFolder(replace(run.settings, out=out, force=True)) as folder:
            folder.begin(run)
            for record in run.rounds():
                folder.append_round(run)
                ends.append(time.perf_counter())
                complete += sum(hospital.counts is not None for hospital in record.hospitals.values()) == hospitals
        problems = len(grid.take_problems())
    if (complete, problems) != (rounds, 0):
        raise RuntimeError(f"{complete} of {rounds} rounds were complete; {problems} problems")
    # A round is evaluated in the next round's message; the last round's evaluation has a message of its own.
    seconds = (ends[-2] - ends[0]) / (rounds - 2)
    return {
        "round_ms": significant(1000 * seconds),
        "rounds_per_second": significant(1 / seconds),
        "seconds_to_gather": significant(gathered - began),
        "memory_before_mib": significant(before, 4),
        "memory_joined_mib": significant(with_hospitals, 4),
        "memory_peak_mib": significant(memory_of()["peak_mib"], 4),
    }


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.ERROR)
    print(json.dumps(serve(*map(int, sys.argv[1:]))))
