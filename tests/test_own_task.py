"""A task of one's own, from a task file at server and hospitals to a model that needs nothing else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Context

from federated_health.data.task_files import parse_task, read_task_file
from federated_health.errors import DataError, RunError, SettingsError
from federated_health.hospital import final_handlers, handlers
from federated_health.hospital.results import save_results
from federated_health.ml.model_files import read_description
from federated_health.report.page import render
from federated_health.report.run_page import page_of_run
from federated_health.server.plain_run import PlainRun
from federated_health.server.resuming import read_checkpoint, settings_to_resume
from federated_health.server.run_folder import RunFolder
from federated_health.server.run_summary import summarise
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from tests.support.script_calls import RunScript, assert_one_line

pytestmark = pytest.mark.slow

TASK = """\
name = "falls"

[label]
column = "fell"
meaning = "fell during the stay"

[columns.age]
meaning = "age"
unit = "years"
range = [0, 120]
typical_median = [50, 90]

[columns.walks]
meaning = "walks without help"
codes = { 0 = "no", 1 = "yes" }
"""


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    path = tmp_path / "falls.toml"
    path.write_text(TASK)
    return path


def write_hospital(path: Path, seed: int) -> Path:
    generator = np.random.default_rng(seed)
    age, walks = generator.integers(50, 100, 60), generator.integers(0, 2, 60)
    fell = generator.random(60) < 1 / (1 + np.exp(-(age - 75) / 6 + 1.5 * walks))
    pd.DataFrame({"age": age, "walks": walks, "fell": fell.astype(int)}).to_csv(path, index=False)
    return path


def contexts_of(tmp_path: Path, node: dict[str, Any]) -> dict[str, Context]:
    paths = {name: write_hospital(tmp_path / f"{name}.csv", seed) for seed, name in enumerate(("north", "south"))}
    return {name: hospital_context(name, {"data": str(path), "name": name, **node}) for name, path in paths.items()}


def run_of(tmp_path: Path, settings: Settings, node: dict[str, Any]) -> PlainRun:
    return PlainRun(InProcessTransport(handlers.answer, contexts_of(tmp_path, node)), settings)


def settings_of(task_file: Path, **others: Any) -> Settings:
    return Settings(task_file=str(task_file), hospitals=2, rounds=2, wait=0.2, **others)


def test_a_run_with_a_task_file_ends_with_a_model_that_predict_reads_without_it(
    task_file: Path, tmp_path: Path, run_script: RunScript
) -> None:
    settings = settings_of(task_file, out=str(tmp_path / "run"))
    assert settings.task == "falls"
    with RunFolder(settings) as folder:
        run = run_of(tmp_path, settings, {"task-file": str(task_file)})
        run.gather()
        folder.begin(run)
        for _ in run.rounds():
            folder.append_round(run)
        figures = run.evaluate()
        folder.finish(run, figures, stopped=False)
    assert "fell during the stay" in render(page_of_run(summarise(run, figures, stopped=False, facts={})))
    description = read_description(tmp_path / "run" / "model.keras")
    assert parse_task(description["task_file"].encode(), "").agreement == read_task_file(task_file).agreement

    task_file.unlink()
    Path("new.csv").write_text("walks,age\n1,60\n0,90\n,40\n")
    assert run_script("predict.py", tmp_path / "run" / "model.keras", "new.csv", "--out", "risk.csv").succeeded
    risk = pd.read_csv("risk.csv")["risk"]
    assert risk[0] < risk[1]


def test_predict_stops_where_the_model_is_of_another_task_than_stated(
    task_file: Path, tmp_path: Path, run_script: RunScript
) -> None:
    contexts = contexts_of(tmp_path, {"task-file": str(task_file)})
    PlainRun(InProcessTransport(handlers.answer, contexts), settings_of(task_file)).run()
    final = final_handlers.final_model(contexts["north"])
    assert final is not None
    save_results(tmp_path, contexts["north"], *final)
    Path("new.csv").write_text("walks,age\n1,60\n")
    other = tmp_path / "other.toml"
    other.write_text(TASK.replace("[0, 120]", "[18, 120]"))
    model = tmp_path / "model.keras"
    assert run_script("predict.py", model, "new.csv", "--task-file", task_file).succeeded
    assert_one_line(run_script("predict.py", model, "new.csv", "--task-file", other), "column age", "18 to 120")


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (TASK.replace("[0, 120]", "[18, 120]"), "column age"),
        (TASK.replace("[50, 90]", "[40, 90]"), "scale age"),
        (TASK.replace('"falls"', '"drops"'), "task is drops"),
        (TASK + '[patient]\ncolumn = "id"\n', "patient"),
        (None, "task: expected one of"),
    ],
)
def test_a_hospital_with_another_task_file_or_none_takes_no_part(
    theirs: str | None, expected: str, task_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(theirs or "")
    run = run_of(tmp_path, settings_of(task_file), {"task-file": str(other)} if theirs else {})
    with pytest.raises(RunError):
        run.gather()
    assert any(expected in line for line in run.problems.describe()), run.problems.describe()


def test_a_hospital_never_reads_the_path_of_the_server_s_task_file(task_file: Path) -> None:
    context = hospital_context("north", {"data": "any.csv", "name": "north"})
    context.run_config["task-file"] = str(task_file)
    with pytest.raises(SettingsError, match="task file"):
        handlers.task_of(context, "falls")


def test_a_virtual_hospital_of_a_simulation_has_the_task_file_of_the_run(task_file: Path) -> None:
    context = hospital_context("north", {"partition-id": 0})
    context.run_config["task-file"] = str(task_file)
    assert handlers.task_of(context, "falls").name == "falls"


def test_a_run_resumes_with_its_task_file_also_at_another_path_but_not_with_another_task(
    task_file: Path, tmp_path: Path
) -> None:
    settings = settings_of(task_file, out=str(tmp_path / "run"))
    with RunFolder(settings) as folder:
        run = run_of(tmp_path, settings, {"task-file": str(task_file)})
        run.gather()
        folder.begin(run)
        next(run.rounds())
        folder.append_round(run)
    assert read_checkpoint(tmp_path / "run").settings["task-file"] == str(task_file)
    moved = task_file.rename(tmp_path / "moved.toml")
    given = {"resume": str(tmp_path / "run"), "task-file": str(moved)}
    resumed = Settings.from_config(settings_to_resume(tmp_path / "run", given))
    assert RunFolder(resumed).checkpoint is not None
    moved.write_text(TASK.replace("[0, 120]", "[0, 110]"))
    with pytest.raises(RunError, match="column age"):
        RunFolder(Settings.from_config(settings_to_resume(tmp_path / "run", given)))
    moved.unlink()
    with pytest.raises(DataError, match=r"moved\.toml"):
        Settings.from_config(settings_to_resume(tmp_path / "run", given))


def test_a_resumed_run_keeps_the_settings_that_its_task_file_stated(task_file: Path, tmp_path: Path) -> None:
    task_file.write_text(TASK + '[training]\nrounds = 2\nhidden = "4"\nlearning_rate = 0.2\n')
    settings = Settings.from_config(
        {"task-file": str(task_file), "hospitals": 2, "wait": 0.2, "l2": 0.5, "out": str(tmp_path / "run")}
    )
    with RunFolder(settings) as folder:
        run = run_of(tmp_path, settings, {"task-file": str(task_file)})
        run.gather()
        folder.begin(run)
        next(run.rounds())
        folder.append_round(run)
    written = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert (written["rounds"], written["hidden"], written["learning-rate"], written["l2"]) == (2, "4", 0.2, 0.5)
    task_file.write_text(TASK + '[training]\nrounds = 9\nhidden = "8"\nl2 = 0.1\n')
    resumed = Settings.from_config(settings_to_resume(tmp_path / "run", {"resume": str(tmp_path / "run")}))
    assert {**resumed.to_config(), "out": "", "resume": ""} == {**settings.to_config(), "out": "", "resume": ""}
    assert RunFolder(resumed).checkpoint is not None


def test_a_hospital_without_the_training_settings_takes_part(task_file: Path, tmp_path: Path) -> None:
    server = tmp_path / "server.toml"
    server.write_text(TASK + '[training]\nrounds = 1\nmodel = "logistic"\n')
    settings = Settings.from_config({"task-file": str(server), "hospitals": 2, "wait": 0.2})
    run = run_of(tmp_path, settings, {"task-file": str(task_file)})
    run.run()
    assert [len(record.hospitals) for record in run.history] == [2]
    assert set(run.weights) == {"logit/kernel", "logit/bias"}


def test_a_task_that_contradicts_the_task_file_is_refused(task_file: Path) -> None:
    with pytest.raises(SettingsError, match="falls"):
        Settings(task="readmission", task_file=str(task_file))


def test_the_settings_of_a_run_survive_json(task_file: Path) -> None:
    settings = settings_of(task_file)
    assert Settings.from_config(json.loads(json.dumps(settings.to_config()))) == settings
