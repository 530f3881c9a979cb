"""`Smtpd` in a thread, for tests that are not asynchronous or must not share the server's loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

from tests.support import PATIENCE
from tests.support.smtpd import Action, Received, Smtpd

T = TypeVar("T")


class MailServer:
    """Listens on loopback, at a port that stays the same, from `start` to `close`."""

    def __init__(self, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mail server", daemon=True)
        self._thread.start()
        self._smtpd = self._call(self._make(options))

    @property
    def smtpd(self) -> Smtpd:
        """Itself, to be read from; it lives in the other thread."""
        return self._smtpd

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self._smtpd.port}"

    @property
    def messages(self) -> list[Received]:
        """Return the accepted messages, in order."""
        return list(self._smtpd.messages)

    @property
    def recipients(self) -> list[str]:
        return [message.recipient for message in self._smtpd.messages]

    def wait_for(self, number: int, timeout: float = PATIENCE) -> list[Received]:
        """Wait until so many messages were accepted in all; more is an error too."""
        with suppress(TimeoutError):
            self._call(self._smtpd.until(lambda: len(self._smtpd.messages) >= number, timeout))
        assert len(self._smtpd.messages) == number, f"{number} messages were expected, came: {self.recipients}"
        return self.messages

    def wait_reached(self, phase: str, times: int = 1, timeout: float = PATIENCE) -> None:
        """Wait until so many commands came to this phase."""
        self._call(self._smtpd.until(lambda: self._smtpd.seen[phase] >= times, timeout))

    def script(self, phase: str, action: Action, **limits: Any) -> None:
        """As `Smtpd.script`."""
        self._call(self._do(lambda: self._smtpd.script(phase, action, **limits)))

    def forget_script(self) -> None:
        self._call(self._do(self._smtpd.forget_script))

    def allow_connections(self, number: int | None) -> None:
        """Refuse connections beyond this number at the greeting."""
        self._smtpd.most_connections = number

    def open(self, gate: asyncio.Event) -> None:
        """Let go on what a script made wait for it."""
        self._call(self._do(gate.set))

    def stop(self) -> None:
        """Refuse connections, and cut those there are."""
        self._call(self._smtpd.refuse_connections())

    def start(self) -> None:
        """Again, at the same port."""
        self._call(self._smtpd.listen())

    def close(self) -> None:
        try:
            self._call(self._smtpd.__aexit__())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @staticmethod
    async def _make(options: dict[str, Any]) -> Smtpd:
        return await Smtpd(**options).__aenter__()

    @staticmethod
    async def _do(function: Callable[[], None]) -> None:
        function()
