"""Everything about the PostgreSQL connection: sessions, pools, errors, named queries, and the installed schema.

``connection`` opens sessions that cannot run another role's functions by accident, and ``pooler`` finds out whether a
pooler is in between. ``pool`` keeps connections for reuse, and ``pools`` has one recipe for each use. ``errors``
translates the driver's exceptions, and nothing above this folder handles those. ``queries`` loads ``sql/queries``.
``install`` and ``schema`` put the database objects there and check them. ``keys`` builds a row's key as text, and
``owner`` reads a table with no more than its owner's rights.
``locks`` lists the advisory locks, and ``foreign_locks`` finds sessions that hold one without being a worker.

The promises: no call hangs, because a silent server is cut off after a time limit. No row of the application is quoted
in an error. Sessions work through a transaction pooler too.

It may import: ``config``, ``address``, ``retry`` and the modules below these.
"""
