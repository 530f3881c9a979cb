"""Addresses as people paste them: the mailbox that is meant gets the email, and two addresses get none."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path

from listener.demo.catcher import Catcher, CaughtMessage
from tests.support.backlog import reasons
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

MEANT = {
    "try..this..0511@docomo.ne.jp": '"try..this..0511"@docomo.ne.jp',
    "xxx.@docomo.ne.jp": '"xxx."@docomo.ne.jp',
    "\ufeffbom@example.org": "bom@example.org",
    "mailto:url@example.org": "url@example.org",
    "list@example.org;": "list@example.org",
    '"Doe, Jane" <jane@example.org>': "jane@example.org",
    "wide\uff20example.org": "wide@example.org",
}
TWO = ["a@example.org, b@example.org", "mailto:a@example.org?bcc=b@example.org", "a@example.org <b@example.org>"]


@contextlib.contextmanager
def catching(caught: list[CaughtMessage]) -> Iterator[str]:
    """Run the catcher, which is aiosmtpd, and yield its URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    catcher = Catcher(caught.append)
    asyncio.run_coroutine_threadsafe(catcher.__aenter__(), loop).result()
    try:
        yield catcher.url
    finally:
        asyncio.run_coroutine_threadsafe(catcher.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_the_mailbox_that_is_meant_gets_the_mail(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.verify(*(database.add_plan("Café", email) for email in (*MEANT, *TWO)))
    assert pgherald("run", "--once").returncode == 0
    received = mail.wait_for(len(MEANT))
    assert sorted(mail.recipients) == sorted(MEANT.values())
    for each in received:
        assert each.rcpt_parameters == ("NOTIFY=FAILURE",)
        assert f"\r\nTo: {each.recipient}\r\n" in each.data.decode()
        [to] = each.email["To"].addresses
        # The parser removes the quotes.
        assert f"{to.username}@{to.domain}" == each.recipient.replace('"', "")
        assert not each.email["To"].defects
    assert [reason for reason in reasons(database) if reason[0] != "sent"] == [("failed", "bad_address")] * len(TWO)


def test_another_server_reads_the_quoted_form_too(database: Database, pgherald: Pgherald) -> None:
    caught: list[CaughtMessage] = []
    with catching(caught) as url:
        database.verify(*(database.add_plan("Café", email) for email in MEANT))
        assert pgherald("run", "--once", env={"PGHERALD_SMTP_URL": url}).returncode == 0
    # aiosmtpd removes the quotes.
    expected = sorted(address.replace('"', "") for address in MEANT.values())
    assert sorted(recipient for each in caught for recipient in each.recipients) == expected
    for each in caught:
        [to] = message_from_bytes(each.content, policy=policy.default)["To"].addresses
        assert [f"{to.username}@{to.domain}"] == each.recipients


def test_the_policy_compares_the_address_that_is_meant(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    allowed = 'try..THIS..0511@docomo.ne.jp;,mailto:"xxx."@docomo.ne.jp,bom@EXAMPLE.org.'
    database.verify(*(database.add_plan("Café", email) for email in MEANT))
    assert pgherald("run", "--once", env={"PGHERALD_MAIL_ALLOWED_RECIPIENTS": allowed}).returncode == 0
    assert sorted(mail.recipients) == sorted(list(MEANT.values())[:3])
    assert "jane" not in str(database.events())
