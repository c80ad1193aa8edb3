"""Which runs a policy refuses, each with the line that says so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federated_health.data.hospital import load_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import HEART_DISEASE
from federated_health.hospital.consent import decide_by_policy
from federated_health.hospital.policy import Policy, policy_of
from federated_health.hospital.policy_draft import draft_policy
from federated_health.hospital.policy_file import read_policy
from federated_health.messages.run_terms import RunTerms
from federated_health.settings import Settings

TERMS = RunTerms.of(Settings())
"""Terms of a run with the default settings: 4 hospitals, 3 in an average, 30 rounds, 5 epochs, batches of 32."""

PRIVATE = replace(TERMS, epsilon=2.0, delta=1e-5)
SERVER, OTHER_SERVER = "7f" * 32, "00" * 32
NETWORK_FILE = replace(TERMS, network={**TERMS.network, "model": "file", "hidden": "", "network-sha256": "ab" * 32})

BEFORE = "# What we allow\nmin_cell = 5\n"


def policy_with(folder: Path, lines: str) -> Policy:
    """A policy whose lines begin in line 3."""
    (folder / "policy.toml").write_text(BEFORE + lines)
    return read_policy(folder / "policy.toml")


REFUSED = {
    "servers": (f'servers = ["{SERVER}"]', TERMS, OTHER_SERVER, SERVER, OTHER_SERVER),
    "servers without TLS": (f'servers = ["{SERVER}"]', TERMS, "", SERVER, "a server without TLS"),
    "tasks": ('tasks = ["stroke", "sepsis"]', TERMS, "", "one of stroke, sepsis", "heart-disease"),
    "strategies": ('strategies = ["fedmedian"]', TERMS, "", "fedmedian", "fedavg"),
    "networks": ('networks = ["logistic"]', TERMS, "", "logistic", "mlp with the hash"),
    "networks of a file": ('networks = ["mlp", "logistic"]', NETWORK_FILE, "", "one of mlp, logistic", "ab" * 32),
    "min_hospitals": ("min_hospitals = 4", TERMS, "", "at least 4", "3"),
    "max_rounds": ("max_rounds = 29", TERMS, "", "at most 29", "30"),
    "max_local_epochs": ("max_local_epochs = 4", TERMS, "", "at most 4", "5"),
    "min_batch_size": ("min_batch_size = 33", TERMS, "", "at least 33", "32"),
    "max_parameters_per_row": (
        'max_parameters_per_row = 0.33\nabove_max_parameters = "refuse"',
        TERMS,
        "",
        "at most 0.33",
        "3.04 (689 weights, 227 training rows)",
    ),
    "max_epsilon": ("max_epsilon = 1", PRIVATE, "", "at most 1", "epsilon 2"),
    "max_epsilon without": ("max_epsilon = 1", TERMS, "", "at most 1", "none"),
    "max_delta": ("max_delta = 1e-6\nmax_epsilon = 2", PRIVATE, "", "at most 1e-06", "1e-05"),
    "require_secure_aggregation": ("require_secure_aggregation = true", TERMS, "", "with", "without"),
}
"""What is refused -> lines of a policy, terms, the server's fingerprint, what was expected and what was got."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_line_and_what_was_expected(name: str, tmp_path: Path) -> None:
    lines, terms, server, expected, got = REFUSED[name]

    (refusal,) = policy_with(tmp_path, lines).refusals(terms, train_rows=227, server=server)

    place, _, problem = refusal.partition(f": {name.split()[0]}: expected ")
    assert place == f"{tmp_path / 'policy.toml'}, line 3"
    before, _, after = problem.partition(", got ")
    assert expected in before
    assert got in after
    assert "\n" not in refusal


