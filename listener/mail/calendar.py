"""The calendar part of a message: one event (RFC 5545), made of the lines of ``event.ics.j2``.

The lines are properties, such as ``SUMMARY:{{ place }}``. The template marks each value that it prints. So only the
operator's own text decides where a line ends and which property it is, whatever a row contains. ``icalendar`` escapes
and folds the result. It is imported only if a template has such a file, because that takes 70 ms.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from hashlib import blake2s, sha256
from typing import Any
from urllib.parse import quote

from listener.address import Mailbox
from listener.mail.times import from_iso
from listener.mail.values import as_printed
from listener.printable import HIDDEN

VALUE = "\x02\x03"
"""The mark of a value, around nothing."""

_TEXTS = ("SUMMARY", "DESCRIPTION", "LOCATION", "STATUS", "CLASS", "TRANSP")
_TIMES = ("DTSTART", "DTEND", "DURATION")
_URIS = {"URL": ("https:", "http:"), "ORGANIZER": ("mailto:",)}
_OURS = ("BEGIN", "END", "UID", "SEQUENCE", "DTSTAMP", "METHOD", "PRODID", "VERSION")
# A line may contain line ends inside a value.
_LINE = re.compile("(?:[^\n\x02]+|\x02[^\x03]*\x03)+")
_PROPERTY = re.compile('([A-Za-z-]+)((?:;[A-Za-z-]+=(?:"[^"\x02\x03]*"|[^";:,\x02\x03]*))*):(.*)', re.DOTALL)
_PARAMETER = re.compile(';([A-Za-z-]+)=(?:"([^"]*)"|([^;]*))')
_VALUE = re.compile("\x02([^\x03]*)\x03")
_SPECIAL = re.compile(r"[\\;,]")
_ESCAPED = re.compile(r"\\([\\;,nN])")
# The characters of a URI (RFC 3986 2). Any other is percent-encoded, so that it ends neither a line nor the URI.
_URI_CHARS = "%:/?#[]@!$&'()*+,;=~"
# A SEQUENCE has 31 bits (RFC 5545 3.3.8). Counted from here, seconds fit until 2088.
_SEQUENCE_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_MAX_SEQUENCE = 2**31 - 1
_UID_BYTES = 16


class InvalidEntry(Exception):
    """A row's values make no valid event. The text quotes nothing of the row."""


@dataclass(frozen=True, slots=True)
class Publication:
    """The facts of an entry that the template does not give.

    `uid` names the row's entry: a calendar replaces the entry that it has of this name. `changed_at` is the time of the
    row's change. `organizer` is the sender of the email, for a template without ORGANIZER (RFC 5546 3.2.1).
    """

    uid: str
    changed_at: datetime
    organizer: Mailbox


def uid_key(secret: bytes) -> bytes:
    """Return the key of `make_uid`, derived from the database's secret."""
    return sha256(b"pgherald calendar " + secret).digest()


def make_uid(uid_key: bytes, rule: str, key: str, domain: str) -> str:
    """Return the UID of a row's entry (RFC 7986 5.3): always the same, and it reveals neither rule nor key."""
    name = f"{rule}\0{key}".encode(errors="backslashreplace")
    return f"{blake2s(name, key=uid_key, digest_size=_UID_BYTES).hexdigest()}@{domain}"


def marked(value: Any) -> str:
    """Return a value as a calendar part prints it, between marks: what the template's environment calls for each value.

    An interval prints as DURATION needs it. Invisible characters except line ends and tabs are dropped.
    """
    value = as_printed(value)
    if isinstance(value, timedelta):
        seconds = int(value.total_seconds())
        return f"\x02{'-' if seconds < 0 else ''}PT{abs(seconds)}S\x03"
    text = "\n".join(str(value).splitlines())
    return f"\x02{HIDDEN.sub('', text)}\x03"


def property_fault(line: str) -> str | None:
    """Return what is wrong with a line of a template, and what to do. None if it is a property that may stand there."""
    found = _PROPERTY.fullmatch(line)
    if found is None:
        return "the line is not a property; write NAME:value, with {{ … }} only after the colon"
    name = found[1].upper()
    if name in _OURS:
        return f"pgherald writes {name} itself; remove the line"
    if name not in (*_TEXTS, *_TIMES, *_URIS):
        return f"{name} is not supported; write only {', '.join((*_TEXTS, *_TIMES, *_URIS))}"
    if name in _TIMES and found[2]:
        return f"{name} takes no parameters, because its value decides them; write {name}:{{{{ … }}}}"
    return None


