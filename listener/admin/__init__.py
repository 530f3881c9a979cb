"""Actions on the outbox and questions about it, for the commands and the admin page.

``events`` finds events and retries, discards or resolves them, and pauses rules. ``history`` tells what happened to a
row. ``backfill`` creates events for rows that the triggers missed. ``retention`` deletes old events, and ``status``
counts.

The promises: an action changes only events that are in a state it applies to, and writes the person's name into their
history. It never touches an event that a worker has claimed, and never sends again what was sent.

It may import: ``db``, ``config``, ``address``, ``retry`` and the modules below these.
"""
