"""Many events at once, and what became of them."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime

from tests.support import PATIENCE, wait_until
from tests.support.command import Daemon
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"


def add_plans(database: Database, number: int, name: str = "u") -> range:
    """So many plans of so many users: ``u1@example.org``, and on."""
    rows = database.execute(
        """WITH u AS (INSERT INTO public.users (email, email_notifications_enabled)
                      SELECT %(name)s || g || '@example.org', true FROM generate_series(1, %(n)s) AS g RETURNING id),
                p AS (INSERT INTO public.plan (place) VALUES ('Café') RETURNING id)
           INSERT INTO public.dateplan (user_id, plan_id) SELECT u.id, p.id FROM u, p ORDER BY u.id RETURNING id""",
        {"n": number, "name": name},
    )
    ids = [row[0] for row in rows]
    return range(min(ids), max(ids) + 1)


def states(database: Database) -> Counter[str]:
    return Counter(dict(database.execute("SELECT state, count(*) FROM pgherald.outbox GROUP BY state")))


def reasons(database: Database) -> list[tuple[str, str | None]]:
    """Return each event's state and its reason, in the order of their capture."""
    return [(event["state"], event["reason"]) for event in database.events()]


def doubted(database: Database) -> int:
    """Events that were in doubt at any time."""
    found = database.value('SELECT count(*) FROM pgherald.outbox WHERE history @> \'[{"what": "in_doubt"}]\'')
    assert isinstance(found, int)
    return found


def wait_sent(database: Database, number: int, timeout: float = PATIENCE) -> None:
    """Until all are sent, and nothing is anything else."""
    try:
        wait_until(lambda: states(database) == {"sent": number}, timeout)
    except AssertionError:
        raise AssertionError(f"not all {number} were sent within {timeout:g} s: {dict(states(database))}") from None


def times_each(servers: Iterable[MailServer]) -> Counter[int]:
    """How many recipients got one mail, how many two, and on."""
    return Counter(Counter(recipient for server in servers for recipient in server.recipients).values())


def most_lines_a_second(daemon: Daemon) -> int:
    """The most that the daemon gave the same warning within any one second, but for those about an event."""
    said: dict[str, list[float]] = defaultdict(list)
    for event in daemon.events:
        if event["level"] == "warning" and "event_id" not in event:
            said[event["event"]].append(datetime.fromisoformat(event["timestamp"]).timestamp())
    return max(
        (
            bisect_left(moments, moment + 1) - number
            for moments in said.values()
            for number, moment in enumerate(moments)
        ),
        default=0,
    )
