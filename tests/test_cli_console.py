"""How a script ends: one line and an exit code, Ctrl-C, and a traceback for a defect."""

import os
import queue
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import utils
from federated_health.cli import console
from federated_health.cli.run_results import interrupts_deferred
from federated_health.errors import DataError
from tests.support.scripts import PROJECT


def test_a_user_error_of_two_lines_is_printed_as_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise DataError("first\n   second")

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        utils.run_script(fail)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: first second\n"


def test_ctrl_c_prints_one_line_and_exits_with_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        utils.run_script(interrupt)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    ("signals", "done"),
    [
        ([signal.SIGINT], ["saved"]),
        ([signal.SIGTERM], ["saved"]),
        ([signal.SIGINT, signal.SIGTERM], []),
        ([signal.SIGTERM, signal.SIGTERM], []),
    ],
)
def test_a_signal_during_a_deferred_block_is_raised_after_it_and_a_second_one_at_once(
    signals: list[signal.Signals], done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(console, "say", lines.put)
    saved = []

    def save() -> None:
        with interrupts_deferred("still saving"):
            for number in signals:
                os.kill(os.getpid(), number)
            saved.append("saved")

    with pytest.raises(KeyboardInterrupt):
        save()
    assert saved == done
    assert lines.get(timeout=10) == "still saving"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_unexpected_exception_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        utils.run_script(fail)


SCRIPT = """
import sys
from pathlib import Path
from federated_health.cli.console import run_process, say

def main():
    say("one")
    say("two")
    Path(sys.argv[1]).touch()

run_process(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["| true", ">&-"], ids=["its reader has ended", "it is closed"])
def test_a_script_continues_without_its_output(redirection: str, tmp_path: Path) -> None:
    command = shlex.join([sys.executable, "-c", SCRIPT, str(tmp_path / "done")])

    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {{ sleep 0.2; {command}; }} {redirection}"],
        cwd=PROJECT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "done").exists()
