"""The meaning of each reply: a table from the phase, the codes and the text to a verdict.

The basic code decides and the enhanced code refines it. An unknown detail counts as its class (RFC 3463 2,
RFC 5321 4.3.2).

Two rules hold for every row of the table. A failure of the server uses no event's attempt. A failure that concerns all
messages (the sender, the password, the right to relay) never fails a single event.

Servers refuse everything with texts that no table knows. A verdict with `if_shared` is therefore a guess. `FaultFinder`
finds out, from the replies to other messages, whether it concerns this message or all of them.
"""

import re
from dataclasses import replace
from typing import NamedTuple

from listener.smtp.replies import Phase, Reply, Scope, Verdict

SERVER = Verdict(Scope.server, permanent=False, reason="server", uses_attempt=False)
CONFIGURATION = Verdict(Scope.configuration, permanent=False, reason="configuration", uses_attempt=False)
STALE = Verdict(Scope.stale, permanent=False, reason="stale", uses_attempt=False, delay=0.0)
# The delays follow what servers ask for. A rate limit lifts within seconds and greylisting (RFC 6647) within minutes. A
# full mailbox may have room again after an hour.
THROTTLED = Verdict(Scope.throttle, permanent=False, reason="throttled", uses_attempt=False, delay=5.0)
CONNECTIONS = Verdict(Scope.connections, permanent=False, reason="throttled", uses_attempt=False)
_QUOTA = Verdict(Scope.quota, permanent=False, reason="quota", uses_attempt=False, delay=600.0)
_CAPABILITY = Verdict(Scope.capability, permanent=False, reason="capability", uses_attempt=False, delay=0.0)
# About one mailbox, whatever other recipients get.
_BAD_ADDRESS = Verdict(Scope.recipient, permanent=True, reason="bad_address", uses_attempt=True)
_MAILBOX_FULL = Verdict(Scope.recipient, permanent=False, reason="mailbox_full", uses_attempt=True, delay=3600.0)
_MAILBOX_BUSY = Verdict(Scope.recipient, permanent=False, reason="deferred", uses_attempt=True, delay=300.0)
_GREYLISTED = Verdict(Scope.recipient, permanent=False, reason="greylisted", uses_attempt=True, delay=300.0)
# Guesses.
# Never the recipient's own fault, although the server may take recipients of its own. So it fails no event before its age.
_RELAY_DENIED = Verdict(
    Scope.recipient,
    permanent=False,
    reason="relay_denied",
    uses_attempt=True,
    if_shared=replace(CONFIGURATION, reason="relay_denied"),
)
_RECIPIENT_DEFERRED = replace(_MAILBOX_BUSY, if_shared=SERVER)
_RECIPIENT_THROTTLED = replace(_MAILBOX_BUSY, delay=30.0, if_shared=THROTTLED)
_RECIPIENT_QUOTA = replace(_MAILBOX_BUSY, if_shared=_QUOTA)
_RECIPIENT_REJECTED = Verdict(
    Scope.recipient, permanent=True, reason="rejected", uses_attempt=True, if_shared=CONFIGURATION
)
_DEFERRED = Verdict(Scope.message, permanent=False, reason="deferred", uses_attempt=True, if_shared=SERVER)
_REJECTED = Verdict(Scope.message, permanent=True, reason="rejected", uses_attempt=True, if_shared=CONFIGURATION)
_TOO_LARGE = Verdict(Scope.message, permanent=True, reason="too_large", uses_attempt=True, if_shared=CONFIGURATION)
# The message is at fault, although the reply blames the server: the server accepts other messages.
OWN_FAULT = Verdict(Scope.message, permanent=False, reason="deferred", uses_attempt=True, delay=30.0)


def classify(phase: Phase, reply: Reply, *, reused: bool, extended: bool = False) -> Verdict:
    """Return the consequence of a refusal: the verdict of the first row of `TABLE` that matches.

    `reused`: the connection had sent a message before, or had been idle. `extended`: the refused command carried a
    parameter of an SMTP extension.
    """
    codes = f"{reply.code} {reply.enhanced or '-'}"
    for row in TABLE:
        if (
            phase in row.phases
            and row.codes.match(codes)
            and (row.text is None or row.text.search(reply.text))
            and (reused or not row.reused)
            and (extended or not row.extended)
        ):
            return row.verdict
    return SERVER


class ReplyRule(NamedTuple):
    """One row of `TABLE`: the replies it matches, and their verdict."""

    phases: frozenset[Phase]
    codes: re.Pattern[str]
    """matched from the start of ``550 5.1.1``, or of ``550 -`` if the reply has no enhanced code"""
    verdict: Verdict
    text: re.Pattern[str] | None = None
    """searched in the reply's text"""
    reused: bool = False
    """matches only on a connection that was used or idle before"""
    extended: bool = False
    """matches only a command with a parameter of an extension"""


def _row(
    phases: str, codes: str, verdict: Verdict, text: str = "", *, reused: bool = False, extended: bool = False
) -> ReplyRule:
    return ReplyRule(
        frozenset(map(Phase, phases.split())),
        re.compile(codes),
        verdict,
        re.compile(text, re.IGNORECASE) if text else None,
        reused,
        extended,
    )


