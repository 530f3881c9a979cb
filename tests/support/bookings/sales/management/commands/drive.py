"""Write orders in every way that the ORM knows. Each way has buyers of its own: ``save-1@example.org`` of `save`, …

The test says which of them must hear of it.
"""

import asyncio
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection, transaction
from django.db.models import Case, F, Value, When
from people.models import Contact, Person, Preferences

from sales.models import Order

PAID, REFUNDED = Order.Status.PAID, Order.Status.REFUNDED


class Undo(Exception):
    """Rolls a transaction back."""


def buyer(login: str, *, consent: bool | None = True, address: bool = True) -> Person:
    person = Person.objects.create(login=login)
    if address:
        Contact.objects.create(person=person, email=f"{login}@example.org")
    if consent is not None:
        Preferences.objects.create(person=person, wants_email=consent)
    return person


def orders(way: str, number: int = 1, **fields: Any) -> list[Order]:
    return [Order.objects.create(buyer=buyer(f"{way}-{n}"), **fields) for n in range(1, number + 1)]


def pay(order: Order, **options: Any) -> None:
    order.status = PAID
    order.save(**options)


def of(some: list[Order]) -> Any:
    return Order.objects.filter(pk__in=[each.pk for each in some])


def save(way: str) -> None:
    [order] = orders(way)
    for _ in range(3):
        pay(order)


def save_fields(way: str) -> None:
    one, two = orders(way, 2)
    pay(one, update_fields=["total"])
    pay(two, update_fields=["status"])


def save_other(way: str) -> None:
    [order] = orders(way)
    order.total = 20
    order.save()


def create(way: str) -> None:
    Order.objects.create(buyer=buyer(f"{way}-1"), status=PAID)


def get_or_create(way: str) -> None:
    person = buyer(f"{way}-1")
    for _ in range(2):
        Order.objects.get_or_create(buyer=person, defaults={"status": PAID})


def update_or_create(way: str) -> None:
    [order] = orders(way)
    for person in (order.buyer, buyer(f"{way}-2")):
        for _ in range(2):
            Order.objects.update_or_create(buyer=person, defaults={"status": PAID})


def update(way: str) -> None:
    some = orders(way, 3)
    of(some[:2]).update(status=PAID)
    of(some[:2]).update(status=PAID)


def update_related(way: str) -> None:
    [order] = orders(way)
    order.buyer.orders.update(status=PAID)


def update_expression(way: str) -> None:
    some = orders(way, 3)
    of(some[1:]).update(deposit=F("total") / 2 + 5)
    covered = Case(When(deposit__gte=F("total"), then=Value(PAID)), default=F("status"))
    of(some).update(status=covered, total=F("total") + 1)


def update_other(way: str) -> None:
    of(orders(way, 2)).update(total=F("total") * 2)


def bulk_update(way: str) -> None:
    some = orders(way, 5)
    for order in some[1:4]:
        order.status = PAID
    Order.objects.bulk_update(some, ["status"], batch_size=2)


def bulk_create(way: str) -> None:
    Order.objects.bulk_create(
        Order(buyer=buyer(f"{way}-{n}"), status=status) for n, status in enumerate((PAID, "open", PAID), 1)
    )


def bulk_create_conflicts(way: str) -> None:
    one, two = orders(way, 2)
    rows = [Order(pk=one.pk, buyer=one.buyer, status=PAID), Order(pk=two.pk, buyer=two.buyer)]
    Order.objects.bulk_create(rows, update_conflicts=True, update_fields=["status"], unique_fields=["id"])
    Order.objects.bulk_create([Order(pk=two.pk, buyer=two.buyer, status=PAID)], ignore_conflicts=True)


def atomic(way: str) -> None:
    one, two = orders(way, 2)
    with transaction.atomic():
        locked = Order.objects.select_for_update().get(pk=one.pk)
        pay(locked)
        of([two]).update(status=PAID)


def rollback(way: str) -> None:
    one, two = orders(way, 2)
    with suppress(Undo), transaction.atomic():
        pay(one)
        of([two]).update(status=PAID)
        raise Undo


def savepoint(way: str) -> None:
    some = orders(way, 3)
    with transaction.atomic():
        pay(some[0])
        with suppress(Undo), transaction.atomic():
            pay(some[1])
            raise Undo
        pay(some[2])


def reverted(way: str) -> None:
    """Paid and refunded in one transaction: nobody outside has seen it paid."""
    [order] = orders(way)
    with transaction.atomic():
        pay(order)
        order.status = REFUNDED
        order.save()


def deleted(way: str) -> None:
    [order] = orders(way)
    with transaction.atomic():
        pay(order)
        order.delete()


def on_commit(way: str) -> None:
    one, two = orders(way, 2)
    with transaction.atomic():
        transaction.on_commit(lambda: pay(two))
        pay(one)


def asynchronous(way: str) -> None:
    async def run() -> None:
        await order.asave()
        await of([other]).aupdate(status=PAID)

    order, other = orders(way, 2)
    order.status = PAID
    asyncio.run(run())


def raw_sql(way: str) -> None:
    one, two = orders(way, 2)
    with connection.cursor() as cursor:
        for _ in range(2):
            cursor.execute('UPDATE "sales"."order" SET status = %s WHERE id = %s', [PAID, one.pk])
        cursor.execute('UPDATE sales."order" SET total = 1, status = status WHERE id = %s', [two.pk])


def raw_query(way: str) -> None:
    [order] = orders(way)
    [changed] = Order.objects.raw('UPDATE sales."order" SET status = %s WHERE id = %s RETURNING *', [PAID, order.pk])
    assert changed.status == PAID


def people(way: str) -> None:
    """One says no, one has said nothing, one has no address, one moves, and one says yes."""
    some = [
        buyer(f"{way}-1", consent=False),
        buyer(f"{way}-2", consent=None),
        buyer(f"{way}-3", address=False),
        buyer(f"{way}-4"),
        buyer(f"{way}-5"),
    ]
    with transaction.atomic():
        Order.objects.bulk_create(Order(buyer=person, status=PAID) for person in some)
        Contact.objects.filter(person=some[3]).update(email=f"{way}-moved@example.org")


WAYS = [
    save, save_fields, save_other, create, get_or_create, update_or_create, update, update_related, update_expression,
    update_other, bulk_update, bulk_create, bulk_create_conflicts, atomic, rollback, savepoint, reverted, deleted,
    on_commit, asynchronous, raw_sql, raw_query, people,
]  # fmt: skip


class Command(BaseCommand):
    def handle(self, **_: Any) -> None:
        for way in WAYS:
            name = way.__name__.replace("_", "-")
            way(name)
            self.stdout.write(name)
