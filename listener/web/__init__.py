"""The daemon's HTTP server: probes, metrics, the status page, the unsubscribe page and webhooks.

- `server` binds the port and assembles the routes. A port that cannot be bound never stops delivery, unless it was
  configured.
- `connections` limits their number, so that delivery always has descriptors.
- `probes` answers ``/livez``, ``/readyz`` and ``/metrics``.
- `page` and `stream` serve the status page and its live updates. `auth` decides who may act on it.
- `unsubscribe` answers the path that recipients open. `wording` has its words in several languages.
- `bounces` answers the path that mail providers post to. Both paths are public, and nothing else is.
- `security` checks the Host header, sets the security headers and keeps exceptions out of responses.

`static/` and `templates/` hold the files of the page. Everything from a row passes Jinja's autoescaping and `excerpt`.
The folder may import `bounces`, `doctor`'s level and below: `status`, `admin`, `mail`, `notify`, `db`, `config`. Only the daemon
imports it, and only if a port is configured, because aiohttp is slow to import.
"""
