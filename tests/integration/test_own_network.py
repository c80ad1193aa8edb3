"""A network of a user's own in processes: the same bits as in process, and what a user meets who makes a mistake."""

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import client
from federated_health.data.hospital import load_hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.ml.backend import load_keras
from federated_health.ml.keras_models import predict
from federated_health.ml.model_files import read_description
from federated_health.ml.networks import weights_hash
from federated_health.processes import free_port, process
from federated_health.server.plain_run import PlainRun
from federated_health.setting_fields import Value
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from tests.support.forks import forked
from tests.support.power_cuts import nothing_lost
from tests.support.script_calls import RunScript, assert_one_line
from tests.support.scripts import PROJECT, script_command

pytestmark = pytest.mark.slow

EXAMPLE = PROJECT / "examples" / "networks" / "batch_norm.py"
HOSPITALS = {"cleveland": "client_1.csv", "switzerland": "client_3.csv"}
RUN: dict[str, Value] = {"hospitals": 2, "rounds": 3, "local-epochs": 2, "optimizer": "adam", "learning-rate": 0.005}

SECONDS_TO_REFUSE = 10.0
PATIENCE = 300.0


def flags_of(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def finished(hospitals_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run over gRPC, whose hospitals have copies of the file elsewhere."""
    folder = tmp_path_factory.mktemp("own")
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        serve = ["--network", EXAMPLE, "--address", address, "--out", folder / "run", "--no-appraisal"]
        command = script_command("server.py", *flags_of(RUN), *serve)
        server = stack.enter_context(forked(command, folder / "server.txt"))
        for name, file in HOSPITALS.items():
            copy = folder / f"{name}.py"
            copy.write_text(EXAMPLE.read_text())
            join = ["--data", hospitals_folder / file, "--name", name, "--server", address, "--network", copy]
            stack.enter_context(forked(script_command("client.py", *join), folder / f"{name}.txt"))
        assert server.wait(PATIENCE) == 0, (folder / "server.txt").read_text()
    return folder / "run"


@pytest.fixture(scope="module")
def in_process(hospitals_folder: Path) -> PlainRun:
    load_keras()
    hospitals = [load_hospital(hospitals_folder / file, HEART_DISEASE, name, 42) for name, file in HOSPITALS.items()]
    contexts = {hospital.name: InMemoryHospital(hospital, EXAMPLE) for hospital in hospitals}
    settings = Settings.from_config({**RUN, "network": str(EXAMPLE), "appraisal": False})
    run = PlainRun(InProcessTransport(client.app, contexts), settings)
    run.run()
    return run


def test_streams_give_the_bits_of_a_run_in_process(finished: Path, in_process: PlainRun) -> None:
    description = read_description(finished / "model.keras")
    assert description["weights_sha256"] == weights_hash(in_process.weights)
    assert description["network"]["network-sha256"] == in_process.settings.network_declaration.sha256
    assert str(EXAMPLE) not in json.dumps(description)


def test_the_saved_model_loads_with_plain_keras_and_predicts_as_the_hospitals_do(
    finished: Path, in_process: PlainRun, hospitals_folder: Path, run_script: RunScript
) -> None:
    from federated_health.hospital.local_model import LocalModel
    from federated_health.ml.targets.binary import probability

    hospital = load_hospital(hospitals_folder / "client_1.csv", HEART_DISEASE, "cleveland", 42)
    config = in_process.train_config()
    expected = probability(LocalModel(hospital, config.network, config.normalisation).score(in_process.weights))
    model = load_keras().saving.load_model(finished / "model.keras")
    np.testing.assert_allclose(predict(model, HEART_DISEASE, hospital.test.values)[:, 0], expected, atol=1e-6)

    patients = pd.DataFrame(hospital.test.values, columns=list(HEART_DISEASE.column_names))
    patients.to_csv("patients.csv", index=False)
    with nothing_lost(Path()):
        result = run_script("predict.py", finished / "model.keras", "patients.csv", "--out", "risk.csv")
    assert result.succeeded, result.error
    assert pd.read_csv("risk.csv")["risk"].to_numpy() == pytest.approx(expected, abs=1e-5)


def test_the_report_and_the_figures_name_the_file_by_its_hash(finished: Path, in_process: PlainRun) -> None:
    sha256 = in_process.settings.network_declaration.sha256
    assert sha256 in (finished / "report.html").read_text()
    metrics = json.loads((finished / "metrics.json").read_text())
    assert (metrics["model"], metrics["network"]["network-sha256"]) == ("file", sha256)
    assert metrics["federation"]["roc_auc"] > 0.7


# Mistakes

NETWORK = """
import keras
from keras import layers

def build(features, outputs):
    return keras.Sequential([keras.Input((features,)), layers.Dense(4), layers.Dense(outputs)])
"""

WRONG = {
    "shape": (NETWORK.replace("features,)", "28,)"), ("(None, 28)", "(None, 41)")),
    "output size": (NETWORK.replace("Dense(outputs)", "Dense(2)"), ("(None, 2)", "(None, 1)")),
    "state": (NETWORK.replace("layers.Dense(4)", "layers.Normalization(name='scaling')"), ("scaling", "count")),
    "import": ("import no_such_package\n" + NETWORK, ("line 1", "no_such_package")),
    "syntax": (NETWORK.replace("def build(", "def build(("), ("line 5",)),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_server_refuses_a_wrong_network_before_it_listens(tmp_path: Path, name: str) -> None:
    source, words = WRONG[name]
    (tmp_path / "mine.py").write_text(source)
    command = script_command("server.py", "--network", tmp_path / "mine.py", "--out", tmp_path / "run")
    began = time.monotonic()
    with process(command, tmp_path / "log.txt", tmp_path) as server:
        code = server.wait(PATIENCE)
    log = (tmp_path / "log.txt").read_text()
    assert code == 1
    *_, last = log.splitlines()
    assert last.startswith("error: ")
    assert all(word in last for word in ("mine.py", *words)), log
    assert "listening" not in log
    assert not (tmp_path / "run").exists()
    # Twice the limit, since other tests share the machine.
    assert time.monotonic() - began < 2 * SECONDS_TO_REFUSE


@pytest.mark.parametrize("own", ["another copy", "none"])
def test_a_hospital_with_another_copy_or_none_is_refused_with_the_flag_to_use(
    hospitals_folder: Path, tmp_path: Path, run_script: RunScript, own: str
) -> None:
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "mine.py").write_text(NETWORK)
    (tmp_path / "other.py").write_text(NETWORK + "\n")
    serve = script_command("server.py", "--network", tmp_path / "mine.py", "--address", address, "--wait", "60")
    with forked(serve, tmp_path / "server.txt"):
        join = ["--data", hospitals_folder / "client_1.csv", "--name", "cleveland", "--server", address]
        flags = ["--network", tmp_path / "other.py"] if own == "another copy" else []
        result = run_script("client.py", *join, *flags)
    assert_one_line(result, "network file (--network", "SHA-256")


def test_a_package_that_is_missing_at_one_hospital_gives_one_line_there(hospitals_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os\nif 'NO_PACKAGE' in os.environ:\n    import no_such_package\n" + NETWORK
    )
    address = f"127.0.0.1:{free_port()}"
    serve = script_command("server.py", "--network", tmp_path / "mine.py", "--address", address, "--wait", "60")
    with forked(serve, tmp_path / "server.txt"):
        join = ["--data", hospitals_folder / "client_1.csv", "--name", "cleveland", "--server", address]
        command = script_command("client.py", *join, "--network", tmp_path / "mine.py")
        environment = {**os.environ, "NO_PACKAGE": "1"}
        with process(command, tmp_path / "client.txt", env=environment) as hospital:
            assert hospital.wait(PATIENCE) == 1
        deadline = time.monotonic() + 10
        while "cannot be used" not in (tmp_path / "server.txt").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
    *_, last = (tmp_path / "client.txt").read_text().splitlines()
    assert last.startswith("error: ")
    assert "line 3" in last
    assert "no_such_package" in last
    assert "its network file cannot be used" in (tmp_path / "server.txt").read_text()


def test_a_learning_rate_that_diverges_ends_the_run_at_once(hospitals_folder: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        flags = ["--hospitals", 2, "--learning-rate", 1e6, "--address", address, "--out", tmp_path / "run"]
        server = stack.enter_context(forked(script_command("server.py", *flags), tmp_path / "server.txt"))
        for name, file in HOSPITALS.items():
            join = ["--data", hospitals_folder / file, "--name", name, "--server", address]
            stack.enter_context(forked(script_command("client.py", *join), tmp_path / f"{name}.txt"))
        assert server.wait(60) == 1
    *_, last = (tmp_path / "server.txt").read_text().splitlines()
    assert last.startswith("error: round ")
    assert last.endswith("try a smaller --learning-rate")
