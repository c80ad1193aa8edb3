"""Seconds per round and the server's memory, by size of the network: this project beside Flower's stream; JSON.

Four hospitals over loopback, each a process, only add a number to the weights that they receive. The ways alternate in
one run, since machines are noisy: trust the ratios. `stream` is the run of server.py without files, with hospitals as
client.py runs them and their ledgers in memory; `checkpointed` also writes rounds.csv and a checkpoint per round;
`flower` is Flower's `start_server` and `start_client`. The limits are `bare_grpc`, a gRPC stream with the same bytes in
the same chunks, and `tcp`, a socket; both copy the bytes to a buffer at either end, and do nothing else.

Rounds after the first are timed. Memory is a server's peak beyond what it needs before there are weights.
"""

import argparse
import asyncio
import json
import logging
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

import grpc
import light_federation  # and finds the project
import numpy as np
from measuring import describe, judged, memory_of, show, significant, times_as_long
from scripts import PROJECT

from federated_health.processes import free_port, process
from federated_health.server.run_folder import RunFolder
from federated_health.transport.channels import CHANNEL_OPTIONS
from federated_health.transport.framing import CHUNK_BYTES

HOSPITALS = 4
FOLDER = PROJECT / "runs"
"""Where checkpoints are written: on the disk of the project."""

DEFAULT = 689
"""Number of weights of the default network."""

WEIGHTS = {0: 300, 1_000_000: 30, 10_000_000: 10}
"""Number of weights, 0 for the default network -> rounds per turn."""

MAX_MS = {1_000_000: 60.0, 10_000_000: 1000.0}
MAX_MIB = {10_000_000: 512.0}
"""Targets by number of weights."""

POLL_SECONDS, WAIT = 0.02, 60.0
"""Seconds between attempts to connect, and until they end."""

Found = dict[str, Any]


def stream(weights: int, rounds: int, *, checkpoints: bool = False) -> Found:
    """This project's server and hospitals."""
    before = memory_of()["now_mib"]
    with ExitStack() as stack:
        run, grid, _ = stack.enter_context(
            light_federation.light_federation(HOSPITALS, rounds, weights=weights, processes=HOSPITALS, kind="threads")
        )
        run.gather()
        folder = None
        if checkpoints:
            FOLDER.mkdir(exist_ok=True)
            out = stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDER))
            folder = stack.enter_context(RunFolder(replace(run.settings, out=out, force=True)))
            folder.begin(run)
        ends = []
        for record in run.rounds():
            ends.append(time.perf_counter())
            if folder:
                folder.append_round(run)
            if any(hospital.counts is None for hospital in record.hospitals.values()):
                raise RuntimeError("a round was incomplete")
        if grid.take_problems():
            raise RuntimeError("there were problems")
    return found(ends[:-1], before)  # the last round has an evaluation of its own


def checkpointed(weights: int, rounds: int) -> Found:
    return stream(weights, rounds, checkpoints=True)


def flower(weights: int, rounds: int) -> Found:
    """Flower's `start_server` and `start_client`, without evaluation."""
    from flwr.common import ndarrays_to_parameters
    from flwr.server import ServerConfig, start_server
    from flwr.server.strategy import FedAvg

    ends: list[float] = []

    class TimedFedAvg(FedAvg):
        def aggregate_fit(self, *arguments: Any) -> Any:
            aggregated = super().aggregate_fit(*arguments)
            ends.append(time.perf_counter())
            return aggregated

    before = memory_of()["now_mib"]
    strategy = TimedFedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=HOSPITALS,
        min_available_clients=HOSPITALS,
        initial_parameters=ndarrays_to_parameters([np.zeros(weights or DEFAULT, np.float32)]),
    )
    with peers("flower_peer", weights) as address:
        start_server(server_address=address, config=ServerConfig(num_rounds=rounds), strategy=strategy)
    return found(ends, before)


