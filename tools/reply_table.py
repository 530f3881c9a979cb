"""Print the reply table of docs/smtp.md: for each reply, the expected consequence and the one seen. `make reply-table`.

A reply that leads to something unexpected makes the exit status 1.
"""

import asyncio
from typing import Any

import structlog

from tests.integration.smtp.test_reply_table import CELLS, possible, seen

_LEVEL_CRITICAL = 50


async def main() -> bool:
    """Print one line per reply and return whether every reply led to what is expected."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LEVEL_CRITICAL))
    good = True
    name_width = max(len(cell.name) for cell in CELLS) + 2
    expected_width = max(len(cell.expected) for cell in CELLS) + 2
    print(f"{'where, and the reply':{name_width}}{'expected':{expected_width}}seen")
    for cell in CELLS:
        ways: list[Any] = [way for way in ("off", "starttls") if possible(cell, way)]  # type: ignore[arg-type]
        results = {way: await seen(cell, way) for way in ways}
        same = all(result == cell.expected for result in results.values())
        good = good and same
        names = " and ".join({"off": "plain", "starttls": "TLS"}[way] for way in ways)
        seen_as = f"the same, {names}" if same else results
        print(f"{cell.name:{name_width}}{cell.expected:{expected_width}}{seen_as}")
    return good


if __name__ == "__main__":
    raise SystemExit(not asyncio.run(main()))
