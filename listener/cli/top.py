"""watch: the overview in a terminal, as it changes."""

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from listener import logs
from listener.cli.options import configured, settings
from listener.cli.output import Screen
from listener.db.errors import translate_errors
from listener.db.pools import opened, overview_pool
from listener.db.schema_version import usable_version
from listener.printable import duration, excerpt
from listener.status.overview import EventState, Minute, Overview, OverviewCache, read_overview

_EVERY = 1.0
_STALE = 3600.0
_WIDE = 110
_COLOURS = {"sent": "green", "failed": "red", "in_doubt": "yellow"}
_LEVELS = " ▁▂▃▄▅▆▇█"


@click.command()
@configured
def top(config_file: Path | None) -> None:
    """Show what goes on, live: what waits, rates, workers, the latest events, failures and doubts. q ends it.

    \b
    Example:  pgherald top
    """
    loaded = settings(config_file)
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise click.ClickException("top needs a terminal; for scripts there is `pgherald status --json`")
    # Nothing may write over the picture.
    logs.configure("console", "critical")
    asyncio.run(_top(loaded.database.url))


async def _top(url: str) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    screen = Screen()
    pool = overview_pool(url)
    overview_cache = OverviewCache(pool)
    async with opened(pool):
        # What is wrong from the start is said as by every command, and no picture comes.
        async with pool.connection() as conn:
            with translate_errors():
                await usable_version(conn)
            await read_overview(conn)
        with _keys(over), Live(console=screen, screen=True, auto_refresh=False) as live:
            while not over.is_set():
                seen = await overview_cache.get(_EVERY, fresh=0.9 * _EVERY, stale=_STALE)
                if seen is not None:
                    live.update(_picture(seen, screen.width, overview_cache.age), refresh=True)
                try:
                    async with asyncio.timeout(_EVERY):
                        await over.wait()
                except TimeoutError:
                    continue
        await overview_cache.close()


@contextmanager
def _keys(over: asyncio.Event) -> Iterator[None]:
    """Each key as it is pressed, and not shown."""
    loop = asyncio.get_running_loop()
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def pressed() -> None:
        if os.read(stdin, 1) in (b"q", b"Q", b""):
            over.set()

    tty.setcbreak(stdin)
    loop.add_reader(stdin, pressed)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _picture(o: Overview, width: int, age: float) -> RenderableType:
    left = [_events("Latest", o.latest), *([_events("In doubt", o.in_doubt_events)] if o.in_doubt_events else [])]
    right = [_rules(o), _workers(o), _events("Failed", o.failed)]
    parts: list[RenderableType] = [_head(o, age), _hour(o.minutes)]
    if width >= _WIDE:
        sides = Table.grid(expand=True, padding=(0, 1))
        sides.add_column(ratio=1)
        sides.add_column(ratio=1)
        sides.add_row(Group(*left), Group(*right))
        parts.append(sides)
    else:
        parts += [*right[:2], *left, right[2]]
    return Group(*parts)


def _head(o: Overview, age: float) -> RenderableType:
    sent, skipped, failed = (sum(getattr(m, name) for m in o.minutes) for name in ("sent", "skipped", "failed"))
    waiting = f"{o.available}+" if o.available >= 10_000 else str(o.available)
    words = [
        Text.assemble((waiting, "bold"), " waiting", f", the oldest for {duration(o.oldest)}" if o.oldest is not None else ""),
        Text.assemble((str(o.in_doubt), "bold yellow" if o.in_doubt else "bold"), " in doubt"),
        Text.assemble("last hour: ", (str(sent), "bold"), " sent, ", (str(skipped), "bold"), " skipped, ",
                      (str(failed), "bold red" if failed else "bold"), " failed"),
    ]  # fmt: skip
    if age > 3 * _EVERY:
        words.append(Text(f"the database does not answer; this is {age:.0f} s old", "yellow"))
    return Text("   ").join([Text("pgherald", "bold cyan"), *words, Text("q ends", "dim")])


def _hour(minutes: list[Minute]) -> RenderableType:
    top = max(1, *(m.sent for m in minutes))
    line = "".join(_LEVELS[-(-m.sent * (len(_LEVELS) - 1) // top)] for m in minutes)
    last = minutes[-2]
    words = f"\nup to {top} mails a minute; the last whole one: {last.sent}"
    if last.median is not None:
        words += f", half within {duration(last.median)}, 95 % within {duration(last.slow)}"
    return Text.assemble((line, "cyan"), (words, "dim"))


def _rules(o: Overview) -> RenderableType:
    table = Table("", "waiting", "oldest", "in doubt", box=None, expand=True, header_style="dim", padding=(0, 1, 0, 0))
    for rule in o.rules:
        name = Text(excerpt(rule.name))
        if rule.paused_at is not None:
            name.append("  paused", "yellow")
        table.add_row(name, str(rule.available), duration(rule.oldest), str(rule.in_doubt))
    return Panel(table, title="Rules", title_align="left", border_style="dim")


def _workers(o: Overview) -> RenderableType:
    lines = [
        Text.assemble(
            excerpt(w.name),
            ("  holds the gate" if w.leader else "", "dim"),
            ("  not seen", "red") if not w.alive else ("" if w.listening else "  polling", "yellow"),
            f"  {w.in_flight} in hand",
            (f"  breaker open: {excerpt(w.breaker)}" if w.breaker else "", "yellow"),
        )
        for w in o.workers
    ] or [Text("no daemon is at work", "yellow")]
    gate = "asleep: the application rings" if o.asleep else "awake: the application rings nobody"
    lines += [
        Text(f"the {h.lock} lock is held by {excerpt(h.name)}: {excerpt(h.remedy)}", "red")
        for h in o.foreign_lock_holders
    ]
    return Panel(Group(*lines, Text(gate, "dim")), title="Workers", title_align="left", border_style="dim")


def _events(title: str, events: list[EventState]) -> RenderableType:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, max_width=40)
    table.add_column(no_wrap=True, ratio=1, style="dim")
    for e in events:
        detail = f"after {duration(e.seconds)}" if e.state == "sent" else excerpt(e.detail or "")
        word = Text(excerpt(e.reason or e.state), _COLOURS.get(e.state, "dim"))
        table.add_row(f"{e.at.astimezone():%H:%M:%S}", word, Text(f"{excerpt(e.rule)} {excerpt(e.key)}"), Text(detail))
    return Panel(table if events else Text("none", "dim"), title=title, title_align="left", border_style="dim")
