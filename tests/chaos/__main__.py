"""``python -m tests.chaos --seconds 60 --policy hold --seed 7``: exit status 0 if the promise was kept."""

import asyncio
import secrets
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from tests.chaos import mutants
from tests.chaos.plan import KINDS
from tests.chaos.report import report
from tests.chaos.stage import Options
from tests.chaos.storm import run


@click.command(context_settings={"show_default": True})
@click.option("--seconds", default=60.0, help="How long faults are inflicted, by each policy; healing comes after.")
@click.option("--seed", type=int, help="Gives the same schedule again.  [default: a new one]")
@click.option("--daemons", default=3, type=click.IntRange(1))
@click.option("--policy", default="both", type=click.Choice(["resend", "hold", "both"]))
@click.option("--kinds", default=",".join(KINDS), help="Only faults of these kinds.")
@click.option("--mutant", type=click.Choice(list(mutants.MUTANTS)), help="With this bug put in; the run must fail.")
@click.option(
    "--provoke", type=click.Choice(list(mutants.MUTANTS)), help="With what brings this bug to light, but without it."
)
@click.option("--fsync/--no-fsync", default=False, help="Whether PostgreSQL waits for the disk.")
@click.option("--keep", is_flag=True, help="Keep the logs also when all is well.")
@click.option("--verbose", is_flag=True, help="Say each fault as it comes.")
def main(
    seconds: float, seed: int | None, daemons: int, policy: str, kinds: str, mutant: str | None, provoke: str | None, fsync: bool, keep: bool, verbose: bool
) -> None:  # fmt: skip
    """Hurt daemons, database, network and mail server at random, and compare what was promised with what came."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    options = Options(seed, seconds, daemons, kinds=tuple(kinds.split(",")), fsync=fsync)
    if chosen := mutant or provoke:
        options = replace(mutants.provoking(options, chosen), mutant=mutant)
    kept = True
    for each in ("resend", "hold"):
        if policy in (each, "both"):
            kept = _one(replace(options, policy=each), keep=keep, verbose=verbose) and kept
    sys.exit(0 if kept else 1)


def _one(options: Options, *, keep: bool, verbose: bool) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="pgherald-chaos-"))
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if verbose:
            click.echo(line, err=True)

    try:
        outcome = asyncio.run(run(options, folder, say))
    except BaseException:
        click.echo(f"seed {options.seed}, policy {options.policy}: the run broke off; logs: {folder}", err=True)
        raise
    text = "\n".join(report(outcome))
    click.echo(text)
    if not outcome.findings.wrong and not keep:
        shutil.rmtree(folder)
        return True
    (folder / "report").write_text(
        "\n".join([*lines, "", text, "", *map(str, outcome.findings.wrong)]), encoding="utf-8"
    )
    click.echo(f"logs: {folder}")
    return not outcome.findings.wrong


if __name__ == "__main__":
    main()
