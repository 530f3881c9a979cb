"""The daemon's HTTP server: probes, metrics, the status page and the unsubscribe page.

- `server` binds the port and assembles the routes. A port that cannot be bound never stops delivery, unless it was
  configured.
- `probes` answers ``/livez``, ``/readyz`` and ``/metrics``.
- `page` and `stream` serve the status page and its live updates. `auth` decides who may act on it.
- `unsubscribe` answers the only path that is meant for the public. `wording` has its words in several languages.
- `security` checks the Host header, sets the security headers and keeps exceptions out of responses.

`static/` and `templates/` hold the files of the page. Everything from a row passes Jinja's autoescaping and `excerpt`.
The folder may import `doctor`'s level and below: `status`, `admin`, `mail`, `notify`, `db`, `config`. Only the daemon
imports it, and only if a port is configured, because aiohttp is slow to import.
"""
