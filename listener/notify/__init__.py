"""LISTEN/NOTIFY: one direct connection to the primary, the gate, and the locks that show a worker alive.

A capturing transaction rings by NOTIFY, but only while it has to. The gate tells it: an advisory lock that the capturing
transaction takes shared and the leader holds exclusively while it sleeps.

    clear the doorbell → drain → close the gate
        refused:  a transaction that did not ring is still open; drain again in a moment
        granted:  drain once more, with a new snapshot; sleep until rung; open the gate at once

A transaction that did not ring held the lock shared until its row was visible. So once the gate is closed, the last
drain sees that row. Every later transaction finds the gate closed and rings. Without the second drain, nobody would
hear of a row that became visible between the first drain and the lock.

Anybody who may connect can take these locks and use the channel. `Listener.is_rung` therefore tells whether a commit
wakes this worker at once. Where it does not, the worker polls every second.

This folder may import `db`, `retry`, `errors`, `logs` and `metrics`, and nothing that knows of events.
"""