_CONNECTIONS_TEXT = (
    r"too many (\w+ )*(connections|sessions)|connections? (\w+ )*(limit|count)|sender thread limit"
    r"|max(imum)? (\w+ )*(connections|sessions)"
)
_ACCOUNT_QUOTA_TEXT = (
    r"\b(sending|submission) ?(quota|limit)|\byour (\w+ )*(quota|limit)|\bdaily (user )?(sending|message) quota"
)
_ACCOUNT_RATE_TEXT = (
    r"throttling failure|\bsending rate\b|too (much|many) (\w+ )*from \[?\d|\byour (\w+ )*rate"
    r"|\brate\b.*\b(your|this) (host|ip|account)"
)
# "This user" is the recipient of one server and the account of another.
_ONE_RECIPIENT_TEXT = r"\b(this|the) (recipient|mailbox)\b|\bis receiving\b|\btrying to (contact|reach)\b"
_LIMIT_TEXT = r"\b(limit(ed)?|quota|rate)\b|too (many|much|fast|quickly)"
_DAILY_TEXT = (
    r"\b(hourly|daily|weekly|monthly)\b.*\b(quota|limit)|\bper (hour|day|month)\b|\baccount\b.*\b(quota|limit)"
    r"|\b(e?-?mail|messages?) (quota|limit)|\bcredits?\b.*\bexceed"
)
_RATE_TEXT = r"throttl|\brate\b|rate-?limit"
_REFUSED_RATE_TEXT = (
    r"throttl|\brate[ -]?limit|\bsending rate|too many (\w+ )?(e?-?mail|message|request)s\b|too (fast|quickly)"
    r"|\b(number|volume) of (\w+ )*(e?-?mail|message)s\b.*\bexceed"
)
_TOO_LARGE_TEXT = r"^(?!.*\b(mail ?box|quota)\b).*\b(size|large|big)\b"
_MAILBOX_FULL_TEXT = r"\b(mail ?box|inbox)\b[^.;]*\b(full|quota|storage)\b|\bquota\b.*\bmail ?box"
# A mailbox that gets mail, and no account that sends.
_NOT_SENDING = r"^(?!.*\b(sen[dt]|sending|senders?|submi\w+|outgoing|outbound)\b)"
# The sender, this host or the account: replies of Postfix, Exim, SendGrid, Exchange Online and Amazon SES.
_SENDER_TEXT = (
    r"sender address rejected|(client host|helo command) rejected|sender verif(y|ication) failed|verification failed for <"
    r"|sendasdenied|verified sender identity|\bsending (is )?(paused|suspended|disabled)"
    r"|\byour account (is|has been|was) (\w+ )*(suspended|disabled|blocked|locked|paused)"
)
# Words about the sender, this host or the login. In a reply that also reads like one about a mailbox, as in "sender
# address does not exist", they leave it open which is meant.
_OWN_SIDE_TEXT = (
    r"\bsend(ers?|ing)?\b|\bfrom (address|domain|header)|\b[he][eh]lo\b|\b(ptr|r?dns|spf|dkim|dmarc)\b|\breverse\b"
    r"|\bhost ?name|\byour (\w+ )?(host|ip|domain|account|server)\b|call(back|out)|verification failed|authenticat"
    r"|\b(log(ged)?|sign(ed)?) ?in\b|password|credential"
)
_MAILBOX_NOUN = r"(user|recipient|mail ?box|address|account|person|e-?mail|alias)"
_MAILBOX_TEXT = (
    rf"\b(no such|unknown|invalid) (\w+ )?{_MAILBOX_NOUN}\b|no mailbox|unrouteable address"
    rf"|\b{_MAILBOX_NOUN}\b[^.;]{{0,60}}\b(unknown|not? exist|not found|no longer)"
    r"|\b(mailbox|user) (is )?(disabled|inactive)|\bnot a valid (recipient|mailbox|user)\b"
)

