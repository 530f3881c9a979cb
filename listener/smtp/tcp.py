"""TCP connections to a host that may have several addresses."""

import asyncio
import os
import socket
from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import Any

# RFC 8305 5: the next address is tried after this time, while the attempts before it go on.
_ATTEMPT_DELAY_S = 0.25


class AddressOrder:
    """The order in which the addresses of one host are tried: the one that worked last comes first.

    Addresses that accept a connection and then fail come last, the one that failed just now at the end.
    """

    def __init__(self) -> None:
        self._worked: str | None = None
        self._failed: list[str] = []

    def worked(self, address: str) -> None:
        """Record that a session with this address was opened."""
        self._worked, self._failed = address, []

    def failed(self, address: str) -> None:
        """Record that this address accepted a connection, and no session came of it."""
        self._worked, self._failed = None, [*(each for each in self._failed if each != address), address]

    def sort(self, found: list[Any]) -> list[Any]:
        """Return the results of `getaddrinfo` in the order of the attempts.

        The families alternate (RFC 8305 4), so that the second attempt is made without the family that may be dead.
        """
        first = [each for each in found if each[0] == found[0][0]] if found else []
        others = [each for each in found if each not in first]
        mixed = [each for each in chain.from_iterable(zip_longest(first, others)) if each is not None]
        return sorted(mixed, key=self._rank)

    def _rank(self, result: Any) -> int:
        address = result[4][0]
        if address in self._failed:
            return 2 + self._failed.index(address)
        return 0 if address == self._worked else 1


async def connect(host: str, port: int, timeout: float, order: AddressOrder | None = None) -> socket.socket:
    """Try the host's addresses, each 0.25 s after the one before, and return the first socket that is connected.

    An address that does not answer delays the others no longer than that (RFC 8305, "happy eyeballs"). `timeout` is
    in seconds and covers all of them.

    Raises:
        OSError: No address could be reached. The text names the last address that failed.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(f"{host}: cannot resolve the name: {error.strerror}") from error
    except TimeoutError as error:
        raise OSError(f"{host}: cannot resolve the name: no answer in time") from error
    waiting = (order or AddressOrder()).sort(found)
    delay = min(_ATTEMPT_DELAY_S, timeout / (2 * len(waiting) or 1))
    failure = OSError(f"{host}: the name has no address")
    attempts: dict[asyncio.Task[socket.socket], str] = {}
    try:
        async with asyncio.timeout(timeout):
            while waiting or attempts:
                if waiting:
                    result = waiting.pop(0)
                    attempts[asyncio.create_task(_connect(result))] = str(result[4][0])
                done, _ = await asyncio.wait(
                    attempts, timeout=delay if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    address = attempts.pop(attempt)
                    try:
                        return attempt.result()
                    except OSError as error:
                        failure = _unreachable(address, port, error)
    except TimeoutError as error:
        raise _unreachable([host, *attempts.values()][-1], port, error) from error
    finally:
        await _give_up(attempts)
    raise failure


async def _connect(result: Any) -> socket.socket:
    family, kind, protocol, _, address = result
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _give_up(attempts: Iterable[asyncio.Task[socket.socket]]) -> None:
    for attempt in attempts:
        attempt.cancel()
    for outcome in await asyncio.gather(*attempts, return_exceptions=True):
        # An attempt may have succeeded at the same moment as the one that was chosen.
        if isinstance(outcome, socket.socket):
            outcome.close()


def _unreachable(address: str, port: int, error: OSError) -> OSError:
    # asyncio's own text is "[Errno 111] Connect call failed ('127.0.0.1', 25)".
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    reason = os.strerror(error.errno).lower() if error.errno else "no answer in time"
    return OSError(f"{place}: {reason}")
