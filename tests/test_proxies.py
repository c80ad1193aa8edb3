"""Proxies that environment variables name: loopback does without, plaintext is refused, TLS passes unread."""

import os
from pathlib import Path

import pytest

from federated_health.cli.deployment import flower_commands
from federated_health.errors import AddressError, JoinError
from federated_health.processes import free_port
from federated_health.security.identity import Identity
from federated_health.security.parties import server
from federated_health.transport import backoff, obstacles
from federated_health.transport.channels import PROXY_VARIABLES, proxy_of
from federated_health.transport.proxies import find_proxy
from federated_health.transport.unfit import report_unfit
from tests.support import streams
from tests.support.connect_proxy import ConnectProxy
from tests.support.identities import DemoIdentities, write_identity
from tests.support.streams import AGREEMENT, LightHospital, answer_of, question, wait_for_hospitals
from tests.support.wire import UNWRITTEN

HOST = "fl.example.org"
"""A host that no DNS knows: only the proxy finds it."""

SECRET = "p%20ss-word"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test starts without a proxy, and does not wait long."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(backoff, "MAX_DELAY", 0.1)
    monkeypatch.setattr(obstacles, "PREFLIGHT_SECONDS", 0.5)


@pytest.fixture
def own(tmp_path: Path) -> tuple[Identity, Identity]:
    """Identities of a server at HOST and of the hospital a."""
    demo = DemoIdentities(tmp_path / "tls")
    return write_identity(tmp_path / "server", server([HOST]), demo.signer), demo.hospitals["a"]


# Loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
@pytest.mark.parametrize("variable", [*PROXY_VARIABLES, "GRPC_ADDRESS_HTTP_PROXY"])
def test_loopback_is_never_reached_through_a_proxy(variable: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with streams.server() as (grid, address), ConnectProxy(address) as proxy:
        monkeypatch.setenv(variable, proxy.host if variable.startswith("GRPC") else proxy.url)
        monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES", "127.0.0.0/8")
        monkeypatch.setenv("no_proxy", "elsewhere.example.org")
        hospital = LightHospital("a", address.replace("127.0.0.1", host))
        wait_for_hospitals(grid)
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=10)[0]) == ("a", 1)
        assert proxy.requests == []
    assert hospital.end() is None


