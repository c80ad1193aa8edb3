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
from pathlib import Path
from types import ModuleType

from federated_health.errors import RunError
from federated_health.interrupts import ending_at_once

UNUSED = ("sklearn", "matplotlib")
"""Modules that Keras imports if they are installed, which takes a third of its import time."""

IGNORED_PREFIXES = ("KERAS_", "TF_", "TF2_", "XLA_", "ONEDNN_", "DNNL_", "MKL_")
"""Prefixes of environment variables that could change results or end a run; they are removed, except HARMLESS."""

HARMLESS = (
    *("KERAS_HOME", "TF_CPP_MIN_LOG_LEVEL", "TF_CPP_MAX_VLOG_LEVEL", "TF_CPP_VMODULE"),
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
)
"""Variables that change no result: where Keras keeps files, what is logged, and the number of threads."""

FIXED = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
"""Variables that get these values, so that results are the same, to the bit, with and without a graphics card."""

logger = logging.getLogger(__name__)

_NOISE = re.compile(rb"^(I\d{4} |WARNING: All log messages before absl|E\d{4} .*failed call to cuInit)")


@cache
def load_tensorflow() -> ModuleType:
    """The `tensorflow` module, with `keras` behind it; RunError if this process runs Keras on another backend."""
    ignored = _remove_variables()
    logger.debug("environment variables that are ignored: %s", ", ".join(ignored) or "none")
    verbose = logging.getLogger("tensorflow").isEnabledFor(logging.DEBUG)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if verbose else "2")
    with nullcontext(2) if verbose else _without_noise() as stderr, ending_at_once(stderr), _unused_hidden():
        try:
            import tensorflow  # noqa: PLC0415  # TensorFlow takes seconds to import
        except (AttributeError, OSError, TypeError, ValueError) as error:
            settings = Path(os.environ.get("KERAS_HOME", "~/.keras"), "keras.json").expanduser()  # which Keras reads
            text = f"TensorFlow cannot be loaded ({error}): correct {settings} if it exists"
            raise RunError(text, reason="its TensorFlow cannot be loaded") from None
        tensorflow.config.list_physical_devices()  # finds graphics cards, and logs an error where there is none
        _reset_keras()
    return tensorflow  # type: ignore[no-any-return]  # TensorFlow ships no types


def _remove_variables() -> list[str]:
    """Remove the environment variables that could change results, also for child processes; returns their names."""
    found = {name for name in os.environ if name.startswith(IGNORED_PREFIXES) and name not in HARMLESS}
    changed = {name for name, value in FIXED.items() if os.environ.get(name, value) != value}
    for name in found:
        del os.environ[name]
    os.environ.update(FIXED)
    return sorted(found - FIXED.keys() | changed)


def _reset_keras() -> None:
    """Undo what Keras's own file, `~/.keras/keras.json`, says about numbers."""
    import keras  # noqa: PLC0415  # TensorFlow has imported it

    if (backend := keras.config.backend()) != "tensorflow":  # imported before, by a user's own code
        raise RunError(f"Keras: expected the backend tensorflow, got {backend}; set KERAS_BACKEND before importing it")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def load_keras() -> ModuleType:
    """The `keras` module on the TensorFlow backend."""
    load_tensorflow()
    import keras  # noqa: PLC0415  # TensorFlow has imported it

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
