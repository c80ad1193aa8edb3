"""The scripts as forks of one process that has imported TensorFlow: they start in 0.1 s instead of 5 s.

For tests of what server and hospitals do with each other. How a script starts, and what it imports and when, is tested
with fresh processes: `federated_health.processes.process`.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from chaos_processes import Process, prepare_forks, run_script

from federated_health.processes import PATIENCE

POLL_SECONDS = 0.02


@cache
def start_fork_server() -> None:
    with pytest.MonkeyPatch.context() as undone:
        undone.setenv("PYTHONPATH", "")  # prepare_forks() sets it for good, and other tests start processes, too
        prepare_forks()
        # Besides the scripts, what the forks of test_checkpoint_crashes and of integration/test_chaos import.
        forkserver.set_forkserver_preload(["chaos_preload", "tests.support.checkpoints", "chaos_run", "chaos_verdict"])
        forkserver.ensure_running()


class Fork:
    """A forked process, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, log: Path, call: Callable[..., None], *arguments: Any) -> None:
        start_fork_server()
        self._process = Process(log, call, *arguments)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.code

    def wait(self, timeout: float) -> int:
        """Wait for the exit code.

        Raises:
            subprocess.TimeoutExpired: the process is still running.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self._process.log), timeout)
            time.sleep(POLL_SECONDS)
        return code

    def kill(self) -> None:
        self._process.send(signal.SIGKILL)

    def terminate(self) -> None:
        self._process.send(signal.SIGTERM)


@contextmanager
def forked_call(log: Path, call: Callable[..., None], *arguments: Any) -> Iterator[Fork]:
    """A call in a forked process; as with `federated_health.processes.process`, it does not outlive the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")  # it is there at once, and empty
    running = Fork(log, call, *arguments)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait(PATIENCE)


def forked(command: Sequence[str], log: Path) -> AbstractContextManager[Fork]:
    """A script's command, as `federated_health.processes.process` runs it, but without its imports."""
    _, script, *flags = command
    return forked_call(log, run_script, Path(script).name, flags)
