"""pgherald tells people by e-mail, exactly once, when a row in PostgreSQL reaches a state."""

__version__ = "0.1.0"
