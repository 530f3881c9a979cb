"""The Django project of the story, driven with the real ORM. It has no signal, and one line of a migration knows us.

First what is captured, for every way in which Django writes a row; then what is mailed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models import Case, F, Value, When

from tests.fixtures.django_project import EXAMPLE, ConnectDjango
from tests.support.command import Pgherald
from tests.support.database import Database, Databases
from tests.support.mail import MailServer

CONFIG = ["--config", EXAMPLE / "pgherald.toml"]
SUBJECT = "Your DatePlan is now verified 🎉"

MakePlan = Callable[..., Any]


def run_django(url: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=EXAMPLE, capture_output=True, text=True, check=False,
        env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "config.settings"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def database(databases: Databases, django_migrated: str, connect_django: ConnectDjango) -> Iterator[Database]:
    """Made by Django's migrations, ours among them."""
    with databases.fresh(django_migrated) as database:
        connect_django(database.url)
        try:
            yield database
        finally:
            connections.close_all()


@pytest.fixture
def models(database: Database) -> Any:
    from dates import models

    return models


@pytest.fixture
def make_plan(models: Any) -> MakePlan:
    """An unsaved DatePlan of a new user at a new place."""
    number = 0

    def make(place: str = "Café Zürich", consent: bool = True, **fields: Any) -> Any:
        nonlocal number
        number += 1
        user = models.User.objects.create(
            username=f"user{number}", email=f"user{number}@example.org", email_notifications_enabled=consent
        )
        return models.DatePlan(user=user, plan=models.Plan.objects.create(place=place), **fields)

    return make


@pytest.fixture
def plan(make_plan: MakePlan) -> Any:
    """Pending, and in the database."""
    plan = make_plan()
    plan.save()
    return plan


@pytest.fixture
def plans(make_plan: MakePlan, models: Any) -> Any:
    """Three of them."""
    return models.DatePlan.objects.bulk_create(make_plan() for _ in range(3))


