"""Saving the final model in another process, which loads Keras while the hospitals evaluate.

So the server itself needs no Keras.
"""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import federated_health
from federated_health import report
from federated_health.messages.content import TrainConfig
from federated_health.ml.networks import Weights

PROJECT = Path(federated_health.__file__).parent.parent


class ModelSaver:
    """Saves one model, in another process if it was prepared."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def has_started(self) -> bool:
        """Whether another process has been started."""
        return self._process is not None

    def prepare(self) -> None:
        """Start a process that loads Keras, unless this one has loaded it already."""
        if self._process is None and "keras" not in sys.modules:
            with suppress(OSError):  # `save` then does it in this process
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "federated_health.report.saved_model"],
                    cwd=PROJECT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C is for this process
                )

    def save(self, path: Path, config: TrainConfig, weights: Weights) -> None:
        """Save the model (see `saved_model.save_final_model`), in this process if the other one fails.

        Raises:
            StorageError: it cannot be written.
        """
        saved_model = report.load_saved_model()
        process, self._process = self._process, None
        if process is not None:
            with suppress(OSError):
                answer, _ = process.communicate(saved_model.write_request(path.absolute(), config, weights))
                if process.returncode == 0 and answer == saved_model.SAVED:
                    return
        saved_model.save_final_model(path, config, weights)

    def close(self) -> None:
        """End the other process if it was not needed."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
