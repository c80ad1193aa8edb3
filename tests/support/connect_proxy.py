"""An HTTP proxy on loopback that opens tunnels (CONNECT) to one server on loopback, whatever host is asked for."""

import re
import socket
import threading
from contextlib import suppress


class ConnectProxy:
    """Notes what hospitals ask of it, and every byte that passes.

    Args:
        target: HOST:PORT of the server.
        answer: status with which it answers.

    Attributes:
        requests: the requests, each as one text.
        passed: all bytes that passed, in both directions.
    """

    def __init__(self, target: str, answer: str = "200 OK") -> None:
        self.requests: list[str] = []
        self.passed = bytearray()
        self._target = ("127.0.0.1", int(target.rpartition(":")[2]))
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def targets(self) -> set[str]:
        """The hosts and ports that were asked for."""
        return {request.split(" ")[1] for request in self.requests}

    def __enter__(self) -> "ConnectProxy":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._connections.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                if not (byte := client.recv(1)):
                    return
                request += byte
            self.requests.append(request.decode())
            client.sendall(f"HTTP/1.1 {self._answer}\r\n\r\n".encode())
            if not self._answer.startswith("2") or not re.match(rb"CONNECT \S+:\d+ HTTP/1\.1\r\n", request):
                client.shutdown(socket.SHUT_RDWR)
                return
            server = socket.create_connection(self._target)
            self._connections.append(server)
            threading.Thread(target=self._forward, args=(server, client), daemon=True).start()
            self._forward(client, server)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                self.passed += content
                target.sendall(content)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
