"""A SuperNode is restarted until the SuperLink admits it; giving up is one line."""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from unittest import mock

import pytest

from federated_health.cli.deployment import supernode
from federated_health.errors import JoinError, RunError
from federated_health.security.authority import make_demo_identities
from federated_health.security.identity import Identity, load_identity
from federated_health.security.parties import Role

ADDRESS = "127.0.0.1:9092"


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    _, hospitals = make_demo_identities(tmp_path_factory.mktemp("certificates") / "tls", ["cleveland"])
    return load_identity(hospitals["cleveland"], Role.HOSPITAL)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SuperLink answers."""
    monkeypatch.setattr(supernode, "find_obstacle", lambda *_: "")
    monkeypatch.setattr(supernode, "MIN_DELAY", 0.01)


def ending_with(*codes: int) -> Callable[[], list[str]]:
    """Commands that end with these codes, one after the other; then this process is stopped."""
    left: Iterator[int] = iter(codes)

    def make_command() -> list[str]:
        if (code := next(left, None)) is None:
            raise KeyboardInterrupt
        return [sys.executable, "-c", f"raise SystemExit({code})"]

    return make_command


def keep(make_command: Callable[[], list[str]], identity: Identity, wait: float, address: str = ADDRESS) -> list[str]:
    """Lines announced until it ends."""
    said: list[str] = []
    with suppress(KeyboardInterrupt), mock.patch.object(supernode, "say", said.append):
        supernode.keep_running(make_command, address, identity, wait)
    return said


@pytest.mark.usefixtures("there")
def test_a_node_that_ends_is_restarted_after_any_exit_code(identity: Identity) -> None:
    said = keep(ending_with(1, 0), identity, wait=60.0)

    assert len(said) == 2
    assert all("cleveland is not registered there" in line for line in said)


@pytest.mark.usefixtures("there")
def test_waiting_for_admission_ends(identity: Identity) -> None:
    with pytest.raises(JoinError, match="has not let cleveland in within"):
        keep(ending_with(*[1] * 100), identity, wait=0.1)


@pytest.mark.usefixtures("there")
def test_a_command_that_flower_rejects_is_not_tried_again(identity: Identity) -> None:
    with pytest.raises(RunError, match="does not take"):
        keep(ending_with(2), identity, wait=60.0)


@pytest.mark.usefixtures("there")
def test_the_wait_starts_anew_after_an_admission(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernode, "ADMITTED_SECONDS", 0.0)
    monkeypatch.setattr(supernode, "MAX_DELAY", 0.01)

    assert len(keep(ending_with(*[1] * 5), identity, wait=0.02)) == 5


def test_an_absent_superlink_is_waited_for(identity: Identity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"  # which nobody listens on when the block is over
    with pytest.raises(JoinError, match=rf"^{address}: no SuperLink within 0\.2 s: it cannot be reached"):
        keep(lambda: pytest.fail("nothing may be started"), identity, wait=0.2, address=address)