@pytest.mark.parametrize("listed", [{}, {"no_proxy": "a.example"}, {"no_proxy": "b", "no_grpc_proxy": "a.example"}])
def test_flower_s_processes_reach_loopback_without_a_proxy(
    listed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in listed.items():
        monkeypatch.setenv(name, value)
    environment = flower_commands.environment()
    for name in ("https_proxy", "no_grpc_proxy"):
        monkeypatch.setenv(name, environment.get(name, "http://s:2"))
    assert [find_proxy(host) is None for host in ("localhost", "127.0.0.1", "::1", HOST)] == [True, True, True, False]
    assert (find_proxy("a.example") is None) is bool(listed)


# Plaintext


def test_plaintext_through_a_proxy_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with ConnectProxy("127.0.0.1:1") as proxy:
        monkeypatch.setenv("https_proxy", f"http://user:{SECRET}@{proxy.host}")
        error = LightHospital("a", f"{HOST}:8080").end()
        assert isinstance(error, AddressError)
        assert f"the proxy {proxy.host} of https_proxy" in str(error)
        assert SECRET not in str(error)
        assert "\n" not in str(error)
        with pytest.raises(AddressError):
            report_unfit("a", f"{HOST}:8080", AGREEMENT, "a reason", UNWRITTEN)
        assert proxy.requests == []
        monkeypatch.setenv("no_proxy", "example.org")
        assert proxy_of(f"{HOST}:8080", encrypted=False) is None


# TLS


def test_tls_passes_a_proxy_which_reads_nothing(
    own: tuple[Identity, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving, joining = own
    port = free_port()
    with ConnectProxy(f"127.0.0.1:{port}") as proxy, streams.server(port=port, tls=serving) as (grid, _):
        monkeypatch.setenv("https_proxy", f"http://user:{SECRET}@{proxy.host}")
        where = f"{HOST}:{port}"
        hospital = LightHospital("a", where, tls=joining)
        wait_for_hospitals(grid)
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=10)[0]) == ("a", 1)
        assert proxy.targets == {where}
        # base64 of "user:p ss-word", of the check and of the stream alike
        assert all("Proxy-Authorization: Basic dXNlcjpwIHNzLXdvcmQ=\r\n" in request for request in proxy.requests)
        assert len(proxy.requests) == 2
    assert hospital.end() is None
    for word in (b"heart-disease", b"question", b"terms"):
        assert word not in proxy.passed


def test_a_server_is_diagnosed_through_the_proxy(
    own: tuple[Identity, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving, joining = own
    with streams.server(tls=serving) as (_, address), ConnectProxy(address) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        error = LightHospital("a", f"other.example.org:{address.rpartition(':')[2]}", tls=joining).end()
        assert isinstance(error, JoinError)
        assert f"expected one for other.example.org, got one for {HOST}" in str(error)


@pytest.mark.parametrize(
    ("answer", "word"),
    [("407 Proxy Authentication Required", "'407 Proxy Authentication Required'"), ("403 \x1b[31mNo", "403")],
)
def test_a_proxy_that_refuses_is_named(
    answer: str, word: str, own: tuple[Identity, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy("127.0.0.1:1", answer) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:{SECRET}@{proxy.host}")
        hospital = LightHospital("a", f"{HOST}:8080", wait=2.0, tls=own[1])
        assert_named(hospital, f"through the proxy {proxy.host} of http_proxy", word)


def test_a_proxy_that_is_gone_is_named(own: tuple[Identity, Identity], monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("grpc_proxy", f"http://user:{SECRET}@127.0.0.1:{port}")
    hospital = LightHospital("a", f"{HOST}:8080", wait=0.5, tls=own[1])
    assert_named(hospital, f"through the proxy 127.0.0.1:{port} of grpc_proxy", "(the proxy: Connection refused)")


def assert_named(hospital: LightHospital, *words: str) -> None:
    """The line while waiting holds these words, the final error at least the first, and neither the password."""
    error = hospital.end()
    assert isinstance(error, JoinError)
    assert all(word in hospital.announcements[0] for word in words)
    for text in (hospital.announcements[0], str(error)):
        assert words[0] in text
        assert SECRET not in text
        assert "\x1b" not in text


# Which proxy gRPC would use: tried out with grpcio 1.85


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"http_proxy": "http://h:1"}, "h:1 of http_proxy"),
        ({"http_proxy": "http://h:1", "https_proxy": "http://s:2"}, "s:2 of https_proxy"),
        ({"https_proxy": "http://s:2", "grpc_proxy": "http://g:3"}, "g:3 of grpc_proxy"),
        ({"http_proxy": "http://h:1", "https_proxy": ""}, None),
        ({"HTTPS_PROXY": "http://s:2", "all_proxy": "http://a:4"}, None),
        ({"https_proxy": "http://s"}, "s:443 of https_proxy"),
        ({"https_proxy": "https://s:2"}, None),
        ({"https_proxy": "s:2"}, None),
        ({"https_proxy": "http://s:99999"}, None),
        ({"https_proxy": "http://[2001:db8::1]:2"}, "[2001:db8::1]:2 of https_proxy"),
        ({"https_proxy": "http://s:2", "no_proxy": "a, .EXAMPLE.org"}, None),
        ({"https_proxy": "http://s:2", "no_proxy": "l.example.org,*,fl.example.org:8080"}, "s:2 of https_proxy"),
        ({"https_proxy": "http://s:2", "no_proxy": "example.org", "no_grpc_proxy": ""}, "s:2 of https_proxy"),
        ({"https_proxy": "http://s:2", "no_grpc_proxy": "example.org"}, None),
        ({"https_proxy": "http://s:2", "NO_PROXY": "example.org"}, "s:2 of https_proxy"),
    ],
)
def test_the_proxy_is_the_one_that_grpc_would_use(
    variables: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = find_proxy(HOST)
    assert (str(proxy) if proxy else None) == (f"the proxy {expected}" if expected else None)


def test_a_network_is_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://s:2")
    monkeypatch.setenv("no_proxy", "192.0.2.0/24, 2001:db8::/32")
    assert [find_proxy(host) is None for host in ("192.0.2.7", "198.51.100.7", "2001:db8::7")] == [True, False, True]
