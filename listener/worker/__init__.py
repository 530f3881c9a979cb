"""An event's way from claim to settlement, as one worker (one daemon) goes it.

    loop ─▶ claimer ─▶ decider ─▶ delivery ─▶ sender ─▶ outbox/batch_writer
              │ claim     who may      compose    mark, send,
              │           get it?                 settle
            in_flight: what is claimed and not yet settled

The worker promises at most one message for each event, unless a reply got lost. It marks an event before the final dot
can be sent. It sends the dot only if the mark is written and its lease is valid. The lease shows the other workers that
this one is alive. A worker whose lease or session has ended is dead, and another worker rescues its events.

One `Runtime` holds everything that a configuration determines. An event keeps its runtime to its end.

This folder may import `mail`, `outbox`, `notify`, `transport`, `db` and what lies below them.
"""
