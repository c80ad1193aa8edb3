"""The proxy between a hospital and its server, which can interrupt their connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from chaos_links import ConnectProxy, Link

ARRIVAL_TIMEOUT = 5.0
"""Seconds for bytes on loopback to arrive."""

SILENCE = 0.2
"""Seconds in which forwarded bytes would have arrived."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1000):
        if chunk == b"bye":
            break
        writer.write(chunk)
    writer.close()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, Callable[[], Awaitable[Connection]]]]:
    """A link to a server that echoes, and a function that connects through it."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    link = Link("127.0.0.1", server.sockets[0].getsockname()[1])
    await link.open()
    writers = []

    async def connect() -> Connection:
        host, port = link.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        return reader, writer

    try:
        yield link, connect
    finally:
        for writer in writers:
            writer.close()
        await link.close()
        server.close()
        await server.wait_closed()


async def _echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> bytes:
    writer.write(content)
    return await asyncio.wait_for(reader.readexactly(len(content)), ARRIVAL_TIMEOUT)


def test_a_link_forwards_both_ways_and_ends_with_either_side() -> None:
    async def run() -> None:
        async with linked() as (_, connect):
            reader, writer = await connect()
            assert await _echoed(reader, writer, b"first") == b"first"
            writer.write(b"bye")
            assert await asyncio.wait_for(reader.read(), ARRIVAL_TIMEOUT) == b""

    asyncio.run(run())


def test_a_silent_link_delays_everything_until_it_is_restored() -> None:
    async def run() -> None:
        async with linked() as (link, connect):
            reader, writer = await connect()
            assert await _echoed(reader, writer, b"first") == b"first"
            link.hush()
            writer.write(b"other")
            late = await connect()
            late[1].write(b"third")
            replies = [asyncio.ensure_future(stream.readexactly(5)) for stream in (reader, late[0])]
            done, _ = await asyncio.wait(replies, timeout=SILENCE)
            assert not done
            link.restore()
            assert await asyncio.wait_for(asyncio.gather(*replies), ARRIVAL_TIMEOUT) == [b"other", b"third"]

    asyncio.run(run())


def test_a_refusing_link_closes_old_and_new_connections_until_it_is_restored() -> None:
    async def run() -> None:
        async with linked() as (link, connect):
            reader, writer = await connect()
            await _echoed(reader, writer, b"first")
            link.refuse()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await _echoed(reader, writer, b"second")
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await _echoed(*await connect(), b"third")
            link.restore()
            assert await _echoed(*await connect(), b"fourth") == b"fourth"

    asyncio.run(run())


def test_noise_reaches_the_server() -> None:
    async def run() -> None:
        async with linked() as (link, connect):
            reader, writer = await connect()
            await _echoed(reader, writer, b"first")
            link.garble()
            assert await asyncio.wait_for(reader.readexactly(256), ARRIVAL_TIMEOUT) == bytes(range(256))

    asyncio.run(run())


def test_a_slow_link_takes_as_long_as_its_rate_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def run() -> None:
        async with linked() as (link, connect):
            monkeypatch.setattr("chaos_links.asyncio.sleep", pause)
            link.slow_down(2000.0)
            reader, writer = await connect()
            assert await _echoed(reader, writer, bytes(5000)) == bytes(5000)
            link.restore()
            assert await _echoed(reader, writer, bytes(5000)) == bytes(5000)

    asyncio.run(run())
    assert sum(pauses) == pytest.approx(2 * 5000 / 2000)
    assert max(pauses) <= 0.05


def test_a_proxy_connects_to_where_it_is_asked_to_and_counts() -> None:
    async def run() -> None:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        proxy = ConnectProxy("127.0.0.1")
        await proxy.open()
        assert proxy.connections == 0
        reader, writer = await asyncio.open_connection(*proxy.address.split(":"))
        writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ARRIVAL_TIMEOUT)
        assert await _echoed(reader, writer, b"first") == b"first"
        assert proxy.connections == 1
        writer.close()
        await proxy.close()
        server.close()

    asyncio.run(run())
