"""doctor: what is wrong, and what to do."""

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path

import click

from listener.cli.options import configured, settings
from listener.cli.output import write_json, write_line
from listener.config.settings import Settings
from listener.doctor.checks import examine
from listener.doctor.result import CheckResult, State

_COLORS = {State.ok: "green", State.warn: "yellow", State.fault: "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--strict", is_flag=True, help="Exit status 1 on a warning too.")
@configured
def doctor(as_json: bool, strict: bool, config_file: Path | None) -> None:
    """Look for whatever keeps mail from going out: one line a check, with the remedy. Writes nothing, sends no mail.

    Needs no running daemon. Connect as the daemon's role to check its rights, as the owner to check every function.
    Exit status 1: there is a fault.

    \b
    Example:  pgherald doctor --json | jq '.[] | select(.state != "ok")'
    """
    findings = asyncio.run(_examine(settings(config_file), aloud=not as_json))
    if as_json:
        write_json([asdict(finding) for finding in findings])
    bad = {State.fault, State.warn} if strict else {State.fault}
    if any(finding.state in bad for finding in findings):
        sys.exit(1)


async def _examine(loaded: Settings, *, aloud: bool) -> list[CheckResult]:
    findings = []
    async for finding in examine(loaded):
        findings.append(finding)
        if aloud:
            _say(finding)
    return findings


def _say(finding: CheckResult) -> None:
    # Each as it is found: a mail server that is silent takes its time.
    state = click.style(f"{finding.state:<5}", fg=_COLORS[finding.state])
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    write_line(f"{finding.check}: {finding.seen}{remedy}", mark=f"{state}  ")
