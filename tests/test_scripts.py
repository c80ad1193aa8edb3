"""The scripts as a user meets them: what they print and how they end. Called in this process, which is faster."""

import io
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pandas as pd
import pytest
from flwr.app import Context, MetricRecord
from flwr.clientapp import ClientApp

import client
import server
import utils
from federated_health.cli import client as cli_client
from federated_health.cli import create_dataset, predict
from federated_health.cli import server as cli_server
from federated_health.cli.console import interrupts_deferred
from federated_health.data.csv_reading import read_patients
from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import generate_readmission
from federated_health.data.tasks import HEART_DISEASE
from federated_health.errors import DataError, JoinError
from federated_health.hospital import results
from federated_health.messages.content import ARRAYS, CONFIG, TrainConfig
from federated_health.messages.records import weights_to_record
from federated_health.ml.keras_models import build_model, load_model, predict_risk, save_model
from federated_health.ml.networks import Weights, initial_weights
from federated_health.ml.normalisation import Normalisation
from federated_health.processes import free_port
from federated_health.security.authority import make_demo_identities
from federated_health.server.checkpoint import CheckpointFolder
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.stream_server import serve_streams
from tests.test_handlers import TRAIN_CONFIG

SCRIPTS = {
    "server.py": lambda: cli_server.serve(server.app),
    "client.py": lambda: cli_client.run_client(client.app),
    "create_dataset.py": create_dataset.main,
    "predict.py": predict.main,
}

Run = Callable[..., tuple[int, str]]
Show = Callable[..., tuple[int, str, str]]

