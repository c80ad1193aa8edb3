"""Proxies on loopback: a link between a hospital and its server, which can be cut or slow, and an HTTP proxy."""

import asyncio
import re
from contextlib import suppress

CHUNK = 2**16

TICK = 0.05
"""Seconds of transmission per piece that a slow link forwards."""

SLOW_RATE = 5e3
"""Bytes per second of a link that slows down, by default."""

NOISE = bytes(range(256)) * 4
"""Bytes that are not a frame of HTTP/2."""


class Link:
    """Forwards one hospital's connections to the server, in an event loop, between `open` and `close`.

    Args:
        rate: bytes per second in each direction; None for no limit.

    Attributes:
        address: HOST:PORT to which the hospital connects.
        connections: number of connections so far.
    """

    def __init__(self, host: str, port: int, rate: float | None = None) -> None:
        self.address = ""
        self.connections = 0
        self._host, self._port, self._rate = host, port, rate
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_refusing = False
        self._writers: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, self._host, 0)
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"{self._host}:{port}"

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._abort()

    def hush(self) -> None:
        """Forward nothing and close nothing, as with an unplugged cable."""
        self._flowing.clear()

    def refuse(self) -> None:
        """Close every connection, and each new one at once."""
        self._is_refusing = True
        self._abort()

    def slow_down(self, rate: float = SLOW_RATE) -> None:
        """Forward this many bytes per second in each direction."""
        self._rate = rate

    def restore(self) -> None:
        self._is_refusing, self._rate = False, None
        self._flowing.set()

    def garble(self) -> None:
        """Insert bytes that are not HTTP/2 into what the hospital sends."""
        for to_server in self._writers.values():
            to_server.write(NOISE)

    def _abort(self) -> None:
        for pair in self._writers.items():
            for writer in pair:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            if not self._is_refusing:
                await self._flowing.wait()
                with suppress(OSError):  # either end may close
                    await self._join(reader, writer)
        except asyncio.CancelledError:
            pass  # the run is over; asyncio would log the cancellation
        finally:
            writer.close()  # pending bytes are still sent
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward both ways until either side ends."""
        from_server, to_server = await self._connect(reader, writer)
        self._writers[writer] = to_server
        ways = [
            asyncio.ensure_future(self._forward(reader, to_server)),
            asyncio.ensure_future(self._forward(from_server, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._writers[writer]
            for way in ways:
                way.cancel()
            to_server.close()  # before the wait, which `close` may cancel; pending bytes are still sent
            await asyncio.gather(*ways, return_exceptions=True)

    async def _connect(
        self, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(CHUNK if self._rate is None else max(1, int(self._rate * TICK))):
            if (rate := self._rate) is not None:
                await asyncio.sleep(min(len(chunk), rate * TICK) / rate)  # a larger piece was read before
            await self._flowing.wait()
            sink.write(chunk)
            await sink.drain()
        await self._flowing.wait()  # an interruption also holds back the end of a connection


class ConnectProxy(Link):
    """An HTTP proxy, which connects to where its clients ask for (CONNECT, RFC 9110)."""

    def __init__(self, host: str) -> None:
        super().__init__(host, 0)

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        target = re.match(r"CONNECT (\S+):([0-9]+) ", request)
        if target is None:
            raise ConnectionError("not a CONNECT request")
        streams = await asyncio.open_connection(target[1].strip("[]"), int(target[2]))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        return streams
