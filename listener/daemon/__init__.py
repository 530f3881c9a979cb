"""One running daemon: it is put together, reloaded on SIGHUP, and stopped here.

`daemon` is the composition root. It connects the parts, starts their tasks and handles the signals. `tasks` runs the
background tasks; one that fails ends the daemon, which would otherwise deliver nothing without a sign. `reload` makes a
`Runtime` of the configuration, at the start and on SIGHUP. `systemd` speaks to the service manager.

A second SIGTERM ends the process at once. Nothing is lost then: marked events come into doubt, and another worker claims
the others.

This folder may import everything but `cli`.
"""
