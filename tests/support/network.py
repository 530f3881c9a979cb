"""The network between a daemon and its database, for tests that are not asynchronous: `Proxy`, in a thread."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tests.support.proxy import Proxy

T = TypeVar("T")


class Network:
    """Carries what goes to `url`, a database's, from `__enter__` on; `self.url` is the same database, through here."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        assert self._parts.port is not None, "the database's URL names no port"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._proxy = Proxy(self._parts.port, self._parts.hostname or "127.0.0.1")

    @property
    def url(self) -> str:
        login = self._parts.netloc.rpartition("@")[0]
        return self._parts._replace(netloc=f"{login}@127.0.0.1:{self._proxy.port}").geturl()

    def cut(self) -> None:
        """Nothing passes, and nobody is told. New connections are made, and hear nothing."""
        self._do(self._proxy.cut)

    def heal(self) -> None:
        self._do(self._proxy.heal)

    def delay(self, seconds: float) -> None:
        """How long everything takes from now on, in each direction."""
        self._proxy.delay = seconds

    def spread(self, url: str) -> None:
        """Lead every second new connection to another server, as round-robin DNS or a pooler does."""
        parts = urlsplit(url)
        assert parts.port is not None, "the database's URL names no port"
        self._proxy.targets.append((parts.hostname or "127.0.0.1", parts.port))

    def reset(self) -> None:
        """End all connections, and lose what is on its way."""
        self._do(self._proxy.reset)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._proxy.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call(self._proxy.__aexit__())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _do(self, function: Callable[[], None]) -> None:
        async def now() -> None:
            function()

        self._call(now())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
