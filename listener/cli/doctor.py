"""doctor: find problems, each with its remedy."""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import click

from listener.cli.options import config_option, json_option, load_settings
from listener.cli.output import write_json, write_line
from listener.config.settings import Settings
from listener.doctor.checks import examine
from listener.doctor.fold import folded
from listener.doctor.result import CheckResult, State

_COLORS = {State.ok: "green", State.warn: "yellow", State.fault: "red"}


@click.command()
@json_option
@click.option("--strict", is_flag=True, help="Exit with status 1 on a warning too.")
@config_option
def doctor(as_json: bool, strict: bool, config_file: Path | None) -> None:
    """Find what keeps email from going out: one line for each check, with its remedy.

    Equal lines are one. `--json` has each check.

    Changes nothing, sends no email, and needs no running daemon. Connect as the daemon's role to check its rights, and as
    the owner to check every function. Exit status 1: at least one check reports a fault.

    \b
    Example:  pgherald doctor --json | jq '.[] | select(.state != "ok")'
    """
    checks = asyncio.run(_examine(load_settings(config_file), show=not as_json))
    if as_json:
        write_json([asdict(check) for check in checks])
    bad = {State.fault, State.warn} if strict else {State.fault}
    if any(check.state in bad for check in checks):
        sys.exit(1)


async def _examine(loaded: Settings, *, show: bool) -> list[CheckResult]:
    """Return all checks. Show those of the mail server as soon as they are made, since a silent one takes its time."""
    checks = []

    async def made() -> AsyncIterator[CheckResult]:
        async for check in examine(loaded):
            checks.append(check)
            yield check

    async for line in folded(made()):
        if show:
            _show(line)
    return checks


def _show(check: CheckResult) -> None:
    state = click.style(f"{check.state:<5}", fg=_COLORS[check.state])
    remedy = f" -> {check.remedy}" if check.remedy else ""
    write_line(f"{check.check}: {check.seen}{remedy}", mark=f"{state}  ")
