"""client.py as a user meets it: what it sends, saves, prints and rejects."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from flwr.app import Context, MetricRecord

from federated_health.cli import client as cli_client
from federated_health.data.manifest import OwnHospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task
from federated_health.errors import JoinError
from federated_health.hospital import results
from federated_health.hospital.private_training import budget_of
from federated_health.messages.content import ARRAYS, CONFIG, TrainConfig
from federated_health.messages.records import weights_to_record
from federated_health.messages.run_terms import RunTerms
from federated_health.ml.networks import Network, Weights, initial_weights
from federated_health.processes import free_port
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.stream_server import serve_streams
from tests.support.script_calls import RunScript, assert_one_line, write_csv
from tests.test_handlers import TRAIN_CONFIG

TERMS = RunTerms.of(Settings()).text


def test_a_missing_csv_is_named(run_script: RunScript) -> None:
    assert_one_line(run_script("client.py", "--data", "none.csv", "--name", "mine"), "none.csv", "cannot be read")


def test_a_hospital_by_number_needs_a_manifest(run_script: RunScript) -> None:
    assert_one_line(run_script("client.py", "--hospital", 1), "manifest.json")


def test_a_number_beyond_the_manifest_is_rejected(run_script: RunScript) -> None:
    run_script("create_dataset.py")
    assert_one_line(run_script("client.py", "--hospital", 5), "from 1 to 4", "got 5")


def test_a_missing_column_is_named(run_script: RunScript, patients: pd.DataFrame) -> None:
    path = write_csv(patients.drop(columns="chol"))
    assert_one_line(run_script("client.py", "--data", path, "--name", "mine"), "lacks the column chol")


def test_text_in_a_measurement_is_located_and_not_printed(run_script: RunScript, patients: pd.DataFrame) -> None:
    patients.loc[6, "age"] = "sixty"
    result = run_script("client.py", "--data", write_csv(patients), "--name", "mine")
    assert_one_line(result, "column age, row 7", "a number from 0 to 120")
    assert "sixty" not in result.error


def test_a_label_other_than_0_or_1_is_located(run_script: RunScript, patients: pd.DataFrame) -> None:
    patients.loc[0, "disease"] = "3"
    assert_one_line(
        run_script("client.py", "--data", write_csv(patients), "--name", "mine"), "column disease, row 1", "0 or 1"
    )


def test_an_empty_csv_is_rejected(run_script: RunScript) -> None:
    Path("mine.csv").write_text("")
    assert_one_line(run_script("client.py", "--data", "mine.csv", "--name", "mine"), "is empty")


@pytest.mark.parametrize("name", ["federation", "Mine", "my hospital", "-", "é", "a" * 64])
def test_an_invalid_hospital_name_is_rejected(name: str, run_script: RunScript, hospitals_folder: Path) -> None:
    result = run_script("client.py", "--data", hospitals_folder / "client_1.csv", f"--name={name}")
    assert result.code == 2
    assert "lower-case letters, digits and hyphens" in result.error


@pytest.mark.parametrize("flags", [[], ["--hospital", 1, "--data", "a.csv"], ["--data", "a.csv"], ["--name", "a"]])
def test_a_client_needs_either_a_number_or_a_file_with_a_name(flags: list[object], run_script: RunScript) -> None:
    result = run_script("client.py", *flags)
    assert result.code == 2
    assert "expected --hospital N, or --data FILE" in result.error


def test_a_client_gives_up_after_the_wait(run_script: RunScript, hospitals_folder: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    data = hospitals_folder / "client_1.csv"
    result = run_script("client.py", "--data", data, "--name", "mine", "--server", address, "--wait", "0.1")
    assert_one_line(result, address, "no server within 0.1 s")


def test_an_empty_tls_flag_does_not_mean_the_current_folder(run_script: RunScript, hospitals_folder: Path) -> None:
    result = run_script("client.py", "--data", hospitals_folder / "client_1.csv", "--name", "a", "--tls", "")
    assert_one_line(result, "--tls: expected a path")
    assert result.code == 2


def test_a_client_takes_its_name_from_its_certificate(
    run_script: RunScript, hospitals_folder: Path, tls: dict[str, Path]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    flags = ["--data", hospitals_folder / "client_1.csv", "--tls", tls["a"], "--server", address, "--wait", "0.1"]
    for name in ([], ["--name", "a"]):
        result = run_script("client.py", *flags, *name)
        assert result.code == 1
        assert " a: 227 " in result.output
        assert_one_line(result, address, "no server within 0.1 s", "Connection refused")


def test_a_name_other_than_the_certificate_s_is_rejected(
    run_script: RunScript, hospitals_folder: Path, tls: dict[str, Path]
) -> None:
    result = run_script("client.py", "--data", hospitals_folder / "client_1.csv", "--name", "b", "--tls", tls["a"])
    assert_one_line(result, "certificate.pem: is for hospital a", "name")
    run_script("create_dataset.py")
    address = f"127.0.0.1:{free_port()}"
    assert_one_line(
        run_script("client.py", "--hospital", 1, "--tls", tls["a"], "--server", address),
        "is for hospital a",
        "cleveland",
    )
    flags = ("client.py", "--hospital", 1, "--tls", tls["cleveland"], "--server", address, "--wait", "0.1")
    assert_one_line(run_script(*flags), "no server within 0.1 s")


def test_an_unfit_hospital_tells_the_server_the_reason_without_values(
    run_script: RunScript, patients: pd.DataFrame
) -> None:
    patients.loc[6, "age"] = "sixty-seven"
    lines: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, HEART_DISEASE.agreement, lines.append, terms=TERMS) as grid:
        result = run_script("client.py", "--data", write_csv(patients), "--name", "mine", "--server", address)
        assert grid.get_node_ids() == []
    assert_one_line(result, "mine.csv: column age, row 7", "expected a number from 0 to 120", "got text")
    assert result.code == 1
    (line,) = lines
    assert line.startswith("rejected mine: ")
    assert "its column age" in line
    assert "a number from 0 to 120" in line
    assert "sixty" not in line


@pytest.mark.parametrize("content", ["", "age\n", None])
def test_the_reason_for_an_unreadable_file_is_sent_without_its_path(run_script: RunScript, content: str | None) -> None:
    lines: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    if content is not None:
        Path("secret-path.csv").write_text(content)
    with serve_streams(address, HEART_DISEASE.agreement, lines.append, terms=TERMS):
        assert_one_line(
            run_script("client.py", "--data", "secret-path.csv", "--name", "mine", "--server", address), "secret"
        )
    (line,) = lines
    assert line.startswith("rejected mine: ")
    assert "secret" not in line


def test_an_unfit_hospital_does_not_wait_for_the_server(run_script: RunScript, patients: pd.DataFrame) -> None:
    flags = ("--data", write_csv(patients.head(7)), "--name", "mine")
    result = run_script("client.py", *flags, "--server", f"127.0.0.1:{free_port()}", "--wait", 10_000_000)
    assert_one_line(result, "mine.csv: ", "at least 8", "different patients")


def test_show_egress_prints_the_ledger_beside_the_csv(run_script: RunScript, patients: pd.DataFrame) -> None:
    Path("here").mkdir()
    data, address = write_csv(patients.head(7), "here/mine.csv"), f"127.0.0.1:{free_port()}"
    with serve_streams(address, HEART_DISEASE.agreement, lambda _: None, terms=TERMS):
        run_script("client.py", "--data", data, "--name", "mine", "--server", address)
    result = run_script("client.py", "--show-egress", "here/egress-mine.jsonl")
    assert result.succeeded
    assert "here/egress-mine.jsonl" in result.output.splitlines()[0]
    assert "unfit 1\n" in result.output
    assert f"error: 1 message, {len('it has fewer than 8 different patients')} bytes\n" in result.output
    assert "What never leaves:" in result.output


def test_show_egress_of_another_file_fails_without_a_page(run_script: RunScript, hospitals_folder: Path) -> None:
    for path, words in ((hospitals_folder / "client_1.csv", "line 1: is not a line"), ("none", "cannot")):
        result = run_script("client.py", "--show-egress", path)
        assert_one_line(result, str(path), words)
        assert result.output == ""


def test_a_client_that_cannot_write_its_ledger_sends_nothing(run_script: RunScript, hospitals_folder: Path) -> None:
    data = shutil.copy(hospitals_folder / "client_1.csv", "mine.csv")
    Path("egress-mine.jsonl").symlink_to("/dev/full")
    lines: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, HEART_DISEASE.agreement, lines.append, terms=TERMS):
        result = run_script("client.py", "--data", data, "--name", "mine", "--server", address)
    assert_one_line(result, "egress-mine.jsonl: cannot be written", "No space left on device")
    assert lines == []


@pytest.mark.parametrize("data", ["gone.csv", "nowhere/mine.csv"])
def test_an_unwritable_ledger_does_not_hide_the_csv_s_error(data: str, run_script: RunScript) -> None:
    Path("egress-mine.jsonl").symlink_to("/dev/full")
    lines: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, HEART_DISEASE.agreement, lines.append, terms=TERMS):
        result = run_script("client.py", "--data", data, "--name", "mine", "--server", address)
    assert_one_line(result, f"{data}: cannot be read")
    assert lines == []


@pytest.mark.parametrize("is_lost", [True, False])
def test_the_final_model_is_saved_even_if_the_server_is_lost_after_it(
    is_lost: bool, run_script: RunScript, hospitals_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate_finally(_app: object, context: Context, **_: object) -> None:
        context.state["figures"] = MetricRecord({"roc_auc": 0.8125})
        context.state[ARRAYS] = weights_to_record(initial_weights(HEART_DISEASE, Network("logistic"), 3))
        context.state[CONFIG] = train_config.to_record()
        if is_lost:
            raise JoinError("no server within 300 s")

    def save(path: Path, task: Task, config: TrainConfig, weights: Weights, sites: object) -> None:
        assert (task, config, sites) == (HEART_DISEASE, train_config, {})
        models.append((path, sorted(weights)))

    models: list[tuple[Path, list[str]]] = []
    train_config = replace(TRAIN_CONFIG, threshold=0.25)
    monkeypatch.setattr(cli_client, "join_run", evaluate_finally)
    monkeypatch.setattr(results, "save_final_model", save)
    flags = ("--data", hospitals_folder / "client_1.csv", "--name", "mine", "--out", "out")
    result = run_script("client.py", *flags, "--server", f"127.0.0.1:{free_port()}")
    assert models == [(Path("out/model.keras"), sorted(initial_weights(HEART_DISEASE, Network("logistic"), 3)))]
    assert " mine    0.812" in result.output
    assert "a risk of at least 0.25." in result.output
    assert (result.code, result.error) == ((1, "error: no server within 300 s\n") if is_lost else (0, ""))
    assert ("the run is over" in result.output) != is_lost


def test_the_ledger_can_be_in_another_folder(run_script: RunScript, patients: pd.DataFrame) -> None:
    Path("data").mkdir()
    write_csv(patients, "data/mine.csv")
    join = ("--data", "data/mine.csv", "--name", "a", "--wait", 0.1, "--server", f"127.0.0.1:{free_port()}")
    assert_one_line(run_script("client.py", *join, "--ledger", "records/mine"), "no server within 0.1 s")
    assert [path.name for path in Path("data").iterdir()] == ["mine.csv"]
    assert [path.name for path in Path("records/mine").glob("egress*")] == ["egress-a.jsonl"]


def test_a_ledger_that_cannot_be_written_is_one_line_that_names_the_flag(
    run_script: RunScript, patients: pd.DataFrame
) -> None:
    Path("egress-a.jsonl").mkdir()
    join = ("--data", write_csv(patients), "--name", "a", "--server", f"127.0.0.1:{free_port()}")
    assert_one_line(run_script("client.py", *join), "egress-a.jsonl: cannot be written to", "--ledger")
    Path("file").touch()
    assert_one_line(run_script("client.py", *join, "--ledger", "file"), "file: cannot be written to")


def test_a_node_config_names_the_folder_of_the_privacy_account(tmp_path: Path) -> None:
    flags = cli_client.make_parser().parse_args(["--ledger", str(tmp_path / "records")])
    own = OwnHospital(data=tmp_path / "a.csv", name="a", task=HEART_DISEASE)
    context = hospital_context("a", cli_client.node_config(flags, own, None))
    assert budget_of(context).path == tmp_path / "records" / "privacy-a.jsonl"
