"""The database's half of a daemon: simulated.py URL. The daemon's code is that which PYTHONPATH names.

It claims, looks up, marks and settles by the daemon's own queries; a mail is 800 bytes that nobody makes, taken at once.
Says `ready`, begins with a line on stdin, says `done` when nothing is available, ends with one more line.
"""

import asyncio
import sys

from listener.address import parse_address
from listener.config.rules import DEFAULT_NAME, default_rules
from listener.db.pool import Pool
from listener.db.pools import lookup_pool, opened, outbox_pool
from listener.outbox.event import Event, OutgoingMessage, Settlement
from listener.outbox.registration import Registration
from listener.outbox.store import Outbox
from listener.outbox.turns import Turn
from listener.worker.lookup import Lookup
from listener.worker.registry import WorkerRegistry

# As many at a time as a daemon claims in a drain, and as it marks over its 8 connections.
_CLAIM, _MARK = 200, 8
_MESSAGE = bytes(800)
_RECIPIENT = parse_address("u@bench.test")


async def main(url: str) -> None:
    pool, lookups = outbox_pool(url), lookup_pool(url)
    registration = Registration(lease_s=60)
    registry = WorkerRegistry(pool, registration, list)
    outbox = Outbox(pool, registration, lambda rule: False)
    async with opened(pool, lookups):
        await registry.register()
        print("ready", flush=True)
        sys.stdin.readline()
        # One batch ahead, as a daemon claims while it delivers.
        claimed: asyncio.Queue[list[Event]] = asyncio.Queue(maxsize=1)
        async with asyncio.TaskGroup() as group:
            group.create_task(_claim(outbox, lookups, claimed))
            group.create_task(_deliver(outbox, claimed))
        await registry.unregister()
    print("done", flush=True)
    sys.stdin.readline()


async def _claim(outbox: Outbox, lookups: Pool, claimed: asyncio.Queue[list[Event]]) -> None:
    lookup = Lookup(DEFAULT_NAME, default_rules()[DEFAULT_NAME])
    # Nothing may be had because the rest is being claimed by others.
    while (events := await outbox.claim(_CLAIM, [Turn(DEFAULT_NAME)])) or (await outbox.waiting([DEFAULT_NAME]))[0]:
        if events:
            await lookup.rows(lookups, [event.key for event in events])
            await claimed.put(events)
    await claimed.put([])


async def _deliver(outbox: Outbox, claimed: asyncio.Queue[list[Event]]) -> None:
    sent: list[Settlement] = []
    while events := await claimed.get():
        for at in range(0, len(events), _MARK):
            some = events[at : at + _MARK]
            marks = [OutgoingMessage(event, _RECIPIENT, _MESSAGE, "id") for event in some]
            await outbox.record(sent, marks)
            sent = [
                Settlement(event, "sent", history_entry="sent", detail="250 2.0.0 Ok", uses_attempt=True)
                for event in some
            ]
    await outbox.record(sent, [])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
