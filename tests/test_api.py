"""The Python API: a run of DataFrames, its result and model, and what it refuses."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import federated_health as fh
from federated_health.api.result import Result
from federated_health.api.simulation import NOT_IN_PROCESS
from federated_health.data.task_files import HEART_DISEASE
from federated_health.hospital import handlers
from federated_health.names import MODEL, REPORT, ROUNDS, SETTINGS
from tests.support.example_run import Replies, benefit, evaluation, figures_of, run_of
from tests.support.power_cuts import nothing_lost
from tests.support.script_calls import RunScript
from tests.support.scripts import PROJECT

PUBLIC = {
    "Model",
    "Result",
    "Task",
    "UserError",
    "draft_task",
    "federate",
    "load_model",
    "read_task",
    "write_task",
}

# The package's names


def test_the_public_names_are_there() -> None:
    assert {*fh.__all__} == PUBLIC
    assert {*dir(fh)} >= PUBLIC
    assert all(hasattr(fh, name) for name in PUBLIC)
    with pytest.raises(AttributeError, match="no_such_name"):
        fh.no_such_name  # noqa: B018  # the look-up itself is tested


def test_importing_the_package_loads_nothing_else() -> None:
    script = "import sys, federated_health; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    finished = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
    loaded = finished.stdout.decode().split()
    assert [name for name in loaded if name.startswith("federated_health")] == ["federated_health"]
    assert {"numpy", "pandas", "flwr", "grpc", "tensorflow"}.isdisjoint(loaded)


# What is refused before training


@pytest.fixture(scope="module")
def hospitals(hospitals_folder: Path) -> dict[str, pd.DataFrame]:
    """The heart data's three larger hospitals."""
    numbers = {"north": 1, "south": 2, "east": 4}
    return {name: pd.read_csv(hospitals_folder / f"client_{number}.csv") for name, number in numbers.items()}


def refusal(tables: Mapping[Any, pd.DataFrame], **settings: Any) -> str:
    """The line with which `federate` refuses."""
    with pytest.raises(fh.UserError) as refused:
        fh.federate(tables, HEART_DISEASE, **settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("flag", sorted(NOT_IN_PROCESS - {"task", "hospitals"}))
def test_settings_without_meaning_in_one_process_are_refused(hospitals: dict[str, pd.DataFrame], flag: str) -> None:
    name = flag.replace("-", "_")
    assert refusal(hospitals, **{name: "anything"}).startswith(f"{name}: has no meaning")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"round": 3}, "unknown setting round"),
        ({"rounds": 0}, "rounds: expected at least 1"),
        ({"rounds": "many"}, "rounds: expected a whole number"),
        ({"strategy": "magic"}, "strategy: expected one of"),
        ({"dp_delta": 1e-6}, "dp-delta: no effect"),
        ({"network": "missing.py"}, "missing.py: cannot be read"),
        ({"split_seed": "1"}, "split_seed: expected a whole number"),
        ({"split_seed": None}, "split_seed: expected a whole number"),
    ],
)
def test_settings_are_validated(hospitals: dict[str, pd.DataFrame], settings: dict[str, Any], problem: str) -> None:
    assert refusal(hospitals, **settings).startswith(problem)


@pytest.mark.parametrize("task", [None, 3, {}])
def test_what_is_no_task_is_refused(task: Any) -> None:
    with pytest.raises(fh.UserError, match=f"task: expected a name or the path .* got {type(task).__name__}"):
        fh.federate({}, task)


@pytest.mark.parametrize("name", ["North", "federation", "", 1])
def test_a_hospital_needs_a_valid_name(hospitals: dict[str, pd.DataFrame], name: object) -> None:
    assert refusal({name: hospitals["north"]}).startswith("hospitals: expected names of")


def test_tables_without_names_are_refused_without_showing_them(hospitals: dict[str, pd.DataFrame]) -> None:
    tables: Any = list(hospitals.values())
    assert refusal(tables) == "hospitals: expected a table by name, as in a dict, got list"


def test_at_least_one_hospital_is_needed() -> None:
    assert refusal({}).startswith("hospitals: expected at least 1")


