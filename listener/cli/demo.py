"""demo: the whole system, on parts that come with it."""

import asyncio
import signal
import sys
from collections.abc import Coroutine

import click

from listener.cli.output import write_line, write_lines
from listener.errors import PgheraldError


@click.command()
@click.option("--once", is_flag=True, help="End by itself; exit 0 only if every expected mail came and no other.")
@click.option(
    "--count", default=36, show_default=True, type=click.IntRange(1, 100_000), help="How many plans to verify."
)
def demo(once: bool, count: int) -> None:
    """Run everything on an embedded PostgreSQL and an embedded mail catcher, and show each mail as it comes.

    \b
    Example:  pgherald demo --once
    """
    try:
        from listener.demo.show import play
    except ImportError as exc:
        raise PgheraldError(f'the demo needs {exc.name}; pip install "pgherald[demo]"') from exc
    try:
        fine = asyncio.run(_until_ended(play(count, once=once, say=write_lines)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        write_line("ended and cleaned up", mark="\n")
        fine = not once
    if not fine:
        sys.exit(1)


async def _until_ended(playing: Coroutine[None, None, bool]) -> bool:
    """Ended by others, or with its terminal, it cleans up as after Ctrl-C: the daemon would stay behind."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await playing
