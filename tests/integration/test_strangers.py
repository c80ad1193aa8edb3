"""Strangers at the port of `server.py`: nothing of them is on its console but what it judged itself."""

import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path

import pytest

from federated_health.data.tasks import HEART_DISEASE
from federated_health.processes import free_port, interrupt, process
from federated_health.security.authority import make_demo_identities
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.transport.stream_client import report_unfit
from tests.support.scripts import script_command
from tests.support.wire import UNWRITTEN

pytestmark = pytest.mark.slow


def test_failed_handshakes_leave_no_word_and_refusals_one_line_each(tmp_path: Path) -> None:
    own, hospitals = make_demo_identities(tmp_path / "tls", ("a",))
    port, log = free_port(), tmp_path / "server.txt"
    command = script_command("server.py", "--tls", own, "--address", f"127.0.0.1:{port}", "--out", tmp_path / "run")
    with process(command, log) as server:
        deadline = time.monotonic() + 300
        while "waiting for hospitals" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
        anybody.set_alpn_protocols(["h2"])
        for _ in range(5):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                connection.recv(100)
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
                anybody.wrap_socket(connection) as encrypted,
            ):
                encrypted.recv(100)
        a = load_identity(hospitals["a"], Role.HOSPITAL)
        for _ in range(3):
            report_unfit("b", f"127.0.0.1:{port}", HEART_DISEASE.agreement, "none", UNWRITTEN, tls=a)
        assert server.poll() is None
        interrupt([server])
        assert server.returncode == 130
    lines = [line.partition(" ")[2] for line in log.read_text().splitlines()]
    refusal = "refused b: the hospital's certificate is for hospital a, but it gave another name (from 127.0.0.1)"
    assert lines == [
        f"listening on 127.0.0.1:{port}, as server localhost, with mutual TLS",
        lines[1],
        refusal,
        "",
    ]
    assert lines[1].startswith("waiting for hospitals: 0 of 4 are connected")
