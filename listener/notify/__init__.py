"""LISTEN/NOTIFY: the connection, the listener, the gate."""
