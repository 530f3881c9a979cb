"""Where messages go: to the mail server, into a folder, or onto the screen.

``base`` has the `Transport` protocol, the only thing that the worker knows of this folder. ``local`` has the two
transports that need no server. ``build`` makes the configured transport; for ``smtp`` that is `listener.smtp.pool`.

The promise: every transport keeps the same order, so that an event has the same life in each. First comes the
permission, which is the durable mark in the outbox, then the message, then the outcome.

It may import: ``config``, ``smtp`` and the modules below these.
"""
