"""The events of ``pgherald.outbox``, as a worker claims, marks and settles them.

``store`` has the queries, and ``event`` the records that they read and write. ``registration`` knows which worker this
is and until when its lease lasts. ``batch_writer`` collects marks and outcomes, so that one flush of the WAL serves all
that arrive during the flush before it. ``rate_limit`` shares the sending rate among all daemons, and ``stats`` counts
outcomes.

Every state that a worker writes, and the states in which an event may end::

    available ─claim▶ claimed ─mark▶ transmitting ─settle▶ sent, failed
        ▲                │                 │
        └────release─────┴▶ skipped        └▶ in_doubt: nobody knows whether the server took the message

The promises: each claim has a number of its own, the fence. Every write names it, and changes nothing once another
worker has claimed the event. A mark is durable before the message's final dot can be sent.

It may import: ``db``, ``config``, ``address``, ``retry`` and the modules below these.
"""
