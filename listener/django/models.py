"""The outbox, for the admin and for an application's own queries. Django only reads it."""

from typing import Any

from django.db import models


class NoRows(models.Manager):
    """A manager without rows. `dumpdata` reads the default manager of every model."""

    def get_queryset(self) -> Any:
        """Return a queryset that finds nothing, without a query."""
        return super().get_queryset().none()


class Event(models.Model):
    """A captured change and what became of it. The address and the message in transit are not among its fields.

    `objects` reads the outbox. The role needs USAGE on the schema and SELECT on these columns: docs/django.md. `dumpdata`
    leaves events out: it would fail without these rights, and `loaddata` could not write them.
    """

    class State(models.TextChoices):
        """The states of docs/state-machine.md."""

        AVAILABLE = "available", "available"
        CLAIMED = "claimed", "claimed"
        TRANSMITTING = "transmitting", "transmitting"
        IN_DOUBT = "in_doubt", "in doubt"
        SENT = "sent", "sent"
        SKIPPED = "skipped", "skipped"
        FAILED = "failed", "failed"

    id = models.BigIntegerField(primary_key=True)
    rule = models.TextField()
    key = models.TextField(help_text="primary key of the row")
    state = models.TextField(choices=State)
    reason = models.TextField(null=True)
    attempt = models.IntegerField(help_text="attempts used")
    in_doubt_count = models.IntegerField(help_text="how often it was unknown whether the email was sent")
    captured_at = models.DateTimeField()
    scheduled_at = models.DateTimeField(null=True, help_text="empty: in doubt, and waiting for a person's decision")
    settled_at = models.DateTimeField(null=True)
    history = models.JSONField()
    person = models.TextField(null=True, help_text="whom a rule with `each` tells; empty: all people of the row")
    objects = models.Manager()
    dumped = NoRows()

    class Meta:
        """The table belongs to pgherald: migrations and the test runner leave it alone."""

        managed = False
        default_manager_name = "dumped"
        db_table = '"pgherald"."outbox"'
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"event {self.pk}"
