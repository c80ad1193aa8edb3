"""What the scripts have in common: --help, unknown flags, addresses and TLS folders."""

from pathlib import Path

import pytest

from federated_health.cli import client as cli_client
from tests.support.script_calls import SCRIPTS, RunScript, assert_one_line


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_exits_with_0_and_prints_no_error(name: str, run_script: RunScript) -> None:
    assert run_script(name, "--help").succeeded


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_flag_is_rejected(name: str, run_script: RunScript) -> None:
    files = ["model.keras", "patients.csv"] if name == "predict.py" else []
    result = run_script(name, *files, "--rownds=3")
    assert_one_line(result, "--rownds=3")
    assert result.code == 2


@pytest.mark.parametrize(("name", "flag"), [("client.py", "--server"), ("server.py", "--address")])
def test_an_address_beyond_loopback_needs_tls(
    name: str, flag: str, run_script: RunScript, hospitals_folder: Path
) -> None:
    hospital = ["--data", hospitals_folder / "client_1.csv", "--name", "mine"] if name == "client.py" else []
    assert_one_line(run_script(name, *hospital, flag, "192.0.2.1:8080"), "is not loopback", "--insecure")


def test_with_tls_an_address_beyond_loopback_is_allowed(
    run_script: RunScript, hospitals_folder: Path, tls: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[str] = []
    monkeypatch.setattr(cli_client, "join_run", lambda *_, address, **__: addresses.append(address))
    hospital = ["--data", hospitals_folder / "client_1.csv", "--tls", tls["a"]]
    assert run_script("client.py", *hospital, "--server", "192.0.2.1:8080").code == 0
    assert addresses == ["192.0.2.1:8080"]
    result = run_script("server.py", "--tls", tls["server"], "--address", "192.0.2.1:8080")
    assert_one_line(result, "192.0.2.1:8080", "cannot open this port")


@pytest.mark.parametrize(
    ("name", "party", "words"),
    [
        ("client.py", "server", "expected a hospital's"),
        ("server.py", "a", "expected a server's"),
        ("client.py", "none", "none: is not a folder"),
        ("server.py", "none", "none: is not a folder"),
    ],
)
def test_a_tls_folder_of_another_role_or_none_is_rejected(
    name: str, party: str, words: str, run_script: RunScript, hospitals_folder: Path, tls: dict[str, Path]
) -> None:
    hospital = ["--data", hospitals_folder / "client_1.csv"] if name == "client.py" else []
    assert_one_line(run_script(name, *hospital, "--tls", tls.get(party, Path("none"))), words)