BEST = "expected_bayes_optimal_roc_auc"


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_folder: Path) -> Show:
    """Runs a script with arguments in a folder of its own; returns its exit code, stdout and stderr."""
    assert in_folder.is_dir()
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner's own handlers stay

    def call(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            utils.run_script(SCRIPTS[name])
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def run(show: Show) -> Run:
    """Runs a script with arguments in a folder of its own; returns its exit code and what it wrote to stderr."""

    def call(name: str, *arguments: object) -> tuple[int, str]:
        code, _, said = show(name, *arguments)
        return code, said

    return call


@pytest.fixture
def create(show: Show) -> Show:
    """Runs create_dataset.py with arguments as they are typed; returns its exit code, stdout and stderr."""
    return lambda typed="": show("create_dataset.py", *typed.split())


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


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_teaches_and_ends_well(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == (0, "")
    capsys.readouterr()


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_flag_is_refused(name: str, run: Run) -> None:
    code, said = run(name, "--rownds", "3")
    assert code == 2
    assert "Traceback" not in said


def test_client_without_its_csv(run: Run) -> None:
    assert_one_line(run("client.py", "--data", "none.csv", "--name", "mine"), "none.csv", "cannot be read")


def test_client_without_a_data_set(run: Run) -> None:
    assert_one_line(run("client.py", "--hospital", 1), "manifest.json", "does not exist")


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


@pytest.fixture
def tls(in_folder: Path) -> dict[str, Path]:
    """TLS folders of a server, and of the hospitals a and cleveland."""
    own, hospitals = make_demo_identities(in_folder / "tls", ("a", "cleveland"))
    return {"server": own, **hospitals}


def test_with_tls_an_address_past_this_machine_may_be_used(
    run: Run, hospitals_folder: Path, tls: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cli_client, "join_run", lambda *_, address, **__: asked.append(address))
    own = ["--data", hospitals_folder / "client_1.csv", "--tls", tls["a"]]
    assert run("client.py", *own, "--server", "192.0.2.1:8080")[0] == 0
    assert asked == ["192.0.2.1:8080"]
    result = run("server.py", "--tls", tls["server"], "--address", "192.0.2.1:8080")
    assert_one_line(result, "address 192.0.2.1:8080: cannot be listened on: its host is not this machine's")


def test_an_empty_tls_folder_is_not_the_current_one(run: Run, hospitals_folder: Path) -> None:
    result = run("client.py", "--data", hospitals_folder / "client_1.csv", "--name", "a", "--tls", "")
    assert_one_line(result, "argument --tls: expected a folder, got ''")
    assert result[0] == 2


def test_a_client_takes_its_name_from_its_certificate(show: Show, hospitals_folder: Path, tls: dict[str, Path]) -> None:
    address = f"127.0.0.1:{free_port()}"
    own = ["--data", hospitals_folder / "client_1.csv", "--tls", tls["a"], "--server", address, "--wait", "0.1"]
    for name in ([], ["--name", "a"]):
        code, page, said = show("client.py", *own, *name)
        assert code == 1
        assert " a: 227 training rows" in page
        assert_one_line((code, said), address, "no server within 0.1 s: it cannot be reached (Connection refused)")


def test_a_client_of_another_name_than_its_certificate_s_is_refused(
    run: Run, hospitals_folder: Path, tls: dict[str, Path]
) -> None:
    words = "certificate.pem: is for hospital a, got the name b"
    result = run("client.py", "--data", hospitals_folder / "client_1.csv", "--name", "b", "--tls", tls["a"])
    assert_one_line(result, words)
    run("create_dataset.py")
    address = f"127.0.0.1:{free_port()}"
    assert_one_line(run("client.py", "--hospital", 1, "--tls", tls["a"], "--server", address), "got the name cleveland")
    own = ("client.py", "--hospital", 1, "--tls", tls["cleveland"], "--server", address, "--wait", "0.1")
    assert_one_line(run(*own), "no server within 0.1 s")


@pytest.mark.parametrize(
    ("name", "whose", "words"),
    [
        ("client.py", "server", "is for server localhost; expected a hospital's"),
        ("server.py", "a", "is for hospital a; expected a server's"),
        ("client.py", "none", "none: is not a folder"),
        ("server.py", "none", "none: is not a folder"),
    ],
)
def test_a_tls_folder_that_will_not_do_is_refused(
    name: str, whose: str, words: str, run: Run, hospitals_folder: Path, tls: dict[str, Path]
) -> None:
    own = ["--data", hospitals_folder / "client_1.csv"] if name == "client.py" else []
    assert_one_line(run(name, *own, "--tls", tls.get(whose, Path("none"))), words)


def test_a_server_whose_list_of_revoked_ones_is_spoiled_does_not_start(run: Run, tls: dict[str, Path]) -> None:
    (tls["server"] / "revoked.pem").write_bytes(b"garbage")
    result = run("server.py", "--tls", tls["server"], "--address", f"127.0.0.1:{free_port()}")
    assert_one_line(result, "revoked.pem: is not a list of revoked certificates")


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
        (["--rounds", "ten"], "--rounds: expected a whole number, got 'ten'"),
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


HEART_CSV = """age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,disease
63,1,1,145,233,1,2,150,0,2.3,3,0,6,0
67,1,4,160,286,0,2,108,1,1.5,2,3,3,1
37,1,3,130,250,0,0,187,0,3.5,3,0,3,0
41,0,2,130,204,0,2,172,0,1.4,1,0,3,0
"""


def manifest_of(folder: str = "data") -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(Path(folder, "manifest.json").read_text())
    return manifest


def hospitals_of(folder: str = "data") -> list[tuple[str, int]]:
    return [(entry["name"], entry["rows"]) for entry in manifest_of(folder)["hospitals"]]


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        ("--by random", 2, "argument --by: invalid choice: 'random'"),
        ("--by size", 2, "--ratios: required with --by size"),
        ("--by size --hospitals 3", 2, "--ratios: required with --by size"),
        ("--by size --ratios 2,1 --hospitals 3", 2, "--hospitals: expected 2, as in --ratios, got 3"),
        ("--by size --ratios 2,0", 2, "argument --ratios: expected numbers above 0 between commas"),
        ("--by size --ratios 2,nan", 2, "argument --ratios: expected numbers above 0 between commas"),
        ("--by size --ratios 1e999,1", 2, "argument --ratios: expected numbers above 0 between commas"),
        ("--by size --ratios 2,", 2, "argument --ratios: expected numbers above 0 between commas"),
        ("--by size --ratios 2;1", 2, "argument --ratios: expected numbers above 0 between commas"),
        ("--by size --ratios 2,1 --alpha 1", 2, "--alpha: allowed with --by dirichlet only"),
        ("--by size --ratios 1e-300,1", 1, "--ratios: a hospital would get none of the 920 patients"),
        ("--by size --ratios 10000,1", 1, "--ratios: a hospital would get none of the 920 patients"),
        ("--ratios 2,1", 2, "--ratios: allowed with --by size only"),
        ("--alpha 1", 2, "--alpha: allowed with --by dirichlet only"),
        ("--by iid --alpha 1", 2, "--alpha: allowed with --by dirichlet only"),
        ("--by dirichlet --ratios 2,1", 2, "--ratios: allowed with --by size only"),
        ("--by dirichlet --alpha 0", 2, "--alpha: expected 0.001 to 1e+06, got 0"),
        ("--by dirichlet --alpha=-1", 2, "--alpha: expected 0.001 to 1e+06, got -1"),
        ("--by dirichlet --alpha nan", 2, "--alpha: expected 0.001 to 1e+06, got nan"),
        ("--by dirichlet --alpha inf", 2, "--alpha: expected 0.001 to 1e+06, got inf"),
        ("--by dirichlet --alpha half", 2, "argument --alpha: expected a number, got 'half'"),
        ("--by dirichlet --hospitals 60 --alpha 0.001", 1, "--alpha 0.001: each of 100 draws left a hospital without"),
        ("--hospitals 3", 1, "--hospitals: expected 4, as in the data, got 3; see --by"),
        ("--by hospital --hospitals 5", 1, "--hospitals: expected 4, as in the data, got 5; see --by"),
        ("--by iid --hospitals 921", 1, "--hospitals: expected at most one per patient (920), got 921"),
        ("--by iid --hospitals 1001", 2, "--hospitals: expected 1 to 1000, got 1001"),
        ("--by iid --hospitals 2147483647", 2, "--hospitals: expected 1 to 1000, got 2147483647"),
        (
            "--by iid --hospitals 2147483648",
            2,
            "expected a whole number from 1, got '2147483648'",
        ),
        ("--by iid --hospitals 0", 2, "argument --hospitals: expected a whole number from 1, got '0'"),
        ("--by iid --hospitals=-4", 2, "argument --hospitals: expected a whole number from 1, got '-4'"),
        ("--by iid --hospitals four", 2, "argument --hospitals: expected a whole number from 1, got 'four'"),
        ("--seed=-1", 2, "argument --seed: expected a whole number from 0 to 2147483647, got '-1'"),
        ("--seed 2147483648", 2, "argument --seed: expected a whole number from 0 to 2147483647, got '2147483648'"),
        ("--drop-invalid", 2, "--drop-invalid goes with a file"),
        ("--source readmission --drop-invalid", 2, "--drop-invalid goes with a file"),
        ("--patients 10", 2, "--patients goes with --source readmission"),
        ("--source uci --patients 10", 2, "--patients goes with --source readmission"),
        ("--source heart.csv --patients 10", 2, "--patients goes with --source readmission"),
        ("--source readmission --patients 0", 2, "argument --patients: expected a whole number from 1, got '0'"),
        ("--source readmission --patients 1", 2, "--patients: expected 2 to 10000000, got 1"),
        ("--source readmission --patients 10000001", 2, "--patients: expected 2 to 10000000, got 10000001"),
        ("--source readmission --patients 3 --by iid", 1, "--hospitals: expected at most one per patient (3), got 4"),
        ("--source nowhere.csv", 2, "expected uci, readmission, or a file, zip or folder; there is no nowhere.csv"),
        ("--source UCI", 2, "expected uci, readmission, or a file, zip or folder; there is no UCI"),
        (f"--source {'a' * 300}.csv", 2, "or a file, zip or folder; there is no aaaa"),
        (f"--source {'a/' * 3000}", 2, "or a file, zip or folder; there is no a/a/"),
        ("--source .", 1, "expected processed.cleveland.data"),
        ("--source /dev/null", 1, "/dev/null: is empty"),
        (
            "--source heart.csv --by hospital",
            1,
            "--by hospital: the data has no column that names each",
        ),
        ("--source heart.csv --hospitals 5", 1, "--hospitals: expected at most one per patient (4), got 5"),
        ("--out heart.csv", 1, "heart.csv: cannot be written to (File exists)"),
        ("--out heart.csv/data", 1, "heart.csv/data: cannot be written to (Not a directory)"),
        (f"--out {'a' * 300}", 1, "cannot be written to (File name too long)"),
        ("uci", 2, "unrecognized arguments: uci"),
        ("--hosp 4", 2, "unrecognized arguments: --hosp 4"),
    ],
)
def test_create_dataset_refuses_what_cannot_be_in_one_line_and_writes_nothing(
    create: Show, in_folder: Path, typed: str, code: int, words: str
) -> None:
    Path("heart.csv").write_text(HEART_CSV)

    ended, printed, said = create(typed)

    assert (ended, printed) == (code, "")
    *usage, line = said.splitlines()
    assert words in line
    assert not usage or usage[0].startswith("usage: create_dataset.py ")  # argparse's own lines
    assert "error: " in line
    assert [path.name for path in in_folder.rglob("*")] == ["heart.csv"]


