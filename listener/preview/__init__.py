"""Messages to look at: `pgherald preview` and `pgherald send-test`.

``sample`` makes one message of a rule from a row of the database, as the daemon would make it. ``page`` shows such
messages on one HTML page, as readers and servers see them. ``send_test`` sends one real message.

The promises: a preview changes nothing in the database and sends nothing. Its Message-ID and its link to unsubscribe
are made up, so that they work nowhere.

It may import: ``worker`` for the lookup, ``mail``, ``outbox``, ``transport``, ``db``, ``config`` and the modules below
these.
"""
