"""Bugs added on purpose, to check that a run finds them: ``python -m tests.chaos.mutants NAME run``.

They change the daemon's code in its process, and are no part of it.
"""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace

from listener.cli import main as cli
from listener.outbox import batch_writer
from listener.outbox import store as outbox
from listener.outbox.event import OutgoingMessage, Settlement
from listener.worker import loop as worker
from listener.worker import sender as senders
from listener.worker.runtime import Runtime
from tests.chaos.stage import Options


def settle_without_fence() -> None:
    """A worker that has lost an event settles it all the same."""
    fence = " AND event.claim = outcome.claim"
    for name in ("settle", "record"):
        assert outbox.QUERIES[name].count(fence) == 1, "the fence is elsewhere by now"
        outbox.QUERIES[name] = outbox.QUERIES[name].replace(fence, "")


def mark_after_dot() -> None:
    """The mark is written when the message has gone already."""
    send, mark = senders.Senders._send, batch_writer.BatchWriter.mark

    def promised(self: batch_writer.BatchWriter, message: OutgoingMessage) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_result(True)
        return future

    async def send_and_mark(
        self: senders.Senders,
        runtime: Runtime,
        message: OutgoingMessage,
        previous: asyncio.Future[bool] | None,
        looked_up_at: float,
    ) -> Settlement:
        settlement = await send(self, runtime, message, previous, looked_up_at)
        await mark(self._batch_writer, message)
        return settlement

    batch_writer.BatchWriter.mark = promised  # type: ignore[method-assign]
    senders.Senders._send = send_and_mark  # type: ignore[method-assign]


def wake_cleared_after_drain() -> None:
    """A ring during the last drain is forgotten."""
    sleep = worker.Worker._sleep

    async def clear_and_sleep(self: worker.Worker) -> None:
        self._listener.doorbell.clear()
        await sleep(self)

    worker.Worker._sleep = clear_and_sleep  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant for mutant in (settle_without_fence, mark_after_dot, wake_cleared_after_drain)
}


def provoking(options: Options, mutant: str) -> Options:
    """Return the options under which this mutant is found soon, and not once an hour."""
    match mutant:
        case "settle_without_fence":
            # Stopped for longer than its lease with its hands full, and back while others work on what it had. With
            # few connections most of that was only claimed: nobody is in doubt about it.
            return replace(options, kinds=("buried",), gap=(1.5, 2.5), dot=(0.05, 0.1), connections=2, pairs=0)
        case "mark_after_dot":
            return replace(options, kinds=("kill",), gap=(0.5, 1.5), dot=(0.0, 0.1), pairs=0)
        case "wake_cleared_after_drain":
            # Alone, since what one daemon does not hear another does.
            return replace(options, kinds=("backend",), daemons=1, pairs=60)
    raise ValueError(mutant)


if __name__ == "__main__":
    MUTANTS[sys.argv.pop(1)]()
    cli.main()
