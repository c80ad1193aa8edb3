"""The final model saved by a process of its own: a server needs no Keras, and has it imported while others still work.

`python -m federated_health.server.model_saver` reads one order from stdin, and says on stdout what became of it.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord

from federated_health.errors import RunError
from federated_health.messages.content import TrainConfig
from federated_health.ml.backend import load_keras
from federated_health.ml.networks import Weights
from federated_health.processes import PROJECT
from federated_health.report.run_files import save_final_model

SAVED = b"saved"


class ModelSaver:
    """Saves one model; in this process where that is as well, as where it has Keras already."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def has_started(self) -> bool:
        """Whether another process has been started."""
        return self._running is not None

    def prepare(self) -> None:
        """Have Keras imported by another process, while this one has other things to do."""
        if self._running is None and "keras" not in sys.modules:
            with suppress(OSError):  # then it is done here
                self._running = subprocess.Popen(
                    [sys.executable, "-m", "federated_health.server.model_saver"],
                    cwd=PROJECT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C is for its parent
                )

    def save(self, path: Path, train_config: TrainConfig, weights: Weights) -> None:
        """As `save_final_model`, which does it again where the other process could not."""
        running, self._running = self._running, None
        if running is not None:
            with suppress(OSError):
                told, _ = running.communicate(write_order(path.absolute(), train_config, weights))
                if running.returncode == 0 and told == SAVED:
                    return
        save_final_model(path, train_config, weights)

    def close(self) -> None:
        """End the other process, if it was not needed."""
        if self._running is not None:
            self._running.kill()
            self._running.communicate()
            self._running = None


def write_order(path: Path, train_config: TrainConfig, weights: Weights) -> bytes:
    """What to save where: a line of JSON, then the weights as NumPy's npz."""
    arrays = BytesIO()
    np.savez(arrays, allow_pickle=False, **weights)
    line = json.dumps({"path": str(path), "instructions": dict(train_config.to_record())})
    return line.encode() + b"\n" + arrays.getvalue()


def read_order(content: bytes) -> tuple[Path, TrainConfig, Weights]:
    """The inverse of `write_order`."""
    line, _, arrays = content.partition(b"\n")
    order = json.loads(line)
    with np.load(BytesIO(arrays), allow_pickle=False) as file:
        weights = {name: file[name] for name in file.files}
    return Path(order["path"]), TrainConfig.from_record(ConfigRecord(order["instructions"])), weights


def main() -> None:
    """Import Keras, await the order, and carry it out; without one end in silence."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load_keras()
    if content := sys.stdin.buffer.read():
        try:
            save_final_model(*read_order(content))
        except RunError:  # whoever ordered it finds out in words by doing it himself
            os._exit(1)
        sys.stdout.buffer.write(SAVED)
        sys.stdout.flush()
    os._exit(0)  # without clearing up, which takes a second after TensorFlow


if __name__ == "__main__":
    main()
