"""The admin's read-only view of events. Each page reads a bounded part of an outbox that may hold millions of them."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db import DatabaseError, router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join

from listener.django.models import Event
from listener.printable import printable

# Pages, filters and searches look at this many events, the newest. Counting all of them would read the whole table.
_MAX_EVENTS = 10_000


class NewestPaginator(Paginator):
    """Pages of the newest events."""

    @cached_property
    def count(self) -> int:
        """Return the number of events, at most the limit."""
        return int(self.object_list[:_MAX_EVENTS].count())


class NewestValuesFilter(admin.AllValuesFieldListFilter):
    """A filter by the values that the newest events have."""

    def __init__(self, field: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(field, *arguments, **options)
        newest = Event.objects.order_by("-pk").values_list(field.name, flat=True)[:_MAX_EVENTS]
        self.lookup_choices = sorted(set(newest), key=str)


@admin.register(Event)
class EventAdmin(admin.ModelAdmin):
    """Events with their history. Nobody may add, change or delete one here."""

    list_display = (
        "id",
        "shown_rule",
        "shown_key",
        "shown_person",
        "state",
        "shown_reason",
        "attempt",
        "captured_at",
        "settled_at",
    )
    list_filter = ("state", ("rule", NewestValuesFilter), ("reason", NewestValuesFilter))
    search_fields = ("key",)
    search_help_text = "The primary key of a row, as a whole."
    ordering = ("-pk",)
    sortable_by = ()
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = NewestPaginator
    actions = None
    fields = (
        "shown_rule", "shown_key", "shown_person", "state", "shown_reason", "attempt", "in_doubt_count", "captured_at",
        "scheduled_at", "settled_at", "shown_history",
    )  # fmt: skip
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Event | None = None) -> bool:
        """Refuse. Retry and discard events with `pgherald events`."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Event | None = None) -> bool:
        """Refuse. `pgherald purge` deletes old events."""
        return False

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return all events, in the order of the list."""
        return Event.objects.order_by(*self.ordering)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Return the events of one row. In two parts, so that each can use an index of the outbox."""
        term = search_term.strip()
        if not term:
            return queryset, False
        of_row = Event.objects.filter(key=term).values_list("pk", flat=True)
        waiting = Event.State.AVAILABLE
        ids = [*of_row.exclude(state=waiting)[:_MAX_EVENTS], *of_row.filter(state=waiting)[:_MAX_EVENTS]]
        return queryset.filter(pk__in=ids), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the list, or the reason why events cannot be read."""
        return self._unreadable(request) or super().changelist_view(request, extra_context)

    def changeform_view(self, request: HttpRequest, *arguments: Any, **options: Any) -> HttpResponse:
        """Show an event, or the reason why events cannot be read."""
        return self._unreadable(request) or super().changeform_view(request, *arguments, **options)

    def _unreadable(self, request: HttpRequest) -> HttpResponse | None:
        """Return a redirect to the admin's front page, with a message, if this database's events cannot be read."""
        try:
            # A savepoint: the error would end a transaction around the request.
            with transaction.atomic(using=router.db_for_read(Event)):
                Event.objects.order_by("-pk").first()
        except DatabaseError as error:
            reason = str(error).strip().partition("\n")[0]
            self.message_user(
                request,
                f"pgherald's events cannot be read: {printable(reason)}; install pgherald in this database, or grant the "
                "role of Django what docs/django.md lists.",
                messages.ERROR,
            )
            return HttpResponseRedirect(reverse("admin:index", current_app=self.admin_site.name))
        return None

    @admin.display(description="rule")
    def shown_rule(self, event: Event) -> str:
        """Return the rule without invisible characters."""
        return printable(event.rule)

    @admin.display(description="key")
    def shown_key(self, event: Event) -> str:
        """Return the row's key without invisible characters."""
        return printable(event.key)

    @admin.display(description="person")
    def shown_person(self, event: Event) -> str:
        """Return the person without invisible characters."""
        return "-" if event.person is None else printable(event.person)

    @admin.display(description="reason")
    def shown_reason(self, event: Event) -> str:
        """Return the reason without invisible characters."""
        return "-" if event.reason is None else printable(event.reason)

    @admin.display(description="history")
    def shown_history(self, event: Event) -> object:
        """Return the history as a table. Somebody may have edited it into something other than a list of entries."""
        rows = format_html_join("", "<tr><td>{}</td><td>{}</td><td>{}</td></tr>", _entries(event.history))
        return format_html("<table>{}</table>", rows)


def _entries(history: object) -> Iterator[tuple[str, str, str]]:
    for entry in history if isinstance(history, list) else [history]:
        known = entry if isinstance(entry, dict) else {"what": entry}
        at, what, detail = (known.get(name) for name in ("at", "what", "detail"))
        yield printable(str(at or "")), printable(str(what or "")), printable(str(detail or ""))
