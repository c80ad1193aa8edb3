"""client.py --check: shows what is in a CSV, and opens no connection."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pandas as pd
import pytest

from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import generate_readmission
from federated_health.messages.run_terms import RunTerms
from federated_health.settings import Settings
from tests.support.script_calls import RunScript, assert_one_line, rows_of, write_csv
from tests.support.targets import write_dataset


@pytest.fixture
def unused_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
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


def test_a_check_shows_rows_missing_values_and_the_verdict(run_script: RunScript, unused_address: str) -> None:
    run_script("create_dataset.py")
    result = run_script("client.py", "--hospital", 3, "--check", "--server", unused_address)
    assert result.succeeded
    for words in ("data/client_3.csv", "heart-disease", "123 patients", "115 with disease = 1", "8 with disease = 0"):
        assert words in result.output.splitlines()[1]
    rows = rows_of(result.output)
    assert [rows[name] for name in ("age", "chol", "trestbps", "disease")] == [
        ["0", "0"],
        ["123", "100"],
        ["2", "2"],
        ["0", "0"],
    ]
    _, _, findings = result.output.partition("this hospital can join.\n")
    assert ["one class of disease is rare" in findings, "chol is missing in every row" in findings] == [True, True]


def test_a_check_of_a_file_needs_no_name(run_script: RunScript, unused_address: str, hospitals_folder: Path) -> None:
    data = hospitals_folder / "client_1.csv"
    result = run_script("client.py", "--data", data, "--check", "--server", unused_address)
    assert result.succeeded
    assert "this hospital can join." in result.output
    named = run_script("client.py", "--data", data, "--name", "mine", "--check", "--server", unused_address)
    assert named == result


def test_a_check_of_an_invalid_file_shows_the_page_and_fails(
    run_script: RunScript, unused_address: str, patients: pd.DataFrame
) -> None:
    patients.loc[6:8, "age"] = "sixty-seven"
    patients.loc[9, "chol"] = "0"
    result = run_script("client.py", "--data", write_csv(patients), "--check", "--server", unused_address)
    assert result.code == 1
    assert_one_line(result, "mine.csv: column age, row 7", "expected a number from 0 to 120", "got text", "2 more")
    assert "sixty" not in result.output
    assert rows_of(result.output)["age"] == ["0", "0", "3"]
    assert rows_of(result.output)["chol"] == ["1", "<1", "1"]
    _, _, findings = result.output.partition("Data check failed: its column age ")
    assert "a number from 0 to 120 (years), or empty" in findings
    assert "rows 7, 8, 9" in findings


def test_a_check_of_too_few_patients_fails(run_script: RunScript, unused_address: str, patients: pd.DataFrame) -> None:
    result = run_script("client.py", "--data", write_csv(patients.head(7)), "--check", "--server", unused_address)
    assert_one_line(result, "mine.csv: ", "7", "at least 8", "different patients")
    assert "Data check failed: it has fewer than 8" in result.output


def test_a_check_of_an_unreadable_table_shows_no_page(
    run_script: RunScript, unused_address: str, patients: pd.DataFrame
) -> None:
    path = write_csv(patients.drop(columns="chol"))
    for data, words in ((path, "lacks the column chol"), ("none.csv", "cannot be read")):
        result = run_script("client.py", "--data", data, "--check", "--server", unused_address)
        assert_one_line(result, words)
        assert result.output == ""


def write_readmission() -> Path:
    partition = Partition(by="hospital", seed=1)
    source = generate_readmission(800, seed=1)
    write_hospitals(Path("data"), source, divide(source, partition), partition=partition.describe())
    return Path("data/client_1.csv")


def test_a_check_takes_the_task_from_the_manifest_or_the_flag(run_script: RunScript, unused_address: str) -> None:
    path = write_readmission()
    result = run_script("client.py", "--hospital", 1, "--check", "--server", unused_address)
    assert result.succeeded
    assert "for the task readmission: 480 patients" in result.output
    assert "hba1c" in rows_of(result.output)
    flagged = run_script("client.py", "--data", path, "--task", "readmission", "--check", "--server", unused_address)
    assert flagged == result


def test_a_check_for_another_task_names_the_missing_columns(run_script: RunScript, unused_address: str) -> None:
    path = write_readmission()
    for flags in (("--hospital", 1), ("--data", path)):
        result = run_script("client.py", *flags, "--task", "heart-disease", "--check", "--server", unused_address)
        assert_one_line(result, "lacks the columns cp, trestbps, chol")
        assert result.output == ""


def test_a_csv_that_create_dataset_wrote_is_checked_for_the_task_of_its_manifest(run_script: RunScript) -> None:
    result = run_script("client.py", "--data", write_readmission(), "--check")
    assert result.succeeded
    assert "for the task readmission" in result.output


@pytest.mark.parametrize("task", [None, "measles"])
def test_a_manifest_without_a_known_task_is_rejected(run_script: RunScript, task: str | None) -> None:
    write_readmission()
    manifest = json.loads(Path("data/manifest.json").read_text())
    del manifest["task"]
    Path("data/manifest.json").write_text(json.dumps(manifest | ({"task": task} if task else {})))
    words = "task: expected one of" if task else "is not a manifest that create_dataset.py wrote"
    assert_one_line(run_script("client.py", "--hospital", 1, "--check"), words)


@pytest.mark.parametrize("flags", [[], ["--hospital", 1, "--data", "a.csv"], ["--name", "a"]])
def test_a_check_needs_a_number_or_a_file(flags: list[object], run_script: RunScript) -> None:
    result = run_script("client.py", "--check", *flags)
    assert result.code == 2
    assert "expected --hospital N, or --data FILE" in result.error


# What would leave


def releases_of(output: str) -> dict[str, str]:
    """The lines of releases in a check, by name."""
    _, _, section = output.partition("What would leave")
    lines = section.partition("About these releases:")[0].rstrip().splitlines()[1:]
    return {re.split(r"[ :]", line.strip())[0]: line for line in lines}


def test_a_check_of_public_data_lists_every_release_of_a_default_run(run_script: RunScript) -> None:
    run_script("create_dataset.py")

    result = run_script("client.py", "--hospital", 1, "--check")

    lines = releases_of(result.output)
    assert tuple(lines) == RunTerms.of(Settings()).releases
    assert "2,756 bytes" in lines["weights"]  # 4 bytes each
    assert not any("suppressed" in line for line in lines.values())
    assert "public: nothing is suppressed" in result.output
    # 689 and 42 weights, 227 training rows
    assert "689 weights are 3.04 per training row (227); DataSHIELD allows 0.33." in result.output
    assert "--model logistic trains 42, 0.19 per row" in result.output


def test_a_check_of_own_data_says_what_the_default_policy_suppresses(
    run_script: RunScript, patients: pd.DataFrame
) -> None:
    few = patients[:40].copy()
    few.loc[few.index[4:], "chol"] = ""
    few["disease"] = [1] * 4 + [0] * 36
    data = write_csv(few)

    result = run_script("client.py", "--data", data, "--check")

    lines = releases_of(result.output)
    suppressed = {name for name, line in lines.items() if "suppressed, wholly or in part: too few patients" in line}
    outcomes = {"round-evaluation", "final-evaluation", "roc-auc", "scores", "threshold-scores", "appraisal"}
    assert outcomes <= suppressed
    assert not suppressed & {"name", "weights", "row-counts"}
    assert "sums are suppressed now: chol" in result.output
    assert [path.name for path in Path().iterdir()] == [Path(data).name]  # a check remembers no release


def test_a_check_of_enough_own_patients_suppresses_nothing_yet(run_script: RunScript, patients: pd.DataFrame) -> None:
    result = run_script("client.py", "--data", write_csv(patients), "--check")

    lines = releases_of(result.output)
    assert not {name for name in ("roc-auc", "scores", "appraisal", "final-evaluation") if "suppressed" in lines[name]}
    assert "when one of its counts is that small" in result.output  # of a round, it depends on the model


def test_a_check_applies_the_policy(run_script: RunScript, patients: pd.DataFrame) -> None:
    Path("policy.toml").write_text('releases_off = ["roc-auc"]\nmax_rounds = 10\nmin_cell = 20\n')

    result = run_script("client.py", "--data", write_csv(patients), "--check", "--policy", "policy.toml")

    assert result.succeeded, result.error
    assert "switched off by its policy" in releases_of(result.output)["roc-auc"]
    assert re.search(r"policy\.toml, line 2: max_rounds: expected at most 10, got 30", result.output)
    assert "counts of 1 to 19 patients" in result.output


def test_a_check_of_too_few_patients_for_the_policy_fails(run_script: RunScript, patients: pd.DataFrame) -> None:
    Path("policy.toml").write_text("min_cell = 500\n")

    result = run_script("client.py", "--data", write_csv(patients), "--check", "--policy", "policy.toml")

    assert_one_line(result, "fewer training patients than its policy's minimum cell")


@pytest.mark.parametrize("kind", ["binary", "classes", "number", "count"])
def test_a_check_lists_releases_of_every_kind_of_label(kind: str, run_script: RunScript, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "dataset", kind)

    result = run_script("client.py", "--data", folder / "client_1.csv", "--check")

    assert result.succeeded, result.error
    lines = releases_of(result.output)
    assert {"weights", "final-evaluation", "scores", "appraisal"} <= set(lines)
    assert ("roc-auc" in lines) == (kind in ("binary", "classes"))
    assert ("threshold-scores" in lines) == (kind == "binary")