def test_an_invalid_value_is_named_by_hospital_and_column(hospitals: dict[str, pd.DataFrame]) -> None:
    message = refusal({**hospitals, "south": hospitals["south"].assign(age=1234)})
    assert message.startswith("south: column age, row 1: expected a number from")
    assert "1234" not in message


def test_too_few_patients_are_refused_as_in_a_csv(hospitals: dict[str, pd.DataFrame]) -> None:
    message = refusal({**hospitals, "south": hospitals["south"].head(5)})
    assert message.startswith("south: expected at least 8 different patients, got 5")


def test_a_task_is_found_by_name_or_path(tmp_path: Path) -> None:
    fh.write_task(HEART_DISEASE, tmp_path / "own.toml")
    assert fh.read_task("heart-disease") is HEART_DISEASE
    assert fh.read_task(str(tmp_path / "own.toml")).agreement == HEART_DISEASE.agreement
    with pytest.raises(fh.UserError, match="hart-disease: cannot be read"):
        fh.read_task("hart-disease")


# A result, of a made-up run

NORTH = Replies(train=40, test=20, losses=(0.6, 0.5), final=evaluation(tp=8, fp=2, tn=7, fn=3, roc_auc=0.85))
SOUTH = Replies(
    train=20, test=10, losses=(0.8, 0.7), final=evaluation(tp=1, fp=0, tn=9, fn=0, roc_auc=None), benefit=benefit(None)
)


def result_of(warnings: tuple[str, ...] = ()) -> Result:
    replies = {"north": NORTH, "south": SOUTH}
    run = run_of(replies)
    return Result(run, figures_of(run, replies), warnings)


def test_metrics_have_a_row_per_hospital_and_one_of_all_patients() -> None:
    metrics = result_of().metrics

    assert metrics.index.tolist() == ["north", "south", "federation"]
    assert metrics["train_examples"].tolist() == [40, 20, 60]
    assert metrics["accuracy"].tolist() == [15 / 20, 10 / 10, 25 / 30]
    assert metrics.loc["north", "roc_auc"] == 0.85
    assert np.isnan(metrics["roc_auc"]["south"])
    assert metrics["small"].tolist() == [True, True, False]  # rarer classes of 9, 1 and 12
    assert all(dtype.kind in "if" for dtype in metrics.drop(columns="small").dtypes)


def test_curves_have_a_row_per_round_and_hospital() -> None:
    curves = result_of().curves

    assert curves["hospital"].tolist() == ["north", "south", "federation"] * 2
    assert curves["round"].tolist() == [1, 1, 1, 2, 2, 2]
    assert curves["train_loss"].tolist() == pytest.approx([0.6, 0.8, 2 / 3, 0.5, 0.7, 17 / 30], abs=1e-6)


def test_benefits_have_a_row_per_hospital_and_figure_with_intervals_as_columns() -> None:
    table = result_of().benefit

    assert table.index.tolist() == [(name, figure) for name in ("north", "south") for figure in ("roc_auc", "brier")]
    north = table.iloc[0].to_dict()
    assert [north[f"difference{end}"] for end in ("", "_low", "_high")] == [0.05, -0.01, 0.11]
    assert north["p_value"] == 0.4
    assert north["federated"] - north["own"] == pytest.approx(0.05)
    assert (north["federated_low"], north["federated_high"]) == pytest.approx((0.7, 0.95))
    assert table["verdict"].tolist() == [*["no clear difference"] * 2, *["too few patients"] * 2]
    assert table["difference"].isna().tolist() == [False, False, True, True]
    assert table["p_value"].dtype.kind == "f"


def test_verdicts_are_sentences_by_hospital() -> None:
    verdicts = result_of().verdicts

    assert verdicts.index.tolist() == ["north", "south"]
    assert "0.850 against 0.800" in verdicts["north"]
    assert "too few" in verdicts["south"]


def test_benefits_are_empty_where_no_hospital_was_asked() -> None:
    replies = {"north": Replies(benefit=None)}
    run = run_of(replies)

    result = Result(run, figures_of(run, replies), ())
    assert result.benefit.empty
    assert result.verdicts.empty


