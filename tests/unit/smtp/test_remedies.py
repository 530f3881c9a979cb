"""Each failure leads to one remedy, the most specific there is."""

import dataclasses

import pytest

from listener.smtp.remedies import remedy_for
from listener.smtp.replies import Phase, Reply
from listener.smtp.verdicts import CONFIGURATION, SERVER, classify


@pytest.mark.parametrize(
    ("phase", "reply", "remedy"),
    [
        (Phase.connect, None, "start the mail server"),
        (Phase.tls, None, "[smtp] ca_file"),
        (Phase.auth, "535 5.7.8 authentication failed", "correct the user and password"),
        (Phase.auth, "454 4.7.0 Temporary authentication failure", "see the mail server's log"),
        (Phase.auth, None, "see the mail server's log"),
        (Phase.mail, "421 4.3.0 closing", "see the mail server's log"),
        (Phase.mail, "550 5.7.1 sender not allowed", "correct [mail] from"),
        (Phase.rcpt, "550 5.1.1 no such user", "correct the address"),
        (Phase.rcpt, "554 5.7.1 relay access denied", "let this host relay"),
        (Phase.rcpt, "450 4.7.0 sending rate too high", "wait; the server asks for fewer messages"),
        (Phase.dot, "454 Throttling failure: Daily message quota exceeded.", "wait, or ask for a larger quota"),
        (Phase.dot, "552 5.3.4 too big", "make the message smaller"),
        (Phase.dot, "554 5.6.0 malformed", "see the mail server's log"),
    ],
)
def test_the_remedy_fits_the_failure(phase: Phase, reply: str | None, remedy: str) -> None:
    verdict = SERVER if reply is None else classify(phase, Reply.parse([reply.encode()]), reused=False)
    assert remedy in remedy_for(phase, verdict)


def test_a_verdicts_own_remedy_goes_first() -> None:
    verdict = dataclasses.replace(CONFIGURATION, remedy="use smtps://")
    assert remedy_for(Phase.auth, verdict) == "use smtps://"
