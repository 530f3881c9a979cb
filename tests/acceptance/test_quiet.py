"""An idle daemon with a long poll hardly uses the database, and still sends at once."""

import re
import time

import pytest

from listener.demo.cluster import Cluster
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import OPTIONS, Database, chosen_binaries, fill_with_story
from tests.support.mail import MailServer

pytestmark = pytest.mark.slow
STATEMENT = re.compile(r"(?:statement|execute [^:\n]*): ")


@pytest.mark.parametrize(
    ("settings", "least", "most"), [({}, 300, 700), ({"POLL": "10m", "LEASE": "10m"}, 0, 20)], ids=["default", "quiet"]
)
def test_how_many_statements_an_idle_daemon_sends_in_a_minute(
    mail: MailServer, pgherald: Pgherald, settings: dict[str, str], least: int, most: int
) -> None:
    env = {f"PGHERALD_DELIVERY_{name}": value for name, value in settings.items()}
    with Cluster(chosen_binaries(), {**OPTIONS, "log_statement": "all"}) as cluster:
        fill_with_story(cluster.dsn())
        database = Database(cluster.dsn())
        with pgherald.daemon(
            env={**env, "PGHERALD_DATABASE_URL": cluster.dsn(), "PGHERALD_HTTP_LISTEN": "off"}
        ) as daemon:
            daemon.wait_event("leading")
            # The measurement itself: a minute after the start, without a look at the database.
            began = time.monotonic()
            wait_until(lambda: time.monotonic() > began + 5)
            before = len(STATEMENT.findall(cluster.log.read_text()))
            wait_until(lambda: time.monotonic() > began + 65, timeout=90)
            assert least <= len(STATEMENT.findall(cluster.log.read_text())) - before <= most
            database.verify(database.add_plan("Café", "jane@example.org"))
            mail.wait_for(1)
        database.close()
