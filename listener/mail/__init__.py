"""From a row to the bytes of a message."""
