"""The demo: a temporary PostgreSQL server, an SMTP server that keeps messages, and a small application that changes rows.

- `cluster` starts the server in a temporary folder and removes both. `binaries` finds its programs, `data_folder` runs
  initdb, and `keeper` cleans up if this process is killed.
- `catcher` is an SMTP server that keeps what it receives.
- `plans` is the application; `daemon` runs `pgherald run` as a process of its own; `show` plays it all and prints it.

The tests and benchmarks use `cluster` too. The folder needs the extra ``pgherald[demo]`` and may import `db`, `config`
and the ground.
"""
