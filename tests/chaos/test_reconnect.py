"""The LISTEN connection is lost while it is idle, over and over: each time there is another in its place."""

import asyncio

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from listener.notify.listener import Listener
from tests.support import wait_until_async
from tests.support.client import LOOPS
from tests.support.database import Database
from tests.support.proxy import Proxy


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["reset", "closed"])
def test_another_connection_takes_the_place_of_the_lost_one(database: Database, loop: str, how: str) -> None:
    async def ring(payload: str) -> None:
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as conn:
            await conn.execute("SELECT pg_notify('pgherald', %s)", (payload,))

    async def story() -> None:
        target = conninfo_to_dict(database.url)
        async with Proxy(int(str(target["port"])), str(target["host"])) as proxy:
            listener = Listener(make_conninfo(database.url, host="127.0.0.1", port=proxy.port), ring)
            keeping = asyncio.create_task(listener.keep())
            for times in range(5):
                await wait_until_async(lambda: keeping.done() or listener.listening)
                assert not keeping.done(), keeping.exception()
                assert listener.reconnects == times
                if how == "reset":
                    proxy.reset()
                else:
                    database.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                await wait_until_async(lambda: not listener.listening)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(story())
