"""What a demo refuses, before it makes anything."""

import sys
from pathlib import Path

import pytest

from federated_health.cli import main as cli
from federated_health.cli.demo import SCENARIOS
from federated_health.data.sources.source import Source
from federated_health.errors import SettingsError


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--encrypt --task readmission", "hospitals: expected at least 3 with --encrypt"),
        ("--encrypt --rounds 0", "rounds: expected at least 1, got 0"),
        ("--dp-epsilon 101", "dp-epsilon: expected at most 100, got 101"),
        ("--dp-epsilon 0.001", "dp-epsilon: expected 0 or at least 0.01"),
    ],
)
def test_what_the_server_would_refuse_is_refused_before_there_is_a_folder(
    flags: str, words: str, in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["federated_health", "demo", "--out", "demo", *flags.split()])
    with pytest.raises(SettingsError, match=words):
        cli.main()
    assert list(in_folder.iterdir()) == []


def test_a_scenario_says_how_many_hospitals_there_are(uci: Source) -> None:
    assert SCENARIOS["heart-disease"].hospitals == len(set(uci.table["hospital"]))
