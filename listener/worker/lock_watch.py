"""Look for sessions that are not a worker's and hold a lock that a daemon waits for, and log them."""

import asyncio

from listener.db.foreign_locks import LockHolder
from listener.errors import PgheraldError
from listener.logs import log
from listener.notify.listener import Listener
from listener.printable import excerpt
from listener.worker.registry import WorkerRegistry

# The server's lock table is read only while a lock is refused, so once a second costs little.
_LOOK_S = 1.0


class LockWatch:
    """Looks once a second while a lock is refused for no known reason, and as long as a stranger holds one."""

    def __init__(self, registry: WorkerRegistry, listener: Listener) -> None:
        self._registry = registry
        self._listener = listener
        self._seen: set[LockHolder] = set()
        self._said: set[LockHolder] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._listener.suspects_stranger or self._said:
                try:
                    found = await self._registry.foreign_locks()
                except PgheraldError:
                    # The worker logs that the database is unavailable.
                    continue
                # An installer holds its lock for as long as it takes.
                self._note({holder for holder in found if holder.lock != "installer"})

    def _note(self, found: set[LockHolder]) -> None:
        """Log the holders that two looks have seen. By the second look a worker that has just started is registered."""
        self._listener.gate.held_by_stranger = any(holder.lock == "gate" for holder in found)
        both, self._seen = found & self._seen, found
        for holder in both - self._said:
            log.warning("lock_held_by_other_session", **_fields(holder), remedy=holder.remedy)
        for holder in self._said - found:
            log.info("foreign_lock_released", **_fields(holder))
        self._said = both | self._said & found


def _fields(holder: LockHolder) -> dict[str, object]:
    return {
        "lock": holder.lock,
        "pid": holder.pid,
        "user": excerpt(holder.user),
        "application": excerpt(holder.application),
        **({"prepared": excerpt(holder.gid)} if holder.gid is not None else {}),
    }