def flower_peer(address: str, _weights: int) -> None:
    from flwr.client import NumPyClient, start_client

    class Peer(NumPyClient):
        def fit(self, parameters: Any, config: Any) -> Any:  # noqa: ARG002  # Flower's signature
            return [array + np.float32(0.001) for array in parameters], 1, {}

    wait_for_port(address)
    start_client(server_address=address, client=Peer().to_client(), insecure=True)


def bare_grpc(weights: int, rounds: int) -> Found:
    """The same bytes in chunks over a gRPC stream per hospital, copied to a buffer at either end."""
    return asyncio.run(serve_chunks(4 * (weights or DEFAULT), weights, rounds))


async def serve_chunks(size: int, weights: int, rounds: int) -> Found:
    before, over = memory_of()["now_mib"], asyncio.Event()
    contexts: list[Any] = []

    async def join(_requests: Any, context: Any) -> None:
        await context.send_initial_metadata(())
        contexts.append(context)
        await over.wait()

    async def exchange(context: Any, buffer: bytearray) -> None:
        for chunk in chunks(content):
            await context.write(chunk)
        received = 0
        while received < size:
            chunk = await context.read()
            buffer[received : received + len(chunk)] = chunk
            received += len(chunk)

    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    handler = grpc.method_handlers_generic_handler("bare", {"Join": grpc.stream_stream_rpc_method_handler(join)})
    server.add_generic_rpc_handlers((handler,))
    content, buffers, ends = bytes(size), [bytearray(size) for _ in range(HOSPITALS)], []
    with peers("bare_grpc_peer", weights) as address:
        server.add_insecure_port(address)
        await server.start()
        while len(contexts) < HOSPITALS:
            await asyncio.sleep(POLL_SECONDS)
        for _ in range(rounds):
            await asyncio.gather(*map(exchange, contexts, buffers))
            ends.append(time.perf_counter())
        over.set()
        await server.stop(1)
    return found(ends, before)


def bare_grpc_peer(address: str, weights: int) -> None:
    wait_for_port(address)
    buffer, outbox = bytearray(4 * (weights or DEFAULT)), SimpleQueue[bytes | None]()
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        received = 0
        for chunk in channel.stream_stream("/bare/Join")(iter(outbox.get, None)):
            buffer[received : received + len(chunk)] = chunk
            received += len(chunk)
            if received == len(buffer):
                received = 0
                for reply in chunks(buffer):
                    outbox.put(reply)
        outbox.put(None)


def tcp(weights: int, rounds: int) -> Found:
    """The same bytes over a socket per hospital, with a thread each."""
    before, size, ends = memory_of()["now_mib"], 4 * (weights or DEFAULT), []
    content, buffers = bytes(size), [bytearray(size) for _ in range(HOSPITALS)]

    def exchange(connection: socket.socket, buffer: bytearray) -> None:
        connection.sendall(content)
        receive(connection, buffer)

    with peers("tcp_peer", weights) as address, ThreadPoolExecutor(HOSPITALS) as pool, ExitStack() as stack:
        host, port = address.split(":")
        listener = stack.enter_context(socket.create_server((host, int(port))))
        connections = [stack.enter_context(listener.accept()[0]) for _ in range(HOSPITALS)]
        for _ in range(rounds):
            list(pool.map(exchange, connections, buffers))
            ends.append(time.perf_counter())
    return found(ends, before)


def tcp_peer(address: str, weights: int) -> None:
    buffer = bytearray(4 * (weights or DEFAULT))
    with wait_for_port(address) as connection:
        while receive(connection, buffer):
            connection.sendall(buffer)


def receive(connection: socket.socket, buffer: bytearray) -> bool:
    """Fill a buffer; false if the connection ends first."""
    view = memoryview(buffer)
    while view:
        if not (number := connection.recv_into(view)):
            return False
        view = view[number:]
    return True


def chunks(content: bytes | bytearray) -> Iterator[bytes]:
    view = memoryview(content)
    return (bytes(view[start : start + CHUNK_BYTES]) for start in range(0, len(view), CHUNK_BYTES))


