"""How a script ends: one line and an exit code, Ctrl-C, and a traceback for a defect."""

import os
import signal

import pytest

import utils
from federated_health.cli.console import interrupts_deferred
from federated_health.errors import DataError


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


def test_signals_during_a_deferred_block_are_raised_after_it() -> None:
    done = []

    def save() -> None:
        with interrupts_deferred():
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
            done.append("saved")

    with pytest.raises(KeyboardInterrupt):
        save()
    assert done == ["saved"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_unexpected_exception_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        utils.run_script(fail)
