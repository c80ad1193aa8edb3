"""A server in this process and light hospitals in others (light_streams.py): what benchmarks of growth and bytes run.

The model may have any number of weights, as one array: light hospitals know no model.
"""

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import light_hospitals
import light_streams
import numpy as np
from chaos_links import CHUNK, Link
from federated_health.server.kinds import max_reply_bytes

from federated_health.data.tasks import HEART_DISEASE
from federated_health.ml.networks import initial_weights
from federated_health.processes import free_port, process
from federated_health.security.authority import make_demo_identities
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.server import plain_run as federations
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings, read_defaults
from federated_health.transport.stream_server import serve_streams

MAX_PROCESSES = 2


class Meter(Link):
    """A hospitals' way to their server that counts what passes, as the sockets have it.

    Attributes:
        to_hospitals, from_hospitals: bytes since it was opened, with HTTP/2's and TLS's own, without TCP's and IP's.
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
    """A meter before a server, in a thread of its own."""
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


def settings_for(hospitals: int, rounds: int) -> Settings:
    return replace(
        Settings.from_config(read_defaults()),
        hospitals=hospitals,
        rounds=rounds,
        wait=light_hospitals.WAIT,
        appraisal=False,
    )


@contextmanager
def light_federation(
    hospitals: int, rounds: int, *, weights: int = 0, tls: Path | None = None, meter: bool = False
) -> Iterator[tuple[PlainRun, Any, Meter | None]]:
    """A federation that has not gathered yet, its grid, and the meter, if there is one.

    Args:
        weights: how many; 0 for the default model.
        tls: a new folder, for all identities; None to go without.
    """
    settings = settings_for(hospitals, rounds)
    address = f"127.0.0.1:{free_port()}"
    own, folders = make_demo_identities(tls, [f"hospital-{one}" for one in range(hospitals)]) if tls else (None, {})
    with ExitStack() as stack:
        identity = load_identity(own, Role.SERVER) if own else None
        largest = max_reply_bytes(settings) + 8 * weights
        grid = stack.enter_context(
            serve_streams(address, HEART_DISEASE.agreement, lambda _: None, max_message_bytes=largest, tls=identity)
        )
        if weights:
            array = {"weights": np.random.default_rng(0).normal(size=weights).astype(np.float32)}
        else:
            array = initial_weights(HEART_DISEASE, settings.model, settings.seed)
        shapes = {name: one.shape for name, one in array.items()}
        stack.enter_context(mock.patch.object(federations, "initial_weights", return_value=array))
        stack.enter_context(mock.patch.object(federations, "weight_shapes", return_value=shapes))
        federation = PlainRun(grid, settings)
        between = stack.enter_context(metered(address)) if meter else None
        joined = between.address if between else address
        parts = min(MAX_PROCESSES, hospitals)
        for first, last in pairwise(hospitals * part // parts for part in range(parts + 1)):
            identities = [str(folders["hospital-0"].parent)] if folders else []
            command = [sys.executable, light_streams.__file__, joined, str(first), str(last), *identities]
            stack.enter_context(process(command))
        yield federation, grid, between
