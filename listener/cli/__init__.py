"""The command line: one module for each command, or for the commands that `pgherald --help` prints together.

A module here reads the options, calls the folder that does the work, and prints. It has no SQL.

The folder promises that each error is one line on stderr that names the place and the remedy. The exit status is 0, 1 for
an error, or 2 for wrong usage. Text from rows, servers and other roles cannot drive the terminal, because all output goes
through `output`.

`main` imports a command's module when the command is called, so that `--help` and completion stay fast. Modules here may
import every other folder.
"""
