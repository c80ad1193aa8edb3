"""Apps of hospitals that end or block the worker processes of a study, without TensorFlow."""

import os
import time
from pathlib import Path

from flwr.app import Context, Message

STARTED = "FEDERATED_HEALTH_TEST_STARTED"
"""Environment variable: the folder in which a process leaves its id."""


def _begin() -> None:
    (Path(os.environ[STARTED]) / str(os.getpid())).touch()


def dies(message: Message, context: Context) -> Message:  # noqa: ARG001
    """End the process, as the kernel does when memory is full."""
    _begin()
    os._exit(3)


def sleeps(message: Message, context: Context) -> Message:  # noqa: ARG001
    """Take ten minutes, as in a slow fit."""
    _begin()
    time.sleep(600)
    raise AssertionError


if __name__ == "__main__":  # a study in a process of its own, for tests that end it
    from tests.test_benefit_journal import run_sleeping_study

    run_sleeping_study()
