"""The demo's daemon, `pgherald run` as a process of its own, and the command `pgherald explain`."""

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
    """Run the daemon and yield the URL of its status page, or None if it could bind no port.

    Raises:
        PgheraldError: the daemon did not start.
    """
    daemon = await asyncio.create_subprocess_exec(
        *_command("run", "--log-format", "json"), env=_environment(url, smtp_url), stderr=asyncio.subprocess.PIPE
    )
    assert daemon.stderr is not None
    try:
        page = await _ready(daemon.stderr)
        # The daemon keeps logging, and a full pipe would block it.
        draining = asyncio.create_task(_drain(daemon.stderr))
        yield page
    finally:
        if daemon.returncode is None:
            daemon.terminate()
            await daemon.wait()
    await draining


async def explain(url: str, smtp_url: str, rule: str, key: int) -> str:
    """Return the output of `pgherald explain` for a row.

    Raises:
        PgheraldError: the command failed.
    """
    process = await asyncio.create_subprocess_exec(
        *_command("explain", rule, str(key)), env=_environment(url, smtp_url),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, error = await process.communicate()
    if process.returncode != 0:
        raise PgheraldError(f"pgherald explain {rule} {key} failed: {error.decode(errors='replace').strip()}")
    return output.decode(errors="replace").rstrip()


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "listener", "--config", os.devnull, *arguments]


def _environment(url: str, smtp_url: str) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PGHERALD_", "PG"))}
    # In a checkout nothing is installed, and the working directory may be a different one.
    path = [str(resource("").parent), *filter(None, [outside.get("PYTHONPATH")])]
    return {
        **outside,
        "PYTHONPATH": os.pathsep.join(path),
        "PGHERALD_DATABASE_URL": url,
        "PGHERALD_SMTP_URL": smtp_url,
        "PGHERALD_MAIL_FROM": "Date Plans <no-reply@example.org>",
    }


async def _ready(log: asyncio.StreamReader) -> str | None:
    """Wait for the log event `ready`. Return the URL from `http_listening`, which comes before it."""
    page = last = None
    async for line in log:
        last = line.decode(errors="replace").strip()
        try:
            event = json.loads(last)
        except ValueError:
            continue
        if event.get("event") == "http_listening":
            page = event["url"]
        elif event.get("event") == "ready":
            return page
    raise PgheraldError(f"the daemon did not start: {last or 'it logged nothing'}")


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass
