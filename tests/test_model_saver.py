"""The final model is saved by a separate process, or by the server's own where that one fails."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import StorageError
from federated_health.ml.model_files import load_model, read_description
from federated_health.ml.networks import Network, Weights, initial_weights
from federated_health.ml.normalisation import Normalisation
from federated_health.report import saved_model
from federated_health.report.saved_model import ModelSaver, save_final_model
from tests.support.power_cuts import nothing_lost
from tests.support.train_configs import train_config

WIDTH = len(HEART_DISEASE.measurements)
WEIGHTS: Weights = initial_weights(HEART_DISEASE, Network(), 7)
TRAIN_CONFIG = train_config(
    network=Network(),
    l2=1 / 3,
    seed=7,
    threshold=0.1 + 0.2,
    normalisation=Normalisation(mean=(1 / 3,) * WIDTH, variance=(2.0,) * WIDTH),
)


def test_a_request_is_read_as_it_was_written() -> None:
    given = {"north": {"intercept": 0.1 + 0.2, "slope": None}}
    request = saved_model.write_request(Path("/a b/model.keras"), HEART_DISEASE, TRAIN_CONFIG, WEIGHTS, given)
    path, task, config, weights, sites = saved_model.read_request(request)
    assert sites == given
    assert task.agreement == HEART_DISEASE.agreement
    assert (path, config) == (Path("/a b/model.keras"), TRAIN_CONFIG)
    assert list(weights) == list(WEIGHTS)
    assert all(np.array_equal(weights[name], array) for name, array in WEIGHTS.items())
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}


class FailedProcess:
    """A separate process that did not save the model, or not in time."""

    def __init__(self, code: int | None, output: bytes) -> None:
        self.returncode, self.output = code, output
        self.is_killed = False

    def communicate(self, _request: bytes, timeout: float) -> tuple[bytes, None]:
        if self.returncode is None:
            raise subprocess.TimeoutExpired("saver", timeout)
        return self.output, None

    def kill(self) -> None:
        self.is_killed = True

    def __enter__(self) -> "FailedProcess":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.is_killed


@pytest.mark.parametrize(
    "failed",
    [FailedProcess(1, b""), FailedProcess(0, b""), FailedProcess(-9, b"saved"), FailedProcess(None, b"saved")],
)
def test_the_server_saves_the_model_itself_where_the_separate_process_fails(
    failed: FailedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(saved_model, "save_final_model", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: failed)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    saver = ModelSaver()
    saver.prepare()
    sites = {"north": {"intercept": 0.5, "slope": 0.75}}
    saver.save(Path("model.keras"), HEART_DISEASE, TRAIN_CONFIG, WEIGHTS, sites)
    assert calls == [(Path("model.keras"), HEART_DISEASE, TRAIN_CONFIG, WEIGHTS, sites)]
    assert failed.is_killed  # so that two processes never write the file


def test_a_server_that_has_loaded_keras_starts_no_separate_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    monkeypatch.setitem(sys.modules, "keras", saved_model)
    ModelSaver().prepare()


def test_a_separate_process_that_is_not_needed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*_: object, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(["sleep", "60"], **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    saver = ModelSaver()
    saver.prepare()
    saver.close()
    (process,) = started
    assert process.returncode is not None


@pytest.mark.slow
def test_a_separate_process_saves_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_final_model(tmp_path / "here.keras", HEART_DISEASE, TRAIN_CONFIG, WEIGHTS)
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr(saved_model, "save_final_model", None)  # so that this process cannot save it
    saver = ModelSaver()
    with nothing_lost(tmp_path):
        saver.prepare()
        saver.save(tmp_path / "there.keras", HEART_DISEASE, TRAIN_CONFIG, WEIGHTS)
    monkeypatch.undo()
    here, there = (load_model(tmp_path / f"{name}.keras").get_weights() for name in ("here", "there"))
    assert all(np.array_equal(array, other) for array, other in zip(here, there, strict=True))
    configs = [
        json.loads(zipfile.ZipFile(tmp_path / f"{name}.keras").read("config.json")) for name in ("here", "there")
    ]
    assert configs[0]["config"]["input_layers"] == configs[1]["config"]["input_layers"]
    assert read_description(tmp_path / "here.keras") == read_description(tmp_path / "there.keras")


@pytest.mark.slow
def test_a_missing_folder_ends_the_separate_process_with_1_and_is_an_error_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gone" / "model.keras"
    request = saved_model.write_request(path, HEART_DISEASE, TRAIN_CONFIG, WEIGHTS)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", SimpleNamespace(buffer=BytesIO(request)))
        patched.setattr(signal, "signal", lambda *_: None)
        patched.setattr(os, "_exit", sys.exit)  # this process goes on
        with pytest.raises(SystemExit) as ended:
            saved_model.main()
    assert ended.value.code == 1
    assert capsys.readouterr().out == ""
    with pytest.raises(StorageError, match="gone"):
        ModelSaver().save(path, HEART_DISEASE, TRAIN_CONFIG, WEIGHTS)