@pytest.mark.parametrize(
    ("typed", "partition", "sizes"),
    [
        ("--by iid", {"by": "iid", "hospitals": 4}, [230] * 4),
        ("--by iid --hospitals 3", {"by": "iid", "hospitals": 3}, [307, 307, 306]),
        ("--by size --ratios 8,4,2,1", {"by": "size", "ratios": [8, 4, 2, 1]}, [491, 245, 123, 61]),
        ("--by size --ratios 2,1 --hospitals 2", {"by": "size", "hospitals": 2, "ratios": [2, 1]}, [613, 307]),
        ("--by dirichlet", {"by": "dirichlet", "hospitals": 4, "alpha": 0.5}, None),
        ("--by dirichlet --hospitals 2 --alpha 3", {"by": "dirichlet", "hospitals": 2, "alpha": 3.0}, None),
        ("--by hospital", {"by": "hospital"}, [303, 294, 123, 200]),
        ("--hospitals 4", {"by": "hospital", "hospitals": 4}, [303, 294, 123, 200]),
        ("--by iid --hospitals 1", {"by": "iid", "hospitals": 1}, [920]),
    ],
)
def test_create_dataset_divides_as_it_is_told_and_says_so_in_the_manifest(
    create: Show, typed: str, partition: dict[str, object], sizes: list[int] | None
) -> None:
    assert create(f"{typed} --seed 7")[::2] == (0, "")

    assert manifest_of()["partition"] == {"seed": 7, **partition}
    rows = [len(pd.read_csv(f"data/client_{number}.csv")) for number in range(1, len(hospitals_of()) + 1)]
    assert rows == [rows for _, rows in hospitals_of()]
    assert sum(rows) == 920
    assert sizes is None or rows == sizes
    names = ["cleveland", "hungary", "switzerland", "va-long-beach"]
    if partition["by"] != "hospital":
        names = [f"hospital-{number}" for number in range(1, len(rows) + 1)]
    assert [name for name, _ in hospitals_of()] == names


