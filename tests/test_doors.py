"""The doors as a user meets them: what they print and how they end. Called in this process, which is faster."""

import io
import json
import os
import re
import signal
import socket
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pandas as pd
import pytest

import client
import create_dataset
import predict
import server
import utils
from federated_health.dataset_folder import write_hospitals
from federated_health.errors import DataError
from federated_health.model import build_model, initial_weights, load_model, predict_risk, save_model
from federated_health.partitions import Partition, divide
from federated_health.patients import read_patients
from federated_health.processes import free_port
from federated_health.sources import generate_readmission
from federated_health.statistics import Normalisation
from federated_health.streaming import serve_streams
from federated_health.tasks import HEART_DISEASE

DOORS = {
    "server.py": server.serve,
    "client.py": client.main,
    "create_dataset.py": create_dataset.create,
    "predict.py": predict.predict,
}

Run = Callable[..., tuple[int, str]]
Show = Callable[..., tuple[int, str, str]]


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_folder: Path) -> Show:
    """Runs a door with arguments in a folder of its own; returns its exit code, stdout and stderr."""
    assert in_folder.is_dir()
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner's own handlers stay

    def call(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            utils.run_door(DOORS[name])
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def run(show: Show) -> Run:
    """Runs a door with arguments in a folder of its own; returns its exit code and what it wrote to stderr."""

    def call(name: str, *arguments: object) -> tuple[int, str]:
        code, _, said = show(name, *arguments)
        return code, said

    return call


def assert_one_line(result: tuple[int, str], *parts: str) -> None:
    code, said = result
    assert code not in (0, None)
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    for part in parts:
        assert part in said


def write(table: pd.DataFrame, name: str = "mine.csv") -> Path:
    path = Path(name)
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", DOORS)
def test_help_teaches_and_ends_well(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == (0, "")
    capsys.readouterr()


@pytest.mark.parametrize("name", DOORS)
def test_an_unknown_flag_is_refused(name: str, run: Run) -> None:
    code, said = run(name, "--rownds", "3")
    assert code == 2
    assert "Traceback" not in said


def test_client_without_its_csv(run: Run) -> None:
    assert_one_line(run("client.py", "--data", "none.csv", "--name", "mine"), "none.csv", "cannot be read")


def test_client_without_a_data_set(run: Run) -> None:
    assert_one_line(run("client.py", "--hospital", 1), "manifest.json", "python create_dataset.py")


def test_client_with_a_number_that_no_hospital_has(run: Run) -> None:
    run("create_dataset.py")
    assert_one_line(run("client.py", "--hospital", 5), "from 1 to 4", "got 5")


def test_client_whose_csv_lacks_a_column(run: Run, patients: pd.DataFrame) -> None:
    path = write(patients.drop(columns="chol"))
    assert_one_line(run("client.py", "--data", path, "--name", "mine"), "lacks the column chol")


def test_client_whose_csv_has_text_in_a_number(run: Run, patients: pd.DataFrame) -> None:
    patients.loc[6, "age"] = "sixty"
    result = run("client.py", "--data", write(patients), "--name", "mine")
    assert_one_line(result, "column age, row 7", "a number from 0 to 120")
    assert "sixty" not in result[1]


def test_client_whose_label_is_not_0_or_1(run: Run, patients: pd.DataFrame) -> None:
    patients.loc[0, "disease"] = "3"
    assert_one_line(run("client.py", "--data", write(patients), "--name", "mine"), "column disease, row 1", "0 or 1")


def test_client_whose_csv_is_empty(run: Run) -> None:
    Path("mine.csv").write_text("")
    assert_one_line(run("client.py", "--data", "mine.csv", "--name", "mine"), "is empty")


@pytest.mark.parametrize("name", ["federation", "Mine", "my hospital", "-", "é", "a" * 64])
def test_client_with_a_name_that_cannot_be(name: str, run: Run, hospitals_folder: Path) -> None:
    code, said = run("client.py", "--data", hospitals_folder / "client_1.csv", f"--name={name}")
    assert code == 2
    assert "lower-case letters, digits and hyphens" in said


@pytest.mark.parametrize("flags", [[], ["--hospital", 1, "--data", "a.csv"], ["--data", "a.csv"], ["--name", "a"]])
def test_client_that_does_not_say_whose_data_it_has(flags: list[object], run: Run) -> None:
    code, said = run("client.py", *flags)
    assert code == 2
    assert "expected either --hospital N, or --data PATH and --name NAME" in said


def test_client_without_a_server_within_the_wait(run: Run, hospitals_folder: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    data = hospitals_folder / "client_1.csv"
    result = run("client.py", "--data", data, "--name", "mine", "--server", address, "--wait", "0.1")
    assert_one_line(result, address, "no server within 0.1 s")


@pytest.mark.parametrize(("name", "flag"), [("client.py", "--server"), ("server.py", "--address")])
def test_an_address_past_this_machine_is_refused(name: str, flag: str, run: Run, hospitals_folder: Path) -> None:
    own = ["--data", hospitals_folder / "client_1.csv", "--name", "mine"] if name == "client.py" else []
    assert_one_line(run(name, *own, flag, "192.0.2.1:8080"), "is not loopback", "--insecure")


def test_server_whose_port_is_taken(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_one_line(run("server.py", "--address", address), address, "cannot be listened on")


def test_server_does_not_overwrite_a_run(run: Run) -> None:
    Path("old").mkdir()
    Path("old/metrics.json").write_text("{}")
    result = run("server.py", "--address", f"127.0.0.1:{free_port()}", "--out", "old", "--wait", 0.1)
    assert_one_line(result, "old: holds a run already (metrics.json)", "--force")
    assert Path("old/metrics.json").read_text() == "{}"


def test_server_without_hospitals_ends_after_the_wait_and_leaves_nothing(run: Run) -> None:
    result = run("server.py", "--address", f"127.0.0.1:{free_port()}", "--out", "runs/new", "--wait", 0.1)
    assert_one_line(result, "0 of 4 hospitals were connected", "--wait")
    assert not Path("runs/new").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rounds", 0], "rounds: expected at least 1"),
        (["--rounds", "ten"], "invalid int value"),
        (["--learning-rate", -1], "learning-rate: expected more than 0"),
        (["--learning-rate", "nan"], "learning-rate: expected more than 0"),
        (["--model", "forest"], "invalid choice"),
        (["--address", "here"], "expected HOST:PORT"),
    ],
)
def test_server_with_a_setting_that_cannot_be(flags: list[object], words: str, run: Run) -> None:
    code, said = run("server.py", *flags)
    assert code != 0
    assert words in said
    assert "Traceback" not in said


def test_create_dataset_writes_four_hospitals_in_order(run: Run) -> None:
    Path("data").mkdir()
    assert run("create_dataset.py", "--seed", 7)[0] == 0
    manifest = json.loads(Path("data/manifest.json").read_text())
    assert [(entry["file"], entry["name"], entry["rows"]) for entry in manifest["hospitals"]] == [
        ("client_1.csv", "cleveland", 303),
        ("client_2.csv", "hungary", 294),
        ("client_3.csv", "switzerland", 123),
        ("client_4.csv", "va-long-beach", 200),
    ]
    assert manifest["partition"] == {"by": "hospital", "seed": 7}
    assert run("create_dataset.py")[0] == 0  # its own files may be written anew


def test_create_dataset_does_not_overwrite_what_is_not_its_own(run: Run) -> None:
    Path("data").mkdir()
    Path("data/client_9.csv").write_text("mine\n")
    assert_one_line(run("create_dataset.py"), "client_9.csv", "--force")
    assert [path.name for path in Path("data").iterdir()] == ["client_9.csv"]
    assert run("create_dataset.py", "--force")[0] == 0
    assert not Path("data/client_9.csv").exists()


def test_predict_without_a_model(run: Run) -> None:
    assert_one_line(run("predict.py", "none.keras", "patients.csv"), "none.keras", "cannot be read")


def test_predict_with_a_file_that_is_not_a_model(run: Run) -> None:
    Path("fake.keras").write_text("not a zip")
    assert_one_line(run("predict.py", "fake.keras", "patients.csv"), "is not a model that server.py saved")


def test_an_error_of_ours_is_one_line_even_if_its_words_are_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise DataError("first\n   second")

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        utils.run_door(fail)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: first second\n"


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        utils.run_door(interrupt)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped\n"


def test_ctrl_c_while_a_result_is_saved_is_heard_afterwards() -> None:
    done = []

    def save() -> None:
        with utils.interrupts_deferred():
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
            done.append("saved")

    with pytest.raises(KeyboardInterrupt):
        save()
    assert done == ["saved"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_defect_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        utils.run_door(fail)


@pytest.mark.parametrize("name", DOORS)
def test_a_door_is_short(name: str) -> None:
    assert len((Path(create_dataset.__file__).parent / name).read_text().splitlines()) <= 150


# client.py --check


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address to which nobody may connect, by gRPC or otherwise."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a check opens no connection")

    monkeypatch.setattr(grpc, "insecure_channel", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(BlockingIOError):
            listener.accept()


def rows_of(page: str) -> dict[str, list[str]]:
    """The table's rows: column -> its cells. Findings are indented by more than one space."""
    lines = [line.split() for line in page.splitlines() if re.match(r" \S", line)]
    return {words[0]: words[1:] for words in lines}


def test_a_check_of_a_numbered_hospital_shows_the_page_and_sends_nothing(show: Show, unheard: str) -> None:
    show("create_dataset.py")
    code, page, said = show("client.py", "--hospital", 3, "--check", "--server", unheard)
    assert (code, said) == (0, "")
    assert (
        "data/client_3.csv, for the task heart-disease: 123 patients, 115 with disease = 1, 8 with disease = 0\n"
        in page
    )
    rows = rows_of(page)
    assert [rows[name] for name in ("age", "chol", "trestbps", "disease")] == [
        ["0", "0"],
        ["123", "100"],
        ["2", "2"],
        ["0", "0"],
    ]
    assert page.endswith(
        "This hospital may join.\n"
        "  look at this: one class of disease is rare: this hospital's own AUC will say little\n"
        "  look at this: chol is missing in every row\n"
    )


def test_a_check_of_a_file_needs_no_name(show: Show, unheard: str, hospitals_folder: Path) -> None:
    data = hospitals_folder / "client_1.csv"
    code, page, said = show("client.py", "--data", data, "--check", "--server", unheard)
    assert (code, said) == (0, "")
    assert page.rstrip().endswith("This hospital may join.")
    named = show("client.py", "--data", data, "--name", "mine", "--check", "--server", unheard)
    assert named == (0, page, "")


def test_a_check_of_a_file_that_may_not_join_shows_the_page_and_ends_in_one_line(
    show: Show, unheard: str, patients: pd.DataFrame
) -> None:
    patients.loc[6:8, "age"] = "sixty-seven"
    patients.loc[9, "chol"] = "0"
    code, page, said = show("client.py", "--data", write(patients), "--check", "--server", unheard)
    assert code == 1
    assert said == (
        "error: mine.csv: column age, row 7: expected a number from 0 to 120 (years), or empty; got text "
        "(and 2 more cells that break a rule)\n"
    )
    assert "sixty" not in page
    assert rows_of(page)["age"] == ["0", "0", "3"]
    assert rows_of(page)["chol"] == ["1", "<1", "1"]
    rule = "a number from 0 to 120 (years), or empty"
    assert page.endswith(
        f"This hospital may not join: its column age holds what is not {rule}.\n"
        f"  age must be {rule}; see rows 7, 8, 9 (1 is the first below the header)\n"
    )


def test_a_check_of_too_few_patients_ends_in_one_line(show: Show, unheard: str, patients: pd.DataFrame) -> None:
    code, page, said = show("client.py", "--data", write(patients.head(7)), "--check", "--server", unheard)
    assert (code, said) == (1, "error: mine.csv: has 7 different patients; at least 8 are needed\n")
    assert "This hospital may not join: it has fewer than 8 different patients." in page


def test_a_check_of_a_file_that_is_no_table_is_one_line_without_a_page(
    show: Show, unheard: str, patients: pd.DataFrame
) -> None:
    path = write(patients.drop(columns="chol"))
    for data, words in ((path, "lacks the column chol"), ("none.csv", "cannot be read")):
        code, page, said = show("client.py", "--data", data, "--check", "--server", unheard)
        assert_one_line((code, said), words)
        assert page == ""


def write_readmission() -> Path:
    partition = Partition(by="hospital", seed=1)
    source = generate_readmission(800, seed=1)
    write_hospitals(Path("data"), source, divide(source, partition), partition=partition.describe())
    return Path("data/client_1.csv")


def test_a_check_takes_the_task_of_the_folder_and_a_file_that_of_the_flag(show: Show, unheard: str) -> None:
    path = write_readmission()
    code, page, said = show("client.py", "--hospital", 1, "--check", "--server", unheard)
    assert (code, said) == (0, "")
    assert "for the task readmission: 480 patients" in page
    assert "hba1c" in rows_of(page)
    flagged = show("client.py", "--data", path, "--task", "readmission", "--check", "--server", unheard)
    assert flagged == (0, page, "")


def test_a_check_for_another_task_than_the_data_s_says_what_is_lacking(show: Show, unheard: str) -> None:
    path = write_readmission()
    for own in (("--hospital", 1, "--task", "heart-disease"), ("--data", path)):
        code, page, said = show("client.py", *own, "--check", "--server", unheard)
        assert_one_line((code, said), "lacks the columns cp, trestbps, chol")
        assert page == ""


@pytest.mark.parametrize("task", [None, "measles"])
def test_a_manifest_that_names_no_task_of_ours_is_one_line(run: Run, task: str | None) -> None:
    write_readmission()
    manifest = json.loads(Path("data/manifest.json").read_text())
    del manifest["task"]
    Path("data/manifest.json").write_text(json.dumps(manifest | ({"task": task} if task else {})))
    words = "task: expected one of" if task else "is not a manifest that create_dataset.py wrote"
    assert_one_line(run("client.py", "--hospital", 1, "--check"), words)


@pytest.mark.parametrize("flags", [[], ["--hospital", 1, "--data", "a.csv"], ["--name", "a"]])
def test_a_check_needs_to_know_whose_data_it_is(flags: list[object], run: Run) -> None:
    code, said = run("client.py", "--check", *flags)
    assert code == 2
    assert "expected either --hospital N, or --data PATH and --name NAME" in said


# Joining with data that may not join


def test_a_client_that_may_not_join_tells_the_server_why_and_ends(show: Show, patients: pd.DataFrame) -> None:
    patients.loc[6, "age"] = "sixty-seven"
    words: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, HEART_DISEASE.terms, words.append) as grid:
        code, page, said = show("client.py", "--data", write(patients), "--name", "mine", "--server", address)
        assert grid.get_node_ids() == []
    assert (code, page) == (1, "")
    assert said == ("error: mine.csv: column age, row 7: expected a number from 0 to 120 (years), or empty; got text\n")
    assert words == [
        "refused mine: its own check says no: its column age holds what is not a number from 0 to 120 (years), or empty"
    ]


@pytest.mark.parametrize("content", ["", "age\n", None])
def test_a_client_whose_file_cannot_be_read_tells_the_server_without_its_path(run: Run, content: str | None) -> None:
    words: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    if content is not None:
        Path("secret-path.csv").write_text(content)
    with serve_streams(address, HEART_DISEASE.terms, words.append):
        assert_one_line(run("client.py", "--data", "secret-path.csv", "--name", "mine", "--server", address), "secret")
    assert len(words) == 1
    assert words[0].startswith("refused mine: its own check says no: its ")
    assert "secret" not in words[0]


def test_a_client_that_may_not_join_and_has_no_server_ends_at_once(run: Run, patients: pd.DataFrame) -> None:
    address = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    result = run("client.py", "--data", write(patients.head(7)), "--name", "mine", "--server", address)
    assert time.monotonic() - started < 3
    assert_one_line(result, "has 7 different patients; at least 8 are needed")


# Thresholds and predictions

NORMALISATION = Normalisation(mean=(54.0, 130.0, 250.0, 150.0, 1.0), variance=(81.0, 300.0, 2700.0, 520.0, 1.3))


def save_some_model(path: Path, **description: object) -> None:
    weights = initial_weights(HEART_DISEASE, "logistic", 3)
    whole = build_model(HEART_DISEASE, "logistic", NORMALISATION, weights)
    save_model(path, whole, {"task": "heart-disease", "schema": HEART_DISEASE.schema_hash, **description})


@pytest.mark.slow
def test_a_prediction_is_of_the_risk_as_it_is_shown(show: Show, patients: pd.DataFrame) -> None:
    path = write(patients.drop(columns="disease"))
    model = Path("model.keras")
    save_some_model(model)
    values = read_patients(path, HEART_DISEASE, labelled=False)[1].to_numpy()
    exact = predict_risk(load_model(model), HEART_DISEASE, values).astype(float)
    rounded_up = next(risk for risk in sorted(exact) if 0.4 < risk < round(risk, 6))

    for threshold, description in ((0.5, {}), (round(rounded_up, 6), {"threshold": round(rounded_up, 6)})):
        save_some_model(model, **description)
        code, page, said = show("predict.py", model, path)
        assert (code, said) == (0, "")
        table = pd.read_csv(io.StringIO(page), dtype=str, keep_default_na=False)
        assert list(table.columns) == [*patients.columns[:-1], "risk", "prediction"]
        risk = table["risk"].astype(float)
        assert risk.tolist() == pytest.approx(exact.tolist(), abs=1.1e-6)
        assert table["prediction"].tolist() == [str(int(one >= threshold)) for one in risk]
        assert 0 < table["prediction"].astype(int).sum() < len(table)
        pd.testing.assert_frame_equal(table[patients.columns[:-1]], patients[patients.columns[:-1]], check_dtype=False)


@pytest.mark.slow
@pytest.mark.parametrize("column", ["risk", "prediction"])
def test_predict_does_not_overwrite_a_column(run: Run, patients: pd.DataFrame, column: str) -> None:
    save_some_model(Path("model.keras"), threshold=0.4)
    result = run("predict.py", "model.keras", write(patients.assign(**{column: "1"})), "--out", "risk.csv")
    assert_one_line(result, f"mine.csv: has a column {column} already")
    assert not Path("risk.csv").exists()


@pytest.mark.parametrize("threshold", [None, "0.5", 2.0, -0.1])
def test_a_model_whose_threshold_is_no_probability_is_refused(run: Run, threshold: object) -> None:
    with zipfile.ZipFile("model.keras", "w") as archive:
        description = {"task": "heart-disease", "schema": HEART_DISEASE.schema_hash, "threshold": threshold}
        archive.writestr("federated_health.json", json.dumps(description))
    result = run("predict.py", "model.keras", "none.csv")
    assert_one_line(result, "model.keras: its threshold is not between 0 and 1")
