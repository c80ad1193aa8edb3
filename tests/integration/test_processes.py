"""Server and four hospitals as processes, over gRPC, with the real model and data."""

import csv
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import client
import utils
from federated_health.cli import predict
from federated_health.data.examples import FOLDER
from federated_health.data.manifest import find_hospital
from federated_health.ml.model_files import read_description
from federated_health.ml.networks import weights_hash
from federated_health.ml.verdicts import verdict_text
from federated_health.processes import free_port, process
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from tests.support.forks import Fork, forked
from tests.support.scripts import script_command

pytestmark = pytest.mark.slow

EXAMPLE_PATIENTS = FOLDER / "patients_heart_disease.csv"

NAMES = ["cleveland", "hungary", "switzerland", "va-long-beach"]
FIGURES = {"train_examples", "test_examples", "accuracy", "precision", "recall", "f1", "roc_auc", "brier"}
FIGURES |= {"specificity", "prevalence", "average_precision", "calibration_slope", "calibration_intercept", "small"}
ROUNDS = 5


def path_of(folder: Path, name: str) -> Path:
    return find_hospital(folder, NAMES.index(name) + 1)[0]


@contextmanager
def run_of(data: Path, out: Path, names: list[str], *server_flags: object) -> Iterator[tuple[Fork, dict[str, Fork]]]:
    """A server and hospitals, started in the order of the names; what they print is in out/NAME.txt."""
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        command = script_command("server.py", "--address", address, "--out", out / "run", *server_flags)
        server = stack.enter_context(forked(command, out / "server.txt"))
        hospitals = {}
        for name in names:
            own = ("--data", path_of(data, name), "--name", name, "--server", address, "--out", out / name)
            hospitals[name] = stack.enter_context(forked(script_command("client.py", *own), out / f"{name}.txt"))
        yield server, hospitals


