"""An SMTP client that always knows whether the server took the message (RFC 5321).

The folder knows nothing of the configuration, the database or the outbox, and could be lifted out as a library.

``tcp`` connects, and ``session`` opens a session: TLS, greeting, EHLO and AUTH. ``logins`` says when to log in and ``sasl``
how; ``oauth`` gets access tokens. ``protocol`` then owns the bytes of the connection.
``commands`` builds the commands of one message and its body. ``connection`` sends the message and returns one value of
``outcome``. ``replies`` decides the meaning of each reply, and ``remedies``
says what the operator can do. ``pool`` reuses connections. ``breaker`` stops the sending
while the server fails.

The promise: each message ends in exactly one of five outcomes. The dot that ends the message decides::

    MAIL RCPT DATA ▶ 354 ▶ permission ▶ body ▶ dot ▶ reply
    │ refused,             │ not         │ not     │ in doubt until the reply is read,
    │ not sent             │ permitted   │ sent    │ then accepted or refused

It may import: ``address``, ``retry`` and the modules below these.
"""
