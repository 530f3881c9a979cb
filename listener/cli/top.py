"""top: the state of the outbox in a terminal, updated every second."""

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
from listener.cli.options import config_option, load_settings
from listener.cli.output import Screen
from listener.db.errors import translate_errors
from listener.db.pools import opened, overview_pool
from listener.db.schema_version import usable_version
from listener.printable import duration, excerpt, utc, utc_clock
from listener.status.overview import MAX_COUNTED, EventState, Minute, Overview, in_flight, read_overview
from listener.status.overview_cache import OverviewCache
from listener.status.problems import problems

# An email goes out within milliseconds. The 3 s of the system's own `top` would show it late.
_REFRESH_INTERVAL_S = 1.0
# The last overview is shown for this long while the database does not answer. An older one says nothing any more.
_MAX_STALE_S = 3600.0
# Two panels side by side need this many columns to show a rule with its key.
_MIN_COLUMNS_SIDE_BY_SIDE = 110
_MAX_RULE_AND_KEY_CHARS = 40
_COLORS = {"sent": "green", "failed": "red", "in_doubt": "yellow"}
_BARS = " ▁▂▃▄▅▆▇█"


@click.command()
@config_option
def top(config_file: Path | None) -> None:
    """Show live what is going on: waiting events, rates, workers, the latest events, failures and doubts.

    Press q to quit.

    \b
    Example:  pgherald top
    """
    loaded = load_settings(config_file)
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise click.ClickException("top needs a terminal; for scripts, use `pgherald status --json`")
    # A log line would be written into the picture.
    logs.configure("console", "critical")
    asyncio.run(_top(loaded.database.url))


async def _top(url: str) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    screen = Screen()
    pool = overview_pool(url)
    overview_cache = OverviewCache(pool)
    async with opened(pool):
        # A wrong URL or a missing schema ends the command with its error, before the picture hides the terminal.
        async with pool.connection() as conn:
            with translate_errors():
                await usable_version(conn)
            await read_overview(conn)
        with _keys(ended), Live(console=screen, screen=True, auto_refresh=False) as live:
            while not ended.is_set():
                # A tenth less than the interval: a timer that fires a little early must still read the database.
                overview = await overview_cache.get(
                    _REFRESH_INTERVAL_S, fresh=0.9 * _REFRESH_INTERVAL_S, stale=_MAX_STALE_S
                )
                if overview is not None:
                    live.update(_picture(overview, screen.width, overview_cache.age), refresh=True)
                try:
                    async with asyncio.timeout(_REFRESH_INTERVAL_S):
                        await ended.wait()
                except TimeoutError:
                    continue
        await overview_cache.close()


@contextmanager
def _keys(ended: asyncio.Event) -> Iterator[None]:
    """Read single keys without echo, and set `ended` on q or on the end of the input. Restore the terminal on exit."""
    loop = asyncio.get_running_loop()
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def on_key() -> None:
        if os.read(stdin, 1) in (b"q", b"Q", b""):
            ended.set()

    tty.setcbreak(stdin)
    loop.add_reader(stdin, on_key)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _picture(o: Overview, width: int, age: float) -> RenderableType:
    """Return the whole picture. `age`: seconds since the overview was read."""
    in_doubt = [_events("In doubt", o.in_doubt_events, o)] if o.in_doubt_events else []
    left = [*in_doubt, _events("Failed", o.failed, o), _events("Latest", o.latest, o)]
    right = [_rules(o), _workers(o)]
    parts: list[RenderableType] = [*_problems(o, age), _head(o), _hour(o.minutes)]
    if width >= _MIN_COLUMNS_SIDE_BY_SIDE:
        sides = Table.grid(expand=True, padding=(0, 1))
        sides.add_column(ratio=1)
        sides.add_column(ratio=1)
        sides.add_row(Group(*left), Group(*right))
        parts.append(sides)
    else:
        parts += [*right, *left]
    return Group(*parts)


def _problems(o: Overview, age: float) -> list[RenderableType]:
    """Return one line a problem, the worst first."""
    lines = [
        Text.assemble((problem.title, "bold red" if problem.is_bad else "bold yellow"), "  ", problem.detail)
        for problem in problems(o)
    ]
    if age > 3 * _REFRESH_INTERVAL_S:
        lines.insert(0, Text(f"the database does not answer; everything below is from {utc(o.now)}", "bold red"))
    return [Group(*lines)] if lines else []


