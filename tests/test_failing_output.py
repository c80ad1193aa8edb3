"""Output that cannot be written changes nothing else: the files, the weights and the exit code stay the same."""

import errno
import hashlib
import io
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import utils
from federated_health.cli import client as cli_client
from federated_health.cli import console, create_dataset, task
from federated_health.cli.server import start_run
from federated_health.ml.networks import weights_hash
from federated_health.server.run_folder import RunFolder
from federated_health.server.strategies import make_strategy
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from tests.support.light_hospitals import app_of, settings_of, three
from tests.support.scripts import PROJECT, script_command

ERRORS: list[Exception] = [
    OSError(errno.ENOSPC, "No space left on device"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    UnicodeEncodeError("ascii", "ü", 0, 1, "ordinal not in range"),
]


class FailingStream(io.StringIO):
    """A terminal on which one write fails, or every write from that one on; writes are counted from 1."""

    def __init__(self, error: Exception | None = None, number: int = 0, *, for_ever: bool = False) -> None:
        super().__init__()
        self.error, self.number, self.for_ever, self.writes = error, number, for_ever, 0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def isatty(self) -> bool:
        return True  # so that progress bars are shown, too

    def write(self, text: str) -> int:
        self.writes += 1
        if self.error and (self.writes == self.number or (self.for_ever and self.writes > self.number)):
            raise self.error
        return super().write(text)


@pytest.fixture(autouse=True)
def _own_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(logging, "raiseExceptions", True)  # restored after the test
    logger = logging.getLogger("federated_health")
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    monkeypatch.setattr(logger, "level", logger.level)
    yield
    close_handlers()


def close_handlers() -> None:
    logger = logging.getLogger("federated_health")
    for handler in logger.handlers[:]:
        if not isinstance(handler, logging.NullHandler):
            handler.close()
            logger.removeHandler(handler)


Main = Callable[[], None]


def run_with(
    monkeypatch: pytest.MonkeyPatch, main: Main, output: FailingStream, errors: FailingStream, *flags: object
) -> int:
    """Exit code of a script on these streams."""
    close_handlers()
    monkeypatch.setattr(sys, "argv", ["script", *map(str, flags)])
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    with pytest.raises(SystemExit) as ended:
        utils.run_script(main)
    return int(ended.value.code or 0)


def every_failure(writes: int) -> Iterator[FailingStream]:
    """Streams on which each write fails once, with one of the errors, and streams on which all fail."""
    for number in range(1, writes + 1):
        yield FailingStream(ERRORS[number % len(ERRORS)], number)
    for error in ERRORS:
        yield FailingStream(error, 1, for_ever=True)


def files_in(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def train(folder: Path) -> None:
    """The server's run with light hospitals, whose results are the hash of its weights."""
    settings = settings_of("fedavg", out=str(folder), force=True)
    transport = InProcessTransport(
        app_of({hospital.name: hospital for hospital in three()}), {name: hospital_context(name, {}) for name in "abc"}
    )
    console.configure_logging(verbose=True, file=folder.parent / "a.log")
    logging.getLogger("federated_health").info("a line of the log: %s", "müller")
    with start_run(transport, settings, make_strategy(settings)) as (run, record):
        for completed in run.rounds():
            record(completed)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_run_reaches_the_same_weights_whichever_write_fails(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def finish(folder: RunFolder, run: Any, *_: object, **__: object) -> None:
        (folder.path / "weights").write_text(weights_hash(run.weights))

    monkeypatch.setattr(RunFolder, "finish", finish)
    streams = {"stdout": FailingStream(), "stderr": FailingStream()}
    assert run_with(monkeypatch, lambda: train(tmp_path / "run"), *streams.values()) == 0
    expected = (tmp_path / "run" / "weights").read_text()
    writes = streams["stdout"].writes
    assert writes > 10
    for stream in every_failure(writes if name == "stdout" else 1):
        (tmp_path / "run" / "weights").unlink()
        streams = {"stdout": FailingStream(), "stderr": FailingStream(), name: stream}
        assert run_with(monkeypatch, lambda: train(tmp_path / "run"), *streams.values()) == 0
        assert (tmp_path / "run" / "weights").read_text() == expected


def test_a_dataset_is_written_whichever_write_fails(monkeypatch: pytest.MonkeyPatch, in_folder: Path) -> None:
    complete = FailingStream()
    assert run_with(monkeypatch, create_dataset.main, complete, FailingStream(), "--out", "data") == 0
    for number, stream in enumerate(every_failure(complete.writes)):
        folder = f"data-{number}"
        assert run_with(monkeypatch, create_dataset.main, stream, FailingStream(), "--out", folder) == 0
        assert files_in(in_folder / folder) == files_in(in_folder / "data")


@pytest.mark.parametrize("script", ["client", "task", "help"])
def test_a_command_whose_result_is_its_output_fails_without_it(
    script: str, monkeypatch: pytest.MonkeyPatch, hospitals_folder: Path
) -> None:
    path = hospitals_folder / "client_1.csv"
    commands: dict[str, tuple[Callable[[], None], list[object]]] = {
        "client": (lambda: cli_client.run_client(lambda *_: pytest.fail("it joined")), ["--check", "--data", path]),
        "task": (task.main, ["show", "heart-disease"]),
        "help": (create_dataset.main, ["--help"]),
    }
    main, flags = commands[script]
    complete = FailingStream()
    assert run_with(monkeypatch, main, complete, FailingStream(), *flags) == 0
    for stream in every_failure(complete.writes):
        errors = FailingStream()
        code = run_with(monkeypatch, main, stream, errors, *flags)
        is_escaped = stream.error is ERRORS[2] and not stream.for_ever
        if isinstance(stream.error, BrokenPipeError) or is_escaped:
            assert (code, errors.getvalue()) == (0, "")
        else:
            assert code == 1
            assert errors.getvalue().count("\n") == 1
            assert errors.getvalue().startswith("error: standard output: ")


def test_a_draft_that_the_encoding_cannot_hold_is_not_changed(monkeypatch: pytest.MonkeyPatch, in_folder: Path) -> None:
    (in_folder / "a.csv").write_text("größe,tot\n1.5,0\n2.5,1\n3.5,0\n", encoding="utf-8")
    monkeypatch.setattr(FailingStream, "encoding", "ascii")
    output, errors = FailingStream(), FailingStream()
    code = run_with(monkeypatch, task.main, output, errors, "draft", "a.csv", "--target", "tot")
    assert (code, output.getvalue()) == (1, "")
    assert "got ascii" in errors.getvalue()


def test_a_log_file_that_cannot_be_written_is_named_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def main() -> None:
        console.configure_logging(verbose=False, file=tmp_path / "a.log")
        handler = next(one for one in logging.getLogger("federated_health").handlers if hasattr(one, "baseFilename"))
        handler.setStream(FailingStream(ERRORS[0], 1, for_ever=True)).close()  # type: ignore[attr-defined]
        for number in range(3):
            logging.getLogger("federated_health").info("line %d", number)

    output, errors = FailingStream(), FailingStream()
    assert run_with(monkeypatch, main, output, errors) == 0
    assert errors.getvalue() == ""
    assert output.getvalue().count("a.log: cannot be written") == 1
    assert output.getvalue().count("line ") == 3


def test_a_log_file_that_cannot_be_opened_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    errors = FailingStream()
    code = run_with(
        monkeypatch, lambda: console.configure_logging(verbose=False, file=tmp_path), FailingStream(), errors
    )
    assert code == 1
    assert errors.getvalue().count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("name", ["server.py", "client.py", "create_dataset.py", "predict.py"])
@pytest.mark.parametrize("redirection", [">/dev/full", "| true", ">&-", ">/dev/full 2>&1"])
def test_help_into_a_full_disk_fails_without_a_traceback(name: str, redirection: str) -> None:
    command = " ".join(script_command(name, "--help"))
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} {redirection}"],
        cwd=PROJECT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == (0 if redirection == "| true" else 1)
    lines = 0 if redirection == "| true" or "2>&1" in redirection else 1
    assert ended.stderr.count("\n") == lines