def entry(lines: str, publication: Publication, zone: tzinfo | None) -> str | None:
    """Return the calendar with the event of these lines, in lines that end in CRLF. None if it has no start.

    `zone` is the one of the reader, for times without zone. Without it such a time is the same on every clock
    ("floating", RFC 5545 3.3.5).

    Raises:
        InvalidEntry: The values make no valid event.
    """
    properties = {name: (parameters, value) for name, parameters, value in _properties(lines)}
    times = _times({name: value for name, (_, value) in properties.items() if name in _TIMES}, zone)
    if "DTSTART" not in times:
        return None

    from icalendar import Calendar, Event, vCalAddress, vUri
    from icalendar.prop import vInline

    event = Event()
    event.add("uid", publication.uid)
    event.add("dtstamp", publication.changed_at.astimezone(UTC).replace(microsecond=0))
    event.add("sequence", _sequence(publication.changed_at))
    for name, moment in times.items():
        event.add(name, moment)
    for name, (parameters, value) in properties.items():
        if name in _TEXTS and value:
            event.add(name, vInline(_escaped(value), params=parameters))
        elif name in _URIS and value.lower().startswith(_URIS[name]):
            kind = vUri if name == "URL" else vCalAddress
            event.add(name, kind(quote(value, safe=_URI_CHARS), params=parameters))
    if "ORGANIZER" not in event:
        organizer = publication.organizer
        named = {"CN": organizer.name} if organizer.name else {}
        event.add("organizer", vCalAddress(f"mailto:{quote(str(organizer.address), safe='@')}", params=named))
    calendar = Calendar()
    calendar.add("prodid", "-//pgherald//pgherald//EN")
    calendar.add("version", "2.0")
    calendar.add("method", "PUBLISH")
    calendar.add_component(event)
    return str(calendar.to_ical(), "utf-8")


def split(lines: str) -> list[str]:
    """Return the lines of a rendered template that are not empty. A line end inside a value ends no line."""
    return [line for line in map(str.strip, _LINE.findall(lines)) if line]


def _properties(lines: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Yield the name, the parameters and the value of each property."""
    seen = set[str]()
    for line in split(lines):
        found = _PROPERTY.fullmatch(line)
        if found is None:
            raise InvalidEntry("the template prints a line that is not a property")
        name = found[1].upper()
        if name in seen:
            raise InvalidEntry(f"the template prints {name} twice")
        seen.add(name)
        parameters = {name.upper(): quoted or plain for name, quoted, plain in _PARAMETER.findall(found[2])}
        yield name, parameters, _value(found[3])


def _value(text: str) -> str:
    """Return a value of a property as text. The template's own words are escaped in it, and those of a row are not."""
    pieces = _VALUE.split(text)
    pieces[::2] = [_ESCAPED.sub(lambda found: "\n" if found[1] in "nN" else found[1], piece) for piece in pieces[::2]]
    return "".join(pieces).strip()


def _escaped(text: str) -> str:
    """Return a text as iCalendar writes it (RFC 5545 3.3.11). `vText` would read a backslash and an N as a line end."""
    return _SPECIAL.sub(r"\\\g<0>", text).replace("\n", r"\n")


def _times(values: dict[str, str], zone: tzinfo | None) -> dict[str, date | timedelta]:
    """Return the times of an event that has a start, checked (RFC 5545 3.6.1)."""
    if not values.get("DTSTART"):
        return {}
    times: dict[str, date | timedelta] = {"DTSTART": (start := _moment("DTSTART", values["DTSTART"], zone))}
    if values.get("DTEND"):
        times["DTEND"] = end = _moment("DTEND", values["DTEND"], zone)
        if _kind(start) != _kind(end):
            raise InvalidEntry("DTSTART and DTEND must both be days, both times with a zone, or both times without one")
        if end <= start:
            raise InvalidEntry("DTEND is not after DTSTART")
    if values.get("DURATION"):
        times["DURATION"] = duration = _duration(values["DURATION"])
        if "DTEND" in times:
            raise InvalidEntry("there are both DTEND and DURATION")
        if _kind(start)[0] is date and duration % timedelta(days=1):
            raise InvalidEntry("DURATION must be whole days, because DTSTART is a day")
    return times


def _moment(name: str, text: str, zone: tzinfo | None) -> date:
    """Return the day, or the time without microseconds, in UTC or without zone."""
    moment = from_iso(text)
    if not isinstance(moment, date):
        raise InvalidEntry(f"{name} is neither a day nor a time")
    if not isinstance(moment, datetime):
        return moment
    moment = moment.replace(microsecond=0)
    if moment.tzinfo is None:
        if zone is None:
            return moment
        moment = moment.replace(tzinfo=zone)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidEntry(f"{name} is outside the years 1 to 9999 in UTC") from None


def _kind(moment: date) -> tuple[type[date], bool]:
    """Return what two times must have in common."""
    return type(moment), isinstance(moment, datetime) and moment.tzinfo is not None


def _duration(text: str) -> timedelta:
    from icalendar import vDuration

    try:
        duration: timedelta = vDuration.from_ical(text)  # type: ignore[no-untyped-call]
    except (ValueError, OverflowError):
        raise InvalidEntry("DURATION is not a duration such as PT90M") from None
    if duration <= timedelta():
        raise InvalidEntry("DURATION is not longer than zero")
    return duration


def _sequence(changed_at: datetime) -> int:
    """Return a number that rises with each change of a row, and does not begin again after a restore (RFC 5545 3.8.7.4)."""
    return max(0, min(int((changed_at - _SEQUENCE_EPOCH).total_seconds()), _MAX_SEQUENCE))
