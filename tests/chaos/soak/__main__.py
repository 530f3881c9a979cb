"""``python -m tests.chaos.soak --seconds 600 --seed 7``: exit status 0 if the promise was kept."""

import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import click

from tests.chaos.soak.report import report
from tests.chaos.soak.run import run
from tests.chaos.soak.schedule import CHANGES


@click.command(context_settings={"show_default": True})
@click.option("--seconds", default=60.0, help="How long changes are made; settling comes after.")
@click.option("--seed", type=int, help="Gives the same schedule again.  [default: a new one]")
@click.option("--changes", default=",".join(CHANGES), help="Only these schema changes.")
@click.option("--switchover", is_flag=True, help="Move to another server at the end, by logical replication.")
@click.option("--keep", is_flag=True, help="Keep the logs also when all is well.")
@click.option("--verbose", is_flag=True, help="Say each change as it comes.")
def main(seconds: float, seed: int | None, changes: str, switchover: bool, keep: bool, verbose: bool) -> None:
    """Change the application's database at random beside its writers, and compare what was promised with what came."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    names = changes.split(",")
    if unknown := set(names) - CHANGES.keys():
        raise click.UsageError(f"--changes: unknown {', '.join(sorted(unknown))}; choose from {', '.join(CHANGES)}")
    folder = Path(tempfile.mkdtemp(prefix="pgherald-soak-"))

    def say(line: str) -> None:
        if verbose:
            click.echo(line, err=True)

    try:
        outcome = asyncio.run(run(seed, seconds, names, folder, say, switchover=switchover))
    except BaseException:
        click.echo(f"seed {seed}: the run broke off; logs: {folder}", err=True)
        raise
    text = "\n".join(report(outcome))
    click.echo(text)
    if not outcome.wrong and not keep:
        shutil.rmtree(folder)
        return
    lines = [text, "", *(f"{word}: {what}" for word, what in outcome.wrong)]
    (folder / "report").write_text("\n".join(lines), encoding="utf-8")
    click.echo(f"logs: {folder}")
    sys.exit(1 if outcome.wrong else 0)


if __name__ == "__main__":
    main()