def test_a_result_shows_its_figures() -> None:
    result = result_of(("north: <b>few</b> patients",))

    assert repr(result).startswith("<Result of 2 hospitals, 2 rounds: accuracy 0.833, ")
    html = str(result._repr_html_())
    assert "0.833" in html
    assert ">north<" in html
    assert "<b>" not in html
    assert "UCI&#x27;s" in html  # of the label's meaning
    assert result.problems[0] == "north: <b>few</b> patients"


# Training

ROUNDS_RUN = 3


@pytest.fixture(scope="module")
def result(hospitals: dict[str, pd.DataFrame]) -> Result:
    return fh.federate(hospitals, "heart-disease", rounds=ROUNDS_RUN, local_epochs=1)


@pytest.mark.slow
def test_a_run_gives_figures_and_the_warnings_of_the_data_check(
    result: Result, hospitals: dict[str, pd.DataFrame]
) -> None:
    assert result.metrics.index.tolist() == ["east", "north", "south", "federation"]
    rows = {name: len(table) for name, table in hospitals.items()} | {"federation": sum(map(len, hospitals.values()))}
    assert (result.metrics["train_examples"] + result.metrics["test_examples"]).to_dict() == rows
    assert result.metrics["roc_auc"]["federation"] > 0.8
    assert result.curves["round"].max() == ROUNDS_RUN
    assert result.verdicts.index.tolist() == ["east", "north", "south"]
    assert result.threshold is not None
    assert 0 < result.threshold < 1
    assert any(line.startswith("east: ca has one value") for line in result.problems)


@pytest.mark.slow
def test_a_run_is_silent_and_leaves_frames_loggers_and_memory_as_they_were(
    hospitals: dict[str, pd.DataFrame], capfd: pytest.CaptureFixture[str]
) -> None:
    before = {name: table.copy(deep=True) for name, table in hospitals.items()}
    levels = {name: logging.getLogger(name).level for name in ("flwr", "tensorflow", "federated_health")}

    fh.federate(hospitals, HEART_DISEASE, rounds=1, appraisal=False)

    assert capfd.readouterr() == ("", "")
    for name, table in hospitals.items():
        pd.testing.assert_frame_equal(table, before[name])
    assert {name: logging.getLogger(name).level for name in levels} == levels
    assert handlers.local_model.cache_info().currsize == 0


@pytest.mark.slow
def test_progress_is_one_line_that_is_written_over(
    hospitals: dict[str, pd.DataFrame], capfd: pytest.CaptureFixture[str]
) -> None:
    fh.federate(hospitals, HEART_DISEASE, rounds=2, appraisal=False, progress=True)

    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"\rround 1/2: loss 0\.\d{3}\rround 2/2: loss 0\.\d{3}\n", err)


@pytest.mark.slow
def test_a_keyword_wins_over_the_task_and_the_task_over_the_default(hospitals: dict[str, pd.DataFrame]) -> None:
    task = replace(HEART_DISEASE, training={"rounds": 2, "local_epochs": 1, "model": "logistic"})
    of_task = fh.federate(hospitals, task, appraisal=False)
    given = fh.federate(hospitals, task, appraisal=False, rounds=1)
    assert (of_task.curves["round"].max(), given.curves["round"].max()) == (2, 1)


@pytest.mark.slow
def test_the_split_seed_decides_which_patients_are_held_out(hospitals: dict[str, pd.DataFrame]) -> None:
    one, other = (
        fh.federate(hospitals, HEART_DISEASE, rounds=1, appraisal=False, split_seed=seed).metrics for seed in (1, 2)
    )
    assert one["test_examples"].tolist() == other["test_examples"].tolist()
    assert one["brier"].tolist() != other["brier"].tolist()


@pytest.mark.slow
def test_numbers_may_be_numpys(hospitals: dict[str, pd.DataFrame]) -> None:
    cases: list[tuple[Any, Any, Any]] = [(1, 0.25, 3), (np.int64(1), np.float32(0.25), np.int64(3))]
    plain, numpys = (
        fh.federate(hospitals, HEART_DISEASE, rounds=rounds, learning_rate=rate, split_seed=seed, appraisal=False)
        for rounds, rate, seed in cases
    )
    pd.testing.assert_frame_equal(plain.metrics, numpys.metrics)


