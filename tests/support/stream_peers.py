"""A server and a hospital without Keras as processes, for tests that kill, freeze or disconnect them.

`python -m tests.support.stream_peers serve HOST:PORT [MAX_BYTES]` sends questions to every hospital; `join HOST:PORT
NAME` answers with 1, 2, 3 and so on. Both print a line per event. KEEPALIVE is read from the environment.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from federated_health.transport import backoff, channels, obstacles
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.stream_client import join_run
from federated_health.transport.stream_server import serve_streams
from tests.support.scripts import PROJECT
from tests.support.streams import AGREEMENT
from tests.support.wire import UNWRITTEN


def show(line: str) -> None:
    print(line, flush=True)


def serve(address: str, max_message_bytes: str = "1048576") -> None:
    with serve_streams(address, AGREEMENT, show, max_message_bytes=int(max_message_bytes)) as grid:
        show("listening")
        while True:
            for node, name in grid.names().items():
                (reply,) = grid.send_and_receive([Message(RecordDict(), node, "query")], timeout=5)
                if reply.has_error():
                    show(f"error {name} {reply.error.reason}")
                else:
                    show(f"answer {name} {reply.content.config_records['answer']['number']!r}")
            for problem in grid.take_problems():
                show(f"problem {problem.hospital} {problem.reason}")
            time.sleep(0.05)


def join(address: str, name: str) -> None:
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        number = int(str(context.node_config.setdefault("answers", 0))) + 1
        context.node_config["answers"] = number
        return Message(RecordDict({"answer": ConfigRecord({"number": number})}), reply_to=message)

    context = hospital_context(name, {})
    join_run(
        app,
        context,
        name=name,
        address=address,
        agreement=AGREEMENT,
        wait=60.0,
        announce=show,
        prepare=lambda: None,
        ledger=UNWRITTEN,
    )


def peer(
    log: Path, *arguments: object, keepalive: float = 20.0, before: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """A process of `stream_peers` that prints into a file."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [*before, sys.executable, "-m", "tests.support.stream_peers", *map(str, arguments)],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            env={**os.environ, "KEEPALIVE": str(keepalive)},
        )


@contextmanager
def peers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list of processes that are killed at the end."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield started
    finally:
        for process in started:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def answers(log: Path) -> list[int]:
    found = (re.fullmatch(r"answer \S+ (\d+)", line) for line in lines(log))  # not a line that kill -9 cut off
    return [int(answer[1]) for answer in found if answer]


def later_answers(log: Path) -> Callable[[], bool]:
    """A condition: the server has received three more answers than at the time of this call."""
    before = len(answers(log))
    return lambda: len(answers(log)) > before + 2


if __name__ == "__main__":
    channels.KEEPALIVE_SECONDS = float(os.environ.get("KEEPALIVE", channels.KEEPALIVE_SECONDS))
    channels.CHANNEL_OPTIONS = channels.channel_options(channels.KEEPALIVE_SECONDS)
    backoff.MAX_DELAY, obstacles.PREFLIGHT_SECONDS = 0.3, 0.5
    run = serve if sys.argv[1] == "serve" else join
    run(*sys.argv[2:])
