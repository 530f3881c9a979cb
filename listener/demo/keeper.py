"""A watchdog process that removes the server and its folder if this process dies."""

# ruff: noqa: S603 - a fixed program

import subprocess
from pathlib import Path

# SIGKILL and os._exit run no `finally`, but they close the pipe. The script then reads to the end and cleans up. The last
# line on the pipe is the server's pid, or empty if no server runs.
_SCRIPT = """
trap '' HUP INT TERM
while read -r line; do pid=$line; done
if [ -n "$pid" ] && kill -QUIT "$pid"; then
    tries=0
    while kill -0 "$pid" && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -KILL "$pid"
fi
rm -rf -- "$1"
"""


class Keeper:
    """A shell process in a session of its own. It acts once its stdin is closed, however this process ends."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "keeper", folder], cwd="/", start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def set_server(self, pid: int | None) -> None:
        """Tell the keeper which server to end: none, or the one with this pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{pid or ''}\n".encode())
        self._process.stdin.flush()

    def dismiss(self) -> None:
        """End the keeper without cleaning up."""
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