ALLOWED: dict[str, tuple[str, RunTerms, str]] = {
    "servers": (f'servers = ["{OTHER_SERVER}", "{SERVER}"]', TERMS, " ".join([SERVER[:4]] * 16)),
    "tasks": ('tasks = ["heart-disease"]', TERMS, ""),
    "strategies": ('strategies = ["fedmedian", "fedavg"]', TERMS, ""),
    "networks by name": ('networks = ["mlp"]', TERMS, ""),
    "networks by hash": (f'networks = ["{TERMS.network_hash.upper()}"]', TERMS, ""),
    "networks of a file": (f'networks = ["{"ab" * 32}"]', NETWORK_FILE, ""),
    "min_hospitals": ("min_hospitals = 3", TERMS, ""),
    "max_rounds": ("max_rounds = 30", TERMS, ""),
    "max_local_epochs": ("max_local_epochs = 5", TERMS, ""),
    "min_batch_size": ("min_batch_size = 32", TERMS, ""),
    "all rows in each step": ("min_batch_size = 33", replace(TERMS, batch_size=0), ""),
    "max_parameters_per_row": ('max_parameters_per_row = 3.1\nabove_max_parameters = "refuse"', TERMS, ""),
    "max_epsilon": ("max_epsilon = 2\nmax_delta = 1e-5", PRIVATE, ""),
    "require_secure_aggregation": ("require_secure_aggregation = true", replace(TERMS, secure_aggregation=True), ""),
    "releases_off": ('releases_off = ["appraisal", "roc-auc", "round-evaluation"]', TERMS, ""),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_a_run_within_the_limits_is_allowed(name: str, tmp_path: Path) -> None:
    lines, terms, server = ALLOWED[name]
    policy = policy_with(tmp_path, lines)
    assert policy.refusals(terms, train_rows=227, server=server) == []
    assert policy.warnings(terms, train_rows=227) == []


def test_a_refusal_s_line_is_right_with_a_mark_and_line_ends_of_windows(tmp_path: Path) -> None:
    lines = [
        "max_rounds = 29  # \u2028",
        "tasks = [",
        '  "stroke",  # max_local_epochs = 4',
        "]",
        "max_local_epochs = 4",
    ]
    (tmp_path / "policy.toml").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    refusals = read_policy(tmp_path / "policy.toml").refusals(TERMS, train_rows=227)
    found = {refusal.split(": ")[1]: refusal.split(": ")[0].rpartition(" ")[2] for refusal in refusals}
    assert found == {"max_rounds": "1", "tasks": "2", "max_local_epochs": "5"}


def test_every_line_that_refuses_is_named(tmp_path: Path) -> None:
    policy = policy_with(tmp_path, 'max_rounds = 1\ntasks = ["stroke"]\nmax_local_epochs = 1\n')
    refusals = policy.refusals(TERMS, train_rows=227)
    assert sorted(refusal.split(": ")[1] for refusal in refusals) == ["max_local_epochs", "max_rounds", "tasks"]


def test_the_defaults_refuse_nothing_and_warn_of_nothing() -> None:
    assert Policy().refusals(TERMS, train_rows=1) == Policy().warnings(TERMS, train_rows=1) == []


def test_a_network_is_as_large_as_the_hospital_counts(tmp_path: Path) -> None:
    """A server that states too few weights is refused with its first weights only, after the registration."""
    policy = policy_with(tmp_path, 'max_parameters_per_row = 0.33\nabove_max_parameters = "refuse"')
    (refusal,) = policy.refusals(replace(TERMS, parameters=10), train_rows=227, task=HEART_DISEASE)
    assert "got 3.04" in refusal


@pytest.mark.parametrize("above", ["warn", "refuse"])
def test_a_large_network_warns_or_refuses_and_the_smaller_one_is_offered(above: str, tmp_path: Path) -> None:
    policy = policy_with(tmp_path, f'max_parameters_per_row = 0.33\nabove_max_parameters = "{above}"')

    refusals = policy.refusals(TERMS, train_rows=227, task=HEART_DISEASE)
    warnings = policy.warnings(TERMS, train_rows=227, task=HEART_DISEASE)

    (text,) = warnings if above == "warn" else refusals
    assert len(refusals) + len(warnings) == 1
    assert ", line 3: max_parameters_per_row: expected at most 0.33, got 3.04" in text
    assert "--model logistic trains 42, which is 0.185 per row" in text


def test_a_logistic_regression_is_offered_nothing_smaller(tmp_path: Path) -> None:
    policy = policy_with(tmp_path, "max_parameters_per_row = 0.33")
    terms = RunTerms.of(Settings(model="logistic"))
    (warning,) = policy.warnings(terms, train_rows=92, task=HEART_DISEASE)
    assert "got 0.457 (42 weights, 92 training rows)" in warning
    assert "--model" not in warning


def test_a_flag_is_named_in_place_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("max_rounds = 100\n")
    policy = policy_of({"policy": str(tmp_path / "policy.toml"), "dp-budget": 1.0, "secure-aggregation-only": True})
    epsilon, aggregation = policy.refusals(TERMS, train_rows=227)
    assert epsilon.startswith("--dp-budget: max_epsilon: expected ")
    assert aggregation.startswith("--secure-aggregation-only: require_secure_aggregation: expected ")


@pytest.mark.parametrize("epsilon", [float("nan"), -1.0, float("inf")])
def test_an_epsilon_that_is_none_is_refused(epsilon: float, tmp_path: Path) -> None:
    policy = policy_with(tmp_path, "max_epsilon = 1000")
    assert len(policy.refusals(replace(TERMS, epsilon=epsilon), train_rows=227)) == 1


def test_a_text_of_the_server_cannot_forge_lines(tmp_path: Path) -> None:
    policy = policy_with(tmp_path, 'tasks = ["stroke"]')
    (refusal,) = policy.refusals(replace(TERMS, task="heart\n\x1b[2Jjoined"), train_rows=227)
    assert refusal.isprintable()


DRAFTS: dict[str, dict[str, Any]] = {
    "default": {},
    "readmission": {"task": "readmission", "strategy": "average", "hospitals": 2},
    "privacy": {"dp_epsilon": 2.0, "dp_delta": 1e-6},
    "secure aggregation": {"secure_aggregation": True, "tls": "server-tls"},
    "all rows": {"batch_size": 0, "model": "logistic"},
}


@pytest.mark.parametrize("name", DRAFTS)
@pytest.mark.parametrize("server", [None, "", SERVER])
def test_a_draft_is_a_policy_that_allows_its_run_and_no_longer_one(
    name: str, server: str | None, tmp_path: Path
) -> None:
    settings = Settings(**DRAFTS[name])
    terms = RunTerms.of(settings)
    path = tmp_path / "policy.toml"
    path.write_text(draft_policy(terms, settings.task_declaration, train_rows=227, server=server))

    policy = read_policy(path)

    assert policy.refusals(terms, train_rows=227, server=server or "") == []
    assert policy.min_cell == 5
    longer = replace(terms, rounds=terms.rounds + 1)
    (refusal,) = policy.refusals(longer, train_rows=227, server=server or "")
    number = int(refusal.split("line ")[1].split(":")[0])
    assert path.read_text().splitlines()[number - 1] == f"max_rounds = {terms.rounds}"
    if server:
        assert policy.refusals(terms, train_rows=227, server=OTHER_SERVER) != []


def test_a_draft_for_a_network_file_allows_only_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(draft_policy(NETWORK_FILE, HEART_DISEASE, server=""))
    assert read_policy(path).networks == ("ab" * 32,)


def test_a_node_that_joins_by_its_policy_logs_the_policy_s_warnings(
    tmp_path: Path, hospitals_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hospital = load_hospital(hospitals_folder / "client_1.csv", HEART_DISEASE, "cleveland", DEFAULT_SPLIT_SEED)
    policy_with(tmp_path, "max_parameters_per_row = 0.33")

    with caplog.at_level("WARNING"):
        assert decide_by_policy(TERMS, {"policy": str(tmp_path / "policy.toml")}, hospital) == "policy"

    (warning,) = caplog.messages
    assert "line 3: max_parameters_per_row: expected at most 0.33, got 3.04" in warning
