"""Sizes that the outbox and the message agree on, in octets."""

MAX_MESSAGE = 1_000_000
# The longest row key that is read, as in the query `claim` and the function pgherald.shown().
MAX_KEY = 16_384
