"""Bounces and complaints: what a mail server or a provider learns after it has accepted a message.

`mime` splits an email from anywhere with bounded work, and `dsn` reads the report in it. `record` writes the report into its
event and runs the rule's statement `bounced`. The message id in the report leads to the event, so that nothing is stored to
find it, and no address is kept.

Everything here is hostile until `message_id` has found one of our keys. A report of the same or a milder class than one
before changes nothing. One that cannot be recorded leaves no trace, so that it can be sent again.

The commands and the HTTP server use this folder. It imports from `smtp` the meaning of replies, and the ground below.
"""
