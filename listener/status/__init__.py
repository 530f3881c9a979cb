"""What the daemon and the outbox are doing."""
