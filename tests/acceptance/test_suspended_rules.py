"""A rule whose lookup breaks while the daemon runs is suspended, and its events wait."""

from tests.support import wait_until
from tests.support.backlog import states
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer


def test_a_rule_that_breaks_while_running_is_held_and_nothing_fails(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    with pgherald.daemon() as daemon:
        plan = database.add_plan("Café", "a@example.org")
        database.execute("ALTER TABLE public.users RENAME COLUMN email_notifications_enabled TO consent")
        database.verify(plan)
        daemon.wait_event("rule_suspended")
        wait_until(lambda: states(database) == {"available": 1})
        database.execute("ALTER TABLE public.users RENAME COLUMN consent TO email_notifications_enabled")
        mail.wait_for(1)
    assert states(database) == {"sent": 1}