def wait_for_round(out: Path, number: int, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    table = out / "run" / "rounds.csv"
    while not table.exists() or f"\n{number},federation" not in table.read_text():
        assert time.monotonic() < deadline, (out / "server.txt").read_text()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(hospitals_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a federation that ran to its end, hospitals started in reverse."""
    out = tmp_path_factory.mktemp("finished")
    with run_of(hospitals_folder, out, NAMES[::-1], "--rounds", ROUNDS) as (server, hospitals):
        assert server.wait(600) == 0, (out / "server.txt").read_text()
        assert [hospital.wait(120) for hospital in hospitals.values()] == [0, 0, 0, 0]
    return out


def test_metrics_hold_every_figure_of_every_hospital(finished: Path) -> None:
    metrics: dict[str, Any] = json.loads((finished / "run" / "metrics.json").read_text())
    head = {key: metrics[key] for key in ("task", "strategy", "model", "rounds", "seed")}
    assert 0.2 < metrics["threshold"] < 0.8
    assert metrics["threshold"] != 0.5
    assert read_description(finished / "run" / "model.keras")["threshold"] == metrics["threshold"]
    assert head == {"task": "heart-disease", "strategy": "fedavg", "model": "mlp", "rounds": ROUNDS, "seed": 42}
    assert "stopped" not in metrics
    assert list(metrics["hospitals"]) == NAMES
    assert all(set(figures) == FIGURES for figures in metrics["hospitals"].values())
    assert set(metrics["federation"]) == FIGURES | {"mean_roc_auc", "small_in_mean"}
    assert (
        sum(figures["test_examples"] for figures in metrics["hospitals"].values())
        == metrics["federation"]["test_examples"]
    )
    assert metrics["federation"]["train_examples"] + metrics["federation"]["test_examples"] == 920
    aucs = [figures["roc_auc"] for figures in metrics["hospitals"].values()]
    assert metrics["federation"]["mean_roc_auc"] == pytest.approx(sum(aucs) / 4)
    assert metrics["federation"]["roc_auc"] > 0.8


def test_the_report_is_of_the_saved_model_and_holds_the_figures_of_metrics(finished: Path) -> None:
    metrics, report = json.loads((finished / "run" / "metrics.json").read_text()), finished / "run" / "report.html"
    html = report.read_text()
    assert read_description(finished / "run" / "model.keras")["weights_sha256"] in html
    cards = re.findall(r'<h3>(.*?)</h3>\s*<p class="verdict">\s*<span[^>]*>.</span>\s*(.*?)\s*</p>', html)
    assert dict(cards) == {name: verdict_text(entry["verdict"]) for name, entry in metrics["joining"].items()}
    for name in NAMES:
        roc_auc = metrics["hospitals"][name]["roc_auc"]
        assert re.search(rf"<td>{roc_auc:.3f}(?: \*)?</td>", html), name


def test_rounds_csv_has_a_row_per_round_and_hospital_and_losses_fall(finished: Path) -> None:
    with (finished / "run" / "rounds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["round"], row["hospital"]) for row in rows] == [
        (str(number), name) for number in range(1, ROUNDS + 1) for name in [*NAMES, "federation"]
    ]
    losses = [float(row["test_loss"]) for row in rows if row["hospital"] == "federation"]
    assert losses[-1] < losses[0]


def test_weights_over_grpc_equal_those_in_process_to_the_bit(finished: Path, hospitals_folder: Path) -> None:
    settings = replace(Settings(), rounds=ROUNDS)
    contexts = {name: hospital_context(name, {"data": str(path_of(hospitals_folder, name))}) for name in NAMES}
    run = PlainRun(InProcessTransport(client.app, contexts), settings)
    figures = run.run()
    description = read_description(finished / "run" / "model.keras")
    assert description["weights_sha256"] == weights_hash(run.weights)
    metrics = json.loads((finished / "run" / "metrics.json").read_text())
    assert {key: metrics[key] for key in figures} == figures


def test_each_hospital_gets_the_final_model_and_its_own_figures(finished: Path) -> None:
    expected = read_description(finished / "run" / "model.keras")["weights_sha256"]
    for name in NAMES:
        assert read_description(finished / name / "model.keras")["weights_sha256"] == expected
        assert "joined 127.0.0.1:" in (finished / name / f"{name}.log").read_text()
        output = (finished / f"{name}.txt").read_text()
        assert "The final model on held-out patients" in output
        assert "the run is over" in output


def test_the_console_shows_who_joined_and_the_figures(finished: Path) -> None:
    output = (finished / "server.txt").read_text()
    assert all(f"{name} joined" in output for name in NAMES)
    assert "hospital mean" in output
    assert "rounds per second" in output


def run_predict(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run predict.py in this process; returns its exit code."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner's own handlers stay
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        utils.run_script(predict.main)
    return int(end.value.code or 0)


def test_predict_scores_raw_patients_and_passes_other_columns_through(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    risks = tmp_path / "risk.csv"
    model, patients = finished / "run" / "model.keras", EXAMPLE_PATIENTS
    assert run_predict(monkeypatch, model, patients, "--out", risks) == 0
    scored = pd.read_csv(risks, dtype={"patient": str})
    unscored = pd.read_csv(patients, dtype={"patient": str})
    pd.testing.assert_frame_equal(scored.drop(columns=["risk", "prediction"]), unscored)
    threshold = json.loads((finished / "run" / "metrics.json").read_text())["threshold"]
    assert scored["prediction"].tolist() == (scored["risk"] >= threshold).astype(int).tolist()
    assert scored["risk"].between(0, 1).all()
    assert scored["risk"].iloc[0] < 0.5 < scored["risk"].iloc[1]


def test_predict_names_a_missing_column(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patients = tmp_path / "patients.csv"
    pd.read_csv(EXAMPLE_PATIENTS).drop(columns="thalach").to_csv(patients, index=False)
    model, risks = finished / "run" / "model.keras", tmp_path / "risk.csv"
    assert run_predict(monkeypatch, model, patients, "--out", risks) == 1
    errors = capsys.readouterr().err
    assert "thalach" in errors
    assert errors.count("\n") == 1
    assert not risks.exists()


def test_ctrl_c_keeps_the_completed_rounds_of_a_run_that_lost_a_hospital(
    hospitals_folder: Path, tmp_path: Path
) -> None:
    flags = ("--rounds", 100_000)
    with run_of(hospitals_folder, tmp_path, NAMES, *flags) as (server, hospitals):
        wait_for_round(tmp_path, 3)
        hospitals["hungary"].kill()
        hospitals["hungary"].wait(120)
        text = (tmp_path / "run" / "rounds.csv").read_text()
        wait_for_round(tmp_path, int(text.rstrip().rsplit("\n", 1)[1].split(",")[0]) + 5)
        os.kill(server.pid, signal.SIGINT)
        assert server.wait(120) == 130
        others = [name for name in NAMES if name != "hungary"]
        assert [hospitals[name].wait(120) for name in others] == [1, 1, 1]
    output = (tmp_path / "server.txt").read_text()
    assert "Traceback" not in output
    assert "hungary left" in output
    assert output.rstrip().endswith("stopped")
    for name in others:
        output = (tmp_path / f"{name}.txt").read_text()
        assert "the server stopped" in output
        assert "Traceback" not in output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["stopped"] is True
    assert list(metrics["hospitals"]) == others
    assert metrics["federation"]["roc_auc"] is None
    report = (tmp_path / "run" / "report.html").read_text()
    assert "stopped before its last round" in report
    assert "No figures of the final model: hungary." in report
    last = (tmp_path / "run" / "rounds.csv").read_text().rstrip().rsplit("\n", 1)[1].split(",")
    assert last[:2] == [str(metrics["rounds"]), "federation"]
    assert read_description(tmp_path / "run" / "model.keras")["rounds"] == metrics["rounds"]


def test_ctrl_c_ends_a_waiting_hospital_without_a_traceback(hospitals_folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    own = ("--data", path_of(hospitals_folder, "cleveland"), "--name", "a", "--server", f"127.0.0.1:{free_port()}")
    with process(script_command("client.py", *own), log=log) as hospital:
        deadline = time.monotonic() + 300
        while "waiting up to" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(hospital.pid, signal.SIGINT)
        assert hospital.wait(20) == 130
    assert log.read_text().endswith("stopped\n")
    assert "Traceback" not in log.read_text()
