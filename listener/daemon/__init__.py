"""One running daemon: start, reload, stop, and what systemd is told."""
