"""Ctrl-C in tests works however the tests were started."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.interrupts import sigint_enabled

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