@pytest.mark.slow
def test_a_file_builds_the_network(hospitals: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    network = PROJECT / "examples" / "networks" / "batch_norm.py"
    result = fh.federate(hospitals, HEART_DISEASE, rounds=2, network=network)
    assert any(layer.name.startswith("batch_normalization") for layer in result.model.keras_model._flatten_layers())
    assert len(result.verdicts) == len(hospitals)
    result.save(tmp_path / "run")
    patients = hospitals["north"].head()
    loaded = fh.load_model(tmp_path / "run" / MODEL)
    pd.testing.assert_frame_equal(loaded.predict(patients), result.model.predict(patients))


@pytest.mark.slow
def test_differential_privacy_is_a_setting_like_others(hospitals: dict[str, pd.DataFrame]) -> None:
    pytest.importorskip("dp_accounting")
    private = fh.federate(hospitals, HEART_DISEASE, rounds=1, dp_epsilon=8)
    assert private.benefit.empty
    assert private.curves["train_loss"].isna().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "figure", "column"),
    [("classes", "macro_f1", "probability_2"), ("number", "rmse", "prediction"), ("count", "deviance", "expected")],
)
@pytest.mark.filterwarnings("ignore:task severity")  # what to check in the draft
def test_labels_of_other_kinds_have_their_own_figures_and_predictions(
    hospitals: dict[str, pd.DataFrame], kind: Any, figure: str, column: str
) -> None:
    random = np.random.default_rng(0)
    tables = {
        name: table.drop(columns="disease").assign(severity=random.integers(0, 4, len(table)))
        for name, table in hospitals.items()
    }
    task = fh.draft_task(pd.concat(tables.values()), "severity", kind=kind)

    result = fh.federate(tables, task, rounds=2)

    assert result.threshold is None
    assert result.metrics[figure].notna().all()
    assert figure in repr(result)
    assert result.verdicts.index.tolist() == ["east", "north", "south"]
    assert column in result.model.predict(tables["east"])


NETWORK = """
import keras


def build(features: int, outputs: int) -> keras.Model:
    return keras.Sequential(
        [keras.Input((features,)), keras.layers.BatchNormalization(), keras.layers.Dense(outputs)]
    )
"""


@pytest.mark.slow
def test_a_network_of_one_s_own_is_trained_saved_and_loaded(hospitals: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NETWORK)

    result = fh.federate(
        hospitals, HEART_DISEASE, rounds=1, local_epochs=1, appraisal=False, network=tmp_path / "mine.py"
    )

    result.model.save(tmp_path / "model.keras")
    loaded = fh.load_model(tmp_path / "model.keras")
    pd.testing.assert_frame_equal(loaded.predict(hospitals["east"]), result.model.predict(hospitals["east"]))
    assert any("batch_normalization" in variable.path for variable in loaded.keras_model.variables)


