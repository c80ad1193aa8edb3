"""Settings that a demo rejects, and what it knows of its scenarios."""

import sys
from pathlib import Path

import pytest

from federated_health.cli import main as cli
from federated_health.cli.demo import SCENARIOS
from federated_health.data.sources.source import Source
from federated_health.errors import RunError, SettingsError


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--secure-aggregation --task readmission", "^hospitals: .*--secure-aggregation"),
        ("--secure-aggregation --rounds 0", "^rounds: .*got 0"),
        ("--dp-epsilon 101", "^dp-epsilon: .*got 101"),
        ("--dp-epsilon 0.001", "^dp-epsilon: .*got 0.001"),
    ],
)
def test_settings_that_the_server_would_reject_are_rejected_before_anything_is_written(
    flags: str, words: str, in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["federated_health", "demo", "--out", "demo", *flags.split()])
    with pytest.raises(SettingsError, match=words):
        cli.main()
    assert list(in_folder.iterdir()) == []


def test_a_demo_does_not_overwrite_files_of_another_origin(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = in_folder / "data" / "privacy-cleveland.jsonl"
    account.parent.mkdir()
    account.write_text("spent")
    monkeypatch.setattr(sys, "argv", ["federated-health", "demo", "--out", "."])
    with pytest.raises(RunError, match="another --out"):
        cli.main()
    assert [path for path in in_folder.rglob("*") if path.is_file()] == [account]


def test_a_scenario_declares_the_number_of_hospitals_in_its_source(uci: Source) -> None:
    assert SCENARIOS["heart-disease"].hospitals == len(set(uci.table["hospital"]))
