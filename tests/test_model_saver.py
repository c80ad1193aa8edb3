"""The final model, saved by a process of its own or by this one."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from federated_health.data.tasks import HEART_DISEASE
from federated_health.errors import StorageError
from federated_health.messages.content import TrainConfig
from federated_health.ml.keras_models import load_model, read_description
from federated_health.ml.networks import Weights, initial_weights
from federated_health.ml.normalisation import Normalisation
from federated_health.report import saved_model
from federated_health.report.saved_model import save_final_model
from federated_health.server import run_folder
from tests.support.scripts import PROJECT

WIDTH = len(HEART_DISEASE.measurements)
WEIGHTS: Weights = initial_weights(HEART_DISEASE, "mlp", 7)
TOLD = TrainConfig(
    task=HEART_DISEASE.name,
    schema=HEART_DISEASE.schema_hash,
    model="mlp",
    strategy="fedavg",
    strategy_args="",
    rounds=3,
    local_epochs=1,
    batch_size=0,
    learning_rate=0.1,
    l2=1 / 3,
    seed=7,
    threshold=0.1 + 0.2,
    normalisation=Normalisation(mean=(1 / 3,) * WIDTH, variance=(2.0,) * WIDTH),
)


def test_an_order_arrives_as_it_was_given() -> None:
    path, told, weights = saved_model.read_request(saved_model.write_request(Path("/a b/model.keras"), TOLD, WEIGHTS))
    assert (path, told) == (Path("/a b/model.keras"), TOLD)
    assert list(weights) == list(WEIGHTS)
    assert all(np.array_equal(weights[name], array) for name, array in WEIGHTS.items())
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}


class Stopped:
    """Another process, which fails."""

    def __init__(self, code: int, told: bytes) -> None:
        self.returncode, self.told = code, told

    def communicate(self, _order: bytes) -> tuple[bytes, None]:
        return self.told, None


@pytest.mark.parametrize("stopped", [Stopped(1, b""), Stopped(0, b""), Stopped(-9, b"saved")])
def test_what_the_other_process_cannot_do_is_done_here(stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(saved_model, "save_final_model", lambda *order: done.append(order))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: stopped)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    saver = run_folder.ModelSaver()
    saver.prepare()
    saver.save(Path("model.keras"), TOLD, WEIGHTS)
    assert done == [(Path("model.keras"), TOLD, WEIGHTS)]


def test_a_process_that_has_keras_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: started.append(1))
    monkeypatch.setitem(sys.modules, "keras", run_folder)
    run_folder.ModelSaver().prepare()
    assert started == []


@pytest.mark.slow
def test_a_process_of_its_own_saves_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_final_model(tmp_path / "here.keras", TOLD, WEIGHTS)
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr(saved_model, "save_final_model", None)  # what would be called here
    saver = run_folder.ModelSaver()
    saver.prepare()
    saver.save(tmp_path / "there.keras", TOLD, WEIGHTS)
    monkeypatch.undo()
    here, there = (load_model(tmp_path / f"{name}.keras") for name in ("here", "there"))
    assert all(np.array_equal(one, other) for one, other in zip(here.get_weights(), there.get_weights(), strict=True))
    configs = [
        json.loads(zipfile.ZipFile(tmp_path / f"{name}.keras").read("config.json")) for name in ("here", "there")
    ]
    assert configs[0]["config"]["input_layers"] == configs[1]["config"]["input_layers"]
    assert read_description(tmp_path / "here.keras") == read_description(tmp_path / "there.keras")


@pytest.mark.slow
def test_a_folder_that_is_gone_is_named_in_words(tmp_path: Path) -> None:
    order = saved_model.write_request(tmp_path / "gone" / "model.keras", TOLD, WEIGHTS)
    command = [sys.executable, "-m", "federated_health.report.saved_model"]
    other = subprocess.run(command, input=order, capture_output=True, check=False, cwd=PROJECT)
    assert (other.returncode, other.stdout) == (1, b"")
    with pytest.raises(StorageError, match="gone"):
        run_folder.ModelSaver().save(tmp_path / "gone" / "model.keras", TOLD, WEIGHTS)


@pytest.mark.slow
def test_a_process_that_is_not_needed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    saver = run_folder.ModelSaver()
    saver.prepare()
    process = saver._process
    assert process is not None
    saver.close()
    assert process.returncode is not None
