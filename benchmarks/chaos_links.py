"""A proxy on loopback between a hospital and its server, which can interrupt their connection."""

import asyncio
from contextlib import suppress

CHUNK = 2**16

NOISE = bytes(range(256)) * 4
"""Bytes that are not a frame of HTTP/2."""


class Link:
    """Forwards one hospital's connections to the server, in an event loop, between `open` and `close`.

    Attributes:
        address: HOST:PORT to which the hospital connects.
    """

    def __init__(self, host: str, port: int) -> None:
        self.address = ""
        self._host, self._port = host, port
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

    def restore(self) -> None:
        self._is_refusing = False
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
        from_server, to_server = await asyncio.open_connection(self._host, self._port)
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

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(CHUNK):
            await self._flowing.wait()
            sink.write(chunk)
            await sink.drain()
        await self._flowing.wait()  # an interruption also holds back the end of a connection
