"""Ctrl-C in tests works however the tests were started, and ends a script at any moment with one line."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.interrupts import sigint_enabled
from tests.support.scripts import PROJECT

INTERRUPT_ITSELF = "import signal; signal.raise_signal(signal.SIGINT)"


@pytest.fixture
def ignored_sigint() -> Iterator[None]:
    """What a process finds that a shell script starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def run_interrupted_child() -> int:
    return subprocess.run([sys.executable, "-c", INTERRUPT_ITSELF], check=False, capture_output=True).returncode


@pytest.mark.usefixtures("ignored_sigint")
def test_sigint_that_was_ignored_at_start_interrupts_the_process_and_its_children() -> None:
    assert run_interrupted_child() == 0  # without sigint_enabled
    with sigint_enabled():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert run_interrupted_child() == -signal.SIGINT
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_every_test_runs_with_sigint_enabled() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


# Scripts

BEGIN = """
import os, signal, sys, time
from federated_health import interrupts
number = getattr(signal, sys.argv[1])
interrupts.begin_script("__main__")
"""

DURING_AN_IMPORT = """
try:
    os.kill(os.getpid(), number)
    time.sleep(20)
except BaseException:  # as a library's C code may do
    pass
"""

DROPPED = """
from federated_health.cli.console import run_script

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), number)
        time.sleep(20)

def main():
    Dropped()
    time.sleep(20)

run_script(main)
"""

CHANGED = """
from federated_health.cli.console import run_script

def main():
    try:
        os.kill(os.getpid(), number)
        time.sleep(20)
    except KeyboardInterrupt:
        raise ImportError("a module cannot be loaded") from None

run_script(main)
"""

AT_EXIT = """
import atexit
from federated_health.cli.console import run_script

def clean_up():
    os.kill(os.getpid(), number)
    time.sleep(20)

atexit.register(clean_up)
run_script(lambda: None)
"""


def run_code(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("code", [DURING_AN_IMPORT, DROPPED, CHANGED, AT_EXIT], ids=["import", "lost", "other", "exit"])
def test_a_signal_ends_a_script_with_one_line(code: str, signal_name: str) -> None:
    ended = run_code(BEGIN + code, signal_name)
    assert (ended.returncode, ended.stderr) == (130, "stopped\n")


@pytest.mark.slow
def test_a_program_that_imports_the_apps_keeps_its_signal_handlers() -> None:
    code = """
import signal
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
import client, server, predict, create_dataset, federated_health.__main__
from federated_health.ml.backend import load_keras
load_keras()
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
"""
    assert run_code(code).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="it needs a shell")
def test_no_file_gets_the_output_of_a_closed_stream(tmp_path: Path) -> None:
    code = f"""
from federated_health import interrupts
interrupts.begin_script("__main__")
with open({str(tmp_path / "a.csv")!r}, "w") as file:
    import os
    os.write(2, b"a warning of a library")
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    command = f"{sys.executable} {script} <&- >&- 2>&-"
    subprocess.run(["bash", "-c", command], env={**os.environ, "PYTHONPATH": str(PROJECT)}, check=True, timeout=60)
    assert (tmp_path / "a.csv").read_bytes() == b""
