"""Environment variables that libraries read: none changes a result or ends a run; docs/operating.md lists them."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from federated_health.errors import RunError
from federated_health.ml import backend, model_files
from tests.support.scripts import PROJECT

HARMFUL = {
    "KERAS_BACKEND": "jax",
    "KERAS_MAX_EPOCHS": "many",
    "KERAS_NNX_ENABLED": "true",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_FUNCTION_JIT_COMPILE_DEFAULT": "true",
    "TF_XLA_FLAGS": "--no_such_flag",
    "XLA_FLAGS": "--xla_cpu_enable_fast_math=true --no_such_flag",
    "ONEDNN_DEFAULT_FPMATH_MODE": "bf16",
    "CUDA_VISIBLE_DEVICES": "0",
}
"""Variables that change weights, or end a process, where they are not removed; some of them depend on the processor."""

HARMLESS = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "PYTHONHASHSEED": "7",
    "NO_COLOR": "1",
    "COLUMNS": "1",
    "TERM": "unknown",
    "GRPC_TRACE": "all",
    "GRPC_DNS_RESOLVER": "native",
    "http_proxy": "http://127.0.0.1:1",
}


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A Python process with these variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(backend.IGNORED_PREFIXES)}
    environment |= {"PYTHONPATH": str(PROJECT), **variables}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def weights_of(folder: Path, **variables: str) -> str:
    """Weights after two rounds in a process with these variables, and with Keras's own file in `folder`."""
    finished = run("-m", "tests.support.two_rounds", KERAS_HOME=str(folder), **variables)
    assert finished.returncode == 0, finished.stderr
    (line,) = re.findall(r"^weights [0-9a-f]{64}$", finished.stdout, re.MULTILINE)
    return str(line)


@pytest.mark.slow
def test_no_variable_and_no_settings_file_changes_the_weights(tmp_path: Path) -> None:
    plain, changed = tmp_path / "plain", tmp_path / "changed"
    changed.mkdir()
    settings = {"floatx": "float16", "epsilon": 0.1, "backend": "jax", "image_data_format": "channels_first"}
    (changed / "keras.json").write_text(json.dumps(settings))
    assert weights_of(changed, **HARMFUL, **HARMLESS) == weights_of(plain)


LOAD = """
import sys
from federated_health.errors import RunError
from federated_health.ml.backend import load_keras
try:
    load_keras()
except RunError as error:
    sys.exit(f"error: {error}; to the server: {error.reason}")
"""


@pytest.mark.slow
def test_a_settings_file_that_keras_cannot_use_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text("[]")
    finished = run("-c", LOAD, KERAS_HOME=str(tmp_path))
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert str(tmp_path / "keras.json") in line
    assert str(tmp_path) not in line.partition("to the server")[2]


def test_a_model_is_not_called_damaged_where_keras_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> ModuleType:
        raise RunError("TensorFlow cannot be loaded")

    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr(model_files.DESCRIPTION_MEMBER, "{}")
    monkeypatch.setattr(model_files, "load_keras", fail)
    with pytest.raises(RunError, match="TensorFlow"):
        model_files.load_model(tmp_path / "model.keras")


ASK = """
import federated_health
from tests.support.streams import LightHospital, answer_of, question, server, wait_for_hospitals
with server() as (grid, address):
    LightHospital("a", address)
    wait_for_hospitals(grid)
    print(*answer_of(grid.send_and_receive([question("a", 1)], timeout=10)[0]))
"""


@pytest.mark.slow
def test_no_variable_of_grpc_ends_a_connection() -> None:
    finished = run(
        *("-c", ASK),
        GRPC_POLL_STRATEGY="none",
        GRPC_SSL_CIPHER_SUITES="none",
        GRPC_EXPERIMENTS="no_such_experiment",
        GRPC_XDS_BOOTSTRAP="no-such-file",
        GRPC_TRACE="all",
        GRPC_DNS_RESOLVER="none",
        GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS="100",
    )
    assert (finished.stdout, finished.stderr) == ("a 1\n", "")


@pytest.mark.parametrize("columns", ["0", "1", "-1", "many"])
def test_output_does_not_vanish_in_a_terminal_without_columns(columns: str) -> None:
    finished = run("-c", "from federated_health.cli.console import say; say('a line')", COLUMNS=columns)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.endswith(" a line\n")


def test_variables_are_removed_and_the_backend_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(backend.IGNORED_PREFIXES)]:
        monkeypatch.delenv(name)
    for name, value in {**HARMFUL, **HARMLESS, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_HOME": "somewhere"}.items():
        monkeypatch.setenv(name, value)
    assert set(backend._remove_variables()) == set(HARMFUL)
    left = {name: value for name, value in os.environ.items() if name in HARMFUL}
    assert left == {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    assert {name: os.environ[name] for name in HARMLESS} == HARMLESS
    assert (os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["KERAS_HOME"]) == ("3", "somewhere")
    assert backend._remove_variables() == []


@pytest.mark.slow
def test_keras_that_a_user_s_code_runs_on_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    keras = backend.load_keras()
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(RunError, match="expected the backend tensorflow, got jax"):
        backend._reset_keras()
