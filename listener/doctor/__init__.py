"""The checks of `pgherald doctor`: each looks at one thing that can keep emails from going out, and names the remedy.

- `checks` lists the checks and runs them, those of several rules at the same time. One that fails never hides another.
- `server`, `schema`, `privacy`, `triggers`, `value` and `notifications` look at the database; `lookup`, `templates` and
  `smtp` at the way from a row to the mail server.
- `rights` writes the GRANTs that a role lacks. `fold` makes one line of equal results.
- A check is an async function from `context.Context` to `result.Finding`. It raises `NotChecked` if it cannot decide.

No check writes to the database, and none sends an email. No daemon has to run. A remedy is a command or a statement that
can be copied wherever there is one. The folder may import `worker` and everything below it, as the contract in
pyproject.toml says.
"""
