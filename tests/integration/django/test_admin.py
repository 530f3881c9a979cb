"""The admin's view of events, asked as a browser asks, on a real outbox."""

import html
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.django_project import ConnectDjango
from tests.support.database import Database, Databases

LIST = "/admin/pgherald/event/"
PAGE = (Path(__file__).parents[3] / "docs" / "django.md").read_text(encoding="utf-8")
EVENTS = """
    INSERT INTO pgherald.outbox (rule, key, state, reason, settled_at, scheduled_at, history, recipient) VALUES
        ('dateplan_verified', '7', 'sent', NULL, now(), now(),
         '[{"at": "2026-01-01", "what": "sent", "detail": "<b>250 OK</b>"}]', NULL),
        ('dateplan_verified', '77', 'failed', 'refused', now(), now(), '[]', NULL),
        ('order_paid', '7', 'available', NULL, NULL, now(), '[]', 'jane@example.org'),
        ('order_paid', E'<i>\\u202eevil', 'skipped', 'no_consent', now(), now(), '"edited"', NULL)
"""


@pytest.fixture
def database(databases: Databases, django_migrated: str, connect_django: ConnectDjango) -> Iterator[Database]:
    from django.db import connections

    with databases.fresh(django_migrated) as database:
        connect_django(database.url)
        database.execute(EVENTS)
        yield database
        connections.close_all()


def log_in(**fields: Any) -> Any:
    from dates.models import User
    from django.test import Client

    client = Client(SERVER_NAME="localhost")
    client.force_login(User.objects.create(username="person", is_staff=True, **fields))
    return client


@pytest.fixture
def admin(database: Database) -> Any:
    return log_in(is_superuser=True)


def shown(admin: Any, url: str) -> list[str]:
    """The ids of a list's events."""
    answer = admin.get(url)
    assert answer.status_code == 200
    return re.findall(r"/event/(\d+)/change/", answer.content.decode())


def test_the_list(admin: Any) -> None:
    assert shown(admin, LIST) == ["4", "3", "2", "1"]
    text = admin.get(LIST).content.decode()
    assert "<i>" not in text.partition("result_list")[2]
    assert html.escape("<i>") + "\N{REPLACEMENT CHARACTER}evil" in text
    assert "jane@example.org" not in text


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("?state__exact=failed", ["2"]),
        ("?rule=order_paid", ["4", "3"]),
        ("?reason=no_consent", ["4"]),
        ("?reason__isnull=True", ["3", "1"]),
        ("?q=7", ["3", "1"]),
        ("?q=%20", ["4", "3", "2", "1"]),
        ("?q=%27%3B--", []),
    ],
)
def test_filters_and_search(admin: Any, query: str, ids: list[str]) -> None:
    assert shown(admin, LIST + query) == ids


def test_the_filters_offer_what_there_is(admin: Any) -> None:
    text = admin.get(LIST).content.decode()
    for query in ("?rule=dateplan_verified", "?rule=order_paid", "?reason=refused", "?reason__isnull=True"):
        assert query in text


def test_an_event(admin: Any) -> None:
    text = admin.get(f"{LIST}1/change/").content.decode()
    assert html.escape("<b>250 OK</b>") in text
    assert "Save" not in text
    assert "edited" in admin.get(f"{LIST}4/change/").content.decode()
    assert "jane@example.org" not in admin.get(f"{LIST}3/change/").content.decode()


def test_nobody_can_change_anything(admin: Any, database: Database) -> None:
    before = json.dumps(database.events(), default=str)
    assert admin.get(f"{LIST}add/").status_code == 403
    assert admin.get(f"{LIST}1/delete/").status_code == 403
    assert admin.post(f"{LIST}1/delete/", {"post": "yes"}).status_code == 403
    assert admin.post(f"{LIST}1/change/", {"state": "sent"}).status_code == 403
    admin.post(LIST, {"action": "delete_selected", "_selected_action": ["1"], "post": "yes"})
    assert json.dumps(database.events(), default=str) == before


def test_staff_need_the_permission(database: Database) -> None:
    from dates.models import User
    from django.contrib.auth.models import Permission

    client = log_in()
    assert client.get(LIST).status_code == 403
    of_events = Permission.objects.filter(content_type__app_label="pgherald")
    assert [permission.codename for permission in of_events] == ["view_event"]
    User.objects.get().user_permissions.add(of_events.get())
    assert client.get(LIST).status_code == 200


def test_the_documented_rights_suffice(admin: Any, database: Database) -> None:
    from django.db import connection

    grants = re.search(r"GRANT USAGE ON SCHEMA.*?pgherald\.rule TO shop;", PAGE, re.DOTALL)
    assert grants is not None
    database.execute(
        grants[0].replace("TO shop", "TO pg_monitor") + "GRANT ALL ON ALL TABLES IN SCHEMA public TO pg_monitor"
    )
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE pg_monitor")
    assert shown(admin, f"{LIST}?q=7") == ["3", "1"]
    assert admin.get(f"{LIST}1/change/").status_code == 200
    with pytest.raises(Exception, match="permission denied"), connection.cursor() as cursor:
        cursor.execute("SELECT recipient FROM pgherald.outbox")


@pytest.mark.parametrize("page", [LIST, f"{LIST}?q=7", f"{LIST}1/change/"])
@pytest.mark.parametrize("in_transaction", [True, False])
def test_without_rights_there_is_a_message(admin: Any, database: Database, page: str, in_transaction: bool) -> None:
    """Also in a transaction, as with ATOMIC_REQUESTS: it goes on."""
    from django.db import connection, transaction

    database.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO pg_monitor")
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE pg_monitor")
    with transaction.atomic() if in_transaction else nullcontext():
        answer = admin.get(page, follow=True)
    assert answer.status_code == 200
    assert "events cannot be read: permission denied for schema pgherald; install pgherald" in html.unescape(answer.content.decode())  # fmt: skip


def test_without_the_schema_there_is_a_message(admin: Any, database: Database) -> None:
    database.execute("DROP SCHEMA pgherald CASCADE")
    answer = admin.get(LIST, follow=True)
    assert 'events cannot be read: relation "pgherald.outbox" does not exist' in html.unescape(answer.content.decode())


def test_a_large_outbox_is_not_counted(admin: Any, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from listener.django import admin as module

    monkeypatch.setattr(module, "_MAX_EVENTS", 3)
    monkeypatch.setattr(module.EventAdmin, "list_per_page", 2)
    assert shown(admin, f"{LIST}?p=2") == ["2"]
    assert "3 events" in admin.get(LIST).content.decode()
    assert "?reason=refused" in admin.get(LIST).content.decode()


def test_a_search_uses_the_indexes(database: Database) -> None:
    """The two parts of a search, as PostgreSQL plans them when a scan of the table is dear."""
    from django.db import connection

    from listener.django.models import Event

    of_row = Event.objects.filter(key="7").values_list("pk", flat=True)
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
    plans = [of_row.exclude(state="available")[:5].explain(), of_row.filter(state="available")[:5].explain()]
    assert "outbox_key_idx" in plans[0]
    assert "outbox_available_idx" in plans[1]
