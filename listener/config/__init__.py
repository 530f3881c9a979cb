"""The configuration: `pgherald.toml`, the environment, and the options of the command line.

The folder promises that a `Settings` object is complete and valid. `settings.load` reports every fault at once. Each one
names the file or the variable, the section and the key, says what is wrong, and says what to write instead. A value that
may hold a password is never repeated, neither in an error nor in a `repr`.

`settings` reads the sources. `sections` has a class for each section, and `rules` the class of a rule. `fields` says which
values a setting takes, `environment` reads the variables, and `problems` words the errors. `keys` has the key of a row as
text.

Everything here is frozen. A reload builds a new `Settings` object. Modules here import `smtp` (for the description of a
server, not for the client), `recipients`, `address` and the modules below those.
"""
