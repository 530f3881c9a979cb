"""The settlements of events for which no message is sent, or no second one."""

import traceback

from listener.address import Address, mask
from listener.errors import BadData
from listener.logs import log
from listener.outbox.event import Event, Repeat, Settlement, State
from listener.printable import utc
from listener.retry import backoff
from listener.worker.decision import NotToSend

# Another worker is sending that message now. Its reply usually comes within a second.
_SUPERSEDED_RETRY_S = 1.0


def settle_bad_data(event: Event, exc: BadData) -> Settlement:
    """Return the settlement of an event whose own data makes a message impossible."""
    return Settlement(event, "failed", "failed", exc.reason, mask(str(exc)), uses_attempt=True)


def settle_internal_error(event: Event, exc: Exception, *, sending: bool = False) -> Settlement:
    """Return the settlement of an event on which the daemon itself fails. Other events are not affected.

    `sending`: the message may have been accepted. The log has the place in the code, not the error's text: it may quote
    the row.
    """
    where = "".join(traceback.format_tb(exc.__traceback__))
    log.error(
        "event_unforeseen", event_id=event.id, rule=event.rule, error=type(exc).__name__, where=where, **event.log_name
    )
    state: State = "in_doubt" if sending else "failed"
    detail = f"{type(exc).__name__}, an internal error of pgherald; the log event event_unforeseen says where"
    return Settlement(
        event, state, state, "internal_error", detail, uses_attempt=not sending, delay=backoff(1) if sending else None
    )


def settle_moved(event: Event, first: Address, now: Address) -> Settlement:
    """Return the settlement of an event whose first sending, to `first`, is in doubt, and whose row has another address.

    A copy must go neither to `first`, which may not be the reader's any more, nor to somebody who may have the first one.
    A person decides.
    """
    detail = f"the first sending went to {first.masked}; the lookup now returns another address, {now.masked}"
    return Settlement(event, "in_doubt", "in_doubt", "moved", detail)


def settle_repeat(event: Event, repeat: Repeat) -> Settlement:
    """Return the settlement of an event whose row had an email within `again_after`, or may have one any moment."""
    if repeat.sent_at is not None:
        return Settlement(event, "skipped", "skipped", "repeated", f"the last email was sent {utc(repeat.sent_at)}")
    # Without an entry in the history: this happens again and again until the other event is settled.
    reason = "earlier_in_doubt" if repeat.is_held else None
    return Settlement(event, "available", reason=reason, delay=repeat.wait)


def settle_superseded(event: Event, by: str | None) -> Settlement | None:
    """Return the settlement of an event whose change the email of another event shows, or None.

    `by` is the state of that event, as `Event.superseded_by` has it.
    """
    if by == "sent":
        return Settlement(
            event, "skipped", "skipped", "superseded", "the email of another event shows the same state of the row"
        )
    if by is not None:
        # Another worker is sending the newer email now. If it arrives, this event is superseded.
        return Settlement(event, "available", delay=_SUPERSEDED_RETRY_S)
    return None


def not_allowed(event: Event, recipient: Address) -> NotToSend:
    """Return the decision for an event whose recipient may get no email."""
    return NotToSend(event, "not_allowed", f"{recipient.masked} is not in mail.allowed_recipients")


def settle_unsent(verdict: NotToSend) -> Settlement:
    """Return the settlement of an event that is not to be sent."""
    state: State = "failed" if verdict.failed else "skipped"
    return Settlement(verdict.event, state, state, verdict.reason, verdict.detail, uses_attempt=verdict.failed)
