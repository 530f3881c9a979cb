"""The advisory locks that pgherald uses. ``sql/triggers.sql`` lists the same numbers; a test compares both.

Each is a pair of integers: a space and a number in it. Any role that may connect can take any of them, see
`listener.db.foreign_locks`.
"""

from typing import NamedTuple


class AdvisoryLock(NamedTuple):
    """One lock. As text it is the argument list of ``pg_advisory_lock``."""

    space: int
    number: int

    def __str__(self) -> str:
        return f"{self.space}, {self.number}"


# Held shared by a transaction that captured an event; held exclusively by the leader while it sleeps.
GATE = AdvisoryLock(726354, 1)
# Held by the daemon that operates the gate.
LEADER = AdvisoryLock(726354, 2)
# Held by install, uninstall, watch() and unwatch(), so that one runs at a time.
INSTALLER = AdvisoryLock(726354, 3)
# Held by a worker's session, with the random number from its row in pgherald.worker: it shows that the worker is alive.
PRESENCE_SPACE = 726355
# Held by a backfill, with the hash of its rule's name: one a rule.
BACKFILL_SPACE = 726356
