"""Compare ledger, outbox and mail server, and decide for each event if the promise was kept."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from listener.message_id import make_message_id
from tests.chaos.catcher import REFUSED, Copy
from tests.chaos.writers import UNWILLING, Ledger

# A history as long as this has lost its middle.
_WHOLE_HISTORY = 99
_SETTLED = ("sent", "skipped", "failed")


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the outbox, at the end."""

    id: int
    rule: str
    key: str
    state: str
    reason: str | None
    in_doubt_count: int
    captured_at: datetime
    claimed_at: datetime | None
    scheduled_at: datetime | None
    history: list[dict[str, Any]]
    person: str | None = None

    @property
    def in_doubt(self) -> int:
        """How often it was recorded that nobody knows."""
        return max(self.in_doubt_count, [entry["what"] for entry in self.history].count("in_doubt"))

    @property
    def marks(self) -> list[float]:
        """When it was recorded that it might be on its way, in seconds since the epoch."""
        return [
            datetime.fromisoformat(entry["at"]).timestamp() for entry in self.history if entry["what"] == "transmitting"
        ]


@dataclass
class Findings:
    """`wrong`: what must not be, by the word for it. The rest are figures."""

    wrong: list[tuple[str, str]] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    changes: int = 0
    mails: int = 0
    doubled: int = 0
    doubted: int = 0
    doubts: int = 0

    def number(self, word: str) -> int:
        return sum(found == word for found, _ in self.wrong)


def judge(
    ledger: Ledger,
    events: Sequence[Event],
    copies: Mapping[str, Sequence[Copy]],
    statuses: Mapping[int, str],
    secret: bytes,
    *,
    hold: bool,
) -> Findings:
    """`copies`: what was accepted, by the key of its event. `statuses`: what the rows have come to be."""
    findings = Findings(changes=ledger.became.total(), mails=sum(map(len, copies.values())))
    of_row: dict[int, list[Event]] = {}
    of_event: dict[str, Event] = {}
    for event in sorted(events, key=lambda event: event.id):
        of_row.setdefault(int(event.key), []).append(event)
        of_event[make_message_id(secret, event.rule, event.id, event.captured_at)] = event
        findings.states[event.state] += 1
        findings.doubted += event.in_doubt > 0
        findings.doubts += event.in_doubt

    for key in copies.keys() - of_event.keys():
        findings.wrong.append(("invented", f"an email to {copies[key][0].recipient} of no event"))
    for row in of_row.keys() | +ledger.became:
        findings.wrong += _row(ledger, row, of_row.get(row, []), statuses.get(row))
    for key, event in of_event.items():
        got = sorted(copies.get(key, ()), key=lambda copy: copy.at)
        findings.doubled += max(0, len(got) - 1)
        findings.wrong += _event(event, got, ledger.email(int(event.key), event.person), hold=hold)
        if event.state in ("skipped", "failed") and (odd := _unexplained(event, ledger)):
            findings.wrong.append(("lost", odd))
    return findings


def _row(ledger: Ledger, key: int, events: Sequence[Event], status: str | None) -> list[tuple[str, str]]:
    """Require as many events as changes that capture could see, of every person, and an email of the last change."""
    expected = ledger.became[key]
    # The events of the people of one change have its time.
    captures: dict[datetime, list[Event]] = {}
    for event in events:
        captures.setdefault(event.captured_at, []).append(event)
    if len(captures) < expected - ledger.missed[key] or (status == "VE" and not events):
        return [("lost", f"row {key} reached the value {expected} times and has {len(captures)} events")]
    if len(captures) > expected:
        return [("invented", f"row {key} reached the value {expected} times and has {len(captures)} events")]
    if not events:
        return []
    wrong = [finding for found in captures.values() for finding in _people(ledger, key, found)]
    if status != "VE" or key not in ledger.left:
        return wrong
    for last in list(captures.values())[-1]:
        shown = last.reason == "superseded" and any(
            event.state == "sent"
            and event.person == last.person
            and event.claimed_at is not None
            and event.claimed_at >= last.captured_at
            for event in events
        )
        if last.state == "skipped" and not shown and not ledger.email(key, last.person).startswith(UNWILLING):
            wrong.append(("lost", f"event {last.id}, the last of row {key}, was skipped: {last.reason}"))
    return wrong


def _people(ledger: Ledger, key: int, events: Sequence[Event]) -> list[tuple[str, str]]:
    """Require one event for each person of the row, or one that was never spread."""
    people = sorted(event.person or "" for event in events)
    if people == [""] or people == sorted(ledger.people(key)):
        return []
    word = "invented" if len(set(people)) < len(people) else "lost"
    return [(word, f"a change of row {key} has events for {', '.join(people)}, not for each person once")]


def _event(event: Event, copies: Sequence[Copy], email: str, *, hold: bool) -> list[tuple[str, str]]:
    """Compare the accepted copies of an event with its record."""
    name = f"event {event.id} of row {event.key}, {event.state}"
    wrong: list[tuple[str, str]] = []
    if event.state == "in_doubt":
        if event.scheduled_at is not None or not (hold or event.in_doubt_count > 1):
            wrong.append(("lost", f"{name}: nobody resolves it, and it is not held"))
    elif event.state not in _SETTLED:
        wrong.append(("lost", f"{name}: never settled"))
    elif event.state == "sent" and not copies:
        wrong.append(("lost", f"{name}: no mail was accepted"))
    elif event.state != "sent" and copies and not event.in_doubt:
        wrong.append(("contradicted", f"{name} ({event.reason}), and {len(copies)} messages were accepted"))

    allowed = 2 if event.in_doubt and not hold else 1
    if len(copies) > allowed:
        wrong.append(("doubled", f"{name}: {len(copies)} messages, in doubt {event.in_doubt} times"))
    if len({copy.digest for copy in copies}) > 1:
        wrong.append(("different", f"{name}: the second message differs from the first"))
    if any(copy.recipient != email for copy in copies):
        wrong.append(("misdirected", f"{name}: to {copies[0].recipient}, not to {email}"))
    if copies and email.startswith((REFUSED, UNWILLING)):
        wrong.append(("unwanted", f"{name}: {email} got {len(copies)} mails"))
    if len(event.history) < _WHOLE_HISTORY:
        for number, copy in enumerate(copies, 1):
            if sum(at <= copy.at for at in event.marks) < number:
                wrong.append(("unmarked", f"{name}: mail {number} was accepted before a mark was written for it"))
    return wrong


def _unexplained(event: Event, ledger: Ledger) -> str | None:
    """A reason that the row does not bear out."""
    key, email = int(event.key), ledger.email(int(event.key), event.person)
    match email[0]:
        case first if first == REFUSED:
            good = {("failed", "bad_address")}
        case first if first == UNWILLING:
            good = {("skipped", "no_consent")}
        case _:
            good = {("skipped", "superseded"), ("skipped", "reverted")} if key in ledger.left else set()
    good |= {("skipped", "row_gone")} if key in ledger.gone else set()
    if (event.state, event.reason) in good:
        return None
    return f"event {event.id} of row {key} ({email}) was {event.state}: {event.reason}"