@contextmanager
def peers(role: str, weights: int) -> Iterator[str]:
    """Four processes that connect to the address as soon as a server listens."""
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        for _ in range(HOSPITALS):
            stack.enter_context(process([sys.executable, __file__, role, address, str(weights)]))
        yield address


def wait_for_port(address: str) -> socket.socket:
    """A connection to the address, once a server listens there."""
    host, port = address.split(":")
    deadline = time.monotonic() + WAIT
    while True:
        try:
            return socket.create_connection((host, int(port)))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def found(ends: Sequence[float], before: float) -> Found:
    """Seconds of each round after the first, and MiB beyond those before."""
    seconds = [end - begin for begin, end in pairwise(ends)]
    return {"seconds": seconds, "memory_mib": memory_of()["peak_mib"] - before}


WAYS: Mapping[str, Callable[[int, int], Found]] = {
    "stream": stream,
    "checkpointed": checkpointed,
    "flower": flower,
    "bare_grpc": bare_grpc,
    "tcp": tcp,
}
PEERS = {"flower_peer": flower_peer, "bare_grpc_peer": bare_grpc_peer, "tcp_peer": tcp_peer}
PAIRS = {"flower_over_stream": ("flower", "stream"), "stream_over_bare_grpc": ("stream", "bare_grpc")}
PAIRS |= {"stream_over_tcp": ("stream", "tcp"), "checkpointed_over_stream": ("checkpointed", "stream")}
"""Name of a ratio -> the slow and the fast way."""


def measure(ways: Sequence[str], weights: int, rounds: int, repeats: int) -> dict[str, list[Found]]:
    """What each way found in each turn; the turns of all ways alternate."""
    measured: dict[str, list[Found]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            command = [sys.executable, __file__, way, str(weights), str(rounds)]
            measured[way].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    return measured


def sum_up(measured: Mapping[int, Mapping[str, Sequence[Found]]]) -> Found:
    """Figures by size and way, ratios of ways, and the targets."""
    result: Found = {"hospitals": HOSPITALS, "rounds": [], "ratios": [], "targets": {}}
    for weights, ways in measured.items():
        seconds = {way: [turn["seconds"] for turn in turns] for way, turns in ways.items()}
        rows: dict[str, Found] = {
            way: {
                "weights": weights or DEFAULT,
                "way": way,
                **describe([second for turn in seconds[way] for second in turn]),
                "memory_mib": significant(max(turn["memory_mib"] for turn in turns)),
            }
            for way, turns in ways.items()
        }
        result["rounds"] += rows.values()
        result["ratios"] += [
            {"weights": weights or DEFAULT, "ratio": name, **times_as_long(seconds[slow], seconds[fast])}
            for name, (slow, fast) in PAIRS.items()
            if slow in seconds and fast in seconds
        ]
        if "stream" in rows and weights in MAX_MS:
            name = f"{weights:,} weights"
            result["targets"][f"ms per round, {name}"] = judged(rows["stream"]["median_ms"], at_most=MAX_MS[weights])
            if weights in MAX_MIB:
                result["targets"][f"MiB, {name}"] = judged(rows["stream"]["memory_mib"], at_most=MAX_MIB[weights])
    return result


def main() -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    if len(sys.argv) == 4 and sys.argv[1] in {**WAYS, **PEERS}:
        role, first, second = sys.argv[1:]
        if role in PEERS:
            PEERS[role](first, int(second))
        else:
            print(json.dumps(WAYS[role](int(first), int(second))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=int, nargs="+", choices=list(WEIGHTS), default=list(WEIGHTS))
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    flags = parser.parse_args()
    measured = {size: measure(flags.ways, size, WEIGHTS[size], flags.repeats) for size in flags.weights}
    result = sum_up(measured)
    show(result, {"Rounds": result["rounds"], **({"In turns": result["ratios"]} if result["ratios"] else {})})


if __name__ == "__main__":
    main()
