"""The demo's daemon: `pgherald run` as a process of its own, and the commands that are asked about it."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from listener.errors import PgheraldError
from listener.resources import resource


@asynccontextmanager
async def running_daemon(url: str, smtp_url: str) -> AsyncIterator[str | None]:
    """Run the daemon; yields the address of its status page, None where it could not have a port.

    Raises:
        PgheraldError: it did not start; says why.
    """
    daemon = await asyncio.create_subprocess_exec(
        *_command("run", "--log-format", "json"), env=_environment(url, smtp_url), stderr=asyncio.subprocess.PIPE
    )
    assert daemon.stderr is not None
    try:
        page = await _ready(daemon.stderr)
        # Its log goes on, and a full pipe would stop it.
        swallowing = asyncio.create_task(_swallow(daemon.stderr))
        yield page
    finally:
        if daemon.returncode is None:
            daemon.terminate()
            await daemon.wait()
    await swallowing


async def explain(url: str, smtp_url: str, rule: str, key: int) -> str:
    """Return what `pgherald explain` prints about a row.

    Raises:
        PgheraldError: the command failed; repeats its error.
    """
    asking = await asyncio.create_subprocess_exec(
        *_command("explain", rule, str(key)), env=_environment(url, smtp_url),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, error = await asking.communicate()
    if asking.returncode != 0:
        raise PgheraldError(f"pgherald explain {rule} {key} failed: {error.decode(errors='replace').strip()}")
    return said.decode(errors="replace").rstrip()


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "listener", "--config", os.devnull, *arguments]


def _environment(url: str, smtp_url: str) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PGHERALD_", "PG"))}
    # In a checkout nothing is installed, and the working directory may be another.
    path = [str(resource("").parent), *filter(None, [outside.get("PYTHONPATH")])]
    return {
        **outside,
        "PYTHONPATH": os.pathsep.join(path),
        "PGHERALD_DATABASE_URL": url,
        "PGHERALD_SMTP_URL": smtp_url,
        "PGHERALD_MAIL_FROM": "Date Plans <no-reply@example.org>",
    }


async def _ready(log: asyncio.StreamReader) -> str | None:
    """Wait until the daemon says that it is ready; the address of its page, which it says before."""
    page = said = None
    async for line in log:
        said = line.decode(errors="replace").strip()
        try:
            event = json.loads(said)
        except ValueError:
            continue
        if event.get("event") == "http_listening":
            page = event["url"]
        elif event.get("event") == "ready":
            return page
    raise PgheraldError(f"the daemon did not start: {said or 'it said nothing'}")


async def _swallow(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass
