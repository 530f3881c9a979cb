"""The schema changes by name, and their order: the same seed gives the same order."""

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence

from tests.chaos.soak import capture_changes, partition_changes, schema_changes, surroundings
from tests.chaos.soak.stage import SoakStage

CHANGES: dict[str, Callable[[SoakStage], Awaitable[None]]] = {
    change.__name__: change
    for change in (
        schema_changes.add_and_drop_column,
        schema_changes.change_type_of_looked_up_column,
        schema_changes.change_type_of_key,
        schema_changes.swap_key_column,
        schema_changes.rename_looked_up_column,
        schema_changes.swap_table,
        partition_changes.make_partition,
        partition_changes.attach_partition,
        partition_changes.detach_and_attach_partition,
        partition_changes.truncate_partition,
        capture_changes.disable_triggers,
        capture_changes.disable_triggers_of_partition,
        capture_changes.drop_trigger,
        capture_changes.change_type_of_watched_column,
        capture_changes.add_enum_label,
        capture_changes.rename_other_enum_label,
        capture_changes.rename_watched_enum_label,
        surroundings.revoke_from_daemon,
        surroundings.row_security,
        surroundings.row_security_without_policy,
        surroundings.change_owner_of_table,
        surroundings.change_owner_of_schema,
        surroundings.set_for_role,
        surroundings.set_for_database,
        surroundings.terminate_daemons_sessions,
        surroundings.dump,
        surroundings.maintain_outbox,
    )
}


def schedule(seed: int, names: Sequence[str]) -> Iterator[str]:
    """Yield the names of changes without end. Each comes once before any comes again."""
    chance = random.Random(f"{seed} schedule")
    while True:
        yield from chance.sample(names, len(names))
