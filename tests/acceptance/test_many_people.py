"""Many people: the most that a row may have, many rows at once, several daemons, and one that is killed in between."""

from collections import Counter
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.backlog import doubted, states
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.people import add_crowds, with_people
from tests.support.smtpd import wait


@pytest.mark.slow
@pytest.mark.parametrize("people", [1000, 1001, 2500])
def test_a_row_has_a_thousand_people_at_most(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path, people: int
) -> None:
    config = with_people(database, tmp_path)
    database.verify(*add_crowds(database, 1, people))
    assert pgherald("run", "--once", "--config", config, timeout=120).returncode == 0
    if people <= 1000:
        assert len(set(mail.recipients)) == len(mail.recipients) == people
        assert states(database) == {"sent": people}
    else:
        [event] = database.events()
        assert (event["person"], event["state"], event["reason"]) == (None, "failed", "too_many")
        assert mail.messages == []


@pytest.mark.slow
def test_two_daemons_tell_each_person_once(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    """Also with more rows in a batch than one answer of the lookup may have."""
    config = with_people(database, tmp_path)
    plans = add_crowds(database, 600, 5)
    with pgherald.daemon("--config", str(config)), pgherald.daemon("--config", str(config)):
        database.verify(*plans)
        wait_until(lambda: states(database) == {"sent": 3000}, 120)
    assert Counter(Counter(mail.recipients).values()) == {1: 3000}


@pytest.mark.slow
def test_killed_at_500_of_2000_under_hold(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    """Nobody is told twice, and who is not told is in doubt and held."""
    config = with_people(database, tmp_path, '[delivery]\nin_doubt = "hold"\nlease = "2s"')
    plans = add_crowds(database, 500, 4)
    mail.script("dot", wait(0.01))
    with pgherald.daemon("--config", str(config)) as daemon:
        database.verify(*plans)
        wait_until(lambda: len(mail.messages) >= 500, 90)
        daemon.kill()
    with pgherald.daemon("--config", str(config)):
        wait_until(lambda: set(states(database)) <= {"sent", "in_doubt"} and states(database).total() == 2000, 120)
    assert Counter(Counter(mail.recipients).values()).keys() == {1}
    held = states(database)["in_doubt"]
    assert held == doubted(database)
    assert 2000 - held <= len(mail.recipients) <= 2000
    assert database.value("SELECT count(DISTINCT (key, person)) FROM pgherald.outbox") == 2000
