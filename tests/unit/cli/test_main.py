"""Every command says what it does, with an example that it would take, and a shell can complete it."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from listener.cli.main import pgherald

PROGRAM = Path(sys.executable).parent / "pgherald"


def commands(
    group: click.Group = pgherald, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands())
assert len(ALL) > 20


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(pgherald, [*path, "--help"], prog_name="pgherald")
    assert done.exit_code == 0
    assert "\n  Example:  " in done.output
    for parameter in ALL[path].params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_the_example_parses(path: tuple[str, ...]) -> None:
    examples = [
        line.strip()
        for line in (ALL[path].help or "").splitlines()
        if "pgherald " in line and line.strip().startswith("Example:")
    ]
    assert examples
    for example in examples:
        words = shlex.split(example.partition("|")[0].partition(" < ")[0])
        named = words[words.index("pgherald") + 1 :]
        command: click.Command = pgherald
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), named.pop(0))
            assert found is not None
            command = found
        # Parsed, and not run.
        assert command.make_context(command.name, named, auto_envvar_prefix="PGHERALD_EXAMPLE")


def test_the_list_of_commands_has_whole_sentences() -> None:
    output = CliRunner().invoke(pgherald, ["--help"]).output
    assert all(word in output for word in (*(path[0] for path in ALL), "Exit status:", "_PGHERALD_COMPLETE"))
    assert "..." not in output.replace("[ARGS]...", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shell: str) -> None:
    done = subprocess.run(
        [PROGRAM],
        env={**os.environ, "_PGHERALD_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_PGHERALD_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("pgherald expl", {"explain"}),
        ("pgherald events re", {"retry", "resolve"}),
        ("pgherald events list --state in", {"in_doubt"}),
        ("pgherald run --log-f", {"--log-format"}),
    ],
)
def test_what_is_completed(words: str, expected: set[str]) -> None:
    asked = {"_PGHERALD_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run([PROGRAM], env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == expected
