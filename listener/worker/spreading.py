"""The events of a rule with `each`: from one for all people of a row to one for each of them.

A capture knows only the row, so its event stands for all people of it. The first claim of such an event looks up who they
are. `spread` then makes it the event of the first person, and inserts one for each of the others, in one statement that
names the claim. If the worker has lost the event, or dies before, nothing is written. From then on each event has a way
of its own.
"""

from collections.abc import Sequence

from listener.config.rules import MAX_PERSON_CHARS
from listener.errors import BadData
from listener.logs import log
from listener.outbox.event import Event, Settlement
from listener.outbox.store import Outbox
from listener.worker.decision import NotToSend, ToSend, ToSpread
from listener.worker.unsent import settle_bad_data, settle_repeat, settle_superseded

# One statement inserts their events, and one answer of the lookup has them all.
MAX_PEOPLE = 1000


def find_people(event: Event, people: Sequence[str]) -> list[str] | NotToSend:
    """Return the people of an event's row, or why none of them can be told."""
    if not people:
        return NotToSend(event, "row_gone")
    if len(people) > MAX_PEOPLE:
        detail = f"the lookup returns more than {MAX_PEOPLE} people for this key; make a rule of fewer people a row"
        return NotToSend(event, "too_many", detail, failed=True)
    if "" in people:
        detail = "the lookup returns a row without a person for this key; leave it out, or give it an id"
    elif max(map(len, people)) > MAX_PERSON_CHARS:
        detail = f"the lookup returns a person of more than {MAX_PERSON_CHARS} characters; return an id"
    elif len(set(people)) < len(people):
        detail = "the lookup returns a person more than once for this key; return one row a person"
    else:
        # The message of a sending in doubt is from before the rule had `each`. A second sending repeats it, to one person.
        return list(people[:1] if event.has_stored_message else people)
    return NotToSend(event, "ambiguous", detail, failed=True)


async def spread(
    outbox: Outbox, decided: Sequence[ToSend | ToSpread | Settlement], again_after: float | None
) -> list[ToSend | Settlement]:
    """Spread the events of one rule that are for several people. Return what is decided about each event.

    `again_after` is the rule's. It holds for the first person of each event, as for all others.

    Raises:
        DatabaseUnavailable, SchemaError: The events may be spread all the same. They can be released in any case.
    """
    ready: list[ToSend | Settlement] = [each for each in decided if not isinstance(each, ToSpread)]
    to_spread = [each for each in decided if isinstance(each, ToSpread)]
    if not to_spread:
        return ready
    return ready + await _skip_repeats(outbox, await _spread(outbox, to_spread), again_after)


async def _spread(outbox: Outbox, to_spread: Sequence[ToSpread]) -> list[ToSend | Settlement]:
    try:
        written = await outbox.spread([(each.event, each.people) for each in to_spread])
    except BadData as exc:
        if len(to_spread) == 1:
            return [settle_bad_data(to_spread[0].event, exc)]
        # The database refuses one of them. Halving finds it.
        half = len(to_spread) // 2
        return await _spread(outbox, to_spread[:half]) + await _spread(outbox, to_spread[half:])
    return [_first(each, written) for each in to_spread]


def _first(each: ToSpread, written: dict[tuple[int, int], str | None]) -> ToSend | Settlement:
    """Return what is decided about the event of the first person."""
    event = each.first.event
    if event.fence not in written:
        # Another worker has claimed it, and this settlement changes nothing.
        return Settlement(event, "available")
    log.info("event_spread", event_id=event.id, rule=event.rule, key=event.key, people=len(each.people))
    return settle_superseded(event, written[event.fence]) or each.first


async def _skip_repeats(
    outbox: Outbox, firsts: Sequence[ToSend | Settlement], again_after: float | None
) -> list[ToSend | Settlement]:
    """Settle the events whose person had an email within `again_after`, or may have one any moment.

    The question follows the commit of the spread, as it follows that of the claim for other events. Of two workers that
    spread two events of a row at one moment, at least one then sees the other's person.
    """
    spread_events = [each.event for each in firsts if isinstance(each, ToSend)]
    asked = await outbox.with_repeats(spread_events, again_after)
    repeats = {event.fence: settle_repeat(event, event.repeat) for event in asked if event.repeat is not None}
    return [repeats.get(each.event.fence, each) for each in firsts]
