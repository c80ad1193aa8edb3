"""What the scripts have in common: --help, unknown flags, addresses and TLS folders."""

from pathlib import Path

import pytest

from federated_health.cli import client as cli_client
from tests.support.script_calls import SCRIPTS, Run, assert_one_line


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_teaches_and_ends_well(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == (0, "")
    capsys.readouterr()


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_flag_is_refused(name: str, run: Run) -> None:
    code, said = run(name, "--rownds", "3")
    assert code == 2
    assert "Traceback" not in said


@pytest.mark.parametrize(("name", "flag"), [("client.py", "--server"), ("server.py", "--address")])
def test_an_address_past_this_machine_is_refused(name: str, flag: str, run: Run, hospitals_folder: Path) -> None:
    own = ["--data", hospitals_folder / "client_1.csv", "--name", "mine"] if name == "client.py" else []
    assert_one_line(run(name, *own, flag, "192.0.2.1:8080"), "is not loopback", "--insecure")


def test_with_tls_an_address_past_this_machine_may_be_used(
    run: Run, hospitals_folder: Path, tls: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cli_client, "join_run", lambda *_, address, **__: asked.append(address))
    own = ["--data", hospitals_folder / "client_1.csv", "--tls", tls["a"]]
    assert run("client.py", *own, "--server", "192.0.2.1:8080")[0] == 0
    assert asked == ["192.0.2.1:8080"]
    result = run("server.py", "--tls", tls["server"], "--address", "192.0.2.1:8080")
    assert_one_line(result, "address 192.0.2.1:8080: cannot be listened on; its host is not this machine's")


@pytest.mark.parametrize(
    ("name", "whose", "words"),
    [
        ("client.py", "server", "is for server localhost; expected a hospital's"),
        ("server.py", "a", "is for hospital a; expected a server's"),
        ("client.py", "none", "none: is not a folder"),
        ("server.py", "none", "none: is not a folder"),
    ],
)
def test_a_tls_folder_that_will_not_do_is_refused(
    name: str, whose: str, words: str, run: Run, hospitals_folder: Path, tls: dict[str, Path]
) -> None:
    own = ["--data", hospitals_folder / "client_1.csv"] if name == "client.py" else []
    assert_one_line(run(name, *own, "--tls", tls.get(whose, Path("none"))), words)
