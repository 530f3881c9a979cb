"""A worker's registration: its number in the database, and until when it may act on what it has claimed."""

import os
import socket
import time

# The lease must end here before another worker may consider it over, so a tenth of it is left unused.
_USED_SHARE = 0.9


class Registration:
    """This process's copy of its row in ``pgherald.worker``. `WorkerRegistry` writes it, and `Outbox` reads it.

    Attributes:
        name: Host and process id, as people see it.
        lease_s: How long a lease lasts, in seconds.
        worker: The row's id; 0 before the first registration. A worker whose lease has expired registers again and gets
            another id.
        presence_lock: Number of the advisory lock that shows that this worker's session is alive.
        utf8: Whether the database's encoding is UTF8.
    """

    def __init__(self, lease_s: float) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.lease_s = lease_s
        self.worker = 0
        self.presence_lock = 0
        self.utf8 = True
        self._leased_until = 0.0

    @staticmethod
    def clock() -> float:
        """Return the seconds of CLOCK_BOOTTIME, which goes on while the machine or the process is suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def extend(self, requested_at: float) -> None:
        """Extend the lease. `requested_at`: by `clock`, before the request that renewed it was sent.

        The server's lease begins later than that, because it begins when the request arrives.
        """
        self._leased_until = requested_at + _USED_SHARE * self.lease_s

    def is_leased(self, worker: int) -> bool:
        """Return whether the lease of registration `worker` (this one, or one we held before) is still valid.

        Nothing may be sent under a lease that has ended: another worker may have taken the event over. A new
        registration does not bring the old lease back.
        """
        return worker == self.worker and self.clock() < self._leased_until

    def encodable(self, text: str | None) -> str | None:
        """Return `text` with escapes for characters that the database cannot store. Otherwise the write would fail."""
        if text is None:
            return None
        encoding = "utf-8" if self.utf8 else "ascii"
        return text.replace("\0", "\\0").encode(encoding, "backslashreplace").decode(encoding)
