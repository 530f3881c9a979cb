"""What the page shows, as HTML: the overview in sections, each of which is sent again when it has changed."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from listener import __version__
from listener.printable import duration, excerpt
from listener.status.overview import Minute, Overview

SECTIONS = ("tiles", "plots", "rules", "doubtful", "failed", "latest", "workers")
_FOLDER = Path(__file__).parent
_FLOOR = 0.001


@dataclass(frozen=True, slots=True)
class Bar:
    """One minute of a plot, in parts of its height. `low` lies before `high`."""

    x: int
    low: float
    high: float
    title: str


@dataclass(frozen=True, slots=True)
class Plot:
    """`top`: what the height stands for. `steps`: how many parts the lines divide it into."""

    bars: list[Bar]
    top: str
    steps: int


class Renderer:
    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(_FOLDER),
            autoescape=select_autoescape(default=True, default_for_string=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(excerpt=excerpt, duration=duration, utc=utc)
        self._environment.globals["version"] = __version__
        self._made: tuple[Overview, dict[bool, dict[str, str]]] | None = None

    def page(self, name: str, **context: Any) -> str:
        return self._environment.get_template(f"{name}.html.j2").render(context)

    def sections(self, overview: Overview, may_act: bool) -> dict[str, str]:
        """By name; made once for all who look."""
        if self._made is None or self._made[0] is not overview:
            self._made = (overview, {})
        made = self._made[1]
        if may_act not in made:
            macros = self._environment.get_template("_sections.html.j2").module
            context = {"o": overview, "may_act": may_act, "rate": rate(overview), "latency": latency(overview)}
            made[may_act] = {name: str(getattr(macros, name)(**context)) for name in SECTIONS}
        return made[may_act]


def rate(overview: Overview) -> Plot:
    """Mails a minute, and among them, below, what failed."""
    top = max(1, *(minute.sent + minute.failed for minute in overview.minutes))
    bars = [
        Bar(x, m.failed / top, (m.sent + m.failed) / top, f"{clock(m.at)}: {m.sent} sent, {m.failed} failed")
        for x, m in enumerate(overview.minutes)
    ]
    return Plot(bars, f"{top:,}", 2)


def latency(overview: Overview) -> Plot:
    """From the change to the mail server's reply: half of them, and 19 of 20.

    On a logarithmic scale from a millisecond on: between a mail at once and one after greylisting lie five decades.
    """
    slowest = max((minute.slow for minute in overview.minutes if minute.slow is not None), default=0.0)
    decades = max(2, math.ceil(math.log10(max(slowest, _FLOOR) / _FLOOR)))

    def height(seconds: float | None) -> float:
        return math.log10(seconds / _FLOOR) / decades if seconds is not None and seconds > _FLOOR else 0.0

    def words(m: Minute) -> str:
        if m.median is None or m.slow is None:
            return f"{clock(m.at)}: no mail"
        return f"{clock(m.at)}: half within {duration(m.median)}, 95 % within {duration(m.slow)}"

    bars = [Bar(x, height(m.median), height(m.slow), words(m)) for x, m in enumerate(overview.minutes)]
    return Plot(bars, f"{duration(_FLOOR * 10**decades)}, each line a tenth", decades)


def utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%H:%M}"
