"""What each reply leads to, through the whole hand-over: pool, connection, breaker, and what is written in the outbox.

``make reply-table`` prints it, and ``docs/smtp.md`` has it as printed.
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from unittest import mock

import pytest

from listener.address import parse_address
from listener.config.sections import DeliverySettings
from listener.mail.composer import Composer
from listener.outbox.event import Event, OutgoingMessage
from listener.smtp.breaker import Breaker
from listener.smtp.outcome import Refused, SendOutcome
from listener.smtp.pool import SmtpPool
from listener.smtp.replies import Scope
from listener.smtp.sending import Sending
from listener.smtp.session import tls_context
from listener.worker.delivery import Delivery
from tests.support.client import KEY, MESSAGE, server_of, yes
from tests.support.smtpd import Action, Smtpd, answer, close, stall

SENDER, JANE = parse_address("no-reply@example.org"), parse_address("jane@example.com")
EVENT = Event(1, "rule", "1", 0, 0, datetime.now(UTC), 0.0, 1, False, None)
OUTGOING = OutgoingMessage(EVENT, JANE, b"", "key")
DOCUMENT = Path(__file__).parents[3] / "docs" / "smtp.md"


@dataclass(frozen=True)
class Cell:
    """`used`: on a connection that has taken a message before. `after_rcpt`: said at DATA, RCPT having been refused.

    `times`: how often it is said; None, always.
    """

    where: str
    reply: str
    expected: str
    used: bool = False
    after_rcpt: str | None = None
    times: int | None = None

    @property
    def name(self) -> str:
        where = f"{self.where}, used" if self.used else self.where
        return f"{where}: {self.reply}"


_AGAIN = "server: again within 1 s; breaker after 5"
_CONFIGURATION = "configuration: again within 1 s; breaker after 1"
_LOGIN = "configuration: again within 1 s; pause of 60 s"
_THROTTLE = "throttle: again within 7.5 s"
_BAD_ADDRESS = "recipient: failed bad_address, an attempt"
_REJECTED = "recipient: again within 6 s, an attempt; breaker after 3"
_DENIED = "recipient: again within 10 s, an attempt; breaker after 3"
_MESSAGE = "message: again within 6 s, an attempt; breaker after 3"
_LATER = "message: again within 10 s, an attempt; breaker after 3"
_FULL = "recipient: again within 5400 s, an attempt"
_GREY = "recipient: again within 450 s, an attempt"
_DEFERRED = "recipient: again within 10 s, an attempt; breaker after 3"
_LIMITED = "recipient: again within 45 s, an attempt; throttle after 3"
_QUOTA = "quota: again within 900 s; pause of 600 s"
_DAILY = "recipient: again within 10 s, an attempt; pause of 600 s after 3"
_TOO_LARGE = "message: again within 6 s, an attempt; breaker after 3"
_STALE = "sent at once, connection 2"

CELLS = [
    # The server, before a message.
    Cell("connect", "(closed)", _AGAIN),
    Cell("connect", "(nobody listens)", _AGAIN),
    Cell("greeting", "554 5.7.1 go away", _AGAIN),
    Cell("greeting", "421 4.7.0 too many connections", _AGAIN),
    Cell("greeting", "(silence)", _AGAIN),
    Cell("ehlo", "550 5.7.1 what?", _AGAIN),
    Cell("ehlo", "421 4.7.0 Try again later. (EHLO)", _AGAIN),
    Cell("ehlo", "421 4.3.2 closing", _AGAIN),
    Cell("tls", "454 4.7.0 TLS not available", _AGAIN),
    Cell("tls", "(unknown certificate)", _CONFIGURATION),
    Cell("tls", "(not offered)", _CONFIGURATION),
    Cell("auth", "535 5.7.8 authentication failed", _LOGIN),
    Cell("auth", "534 5.7.9 mechanism too weak", _LOGIN),
    Cell("auth", "530 5.7.0 not here", _LOGIN),
    Cell("auth", "454 4.7.0 Too many login attempts", "server: again within 1 s; pause of 60 s"),
    Cell("auth", "454 4.7.0 temporary failure", _AGAIN),
    # The server, anywhere.
    *(Cell(where, "421 4.3.0 closing", _AGAIN) for where in ("mail", "rcpt", "data", "dot")),
    *(Cell(where, "(closed)", _AGAIN) for where in ("mail", "rcpt", "data")),
    Cell("dot", "(closed)", "in doubt; breaker after 5"),
    *(Cell(where, "451 4.3.0 queue file write error", _AGAIN) for where in ("mail", "rcpt", "dot")),
    Cell("rcpt", "452 4.3.1 insufficient system storage", _AGAIN),
    # The configuration.
    Cell("mail", "550 5.7.1 sender not allowed", _CONFIGURATION),
    Cell("mail", "530 5.7.0 authentication required", _CONFIGURATION),
    Cell("mail", "553 5.1.8 bad sender", _CONFIGURATION),
    Cell("rcpt", "530 5.7.0 authentication required", _CONFIGURATION),
    *(
        Cell("rcpt", text, _CONFIGURATION)
        for text in (
            "553 5.7.1 <x@example.org>: Sender address rejected: not owned by user x",
            "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied",
            "550 Verification failed for <x@example.org> No such person Sender verify failed",
        )
    ),
    *(
        Cell("dot", text, _CONFIGURATION)
        for text in (
            "550 The from address does not match a verified Sender Identity.",
            "554 5.2.252 SendAsDenied; x@example.org not allowed to send as y@example.org",
            "554 Sending paused for this account.",
        )
    ),
    Cell("rcpt", "554 5.7.1 relay access denied", _DENIED),
    # A stale connection.
    Cell("mail", "451 4.4.2 Timeout waiting for data from client", _STALE, used=True, times=1),
    Cell("mail", "421 4.4.2 idle too long", _STALE, used=True, times=1),
    Cell("mail", "(closed)", _STALE, used=True, times=1),
    # The rate, and the quota.
    Cell("mail", "454 Throttling failure: Maximum sending rate exceeded.", _THROTTLE),
    Cell("mail", "454 Throttling failure: Maximum sending rate exceeded.", _THROTTLE, used=True),
    *(Cell(where, "421 4.7.28 unusual rate of mail", _THROTTLE) for where in ("mail", "rcpt", "data", "dot")),
    Cell("rcpt", "421 4.7.0 rate limited", _THROTTLE),
    Cell("rcpt", "450 4.7.0 sending rate too high", _THROTTLE),
    Cell("rcpt", "450 4.7.1 rate limit exceeded", _LIMITED),
    Cell("rcpt", "450 4.7.1 rate limit for this recipient exceeded", _GREY),
    Cell("mail", "432 4.3.2 Concurrent connections limit exceeded", _THROTTLE),
    Cell("dot", "432 4.3.2 Concurrent connections limit exceeded", _THROTTLE),
    Cell("dot", "454 Throttling failure: Maximum sending rate exceeded.", _THROTTLE),
    Cell("dot", "454 Throttling failure: Daily message quota exceeded.", _QUOTA),
    Cell("mail", "550 5.4.5 Daily user sending limit exceeded", _QUOTA),
    Cell("dot", "554 5.2.0 SubmissionQuotaExceeded", _QUOTA),
    Cell("dot", "554 5.1.90 Your message can't be sent because you've reached your daily limit", _QUOTA),
    Cell("rcpt", "550 daily message limit", _DAILY),
    # The recipient.
    Cell("rcpt", "450 mailbox busy", _GREY),
    Cell("rcpt", "451 4.2.0 try again", _GREY),
    Cell("rcpt", "450 4.7.1 greylisted", _GREY),
    Cell("rcpt", "451 4.7.1 try again", _DEFERRED),
    Cell("rcpt", "452 4.2.2 over quota", _FULL),
    Cell("rcpt", "552 5.2.2 over quota", _FULL),
    Cell("rcpt", "552 mailbox full", _FULL),
    *(Cell("rcpt", f"550 {code} no", _BAD_ADDRESS) for code in ("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1")),
    Cell("rcpt", "550 5.7.1 policy", _REJECTED),
    Cell("data", "503 5.5.1 no valid recipients", _BAD_ADDRESS, after_rcpt="550 5.1.1 no such user"),
    Cell("data", "554 5.5.1 no valid recipients", _FULL, after_rcpt="452 4.2.2 over quota"),
    Cell("data", "354 go ahead", _BAD_ADDRESS, after_rcpt="550 5.1.1 no such user"),
    # The message.
    Cell("dot", "550 5.6.0 malformed", _MESSAGE),
    Cell("dot", "550 5.7.1 spam", _MESSAGE),
    Cell("dot", "554 5.7.0 forbidden content", _MESSAGE),
    Cell("dot", "451 4.7.1 Service unavailable - try again later", _LATER),
    Cell("dot", "554 Message rejected: Email address is not verified. jane1@example.com", _MESSAGE),
    Cell("dot", "552 5.3.4 too big", _TOO_LARGE),
    Cell("mail", "552 5.3.4 too big", _TOO_LARGE),
    # An extension.
    *(
        Cell("mail", f"{code} 5.5.4 unknown parameter", "sent at once, without SIZE RET ENVID NOTIFY", times=1)
        for code in (500, 501, 502, 504)
    ),
    Cell("rcpt", "504 5.5.4 unknown parameter", "sent at once, without RET ENVID NOTIFY", times=1),
    # What nobody knows counts as its class.
    Cell("rcpt", "499 4.9.99 hm", _DEFERRED),
    Cell("rcpt", "599 5.9.99 hm", _REJECTED),
    Cell("dot", "499 4.9.99 hm", _LATER),
    Cell("dot", "599 5.9.99 hm", _MESSAGE),
]

Security = Literal["off", "starttls"]
# What an outcome means is said without composing anything.
_DELIVERY = Delivery({}, mock.Mock(spec=Composer), b"", {EVENT.rule: DeliverySettings(max_attempts=10)})


async def seen(cell: Cell, security: Security) -> str:
    """Hand one message over, on such a connection, and say what came of it, for the event and for the breaker."""
    users = {"user": "secret"} if cell.where == "auth" else None
    async with Smtpd(security, users=users) as smtpd:
        server = server_of(smtpd)
        if cell.reply == "(silence)":
            server = replace(server, timeouts=replace(server.timeouts, greeting=0.05))
        if users:
            server = replace(server, username="user", password="secret")
        trusts = smtpd.ca_file if security != "off" and cell.reply != "(unknown certificate)" else None
        breaker = Breaker()
        pool = SmtpPool(server, tls_context(trusts), 4, breaker)
        if cell.used:
            await hand_over(pool)
        if cell.reply == "(nobody listens)":
            await smtpd.refuse_connections()
        elif cell.reply == "(not offered)":
            smtpd.security = "off"
        if cell.after_rcpt:
            smtpd.script("rcpt", answer(cell.after_rcpt))
        smtpd.script(cell.where, action(cell.reply), times=cell.times)
        before = len(smtpd.messages)
        outcome = await hand_over(pool)
        # Nobody was told that a message was accepted, or that it was not, but as it is.
        assert (len(smtpd.messages) - before == 1) == (type(outcome).__name__ == "Accepted")
        said = for_event(smtpd, outcome)
        # How many of the like open the breaker.
        number = 1
        while not breaker.is_open and number < 6 and not said.startswith("sent"):
            number += 1
            last = await hand_over(pool, number)
            if isinstance(last, Refused) and last.verdict.scope is Scope.throttle and "throttle" not in said:
                said += f"; throttle after {number}"
                break
        if breaker._paused:
            said += f"; pause of {breaker._remaining():.0f} s" + (f" after {number}" if number > 1 else "")
        elif breaker.is_open:
            said += f"; breaker after {number}"
        assert smtpd.early == []
        pool.abort()
        await pool.close()
        return said


def action(reply: str) -> Action:
    if reply == "(closed)":
        return close()
    if reply == "(silence)":
        return stall()
    return answer(reply) if reply[0].isdigit() else Action()


async def hand_over(pool: SmtpPool, number: int = 1) -> SendOutcome:
    """Send the message of this number. Each has a recipient of its own."""
    return await pool.send(Sending(SENDER, parse_address(f"jane{number}@example.com"), MESSAGE, yes, f"{KEY}{number}"))


def for_event(smtpd: Smtpd, outcome: SendOutcome) -> str:
    with mock.patch("random.uniform", lambda low, high: high):
        settlement = _DELIVERY.settlement(OUTGOING, outcome)
    attempt = ", an attempt" if settlement.uses_attempt else ""
    if settlement.state == "in_doubt":
        return "in doubt"
    if settlement.state == "sent":
        (*_, message) = smtpd.messages
        used = [parameter.partition("=")[0] for parameter in (*message.mail_parameters, *message.rcpt_parameters)]
        dropped = [name for name in ("SIZE", "RET", "ENVID", "NOTIFY") if name not in used]
        return "sent at once, " + (f"without {' '.join(dropped)}" if dropped else f"connection {message.connection}")
    scope = outcome.verdict.scope  # type: ignore[union-attr]
    if settlement.state == "failed":
        return f"{scope}: failed {settlement.reason}{attempt}"
    return f"{scope}: again within {settlement.delay:g} s{attempt}"


def possible(cell: Cell, security: Security) -> bool:
    # Without TLS there is no TLS phase, and no password is sent.
    return security != "off" or cell.where not in ("tls", "auth")


@pytest.mark.parametrize(
    ("security", "cell"),
    [(s, c) for s in ("off", "starttls") for c in CELLS if possible(c, s)],  # type: ignore[arg-type]
    ids=lambda value: value.name if isinstance(value, Cell) else value,
)
async def test_cell(security: Security, cell: Cell) -> None:
    assert await seen(cell, security) == cell.expected


def test_the_document_has_this_table() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for cell in CELLS:
        assert re.search(rf"^    {re.escape(cell.name)} +{re.escape(cell.expected)} ", text, re.MULTILINE), cell.name
