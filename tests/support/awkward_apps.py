"""Hospitals' apps that a study's processes must survive; they need no TensorFlow."""

import os
import time
from pathlib import Path

from flwr.app import Context, Message

STARTED = "FEDERATED_HEALTH_TEST_STARTED"
"""Environment variable: a folder in which a process leaves its id."""


def _begin() -> None:
    (Path(os.environ[STARTED]) / str(os.getpid())).touch()


def dies(message: Message, context: Context) -> Message:  # noqa: ARG001
    """As of a process that was out of memory."""
    _begin()
    os._exit(3)


def sleeps(message: Message, context: Context) -> Message:  # noqa: ARG001
    """As of a fit that takes long."""
    _begin()
    time.sleep(600)
    raise AssertionError


if __name__ == "__main__":  # a study in a process of its own, for a test that ends it
    from tests.test_benefit_journal import run_sleeping_study

    run_sleeping_study()
