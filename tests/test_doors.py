"""The doors as a user meets them: what they print and how they end. Called in this process, which is faster."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import client
import create_dataset
import predict
import server
import utils
from federated_health.errors import DataError
from federated_health.processes import free_port

DOORS = {
    "server.py": server.serve,
    "client.py": client.main,
    "create_dataset.py": create_dataset.create,
    "predict.py": predict.predict,
}

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_folder: Path) -> Run:
    """Runs a door with arguments in a folder of its own; returns its exit code and what it wrote to stderr."""
    assert in_folder.is_dir()
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner's own handlers stay

    def call(name: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            utils.run_door(DOORS[name])
        return int(ended.value.code or 0), capsys.readouterr().err

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
