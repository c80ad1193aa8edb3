"""Strangers at the port of `server.py`: its console shows only the hospitals that it rejected itself."""

import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path

import pytest

from federated_health.data.task_files import HEART_DISEASE
from federated_health.processes import free_port, interrupt, process
from federated_health.security.authority import make_demo_identities
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.transport.unfit import report_unfit
from tests.support.scripts import script_command
from tests.support.wire import UNWRITTEN

pytestmark = pytest.mark.slow


def test_failed_handshakes_leave_no_line_and_rejected_hospitals_one_line(tmp_path: Path) -> None:
    own, hospitals = make_demo_identities(tmp_path / "tls", ("a",))
    port, log = free_port(), tmp_path / "server.txt"
    command = script_command("server.py", "--tls", own, "--address", f"127.0.0.1:{port}", "--out", tmp_path / "run")
    with process(command, log) as server:
        deadline = time.monotonic() + 300
        while "waiting for hospitals" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        tls.set_alpn_protocols(["h2"])
        for _ in range(5):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                connection.recv(100)
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
                tls.wrap_socket(connection) as encrypted,
            ):
                encrypted.recv(100)
        a = load_identity(hospitals["a"], Role.HOSPITAL)
        for _ in range(3):
            report_unfit("b", f"127.0.0.1:{port}", HEART_DISEASE.agreement, "none", UNWRITTEN, tls=a)
        assert server.poll() is None
        interrupt([server])
        assert server.returncode == 130
    lines = [line.partition(" ")[2] for line in log.read_text().splitlines()]
    listening, waiting, rejection, _ = lines
    assert listening.startswith(f"listening on 127.0.0.1:{port}")
    assert waiting.startswith("waiting for hospitals: 0 of 4")
    assert all(words in rejection for words in ("b:", "certificate", "hospital a", "127.0.0.1"))
