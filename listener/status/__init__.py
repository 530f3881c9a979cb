"""A daemon's health and the state of the outbox, as the page, `top`, the metrics and the probes show them.

- `overview` reads the outbox's state with a few bounded queries. `overview_cache` lets many readers share one query.
- `problems` says what is wrong in an overview, the worst first.
- `health` judges whether each part of this daemon makes progress. `/readyz` reports it.

Neither changes anything. Both work while the database is unavailable: the overview is then None, and health says so.
The folder may import `worker` and everything below it (the contract is in pyproject.toml).
"""