# The first match wins. Sources: RFC 5321 4.2.3, RFC 3463, RFC 4954 6, RFC 1870 6, and real replies of providers.
TABLE: tuple[ReplyRule, ...] = (
    _row("greeting ehlo auth mail rcpt data dot", r"4|55[04]", CONNECTIONS, _CONNECTIONS_TEXT),
    _row("greeting ehlo auth mail rcpt data dot", r"432 4\.3\.2$", CONNECTIONS),
    _row("connect tls greeting ehlo", r"", SERVER),
    _row("auth", r"5", CONFIGURATION),
    _row("auth", r"", SERVER),
    # Before the limits, since these replies name one as well.
    _row("mail rcpt data dot", r"5\d\d 5\.3\.4$|552 5\.2\.3$", _TOO_LARGE, _TOO_LARGE_TEXT),
    _row("mail data dot", r"552 -", _TOO_LARGE, _TOO_LARGE_TEXT),
    _row("rcpt data dot", r"(?!421)[45]\d\d [45]\.2\.2$", _MAILBOX_FULL, _NOT_SENDING),
    _row(
        "rcpt data dot", r"(?!421)[45]\d\d (-|[45]\.[1257]\.)", _MAILBOX_FULL, f"{_NOT_SENDING}.*({_MAILBOX_FULL_TEXT})"
    ),
    # Gmail's 450 4.2.1 limits the messages that one user may get.
    _row(
        "rcpt data dot",
        r"(?!421)[45]\d\d (-|[45]\.[2457]\.)",
        _MAILBOX_BUSY,
        f"{_NOT_SENDING}(?=.*({_ONE_RECIPIENT_TEXT})).*({_LIMIT_TEXT})",
    ),
    _row("mail rcpt data dot", r"", _QUOTA, _ACCOUNT_QUOTA_TEXT),
    _row("mail", r"", _QUOTA, _DAILY_TEXT),
    _row("rcpt data dot", r"(?!421)", _RECIPIENT_QUOTA, _DAILY_TEXT),
    _row("mail rcpt data dot", r"4\d\d 4\.7\.28$", THROTTLED),
    _row("mail rcpt data dot", r"4", THROTTLED, _ACCOUNT_RATE_TEXT),
    # A bare 421 about "too many messages" ends the connection and does not ask for a lower rate.
    _row("mail rcpt data dot", r"421 4\.7\.", THROTTLED, _RATE_TEXT),
    _row("mail", r"4(?!21)\d\d (-|4\.[3457]\.)", THROTTLED, rf"{_RATE_TEXT}|too (many|much)"),
    _row("rcpt data dot", r"4(?!21)\d\d (-|4\.[457]\.)", _RECIPIENT_THROTTLED, rf"{_RATE_TEXT}|too (many|much)"),
    # A limit that is refused for good now is not refused for good later.
    _row("rcpt data dot", r"5\d\d (-|5\.[02457]\.)", _RECIPIENT_THROTTLED, _REFUSED_RATE_TEXT),
    _row("mail", r"4|503", STALE, reused=True),
    # RFC 3463 3.4: X.3.x is about the mail system, not about a mailbox.
    _row("mail rcpt data dot", r"421|4\d\d 4\.3\.", SERVER),
    # Any other enhanced code, such as 501 5.1.3, means that the server did not object to the parameter.
    _row("mail rcpt", r"(500|501|502|504|555) (-|5\.5\.)", _CAPABILITY, extended=True),
    _row("mail rcpt data dot", r"5\d\d 5\.3\.4$|552 5\.2\.3$", _TOO_LARGE),
    _row("dot", r"552 -", _MAILBOX_FULL, r"mailbox|quota"),
    _row("mail data dot", r"552 -", _TOO_LARGE),
    _row("mail rcpt", r"5\d\d 5\.6\.7$", _BAD_ADDRESS),
    # Only the size in MAIL differs from event to event. A server that refuses MAIL for another reason refuses them all.
    _row("mail", r"5", CONFIGURATION),
    _row("mail", r"4", SERVER),
    _row("rcpt data dot", r"53[0458]|5\d\d 5\.1\.[78]$", CONFIGURATION),
    _row("rcpt data dot", r"4\d\d 4\.1\.[78]$", SERVER),
    # A server says so at RCPT if it delays all refusals until then, as Postfix does.
    _row("rcpt data dot", r"5", CONFIGURATION, _SENDER_TEXT),
    _row("rcpt data dot", r"4", SERVER, _SENDER_TEXT),
    _row("rcpt data dot", r"[45]\d\d [45]\.2\.2$", _RECIPIENT_QUOTA),
    _row("rcpt data dot", r"4", _GREYLISTED, r"gr[ae]y-?list"),
    _row("rcpt data dot", r"4\d\d 4\.[12]\.", _RECIPIENT_DEFERRED, _OWN_SIDE_TEXT),
    _row("rcpt data dot", r"5\d\d 5\.(1\.(1|2|3|6|10)|2\.1)$", _RECIPIENT_REJECTED, _OWN_SIDE_TEXT),
    _row("rcpt data dot", r"5\d\d 5\.(1\.(1|2|3|6|10)|2\.1)$", _BAD_ADDRESS),
    _row("rcpt", r"552", _MAILBOX_FULL),
    _row("rcpt", r"[45]\d\d (-|[45]\.7\.)", _RELAY_DENIED, r"\brelay(ing)?\b(?!\.)|rcpthosts"),
    _row("rcpt", r"5(11|5[0134]) ", _RECIPIENT_REJECTED, _OWN_SIDE_TEXT),
    _row("rcpt", r"5(11|5[0134]) ", _BAD_ADDRESS, _MAILBOX_TEXT),
    _row("rcpt data dot", r"4\d\d 4\.2\.0$", _GREYLISTED),
    _row("rcpt data dot", r"4\d\d 4\.[12]\.", _MAILBOX_BUSY),
    _row("rcpt", r"4\d\d -", _MAILBOX_BUSY, r"mailbox"),
    _row("rcpt", r"4", _RECIPIENT_DEFERRED),
    _row("rcpt", r"5", _RECIPIENT_REJECTED),
    _row("data dot", r"4", _DEFERRED),
    _row("data dot", r"5", _REJECTED),
)
