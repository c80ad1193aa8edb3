"""client.py as a user meets it: what it prints and how it ends. Called in this process, which is faster."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from flwr.app import Context, MetricRecord

from federated_health.cli import client as cli_client
from federated_health.data.tasks import HEART_DISEASE
from federated_health.errors import JoinError
from federated_health.hospital import results
from federated_health.messages.content import ARRAYS, CONFIG, TrainConfig
from federated_health.messages.records import weights_to_record
from federated_health.ml.networks import Weights, initial_weights
from federated_health.processes import free_port
from federated_health.transport.stream_server import serve_streams
from tests.support.script_calls import Run, Show, assert_one_line, rows_of, write
from tests.test_handlers import TRAIN_CONFIG


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
        assert " a: 227 patients to train on" in page
        assert_one_line((code, said), address, "no server within 0.1 s: it cannot be reached (Connection refused)")


def test_a_client_of_another_name_than_its_certificate_s_is_refused(
    run: Run, hospitals_folder: Path, tls: dict[str, Path]
) -> None:
    words = "certificate.pem: is for hospital a, so its name is not b"
    result = run("client.py", "--data", hospitals_folder / "client_1.csv", "--name", "b", "--tls", tls["a"])
    assert_one_line(result, words)
    run("create_dataset.py")
    address = f"127.0.0.1:{free_port()}"
    assert_one_line(run("client.py", "--hospital", 1, "--tls", tls["a"], "--server", address), "name is not cleveland")
    own = ("client.py", "--hospital", 1, "--tls", tls["cleveland"], "--server", address, "--wait", "0.1")
    assert_one_line(run(*own), "no server within 0.1 s")


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
        "refused mine: its own check says no: its column age holds what is not a number from 0 to 120 (years), or empty"
        " (from 127.0.0.1)"
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
    assert words[0].startswith("refused mine: its own check says no: its ")
    assert "secret" not in words[0]


def test_a_client_that_may_not_join_and_has_no_server_ends_at_once(run: Run, patients: pd.DataFrame) -> None:
    address = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    result = run("client.py", "--data", write(patients.head(7)), "--name", "mine", "--server", address)
    assert time.monotonic() - started < 3
    assert_one_line(result, "has 7 different patients; at least 8 are needed")


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