@pytest.fixture
def admin(models: Any) -> Any:
    """A browser, logged in as somebody who may do anything."""
    from django.test import Client

    client = Client(SERVER_NAME="localhost")
    client.force_login(models.User.objects.create(username="admin", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def captured(database: Database) -> Callable[[], list[int]]:
    """The keys of what was captured, in order."""

    def keys() -> list[int]:
        events = database.events()
        assert {(event["rule"], event["state"]) for event in events} <= {("dateplan_verified", "available")}
        return [int(event["key"]) for event in events]

    return keys


def ids(*plans: Any) -> list[int]:
    return [plan.pk for plan in plans]


class TestCapture:
    def test_save(self, plan: Any, captured: Any) -> None:
        assert captured() == []
        plan.status = "VE"
        plan.save()
        assert captured() == ids(plan)

    def test_saving_a_verified_row_again_and_again_is_no_news(self, plan: Any, models: Any, captured: Any) -> None:
        plan.status = "VE"
        for _ in range(3):
            plan.save()
        models.DatePlan.objects.get(pk=plan.pk).save()
        plan.save(force_update=True)
        assert captured() == ids(plan)

    def test_save_of_a_new_row_that_is_verified(self, make_plan: MakePlan, captured: Any) -> None:
        plan = make_plan(status="VE")
        plan.save()
        assert captured() == ids(plan)

    def test_create(self, make_plan: MakePlan, models: Any, captured: Any) -> None:
        unsaved = make_plan()
        plan = models.DatePlan.objects.create(user=unsaved.user, plan=unsaved.plan, status="VE")
        assert captured() == ids(plan)

    def test_save_with_update_fields(self, plan: Any, captured: Any) -> None:
        plan.status = "VE"
        plan.save(update_fields=["plan"])
        assert captured() == []
        plan.save(update_fields=["status"])
        assert captured() == ids(plan)

    def test_other_values_are_no_news(self, plan: Any, captured: Any) -> None:
        for status in ("CA", "PE", "CA"):
            plan.status = status
            plan.save()
        assert captured() == []

    def test_verified_withdrawn_and_verified_again_is_news_again(self, plan: Any, captured: Any) -> None:
        for status in ("VE", "PE", "VE"):
            plan.status = status
            plan.save()
        assert captured() == ids(plan, plan)

    def test_update(self, plans: Any, models: Any, captured: Any) -> None:
        assert models.DatePlan.objects.filter(pk__in=ids(*plans[:2])).update(status="VE") == 2
        assert sorted(captured()) == ids(*plans[:2])
        assert models.DatePlan.objects.update(status="VE") == 3
        assert sorted(captured()) == ids(*plans)

    def test_update_with_an_expression(self, plans: Any, models: Any, captured: Any) -> None:
        verified = Case(When(pk=plans[1].pk, then=Value("VE")), default=F("status"))
        assert models.DatePlan.objects.update(status=verified) == 3
        assert captured() == ids(plans[1])

    def test_bulk_update(self, plans: Any, models: Any, captured: Any) -> None:
        for plan in plans:
            plan.status = "VE"
        for _ in range(2):
            assert models.DatePlan.objects.bulk_update(plans, ["status"], batch_size=2) == 3
        assert sorted(captured()) == ids(*plans)

    def test_bulk_create(self, make_plan: MakePlan, models: Any, captured: Any) -> None:
        made = models.DatePlan.objects.bulk_create(make_plan(status=status) for status in ("VE", "PE", "VE"))
        assert captured() == ids(made[0], made[2])

    def test_bulk_create_that_updates_on_conflict(self, plans: Any, models: Any, captured: Any) -> None:
        for _ in range(2):
            rows = [models.DatePlan(pk=old.pk, user=old.user, plan=old.plan, status="VE") for old in plans]
            models.DatePlan.objects.bulk_create(
                rows, update_conflicts=True, update_fields=["status"], unique_fields=["id"]
            )
        assert sorted(captured()) == ids(*plans)

    def test_bulk_create_that_ignores_a_conflict(self, plan: Any, models: Any, captured: Any) -> None:
        row = models.DatePlan(pk=plan.pk, user=plan.user, plan=plan.plan, status="VE")
        models.DatePlan.objects.bulk_create([row], ignore_conflicts=True)
        assert captured() == []

    def test_get_or_create(self, make_plan: MakePlan, models: Any, captured: Any) -> None:
        unsaved = make_plan()
        created = []
        for _ in range(2):
            plan, new = models.DatePlan.objects.get_or_create(
                user=unsaved.user, plan=unsaved.plan, defaults={"status": "VE"}
            )
            created.append(new)
        assert created == [True, False]
        assert captured() == ids(plan)

    def test_update_or_create(self, plan: Any, make_plan: MakePlan, models: Any, captured: Any) -> None:
        unsaved = make_plan()
        made = [
            models.DatePlan.objects.update_or_create(user=one.user, plan=one.plan, defaults={"status": "VE"})
            for one in (plan, unsaved, plan, unsaved)
        ]
        assert [new for _, new in made] == [False, True, False, False]
        assert captured() == ids(plan, made[1][0])

    def test_a_committed_transaction(self, plan: Any, captured: Any) -> None:
        with transaction.atomic():
            plan.status = "VE"
            plan.save()
            assert captured() == [], "seen from outside before it was committed"
        assert captured() == ids(plan)

    def test_a_transaction_that_is_rolled_back(self, plan: Any, models: Any, captured: Any) -> None:
        with suppress(ZeroDivisionError), transaction.atomic():
            plan.status = "VE"
            plan.save()
            models.DatePlan.objects.update(status="VE")
            raise ZeroDivisionError
        assert captured() == []
        plan.refresh_from_db()
        assert plan.status == "PE"

    def test_a_savepoint_that_is_rolled_back(self, plans: Any, captured: Any) -> None:
        first, second, third = plans
        with transaction.atomic():
            first.status = "VE"
            first.save()
            with suppress(ZeroDivisionError), transaction.atomic():
                second.status = "VE"
                second.save()
                raise ZeroDivisionError
            with transaction.atomic():
                third.status = "VE"
                third.save()
        assert captured() == ids(first, third)

    def test_set_rollback(self, plan: Any, captured: Any) -> None:
        with transaction.atomic():
            plan.status = "VE"
            plan.save()
            transaction.set_rollback(True)
        assert captured() == []

    def test_on_commit(self, plans: Any, models: Any, captured: Any) -> None:
        first, second, _ = plans
        seen = []

        def after() -> None:
            seen.extend(captured())
            models.DatePlan.objects.filter(pk=second.pk).update(status="VE")

        with transaction.atomic():
            transaction.on_commit(after)
            models.DatePlan.objects.filter(pk=first.pk).update(status="VE")
        assert seen == ids(first)
        assert captured() == ids(first, second)

    def test_a_locked_row(self, plan: Any, models: Any, captured: Any) -> None:
        with transaction.atomic():
            locked = models.DatePlan.objects.select_for_update().get(pk=plan.pk)
            locked.status = "VE"
            locked.save()
        assert captured() == ids(plan)

    async def test_the_asynchronous_interface(self, make_plan: MakePlan, models: Any, captured: Any) -> None:
        # It works in a thread of Django's, which has a connection of its own.
        from asgiref.sync import sync_to_async

        try:
            plan = await sync_to_async(make_plan)()
            await plan.asave()
            await models.DatePlan.objects.filter(pk=plan.pk).aupdate(status="VE")
            assert captured() == ids(plan)
        finally:
            await sync_to_async(connections.close_all)()

    def test_the_admins_action(self, admin: Any, plans: Any, captured: Any) -> None:
        chosen = plans[:2]
        answer = admin.post(
            "/admin/dates/dateplan/", {"action": "mark_as_verified", "_selected_action": ids(*chosen)}, follow=True
        )
        assert "2 verified." in answer.content.decode()
        assert sorted(captured()) == ids(*chosen)

    def test_the_admins_form(self, admin: Any, plan: Any, captured: Any) -> None:
        form = {"user": plan.user.pk, "plan": plan.plan.pk, "status": "VE"}
        for _ in range(2):
            answer = admin.post(f"/admin/dates/dateplan/{plan.pk}/change/", form)
            assert answer.status_code == 302
        assert captured() == ids(plan)

    def test_plain_sql_in_django(self, plan: Any, captured: Any) -> None:
        with connection.cursor() as cursor:
            for _ in range(2):
                cursor.execute("UPDATE dates_dateplan SET status = %s WHERE id = %s", ["VE", plan.pk])
        assert captured() == ids(plan)

    def test_plain_sql_outside_of_django(self, plans: Any, database: Database, captured: Any) -> None:
        database.execute("UPDATE dates_dateplan SET status = 'VE'")
        assert sorted(captured()) == ids(*plans)


class TestMails:
    """The faults of the `post_save` signal that called `send_mail`, each shown not to happen, and the story."""

    @pytest.fixture
    def deliver(self, pgherald: Pgherald) -> Callable[[], None]:
        def once() -> None:
            pgherald(*CONFIG, "run", "--once", check=True)

        return once

    def test_the_story(
        self, admin: Any, make_plan: MakePlan, deliver: Any, mail: MailServer, pgherald: Pgherald
    ) -> None:
        willing, unwilling = make_plan("Café Zürich"), make_plan("The Old Mill", consent=False)
        willing.save()
        unwilling.save()
        admin.post(
            "/admin/dates/dateplan/", {"action": "mark_as_verified", "_selected_action": ids(willing, unwilling)}
        )
        assert mail.messages == [], "mailed within the request"
        deliver()
        [message] = mail.messages
        assert message.recipient == willing.user.email
        assert message.email["Subject"] == SUBJECT
        text = message.email.get_body(("plain",))
        assert text is not None
        assert "Congratulations! Your date plan at Café Zürich is now verified." in text.get_content()
        explained = pgherald(*CONFIG, "explain", "dateplan_verified", unwilling.pk, "--json", check=True)
        [event] = json.loads(explained.stdout)["events"]
        assert (event["state"], event["reason"]) == ("skipped", "no_consent")

    def test_one_mail_however_often_a_verified_row_is_saved(self, plan: Any, deliver: Any, mail: MailServer) -> None:
        plan.status = "VE"
        for _ in range(2):
            plan.save()
            plan.save()
            deliver()
        assert mail.recipients == [plan.user.email]

    def test_no_mail_of_what_was_rolled_back(
        self, plans: Any, deliver: Any, database: Database, mail: MailServer
    ) -> None:
        with suppress(ZeroDivisionError), transaction.atomic():
            plans[0].status = "VE"
            plans[0].save()
            raise ZeroDivisionError
        plans[1].status = "VE"
        plans[1].save()
        deliver()
        assert mail.recipients == [plans[1].user.email]
        assert [event["state"] for event in database.events()] == ["sent"]

    def test_a_mail_to_everybody_whom_an_update_concerns(
        self, make_plan: MakePlan, models: Any, deliver: Any, mail: MailServer
    ) -> None:
        plans = models.DatePlan.objects.bulk_create(make_plan(f"place {number}") for number in range(20))
        models.DatePlan.objects.update(status="VE")
        deliver()
        assert sorted(mail.recipients) == sorted(plan.user.email for plan in plans)

    def test_a_mail_server_that_is_down_neither_stops_a_request_nor_loses_a_mail(
        self, admin: Any, plan: Any, pgherald: Pgherald, mail: MailServer
    ) -> None:
        mail.stop()
        answer = admin.post("/admin/dates/dateplan/", {"action": "mark_as_verified", "_selected_action": ids(plan)})
        assert answer.status_code == 302
        with pgherald.daemon(*CONFIG) as daemon:
            daemon.wait_event("event_not_sent", reason="server")
            mail.start()
            mail.wait_for(1)
        assert mail.recipients == [plan.user.email]

    def test_a_running_daemon_hears_of_every_way_to_change_a_row(
        self, plans: Any, models: Any, pgherald: Pgherald, mail: MailServer
    ) -> None:
        first, second, third = plans
        with pgherald.daemon(*CONFIG):
            first.status = "VE"
            first.save()
            mail.wait_for(1)
            models.DatePlan.objects.filter(pk=second.pk).update(status="VE")
            mail.wait_for(2)
            with connection.cursor() as cursor:
                cursor.execute("UPDATE dates_dateplan SET status = 'VE' WHERE id = %s", [third.pk])
            mail.wait_for(3)
        assert mail.recipients == [plan.user.email for plan in plans]


class TestProject:
    def test_its_models_and_migrations_agree(self, database: Database) -> None:
        run_django(database.url, "-W", "error", "manage.py", "makemigrations", "--check", "--dry-run")
        run_django(database.url, "-W", "error", "manage.py", "check", "--fail-level", "WARNING")

    def test_it_loads_little_of_us(self, database: Database) -> None:
        """Its process keeps its environment, and starts as fast as without us."""
        script = """
import os, sys
before = dict(os.environ)
import django
django.setup()
import config.urls
from dates.models import DatePlan, Plan, User
user = User.objects.create(username="jane", email="jane@example.org")
plan = DatePlan.objects.create(user=user, plan=Plan.objects.create(place="Café Zürich"))
plan.status = "VE"
plan.save()
ours = {name for name in sys.modules if name.startswith("listener.")}
print(*sorted(name for name in ours if not name.startswith("listener.django")))
assert dict(os.environ) == before
assert "pydantic" not in sys.modules and "aiohttp" not in sys.modules
"""
        assert run_django(database.url, "-c", script).split() == ["listener.printable", "listener.resources"]
        assert len(database.events()) == 1

    def test_the_triggers_go_and_come_back_with_their_migration(self, plans: Any, database: Database) -> None:
        first, second, _ = plans
        run_django(database.url, "manage.py", "migrate", "dates", "0001", "--verbosity", "0")
        assert database.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pgherald%'") == 0
        first.status = "VE"
        first.save()
        run_django(database.url, "manage.py", "migrate", "--verbosity", "0")
        second.status = "VE"
        second.save()
        assert [event["key"] for event in database.events()] == [str(second.pk)]
        # The one that was verified meanwhile counts as having been there before.
        assert database.execute("SELECT key FROM pgherald.handled") == [(str(first.pk),)]

    def test_its_migration_is_one_operation(self, django_project: None) -> None:
        from importlib import import_module

        from listener.django.operations import Watch

        [operation] = import_module("dates.migrations.0002_pgherald").Migration.operations
        assert isinstance(operation, Watch)
