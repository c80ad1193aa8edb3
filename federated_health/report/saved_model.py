"""The saved model of a run, and a process that saves it.

`python -m federated_health.report.saved_model` loads Keras, reads one request from stdin, and answers SAVED.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord

from federated_health import __version__
from federated_health.data.task_files import parse_task
from federated_health.data.task_writing import write_task
from federated_health.data.tasks import Task
from federated_health.errors import RunError, StorageError
from federated_health.messages.content import TrainConfig
from federated_health.messages.server_messages import read_train_config
from federated_health.ml.networks import Weights, weights_hash

SAVED = b"saved"

SAVE_SECONDS = 300.0
"""Longest time for the other process to save the model."""


Site = Mapping[str, float | None]
"""`intercept` and `slope` of a hospital's recalibration, None for a slope of 1."""


def save_final_model(
    path: Path, task: Task, config: TrainConfig, weights: Weights, sites: Mapping[str, Site] = {}
) -> None:
    """Save the self-contained Keras model of a run, with its task and a description of its training.

    Raises:
        StorageError: the file cannot be written.
    """
    from federated_health.ml.keras_models import build_model  # noqa: PLC0415  # loads Keras
    from federated_health.ml.model_files import save_model  # noqa: PLC0415  # loads Keras

    model = build_model(task, config.network, config.normalisation, weights)
    try:
        save_model(path, model, describe_model(task, config, weights, sites))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from None


def sites_of(recalibrations: Mapping[str, Mapping[str, Any]]) -> dict[str, Site]:
    """The sites of a model's description, of hospitals' entries `recalibration` in metrics.json."""
    return {
        name: {"intercept": of["intercept"]["value"], "slope": of["slope"] and of["slope"]["value"]}
        for name, of in recalibrations.items()
    }


def describe_model(task: Task, config: TrainConfig, weights: Weights, sites: Mapping[str, Site] = {}) -> dict[str, Any]:
    """The description of a model's training that its file holds."""
    return {
        "version": __version__,
        "weights_sha256": weights_hash(weights),
        **asdict(config),
        "network": config.network.to_config(),
        "task_file": write_task(task),
        **({"sites": sites} if sites else {}),
    }


def write_request(
    path: Path, task: Task, config: TrainConfig, weights: Weights, sites: Mapping[str, Site] = {}
) -> bytes:
    """A request to save a model: JSON beside the weights, as NumPy's npz."""
    file = BytesIO()
    parts = {"path": str(path), "task": write_task(task), "config": dict(config.to_record()), "sites": sites}
    request = json.dumps(parts)
    np.savez(file, allow_pickle=False, request=request, **weights)
    return file.getvalue()


def read_request(content: bytes) -> tuple[Path, Task, TrainConfig, Weights, dict[str, Site]]:
    """The inverse of `write_request`."""
    with np.load(BytesIO(content), allow_pickle=False) as file:
        weights = {name: file[name] for name in file.files}
    request = json.loads(str(weights.pop("request")))
    task, config = (
        parse_task(request["task"].encode(), "task"),
        read_train_config(ConfigRecord(request["config"])),
    )
    return Path(request["path"]), task, config, weights, request["sites"]


class ModelSaver:
    """Saves one model, in another process if it was prepared."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Start a process that loads Keras, unless this one has loaded it already."""
        if self._process is None and "keras" not in sys.modules:
            with suppress(OSError):  # `save` then does it in this process
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "federated_health.report.saved_model"],
                    cwd=Path(__file__).resolve().parents[2],  # also where the package is not installed
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C is for this process
                )

    def save(
        self, path: Path, task: Task, config: TrainConfig, weights: Weights, sites: Mapping[str, Site] = {}
    ) -> None:
        """Save the model (see `save_final_model`), in this process if the other one fails or hangs.

        If an exception ends this, such as a KeyboardInterrupt, the other process is killed by `close`.
        """
        if (process := self._process) is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                request = write_request(path.absolute(), task, config, weights, sites)
                output, _ = process.communicate(request, timeout=SAVE_SECONDS)
                if process.returncode == 0 and output == SAVED:
                    return
            self.close()
        save_final_model(path, task, config, weights, sites)

    def close(self) -> None:
        """End the other process if it has not ended."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(OSError), process:
                process.kill()


def main() -> None:
    """Load Keras, wait for the request, and save the model; without a request, exit silently."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from federated_health.ml.backend import load_keras  # noqa: PLC0415  # only in the process that saves

    load_keras()
    if content := sys.stdin.buffer.read():
        try:
            save_final_model(*read_request(content))
        except RunError:  # the other process tries again, and reports the reason
            os._exit(1)
        sys.stdout.buffer.write(SAVED)
        sys.stdout.flush()
    os._exit(0)  # without Python's clean-up, which takes a second after TensorFlow


if __name__ == "__main__":
    main()
