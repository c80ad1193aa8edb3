"""client.py --check: shows what is in a CSV, and connects to nobody."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pandas as pd
import pytest

from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import generate_readmission
from tests.support.script_calls import Run, Show, assert_one_line, rows_of, write


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
        "  look at this: one class of disease is rare: this hospital's own AUC is too noisy to interpret\n"
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
