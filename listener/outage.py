"""Something that fails again and again: the delays between the tries, and a log that is not flooded."""

import math
import time

from listener.errors import ConfigError, RuleBroken, SchemaError
from listener.logs import log
from listener.retry import backoff

# The least time between two log lines of one outage. A new error is news, so it is logged sooner.
_LOG_NEW_ERROR_S = 1.0
_LOG_SAME_ERROR_S = 10.0


class Outage:
    """The failures in a row of one thing, such as the connection to the database.

    `failed` returns the delay before the next try, between `first` and `longest` seconds as in `backoff`. It logs a line
    named `event` at once, then every 10 s, or after 1 s if the error has changed. An outage of an hour is then some hundred
    lines in the log, and not thousands a second.
    """

    def __init__(self, event: str, *, first: float, longest: float) -> None:
        self._event = event
        self._first = first
        self._longest = longest
        self._failures = 0
        self._logged_at = -math.inf
        self._logged_error = ""

    def failed(self, error: Exception, **more: object) -> float:
        """Count a failure, and return the seconds to wait. `more` are further fields of the log line."""
        self._failures += 1
        now = time.monotonic()
        interval = _LOG_NEW_ERROR_S if str(error) != self._logged_error else _LOG_SAME_ERROR_S
        if now - self._logged_at >= interval:
            self._logged_at, self._logged_error = now, str(error)
            # Waiting does not mend these, so that somebody must act.
            write = log.error if isinstance(error, (ConfigError, SchemaError, RuleBroken)) else log.warning
            write(self._event, error=str(error), **more)
        return backoff(self._failures, self._first, self._longest)

    def recovered(self) -> None:
        """Start over after a success. The next failure is logged at once, but not twice within a second."""
        self._failures = 0
        self._logged_error = ""
