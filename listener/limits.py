"""Sizes that several folders must agree on, in bytes."""

# Larger than any email that people read, and small enough that a worker can hold several in memory.
MAX_MESSAGE_BYTES = 1_000_000
# The longest key of a row that is read. The query `claim` and the function pgherald.shown() have the same limit.
MAX_KEY_BYTES = 16_384
