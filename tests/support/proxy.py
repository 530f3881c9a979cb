"""A TCP proxy that does what networks do: it delays, cuts, and loses one end of a connection or both."""

import asyncio
import socket
import struct
from typing import Self

_CHUNK = 65536


class Proxy:
    """``async with Proxy(port) as proxy`` forwards connections to `proxy.port` on loopback to the target's `port`.

    `delay`: seconds that everything takes in each direction, but on connections whose port, of those in `ports`, is
    in `spared`. `ports`: of the connections to the target, this end's.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port = 0
        self.delay = 0.0
        self.spared: set[int] = set()
        # Each new connection leads to the next of these.
        self.targets = [(host, port)]
        self._open = asyncio.Event()
        self._open.set()
        self._links: set[_Link] = set()
        self._forsaken: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    @property
    def ports(self) -> set[int]:
        return {link.port for link in self._links if link.port}

    @property
    def is_cut(self) -> bool:
        return not self._open.is_set()

    def cut(self) -> None:
        """Forward nothing, either way, not even that an end has closed. New connections are made, and hear nothing."""
        self._open.clear()

    def heal(self) -> None:
        """Forward the bytes that have waited, and go on. Connections that `forsake` left behind are reset."""
        self._open.set()
        for writer in self._forsaken:
            reset(writer)
        self._forsaken.clear()

    def reset(self) -> None:
        """Reset all connections, at both ends."""
        for link in list(self._links):
            link.end()

    def forsake(self) -> None:
        """Reset all connections at the client's end; the target's is open until `heal`, and hears nothing."""
        for link in list(self._links):
            if link.target is not None:
                self._forsaken.append(link.target)
                link.target = None
            link.end()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        self.heal()
        await asyncio.gather(*(link.task for link in self._links), return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = _Link(task, writer)
        self._links.add(link)
        try:
            await self._open.wait()
            target = self.targets.pop(0)
            self.targets.append(target)
            incoming, link.target = await asyncio.open_connection(*target)
            link.port = link.target.get_extra_info("sockname")[1]
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(reader, link.target, link.port))
                both.create_task(self._forward(incoming, writer, link.port))
        except (OSError, ExceptionGroup):
            # Whatever was wrong at one end: the other learns of it by a reset.
            pass
        except asyncio.CancelledError:
            if not link.ended:
                raise
        finally:
            self._links.discard(link)
            link.close()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, port: int) -> None:
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._arrive(source, line, port))
            both.create_task(self._leave(line, sink))

    async def _arrive(
        self, source: asyncio.StreamReader, line: "asyncio.Queue[tuple[float, bytes]]", port: int
    ) -> None:
        data = b"more"
        while data:
            try:
                data = await source.read(_CHUNK)
            except ConnectionError:
                data = b""
            delay = 0.0 if port in self.spared else self.delay
            line.put_nowait((asyncio.get_running_loop().time() + delay, data))

    async def _leave(self, line: "asyncio.Queue[tuple[float, bytes]]", sink: asyncio.StreamWriter) -> None:
        while True:
            due, data = await line.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            await self._open.wait()
            if not data:
                sink.close()
                return
            sink.write(data)
            await sink.drain()


class _Link:
    """One connection through the proxy."""

    def __init__(self, task: "asyncio.Task[None]", client: asyncio.StreamWriter) -> None:
        self.task = task
        self.client = client
        self.target: asyncio.StreamWriter | None = None
        self.port = 0
        self.ended = False

    def end(self) -> None:
        self.ended = True
        self.task.cancel()

    def close(self) -> None:
        for writer in (self.client, self.target):
            if writer is not None:
                reset(writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the peer gets a RST, unless it has been closed already."""
    sock = writer.get_extra_info("socket")
    if not writer.transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
