"""TensorFlow and Keras, imported on first use, since the import takes seconds and half a gigabyte.

Their log shows warnings only, unless the logger `tensorflow` is at DEBUG.
"""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from types import ModuleType

from federated_health.interrupts import ending_at_once

UNUSED = ("sklearn", "matplotlib")
"""Modules that Keras imports if they are installed, which takes a third of its import time."""

_NOISE = re.compile(rb"^(I\d{4} |WARNING: All log messages before absl|E\d{4} .*failed call to cuInit)")


@cache
def load_tensorflow() -> ModuleType:
    """The `tensorflow` module, with `keras` behind it."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # The networks are tiny, and results are to be the same, to the bit, with and without a graphics card.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    verbose = logging.getLogger("tensorflow").isEnabledFor(logging.DEBUG)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if verbose else "2")
    with nullcontext(2) if verbose else _without_noise() as stderr, ending_at_once(stderr), _unused_hidden():
        import tensorflow  # noqa: PLC0415  # TensorFlow takes seconds to import

        tensorflow.config.list_physical_devices()  # finds graphics cards, and logs an error where there is none
    return tensorflow  # type: ignore[no-any-return]  # TensorFlow ships no types


def load_keras() -> ModuleType:
    """The `keras` module on the TensorFlow backend."""
    load_tensorflow()
    with ending_at_once():
        import keras  # noqa: PLC0415  # reads KERAS_BACKEND when it is imported

    return keras  # type: ignore[no-any-return]  # Keras ships no types


@contextmanager
def _unused_hidden() -> Iterator[None]:
    """Make modules in `UNUSED` appear not to be installed (Python Language Reference, 5.3.1) until the block ends."""
    absent = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # typeshed allows modules only
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def _without_noise() -> Iterator[int]:
    """Drop INFO lines and the error about a missing graphics card from stderr, and nothing else.

    Yields a file descriptor of stderr, which writes there at once.

    TensorFlow 2.21 writes them from C++ during its import, before it reads TF_CPP_MIN_LOG_LEVEL.
    """
    with suppress(AttributeError, OSError, ValueError):  # it is closed, or cannot be written
        sys.stderr.flush()
    try:
        caught, saved = tempfile.TemporaryFile(), os.dup(2)  # noqa: SIM115  # closed below
    except OSError:  # no folder for temporary files, or no stderr
        yield 2
        return
    with caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield saved
        finally:
            with suppress(AttributeError, OSError, ValueError):
                sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            caught.seek(0)
            with suppress(OSError):
                for line in caught:
                    if not _NOISE.match(line):
                        os.write(2, line)
