"""Connections to PostgreSQL, the named queries, and the installed schema."""
