"""The scripts as forks of one process that has imported TensorFlow: they start in 0.1 s instead of 5 s.

For tests of what server and hospitals do with each other. Tests of how a script starts, and of what it imports and
when, start it anew with `federated_health.processes.process`.
"""

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

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
    """A forked process, with those methods of `subprocess.Popen` that tests need."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        _, script_command, *flags = command
        start_fork_server()
        self._process = Process(log, run_script, Path(script_command).name, flags)

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
def forked(command: Sequence[str], log: Path) -> Iterator[Fork]:
    """Run a script's command as `federated_health.processes.process` does, in a fork."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")  # the file exists from the start
    running = Fork(command, log)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait(PATIENCE)