def test_a_file_without_a_network_is_refused(hospitals: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import no_such_module\n")

    assert "build" in refusal(hospitals, network=tmp_path / "mine.py")


@pytest.mark.slow
def test_the_model_predicts_what_predict_py_writes(
    result: Result, hospitals: dict[str, pd.DataFrame], run_script: RunScript, tmp_path: Path
) -> None:
    patients = hospitals["south"].drop(columns="disease").set_axis(range(1000, 1000 + len(hospitals["south"])))
    result.model.save(tmp_path / "model.keras")
    patients.to_csv(tmp_path / "patients.csv", index=False)

    predicted = result.model.predict(patients)

    assert run_script("predict.py", "model.keras", "patients.csv", "--out", "risk.csv").code == 0
    written = pd.read_csv(tmp_path / "risk.csv")[list(predicted.columns)]
    pd.testing.assert_frame_equal(predicted.reset_index(drop=True), written, check_exact=True)
    assert predicted.index.equals(patients.index)


@pytest.mark.slow
def test_a_model_recalibrates_risks_for_the_hospitals_of_its_run(
    result: Result, hospitals: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    result.model.save(tmp_path / "model.keras")
    model, patients = fh.load_model(tmp_path / "model.keras"), hospitals["south"]

    before, after = model.predict(patients), model.predict(patients, site="south")

    assert model.sites == result.model.sites == sorted(hospitals)
    # The mean risk of most of its patients, the training rows, is the share of positives, up to a slope.
    shares = [abs(table["risk"].mean() - patients["disease"].mean()) for table in (before, after)]
    assert shares[1] < shares[0]
    assert after["risk"].rank().equals(before["risk"].rank())
    assert after["prediction"].equals(before["prediction"])
    with pytest.raises(fh.UserError, match="expected one of"):
        model.predict(patients, site="bern")


@pytest.mark.slow
def test_a_loaded_model_is_the_saved_one_also_when_saved_again(
    result: Result, hospitals: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    result.model.save(tmp_path / "a.keras")
    fh.load_model(tmp_path / "a.keras").save(tmp_path / "b.keras")

    loaded = fh.load_model(tmp_path / "b.keras")

    assert repr(loaded) == repr(result.model)
    pd.testing.assert_frame_equal(loaded.predict(hospitals["east"]), result.model.predict(hospitals["east"]))


@pytest.mark.slow
def test_a_model_refuses_what_it_cannot_score_or_write(
    result: Result, hospitals: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    with pytest.raises(fh.UserError, match=r"patients: column age, row 1: expected"):
        result.model.predict(hospitals["north"].assign(age="old"))
    with pytest.raises(fh.UserError, match=r"ends in \.keras"):
        result.model.save(tmp_path / "model.h5")
    with pytest.raises(fh.UserError, match="cannot be written"):
        result.model.save(tmp_path / "no-folder" / "model.keras")


@pytest.mark.slow
def test_a_saved_result_has_the_files_of_a_run(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "run")

    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        SETTINGS,
        ROUNDS,
        "metrics.json",
        MODEL,
        REPORT,
        "tables",
    }
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["hospitals"]["north"]["accuracy"] == result.metrics["accuracy"]["north"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run" / ROUNDS), result.curves)
    with pytest.raises(fh.UserError, match="holds a run already"):
        result.save(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:task disease")  # what to check in the draft
def test_a_saved_result_has_the_file_of_an_own_task(hospitals: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    task = fh.draft_task(pd.concat(hospitals.values()), "disease")

    result = fh.federate(hospitals, task, rounds=1, appraisal=False)
    with nothing_lost(tmp_path):
        result.save(tmp_path / "run")

    assert fh.read_task(tmp_path / "run" / "task.toml").agreement == task.agreement
    settings = json.loads((tmp_path / "run" / SETTINGS).read_text())
    assert settings["task-file"] == str(tmp_path / "run" / "task.toml")


@pytest.mark.slow
def test_the_report_is_the_page_of_a_run(result: Result, tmp_path: Path) -> None:
    result.write_report(tmp_path / "report.html")

    page = (tmp_path / "report.html").read_text()
    assert "Benefit of joining" in page
    assert "SHA-256 of the weights" in page


@pytest.mark.slow
def test_the_cause_of_a_failure_at_a_hospital_is_told_without_its_text(
    hospitals: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("secret value 61.5")

    monkeypatch.setitem(handlers.PLAIN_HANDLERS, "train", fail)

    with pytest.raises(fh.UserError, match="ValueError at the hospital") as failed:
        fh.federate(hospitals, HEART_DISEASE, rounds=1)
    assert "61.5" not in str(failed.value)
    assert isinstance(failed.value.__cause__, ValueError)


@pytest.mark.slow
def test_training_that_diverges_ends_with_the_reason(hospitals: dict[str, pd.DataFrame]) -> None:
    assert re.search("diverged|finite", refusal(hospitals, rounds=2, learning_rate=1e6, max_update_norm=0.0))


@pytest.mark.slow
def test_the_page_s_example_works_as_it_stands(
    hospitals_folder: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (PROJECT / "docs" / "python-api.md").read_text()
    (example,) = re.findall(r"<!-- example -->\n```python\n(.*?)```", page, re.DOTALL)
    (in_folder / "data").symlink_to(hospitals_folder)

    with pytest.warns(UserWarning, match="check the ranges"):
        exec(example, {})

    printed = capsys.readouterr().out
    assert re.search(r"federation +\d+ +0\.\d+ +0\.\d+ +0\.\d+", printed)
    assert "risk  prediction" in printed
    assert (in_folder / "report.html").exists()
