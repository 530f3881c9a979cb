"""The page's HTML: the overview in sections, and the two plots of the last hour."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from listener import __version__
from listener.db.errors import UNAVAILABLE
from listener.printable import duration, excerpt, utc, utc_clock
from listener.status.overview import MAX_COUNTED, Minute, Overview, in_flight
from listener.status.overview_cache import OverviewCache
from listener.status.problems import problems

# Each is a macro in _sections.html.j2 and the id of an element in page.html.j2.
SECTIONS = ("problems", "tiles", "plots", "rules", "in_doubt", "failed", "latest", "workers")
_FOLDER = Path(__file__).parent / "templates"
# The bottom of the latency plot. Even with the mail server on the same host, a delivery takes about this long.
_SHORTEST_S = 0.001


@dataclass(frozen=True, slots=True)
class Bar:
    """One minute of a plot. `low` and `high` are fractions of the plot's height; `low` is drawn in front of `high`."""

    x: int
    low: float
    high: float
    title: str


@dataclass(frozen=True, slots=True)
class Plot:
    """`top` labels the upper end of the axis. The grid divides the height into `steps` equal parts."""

    bars: list[Bar]
    top: str
    steps: int


class Renderer:
    """Render the page's templates. Every value is escaped, and an undefined name is an error."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(_FOLDER),
            autoescape=select_autoescape(default=True, default_for_string=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            excerpt=excerpt, duration=duration, utc=utc, clock=utc_clock, problems=problems, breakable=breakable
        )
        self._environment.globals["max_counted"] = MAX_COUNTED
        self._environment.globals["in_flight"] = in_flight
        self._environment.globals["version"] = __version__
        self._cached: tuple[Overview, dict[bool, dict[str, str]]] | None = None

    def page(self, name: str, **context: Any) -> str:
        """Return the page `name` as HTML."""
        return self._environment.get_template(f"{name}.html.j2").render(context)

    def sections(self, overview: Overview, may_act: bool) -> dict[str, str]:
        """Return the HTML of each section by name. All readers of one overview share the result."""
        if self._cached is None or self._cached[0] is not overview:
            self._cached = (overview, {})
        cached = self._cached[1]
        if may_act not in cached:
            macros = self._environment.get_template("_sections.html.j2").module
            context = {"o": overview, "may_act": may_act, "rate": rate(overview), "latency": latency(overview)}
            cached[may_act] = {name: str(getattr(macros, name)(**context)) for name in SECTIONS}
        return cached[may_act]


def rate(overview: Overview) -> Plot:
    """Plot the events that were sent or failed in each minute, the failed ones at the bottom."""
    top = max(1, *(minute.sent + minute.failed for minute in overview.minutes))
    bars = [
        Bar(x, m.failed / top, (m.sent + m.failed) / top, f"{clock(m.at)}: {m.sent} sent, {m.failed} failed")
        for x, m in enumerate(overview.minutes)
    ]
    return Plot(bars, f"{top:,}", 2)


def latency(overview: Overview) -> Plot:
    """Plot the median and the 95th percentile of the time from the change to the mail server's reply.

    The scale is logarithmic and starts at 1 ms. An email sent at once and one delayed by greylisting lie five decades
    apart.
    """
    slowest = max((minute.slow for minute in overview.minutes if minute.slow is not None), default=0.0)
    decades = max(2, math.ceil(math.log10(max(slowest, _SHORTEST_S) / _SHORTEST_S)))

    def height(seconds: float | None) -> float:
        if seconds is None or seconds <= _SHORTEST_S:
            return 0.0
        return math.log10(seconds / _SHORTEST_S) / decades

    def title(m: Minute) -> str:
        if m.median is None or m.slow is None:
            return f"{clock(m.at)}: no email sent"
        return f"{clock(m.at)}: median {duration(m.median)}, 95 % within {duration(m.slow)}"

    bars = [Bar(x, height(m.median), height(m.slow), title(m)) for x, m in enumerate(overview.minutes)]
    longest = duration(_SHORTEST_S * 10**decades)
    return Plot(bars, f"{longest} (log scale from {duration(_SHORTEST_S)})", decades)


def outage(cache: OverviewCache) -> str:
    """Return the banner for a database that does not answer: why, and how old the values are."""
    # The banner says this already, and an excerpt has room for one of both.
    cause = excerpt(cache.error.removeprefix(f"{UNAVAILABLE}: ")) if cache.error else "no answer yet"
    if cache.latest is None:
        return f"The database does not answer: {cause}. This daemon has read nothing from it yet. Events wait there."
    return f"The database does not answer: {cause}. The values below are from {utc(cache.latest.now)}."


def breakable(name: str) -> Markup:
    """Return a name that a narrow screen may break after an underscore, and not within a word."""
    return Markup("_<wbr>").join(excerpt(name).split("_"))


def clock(moment: datetime) -> str:
    """Return hours and minutes in UTC."""
    return f"{moment.astimezone(UTC):%H:%M}"
