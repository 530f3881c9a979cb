"""What a reply means: every cell of the table, and what no reply may ever do."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.smtp.replies import Phase, Reply, Scope
from listener.smtp.verdicts import TABLE, classify


def reply(text: str) -> Reply:
    return Reply.parse([text.encode()])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b"250 ok"], Reply(250, None, "ok")),
        ([b"250"], Reply(250, None, "")),
        ([b"250 "], Reply(250, None, "")),
        ([b"250 2.0.0 Ok: queued as 1"], Reply(250, "2.0.0", "Ok: queued as 1")),
        ([b"550 5.1.10"], Reply(550, "5.1.10", "")),
        (
            [b"550-5.1.1 no such user", b"550-5.1.1 here,", b"550 5.1.1 sorry"],
            Reply(550, "5.1.1", "no such user here, sorry"),
        ),
        # RFC 2034 4: the class of both codes must be the same, else the enhanced one is not one.
        ([b"550 4.2.1 busy"], Reply(550, None, "4.2.1 busy")),
        ([b"250 2.0 miles"], Reply(250, None, "2.0 miles")),
        ([b"550 5.1.1x"], Reply(550, None, "5.1.1x")),
        ([b"550 <jane@example.org> unknown"], Reply(550, None, "<j***@example.org> unknown")),
        ([b"250 caf\xc3\xa9 \xff"], Reply(250, None, "café \\xff")),
        ([b"250 a\x1b[31mb"], Reply(250, None, "a\\x1b[31mb")),
    ],
)
def test_a_reply_is_read(lines: list[bytes], expected: Reply) -> None:
    assert Reply.parse(lines) == expected


def test_the_text_of_a_reply_is_cut() -> None:
    assert len(reply("550 " + "x" * 4000).text) == 512


def test_a_reply_in_words() -> None:
    assert str(Reply(550, "5.1.1", "no such user")) == "550 5.1.1 no such user"
    assert str(Reply(250, None, "")) == "250"


@pytest.mark.parametrize(
    "lines",
    [
        [b""],
        [b"25 ok"],
        [b"hello"],
        [b"250ok"],
        [b"150 wait"],
        [b"650 what"],
        [b"250-ok", b"550 no"],
        ["２５０ ok".encode()],
    ],
)
def test_what_is_no_reply_is_refused(lines: list[bytes]) -> None:
    with pytest.raises(ValueError, match="not an SMTP reply"):
        Reply.parse(lines)


CONFIGURED = ("configuration", False, "configuration", False, None)
LIMITED = ("connections", False, "throttled", False, None)
USED_UP = ("quota", False, "quota", False, 600)
SERVED = ("server", False, "server", False, None)
GUESSED = ("recipient", True, "rejected", True, None)
DEAD = ("recipient", True, "bad_address", True, None)
FULL = ("recipient", False, "mailbox_full", True, 3600)
# phases, reply, scope, permanent, reason, counts, delay
CELLS = [
    # Nothing said yet about a message.
    ("connect tls greeting ehlo", "421 4.3.2 closing", "server", False, "server", False, None),
    ("connect tls greeting ehlo", "554 5.7.1 go away", "server", False, "server", False, None),
    ("greeting ehlo", "421 4.7.0 rate limited", "server", False, "server", False, None),
    ("tls", "454 4.7.0 TLS not available", "server", False, "server", False, None),
    ("auth", "535 5.7.8 authentication failed", "configuration", False, "configuration", False, None),
    ("auth", "534 5.7.9 mechanism too weak", "configuration", False, "configuration", False, None),
    ("auth", "530 5.7.0 STARTTLS first", "configuration", False, "configuration", False, None),
    ("auth", "504 5.5.4 unknown mechanism", "configuration", False, "configuration", False, None),
    ("auth", "454 4.7.0 temporary failure", "server", False, "server", False, None),
    ("auth", "421 4.3.0 closing", "server", False, "server", False, None),
    # The sender, and all that is the same for every message.
    ("mail", "550 5.7.1 sender not allowed", "configuration", False, "configuration", False, None),
    ("mail", "530 5.7.0 authentication required", "configuration", False, "configuration", False, None),
    ("mail", "530 authenticate first", "configuration", False, "configuration", False, None),
    ("mail", "550 5.1.8 bad sender", "configuration", False, "configuration", False, None),
    ("mail", "553 sender rejected", "configuration", False, "configuration", False, None),
    ("mail", "503 5.5.1 EHLO first", "configuration", False, "configuration", False, None),
    ("rcpt data dot", "530 5.7.0 authentication required", "configuration", False, "configuration", False, None),
    ("rcpt", "553 5.7.1 <x@example.org>: Sender address rejected: not owned", *CONFIGURED),
    ("rcpt", "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied", *CONFIGURED),
    ("rcpt", "550 Verification failed for <x@example.org> Unrouteable address Sender verify failed", *CONFIGURED),
    ("rcpt", "550 Unrouteable address Sender verification failed", *CONFIGURED),
    ("rcpt data dot", "550 The from address does not match a verified Sender Identity", *CONFIGURED),
    ("dot", "554 5.2.252 SendAsDenied; x@example.org", *CONFIGURED),
    ("dot", "554 Sending paused for this account.", *CONFIGURED),
    ("rcpt data dot", "550 5.1.8 bad sender", *CONFIGURED),
    ("rcpt", "450 4.1.8 <x@example.org>: Sender address rejected: Domain not found", *SERVED),
    ("mail", "451 4.3.0 try later", "server", False, "server", False, None),
    ("mail", "450 4.1.8 sender domain not found", "server", False, "server", False, None),
    # 421 anywhere.
    ("mail rcpt data dot", "421 4.3.0 closing", "server", False, "server", False, None),
    ("mail rcpt data dot", "421 too many messages on this connection", "server", False, "server", False, None),
    ("mail rcpt data dot", "421 4.7.0 too many messages on this connection", "server", False, "server", False, None),
    ("rcpt data dot", "450 4.3.2 not accepting messages", "server", False, "server", False, None),
    # The rate.
    (
        "mail rcpt data dot",
        "454 Throttling failure: Maximum sending rate exceeded.",
        "throttle",
        False,
        "throttled",
        False,
        5,
    ),
    ("mail rcpt data dot", "421 4.7.28 unusual rate of mail", "throttle", False, "throttled", False, 5),
    ("mail rcpt data dot", "421 4.7.0 rate limited", "throttle", False, "throttled", False, 5),
    ("rcpt data dot", "450 4.7.0 rate limit exceeded", "recipient", False, "deferred", True, 30),
    ("rcpt data dot", "450 4.7.1 rate limit for this recipient exceeded", "recipient", False, "deferred", True, 300),
    ("rcpt", "450 4.7.1 this recipient gets too many messages", "recipient", False, "deferred", True, 300),
    ("mail", "450 4.7.0 rate limit exceeded", "throttle", False, "throttled", False, 5),
    ("mail rcpt data dot", "450 4.7.0 sending rate too high", "throttle", False, "throttled", False, 5),
    ("mail rcpt data dot", "450 4.7.1 Error: too much mail from 192.0.2.1", "throttle", False, "throttled", False, 5),
    ("greeting ehlo auth mail", "421 4.7.0 mx Error: too many connections from 192.0.2.1", *LIMITED),
    ("greeting", "421 Too many concurrent SMTP connections; please try again later.", *LIMITED),
    ("mail rcpt dot", "432 4.3.2 Concurrent connections limit exceeded", *LIMITED),
    ("dot", "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", *LIMITED),
    ("mail rcpt data dot", "432 4.3.2 later", *LIMITED),
    ("mail rcpt data dot", "452 4.3.1 insufficient system storage", *SERVED),
    # The quota.
    (
        "mail rcpt data dot",
        "454 Throttling failure: Daily message quota exceeded.",
        "quota",
        False,
        "quota",
        False,
        600,
    ),
    ("mail rcpt data dot", "550 5.4.5 Daily user sending limit exceeded.", "quota", False, "quota", False, 600),
    ("dot", "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", *USED_UP),
    ("dot", "554 5.1.90 Your message can't be sent because you've reached your daily limit for recipients", *USED_UP),
    ("mail", "550 daily message limit", *USED_UP),
    ("rcpt data dot", "550 daily message limit", "recipient", False, "deferred", True, 300),
    # The recipient.
    ("rcpt", "450 mailbox busy", "recipient", False, "deferred", True, 300),
    ("rcpt", "451 local error", "recipient", False, "deferred", True, 300),
    ("rcpt", "450 4.2.1 receiving mail at a rate that prevents more", "recipient", False, "deferred", True, 300),
    ("rcpt", "451 4.2.0 please try again", "recipient", False, "greylisted", True, 300),
    ("rcpt", "450 4.7.1 please try again", "recipient", False, "deferred", True, 300),
    ("rcpt", "451 4.7.1 Greylisted", "recipient", False, "greylisted", True, 300),
    ("rcpt", "450 Greylisted, see http://example.org", "recipient", False, "greylisted", True, 300),
    ("rcpt data dot", "452 4.2.2 over quota", "recipient", False, "mailbox_full", True, 3600),
    ("rcpt data dot", "552 5.2.2 over quota", "recipient", False, "mailbox_full", True, 3600),
    ("rcpt", "552 mailbox full", "recipient", False, "mailbox_full", True, 3600),
    ("dot", "552 mailbox quota exceeded", "recipient", False, "mailbox_full", True, 3600),
    ("rcpt data dot", "550 5.1.1 no such user", "recipient", True, "bad_address", True, None),
    ("rcpt data dot", "550 5.1.2 no such host", "recipient", True, "bad_address", True, None),
    ("rcpt data dot", "553 5.1.3 syntax", "recipient", True, "bad_address", True, None),
    ("rcpt data dot", "550 5.1.6 has moved", "recipient", True, "bad_address", True, None),
    ("rcpt data dot", "556 5.1.10 null MX", "recipient", True, "bad_address", True, None),
    ("rcpt data dot", "550 5.2.1 disabled", "recipient", True, "bad_address", True, None),
    ("rcpt", "550 No such user", "recipient", True, "bad_address", True, None),
    ("rcpt", "550 5.1.1 unknown, said relay mx.example.org", "recipient", True, "bad_address", True, None),
    ("mail rcpt", "553 5.6.7 non-ASCII address", "recipient", True, "bad_address", True, None),
    ("rcpt", "554 5.7.1 <jane@example.org>: Relay access denied", "recipient", False, "relay_denied", True, None),
    ("rcpt", "454 4.7.1 Relay access denied", "recipient", False, "relay_denied", True, None),
    ("rcpt", "550 relaying denied", "recipient", False, "relay_denied", True, None),
    ("rcpt", "553 sorry, not in my list of allowed rcpthosts", "recipient", False, "relay_denied", True, None),
    ("rcpt", "550 5.7.1 blocked, see relay.example.org", "recipient", True, "rejected", True, None),
    ("rcpt", "550 5.7.1 policy", "recipient", True, "rejected", True, None),
    ("rcpt", "550 mailbox unavailable", "recipient", True, "rejected", True, None),
    # The message.
    ("dot", "550 5.6.0 malformed", "message", True, "rejected", True, None),
    ("dot", "550 5.7.1 spam", "message", True, "rejected", True, None),
    ("dot", "552 5.7.0 forbidden content", "message", True, "rejected", True, None),
    ("data dot", "554 transaction failed", "message", True, "rejected", True, None),
    ("rcpt data dot", "451 4.3.0 queue file write error", *SERVED),
    ("data dot", "450 later", "message", False, "deferred", True, None),
    ("mail rcpt data dot", "552 5.3.4 too big", "message", True, "too_large", True, None),
    ("mail rcpt data dot", "552 5.2.3 exceeds the limit", "message", True, "too_large", True, None),
    ("mail data dot", "552 exceeds fixed maximum message size", "message", True, "too_large", True, None),
    # Words about the sender, this host or the account, in replies that read like those about a mailbox.
    ("rcpt", "450 4.1.8 Domain of sender address does not resolve", *SERVED),
    ("rcpt", "550 sender address does not exist", *GUESSED),
    ("rcpt", "550 unknown sender", *GUESSED),
    ("rcpt", "550 Sender domain not found in DNS", *GUESSED),
    ("rcpt", "550 Reverse DNS lookup for host 192.0.2.1 failed: unknown host", *GUESSED),
    ("rcpt", "550 Host unknown: no PTR record for 192.0.2.1", *GUESSED),
    ("rcpt", "550 Bad HELO - Host impersonating domain name does not exist", *GUESSED),
    ("rcpt", "550 SPF: record not found", *GUESSED),
    ("rcpt", "550 Callback verification failed: no such user x@example.org", *GUESSED),
    ("rcpt", "550 invalid user or password", *GUESSED),
    ("rcpt", "550 account disabled", *GUESSED),
    ("rcpt", "551 Account does not exist: please log in", *GUESSED),
    ("rcpt", "550 5.2.1 Sender account is disabled", *GUESSED),
    ("rcpt", "550 5.1.1 sender x@example.org not found", *GUESSED),
    ("rcpt", "550 The domain example.org is not found in your account", *GUESSED),
    ("rcpt", "451 4.1.0 Sender cannot be verified", "recipient", False, "deferred", True, 300),
    # A mailbox, in replies that read like those about the account.
    ("rcpt data dot", "550 5.2.1 This account has been disabled or discontinued", *DEAD),
    ("rcpt", "554 no such user here", *DEAD),
    ("rcpt", "511 sorry, no mailbox here by that name (#5.1.1 - chkuser)", *DEAD),
    ("rcpt", "550 x@example.org is not a valid recipient", *DEAD),
    ("rcpt data dot", "552 5.2.2 The account's mailbox quota is exceeded", *FULL),
    ("rcpt data dot", "550 Mailbox quota exceeded", *FULL),
    ("rcpt", "452 4.2.2 The email account that you tried to reach is over quota", *FULL),
    ("rcpt data dot", "550 5.7.1 Account quota exceeded", "recipient", False, "deferred", True, 300),
    ("mail data dot", "552 5.3.4 Message exceeds your size limit", "message", True, "too_large", True, None),
    ("dot", "552 Message exceeds your account's size limit", "message", True, "too_large", True, None),
    # The account's limit, in words that may also be about the recipient.
    ("rcpt", "550 5.7.1 This user has exceeded the sending limit", *USED_UP),
    ("rcpt", "550 5.2.0 The mailbox has exceeded its daily sending limit", *USED_UP),
    (
        "rcpt dot",
        "550 Domain example.org has exceeded the max emails per hour allowed",
        "recipient",
        False,
        "deferred",
        True,
        300,
    ),
    ("rcpt dot", "451 Maximum credits exceeded", "recipient", False, "deferred", True, 300),
    ("rcpt dot", "550 5.7.1 Too many messages", "recipient", False, "deferred", True, 30),
    ("rcpt dot", "552 5.2.2 no room for outgoing mail", "recipient", False, "deferred", True, 300),
    ("dot", "552 over quota", *FULL),
    ("rcpt", "450 4.7.1 Client host rejected: cannot find your hostname", *SERVED),
    # A detail nobody knows counts as its class.
    ("rcpt", "499 4.9.99 hm", "recipient", False, "deferred", True, 300),
    ("rcpt", "599 5.9.99 hm", "recipient", True, "rejected", True, None),
    ("dot", "499 4.9.99 hm", "message", False, "deferred", True, None),
    ("dot", "599 5.9.99 hm", "message", True, "rejected", True, None),
]


@pytest.mark.parametrize(
    ("phase", "said", "scope", "permanent", "reason", "counts", "delay"),
    [(Phase(phase), *rest) for phases, *rest in CELLS for phase in phases.split()],
)
def test_cell(
    phase: Phase, said: str, scope: str, permanent: bool, reason: str, counts: bool, delay: float | None
) -> None:
    verdict = classify(phase, reply(said), reused=False)
    assert (verdict.scope, verdict.permanent, verdict.reason) == (Scope(scope), permanent, reason)
    assert (verdict.uses_attempt, verdict.delay) == (counts, delay)


@pytest.mark.parametrize(
    "said",
    ["451 4.4.2 Timeout waiting for data from client", "421 4.4.2 idle too long", "450 what", "503 5.5.1 nested MAIL"],
)
def test_a_used_connection_that_fails_at_mail_is_stale(said: str) -> None:
    assert classify(Phase.mail, reply(said), reused=True).scope is Scope.stale
    assert classify(Phase.mail, reply(said), reused=False).scope is not Scope.stale
    assert classify(Phase.rcpt, reply(said), reused=True).scope is not Scope.stale


def test_a_used_connection_still_knows_a_rate_limit_and_a_bad_sender() -> None:
    assert (
        classify(Phase.mail, reply("454 Throttling failure: Maximum sending rate exceeded"), reused=True).scope
        is Scope.throttle
    )
    assert classify(Phase.mail, reply("550 5.7.1 sender"), reused=True).scope is Scope.configuration


@pytest.mark.parametrize("code", [500, 501, 502, 504, 555])
@pytest.mark.parametrize("enhanced", ["", "5.5.4 "])
@pytest.mark.parametrize("phase", [Phase.mail, Phase.rcpt])
def test_an_extension_refused_is_dropped(phase: Phase, enhanced: str, code: int) -> None:
    said = reply(f"{code} {enhanced}unknown parameter")
    verdict = classify(phase, said, reused=False, extended=True)
    assert (verdict.scope, verdict.permanent, verdict.uses_attempt) == (Scope.capability, False, False)
    assert classify(phase, said, reused=False).scope is not Scope.capability


def test_a_bad_address_is_not_blamed_on_an_extension() -> None:
    assert classify(Phase.rcpt, reply("501 5.1.3 bad address"), reused=False, extended=True).reason == "bad_address"


replies = st.builds(
    lambda code, detail, text: Reply.of(code, [f"{code // 100}.{detail} {text}" if detail else text]),
    st.integers(200, 599),
    st.sampled_from(["", "1.1", "1.10", "2.2", "3.1", "3.4", "4.5", "5.4", "6.7", "7.1", "7.28", "99.999"]),
    st.sampled_from(["", "rate", "Relay access denied", "daily quota", "greylisted", "user unknown"])
    | st.text(max_size=30),
)


@example(Phase.rcpt, Reply.of(421, ["4.2.2 mailbox full"]), False, False)
@given(st.sampled_from(Phase), replies, st.booleans(), st.booleans())
def test_whatever_is_said(phase: Phase, said: Reply, reused: bool, extended: bool) -> None:
    verdict = classify(phase, said, reused=reused, extended=extended)
    blames_the_event = verdict.scope in (Scope.recipient, Scope.message)
    assert verdict.uses_attempt == blames_the_event
    if verdict.permanent:
        assert said.code >= 500
        assert blames_the_event
    if phase not in (Phase.mail, Phase.rcpt, Phase.data, Phase.dot):
        assert verdict.scope in (Scope.server, Scope.configuration, Scope.connections)
    if said.code == 421:
        assert not verdict.uses_attempt
    assert verdict.reason.replace("_", "").isalpha()


def test_every_row_of_the_table_decides_something() -> None:
    """A row that another one hides is a mistake."""
    hit = set()
    said = [row[1] for row in CELLS] + ["451 4.4.2 Timeout", "501 5.5.4 unknown parameter"]
    for phase in Phase:
        for text in said:
            for flag in (False, True):
                verdict = classify(phase, reply(text), reused=flag, extended=flag)
                codes = f"{reply(text).code} {reply(text).enhanced or '-'}"
                hit.add(
                    next(
                        index
                        for index, row in enumerate(TABLE)
                        if phase in row.phases
                        and row.codes.match(codes)
                        and (row.text is None or row.text.search(reply(text).text))
                        and (flag or not (row.reused or row.extended))
                        and row.verdict is verdict
                    )
                )
    assert hit == set(range(len(TABLE)))


@pytest.mark.parametrize(
    "said",
    [
        *(f"550 {code} no" for code in ("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1")),
        "550 No such user", "550 Unrouteable address", "550 5.7.1 no such recipient here", "551 user unknown", "553 Invalid mailbox",
        "550 5.4.1 mailbox not found", "452 4.2.2 over quota", "450 4.2.1 busy", "450 4.1.1 try later",
        "450 mailbox busy", "451 4.7.1 greylisted",
    ],
)  # fmt: skip
def test_a_reply_about_a_mailbox_is_no_guess(said: str) -> None:
    assert classify(Phase.rcpt, reply(said), reused=False).if_shared is None


@pytest.mark.parametrize(
    ("phase", "said", "scope"),
    [
        ("rcpt", "550 5.7.1 policy", "configuration"),
        ("rcpt", "550 mailbox unavailable", "configuration"),
        ("rcpt", "454 4.7.1 Relay access denied", "configuration"),
        ("dot", "550 5.7.1 spam", "configuration"),
        ("dot", "554 Message rejected: Email address is not verified.", "configuration"),
        ("dot", "552 5.3.4 too big", "configuration"),
        ("rcpt", "451 4.7.1 Service unavailable - try again later", "server"),
        ("dot", "451 4.7.1 Service unavailable - try again later", "server"),
        ("rcpt", "450 4.7.1 rate limit exceeded", "throttle"),
        ("rcpt", "550 daily message limit", "quota"),
        ("rcpt", "550 sender address does not exist", "configuration"),
        ("rcpt", "550 5.1.1 sender x@example.org not found", "configuration"),
        ("rcpt", "451 4.1.0 Sender cannot be verified", "server"),
        ("rcpt", "550 account disabled", "configuration"),
        ("rcpt", "550 Domain example.org has exceeded the max emails per hour allowed", "quota"),
        ("dot", "550 Monthly message limit reached", "quota"),
        ("dot", "550 5.7.1 Too many messages", "throttle"),
    ],
)
def test_a_reply_that_may_concern_everybody_is_a_guess(phase: str, said: str, scope: str) -> None:
    verdict = classify(Phase(phase), reply(said), reused=False)
    assert verdict.scope in (Scope.recipient, Scope.message)
    assert verdict.if_shared is not None
    assert verdict.if_shared.scope == scope
