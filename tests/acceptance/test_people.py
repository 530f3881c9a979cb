"""A rule with `each` tells every person of a row: each has an event, a consent and an outcome of their own."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support import repeats, wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.doctor import Examine
from tests.support.mail import MailServer
from tests.support.people import LOOKUP, add_person, add_plan, invite, leave, with_people

Outcome = tuple[str | None, str, str | None]


def outcomes(database: Database) -> list[Outcome]:
    """Return the person, the state and the reason of each event."""
    return sorted(((event["person"], event["state"], event["reason"]) for event in database.events()), key=str)


@pytest.mark.parametrize("number", [*map(repeats, (0, 1, 3, 4, 5)), 2])
def test_each_person_of_a_row_gets_one_email(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path, number: int
) -> None:
    config = with_people(database, tmp_path)
    people = [add_person(database, f"u{n}") for n in range(number)]
    database.verify(add_plan(database, *people))
    assert pgherald("run", "--once", "--config", config).returncode == 0
    assert sorted(mail.recipients) == [f"u{n}@example.org" for n in range(number)]
    if number:
        assert outcomes(database) == sorted(((str(person), "sent", None) for person in people), key=str)
    else:
        assert outcomes(database) == [(None, "skipped", "row_gone")]
    captures = database.execute(
        "SELECT count(DISTINCT (captured_at, captured_xid)), count(DISTINCT id) FROM pgherald.outbox"
    )
    assert captures == [(1, max(1, number))]
    identifiers = {message.email["Message-ID"] for message in mail.messages}
    assert len(identifiers) == number


def test_every_person_is_decided_about_alone(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    """One says no, one has no address, and one reads German."""
    config = with_people(database, tmp_path)
    yes, no, nowhere, german = (
        add_person(database, "yes"),
        add_person(database, "no", consent=False),
        add_person(database, ""),
        add_person(database, "de", language="de"),
    )
    database.verify(add_plan(database, yes, no, nowhere, german))
    assert pgherald("run", "--once", "--config", config).returncode == 0
    assert {(person, reason) for person, _, reason in outcomes(database)} == {
        (str(yes), None),
        (str(no), "no_consent"),
        (str(nowhere), "no_recipient"),
        (str(german), None),
    }
    subjects = {message.recipient: message.email["Subject"] for message in mail.messages}
    assert set(subjects) == {"yes@example.org", "de@example.org"}
    assert subjects["yes@example.org"] != subjects["de@example.org"]


@pytest.mark.slow
def test_who_left_is_not_told_and_who_joined_later_neither(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    config = with_people(database, tmp_path)
    stays, leaves, joins = (add_person(database, name) for name in ("stays", "leaves", "joins"))
    plan = add_plan(database, stays, leaves)
    database.verify(plan)
    mail.stop()
    pgherald("run", "--once", "--config", config)
    assert [person for person, *_ in outcomes(database)] == [str(stays), str(leaves)]
    leave(database, plan, leaves)
    invite(database, plan, joins)
    mail.start()
    pgherald("events", "retry", "dateplan_verified", "--yes", "--config", config)
    assert pgherald("run", "--once", "--config", config).returncode == 0
    assert outcomes(database) == [(str(stays), "sent", None), (str(leaves), "skipped", "row_gone")]
    assert mail.recipients == ["stays@example.org"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("NULL::bigint", "without a person"),
        ("''", "without a person"),
        ("7", "more than once"),
        ("repeat('x', 201) || g.user_id", "more than 200 characters"),
    ],
)
def test_people_that_cannot_be_told_apart(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path, column: str, says: str
) -> None:
    """Nobody is told, rather than one person twice."""
    config = with_people(database, tmp_path)
    text = config.read_text(encoding="utf-8").replace("g.user_id AS person", f"{column} AS person")
    config.write_text(text, encoding="utf-8")
    database.verify(add_plan(database, add_person(database, "a"), add_person(database, "b")))
    assert pgherald("run", "--once", "--config", config).returncode == 0
    [event] = database.events()
    assert (event["person"], event["state"], event["reason"]) == (None, "failed", "ambiguous")
    assert says in event["history"][-1]["detail"]
    assert mail.messages == []


def test_several_rows_without_each_name_it(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    config = with_people(database, tmp_path, each="")
    database.verify(add_plan(database, add_person(database, "a"), add_person(database, "b")))
    assert pgherald("run", "--once", "--config", config).returncode == 0
    [event] = database.events()
    assert (event["state"], event["reason"]) == ("failed", "ambiguous")
    assert "`each`" in event["history"][-1]["detail"]


def test_a_second_change_tells_each_person_once_more(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    config = with_people(database, tmp_path)
    people = [add_person(database, name) for name in ("a", "b", "c")]
    plan = add_plan(database, *people)
    for _ in range(2):
        database.verify(plan)
        assert pgherald("run", "--once", "--config", config).returncode == 0
        database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (plan,))
    assert Counter(mail.recipients) == dict.fromkeys((f"{name}@example.org" for name in "abc"), 2)


@pytest.mark.slow
def test_two_changes_that_wait_together_tell_each_person_once(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    """Also if the first one is spread already, and its people wait."""
    config = with_people(database, tmp_path)
    people = [add_person(database, name) for name in ("a", "b", "c")]
    plan = add_plan(database, *people)

    def change() -> None:
        database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (plan,))
        database.verify(plan)

    # One event is spread, and its people wait when the row changes again.
    change()
    mail.stop()
    pgherald("run", "--once", "--config", config)
    assert len(database.events()) == 3
    change()
    change()
    mail.start()
    database.execute("UPDATE pgherald.outbox SET scheduled_at = now()")
    with pgherald.daemon("--config", str(config)):
        # The first person of the second change waits until the email of the first one has arrived.
        wait_until(lambda: {event["state"] for event in database.events()} == {"sent", "skipped"})
    assert Counter(mail.recipients) == dict.fromkeys((f"{name}@example.org" for name in "abc"), 1)


def test_the_row_left_the_value_before_it_was_spread(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    config = with_people(database, tmp_path)
    plan = add_plan(database, add_person(database, "a"), add_person(database, "b"))
    database.verify(plan)
    database.execute("UPDATE public.dateplan SET status = 'PE'")
    assert pgherald("run", "--once", "--config", config).returncode == 0
    assert outcomes(database) == [(None, "skipped", "reverted")]


@pytest.mark.slow
def test_each_was_switched_off_with_events_of_people_waiting(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    """Nobody gets the email of another, whatever the lookup returns now."""
    config = with_people(database, tmp_path)
    database.verify(add_plan(database, *(add_person(database, name) for name in "ab")))
    mail.stop()
    pgherald("run", "--once", "--config", config)
    mail.start()
    config.write_text(config.read_text(encoding="utf-8").replace('each = """person"""', ""), encoding="utf-8")
    database.execute("DELETE FROM public.guest WHERE user_id = (SELECT max(user_id) FROM public.guest)")
    database.execute("UPDATE pgherald.outbox SET scheduled_at = now()")
    assert pgherald("run", "--once", "--config", config).returncode == 0
    assert {event["reason"] for event in database.events()} == {"ambiguous"}
    assert mail.messages == []


def details(event: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(entry["what"], entry["detail"]) for entry in event["history"]]


@pytest.mark.slow
def test_the_history_says_where_an_event_comes_from(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    config = with_people(database, tmp_path)
    people = [add_person(database, name) for name in "ab"]
    plan = add_plan(database, *people)
    database.verify(plan)
    assert pgherald("run", "--once", "--config", config).returncode == 0
    first, second = database.events()
    assert ("spread", "to 2 people") in details(first)
    assert details(second)[0] == ("spread", f"from event {first['id']}")
    shown = pgherald("explain", "dateplan_verified", plan, "--config", config).stdout
    for event in (first, second):
        assert f"event {event['id']}, for {event['person']}: sent" in shown


@pytest.mark.parametrize(
    ("each", "column", "says"),
    [
        ("", "g.user_id", "several rows for 1 of the newest keys"),
        ("person", "7", "more than once"),
        ("person", "g.user_id", None),
    ],
)
def test_doctor_finds_people_that_cannot_be_told(
    database: Database, doctor: Examine, tmp_path: Path, each: str, column: str, says: str | None
) -> None:
    """Such a lookup runs, and every event of the row would fail."""
    lookup = LOOKUP.replace("g.user_id AS person", f"{column} AS person")
    config = with_people(database, tmp_path, each=each, lookup=lookup)
    add_plan(database, add_person(database, "a"), add_person(database, "b"))
    found = doctor(PGHERALD_CONFIG=str(config))
    result = found["lookup dateplan_verified"]
    if says is None:
        assert (result.state, found["template dateplan_verified"].state) == ("ok", "ok"), result
    else:
        assert result.state == "fault", result
        assert says in result.seen
        assert "each" in result.remedy or "person" in result.remedy


@pytest.mark.slow
def test_again_after_holds_for_each_person_alone(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    """The second event is repeated for the one who was told, and sent to those who were not."""
    config = with_people(database, tmp_path, again_after="7d")
    told, refused, joins = (
        add_person(database, "told"),
        add_person(database, "no", consent=False),
        add_person(database, "new"),
    )
    plan = add_plan(database, told, refused)
    database.verify(plan)
    assert pgherald("run", "--once", "--config", config).returncode == 0
    invite(database, plan, joins)
    database.execute("UPDATE public.users SET email_notifications_enabled = true WHERE id = %s", (refused,))
    database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (plan,))
    database.verify(plan)
    assert pgherald("run", "--once", "--config", config).returncode == 0
    assert Counter(mail.recipients) == Counter(["told@example.org", "no@example.org", "new@example.org"])
    assert Counter(outcomes(database)) == Counter(
        [
            (str(told), "sent", None),
            (str(refused), "skipped", "no_consent"),
            (str(told), "skipped", "repeated"),
            (str(refused), "sent", None),
            (str(joins), "sent", None),
        ]
    )
    # The next change finds that all of them were told.
    database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (plan,))
    database.verify(plan)
    assert pgherald("run", "--once", "--config", config).returncode == 0
    assert len(mail.recipients) == 3
    assert [reason for _, _, reason in outcomes(database)].count("repeated") == 4
