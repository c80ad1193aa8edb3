"""server.py and client.py as forks of a process that has imported TensorFlow once.

They are separate processes that can be killed, stopped and restarted, and start in 0.1 s instead of 10 s.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from chaos_conditions import ORDINARY, Conditions
from scripts import PROJECT

POLL_SECONDS = 0.02

forks = multiprocessing.get_context("forkserver")


def prepare_forks() -> None:
    """Set what the fork server imports; it starts with the first process."""
    folders = [str(PROJECT), str(PROJECT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    forks.set_forkserver_preload(["__main__", "chaos_preload"])


class Process:
    """A forked process.

    Args:
        log: file to which its output is appended.
        call: function to run; it is pickled with its arguments.
        conditions: under which it starts; the ordinary ones by default.
    """

    def __init__(
        self, log: Path, call: Callable[..., None], *arguments: Any, conditions: Conditions = ORDINARY
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = forks.Process(target=_begin, args=(log, conditions, call, arguments), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None, "it was started"
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code as in `subprocess`: None while it runs, -9 if it was killed."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        """Send a signal if the process is running."""
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def wait(self, seconds: float) -> int | None:
        """Wait up to this long; the exit code, or None if the process is still running."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.code is None and loop.time() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        return self.code

    async def kill(self) -> None:
        self.send(signal.SIGKILL)
        await self.wait(10.0)


@contextmanager
def ended() -> Iterator[list[Process]]:
    """A list whose processes are killed at the end of the block."""
    processes: list[Process] = []
    try:
        yield processes
    finally:
        for process in processes:
            process.send(signal.SIGKILL)


def run_script(name: str, flags: Sequence[str]) -> None:
    """Do in a forked process what `python NAME FLAGS` does."""
    import client
    import server
    import utils
    from federated_health.cli.client import run_client
    from federated_health.cli.server import serve

    sys.argv = [name, *flags]
    utils.run_script((lambda: serve(server.app)) if name == "server.py" else (lambda: run_client(client.app)))


def _begin(log: Path, conditions: Conditions, call: Callable[..., None], arguments: Sequence[Any]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text file, with nothing buffered at a kill -9
    conditions.enter()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    call(*arguments)


def _end_with_parent() -> None:
    """End with the parent, so that killing the benchmark leaves no processes behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
