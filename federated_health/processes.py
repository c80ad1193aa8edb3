"""Subcommands as processes on this machine, for the demo, benchmarks and tests."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from federated_health.errors import RunError

PATIENCE = 30.0
"""Seconds that a process has to end by itself."""


def command(subcommand: str, *arguments: object) -> list[str]:
    """The command line of a subcommand: this Python, this copy of the package, and no module of the current folder."""
    folder = str(Path(__file__).resolve().parents[1])
    start = f"import sys; sys.path[:0] = [path for path in [{folder!r}] if path not in sys.path]"
    start += "; from federated_health.__main__ import main; main()"
    return [sys.executable, "-P", "-c", start, subcommand, *map(str, arguments)]


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(
    command: Sequence[str],
    log: Path | None = None,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    *,
    own_group: bool = True,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that does not outlive the block: asked to end, given some time, then killed.

    Args:
        log: file for its output; without it, the output goes where this process's output goes.
        folder: its working directory.
        own_group: whether it has its own process group, so that Ctrl-C reaches it only through `interrupt`; otherwise
            a signal to this process's group reaches both.

    Raises:
        RunError: the log cannot be written.
    """
    with ExitStack() as stack:
        output = None
        if log is not None:
            try:
                log.parent.mkdir(parents=True, exist_ok=True)
                output = stack.enter_context(log.open("wb"))
            except OSError as error:
                raise RunError(f"{log}: cannot be written ({error.strerror})") from None
        running = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            cwd=folder,
            env=None if env is None else dict(env),
            process_group=0 if own_group else None,
        )
        try:
            yield running
        finally:
            interrupt([running])


def interrupt(running: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Ask all processes to end, and wait for them; kill those that take too long.

    They get SIGTERM, which the scripts handle like Ctrl-C: a process that a shell script started in the background
    ignores SIGINT.
    """
    for child in running:
        if child.poll() is None:
            child.terminate()
    for child in running:
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
