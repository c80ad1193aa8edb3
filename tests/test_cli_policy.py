"""`federated-health policy`: drafts for a hospital, and what a policy allows."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from federated_health.hospital.policy_file import RULES, read_policy
from federated_health.messages.run_terms import RunTerms
from federated_health.processes import free_port
from federated_health.security.certificates import fingerprint, public_key_of
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.settings import Settings
from federated_health.transport.stream_server import serve_streams
from tests.support.script_calls import assert_one_line, assert_refused
from tests.test_task_files import STROKE

if TYPE_CHECKING:
    from tests.support.script_calls import RunScript

COMMAND = "federated-health", "policy"


def test_a_draft_on_standard_output_allows_a_run_with_default_settings(
    run_script: "RunScript", in_folder: Path
) -> None:
    result = run_script(*COMMAND, "draft")
    assert (result.code, result.error) == (0, "")
    path = in_folder / "policy.toml"
    path.write_text(result.output)
    assert read_policy(path).refusals(RunTerms.of(Settings()), train_rows=92) == []


def test_a_draft_states_the_size_of_the_network_for_this_hospital(
    run_script: "RunScript", hospitals_folder: Path, in_folder: Path
) -> None:
    result = run_script(*COMMAND, "draft", "--data", hospitals_folder / "client_1.csv", "--out", "policy.toml")
    assert result.code == 0
    text = (in_folder / "policy.toml").read_text()
    assert "227 training rows: 3.04 and 0.185 weights per row" in text
    assert read_policy(in_folder / "policy.toml").tasks == ("heart-disease",)


def test_a_draft_for_a_task_file_names_its_task(run_script: "RunScript", in_folder: Path) -> None:
    (in_folder / "stroke.toml").write_text(STROKE)
    assert run_script(*COMMAND, "draft", "--task-file", "stroke.toml", "--out", "policy.toml").code == 0
    assert read_policy(in_folder / "policy.toml").tasks == ("stroke",)


def test_a_draft_does_not_overwrite_a_file_without_force(run_script: "RunScript", in_folder: Path) -> None:
    path = in_folder / "policy.toml"
    path.write_text("min_cell = 7\n")

    refused = run_script(*COMMAND, "draft", "--out", "policy.toml")
    assert_refused(refused, 2, "policy.toml: exists")
    assert path.read_text() == "min_cell = 7\n"

    assert run_script(*COMMAND, "draft", "--out", "policy.toml", "--force").code == 0
    assert read_policy(path).min_cell == 5


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--task", "heart-disease", "--task-file", "stroke.toml"], "--task-file"),
        (["--mapping", "mapping.toml"], "--data"),
        (["--data", "missing.csv"], "missing.csv"),
        (["--out", "missing/policy.toml"], "missing/policy.toml"),
    ],
)
def test_a_mistake_is_one_line(flags: list[str], word: str, run_script: "RunScript", in_folder: Path) -> None:
    (in_folder / "stroke.toml").write_text(STROKE)
    result = run_script(*COMMAND, "draft", *flags)
    assert_one_line(result, word)
    assert result.output == ""


def test_check_shows_what_every_key_allows(run_script: "RunScript", in_folder: Path) -> None:
    (in_folder / "policy.toml").write_text('max_rounds = 50\ntasks = ["stroke"]\nmax_epsilon = 2\n')
    result = run_script(*COMMAND, "check", "policy.toml")
    assert result.code == 0
    shown = dict(line.strip().split(": ", 1) for line in result.output.splitlines()[1:])
    assert {*shown} == {*RULES}
    assert (shown["max_rounds"], shown["tasks"], shown["max_epsilon"]) == ("50", "stroke", "2")
    assert (shown["min_cell"], shown["servers"], shown["releases_off"]) == ("5", "any", "none")
    assert (shown["max_local_epochs"], shown["require_secure_aggregation"]) == ("no limit", "false")


def test_check_names_the_line_of_a_mistake(run_script: "RunScript", in_folder: Path) -> None:
    (in_folder / "policy.toml").write_text("min_cell = 5\nmax_rounds = -1\n")
    result = run_script(*COMMAND, "check", "policy.toml")
    assert_refused(result, 1, "policy.toml, line 2: max_rounds: expected ")


# With a server


@pytest.fixture
def server(tls: dict[str, Path]) -> Iterator[str]:
    """Address of a server with mutual TLS that states the terms of a run of 7 rounds, and that no hospital may join."""
    settings, address = Settings(rounds=7), f"127.0.0.1:{free_port()}"
    identity, joined = load_identity(tls["server"], Role.SERVER), list[str]()
    agreement = settings.task_declaration.agreement
    with serve_streams(address, agreement, joined.append, tls=identity, terms=RunTerms.of(settings).text):
        yield address
    assert joined == []


def test_a_draft_for_a_server_allows_its_run_and_its_key_only(
    run_script: "RunScript", server: str, tls: dict[str, Path], in_folder: Path
) -> None:
    flags = "--server", server, "--tls", tls["cleveland"], "--out", "policy.toml"
    assert run_script(*COMMAND, "draft", *flags).succeeded

    policy = read_policy(in_folder / "policy.toml")
    assert (policy.max_rounds, policy.strategies, policy.networks) == (7, ("fedavg",), ("mlp",))
    key = public_key_of(load_identity(tls["server"], Role.SERVER).certificate)
    assert policy.servers == (fingerprint(key).replace(" ", ""),)

    allowed = run_script(*COMMAND, "check", "policy.toml", *flags[:4])
    assert allowed.succeeded
    assert "allows the run" in allowed.output
    assert list(in_folder.glob("egress*")) == []


def test_check_names_every_line_that_refuses_a_server_s_run(
    run_script: "RunScript", server: str, tls: dict[str, Path], in_folder: Path
) -> None:
    (in_folder / "policy.toml").write_text('max_rounds = 6\ntasks = ["stroke"]\n')
    result = run_script(*COMMAND, "check", "policy.toml", "--server", server, "--tls", tls["cleveland"])
    assert_one_line(result, "policy.toml, line 1: max_rounds: expected at most 6, got 7")
    assert "policy.toml, line 2: tasks: expected stroke, got heart-disease" in result.output


def test_a_draft_for_another_task_than_the_server_s_is_refused(
    run_script: "RunScript", server: str, tls: dict[str, Path]
) -> None:
    flags = "--task", "readmission", "--server", server, "--tls", tls["cleveland"]
    assert_refused(run_script(*COMMAND, "draft", *flags), 2, "--server", "readmission", "heart-disease")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_rounds = 6\n", ["policy.toml, line 1: max_rounds: expected at most 6, got 7"]),
        (f'\nservers = ["{"0" * 64}"]\n', ["policy.toml, line 2: servers: expected "]),
        (
            'max_parameters_per_row = 0.33\nabove_max_parameters = "refuse"\n',
            ["line 1: max_parameters_per_row: ", "got 3.04 (689 weights, 227 training rows)", "--model logistic"],
        ),
        ("max_rounds = 0\n", ["policy.toml, line 1: max_rounds: expected a whole number"]),
    ],
)
def test_a_client_does_not_join_a_run_that_its_policy_refuses(
    text: str,
    words: list[str],
    run_script: "RunScript",
    server: str,
    tls: dict[str, Path],
    hospitals_folder: Path,
    in_folder: Path,
) -> None:
    (in_folder / "policy.toml").write_text(text)
    flags = "--tls", tls["cleveland"], "--server", server, "--policy", "policy.toml", "--ledger", "ledger"
    result = run_script("client.py", "--data", hospitals_folder / "client_1.csv", *flags)
    assert result.code == 1
    for word in words:
        assert word in result.error
    assert result.error.splitlines()[-1].startswith("error: ")
    assert [path.read_text() for path in (in_folder / "ledger").iterdir() if path.stat().st_size] == []
