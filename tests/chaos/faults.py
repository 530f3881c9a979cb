"""The effect of each fault, and its end. Faults overlap, but never two of them at one target."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from tests.chaos.plan import ALL, Fault
from tests.chaos.stage import Stage

_SHARE = 0.6
_TERMINATE: dict[str, LiteralString] = {
    "one": "pid = (SELECT pid FROM pg_stat_activity WHERE application_name = %(name)s ORDER BY random() LIMIT 1)",
    "all": "application_name = %(name)s",
    # The session that holds the gate's, the leader's or the worker's lock.
    "listen": """application_name = %(name)s AND pid IN (
                     SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid IN (726354, 726355) AND granted)""",
    "writers": "application_name = 'application'",
}


@dataclass(frozen=True, slots=True)
class Done:
    """A fault, and when it really began and was over, in seconds since the epoch."""

    fault: Fault
    begun: float
    over: float


class Faults:
    """`done`: what was inflicted, in the order in which it was over."""

    def __init__(self, stage: Stage, say: Callable[[str], None]) -> None:
        self.done: list[Done] = []
        self._stage = stage
        self._say = say
        self._database = asyncio.Lock()
        self._mail = asyncio.Lock()
        self._daemons = [asyncio.Lock() for _ in stage.daemons]
        self._networks = [asyncio.Lock() for _ in stage.proxies]
        self._deeds: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "kill": self._kill,
            "term": self._term,
            "stop": self._stop,
            "buried": self._buried,
            "backend": self._backend,
            "restart": self._restart,
            "cut": self._cut,
            "delay": self._delay,
            "mail down": self._mail_down,
            "mail": self._mail_trouble,
        }

    async def inflict(self, schedule: Sequence[Fault], seconds: float) -> None:
        """Each at its time, or as soon as the one before at the same target is over. Returns when all are."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.TaskGroup() as group:
            for fault in schedule:
                await asyncio.sleep(begun + fault.at - loop.time())
                group.create_task(self._inflict(fault))
            await asyncio.sleep(begun + seconds - loop.time())

    async def _inflict(self, fault: Fault) -> None:
        async with AsyncExitStack() as stack:
            # In the order of their numbers, so that no two that want several wait for each other.
            for lock in self._locks(fault):
                await stack.enter_async_context(lock)
            self._say(str(fault))
            begun = time.time()
            await self._deeds[fault.kind](fault)
            self.done.append(Done(fault, begun, time.time()))

    def _locks(self, fault: Fault) -> list[asyncio.Lock]:
        match fault.kind:
            case "kill" | "term" | "stop" | "buried":
                return [self._daemons[fault.target]]
            case "cut" | "delay":
                return self._networks if fault.target == ALL else [self._networks[fault.target]]
            case "backend" | "restart":
                return [self._database]
            case _:
                return [self._mail]

    async def _kill(self, fault: Fault) -> None:
        daemon = self._stage.daemons[fault.target]
        await daemon.kill()
        await asyncio.sleep(fault.seconds)
        await daemon.start()

    async def _term(self, fault: Fault) -> None:
        daemon = self._stage.daemons[fault.target]
        await daemon.stop(twice=fault.how == "twice")
        await asyncio.sleep(fault.seconds)
        await daemon.start()

    async def _stop(self, fault: Fault) -> None:
        daemon = self._stage.daemons[fault.target]
        daemon.pause()
        await asyncio.sleep(fault.seconds)
        daemon.go_on()

    async def _buried(self, fault: Fault) -> None:
        """Stopped until the others have declared it dead, and a moment longer."""
        daemon = self._stage.daemons[fault.target]
        daemon.pause()
        with suppress(TimeoutError, psycopg.OperationalError):
            async with asyncio.timeout(fault.seconds), await self._stage.connect() as conn:
                buried = "SELECT count(*) = 0 FROM pgherald.worker WHERE name LIKE %s"
                while await (await conn.execute(buried, (f"%:{daemon.process.pid}",))).fetchone() == (False,):
                    await asyncio.sleep(0.01)
                await asyncio.sleep(int(fault.how.split()[1]) / 1000)
        daemon.go_on()

    async def _backend(self, fault: Fault) -> None:
        async with await self._stage.connect() as conn:
            await conn.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {_TERMINATE[fault.how]}",
                {"name": f"pgherald {fault.target}"},
            )

    async def _restart(self, fault: Fault) -> None:
        cluster = self._stage.cluster
        if fault.how == "kill -9":
            await asyncio.to_thread(cluster.kill)
        else:
            await asyncio.to_thread(cluster.stop, "fast" if fault.how == "fast" else "immediate")
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(cluster.start)

    async def _cut(self, fault: Fault) -> None:
        proxies = self._stage.proxies if fault.target == ALL else [self._stage.proxies[fault.target]]
        for proxy in proxies:
            proxy.cut()
            if fault.how == "half":
                # The daemon learns of it; the server goes on believing in its sessions, and in their locks.
                proxy.forsake()
        await asyncio.sleep(fault.seconds)
        for proxy in proxies:
            if fault.how == "reset":
                proxy.reset()
            proxy.heal()

    async def _delay(self, fault: Fault) -> None:
        proxy = self._stage.proxies[fault.target]
        proxy.delay = int(fault.how.split()[0]) / 1000
        await asyncio.sleep(fault.seconds)
        proxy.delay = 0.0

    async def _mail_down(self, fault: Fault) -> None:
        await self._stage.catcher.refuse_connections()
        await asyncio.sleep(fault.seconds)
        await self._stage.catcher.listen()

    async def _mail_trouble(self, fault: Fault) -> None:
        self._stage.catcher.outage(fault.how, _SHARE)
        await asyncio.sleep(fault.seconds)
        self._stage.catcher.calm()
