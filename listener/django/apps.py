"""The Django app."""

from django.apps import AppConfig
from django.core import checks

from listener.django.checks import check_rules


class PgheraldConfig(AppConfig):
    """The app `listener.django`, with the label `pgherald`."""

    name = "listener.django"
    label = "pgherald"
    verbose_name = "pgherald"

    def ready(self) -> None:
        """Register the system check. Django runs it in `check --database`, and before `migrate` and tests."""
        checks.register(check_rules, checks.Tags.database)
