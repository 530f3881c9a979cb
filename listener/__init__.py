"""pgherald sends e-mail, exactly once, when a row in PostgreSQL reaches a state.

The folders, from the top: `cli` has the commands, `daemon` the process, and `web` its pages. `doctor`, `preview` and
`status` look at a running system. `worker` takes an event from its claim to its settlement. `outbox`, `notify` and `mail`
are its parts, and `admin`, `scaffold` and `demo` serve the commands. Below are `transport`, `db`, `config` and `smtp`.
`django` is an app for Django projects.

The modules beside this file are the ground: addresses, errors, the log, metrics and other things that every folder uses.
Imports point down only. The contract is in pyproject.toml, and `make check` holds it.
"""

__version__ = "0.1.0"
