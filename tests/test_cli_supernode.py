"""A SuperNode is restarted until the SuperLink admits it; giving up is one line."""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from federated_health.cli.deployment import supernode
from federated_health.data.manifest import find_own_hospital
from federated_health.errors import JoinError, RunError
from federated_health.hospital.policy import Policy
from federated_health.security.authority import make_demo_identities
from federated_health.security.certificates import fingerprint, public_key_of
from federated_health.security.identity import Identity, load_identity
from federated_health.security.parties import Role
from tests.support.script_calls import assert_refused
from tests.test_security_handshake import listener, tls_server

if TYPE_CHECKING:
    from tests.support.script_calls import RunScript

ADDRESS = "127.0.0.1:9092"


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    _, hospitals = make_demo_identities(tmp_path_factory.mktemp("certificates") / "tls", ["cleveland"])
    return load_identity(hospitals["cleveland"], Role.HOSPITAL)


@pytest.fixture
def superlink(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SuperLink answers."""
    monkeypatch.setattr(supernode, "find_obstacle", lambda *_: "")
    monkeypatch.setattr(supernode, "MIN_DELAY", 0.01)


def commands_exiting_with(*codes: int) -> Callable[[], list[str]]:
    """Commands that exit with these codes, one after the other; then Ctrl-C."""
    remaining: Iterator[int] = iter(codes)

    def make_command() -> list[str]:
        if (code := next(remaining, None)) is None:
            raise KeyboardInterrupt
        return [sys.executable, "-c", f"raise SystemExit({code})"]

    return make_command


def lines_of(
    make_command: Callable[[], list[str]],
    identity: Identity,
    wait: float,
    address: str = ADDRESS,
    policy: Policy = Policy(),  # noqa: B008  # it is immutable
) -> list[str]:
    """Lines that a SuperNode's supervision prints until it ends."""
    lines: list[str] = []
    with suppress(KeyboardInterrupt), mock.patch.object(supernode, "say", lines.append):
        supernode.keep_running(make_command, address, identity, wait, policy)
    return lines


def test_a_node_without_a_policy_is_not_started(run_script: "RunScript") -> None:
    result = run_script("federated-health", "supernode", "--tls", "tls", "--data", "patients.csv")
    assert_refused(result, 2, "--policy: expected a policy file")


def test_a_node_with_a_wrong_policy_is_not_started(run_script: "RunScript", in_folder: Path) -> None:
    (in_folder / "policy.toml").write_text("max_rounds = 0\n")
    result = run_script(
        "federated-health", "supernode", "--tls", "tls", "--data", "patients.csv", "--policy", "policy.toml"
    )
    assert_refused(result, 1, "policy.toml, line 1: max_rounds: expected ")


def test_a_node_s_config_names_the_policy_whichever_folder_its_processes_run_in(
    identity: Identity, hospitals_folder: Path, in_folder: Path
) -> None:
    arguments = ["--tls", "tls", "--data", str(hospitals_folder / "client_1.csv"), "--policy", "policy.toml"]
    flags = supernode.make_parser().parse_args(arguments)
    own = find_own_hospital(Path(), None, flags.data, "cleveland")

    command = supernode.node_command(flags, own, identity)

    config = command[command.index("--node-config") + 1]
    assert f"policy='{in_folder / 'policy.toml'}'" in config.replace('"', "'")


@pytest.mark.usefixtures("superlink")
def test_a_node_that_ends_is_restarted_after_any_exit_code(identity: Identity) -> None:
    lines = lines_of(commands_exiting_with(1, 0), identity, wait=60.0)

    assert len(lines) == 2
    assert all("cleveland is not registered" in line for line in lines)


@pytest.mark.usefixtures("superlink")
def test_waiting_for_admission_ends_after_the_wait(identity: Identity) -> None:
    with pytest.raises(JoinError, match=r"did not admit cleveland within 0\.1 s"):
        lines_of(commands_exiting_with(*[1] * 100), identity, wait=0.1)


@pytest.mark.usefixtures("superlink")
def test_a_command_that_flower_rejects_is_not_restarted(identity: Identity) -> None:
    with pytest.raises(RunError, match="rejects its flags"):
        lines_of(commands_exiting_with(2), identity, wait=60.0)


@pytest.mark.usefixtures("superlink")
def test_the_wait_restarts_after_each_admission(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernode, "ADMITTED_SECONDS", 0.0)
    monkeypatch.setattr(supernode, "MAX_DELAY", 0.01)

    assert len(lines_of(commands_exiting_with(*[1] * 5), identity, wait=0.02)) == 5


def test_a_missing_superlink_ends_the_wait(identity: Identity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"  # which nobody listens on when the block is over
    with pytest.raises(JoinError, match=rf"{address}: no SuperLink within 0\.2 s"):
        lines_of(lambda: pytest.fail("nothing may be started"), identity, wait=0.2, address=address)


def test_a_superlink_that_the_policy_does_not_allow_is_not_called(tmp_path: Path) -> None:
    own, hospitals = make_demo_identities(tmp_path / "tls", ["cleveland"])
    identity, key = load_identity(hospitals["cleveland"], Role.HOSPITAL), fingerprint_of(own)
    with listener(tls_server(load_identity(own, Role.SERVER))) as port:
        address = f"127.0.0.1:{port}"
        with pytest.raises(JoinError, match=f"servers: expected {'0' * 64}, got {key}"):
            lines_of(lambda: pytest.fail("nothing may be started"), identity, 5.0, address, Policy(servers=("0" * 64,)))

        started: list[str] = []

        def make_command() -> list[str]:
            started.append(address)
            raise KeyboardInterrupt

        lines_of(make_command, identity, 5.0, address, Policy(servers=("0" * 64, key)))
        assert started == [address]


def fingerprint_of(folder: Path) -> str:
    """Of a server's key, as a policy is compared with it."""
    return fingerprint(public_key_of(load_identity(folder, Role.SERVER).certificate)).replace(" ", "")