def _head(o: Overview) -> RenderableType:
    sent, skipped, failed = (sum(getattr(m, name) for m in o.minutes) for name in ("sent", "skipped", "failed"))
    waiting = f"{o.available}" if o.is_counted else f"{o.available}+"
    oldest = f", the first is due for {duration(o.behind_s)}" if o.behind_s else ""
    words = [
        Text.assemble((waiting, "bold"), " waiting", oldest),
        Text.assemble((str(o.in_doubt), "bold yellow" if o.in_doubt else "bold"), " in doubt"),
        Text.assemble("last hour: ", (str(sent), "bold"), " sent, ", (str(skipped), "bold"), " skipped, ",
                      (str(failed), "bold red" if failed else "bold"), " failed"),
    ]  # fmt: skip
    bounced, complained = (sum(getattr(rule, word) for rule in o.rules) for word in ("bounced", "complained"))
    if bounced or complained:
        # The table of the rules has no room for two more columns.
        words.append(
            Text.assemble((str(bounced), "bold red"), " bounced, ", (str(complained), "bold red"), " complained")
        )
    return Text("   ").join([Text("pgherald", "bold cyan"), *words, Text("q quits", "dim")])


def _hour(minutes: list[Minute]) -> RenderableType:
    """Return a bar for each minute of the last hour."""
    highest = max(1, *(m.sent for m in minutes))
    bars = "".join(_BARS[-(-m.sent * (len(_BARS) - 1) // highest)] for m in minutes)
    # The last minute is still running.
    last = minutes[-2]
    words = f"\nup to {highest} emails a minute; {last.sent} in the last full minute"
    if last.median is not None:
        words += f", half of them within {duration(last.median)}, 95 % within {duration(last.slow)}"
    return Text.assemble((bars, "cyan"), (words, "dim"))


def _rules(o: Overview) -> RenderableType:
    table = Table("", "waiting", "due", "in doubt", box=None, expand=True, header_style="dim", padding=(0, 1, 0, 0))
    for rule in o.rules:
        name = Text(excerpt(rule.name))
        if rule.suspended_at is not None:
            name.append("  suspended", "red")
        if rule.paused_at is not None:
            name.append("  paused", "yellow")
        waiting = f"{rule.available}+" if rule.available >= MAX_COUNTED else str(rule.available)
        table.add_row(name, waiting, rule.due, str(rule.in_doubt))
    return Panel(table, title="Rules", title_align="left", border_style="dim")


def _workers(o: Overview) -> RenderableType:
    lines = [
        Text.assemble(
            excerpt(w.name),
            ("  leader" if w.leader else "", "dim"),
            ("  no heartbeat", "red") if not w.alive else ("" if w.listening else "  polling", "yellow"),
            f"  {in_flight(w.in_flight, w.in_flight_for)}",
            ("  breaker open" if w.breaker else "", "yellow"),
        )
        for w in o.workers
    ] or [Text("no daemon is running", "yellow")]
    gate = "asleep: a commit sends a NOTIFY" if o.asleep else "awake: polling, no NOTIFY needed"
    return Panel(Group(*lines, Text(gate, "dim")), title="Workers", title_align="left", border_style="dim")


def _events(title: str, events: list[EventState], o: Overview) -> RenderableType:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, max_width=_MAX_RULE_AND_KEY_CHARS)
    table.add_column(no_wrap=True, ratio=1, style="dim")
    for e in events:
        has_arrived = e.state == "sent" and e.reason is None
        detail = f"after {duration(e.seconds)}" if has_arrived else excerpt(e.detail or "")
        person = f" for {excerpt(e.person)}" if e.person is not None else ""
        word = Text(excerpt(e.reason or e.state), _COLORS.get(e.state, "dim"))
        table.add_row(utc_clock(e.at, o.now), word, Text(f"{excerpt(e.rule)} {excerpt(e.key)}{person}"), Text(detail))
    return Panel(
        table if events else Text("none", "dim"),
        title=f"{title} (times in UTC)",
        title_align="left",
        border_style="dim",
    )
