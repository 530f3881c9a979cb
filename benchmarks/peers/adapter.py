"""pgherald as a peer of the comparison's harness: ``adapter.py entry`` prints its entry for PEERS_EXTRA.

Where PGHERALD_BENCH_BEFORE names the tree of another version, that one is the peer ``pgherald_before``.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TREES = {"pgherald": str(HERE.parents[1])}
if _before := os.environ.get("PGHERALD_BENCH_BEFORE"):
    TREES["pgherald_before"] = _before
PROGRAM = Path(sys.executable).parent / "pgherald"


def entry(tree: str) -> dict[str, object]:
    """The harness expands braces; a path that had some would have to double them."""
    command = [sys.executable, str(Path(__file__).resolve())]
    return {
        "kind": "durable",
        "ready": '"ready"',
        "install": [*command, "install"],
        "worker": [*command, "run"],
        "env": {"PYTHONPATH": tree},
    }


def environment() -> dict[str, str]:
    """What the harness tells a peer, in this one's words."""
    outside = os.environ
    return {
        "PGHERALD_CONFIG": str(HERE / "pgherald.toml"),
        "PGHERALD_MAIL_TEMPLATES": str(HERE / "templates"),
        "PGHERALD_MAIL_FROM": outside["MAIL_FROM"],
        "PGHERALD_DATABASE_URL": outside["DATABASE_URL"],
        "PGHERALD_SMTP_URL": f"smtp://{outside['SMTP_HOST']}:{outside['SMTP_PORT']}",
        "PGHERALD_HTTP_LISTEN": "off",
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["entry"]:
            print(json.dumps({peer: entry(tree) for peer, tree in TREES.items()}, indent=2))
        case ["install" | "run" as command]:
            os.execve(PROGRAM, [str(PROGRAM), command], {**os.environ, **environment()})
        case _:
            sys.exit(f"usage: {sys.argv[0]} entry | install | run")