@pytest.mark.parametrize("by", ["iid", "dirichlet --alpha 2", "size --ratios 3,2,1", "hospital"])
@pytest.mark.parametrize("source", ["uci", "readmission --patients 300"])
def test_create_dataset_writes_the_same_bytes_for_the_same_seed(create: Show, source: str, by: str) -> None:
    for seed, folder in ((7, "one"), (7, "two"), (8, "other")):
        assert create(f"--source {source} --by {by} --seed {seed} --out {folder}")[0] == 0

    one, two, other = (
        {path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("one", "two", "other")
    )
    assert one == two
    assert {"client_1.csv", "client_2.csv", "manifest.json"} <= set(one)
    assert (one["client_1.csv"] == other["client_1.csv"]) is (source == "uci" and by == "hospital")


def test_create_dataset_writes_example_patients_of_the_task(create: Show) -> None:
    example = Path("data/example_patients.csv")
    create()
    assert "chol" in example.read_text()
    create("--source readmission")
    assert "hba1c" in example.read_text()


def test_create_dataset_leaves_a_file_of_the_name_of_its_example_patients_alone(create: Show) -> None:
    own = Path("data/example_patients.csv")
    own.parent.mkdir()
    own.write_text("somebody's")
    assert create()[0] == 0
    assert own.read_text() == "somebody's"


def test_create_dataset_prints_who_has_what(create: Show) -> None:
    code, printed, said = create("--by size --ratios 915,5")

    assert (code, said) == (0, "")
    lines = [line.split() for line in printed.splitlines()]
    assert printed.startswith("UCI's heart disease table: 920 patients\n  num is disease: 0 -> 0, 1 -> 1, 2 -> 1, ")
    assert ["heart-disease:", "2", "hospitals,", "by", "size"] in lines
    ill, healthy = (manifest_of()["hospitals"][0]["labels"][label] for label in ("1", "0"))
    assert ["client_1.csv", "hospital-1", "915", str(ill), str(healthy)] in lines
    assert ill + healthy == 915
    assert printed.endswith("1 of them has fewer than 8 patients, and may not join\nwrote data/manifest.json\n")


def test_create_dataset_prints_two_hundred_of_many_hospitals(create: Show) -> None:
    code, printed, said = create("--by iid --hospitals 920")

    assert (code, said) == (0, "")
    assert printed.count("client_") == 200
    assert "... and 720 more\n" in printed
    assert "920 of them have fewer than 8 patients, and may not join\n" in printed
    assert len(list(Path("data").glob("client_*.csv"))) == 920
    assert hospitals_of()[::919] == [("hospital-001", 1), ("hospital-920", 1)]


@pytest.mark.parametrize("folder", ["[red]x", "[/b]", "a:smile:b", "ü", "a%sb"])
def test_create_dataset_shows_a_folder_as_it_is_called(create: Show, folder: str) -> None:
    code, printed, said = create(f"--out {folder}")

    assert (code, said) == (0, "")
    assert printed.endswith(f"wrote {folder}/manifest.json\n")


def test_create_dataset_draws_when_asked(create: Show) -> None:
    code, printed, said = create("--plot")

    assert (code, said) == (0, "")
    assert printed.endswith("wrote data/manifest.json and partition.png\n")
    assert Path("data/partition.png").read_bytes().startswith(b"\x89PNG")
    assert create()[1].endswith("wrote data/manifest.json\n")
    assert not Path("data/partition.png").exists()


def test_create_dataset_reads_a_file_without_hospitals_and_deals_it_out(create: Show) -> None:
    Path("heart.csv").write_text(HEART_CSV)
    code, printed, said = create("--source heart.csv")

    assert (code, said) == (0, "")
    assert printed.startswith("the columns of the task heart-disease: 4 patients\n")
    assert manifest_of()["source"]["name"] == "file"
    assert list(manifest_of()["source"]["files"]) == ["heart.csv"]
    assert manifest_of()["partition"] == {"by": "iid", "seed": 42, "hospitals": 4}
    assert hospitals_of() == [(f"hospital-{number}", 1) for number in range(1, 5)]
    assert create("--source heart.csv --hospitals 2")[0] == 0
    assert hospitals_of() == [("hospital-1", 2), ("hospital-2", 2)]


def test_create_dataset_reads_a_file_with_hospitals_by_hospital(create: Show) -> None:
    header, *rows = HEART_CSV.splitlines()
    named = [f"{name},{row}" for name, row in zip(("North", "South 2", "North", "North"), rows, strict=True)]
    Path("heart.csv").write_text("\n".join([f"hospital,{header}", *named]))

    assert create("--source heart.csv")[::2] == (0, "")
    assert hospitals_of() == [("north", 3), ("south-2", 1)]
    assert manifest_of()["partition"] == {"by": "hospital", "seed": 42}
    assert list(pd.read_csv("data/client_1.csv")["age"]) == [63, 37, 41]


def test_create_dataset_reads_a_zip(create: Show) -> None:
    with zipfile.ZipFile("archive.zip", "w") as archive:
        archive.writestr("heart.csv", HEART_CSV)

    assert create("--source archive.zip --hospitals 1")[::2] == (0, "")
    assert hospitals_of() == [("hospital-1", 4)]


def test_create_dataset_reads_a_folder_of_uci_s_files(create: Show) -> None:
    Path("uci").mkdir()  # the data set of that name comes first, so the folder is given as ./uci
    rows = HEART_CSV.splitlines()[1:]
    Path("uci/processed.cleveland.data").write_text("\n".join(rows[:3]))
    Path("uci/processed.va.data").write_text(rows[3])

    assert create("--source ./uci")[::2] == (0, "")
    assert hospitals_of() == [("cleveland", 3), ("va-long-beach", 1)]


def test_create_dataset_leaves_invalid_rows_out_when_asked_and_counts_them(create: Show) -> None:
    Path("heart.csv").write_text(HEART_CSV.replace("63,1,1", "630.25,1,1").replace("41,0,2", "41,0,X"))

    code, printed, said = create("--source heart.csv --hospitals 1")
    assert (code, printed) == (1, "")
    assert said == (
        "error: heart.csv: column age, row 1: expected a number from 0 to 120 (years), or empty; "
        "2 of 4 rows break a rule\n"
    )
    assert not Path("data").exists()

    code, printed, said = create("--source heart.csv --hospitals 1 --drop-invalid")
    assert (code, said) == (0, "")
    assert "  rows that break a rule: 2 dropped\n" in printed
    assert hospitals_of() == [("hospital-1", 2)]
    assert manifest_of()["source"]["dropped"]["rows that break a rule"] == 2


@pytest.mark.parametrize(("flags", "rows"), [("", 4000), ("--patients 50", 50), ("--patients 2", 2)])
def test_create_dataset_generates_as_many_patients_as_asked_for(create: Show, flags: str, rows: int) -> None:
    code, printed, said = create(f"--source readmission {flags} --seed 3")

    assert (code, said) == (0, "")
    source = manifest_of()["source"]
    assert (source["generated_patients"], source["generator_seed"]) == (rows, 3)
    best = f"Bayes-optimal ROC-AUC, expected over the labels of all these patients: {source[BEST]}"
    assert printed.startswith(f"generated records of diabetes patients: {rows} patients\n  {best}\n")
    assert sum(count for _, count in hospitals_of()) == rows
    assert [name for name, _ in hospitals_of()] == ["university", "community"]
    assert manifest_of()["task"] == "readmission"


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
        utils.run_script(fail)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: first second\n"


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        utils.run_script(interrupt)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped\n"


def test_ctrl_c_while_a_result_is_saved_is_heard_afterwards() -> None:
    done = []

    def save() -> None:
        with interrupts_deferred():
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
            done.append("saved")

    with pytest.raises(KeyboardInterrupt):
        save()
    assert done == ["saved"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_joining_gave_fits_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    difference = {"value": 0.0004, "low": -0.0754, "high": 0.0731}
    one = {"verdict": "no clear difference", "own_roc_auc": 0.7439, "difference": difference, "small": False}
    cli_server._print_benefit({"va-long-beach": {**one, "roc_auc": {"value": 0.7443}}})
    lines = capsys.readouterr().out.splitlines()
    row = " va-long-beach  0.744      0.744  +0.000 (-0.075 to +0.073)  no clear difference"
    assert row in lines
    assert max(map(len, lines)) <= 80


def test_a_defect_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        utils.run_script(fail)


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
        "  warning: one class of disease is rare: this hospital's own AUC is too noisy to interpret\n"
        "  warning: chol is missing in every row\n"
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
        "(and 2 more invalid cells)\n"
    )
    assert "sixty" not in page
    assert rows_of(page)["age"] == ["0", "0", "3"]
    assert rows_of(page)["chol"] == ["1", "<1", "1"]
    rule = "a number from 0 to 120 (years), or empty"
    assert page.endswith(
        f"This hospital may not join: its column age holds a value that is not {rule}.\n"
        f"  age must be {rule}; see rows 7, 8, 9 (1 is the first below the header)\n"
    )


def test_a_check_of_too_few_patients_ends_in_one_line(show: Show, unheard: str, patients: pd.DataFrame) -> None:
    code, page, said = show("client.py", "--data", write(patients.head(7)), "--check", "--server", unheard)
    assert (code, said) == (1, "error: mine.csv: expected at least 8 different patients, got 7\n")
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
    with serve_streams(address, HEART_DISEASE.agreement, words.append) as grid:
        code, page, said = show("client.py", "--data", write(patients), "--name", "mine", "--server", address)
        assert grid.get_node_ids() == []
    assert (code, page) == (1, "")
    assert said == ("error: mine.csv: column age, row 7: expected a number from 0 to 120 (years), or empty; got text\n")
    assert words == [
        "refused mine: its data check failed: its column age holds a value that is not a number from 0 to 120 (years), "
        "or empty (from 127.0.0.1)"
    ]


@pytest.mark.parametrize("content", ["", "age\n", None])
def test_a_client_whose_file_cannot_be_read_tells_the_server_without_its_path(run: Run, content: str | None) -> None:
    words: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    if content is not None:
        Path("secret-path.csv").write_text(content)
    with serve_streams(address, HEART_DISEASE.agreement, words.append):
        assert_one_line(run("client.py", "--data", "secret-path.csv", "--name", "mine", "--server", address), "secret")
    assert len(words) == 1
    assert words[0].startswith("refused mine: its data check failed: its ")
    assert "secret" not in words[0]


def test_a_client_that_may_not_join_and_has_no_server_ends_at_once(run: Run, patients: pd.DataFrame) -> None:
    address = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    result = run("client.py", "--data", write(patients.head(7)), "--name", "mine", "--server", address)
    assert time.monotonic() - started < 3
    assert_one_line(result, "expected at least 8 different patients, got 7")


# What leaves


def test_a_ledger_is_beside_the_csv_and_shown_as_a_page(show: Show, patients: pd.DataFrame) -> None:
    Path("here").mkdir()
    data = write(patients.head(7), "here/mine.csv")
    show("client.py", "--data", data, "--name", "mine", "--server", f"127.0.0.1:{free_port()}")
    code, page, said = show("client.py", "--show-egress", "here/egress-mine.jsonl")
    assert (code, said) == (0, "")
    assert page.startswith("What left mine, by here/egress-mine.jsonl\n")
    assert "errors sent instead of a reply: unfit 1\n" in page
    assert rows_of(page)["metadata"][-3:] == ["text", "1", str(len("it has fewer than 8 different patients"))]
    assert "What never leaves:" in page


def test_a_file_that_is_no_ledger_is_one_line_without_a_page(show: Show, hospitals_folder: Path) -> None:
    for path, words in ((hospitals_folder / "client_1.csv", "line 1: is not a line of an egress"), ("none", "cannot")):
        code, page, said = show("client.py", "--show-egress", path)
        assert_one_line((code, said), str(path), words)
        assert page == ""


def test_a_client_that_cannot_write_its_ledger_sends_nothing(run: Run, hospitals_folder: Path) -> None:
    data = shutil.copy(hospitals_folder / "client_1.csv", "mine.csv")
    Path("egress-mine.jsonl").symlink_to("/dev/full")
    words: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, HEART_DISEASE.agreement, words.append):
        result = run("client.py", "--data", data, "--name", "mine", "--server", address)
    assert_one_line(result, "egress-mine.jsonl: cannot be written to (No space left on device)")
    assert words == []


