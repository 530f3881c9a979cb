"""Events in the outbox: claimed, marked, settled."""
