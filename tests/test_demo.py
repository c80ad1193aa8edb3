"""Settings that a demo rejects, and what it knows of its scenarios."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from federated_health.cli import main as cli
from federated_health.cli.create_dataset import DEFAULT_HOSPITALS
from federated_health.cli.demo import SCENARIOS, write_policy
from federated_health.data.sources.source import Source
from federated_health.errors import RunError, SettingsError
from federated_health.hospital.policy_file import read_policy
from federated_health.messages.run_terms import RunTerms
from federated_health.security.authority import make_demo_identities
from federated_health.security.certificates import fingerprint, public_key_of
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.setting_fields import Value
from federated_health.settings import Settings


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--secure-aggregation --task readmission-30d", "^hospitals: .*--secure-aggregation"),
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


@pytest.mark.parametrize("settings", [{}, {"secure-aggregation": True}, {"dp-epsilon": 2.0}])
def test_each_hospital_gets_a_policy_that_allows_the_demo_s_run_and_server_only(
    settings: dict[str, Value], tmp_path: Path, hospitals_folder: Path
) -> None:
    own, _ = make_demo_identities(tmp_path / "tls", ["cleveland"])
    checked = Settings.from_config({"rounds": 2, "tls": str(own), **settings})

    path = write_policy(tmp_path / "cleveland", checked, hospitals_folder / "client_1.csv", own)

    policy, terms = read_policy(path), RunTerms.of(checked)
    server = fingerprint(public_key_of(load_identity(own, Role.SERVER).certificate))
    assert policy.refusals(terms, train_rows=227, server=server) == []
    assert len(policy.refusals(terms, train_rows=227, server="00" * 32)) == 1
    assert len(policy.refusals(replace(terms, rounds=3), train_rows=227, server=server)) == 1
    assert "227 training rows" in path.read_text()


def test_a_scenario_declares_the_number_of_hospitals_in_its_source(uci: Source) -> None:
    assert SCENARIOS["heart-disease"].hospitals == len(set(uci.table["hospital"]))
    assert SCENARIOS["readmission-30d"].hospitals == DEFAULT_HOSPITALS["readmission-30d"]