@pytest.mark.parametrize("data", ["gone.csv", "nowhere/mine.csv"])
def test_what_is_wrong_with_the_csv_is_said_even_where_it_cannot_be_recorded(data: str, run: Run) -> None:
    Path("egress-mine.jsonl").symlink_to("/dev/full")
    words: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, HEART_DISEASE.agreement, words.append):
        result = run("client.py", "--data", data, "--name", "mine", "--server", address)
    assert_one_line(result, f"{data}: cannot be read")
    assert words == []


@pytest.mark.parametrize("is_lost", [True, False])
def test_the_final_model_is_kept_even_where_the_server_is_lost_after_it(
    is_lost: bool, show: Show, hospitals_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate_finally(_app: object, context: Context, **_: object) -> None:
        context.state["figures"] = MetricRecord({"roc_auc": 0.8125})
        context.state[ARRAYS] = weights_to_record(initial_weights(HEART_DISEASE, "logistic", 3))
        context.state[CONFIG] = train_config.to_record()
        if is_lost:
            raise JoinError("no server within 300 s")

    def save(path: Path, config: TrainConfig, weights: Weights) -> None:
        assert config == train_config
        saved.append((path, sorted(weights)))

    saved: list[tuple[Path, list[str]]] = []
    train_config = replace(TRAIN_CONFIG, threshold=0.25)
    monkeypatch.setattr(cli_client, "join_run", evaluate_finally)
    monkeypatch.setattr(results, "save_final_model", save)
    own = ("--data", hospitals_folder / "client_1.csv", "--name", "mine", "--out", "kept")
    code, page, said = show("client.py", *own, "--server", f"127.0.0.1:{free_port()}")
    assert saved == [(Path("kept/model.keras"), sorted(initial_weights(HEART_DISEASE, "logistic", 3)))]
    assert " mine    0.812" in page
    assert "a risk of at least 0.25." in page
    assert (code, said) == ((1, "error: no server within 300 s\n") if is_lost else (0, ""))
    assert ("the run is over" in page) != is_lost


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
    assert_one_line(result, f"mine.csv: already has a column {column}")
    assert not Path("risk.csv").exists()


@pytest.mark.parametrize("threshold", [None, "0.5", 2.0, -0.1])
def test_a_model_whose_threshold_is_no_probability_is_refused(run: Run, threshold: object) -> None:
    with zipfile.ZipFile("model.keras", "w") as archive:
        description = {"task": "heart-disease", "schema": HEART_DISEASE.schema_hash, "threshold": threshold}
        archive.writestr("federated_health.json", json.dumps(description))
    result = run("predict.py", "model.keras", "none.csv")
    assert_one_line(result, "model.keras: its threshold is not between 0 and 1")


# Going on with a run


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--min-hospitals", 5], 2, "min-hospitals: expected at most --hospitals 4, got 5"),
        (["--min-hospitals", -1], 2, "min-hospitals: expected at least 0, got -1"),
        (["--min-hospitals", "all"], 2, "--min-hospitals: expected a whole number, got 'all'"),
        (["--round-timeout", 0], 2, "round-timeout: expected more than 0, got 0.0"),
        (["--round-timeout", "nan"], 2, "round-timeout: expected more than 0, got nan"),
        (["--wait", "inf"], 2, "wait: expected at most 10,000,000, got inf"),
        (["--dp-delta", 1e-3, "--dp-steps", 1], 2, "dp-delta, dp-steps: nothing is private without --dp-epsilon"),
        (["--encrypt"], 2, "tls: --encrypt needs it: hospitals pass their key on by their certificates"),
        (["--encrypt", "--hospitals", 2], 2, "hospitals: expected at least 3 with --encrypt"),
        (["--encrypt", "--strategy", "krum"], 2, "strategy: krum has to read every update, which --encrypt prevents"),
        (["--max-update-norm", -1], 2, "max-update-norm: expected at least 0, got -1.0"),
        (["--max-update-norm", 0.5], 2, "max-update-norm: expected 0 or at least 1, got 0.5"),
        (["--out", "a" * 300], 1, "cannot be written to (File name too long)"),
        (["--out", "file"], 1, "file: cannot be written to (File exists)"),
        (["--out", "file/run"], 1, "file/run: cannot be written to (Not a directory)"),
        (
            ["--out", "cut"],
            1,
            "cut: holds a run already (checkpoints); --resume continues it, --force overwrites it",
        ),
        (["--resume", "none"], 1, "none: holds no checkpoint"),
        (["--resume", "a" * 300], 1, "holds no checkpoint"),
        (["--resume", "file"], 1, "file/checkpoints: cannot be read (Not a directory)"),
        (["--resume", "empty"], 1, "empty/checkpoints: holds no checkpoint\n"),
        (["--resume", "over"], 1, "over: the run is over; there is nothing to resume"),
        (["--resume", "encrypted"], 1, "encrypted: the run is over; there is nothing to resume"),
        (["--resume", "study"], 1, "study/checkpoints: holds no checkpoint"),
        (["--resume", "torn"], 1, "torn/checkpoints: holds no intact checkpoint"),
        (["--resume", "cut", "--seed", 7], 1, "seed: expected 42, got 7"),
        (["--resume", "cut", "--task", "readmission"], 1, 'task is "heart-disease" and not "readmission"'),
        (["--resume", "cut", "--rounds", 31, "--l2", 1], 1, "rounds is 30 and not 31; l2 is 0.003 and not 1.0"),
        (["--resume", "cut", "--out", "other"], 2, "out: a resumed run writes to its own folder"),
        (["--resume", "cut", "--min-hospitals", 9], 2, "min-hospitals: expected at most --hospitals 4, got 9"),
        (["--resume", "cut", "--force"], 1, "waiting for hospitals: 0 of 3 hospitals were connected"),
        (["--resume", "cut", "--out", "./cut/", "--seed", 42], 1, "0 of 3 hospitals were connected"),
        (["--resume", "cut", "--min-hospitals", 4], 1, "0 of 4 hospitals were connected"),
    ],
)
def test_a_run_that_cannot_begin_or_go_on_is_one_line_and_changes_nothing(
    flags: list[object], code: int, words: str, run: Run
) -> None:
    Path("file").touch()
    for name in ("empty", "over", "encrypted", "study", "torn/checkpoints"):
        Path(name).mkdir(parents=True)
    Path("over/model.keras").touch()
    Path("encrypted/metrics.json").touch()
    Path("study/evidence.json").touch()
    Path("study/report.html").touch()
    Path("torn/checkpoints/round-000003.checkpoint").write_bytes(b"torn")
    federated_run = PlainRun(InProcessTransport(ClientApp(), {}), Settings())
    federated_run.normalisation = NORMALISATION
    CheckpointFolder(Path("cut/checkpoints")).save(federated_run.checkpoint())
    before = {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}
    result = run(
        "server.py", "--address", f"127.0.0.1:{free_port()}", "--wait", 0.1, *flags
    )  # the last of a flag counts
    assert_one_line(result, words)
    assert result[0] == code
    assert {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")} == before
