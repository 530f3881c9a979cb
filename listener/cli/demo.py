"""demo: run the whole system on an embedded database and mail server."""

import asyncio
import signal
import sys
from collections.abc import Coroutine

import click

from listener.cli.output import write_line, write_lines
from listener.errors import PgheraldError


@click.command()
@click.option("--once", is_flag=True, help="End by itself. Exit status 0 if exactly the expected emails arrive.")
@click.option(
    "--count", default=36, show_default=True, type=click.IntRange(1, 100_000), help="Number of plans to verify."
)
def demo(once: bool, count: int) -> None:
    """Run everything on an embedded PostgreSQL and an embedded mail catcher, and show each email as it arrives.

    \b
    Example:  pgherald demo --once
    """
    try:
        from listener.demo.show import play
    except ImportError as exc:
        raise PgheraldError(f'the demo needs {exc.name}; pip install "pgherald[demo]"') from exc
    try:
        passed = asyncio.run(_run_until_ended(play(count, once=once, say=write_lines)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        write_line("ended and cleaned up", mark="\n")
        passed = not once
    if not passed:
        sys.exit(1)


async def _run_until_ended(playing: Coroutine[None, None, bool]) -> bool:
    """Run the demo. SIGTERM and the loss of the terminal cancel it as Ctrl-C does, so that no server is left running."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await playing
